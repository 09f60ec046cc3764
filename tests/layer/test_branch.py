"""Branch: anchors and probabilities by hand, the law of centring, the moving average, errors."""

from functools import partial
from math import exp

import pytest
import torch

from hmoe.errors import ConfigError
from hmoe.layer import Branch, HMoE, LazyHMoE, Tree, regroup
from tests.cases import EXPERTS, NO_SHARED, SELECTIONS, best, layer_of

RAGGED = Tree.from_spec({"a": {"x": 2, "y": 1}, "b": 1})


def gate(spec: list[int], dim: int = 1, decay: float = 0.9, std: float = 1.0) -> Branch:
    return Branch(tree=Tree.from_spec(spec), dim=dim, init_std=std, decay=decay)


def sigmoid(x: float) -> float:
    return 1 / (1 + exp(-x))


@torch.no_grad()
def test_two_levels_by_hand() -> None:
    """Tokens -1 and 3 on a line; all three units score x itself, and the root's mean is 1."""
    branch = gate([2, 2])
    branch.weight_UD.fill_(1.0)
    x = torch.tensor([[-1.0], [3.0]])
    scores = branch(x)
    p = [sigmoid(-2.0), sigmoid(2.0)]
    first = (p[0] * -1 + p[1] * 3) / (p[0] + p[1])  # by arrival at the first department
    second = (p[1] * -1 + p[0] * 3) / (p[0] + p[1])
    for token, value in enumerate((-1.0, 3.0)):
        here, there = sigmoid(value - first), sigmoid(value - second)
        q = 1 - p[token]
        expected = [p[token] * here, p[token] * (1 - here), q * there, q * (1 - there)]
        assert scores.weight_TN[token, 2:].tolist() == pytest.approx(expected)
    # The moving average goes a tenth of the way from zero.
    assert branch.anchor_U.tolist() == pytest.approx([0.1, first / 10, second / 10])


@pytest.mark.parametrize("tree", [Tree.from_spec([2, 2, 2]), RAGGED], ids=str)
def test_what_arrives_at_a_unit_is_parted_about_its_mean(tree: Tree) -> None:
    """The arrival-weighted mean of the first child's score is zero at every unit."""
    branch = Branch(tree=tree, dim=6, init_std=1.0, decay=0.9)
    scores = branch(torch.randn(200, 6) + 3)
    ones = torch.ones(200)
    for node in range(0, tree.num_nodes, 2):
        parent = tree.parent_N[node]
        arrival_T = ones if parent < 0 else scores.weight_TN[:, parent]
        middle = (arrival_T * scores.logits_TN[:, node]).sum() / arrival_T.sum()
        assert middle.abs() < 1e-5
    torch.testing.assert_close(scores.weight_TN[:, list(tree.node_E)].sum(1), ones)


def test_tokens_that_all_move_are_sent_where_they_were_sent() -> None:
    branch, x = gate([2, 2, 2], dim=6), torch.randn(100, 6)
    moved = branch(x + torch.randn(6) * 10).weight_TN
    torch.testing.assert_close(moved, branch(x).weight_TN, rtol=1e-3, atol=1e-4)


@torch.no_grad()
def test_outside_training_the_average_decides_and_a_token_does_not_see_the_others() -> None:
    branch, x = gate([2, 2, 2], dim=6), torch.randn(100, 6) + 1
    trained = branch(x).weight_TN
    assert not torch.allclose(branch.eval()(x).weight_TN, trained, atol=1e-3)
    branch.train()
    for _ in range(200):
        branch(x)
    branch.eval()
    torch.testing.assert_close(branch(x).weight_TN, trained, rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(branch(x[:3]).weight_TN, branch(x).weight_TN[:3])


def test_tokens_off_centre_are_spread_over_experts_where_a_plain_gate_sends_all_to_one() -> None:
    x = torch.randn(2000, 6) + 4
    branch = gate([2, 2, 2], dim=6)
    share_E = branch(x).weight_TN[:, -8:].mean(0)
    plain = branch.eval()(x).weight_TN[:, -8:].mean(0)  # its anchors have moved by a tenth
    assert share_E.max() / share_E.min() < 4
    assert plain.max() / plain.min() > 10


def test_a_gradient_reaches_every_unit() -> None:
    selection = SELECTIONS["top_2"]
    make = layer_of(
        tree=Tree.from_spec([2, 2, 2]),
        gate=partial(Branch, init_std=0.5, decay=0.9),
        selection=selection,
        experts=EXPERTS["mlp"],
    )
    layer: HMoE = make(dim=8)
    layer(torch.randn(64, 8))[0].square().sum().backward()
    (grad_UD,) = [p.grad for p in layer.gate.parameters()]
    assert (grad_UD.abs().sum(1) > 0).all()


def test_the_derivative_is_that_of_the_means_too() -> None:
    """Of one unit, by finite differences."""
    branch = gate([2], dim=3)
    x = torch.randn(5, 3)
    branch(x).weight_TN[0, 0].backward()
    step, found = 1e-2, []
    for place in range(3):
        sides = []
        for sign in (1, -1):
            with torch.no_grad():
                branch.weight_UD[0, place] += sign * step
                sides.append(branch(x).weight_TN[0, 0].item())
                branch.weight_UD[0, place] -= sign * step
        found.append((sides[0] - sides[1]) / (2 * step))
    assert branch.weight_UD.grad[0].tolist() == pytest.approx(found, abs=1e-3)


def test_what_needs_rows_of_nodes_refuses_it() -> None:
    parts = {"tree": Tree.from_spec([2, 2]), "gate": partial(Branch, init_std=0.5, decay=0.9)}
    layer = layer_of(**parts)(dim=8)
    with pytest.raises(ConfigError, match=r"gate: Branch cannot be moved"):
        regroup(layer, Tree.from_spec([4]))
    plain = {"eval_selection": None, "experts": EXPERTS["neurons"], "shared": NO_SHARED}
    search = {"selection": best(1, beam=1)}
    with pytest.raises(ConfigError, match=r"A lazy descent needs gate=top_down"):
        LazyHMoE(**parts, **plain, **search, dim=8)


@pytest.mark.parametrize(
    ("spec", "decay", "message"),
    [
        ([4, 4], 0.9, r"gate: branch parts tokens in two, but tree 4x4 has units of 4 children"),
        ([2], 1.0, r"gate\.decay = 1\.0: must be at least 0 and less than 1"),
        ([2], -0.1, r"gate\.decay = -0\.1: must be"),
    ],
)
def test_what_cannot_be_is_refused(spec: list[int], decay: float, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        gate(spec, decay=decay)
