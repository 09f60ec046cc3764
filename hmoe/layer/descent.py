"""Descent: search down a tree for the best experts, level by level, and weigh those found.

The search has no gradients and keeps what it saw. The weights of the chosen are worked out from
that, differentiably, without a second look at any node. Groups that were looked into but not chosen
have no part in the weights, so they would get no gradient from a dense gate either: lazy and dense
agree exactly.

Letters: T tokens, K experts per token, B groups in the running, b room for the children of a group,
C = B b places of a token on a level.
"""

from collections.abc import Callable, Sequence
from functools import partial
from typing import NamedTuple

import torch
from torch import Tensor

from hmoe.layer.asking import Scorer, TiedScorer
from hmoe.layer.looks import Look, is_uniform


class Step(NamedTuple):
    """One level of a search.

    Attributes:
        look: what each token looked at.
        logits_TC: the raw scores that it saw, without gradient.
        kept_TB: places of the units that go on; None on the last level.
        found_TK: places of the best experts of this level; None where it has none.
        merged_TK: of the best of the levels above, followed by `found_TK`, those that are still the
            best; None where no level above has experts.
    """

    look: Look
    logits_TC: Tensor
    kept_TB: Tensor | None
    found_TK: Tensor | None
    merged_TK: Tensor | None


class Found(NamedTuple):
    """The best experts of each token, best first, and how they were found."""

    expert_TK: Tensor
    steps: Sequence[Step]


@torch.no_grad()
def search(scorer: Scorer, *, k: int, beams: Sequence[int], bias_N: Tensor | None = None) -> Found:
    """The k experts with the largest probability of the whole path that a beam finds.

    The same search as `selection.top_k`, by logs as `TopDown.choose` has it: a beam compares units
    with units only, and experts that sit above a level stay in the running.

    Args:
        k: how many experts.
        beams: units that go on, for each level but the last; must be sure to leave k experts.
        bias_N: added to the raw scores here, and not to those that weigh.
    """
    tree, device = scorer.tree, scorer.x_TD.device
    group_below_N = tree.index("group_below_N", device)
    group_TB = torch.zeros(len(scorer.x_TD), 1, dtype=torch.int64, device=device)
    reach_TB = torch.zeros(len(scorer.x_TD), 1, device=device)
    # Who is in the running is carried beside the reach, which may be NaN.
    alive_TB = None if is_uniform(tree) else torch.ones_like(group_TB, dtype=torch.bool)
    best_reach_TK, best_node_TK = reach_TB[:, :0], group_TB[:, :0]
    steps = []
    for level, runs in enumerate(tree.runs):
        look = Look(tree, level, group_TB, alive_TB)
        logits_TC = scorer.look(look)
        reach_TC = _reach(look, logits_TC, reach_TB, bias_N)
        is_expert_TC, is_unit_TC = _kinds(look)
        found_TK = merged_TK = kept_TB = None
        if any(run.num_children == 0 for run in runs):
            reach_TK, found_TK = _top(reach_TC, is_expert_TC, k)
            node_TK = look.node_at(found_TK)
            if best_node_TK.shape[1]:
                reach_TK, merged_TK = _top(torch.cat([best_reach_TK, reach_TK], 1), None, k)
                node_TK = torch.cat([best_node_TK, node_TK], 1).gather(1, merged_TK)
            best_reach_TK, best_node_TK = reach_TK, node_TK
        if level < len(beams):
            reach_TB, kept_TB = _top(reach_TC, is_unit_TC, beams[level])
            group_TB = group_below_N[look.node_at(kept_TB)]
            if is_unit_TC is not None:
                alive_TB = is_unit_TC.gather(1, kept_TB)
                group_TB = group_TB.masked_fill(~alive_TB, 0)  # any group
        steps.append(Step(look, logits_TC, kept_TB, found_TK, merged_TK))
    return Found(tree.index("expert_N", device)[best_node_TK], steps)


