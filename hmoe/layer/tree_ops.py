"""Tensor arithmetic on a tree: what is common to gates, selections and losses.

Letters: T tokens, N nodes, E experts, G sibling groups of a block, b children of a group. The node
axis is the last one; axes before it are free.
"""

from collections.abc import Callable, Sequence
from functools import lru_cache
from typing import Any

import torch
from torch import Tensor

from hmoe.layer.tree import Block, Tree


def among_siblings(
    rules: Sequence[Callable[[Tensor], Tensor]], value_TN: Tensor, tree: Tree
) -> Tensor:
    """Apply a rule, one a level, to the children of every parent: (T, G, b) -> (T, G, b) each."""
    parts = [
        rule(_children(value_TN, block)).flatten(-2)
        for rule, level in zip(rules, tree.blocks, strict=True)
        for block in level
    ]
    return joined(parts)


def _children(value_TN: Tensor, block: Block) -> Tensor:
    """Values of the children of every parent of a block: (T, N) -> (T, G, b)."""
    here_Tn = value_TN[..., block.start : block.stop]
    children_TGb: Tensor = here_Tn.unflatten(-1, (block.num_groups, block.size))
    return children_TGb


def softmax(logits_Tb: Tensor) -> Tensor:
    """Softmax over the last axis, fast where that is short: (..., b) -> (..., b)."""
    return _along_last(torch.softmax, logits_Tb)


def log_softmax(logits_Tb: Tensor) -> Tensor:
    """Log of the softmax over the last axis, fast where that is short: (..., b) -> (..., b)."""
    return _along_last(torch.log_softmax, logits_Tb)


def _along_last(rule: Callable[..., Tensor], *values_Tb: Tensor) -> Tensor:
    """Apply rule(*values, axis) to the last axis, or to what was that and is a leading one."""
    # On a CPU a softmax over fewer numbers than a vector register holds takes them one by one. Over
    # a leading axis it takes vectors of the others: 5 to 10 times faster, copies included, if there
    # are many.
    first, size = values_Tb[0], values_Tb[0].shape[-1]
    if size >= 16 or first.numel() < 2048 * size or first.device.type != "cpu":
        return rule(*values_Tb, -1)
    return rule(*(value.movedim(-1, 0).contiguous() for value in values_Tb), 0).movedim(0, -1)


def sibling_softmax(logits_TN: Tensor, tree: Tree) -> Tensor:
    """P(node | parent): softmax among the children of every parent. (T, N) -> (T, N)."""
    return _SiblingSoftmax.apply(logits_TN, tree)  # type: ignore[no-untyped-call, no-any-return]


class _SiblingSoftmax(torch.autograd.Function):
    """Keeps one (T, N), its result; autograd would keep the parts that this is joined from too."""

    @staticmethod
    def forward(ctx: Any, logits_TN: Tensor, tree: Tree) -> Tensor:
        probs_TN = among_siblings([softmax] * tree.num_levels, logits_TN, tree)
        ctx.tree = tree
        ctx.save_for_backward(probs_TN)
        return probs_TN

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, grad_TN: Tensor) -> tuple[Tensor, None]:
        (probs_TN,) = ctx.saved_tensors

        def rule(grad_Tb: Tensor, probs_Tb: Tensor, axis: int) -> Tensor:
            return torch._softmax_backward_data(grad_Tb, probs_Tb, axis, probs_Tb.dtype)

        parts = [
            _along_last(rule, *(_children(value_TN, block) for value_TN in (grad_TN, probs_TN)))
            for level in ctx.tree.blocks
            for block in level
        ]
        return joined([part.flatten(-2) for part in parts]), None


def sibling_log_softmax(logits_TN: Tensor, tree: Tree) -> Tensor:
    """log P(node | parent), finite where the probability itself is too small. (T, N) -> (T, N)."""
    return among_siblings([log_softmax] * tree.num_levels, logits_TN, tree)


def sibling_shares(value_TN: Tensor, tree: Tree) -> Tensor:
    """Positive values over their sum among the children of every parent. (T, N) -> (T, N)."""
    return among_siblings(
        [lambda group: group / group.sum(-1, keepdim=True).clamp(min=1e-20)] * tree.num_levels,
        value_TN,
        tree,
    )


def path_product(probs_TN: Tensor, tree: Tree) -> Tensor:
    """P(node | root): product of probabilities on the path to each node. (T, N) -> (T, N)."""
    return _along_paths(torch.mul, probs_TN, tree)


def path_sum(logits_TN: Tensor, tree: Tree) -> Tensor:
    """Sum of raw scores on the path to each node. (T, N) -> (T, N)."""
    return _along_paths(torch.add, logits_TN, tree)


