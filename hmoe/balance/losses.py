"""Losses on uneven load, one value a level: pure functions of a Routing.

Every loss here is a function `loss(routing) -> {"level_0": value, ...}`; a new one is a function
and a line of YAML. Coefficients of other libraries carry over only after conversion, since most
scale the same formula differently.

Letters: T tokens, N nodes.
"""

import torch
from torch import Tensor

from hmoe.layer import Routing


def switch_loss(routing: Routing) -> dict[str, Tensor]:
    """Switch loss at every sibling group, averaged over a level by traffic: 1.0 at equal load.

    For the children c of a node v: sum_c f(c|v) P(c|v) / s(c|v), where f is the share of v's rows
    that go to c, P the mean probability of c over v's rows, and s the share of v's experts that
    sit below c (1/b for b equal children). On a flat tree this is E sum_i f_i P_i of Fedus et al.
    (2021, eq. 4), with f over all k choices. Groups of a level count by the rows they receive.

    A level's value is 1.0 at equal load on every expert of every tree, and b when each token is
    sure of one of b children. Gradients flow through P only, as published.
    """
    tree = routing.tree
    device = routing.probs_TN.device
    rows_TN = routing.rows_TN
    # Column 0 is the root, so that parent + 1 indexes the rows of any node's parent.
    rows_root_T1 = rows_TN[:, tree.level_slices[0]].sum(-1, keepdim=True)
    parent_N = tree.index("parent_N", device) + 1
    parent_rows_TN = torch.cat([rows_root_T1, rows_TN], -1).index_select(-1, parent_N)
    parent_load_N = parent_rows_TN.sum(0).clamp(min=1)
    load_N = rows_TN.sum(0)
    prob_N = (parent_rows_TN * routing.probs_TN).sum(0) / parent_load_N
    term_N = load_N * prob_N / tree.index("share_N", device)
    return {
        f"level_{level}": term_N[here].sum() / load_N[here].sum().clamp(min=1)
        for level, here in enumerate(tree.level_slices)
    }


def z_loss(routing: Routing) -> dict[str, Tensor]:
    """Mean squared log-sum-exp of the scores in each sibling group: keeps scores small.

    Zoph et al. (2022), eq. 5, at every group of the tree; a level's value is the mean over its
    groups and tokens.
    """
    values = {}
    for level, blocks in enumerate(routing.tree.blocks):
        squares = [
            routing.scores.logits_TN[:, b.start : b.stop]
            .unflatten(-1, (b.num_groups, b.size))
            .logsumexp(-1)
            .square()
            for b in blocks
        ]
        values[f"level_{level}"] = torch.cat(squares, -1).mean()
    return values
