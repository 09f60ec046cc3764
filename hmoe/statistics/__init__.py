"""The statistics room: pure functions from numbers to what may be said of them.

Plain numpy arrays in, frozen records out; scipy and statsmodels do the arithmetic. Letters: P pairs
of arms, A arms, S seeds, B resamples of the seeds, M hypotheses or points, O objectives.
"""

from hmoe.statistics.effect import rank_correlation, variance_explained
from hmoe.statistics.front import front_membership, hypervolume, hypervolume_history
from hmoe.statistics.paired import Estimate, difference_p, equivalence_p, estimate, holm
from hmoe.statistics.power import MOST_MORE_SEEDS, detectable, more_seeds
from hmoe.statistics.verdict import Judgement, Pair, Verdict, judge

__all__ = [
    "MOST_MORE_SEEDS",
    "Estimate",
    "Judgement",
    "Pair",
    "Verdict",
    "detectable",
    "difference_p",
    "equivalence_p",
    "estimate",
    "front_membership",
    "holm",
    "hypervolume",
    "hypervolume_history",
    "judge",
    "more_seeds",
    "rank_correlation",
    "variance_explained",
]
