"""Entropy terms: by hand, then what their levels add up to."""

from functools import partial
from math import log

import pytest
import torch
from torch import Tensor

from hmoe.balance import doubt_loss, spread_loss
from hmoe.errors import ConfigError
from hmoe.layer import Tree
from hmoe.layer.tree_ops import sibling_softmax
from tests.cases import DIM, best, layer_of, make_routing, top_down

by_reach = partial(doubt_loss, weigh="reach")
by_units = partial(doubt_loss, weigh="units")
# Nodes: solo, team, team.0, team.1.
RAGGED = Tree.from_spec({"solo": 1, "team": 2})


def values(loss: dict[str, Tensor]) -> dict[str, float]:
    return {level: value.item() for level, value in loss.items()}


def entropy(*probs: float) -> float:
    return -sum(p * log(p) for p in probs if p)


def leaf_probs(tree: Tree, probs_TN: Tensor) -> list[list[float]]:
    """For every token the probability of every expert, multiplied out by hand."""
    result = []
    for probs in probs_TN.tolist():
        leaves = []
        for expert in range(tree.num_experts):
            product = 1.0
            for node, below in tree.below:
                product *= probs[node] if below == expert else 1.0
            leaves.append(product)
        result.append(leaves)
    return result


# ------------------------------------------------------------------ by hand


def test_spread_and_doubt_on_a_flat_tree() -> None:
    probs = torch.tensor([[0.8, 0.2], [0.4, 0.6]])
    routing = make_routing(Tree.from_spec([2]), [[0], [1]], probs)
    spread = {"level_0": log(2) - entropy(0.6, 0.4)}
    assert values(spread_loss(routing)) == pytest.approx(spread, abs=1e-6)
    doubt = (entropy(0.8, 0.2) + entropy(0.4, 0.6)) / 2
    for loss in (by_reach, by_units):
        assert values(loss(routing)) == pytest.approx({"level_0": doubt})


def test_on_a_ragged_tree_even_is_the_share_of_the_experts() -> None:
    # One token reaches the team with .9, the other with .3; on the whole .6, and .4 for solo.
    probs = torch.tensor([[0.1, 0.9, 0.5, 0.5], [0.7, 0.3, 1.0, 0.0]])
    routing = make_routing(RAGGED, [[1], [0]], probs)
    # Shares 1/3 and 2/3. In the team the mean is (.45 + .3, .45) / 2 = (.375, .225): 5/8, 3/8.
    spread = {
        "level_0": 0.4 * log(0.4 * 3) + 0.6 * log(0.6 * 3 / 2),
        "level_1": 0.6 * (log(2) - entropy(5 / 8, 3 / 8)),
    }
    assert values(spread_loss(routing)) == pytest.approx(spread, abs=1e-6)
    at_root = (entropy(0.1, 0.9) + entropy(0.7, 0.3)) / 2
    # In the team the first token doubts with ln 2 and the second does not.
    reach = {"level_0": at_root, "level_1": 0.9 * log(2) / 2}
    assert values(by_reach(routing)) == pytest.approx(reach)
    units = {"level_0": at_root, "level_1": log(2) / 2}
    assert values(by_units(routing)) == pytest.approx(units)


@pytest.mark.parametrize("spec", [[4], [2, 3], [2, 2, 2]])
def test_collapse_costs_the_log_of_the_branching_and_leaves_no_doubt(spec: list[int]) -> None:
    tree = Tree.from_spec(spec)
    probs = torch.zeros(3, tree.num_nodes)
    for level in tree.blocks:
        for block in level:
            probs[:, block.start : block.stop : block.size] = 1.0
    routing = make_routing(tree, [[0]] * 3, probs)
    expected = {f"level_{level}": log(branching) for level, branching in enumerate(spec)}
    assert values(spread_loss(routing)) == pytest.approx(expected)
    for loss in (by_reach, by_units):
        assert values(loss(routing)) == pytest.approx(dict.fromkeys(expected, 0.0))


