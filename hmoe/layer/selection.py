"""Selections: rules, without parameters, from probabilities to rows.

A selection is a plain function `selection(tree, probs_TN, choice_TN) -> Routing`; its options are
bound by `functools.partial`. Experts are chosen by `choice_TN` and weighed by `probs_TN`: the two
differ only while a bias controller steers the load (DeepSeek-AI, 2024, eq. 16: biased scores
decide who works, unbiased ones how much it counts). Both hold P(node | parent), float32.

All rules are deterministic, in training and in evaluation.

Letters: T tokens, N nodes, E experts, K experts per token.
"""

from collections.abc import Callable, Sequence
from math import prod

import torch
from torch import Tensor

from hmoe.errors import ConfigError
from hmoe.layer.routing import Routing
from hmoe.layer.tree import ROOT, Tree
from hmoe.layer.tree_ops import at_experts, path_product

Selection = Callable[[Tree, Tensor, Tensor], Routing]


def soft(tree: Tree, probs_TN: Tensor, choice_TN: Tensor) -> Routing:
    """Every expert works on every token, weighed by the product of probabilities on its path.

    Jordan & Jacobs (1994), eq. 4-5. There is no choice to bias, so `choice_TN` has no effect.
    """
    weight_TE = at_experts(path_product(probs_TN, tree), tree)
    expert_E = torch.arange(tree.num_experts, device=weight_TE.device)
    return Routing.from_choice(tree, expert_E.expand_as(weight_TE), weight_TE, probs_TN)


def top_k(
    tree: Tree,
    probs_TN: Tensor,
    choice_TN: Tensor,
    *,
    k: int,
    beam: int | Sequence[int] | None,
    renormalize: bool,
) -> Routing:
    """The k experts with the largest probability of the whole path.

    Args:
        k: experts per token.
        beam: units kept in the running on each level before the last, one number for all or one a
            level; None searches all experts. Experts that sit above a level stay in the running:
            a beam compares units with units only, so it cannot starve a shallow expert.
        renormalize: divide the weights of a token's k experts by their sum (Shazeer et al. 2017
            eq. 5 and Mixtral: softmax over the chosen), or leave the probabilities (Switch).

    Raises:
        ConfigError: k beyond the number of experts, or beyond what the beam is sure to leave;
            a beam of the wrong length; renormalize with k = 1, which cuts the gate's gradient.
    """
    _check_count("selection.k", k, tree.num_experts, "experts")
    _check_renormalize(renormalize, k)
    beams = _beam_list(tree, beam)
    reach_TN = path_product(choice_TN, tree)
    reach_TE = at_experts(reach_TN, tree)
    if beams is not None:
        sure = _sure_experts(tree, beams)
        if k > sure:
            raise ConfigError(
                f"selection.k = {k}: with selection.beam = {list(beams)} only {sure} experts are "
                "sure to be in the running. Use a smaller k or a wider beam."
            )
        reach_TE = reach_TE.masked_fill(~_beam_search(tree, reach_TN, beams), -1.0)
    expert_TK = reach_TE.topk(k, dim=-1).indices
    weight_TK = at_experts(path_product(probs_TN, tree), tree).gather(-1, expert_TK)
    if renormalize:
        weight_TK = _renormalized(weight_TK)
    return Routing.from_choice(tree, expert_TK, weight_TK, probs_TN)


def descend(
    tree: Tree,
    probs_TN: Tensor,
    choice_TN: Tensor,
    *,
    k: int | Sequence[int],
    renormalize: bool,
) -> Routing:
    """At every level the best children of every unit still in the running; nobody looks back.

    Shazeer et al. (2017), appendix B, for any depth; SMILE (2022) is k = 1. A token's weight for an
    expert is the product of the probabilities on its path. On a tree whose experts sit on several
    levels the number of experts per token differs between tokens.

    Args:
        k: children kept of every unit, one number for all levels or one a level.
        renormalize: at each unit divide the kept children's probabilities by their sum.

    Raises:
        ConfigError: a list of the wrong length; more children than the smallest unit of the level
            has; renormalize with k = 1 at some level, which cuts that level's gradient.
    """
    ks = _per_level("selection.k", k, tree.num_levels)
    for level, (k_level, blocks) in enumerate(zip(ks, tree.blocks, strict=True)):
        smallest = min(blocks, key=lambda block: block.size)
        parent = tree.parent_N[smallest.start]
        unit = "the root" if parent == ROOT else f"unit '{tree.path_N[parent]}'"
        _check_count(f"selection.k on level {level}", k_level, smallest.size, f"children of {unit}")
        _check_renormalize(renormalize, k_level)
    weights: list[Tensor] = []
    for level, here in enumerate(tree.level_slices):
        kept: list[Tensor] = []
        for block in tree.blocks[level]:
            shape = (block.num_groups, block.size)
            choice = choice_TN[:, block.start : block.stop].unflatten(-1, shape)
            mask = torch.zeros_like(choice).scatter_(-1, choice.topk(ks[level], -1).indices, 1.0)
            weight = probs_TN[:, block.start : block.stop].unflatten(-1, shape) * mask
            if renormalize:
                weight = _renormalized(weight)
            # A negative mark, not a zero weight, tells "not chosen": a weight may underflow to 0.
            kept.append(torch.where(mask > 0, weight, -1.0).flatten(-2))
        weight_Tn = torch.cat(kept, -1)
        if level:
            above = tree.level_slices[level - 1]
            parent_n = tree.index("parent_N", probs_TN.device)[here] - above.start
            parent_Tn = weights[-1].index_select(-1, parent_n)
            alive = (parent_Tn >= 0) & (weight_Tn >= 0)
            weight_Tn = torch.where(alive, parent_Tn * weight_Tn, -1.0)
        weights.append(weight_Tn)
    weight_TE = at_experts(torch.cat(weights, -1), tree)
    token_R, expert_R = _chosen(weight_TE.detach() >= 0, tree, prod(ks))
    weight_R = weight_TE.flatten().index_select(0, token_R * tree.num_experts + expert_R)
    return Routing(tree, token_R, expert_R, weight_R, probs_TN)


