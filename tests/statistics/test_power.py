"""Numbers of seeds: textbook values, and simulation."""

import numpy as np
import pytest
from scipy import stats

from hmoe.errors import ConfigError
from hmoe.statistics import MOST_MORE_SEEDS, detectable, equivalence_p, more_seeds


def test_the_textbook_medium_effect_takes_34_pairs():
    # Cohen's d = 0.5, two-sided 0.05, power 0.8: n = 34 in the tables.
    assert detectable(1.0, 34, 0.05) <= 0.5 < detectable(1.0, 33, 0.05)
    assert more_seeds(0.5, 1.0, 4, margin=1e-3, level=0.05) == 30
    assert detectable(2.0, 34, 0.05) == pytest.approx(2 * detectable(1.0, 34, 0.05))


def test_large_effects_take_one_more_and_small_ones_too_many():
    assert more_seeds(0.0, 0.0, 3, margin=0.1, level=0.05) == 1
    assert more_seeds(0.1, 1.0, 3, margin=0.1, level=0.05) is None
    assert MOST_MORE_SEEDS == 100


def test_the_smaller_of_two_ways_to_a_verdict_counts():
    # No difference will be found, but the interval soon lies inside a wide margin; and the reverse.
    wide = more_seeds(0.0, 1.0, 3, margin=3.0, level=0.05)
    large = more_seeds(3.0, 1.0, 3, margin=1e-3, level=0.05)
    assert wide is not None
    assert large is not None
    assert wide < 5
    assert large < 5


def test_from_ten_seeds_on_signs_must_have_enough_patterns():
    # 2 / 2^n < 0.0005 holds from n = 12 on.
    assert more_seeds(50.0, 1.0, 9, margin=1e-3, level=5e-4) == 3


@pytest.mark.parametrize(("mean", "margin"), [(0.0, 1.0), (0.2, 0.9), (0.8, 0.1), (-0.8, 0.1)])
def test_simulated_experiments_of_that_size_reach_a_verdict_in_four_of_five(mean, margin):
    level = 0.05
    extra = more_seeds(mean, 1.0, 4, margin=margin, level=level)
    assert extra is not None

    def share(n):
        d = np.random.default_rng(n).normal(mean, 1, (40_000, n))
        found = stats.ttest_1samp(d, 0, axis=-1).pvalue < level
        return max(found.mean(), (equivalence_p(d, margin) < level).mean())

    # A share of 0.8 over 40,000 has a standard error of 0.002; a seed changes it by 0.02 or more.
    assert share(4 + extra) > 0.8 - 0.006
    assert share(4 + extra - 1) < 0.8 + 0.006


@pytest.mark.parametrize(
    ("arguments", "message"),
    [((-1.0, 3, 0.05), "sd = -1"), ((1.0, 1, 0.05), "num_seeds = 1"), ((1.0, 3, 0), "level = 0")],
)
def test_what_cannot_be_worked_out_is_refused(arguments, message):
    with pytest.raises(ConfigError, match=message):
        detectable(*arguments)
