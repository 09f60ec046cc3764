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


def check_k(tree: Tree, k: int, beams: Sequence[int]) -> None:
    """Refuse more experts per token than the beam is sure to leave."""
    sure = _sure_experts(tree, tuple(beams))
    if k > sure:
        raise ConfigError(
            f"selection.k = {k}: with selection.beam = {list(beams)} only {sure} experts are "
            "sure to be in the running. Use a smaller k or a wider beam."
        )


@lru_cache(maxsize=256)
def _sure_experts(tree: Tree, beams: Sequence[int]) -> int:
    """A lower bound on the experts in the running, whatever the scores are."""
    cpu = torch.device("cpu")
    group_N, group_below_N = tree.index("group_N", cpu), tree.index("group_below_N", cpu)
    # Experts and units among the children of the root (group 0) and of each unit.
    size_G = tree.index("size_G", cpu)
    experts_G = torch.zeros_like(size_G).index_add(0, group_N, (group_below_N < 0).long())
    units_G = size_G - experts_G
    sure, in_running = int(experts_G[0]), int(units_G[0])
    for level, width in enumerate(beams):
        group_n = group_below_N[tree.level_slices[level]]
        group_n = group_n[group_n >= 0]
        kept = min(width, in_running)
        sure += int(experts_G[group_n].sort().values[:kept].sum())
        in_running = int(units_G[group_n].sort().values[:kept].sum())
    return sure