def _renormalized(weight: Tensor) -> Tensor:
    """Weights over their sum on the last axis.

    Under a bias the chosen may all have a probability that underflows; they then get no weight
    rather than 0 / 0. The bound is small beside any sum met otherwise, and its inverse is finite.
    """
    return weight / weight.sum(-1, keepdim=True).clamp(min=1e-20)


def _chosen(chosen_TE: Tensor, tree: Tree, k: int) -> tuple[Tensor, Tensor]:
    """Tokens and experts of the marked pairs, by token."""
    if tree.level_N[tree.node_E[0]] == tree.num_levels - 1:
        # All experts on one level: the number of rows is known without waiting for the device.
        pairs = torch.nonzero_static(chosen_TE, size=chosen_TE.shape[0] * k)
    else:
        pairs = chosen_TE.nonzero()
    return pairs[:, 0], pairs[:, 1]


def _beam_search(tree: Tree, reach_TN: Tensor, beams: Sequence[int]) -> Tensor:
    """Which experts are in the running after a beam over the units. (T, N) -> bool (T, E)."""
    parent_N = tree.index("parent_N", reach_TN.device)
    is_expert_N = tree.index("is_expert_N", reach_TN.device)
    alive = torch.ones_like(reach_TN[:, tree.level_slices[0]], dtype=torch.bool)
    levels = []
    for level, width in enumerate(beams):
        here, below = tree.level_slices[level], tree.level_slices[level + 1]
        expert_n = is_expert_N[here]
        score_Tn = reach_TN[:, here].masked_fill(~alive | expert_n, -1.0)
        best = score_Tn.topk(min(width, score_Tn.shape[-1]), -1).indices
        kept = torch.zeros_like(alive).scatter_(-1, best, True) & (score_Tn >= 0)
        levels.append(alive & expert_n)
        alive = kept.index_select(-1, parent_N[below] - here.start)
    return at_experts(torch.cat([*levels, alive], -1), tree)


def _sure_experts(tree: Tree, beams: Sequence[int]) -> int:
    """A lower bound on the experts in the running, whatever the probabilities are."""
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


def _beam_list(tree: Tree, beam: int | Sequence[int] | None) -> list[int] | None:
    if beam is None:
        return None
    if tree.num_levels == 1:
        raise ConfigError(
            f"selection.beam = {beam!r}: tree {tree} has one level, so there are no units to "
            "keep. Use selection.beam=null."
        )
    return _per_level("selection.beam", beam, tree.num_levels - 1)


def _per_level(name: str, value: int | Sequence[int], levels: int) -> list[int]:
    values = [value] * levels if isinstance(value, int) else list(value)
    if len(values) != levels:
        raise ConfigError(
            f"{name} = {values}: {len(values)} numbers given, {levels} expected, one a level "
            "(or one number for all)."
        )
    for one in values:
        if one < 1:
            raise ConfigError(f"{name} = {value!r}: every number must be at least 1.")
    return values


def _check_count(name: str, value: int, limit: int, what: str) -> None:
    if not 1 <= value <= limit:
        raise ConfigError(f"{name} = {value}: must be from 1 to {limit}, the number of {what}.")


def _check_renormalize(renormalize: bool, k: int) -> None:
    if renormalize and k == 1:
        raise ConfigError(
            "selection.renormalize = true with selection.k = 1 makes every weight 1, so that the "
            "gate would never learn from the task. Use selection.renormalize=false."
        )