def _along_paths(join: Callable[[Tensor, Tensor], Tensor], value_TN: Tensor, tree: Tree) -> Tensor:
    levels = [value_TN[..., tree.level_slices[0]]]
    for level in range(1, tree.num_levels):
        here = value_TN[..., tree.level_slices[level]]
        levels.append(with_parents(join, levels[-1], here, tree, level))
    return joined(levels)


def with_parents(
    join: Callable[[Tensor, Tensor], Tensor],
    above_Tp: Tensor,
    here_Tn: Tensor,
    tree: Tree,
    level: int,
) -> Tensor:
    """Join the values of a level's nodes with those of their parents.

    Args:
        join: called as join(parents' values, nodes' values).
        above_Tp: values of all nodes of the level above.
        here_Tn: values of the nodes of the level.
    """
    block, *others = tree.blocks[level]
    if not others and block.num_groups == above_Tp.shape[-1]:
        # All nodes above are units of one size: nothing has to be looked up.
        shape = (block.num_groups, block.size)
        return join(above_Tp.unsqueeze(-1), here_Tn.unflatten(-1, shape)).flatten(-2)
    # Parents are counted from the start of the level above.
    parent_N = tree.index("parent_N", above_Tp.device)
    start = tree.level_slices[level - 1].start
    parent_n = parent_N[tree.level_slices[level]] - start
    return join(above_Tp.index_select(-1, parent_n), here_Tn)


def at_experts(value_TN: Tensor, tree: Tree) -> Tensor:
    """The entries of the nodes that are experts. (T, N) -> (T, E)."""
    if not tree.has_shallow_experts:
        return value_TN[..., tree.level_slices[-1]]
    return value_TN.index_select(-1, tree.index("node_E", value_TN.device))


def joined(parts: Sequence[Tensor]) -> Tensor:
    """Side by side along the node axis; a single part is not copied."""
    return parts[0] if len(parts) == 1 else torch.cat(list(parts), -1)


def at_parents(value_TN: Tensor, tree: Tree) -> Tensor:
    """Give every node the value of its parent; the root's is the sum over its children.

    (T, N) -> (T, N).
    """
    root_T1 = value_TN[..., tree.level_slices[0]].sum(-1, keepdim=True)
    # Column 0 is the root, so that parent + 1 finds any node's parent.
    parent_N = tree.index("parent_N", value_TN.device) + 1
    return torch.cat([root_T1, value_TN], -1).index_select(-1, parent_N)


def sum_below(value_TE: Tensor, tree: Tree) -> Tensor:
    """Sum over the experts at or below every node. (T, E) -> (T, N)."""
    node = tree.index("below_node", value_TE.device)
    expert = tree.index("below_expert", value_TE.device)
    total = value_TE.new_zeros(*value_TE.shape[:-1], tree.num_nodes)
    return total.index_add(-1, node, value_TE.index_select(-1, expert))


def pool(value_TE: Tensor, tree: Tree, reduce: Callable[[Tensor], Tensor]) -> Tensor:
    """Give every unit a value made of its children's, from the experts up. (T, E) -> (T, N).

    Args:
        reduce: values of the children of some units, (T, G, b) -> (T, G).
    """
    pooled: list[Tensor] = []
    end = tree.num_experts
    below: Tensor | None = None
    for level in reversed(range(tree.num_levels)):
        level_slice, inner = tree.level_slices[level], tree.inner_levels[level]
        start = end - (level_slice.stop - level_slice.start - len(inner))
        here = value_TE[..., start:end]
        end = start
        if below is not None:
            order = tree.index("leaves_first_N", here.device)[level_slice]
            here = torch.cat([here, below], -1).index_select(-1, order)
        pooled.append(here)
        below = torch.cat(
            [
                reduce(
                    here[..., b.start - level_slice.start : b.stop - level_slice.start].unflatten(
                        -1, (b.num_groups, b.size)
                    )
                )
                for b in tree.blocks[level]
            ],
            -1,
        )
    return torch.cat(pooled[::-1], -1)


def pool_logsumexp(logits_TE: Tensor, tree: Tree) -> Tensor:
    """Score every node by the log-sum-exp of the experts below it. (T, E) -> (T, N).

    The softmax among siblings of these scores, multiplied down the path, is the flat softmax over
    the experts exactly: exp(lse(children)) / sum over siblings of exp(lse) telescopes.
    """
    return pool(logits_TE, tree, lambda group: group.logsumexp(-1))


@lru_cache  # asked at every step, about a handful of layers
def constant(numbers: tuple[int, ...], device: torch.device) -> Tensor:
    """Whole numbers, such as those of some nodes, on a device; copied there once."""
    with torch.inference_mode(False):  # else no backward could use what an evaluation made
        return torch.tensor(numbers, dtype=torch.int64, device=device)