def path_values(scorer: Scorer, found: Found, *, raw: bool) -> Tensor:
    """Probability of the path to each expert found, or the sum of its raw scores: (T, K).

    Differentiable.
    """
    logits = scorer.recall([s.look for s in found.steps], [s.logits_TC for s in found.steps])
    value_TB = torch.full((len(scorer.x_TD), 1), 0.0 if raw else 1.0, device=scorer.x_TD.device)
    best_TK = value_TB[:, :0]
    for (look, _, kept_TB, found_TK, merged_TK), logits_TC in zip(found.steps, logits, strict=True):
        own_TC = logits_TC if raw else _by_group(look, logits_TC).softmax(-1).flatten(1)
        on = partial(_on, torch.add if raw else torch.mul, value_TB, own_TC, look.room)
        if found_TK is not None:
            value_TK = on(found_TK)
            if merged_TK is not None:
                value_TK = torch.cat([best_TK, value_TK], 1).gather(1, merged_TK)
            best_TK = value_TK
        if kept_TB is not None:
            value_TB = on(kept_TB)
    return best_TK


def best_sums(
    scorer: TiedScorer, *, k: int, beams: Sequence[int], raw: bool
) -> tuple[Tensor, Tensor]:
    """`search` and `path_values` where the groups of a level are scored alike: two of (T, K).

    Product keys (Lample et al. 2019, section 3.1): paths are sums of one score a level, and the
    best B sums use the best B scores of every level, so B candidates are compared with B of the
    next level, and not with all of its nodes. All paths share their normaliser, which does not
    decide.
    """
    num_tokens, device = len(scorer.x_TD), scorer.x_TD.device
    expert_TB = torch.zeros(num_tokens, 1, dtype=torch.int64, device=device)
    sum_TB = norm_T1 = torch.zeros(num_tokens, 1, device=device)
    for level, (score, width) in enumerate(zip(scorer.score_L, (*beams, k), strict=True)):
        logits_Tb = score(scorer.x_TD)
        room = logits_Tb.shape[1]
        best = logits_Tb.topk(min(width, room), -1)
        if not raw:
            norm_T1 = norm_T1 + logits_Tb.logsumexp(-1, keepdim=True)
        del logits_Tb  # memory that the next level then has, warm
        if level == 0:  # the best children of the root are the best sums
            sum_TB, expert_TB = best.values, best.indices
            continue
        sum_TC = (sum_TB.unsqueeze(-1) + best.values.unsqueeze(1)).flatten(1)
        expert_TC = (expert_TB.unsqueeze(-1) * room + best.indices.unsqueeze(1)).flatten(1)
        sum_TB, place_TB = sum_TC.topk(min(width, sum_TC.shape[1]), -1)
        expert_TB = expert_TC.gather(1, place_TB)
    return expert_TB, sum_TB if raw else (sum_TB - norm_T1).exp()


def _reach(look: Look, logits_TC: Tensor, reach_TB: Tensor, bias_N: Tensor | None) -> Tensor:
    """Logs of the probabilities of the paths to all places."""
    if bias_N is not None:
        logits_TC = logits_TC + bias_N[look.node_TC]
    reach_TBb = _by_group(look, logits_TC).log_softmax(-1)
    if look.level > 0:
        reach_TBb += reach_TB.unsqueeze(-1)
    reach_TC: Tensor = reach_TBb.flatten(1)
    return reach_TC


def _kinds(look: Look) -> tuple[Tensor | None, Tensor | None]:
    """Which places have an expert, and which a unit; None: all that a level of its kind has."""
    if look.asked_TC is None:
        return None, None
    is_expert_TC = look.tree.index("is_expert_N", look.node_TC.device)[look.node_TC]
    return look.asked_TC & is_expert_TC, look.asked_TC & ~is_expert_TC


def _top(value_TC: Tensor, where_TC: Tensor | None, k: int) -> tuple[Tensor, Tensor]:
    """The k largest values and their places, of those that count, or as many as there are."""
    if where_TC is not None:
        value_TC = value_TC.masked_fill(~where_TC, float("-inf"))
    values, places = value_TC.topk(min(k, value_TC.shape[1]), -1)
    return values, places


def _by_group(look: Look, value_TC: Tensor) -> Tensor:
    value_TBb: Tensor = value_TC.unflatten(1, (-1, look.room))
    return value_TBb


def _on(
    join: Callable[[Tensor, Tensor], Tensor],
    value_TB: Tensor,
    own_TC: Tensor,
    room: int,
    place_TK: Tensor,
) -> Tensor:
    """Values of paths that go on from those to groups to some of their places.

    From the root down, as in `tree_ops`: floating point results depend on the order.
    """
    joined: Tensor = join(value_TB.gather(1, place_TK // room), own_TC.gather(1, place_TK))
    return joined
