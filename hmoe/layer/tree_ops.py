"""Tensor arithmetic on a tree. The only place that loops over levels.

Letters: T tokens, N nodes, E experts. The node axis is the last one; axes before it are free.
"""

from itertools import pairwise

import torch
from torch import Tensor

from hmoe.layer.tree import Tree


def sibling_softmax(logits_TN: Tensor, tree: Tree) -> Tensor:
    """P(node | parent): softmax among the children of every parent. (T, N) -> (T, N)."""
    parts = [
        logits_TN[..., b.start : b.stop]
        .unflatten(-1, (b.num_groups, b.size))
        .softmax(-1)
        .flatten(-2)
        for level in tree.blocks
        for b in level
    ]
    return torch.cat(parts, -1)


def path_product(probs_TN: Tensor, tree: Tree) -> Tensor:
    """P(node | root): product of probabilities on the path to each node. (T, N) -> (T, N)."""
    levels = [probs_TN[..., tree.level_slices[0]]]
    for above, here in pairwise(tree.level_slices):
        # Parents are counted from the start of the level above.
        parent = tree.index("parent_N", probs_TN.device)[here] - above.start
        levels.append(levels[-1].index_select(-1, parent) * probs_TN[..., here])
    return torch.cat(levels, -1)


def at_experts(value_TN: Tensor, tree: Tree) -> Tensor:
    """The entries of the nodes that are experts. (T, N) -> (T, E)."""
    if tree.num_experts == tree.num_nodes:
        return value_TN
    return value_TN.index_select(-1, tree.index("node_E", value_TN.device))


def sum_below(value_TE: Tensor, tree: Tree) -> Tensor:
    """Sum over the experts at or below every node. (T, E) -> (T, N)."""
    node = tree.index("below_node", value_TE.device)
    expert = tree.index("below_expert", value_TE.device)
    total = value_TE.new_zeros(*value_TE.shape[:-1], tree.num_nodes)
    return total.index_add(-1, node, value_TE.index_select(-1, expert))


def pool_logsumexp(logits_TE: Tensor, tree: Tree) -> Tensor:
    """Score every node by the log-sum-exp of the experts below it. (T, E) -> (T, N).

    The softmax among siblings of these scores, multiplied down the path, is the flat softmax over
    the experts exactly: exp(lse(children)) / sum over siblings of exp(lse) telescopes.
    """
    pooled: list[Tensor] = []
    end = tree.num_experts
    below: Tensor | None = None
    for level in reversed(range(tree.num_levels)):
        level_slice, inner = tree.level_slices[level], tree.inner_levels[level]
        start = end - (level_slice.stop - level_slice.start - len(inner))
        here = logits_TE[..., start:end]
        end = start
        if below is not None:
            order = tree.index("leaves_first_N", here.device)[level_slice]
            here = torch.cat([here, below], -1).index_select(-1, order)
        pooled.append(here)
        below = torch.cat(
            [
                here[..., b.start - level_slice.start : b.stop - level_slice.start]
                .unflatten(-1, (b.num_groups, b.size))
                .logsumexp(-1)
                for b in tree.blocks[level]
            ],
            -1,
        )
    return torch.cat(pooled[::-1], -1)
