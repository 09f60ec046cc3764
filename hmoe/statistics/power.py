"""How many seeds does a verdict need, and which difference can so many seeds show?

Power is that of the paired t test. The level should be the strictest that Holm may ask of a family,
alpha / pairs, so that the numbers err on the side of more seeds.
"""

from functools import cache

import numpy as np
from numpy.typing import NDArray
from statsmodels.stats.power import TTestPower, ttest_power

from hmoe.errors import ConfigError
from hmoe.statistics.paired import SIGN_FLIP_FROM

POWER = 0.8
MOST_MORE_SEEDS = 100
_LARGEST_EFFECT = 1e3  # standard deviations; power is 1 long before


def detectable(sd: float, num_seeds: int, level: float) -> float:
    """The smallest true difference that a two-sided test at `level` finds with power 0.8.

    Args:
        sd: standard deviation of the paired differences.
        num_seeds: at least 2.
    """
    _check(sd, num_seeds, level)
    return sd * _detectable_effect(num_seeds, level)


def more_seeds(
    mean: float, sd: float, num_seeds: int, *, margin: float, level: float
) -> int | None:
    """Seeds to add until a verdict is likely (power 0.8), were observed mean and sd the true ones.

    The smaller number of two: until the difference is found, or until the interval fits inside the
    margin. Both rest on an observed mean, so this is a plan and no promise; and seeds added after
    a look at the result are a new confirmation, to be declared as one.

    Returns:
        1 to `MOST_MORE_SEEDS`, or None if more are needed.
    """
    _check(sd, num_seeds, level)
    n = np.arange(num_seeds + 1, num_seeds + MOST_MORE_SEEDS + 1)
    enough = np.maximum(_finds(mean, sd, n, level), _fits(mean, sd, n, level, margin)) >= POWER
    return int(np.argmax(enough)) + 1 if enough.any() else None


@cache
def _detectable_effect(num_seeds: int, level: float) -> float:
    return float(TTestPower().solve_power(nobs=num_seeds, alpha=level, power=POWER))


def _finds(mean: float, sd: float, n: NDArray[np.int_], level: float) -> NDArray[np.float64]:
    """Power to find a difference with n seeds; 0 where sign flips have too few outcomes."""
    power = ttest_power(_effect(abs(mean), sd), n, level)
    return np.where((n >= SIGN_FLIP_FROM) & (2.0 ** (1 - n) >= level), 0.0, power)


def _fits(
    mean: float, sd: float, n: NDArray[np.int_], level: float, margin: float
) -> NDArray[np.float64]:
    """Power of both one-sided tests together, from below: 1 minus the two chances of failure."""
    sides = (_effect(margin - mean, sd), _effect(margin + mean, sd))
    passes = [ttest_power(side, n, level, alternative="larger") for side in sides]
    return np.maximum(passes[0] + passes[1] - 1, 0)


def _effect(distance: float, sd: float) -> float:
    """A distance in standard deviations; without any spread all distances are large."""
    if sd == 0:
        return _LARGEST_EFFECT * float(np.sign(distance))
    return float(np.clip(distance / sd, -_LARGEST_EFFECT, _LARGEST_EFFECT))


def _check(sd: float, num_seeds: int, level: float) -> None:
    if not sd >= 0:
        raise ConfigError(f"sd = {sd}: must not be negative.")
    if num_seeds < 2:
        raise ConfigError(f"num_seeds = {num_seeds}: at least 2 are needed.")
    if not 0 < level < 1:
        raise ConfigError(f"level = {level}: must lie between 0 and 1.")
