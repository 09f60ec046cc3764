"""The verdict on each pair of a declared family: better, worse, equivalent or undecided.

With p-values adjusted over the family (`holm`), in this order:

- equivalent: a difference of the margin or more is ruled out. This wins over a significant
  difference: the margin said, before the first trial, how large a difference must be to matter.
- better, worse: no difference is ruled out, and the sign decides. It may still be smaller than the
  margin; the interval tells.
- undecided: neither. The judgement says how many seeds a verdict is likely to take.

The chance that any verdict of the family but "undecided" is wrong is at most alpha.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import ArrayLike

from hmoe.errors import ConfigError
from hmoe.statistics.paired import Estimate, difference_p, equivalence_p, estimate, holm
from hmoe.statistics.power import detectable, more_seeds

Verdict = Literal["better", "worse", "equivalent", "undecided"]


@dataclass(frozen=True)
class Pair:
    """An arm beside the reference.

    Attributes:
        difference_S: arm minus reference on each seed; fewer than two cannot be judged.
        margin: the largest difference that does not matter, in the unit of the differences.
        minimised: whether a negative difference is in the arm's favour.
    """

    difference_S: ArrayLike
    margin: float
    minimised: bool


@dataclass(frozen=True)
class Judgement:
    """What may be said of a pair.

    Attributes:
        estimate: mean difference and its interval of coverage 1 - alpha, for this pair alone; None
            below two seeds, as all numbers.
        inner: the same with coverage 1 - 2 alpha. In a family of one, an arm is equivalent exactly
            if this lies inside the margin: each of two one-sided tests leaves alpha outside.
        difference_p, equivalence_p: adjusted over the family.
        improvement: share of seeds on which the arm beats the reference; a tie counts half.
        detectable: the smallest true difference that so many seeds find with power 0.8.
        more_seeds: for an undecided pair, seeds to add until a verdict is likely; None if decided,
            or if more than `MOST_MORE_SEEDS` are needed.
    """

    verdict: Verdict
    estimate: Estimate | None = None
    inner: Estimate | None = None
    difference_p: float = 1.0
    equivalence_p: float = 1.0
    improvement: float | None = None
    detectable: float | None = None
    more_seeds: int | None = None


def judge(pairs: Sequence[Pair], alpha: float) -> list[Judgement]:
    """A judgement for each pair. All pairs that were declared belong here, those without seeds too:
    a family that grows with what has finished would judge the first too mildly.

    Raises:
        ConfigError: alpha outside (0, 0.5), a margin of 0 or less, values that are not finite.
    """
    if not 0 < alpha < 0.5:
        raise ConfigError(f"alpha = {alpha}: must lie between 0 and 0.5.")
    raw = [_p_values(pair) for pair in pairs]
    adjusted = holm(np.ravel(raw), most_true=len(pairs)).reshape(-1, 2)
    return [
        _judge_one(pair, float(p), float(q), alpha, alpha / len(pairs))
        for pair, (p, q) in zip(pairs, adjusted, strict=True)
    ]


def _p_values(pair: Pair) -> tuple[float, float]:
    if np.size(pair.difference_S) < 2:
        return 1.0, 1.0
    return (
        float(difference_p(pair.difference_S)),
        float(equivalence_p(pair.difference_S, pair.margin)),
    )


def _judge_one(pair: Pair, p: float, q: float, alpha: float, level: float) -> Judgement:
    if np.size(pair.difference_S) < 2:
        return Judgement("undecided")
    found = estimate(pair.difference_S, alpha)
    gain_S = np.asarray(pair.difference_S, dtype=float) * (-1 if pair.minimised else 1)
    verdict: Verdict = "undecided"
    if q < alpha:
        verdict = "equivalent"
    elif p < alpha:
        verdict = "better" if gain_S.mean() > 0 else "worse"
    seeds = None
    if verdict == "undecided":
        n = found.num_seeds
        seeds = more_seeds(found.mean, found.sd, n, margin=pair.margin, level=level)
    return Judgement(
        verdict,
        found,
        estimate(pair.difference_S, 2 * alpha),
        p,
        q,
        improvement=float((gain_S > 0).mean() + (gain_S == 0).mean() / 2),
        detectable=detectable(found.sd, found.num_seeds, level),
        more_seeds=seeds,
    )
