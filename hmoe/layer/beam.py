"""Beam: which experts stay in the running when only the best units of a level go on.

Letters: T tokens, N nodes, E experts.
"""

from collections.abc import Sequence
from functools import lru_cache

import torch
from torch import Tensor

from hmoe.errors import ConfigError
from hmoe.layer.checks import per_level
from hmoe.layer.scores import Choice
from hmoe.layer.tree import Tree
from hmoe.layer.tree_ops import at_experts


def beam_search(tree: Tree, choice: Choice, beams: Sequence[int]) -> Tensor:
    """Which experts are in the running after a beam over the units: bool (T, E).

    A beam compares units with units only; experts above its level stay in the running.

    Args:
        beams: units kept on each level before the last.
    """
    weight_TN = choice.weight_TN
    parent_N = tree.index("parent_N", weight_TN.device)
    is_expert_N = tree.index("is_expert_N", weight_TN.device)
    alive = torch.ones_like(weight_TN[:, tree.level_slices[0]], dtype=torch.bool)
    levels = []
    for level, width in enumerate(beams):
        here, below = tree.level_slices[level], tree.level_slices[level + 1]
        unit = alive & ~is_expert_N[here]
        score_Tn = weight_TN[:, here].masked_fill(~unit, float("-inf"))
        best = score_Tn.topk(min(width, score_Tn.shape[-1]), -1).indices
        kept = torch.zeros_like(alive).scatter_(-1, best, True) & unit
        levels.append(alive & is_expert_N[here])
        alive = kept.index_select(-1, parent_N[below] - here.start)
    return at_experts(torch.cat([*levels, alive], -1), tree)


def beam_widths(tree: Tree, beam: int | Sequence[int] | None) -> list[int] | None:
    """The beam of each level before the last; None for no beam.

    Raises:
        ConfigError: a beam on a tree without units, a list of the wrong length, a width below 1.
    """
    if beam is None:
        return None
    if tree.num_levels == 1:
        raise ConfigError(
            f"selection.beam = {beam!r}: tree {tree} has one level, so there are no units to "
            "keep. Use selection.beam=null."
        )
    beams = per_level("selection.beam", beam, tree.num_levels - 1)
    if min(beams) < 1:
        raise ConfigError(f"selection.beam = {beam!r}: every number must be at least 1.")
    return beams


# Of trees and numbers alone, so that a compiler need not look in.
@torch.compiler.assume_constant_result  # type: ignore[untyped-decorator]
def check_k(tree: Tree, k: int, beams: Sequence[int]) -> None:
    """Refuse more experts per token than the beam is sure to leave."""
    sure = _sure_experts(tree, tuple(beams))
    if k > sure:
        raise ConfigError(
            f"selection.k = {k}: with selection.beam = {list(beams)} only {sure} experts are "
            "sure to be in the running. Use a smaller k or a wider beam."
        )


@lru_cache  # asked at every step, about a handful of trees
def _sure_experts(tree: Tree, beams: tuple[int, ...]) -> int:
    """A lower bound on the experts in the running, whatever the scores are.

    Level by level any units may be those that are kept. How many units and experts are below them
    goes together: a unit without units below it has experts, so the two have no common minimum.
    """
    cpu = torch.device("cpu")
    group_N, group_below_N = tree.index("group_N", cpu), tree.index("group_below_N", cpu)
    # Units and experts among the children of the root (group 0) and of each unit.
    size_G = tree.index("size_G", cpu)
    experts_G = torch.zeros_like(size_G).index_add(0, group_N, (group_below_N < 0).long())
    children_G2 = torch.stack([size_G - experts_G, experts_G], 1)
    # Units in the running -> fewest experts that are with them.
    fewest: dict[int, int] = dict([children_G2[0].tolist()])
    for level, width in enumerate(beams):
        group_n = group_below_N[tree.level_slices[level]]
        kinds, numbers = children_G2[group_n[group_n >= 0]].unique(dim=0, return_counts=True)
        below: dict[int, int] = {}
        for in_running, sure in fewest.items():
            kept = _fewest_below(kinds.tolist(), numbers.tolist(), min(width, in_running))
            for num_units, num_experts in kept.items():
                found = sure + num_experts
                below[num_units] = min(found, below.get(num_units, found))
        fewest = below
    return min(fewest.values())


def _fewest_below(
    kinds: Sequence[Sequence[int]], numbers: Sequence[int], count: int
) -> dict[int, int]:
    """Over all choices of `count` units: units below them -> fewest experts below them.

    Args:
        kinds: units and experts below a unit; units of one kind are counted in `numbers`.
    """
    if len(kinds) == 1:
        numbers = [count]
    if count == sum(numbers):
        taken = list(zip(kinds, numbers, strict=True))
        return {sum(u * n for (u, _), n in taken): sum(e * n for (_, e), n in taken)}
    fewest: list[dict[int, int]] = [{0: 0}, *({} for _ in range(count))]
    units = [kind for kind, n in zip(kinds, numbers, strict=True) for _ in range(min(n, count))]
    for num_units, num_experts in units:
        for kept in range(count, 0, -1):
            for so_far, experts in fewest[kept - 1].items():
                total, found = so_far + num_units, experts + num_experts
                fewest[kept][total] = min(found, fewest[kept].get(total, found))
    return fewest[count]
