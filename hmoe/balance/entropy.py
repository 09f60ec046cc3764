"""Entropies of decisions: who gets what on the whole, and how sure the gate is of each token.

Spread and doubt are two halves. With T a token drawn at random and C the child it would go to, the
mutual information I(T; C) = H(mean p) - mean H(p) is large when tokens part ways (spread) and each
knows where it goes (doubt is small); a penalty w (spread_loss + doubt_loss) is -w I(T; C) up to a
constant. Both are in nats, weigh a unit by the probability of reaching it, and add up over levels
to what they are for the choice among all experts at once. Entropies are of probabilities, not of
rows: they also work where every token goes to every expert. Without any token both are 0.

Letters: T tokens, N nodes.
"""

from typing import Literal

from torch import Tensor

from hmoe.errors import check_names
from hmoe.layer import Routing
from hmoe.layer.tree_ops import at_parents

# Bounds what a logarithm is taken of; lost beside any probability met in float32.
_TINY = 1e-20


def spread_loss(routing: Routing) -> dict[str, Tensor]:
    """How far mean probabilities are from even: 0 at equal load.

    For a unit v with children c: R(v) sum_c P(c|v) ln(P(c|v) / s(c|v)), where R is the mean
    probability of reaching v, P the mean over tokens weighed by theirs, and s the share of v's
    experts below c; a level's value is the sum over its units. For b equal children that is
    R (ln b - H(P)), and ln b at the root when all go to one. Summed over levels it is
    ln E - H(mean probabilities of the experts).
    """
    tree = routing.tree
    mass_N = routing.reach_TN.sum(0) / max(routing.num_tokens, 1)
    prob_N = mass_N / at_parents(mass_N, tree).clamp(min=_TINY)
    ratio_N = prob_N / tree.index("share_N", mass_N.device)
    term_N = mass_N * ratio_N.clamp(min=_TINY).log()
    return {f"level_{n}": term_N[here].sum() for n, here in enumerate(tree.level_slices)}


def doubt_loss(routing: Routing, *, weigh: Literal["reach", "units"]) -> dict[str, Tensor]:
    """Mean entropy of single decisions: 0 when every decision is sure, whatever the load.

    Even probabilities have ln b among b children, the most there is.

    Args:
        weigh: "reach" counts a unit by the probability with which the token reaches it, so that the
            sum over levels is the entropy of the token's probabilities over all experts: the
            regulariser of DSelect-k (Hazimeh et al. 2021) and COMET (Ibrahim et al. 2023).
            "units" is the mean over the units of a level, reached or not: the hardening of fast
            feedforward (Belcak & Wattenhofer 2023), which sums over nodes.

    Raises:
        ConfigError: an unknown `weigh`.
    """
    check_names("weigh", [weigh], ("reach", "units"))
    tree = routing.tree
    probs_TN = routing.probs_TN
    # A probability of exactly 0 must have a finite gradient.
    entropy_TN = -probs_TN * probs_TN.clamp(min=_TINY).log()
    if weigh == "reach":
        entropy_TN = at_parents(routing.reach_TN, tree) * entropy_TN
    total_N = entropy_TN.sum(0) / max(routing.num_tokens, 1)
    values = {}
    for level, here in enumerate(tree.level_slices):
        num_units = sum(block.num_groups for block in tree.blocks[level])
        total = total_N[here].sum()
        values[f"level_{level}"] = total / num_units if weigh == "units" else total
    return values
