"""tree_ops: by hand on two levels, then laws on every tree."""

import pytest
import torch

from hmoe.layer import Tree
from hmoe.layer.tree_ops import (
    at_experts,
    at_parents,
    log_softmax,
    path_product,
    pool_logsumexp,
    sibling_softmax,
    softmax,
    sum_below,
    with_parents,
)


def test_softmax_and_path_by_hand() -> None:
    # Two departments, the second of three experts; odds 1:3 at the root, 1:1:2 in the team.
    tree = Tree.from_spec({"a": 1, "b": 3})
    logits = torch.tensor([[1.0, 3.0, 1.0, 1.0, 2.0]]).log()
    probs = sibling_softmax(logits, tree)
    assert torch.allclose(probs, torch.tensor([[0.25, 0.75, 0.25, 0.25, 0.5]]))
    reach = path_product(probs, tree)
    assert torch.allclose(reach, torch.tensor([[0.25, 0.75, 0.1875, 0.1875, 0.375]]))


def test_sum_below_by_hand() -> None:
    tree = Tree.from_spec({"a": 1, "b": {"c": 2, "d": 1}})
    # Experts in node order: a, b.d, b.c.0, b.c.1; nodes: a, b, b.c, b.d, b.c.0, b.c.1.
    assert sum_below(torch.tensor([1, 2, 3, 4]), tree).tolist() == [1, 9, 7, 2, 3, 4]


def test_at_parents_by_hand() -> None:
    # Nodes: a, b, b.0, b.1; the root has what its children have.
    tree = Tree.from_spec({"a": 1, "b": 2})
    assert at_parents(torch.tensor([[5, 7, 2, 4]]), tree).tolist() == [[12, 12, 7, 7]]


def test_pooling_by_hand() -> None:
    tree = Tree.from_spec({"a": 1, "b": {"c": 2, "d": 1}})
    pooled = pool_logsumexp(torch.tensor([[1.0, 2.0, 3.0, 4.0]]).log(), tree).exp()
    assert torch.allclose(pooled, torch.tensor([[1.0, 9.0, 7.0, 2.0, 3.0, 4.0]]))


def test_reach_sums_to_one_over_the_experts(tree: Tree) -> None:
    logits = torch.randn(50, tree.num_nodes, dtype=torch.float64) * 5
    reach = at_experts(path_product(sibling_softmax(logits, tree), tree), tree)
    assert torch.allclose(reach.sum(-1), torch.ones(50, dtype=torch.float64), atol=1e-12)


def test_children_reach_as_much_as_their_parent(tree: Tree) -> None:
    logits = torch.randn(20, tree.num_nodes, dtype=torch.float64)
    reach = path_product(sibling_softmax(logits, tree), tree)
    assert torch.allclose(reach, sum_below(at_experts(reach, tree), tree), atol=1e-12)


def test_logsumexp_pooling_is_the_flat_softmax(tree: Tree) -> None:
    logits_TE = torch.randn(50, tree.num_experts, dtype=torch.float64) * 3
    probs = sibling_softmax(pool_logsumexp(logits_TE, tree), tree)
    reach = at_experts(path_product(probs, tree), tree)
    assert torch.allclose(reach, logits_TE.softmax(-1), atol=1e-12)


def test_a_constant_among_siblings_changes_nothing(tree: Tree) -> None:
    logits = torch.randn(5, tree.num_nodes, dtype=torch.float64)
    per_parent = torch.randn(tree.num_nodes + 1, dtype=torch.float64)
    shift = per_parent[torch.tensor(tree.parent_N) + 1]
    shifted = sibling_softmax(logits + shift, tree)
    assert torch.allclose(shifted, sibling_softmax(logits, tree))


def test_large_scores_stay_finite(tree: Tree) -> None:
    logits = (torch.randn(5, tree.num_nodes) * 1e4).requires_grad_()
    reach = path_product(sibling_softmax(logits, tree), tree)
    reach.square().sum().backward()
    assert torch.isfinite(reach).all()
    assert torch.isfinite(logits.grad).all()


@pytest.mark.parametrize("dtype", [torch.int64, torch.float32, torch.float64])
def test_loads_add_up_at_the_top(tree: Tree, dtype: torch.dtype) -> None:
    load_E = torch.arange(tree.num_experts).to(dtype)
    load_N = sum_below(load_E, tree)
    assert load_N[tree.level_slices[0]].sum() == load_E.sum()
    assert torch.equal(at_experts(load_N, tree), load_E)


@pytest.mark.parametrize("size", [2, 5, 15, 16])
@pytest.mark.parametrize("rows", [3, 5000])
def test_a_softmax_is_torch_s_however_it_is_laid_out(size: int, rows: int) -> None:
    logits = torch.randn(rows, 2, size) * 10
    logits[0, 0, 0] = float("-inf")
    weight = torch.randn_like(logits)
    for mine, theirs in ((softmax, torch.softmax), (log_softmax, torch.log_softmax)):
        results = []
        for value in (mine, lambda x, rule=theirs: rule(x, -1)):
            x = logits.clone().requires_grad_()
            y = value(x)
            (y.exp() * weight).sum().backward()
            results.append((y.detach(), x.grad))
        (y, grad), (expected, expected_grad) = results
        assert torch.allclose(y, expected, atol=1e-5)
        assert torch.allclose(grad, expected_grad, atol=1e-5)


def test_values_of_parents_by_the_numbers_of_parents(tree: Tree) -> None:
    value_TN = torch.randn(3, tree.num_nodes, requires_grad=True)
    for level in range(1, tree.num_levels):
        above, here = tree.level_slices[level - 1], tree.level_slices[level]
        found = with_parents(torch.mul, value_TN[:, above], value_TN[:, here], tree, level)
        expected = value_TN[:, list(tree.parent_N[here])] * value_TN[:, here]
        assert torch.equal(found, expected)
        weight = torch.randn_like(found)
        grads = [torch.autograd.grad((y * weight).sum(), value_TN)[0] for y in (found, expected)]
        assert torch.allclose(*grads, atol=1e-6)


@pytest.mark.parametrize("rows", [3, 3000])
def test_the_derivative_of_a_softmax_among_siblings_is_the_numeric_one(
    tree: Tree, rows: int
) -> None:
    logits = torch.randn(3, tree.num_nodes, dtype=torch.float64)
    # Rows beyond the third fill up what is laid out another way; they are not asked.
    rest = torch.randn(rows - 3, tree.num_nodes, dtype=torch.float64)

    def first(logits: torch.Tensor) -> torch.Tensor:
        return sibling_softmax(torch.cat([logits, rest]), tree)[:3]

    assert torch.autograd.gradcheck(first, logits.requires_grad_())
