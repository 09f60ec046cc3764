"""Importance and load: squared variation by hand, and how levels relate."""

from dataclasses import replace

import pytest
import torch
from torch import Tensor

from hmoe.balance import importance_cv2, load_cv2
from hmoe.layer import Routing, Tree
from tests.cases import DIM, down, layer_of, make_layer, make_routing, top_down

# Nodes: solo, team, team.0, team.1, team.2.
RAGGED = Tree.from_spec({"solo": 1, "team": 3})


def values(loss: dict[str, Tensor]) -> dict[str, float]:
    return {level: value.item() for level, value in loss.items()}


def weighed(tree: Tree, experts_T: list[list[int]], weights: list[float]) -> Routing:
    return replace(make_routing(tree, experts_T), weight_R=torch.tensor(weights))


def test_importance_on_a_flat_tree() -> None:
    # Importance (.6 + .9, .4 + .7, .1 + .3) = (1.5, 1.1, .4): mean 1, variance (.25 + .01 + .36)/3.
    routing = weighed(Tree.from_spec([3]), [[0, 1], [0, 2], [1, 2]], [0.6, 0.4, 0.9, 0.1, 0.7, 0.3])
    assert values(importance_cv2(routing)) == pytest.approx({"level_0": 0.62 / 3})


def test_importance_of_two_levels_is_the_sum_of_products_of_both_gates() -> None:
    # Shazeer's Importance_H(i, j) = sum over tokens of G(x)_i G_i(x)_j. Token 0: primary (.7, .3),
    # then (1, 0) in a and (.5, .5) in b; token 1: primary (1, 0), then (.4, .6) in a.
    # a: .7 + .4, .6; b: .15, .15. Mean .5; departments 1.7 and .3, mean 1.
    routing = weighed(Tree.from_spec([2, 2]), [[0, 2, 3], [0, 1]], [0.7, 0.15, 0.15, 0.4, 0.6])
    squares = 0.6**2 + 0.1**2 + 0.35**2 + 0.35**2
    expected = {"level_0": 0.7**2, "level_1": squares / 4 / 0.5**2}
    assert values(importance_cv2(routing)) == pytest.approx(expected)


def test_load_is_that_of_the_rows_where_no_noise_was_learnt() -> None:
    # Rows 3, 1, 2: mean 2, variance 2/3.
    routing = make_routing(Tree.from_spec([3]), [[0, 2], [0, 2], [0, 1]])
    assert values(load_cv2(routing)) == pytest.approx({"level_0": 1 / 6})
    assert not load_cv2(routing)["level_0"].requires_grad


@pytest.mark.parametrize("loss", [importance_cv2, load_cv2])
def test_on_a_ragged_tree_even_is_per_expert(loss) -> None:
    even = make_routing(RAGGED, [[0, 1, 2, 3]] * 2)
    assert values(loss(even)) == pytest.approx({"level_0": 0.0, "level_1": 0.0}, abs=1e-6)
    # Half of all to solo, whose share is 1/4: 1/4 (2 - 1)^2 + 3/4 (2/3 - 1)^2 = 1/3. Within the
    # team even, so that the cut through all experts says the same.
    halves = make_routing(RAGGED, [[0, 1], [0, 2], [0, 3]])
    assert values(loss(halves)) == pytest.approx({"level_0": 1 / 3, "level_1": 1 / 3})


@pytest.mark.parametrize("loss", [importance_cv2, load_cv2])
def test_all_at_one_expert_costs_one_over_its_share_less_one(loss, tree: Tree) -> None:
    expert = tree.num_experts - 1
    routing = make_routing(tree, [[expert]] * 3)
    for level, value in enumerate(values(loss(routing)).values()):
        (share,) = (
            tree.num_below_N[node] / tree.num_experts
            for node in tree.cut(level)
            if (node, expert) in tree.below
        )
        assert value == pytest.approx(1 / share - 1, rel=1e-5)


@pytest.mark.parametrize("loss", [importance_cv2, load_cv2])
def test_variation_of_experts_is_that_of_units_and_within_them(loss) -> None:
    """CV2(f) = CV2(F) + 1/A sum_a (A F_a)^2 CV2(f | a), for A units of equal size."""
    layer = make_layer("grid", "top_2")
    _, routing = layer(torch.randn(50, DIM))
    value_E = torch.zeros(12)
    weights = routing.weight_R.tolist() if loss is importance_cv2 else [1.0] * 100
    for expert, weight in zip(routing.expert_R.tolist(), weights, strict=True):
        value_E[expert] += weight
    unit_A4 = value_E.view(3, 4) / value_E.sum()
    units = unit_A4.sum(1)
    within = unit_A4.var(1, correction=0) / unit_A4.mean(1).square()
    top = (units.var(correction=0) / units.mean().square()).item()
    inside = ((3 * units).square() * within).mean().item()
    assert min(top, inside) > 0.001, "both must count for the test to say anything"
    assert values(loss(routing)) == pytest.approx(
        {"level_0": top, "level_1": top + inside}, rel=1e-4
    )


@pytest.mark.parametrize("loss", [importance_cv2, load_cv2])
def test_descent_evens_out_what_it_measures(loss) -> None:
    gate = top_down(noise="learned", init_std=0.3)
    layer = layer_of(tree=Tree.from_spec([3, 4]), gate=gate, selection=down(2))(dim=DIM)
    x_TD = torch.randn(400, DIM)
    with torch.no_grad():
        layer.gate.scorers[0].bias_M += torch.randn(15)
    optimizer = torch.optim.Adam(layer.gate.parameters(), lr=0.05)
    worst = []
    for _ in range(40):
        routing = layer.route(x_TD, None)
        total = sum(loss(routing).values())
        worst.append(sum(loss(routing).values()).item())
        optimizer.zero_grad()
        total.backward()
        optimizer.step()
    assert worst[-1] < worst[0] / 4
