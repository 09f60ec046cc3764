"""Selections: rules, without parameters, from scores to rows.

A selection is a plain function `selection(scores, choice) -> Routing`; its options are bound by
`functools.partial`. Experts are chosen by `choice` and weighed by `scores`: the two differ while a
bias controller steers the load (DeepSeek-AI, 2024, eq. 16: biased scores decide who works, unbiased
ones how much it counts), and where units are chosen by another pool than they are weighed by.

What the chosen weigh is an option of every rule that chooses, `weights`:

* "probs": the path's weight as the gate gives it: softmax first, then top k (Switch, OLMoE);
* "renormalized": those over their sum among the chosen (Qwen3, DeepSeek-V3);
* "softmax": top k first, then the softmax over the raw scores of the chosen (Shazeer, Mixtral). On
  one level under a softmax this is "renormalized"; on a tree, or under a sigmoid, it is not;
* "even": equal weights that sum to 1, for gates that do not learn.

All rules are deterministic, in training and in evaluation; noise is the gate's business.

Letters: T tokens, N nodes, E experts, K experts per token, R rows.
"""

from collections.abc import Callable, Sequence
from dataclasses import replace
from math import prod
from typing import Literal

import torch
from torch import Tensor

from hmoe.errors import ConfigError, check_names
from hmoe.layer.beam import beam_search, beam_widths, check_k
from hmoe.layer.capacity import Drop, limited
from hmoe.layer.checks import check_count, per_level
from hmoe.layer.routing import Routing
from hmoe.layer.scores import Choice, Scores, Unscored
from hmoe.layer.tree import ROOT, Tree
from hmoe.layer.tree_ops import at_experts, joined, path_sum, softmax, with_parents

Selection = Callable[[Scores, Choice], Routing]
Weights = Literal["probs", "renormalized", "softmax", "even"]
_WEIGHTS = ("probs", "renormalized", "softmax", "even")


def soft(scores: Scores, choice: Choice) -> Routing:
    """Every expert works on every token, weighed by its path.

    Jordan & Jacobs (1994), eq. 4-5. There is no choice to bias: `choice` tells only which experts
    a head does not see.
    """
    weight_TE = at_experts(scores.weight_TN, scores.tree)
    expert_E = torch.arange(scores.tree.num_experts, device=weight_TE.device)
    return seen_rows(Routing.from_choice(scores, expert_E.expand_as(weight_TE), weight_TE), choice)


def top_k(
    scores: Scores,
    choice: Choice,
    *,
    k: int,
    beam: int | Sequence[int] | None,
    weights: Weights,
    scale: float,
    capacity: float | Sequence[float | None] | None,
    drop: Drop,
) -> Routing:
    """The k experts with the largest weight of the whole path.

    With a beam over a bottom-up tree this is group-limited routing (DeepSeek-AI 2024): the best
    `beam` groups by their pooled score, then the best k experts in them. Groups that are out are
    masked with minus infinity; a mask of 0 lets experts of dropped groups back in as soon as biases
    turn scores negative.

    Args:
        k: experts per token.
        beam: units kept in the running on each level before the last, one number for all or one a
            level; None searches all experts. Experts that sit above a level stay in the running:
            a beam compares units with units only, so it cannot starve a shallow expert.
        weights: what the chosen weigh, see above.
        scale: all weights are multiplied by it (DeepSeek-V3's routed scaling factor).
        capacity: None, or the rows that a node may take at most, as a multiple of its even share of
            all T k rows, one number for all levels or one a level: see `limited`.
        drop: which rows go first beyond a capacity: see `limited`.

    Raises:
        ConfigError: k beyond the number of experts, or beyond what the beam is sure to leave;
            a beam or capacity of the wrong length; weights that cut the gate's gradient at k = 1.
    """
    tree = scores.tree
    check_count("selection.k", k, tree.num_experts, "experts")
    check_weights(weights, [k])
    beams = beam_widths(tree, beam)
    choice_TE = at_experts(choice.weight_TN, tree)
    if beams is not None:
        check_k(tree, k, beams)
        choice_TE = choice_TE.masked_fill(~beam_search(tree, choice, beams), float("-inf"))
    expert_TK = choice_TE.topk(k, dim=-1).indices
    # Of "softmax" the raw scores along a path are asked for, else its weight.
    value_TN = scores.weight_TN
    if weights == "softmax":
        path_TN = scores.path_TN
        value_TN = path_sum(scores.logits_TN, tree) if path_TN is None else path_TN
    value_TK = at_experts(value_TN, tree).gather(-1, expert_TK)
    return weighed_rows(
        scores, expert_TK, value_TK, weights=weights, scale=scale, capacity=capacity, drop=drop
    )


