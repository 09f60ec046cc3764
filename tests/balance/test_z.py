"""Z-loss by hand, and as the mean over groups that it is."""

from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor

from hmoe.balance import z_loss
from hmoe.layer import Routing, Tree
from tests.cases import TREES, make_routing
from tests.oracle import children

# Departments a and b of two experts each. Nodes: a, b, a.0, a.1, b.0, b.1.
GRID = Tree.from_spec({"a": 2, "b": 2})


def values(loss: dict[str, Tensor]) -> dict[str, float]:
    return {level: value.item() for level, value in loss.items()}


def with_logits(tree: Tree, logits_TN: Tensor) -> Routing:
    routing = make_routing(tree, [[0]] * len(logits_TN))
    return replace(routing, scores=replace(routing.scores, logits_TN=logits_TN))


def test_z_loss_by_hand() -> None:
    # Sums of exp: root 1 + 3 = 4, a 1 + 1 = 2, b 1 + 7 = 8; squared logs (in ln^2 2): 4, 1, 9.
    # A second token has half of each: 2, 1, 4; squared logs 1, 0, 4.
    exp_TN = torch.tensor([[1.0, 3.0, 1.0, 1.0, 1.0, 7.0], [0.5, 1.5, 0.5, 0.5, 0.5, 3.5]])
    loss = values(z_loss(with_logits(GRID, exp_TN.log())))
    square = torch.tensor(2.0).log().square().item()
    expected = {"level_0": (4 + 1) / 2 * square, "level_1": (1 + 9 + 0 + 4) / 4 * square}
    assert loss == pytest.approx(expected)


@pytest.mark.parametrize("spec", [*TREES.values(), {"a": 2, "b": 2, "c": 3}])
def test_z_loss_is_the_mean_squared_logsumexp_over_groups_and_tokens(spec: Any) -> None:
    tree = Tree.from_spec(spec)
    logits = torch.randn(7, tree.num_nodes) * 3
    loss = values(z_loss(with_logits(tree, logits)))
    for level in range(tree.num_levels):
        parents = {tree.parent_N[n] for n in range(tree.num_nodes) if tree.level_N[n] == level}
        groups = [logits[:, children(tree, parent)].logsumexp(-1) for parent in parents]
        assert loss[f"level_{level}"] == pytest.approx(torch.stack(groups).square().mean().item())


def test_descent_on_z_loss_shrinks_large_scores(tree: Tree) -> None:
    logits = (torch.rand(4, tree.num_nodes) + 5).requires_grad_()
    sum(z_loss(with_logits(tree, logits)).values()).backward()
    assert (logits.grad > 0).all()
