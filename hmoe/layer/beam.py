"""Beam: which experts stay in the running when only the best units of a level go on.

Letters: T tokens, N nodes, E experts.
"""

from collections.abc import Sequence

import torch
from torch import Tensor

from hmoe.errors import ConfigError
from hmoe.layer.checks import per_level
from hmoe.layer.scores import Choice
from hmoe.layer.tree import ROOT, Tree
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
    sure = _sure_experts(tree, beams)
    if k > sure:
        raise ConfigError(
            f"selection.k = {k}: with selection.beam = {list(beams)} only {sure} experts are "
            "sure to be in the running. Use a smaller k or a wider beam."
        )


def _sure_experts(tree: Tree, beams: Sequence[int]) -> int:
    """A lower bound on the experts in the running, whatever the scores are."""
    inner_children = [0] * tree.num_nodes
    expert_children = [0] * tree.num_nodes
    experts = set(tree.node_E)
    for node, parent in enumerate(tree.parent_N):
        if parent != ROOT:
            (expert_children if node in experts else inner_children)[parent] += 1
    in_running = len(tree.inner_levels[0])
    sure = sum(1 for n in tree.node_E if tree.level_N[n] == 0)
    for level, width in enumerate(beams):
        kept = min(width, in_running)
        inner = tree.inner_levels[level]
        sure += sum(sorted(expert_children[n] for n in inner)[:kept])
        in_running = sum(sorted(inner_children[n] for n in inner)[:kept])
    return sure