@pytest.mark.parametrize("spec", [[4], [2, 3], [2, 2, 2]])
def test_even_probabilities_are_all_doubt(spec: list[int]) -> None:
    routing = make_routing(Tree.from_spec(spec), [[0]] * 3)
    expected = {f"level_{level}": log(branching) for level, branching in enumerate(spec)}
    for loss in (by_reach, by_units):
        assert values(loss(routing)) == pytest.approx(expected)
    assert values(spread_loss(routing)) == pytest.approx(dict.fromkeys(expected, 0.0), abs=1e-6)


def test_hardening_asks_every_unit_of_a_level_reached_or_not() -> None:
    # All go to a and are sure there; in b, which nobody reaches, they would not know.
    probs = torch.tensor([[1.0, 0.0, 1.0, 0.0, 0.5, 0.5]])
    routing = make_routing(Tree.from_spec([2, 2]), [[0]], probs)
    assert values(by_reach(routing)) == pytest.approx({"level_0": 0.0, "level_1": 0.0})
    assert values(by_units(routing)) == pytest.approx({"level_0": 0.0, "level_1": log(2) / 2})


# ------------------------------------------------------------------ laws


def test_levels_add_up_to_the_entropies_over_all_experts(tree: Tree) -> None:
    probs = sibling_softmax(torch.randn(6, tree.num_nodes) * 2, tree)
    routing = make_routing(tree, [[0]] * 6, probs)
    leaves = leaf_probs(tree, probs)
    # Token by token: the regulariser of DSelect-k and COMET.
    doubt = sum(entropy(*token) for token in leaves) / 6
    assert sum(values(by_reach(routing)).values()) == pytest.approx(doubt, rel=1e-5)
    mean = [sum(expert) / 6 for expert in zip(*leaves, strict=True)]
    spread = log(tree.num_experts) - entropy(*mean)
    assert sum(values(spread_loss(routing)).values()) == pytest.approx(spread, rel=1e-4, abs=1e-6)


def test_the_two_together_are_the_mutual_information(tree: Tree) -> None:
    probs = sibling_softmax(torch.randn(6, tree.num_nodes) * 2, tree)
    routing = make_routing(tree, [[0]] * 6, probs)
    both = sum(
        value for loss in (spread_loss, by_reach) for value in values(loss(routing)).values()
    )
    # I(token; expert) as a double sum over p(t, e) = p(e | t) / 6.
    leaves = leaf_probs(tree, probs)
    mean = [sum(expert) / 6 for expert in zip(*leaves, strict=True)]
    information = sum(
        p / 6 * log(p / m) for token in leaves for p, m in zip(token, mean, strict=True)
    )
    assert both == pytest.approx(log(tree.num_experts) - information, rel=1e-4)


def test_decisions_that_are_exactly_hard_have_finite_gradients() -> None:
    gate = top_down(link="smooth_step", init_std=5.0)
    layer = layer_of(tree=Tree.from_spec([2, 2, 2]), gate=gate, selection=best(1))(dim=DIM)
    _, routing = layer(torch.randn(32, DIM))
    assert (routing.probs_TN == 0).any(), "some must be hard for the test to say anything"
    total = sum(
        value for loss in (spread_loss, by_reach, by_units) for value in loss(routing).values()
    )
    total.backward()
    gradient = layer.gate.scorers[0].weight_MD.grad
    assert torch.isfinite(gradient).all()
    assert gradient.abs().max() > 0


@pytest.mark.parametrize("loss", [by_reach, by_units])
def test_descent_on_doubt_makes_decisions_surer(loss: partial, tree: Tree) -> None:
    logits = torch.randn(4, tree.num_nodes, requires_grad=True)
    sum(loss(make_routing(tree, [[0]] * 4, sibling_softmax(logits, tree))).values()).backward()
    with torch.no_grad():
        surer = sibling_softmax(logits - 0.01 * logits.grad, tree)
        before, after = (
            sum(loss(make_routing(tree, [[0]] * 4, probs)).values())
            for probs in (sibling_softmax(logits, tree), surer)
        )
    assert after < before


def test_an_unknown_weighing_is_refused() -> None:
    with pytest.raises(ConfigError, match=r"weigh = unit: .* Did you mean 'units'"):
        doubt_loss(make_routing(RAGGED, [[0]]), weigh="unit")  # type: ignore[arg-type]
