"""What every balance loss keeps, on every tree."""

from collections.abc import Callable
from functools import partial
from math import log
from typing import Any, NamedTuple

import pytest
import torch
from torch import Tensor

from hmoe.balance import (
    doubt_loss,
    importance_cv2,
    load_cv2,
    spread_loss,
    switch_loss,
    z_loss,
)
from hmoe.layer import Routing, Scores, Tree
from hmoe.layer.tree_ops import path_product, sibling_softmax
from tests.cases import DIM, down, layer_of, top_down

Loss = Callable[[Routing], dict[str, Tensor]]


class Measure(NamedTuple):
    """A loss that measures load, its value at equal load, and when all go down one path.

    Attributes:
        collapse: of the even share of the path's node among its siblings, and among all experts.
    """

    loss: Loss
    even: float
    collapse: Callable[[float, float], float]


MEASURES = {
    "switch": Measure(partial(switch_loss, statistics="micro"), 1.0, lambda s, _: 1 / s),
    "switch_global": Measure(partial(switch_loss, statistics="global"), 1.0, lambda s, _: 1 / s),
    "switch_sequence": Measure(
        partial(switch_loss, statistics="sequence"), 1.0, lambda s, _: 1 / s
    ),
    "importance": Measure(importance_cv2, 0.0, lambda _, s: 1 / s - 1),
    "load": Measure(load_cv2, 0.0, lambda _, s: 1 / s - 1),
    "spread": Measure(spread_loss, 0.0, lambda s, _: -log(s)),
}
LOSSES: dict[str, Loss] = {name: measure.loss for name, measure in MEASURES.items()} | {
    "doubt_reach": partial(doubt_loss, weigh="reach"),
    "doubt_units": partial(doubt_loss, weigh="units"),
    "z": z_loss,
}


def routing_of(tree: Tree, logits_TN: Tensor, token_R: Tensor, expert_R: Tensor) -> Routing:
    """One sequence; scores with noise of deviation 0.5, and weights of the path."""
    probs_TN = sibling_softmax(logits_TN, tree)
    weight_TN = path_product(probs_TN, tree)
    clean_TN, noise_TN = logits_TN - 0.1, torch.full_like(logits_TN, 0.5)
    scores = Scores(tree, logits_TN, probs_TN, probs_TN, weight_TN, clean_TN, noise_TN)
    weight_R = weight_TN[:, list(tree.node_E)][token_R, expert_R]
    return Routing(scores, token_R, expert_R, weight_R, num_sequences=1)


def sure(tree: Tree, expert_T: Tensor, certainty: float) -> Routing:
    """Every token goes to its expert, by a gate that is that sure of every step of the way."""
    logits_TN = torch.zeros(len(expert_T), tree.num_nodes)
    for node, expert in tree.below:
        logits_TN[expert_T == expert, node] = certainty
    return routing_of(tree, logits_TN, torch.arange(len(expert_T)), expert_T)


@pytest.mark.parametrize("name", MEASURES)
def test_equal_load_has_one_value_on_every_level_of_every_tree(name: str, tree: Tree) -> None:
    loss, expected, _ = MEASURES[name]
    values = loss(sure(tree, torch.arange(tree.num_experts).repeat(3), 60.0))
    assert list(values) == [f"level_{level}" for level in range(tree.num_levels)]
    for value in values.values():
        assert value.item() == pytest.approx(expected, abs=1e-5)


@pytest.mark.parametrize("name", MEASURES)
def test_collapse_has_the_value_of_the_shares_it_starves(name: str, tree: Tree) -> None:
    loss, _, collapse = MEASURES[name]
    expert = tree.num_experts - 1  # it sits on the last level
    values = loss(sure(tree, torch.full((6,), expert), 60.0))
    for node in (node for node, below in tree.below if below == expert):
        siblings = [n for n, parent in enumerate(tree.parent_N) if parent == tree.parent_N[node]]
        below = tree.num_below_N[node]
        among_siblings = below / sum(tree.num_below_N[n] for n in siblings)
        expected = collapse(among_siblings, below / tree.num_experts)
        assert values[f"level_{tree.level_N[node]}"].item() == pytest.approx(expected, rel=1e-4)


NESTED = {"a": {"x": 1, "y": {"p": 1, "q": 1}}, "b": 1, "c": {"r": 1, "s": 1, "t": 1}}


def turned(spec: Any) -> Any:
    """The same organisation with the children of every unit in reverse order."""
    return {n: turned(spec[n]) for n in reversed(spec)} if isinstance(spec, dict) else spec


@pytest.mark.parametrize("name", LOSSES)
def test_the_order_of_siblings_does_not_matter(name: str) -> None:
    tree, other = Tree.from_spec(NESTED), Tree.from_spec(turned(NESTED))
    # For every node of the other tree its number in this one; the same for experts.
    node_N = [tree.path_N.index(path) for path in other.path_N]
    number = {node: expert for expert, node in enumerate(other.node_E)}
    expert_E = torch.tensor([number[node_N.index(node)] for node in tree.node_E])
    assert node_N != sorted(node_N)
    logits_TN = torch.randn(9, tree.num_nodes)
    token_R = torch.arange(9).repeat_interleave(2)
    expert_R = torch.stack([torch.randperm(tree.num_experts)[:2] for _ in range(9)]).flatten()
    one = LOSSES[name](routing_of(tree, logits_TN, token_R, expert_R))
    two = LOSSES[name](routing_of(other, logits_TN[:, node_N], token_R, expert_E[expert_R]))
    for level, value in one.items():
        assert two[level].item() == pytest.approx(value.item(), rel=1e-4, abs=1e-6)


@pytest.mark.parametrize("name", LOSSES)
def test_every_level_reaches_the_gate(name: str, tree: Tree) -> None:
    gate = top_down(noise="learned", init_std=0.5)
    layer = layer_of(tree=tree, gate=gate, selection=down(1))(dim=DIM)
    _, routing = layer(torch.randn(2, 20, DIM))
    bias_N = layer.gate.scorers[0].bias_M
    for level, value in enumerate(LOSSES[name](routing).values()):
        (gradient_N,) = torch.autograd.grad(value, bias_N, retain_graph=True)
        assert torch.isfinite(gradient_N).all()
        assert gradient_N[tree.level_slices[level]].abs().max() > 0


@pytest.mark.parametrize("name", LOSSES)
def test_nobody_to_count_is_finite(name: str, tree: Tree) -> None:
    logits_TN = torch.randn(4, tree.num_nodes, requires_grad=True)
    none = torch.empty(0, dtype=torch.int64)
    total = sum(LOSSES[name](routing_of(tree, logits_TN, none, none)).values())
    total.backward()
    assert torch.isfinite(total)
    assert torch.isfinite(logits_TN.grad).all()