def weighed_rows(
    scores: Scores | Unscored,
    expert_TK: Tensor,
    value_TK: Tensor,
    *,
    weights: Weights,
    scale: float,
    capacity: float | Sequence[float | None] | None,
    drop: Drop,
) -> Routing:
    """The rows of K chosen experts, weighed as `top_k` says.

    Args:
        value_TK: weights of the paths to the chosen, or, of "softmax", the sums of raw scores.
    """
    if weights == "softmax":
        weight_TK = softmax(value_TK)
    else:
        weight_TK = _weighed(weights, value_TK, torch.ones_like(value_TK))
    routing = Routing.from_choice(scores, expert_TK, weight_TK * scale)
    return limited(routing, capacity, drop)


def descend(
    scores: Scores,
    choice: Choice,
    *,
    k: int | Sequence[int | None] | None,
    weights: Weights | Sequence[Weights],
    capacity: float | Sequence[float | None] | None,
    drop: Drop,
) -> Routing:
    """At every level the best children of every unit still in the running; nobody looks back.

    Shazeer et al. (2017), appendix B, for any depth; SMILE (2022) is k = 1. A token's weight for an
    expert is the product of the weights on its path. On a tree whose experts sit on several levels
    the number of experts per token differs between tokens.

    Args:
        k: children kept of every unit, one number for all levels or one a level; None keeps all,
            which makes a level soft.
        weights: what the kept children of a unit weigh, see above; one, or one a level.
        capacity, drop: as in `top_k`.

    Raises:
        ConfigError: a list of the wrong length; more children than the smallest unit of the level
            has; weights that cut a level's gradient at k = 1.
    """
    tree = scores.tree
    k_L = per_level("selection.k", k, tree.num_levels)
    weights_L = per_level("selection.weights", weights, tree.num_levels)
    _check_children(tree, k_L)
    check_weights(weights_L, k_L)
    levels: list[Tensor] = []
    # Who was chosen is carried beside the weights: a weight may underflow to 0, or be NaN.
    chosen_levels: list[Tensor] = []
    for level in range(tree.num_levels):
        kept: list[Tensor] = []
        masks: list[Tensor] = []
        for block in tree.blocks[level]:
            shape, nodes = (block.num_groups, block.size), slice(block.start, block.stop)
            ranks = choice.factor_TN[:, nodes].unflatten(-1, shape)
            best = ranks.topk(k_L[level] or block.size, -1).indices
            mask = torch.zeros_like(ranks, dtype=torch.bool).scatter_(-1, best, True)
            if k_L[level] is None and choice.hides:
                mask = mask & (ranks > float("-inf"))
            if weights_L[level] == "softmax":
                logits = scores.logits_TN[:, nodes].unflatten(-1, shape)
                weight = softmax(logits.masked_fill(~mask, float("-inf")))
            else:
                factor = scores.factor_TN[:, nodes].unflatten(-1, shape)
                weight = _weighed(weights_L[level], factor, mask.to(factor.dtype))
            kept.append(weight.flatten(-2))
            masks.append(mask.flatten(-2))
        weight_Tn, chosen_Tn = joined(kept), joined(masks)
        if level:
            weight_Tn = with_parents(torch.mul, levels[-1], weight_Tn, tree, level)
            chosen_Tn = with_parents(torch.logical_and, chosen_levels[-1], chosen_Tn, tree, level)
        levels.append(weight_Tn)
        chosen_levels.append(chosen_Tn)
    weight_TE = at_experts(joined(levels), tree)
    token_R, expert_R = _chosen(at_experts(joined(chosen_levels), tree), tree, k_L)
    weight_R = weight_TE.flatten().index_select(0, token_R * tree.num_experts + expert_R)
    return limited(Routing(scores, token_R, expert_R, weight_R), capacity, drop)


