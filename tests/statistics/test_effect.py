"""Variance explained, by hand."""

import numpy as np
import pytest

from hmoe.errors import ConfigError
from hmoe.statistics import rank_correlation, variance_explained


def test_by_hand():
    # Ranks 1 2 | 3 4: group means 1.5 and 3.5, variance 1 of 1.25: 0.8. Chance is 1 / 3.
    assert variance_explained(["a", "a", "b", "b"], [5, 6, 7, 90]) == pytest.approx(
        (0.8 - 1 / 3) / (1 - 1 / 3)
    )
    # Ranks 1 4 | 2 3: both means are 2.5.
    assert variance_explained(["a", "b", "b", "a"], [1, 2, 3, 4]) == 0


def test_numbers_come_in_thirds_so_that_a_best_value_in_the_middle_is_seen():
    setting = np.arange(12) / 7
    outcome = np.abs(setting - setting.mean())
    assert variance_explained(setting.tolist(), outcome) > 0.5
    assert abs(np.corrcoef(setting, outcome)[0, 1]) < 1e-9


def test_a_setting_that_tells_nothing_explains_nothing():
    assert variance_explained(["a"] * 5, range(5)) == 0
    assert variance_explained(list("abcde"), range(5)) == 0
    assert variance_explained(["a", "b", "a", "b"], [1, 1, 1, 1]) == 0
    rng = np.random.default_rng(0)
    noise = [
        variance_explained(rng.normal(size=30).tolist(), rng.normal(size=30)) for _ in range(200)
    ]
    assert np.mean(noise) < 0.05


def test_lengths_are_checked():
    with pytest.raises(ConfigError, match="3 settings of 2 trials"):
        variance_explained([1, 2, 3], [1, 2])


def test_the_rank_correlation_by_hand():
    # Squares of rank differences 4, 0, 4: 1 - 6 x 8 / (3 x 8) = -1. Swapped neighbours: 0.5.
    assert rank_correlation([0.0074, 0.0022, 0.0011], [0.037, 0.039, 0.074]) == pytest.approx(-1)
    assert rank_correlation([1, 2, 3], [10, 900, 800]) == pytest.approx(0.5)
    assert rank_correlation([1, 2, 3], [4, 4, 4]) == 0
    with pytest.raises(ConfigError, match="3 and 2 numbers"):
        rank_correlation([1, 2, 3], [1, 2])
