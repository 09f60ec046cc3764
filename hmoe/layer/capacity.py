"""Capacity: the most rows a node may take; rows beyond it are dropped.

Letters: T tokens, R rows, K experts per token, N nodes, E experts.
"""

from collections.abc import Sequence
from dataclasses import replace
from math import ceil
from typing import Literal

import torch
from torch import Tensor

from hmoe.errors import ConfigError, check_names
from hmoe.layer.checks import per_level
from hmoe.layer.routing import Routing
from hmoe.layer.tree import Tree

Drop = Literal["order", "weight"]


def limited(
    routing: Routing, capacity: float | Sequence[float | None] | None, drop: Drop
) -> Routing:
    """The rows that fit: a node takes at most ceil(capacity * R * share) of them.

    R counts the rows asked for, so a token's k choices are in it: an expert's even share is T k / E
    (GShard: Lepikhin et al. 2020; Switch: Fedus et al. 2021, eq. 3, with k = 1).
    Several libraries leave k out and drop tokens even at perfect balance. On a tree every level may
    have its limit; a row must fit at all of them, and the deepest is looked at first. Weights are
    those of the whole choice: what was dropped is not made up for. Balance and load count the rows
    asked for, which the routing keeps: counted after dropping, any gate would look even.

    Whether a row fits depends on the other tokens of the batch, later ones too (a first choice of a
    late token goes before a second choice of an early one), in evaluation as in training: do not
    read language model losses under a capacity as those of a causal model.

    Args:
        routing: all rows asked for.
        capacity: None leaves all; a positive number, or one a level (None there leaves the level
            alone); below 1 an even load is cut as well.
        drop: who stays. "order": first choices before second ones, each in the order of the tokens
            (GShard, Switch). "weight": the rows that weigh most. V-MoE's batch priority (Riquelme
            et al. 2021) is a third way: first choices before second ones, each by the token's best
            weight.

    Raises:
        ConfigError: a list of the wrong length, a capacity that is not positive, an unknown `drop`.
    """
    check_names("selection.drop", [drop], ("order", "weight"))
    if capacity is None:
        if drop != "order":
            raise ConfigError(
                f"selection.drop = {drop}: without a capacity nothing is dropped. Give "
                "selection.capacity a number, such as 1.25, or leave selection.drop=order."
            )
        return routing
    tree = routing.tree
    capacity_L = per_level("selection.capacity", capacity, tree.num_levels)
    if any(factor is not None and factor <= 0 for factor in capacity_L):
        raise ConfigError(
            f"selection.capacity = {capacity!r}: must be positive; null drops nothing."
        )
    num_rows = routing.token_R.numel()
    row_R = _by_priority(routing, drop)
    # Deepest first: a place in a department is not kept for a row that finds none in its team.
    for level, factor in reversed(list(enumerate(capacity_L))):
        if factor is not None:
            row_R = _fitting(routing, row_R, level, _limits(tree, factor, num_rows))
    row_R = row_R.sort().values
    return replace(
        routing,
        asked=routing,
        token_R=routing.token_R.index_select(0, row_R),
        expert_R=routing.expert_R.index_select(0, row_R),
        weight_R=routing.weight_R.index_select(0, row_R),
    )


def _limits(tree: Tree, factor: float, num_rows: int) -> list[int]:
    """Most rows of every node. Rounded before the ceiling: 1.1 * 10 is not 12."""
    return [
        ceil(round(factor * num_rows * below / tree.num_experts, 6)) for below in tree.num_below_N
    ]


def _by_priority(routing: Routing, drop: Drop) -> Tensor:
    """The rows, those that stay longest first."""
    by_weight_R = routing.weight_R.detach().argsort(descending=True, stable=True)
    if drop == "weight":
        return by_weight_R
    # Rank of a row among its token's: rows by token, then by weight.
    token_R = routing.token_R.index_select(0, by_weight_R)
    row_R = by_weight_R.index_select(0, token_R.argsort(stable=True))
    rank_R = _place_in_run(routing.token_R)  # tokens ascend, so places are those of row_R as well
    return row_R.index_select(0, rank_R.argsort(stable=True))


def _fitting(routing: Routing, row_R: Tensor, level: int, limit_N: Sequence[int]) -> Tensor:
    """Of rows in order of priority those that fit the nodes of a level, in the same order."""
    tree = routing.tree
    node_R = _ancestors(tree, level, row_R.device).index_select(0, routing.expert_R[row_R])
    order_R = node_R.argsort(stable=True)
    node_R = node_R.index_select(0, order_R)
    fits_R = _place_in_run(node_R) < torch.tensor(limit_N, device=row_R.device)[node_R]
    return row_R.index_select(0, order_R[fits_R].sort().values)


def _place_in_run(value_R: Tensor) -> Tensor:
    """Place of every entry among its equals, in a sorted list: 7 7 9 -> 0 1 0."""
    index_R = torch.arange(value_R.numel(), device=value_R.device)
    return index_R - torch.searchsorted(value_R, value_R)


def _ancestors(tree: Tree, level: int, device: torch.device) -> Tensor:
    """For every expert its node on a level, or the expert itself where it sits above: (E,)."""
    parent_N, level_N = tree.index("parent_N", device), tree.index("level_N", device)
    node_E = tree.index("node_E", device)
    for _ in range(level, tree.num_levels - 1):
        node_E = torch.where(level_N[node_E] > level, parent_N[node_E], node_E)
    return node_E