def seen_rows(routing: Routing, choice: Choice) -> Routing:
    """The rows of experts that may work for their tokens; the others would weigh nothing."""
    if not choice.hides:
        return routing
    row_R = (~_hidden_rows(routing, choice)).nonzero().flatten()
    return replace(
        routing,
        token_R=routing.token_R.index_select(0, row_R),
        expert_R=routing.expert_R.index_select(0, row_R),
        weight_R=routing.weight_R.index_select(0, row_R),
    )


def check_seen(routing: Routing, choice: Choice) -> None:
    """Refuse a rule that had to choose what must not work, for want of others.

    Raises:
        ConfigError: there is such a row.
    """
    if choice.hides and _hidden_rows(routing, choice).any():
        raise ConfigError(
            "selection.k: more than the experts or units that some head sees. Use a smaller "
            "selection.k, or show the head more (gate.visible)."
        )


def _hidden_rows(routing: Routing, choice: Choice) -> Tensor:
    """Which rows belong to experts that must not work for their tokens: bool (R,)."""
    choice_TE = at_experts(choice.weight_TN, routing.tree)
    return choice_TE[routing.token_R, routing.expert_R] == float("-inf")


def _weighed(weights: Weights, weight: Tensor, mask: Tensor) -> Tensor:
    """Weights of the chosen among the last axis, where `mask` is 1; zero elsewhere."""
    if weights == "even":
        return mask / mask.sum(-1, keepdim=True)
    if weights == "probs":
        return weight * mask
    # Under a bias the chosen may all have a weight that underflows; they then get no weight rather
    # than 0 / 0. The bound is small beside any sum met otherwise, and its inverse is finite.
    return weight * mask / (weight * mask).sum(-1, keepdim=True).clamp(min=1e-20)


def _chosen(chosen_TE: Tensor, tree: Tree, k_L: Sequence[int | None]) -> tuple[Tensor, Tensor]:
    """Tokens and experts of the marked pairs, by token."""
    if tree.has_shallow_experts or None in k_L:
        pairs = chosen_TE.nonzero()
    else:
        # All experts on one level: the number of rows is known without waiting for the device.
        pairs = torch.nonzero_static(chosen_TE, size=chosen_TE.shape[0] * prod(k_L))  # type: ignore[arg-type]
    return pairs[:, 0], pairs[:, 1]


def _check_children(tree: Tree, k_L: Sequence[int | None]) -> None:
    for level, (k, blocks) in enumerate(zip(k_L, tree.blocks, strict=True)):
        smallest = min(blocks, key=lambda block: block.size)
        parent = tree.parent_N[smallest.start]
        unit = "the root" if parent == ROOT else f"unit '{tree.path_N[parent]}'"
        if k is not None:
            name = f"selection.k on level {level}"
            check_count(name, k, smallest.size, f"children of {unit}")


def check_weights(weights_L: Sequence[Weights] | Weights, k_L: Sequence[int | None]) -> None:
    """Refuse unknown weights, and those that cut the gate's gradient at k = 1."""
    weights_L = per_level("selection.weights", weights_L, len(k_L))
    check_names("selection.weights", weights_L, _WEIGHTS)
    for weights, k in zip(weights_L, k_L, strict=True):
        if weights in ("renormalized", "softmax") and k == 1:
            raise ConfigError(
                f"selection.weights = {weights} with selection.k = 1 makes every weight 1, so that "
                "the gate would never learn from the task. Use selection.weights=probs."
            )
