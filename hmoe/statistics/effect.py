"""How much of the differences between trials does one setting explain, and do two move together?"""

from collections.abc import Hashable, Sequence

import numpy as np
from numpy.typing import ArrayLike
from scipy import stats

from hmoe.errors import ConfigError

_PARTS = 3


def variance_explained(setting_M: Sequence[Hashable], outcome_M: ArrayLike) -> float:
    """Share of the variance of the outcome's ranks between groups of trials, beyond chance; 0 to 1.

    Kruskal and Wallis's epsilon squared: (share - chance) / (1 - chance), where `groups - 1` of
    `trials - 1` would be explained by any grouping. Numbers are grouped in thirds, so that a best
    value in the middle is seen, which a rank correlation would not see; ranks, so that one failed
    trial does not drown the rest. A setting with one value explains nothing.
    """
    outcome = np.asarray(outcome_M, dtype=float)
    if len(setting_M) != outcome.size or outcome.size < 2:
        raise ConfigError(f"{len(setting_M)} settings of {outcome.size} trials: need 2 or more.")
    group_M = np.unique(_groups(setting_M), return_inverse=True)[1]
    num_groups, ranks = group_M.max() + 1, stats.rankdata(outcome)
    chance = (num_groups - 1) / (outcome.size - 1)
    if num_groups == 1 or chance >= 1 or ranks.var() == 0:
        return 0.0
    mean_M = (np.bincount(group_M, ranks) / np.bincount(group_M))[group_M]
    return float(max((mean_M.var() / ranks.var() - chance) / (1 - chance), 0))


def rank_correlation(a_M: ArrayLike, b_M: ArrayLike) -> float:
    """Spearman's correlation of two rows of numbers, -1 to 1; 0 where one of them does not vary."""
    a, b = np.asarray(a_M, dtype=float), np.asarray(b_M, dtype=float)
    if a.shape != b.shape or a.size < 2:
        raise ConfigError(f"{a.size} and {b.size} numbers: need as many, and 2 or more.")
    if np.ptp(a) == 0 or np.ptp(b) == 0:
        return 0.0
    return float(stats.spearmanr(a, b).statistic)


def _groups(setting_M: Sequence[Hashable]) -> list[int]:
    """A group number a trial: thirds of numbers with more values than that, else one a value."""
    values = list(dict.fromkeys(setting_M))
    if len(values) <= _PARTS or not all(isinstance(v, int | float) for v in values):
        return [values.index(s) for s in setting_M]
    share_M = stats.rankdata(np.asarray(setting_M, dtype=float), method="min") - 1
    return [int(x) for x in _PARTS * share_M / len(setting_M)]
