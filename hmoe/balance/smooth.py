"""Smooth load: how many rows each node would get, as a number that has a gradient.

Letters: T tokens, N nodes, G sibling groups of a block, b children of a group, k children chosen.
"""

import torch
from torch import Tensor

from hmoe.layer import Routing
from hmoe.layer.tree_ops import at_parents, path_product


def smooth_load(routing: Routing) -> Tensor:
    """Estimated rows of every node, (N,): Shazeer et al. (2017), eq. 8-10 and appendix B.

    The chance that a token goes to child c of a unit where it goes to k children, if the noise of
    c were drawn again and that of its siblings were not:

        P(c) = Phi((clean_c - threshold_c) / deviation_c)

    where the threshold is the k-th highest raw score, noise included, among c's siblings. All of it
    is in raw scores: a probability is not to be compared with a raw score. k is read off the rows.
    Down the tree, Load(c) = Load(v) * mean of P(c) over the tokens that came to v.

    We differ in counting rows, not tokens: a token that sends two rows into a department counts
    twice there. Under `descend` with equal k everywhere, Shazeer's case, this only scales all of a
    level alike; elsewhere it keeps "equal" meaning equal per expert.

    A level without learnt noise, and all of them outside training, has chances of 0 and 1, the
    limit of little noise: the true load, without gradient. The chance is exact where a unit's
    children are chosen by their own scores (`descend`, and `top_k` on one level), without a
    controller's bias; elsewhere it is an estimate given k.
    """
    routing, tree = routing.before_drops, routing.tree
    rows_TN = routing.rows_TN
    above_TN = at_parents(rows_TN, tree)
    expected_TN = _expected_rows(routing, rows_TN, above_TN)
    share_N = expected_TN.sum(0) / above_TN.sum(0).clamp(min=1)
    return rows_TN[:, tree.level_slices[0]].sum() * path_product(share_N, tree)


def _expected_rows(routing: Routing, rows_TN: Tensor, above_TN: Tensor) -> Tensor:
    """For each token the rows that a child would get, times the chance that it is chosen."""
    scores = routing.scored
    if scores.clean_TN is None or scores.noise_TN is None:
        return rows_TN
    parts = []
    for block in (block for blocks in routing.tree.blocks for block in blocks):
        rows, above, noisy, clean, noise = (
            value_TN[:, block.start : block.stop].unflatten(-1, (block.num_groups, block.size))
            for value_TN in (rows_TN, above_TN, scores.logits_TN, scores.clean_TN, scores.noise_TN)
        )
        chosen = rows > 0
        k_TG1 = chosen.sum(-1, keepdim=True)
        chance = torch.where(
            noise > 0, chance_in_top_k(noisy, clean, noise, k_TG1), chosen.to(noisy.dtype)
        )
        # Who was not chosen would get what the chosen got on average.
        parts.append((torch.where(chosen, rows, above / k_TG1.clamp(min=1)) * chance).flatten(-2))
    return torch.cat(parts, -1)


def chance_in_top_k(noisy: Tensor, clean: Tensor, noise: Tensor, k: Tensor) -> Tensor:
    """P(among the k best siblings | the siblings' noise), for raw scores (..., b) and k (..., 1).

    The deviation `noise` may be 0; the chance is of no use there, but its gradient is finite.
    """
    size = noisy.shape[-1]
    ranked = noisy.sort(-1, descending=True).values
    kth = ranked.gather(-1, (k - 1).clamp(min=0))
    next_best = ranked.gather(-1, k.clamp(max=size - 1))
    # One of the k best is out as soon as it falls below the next one, not below itself.
    threshold = torch.where(noisy > next_best, next_best, kth)
    chance = torch.special.ndtr((clean - threshold) / torch.where(noise > 0, noise, 1.0))
    return torch.where(k < size, chance, 1.0)
