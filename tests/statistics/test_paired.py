"""Differences, tests and Holm worked out by hand, and held against scipy and statsmodels."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats
from statsmodels.stats.multitest import multipletests
from statsmodels.stats.weightstats import ttost_paired

from hmoe.errors import ConfigError
from hmoe.statistics import difference_p, equivalence_p, estimate, holm

# With 2 degrees of freedom P(T > t) = 1/2 - t / (2 sqrt(2 + t^2)). Of 1, 2, 3 the mean is 2, the sd
# 1, the standard error 1 / sqrt(3): t = 3.4641, and the tail 1/2 - 3.4641 / (2 sqrt(14)) = 0.03709.
TAIL = 0.0370900


def test_the_interval_by_hand():
    found = estimate([1, 2, 3], alpha=0.05)
    # Tables give 4.3027 for 2 degrees of freedom; 4.3027 / sqrt(3) = 2.4842.
    assert (found.mean, found.sd, found.num_seeds) == (2, 1, 3)
    assert (found.low, found.high) == pytest.approx((2 - 2.4842, 2 + 2.4842), abs=1e-4)


def test_students_t_by_hand():
    assert difference_p([1, 2, 3]) == pytest.approx(2 * TAIL, abs=1e-6)
    assert difference_p([-1, -2, -3]) == pytest.approx(2 * TAIL, abs=1e-6)


def test_from_ten_seeds_on_signs_are_flipped():
    # All differences favour one side: of 2^10 patterns of signs only two are as extreme.
    assert difference_p(np.arange(1, 11)) == pytest.approx(2 / 1024)
    # 1 ten times, of which 9 are positive: mean 0.8 is reached with 0, 1, 9 or 10 negative signs.
    assert difference_p([1] * 9 + [-1]) == pytest.approx(2 * (1 + 10) / 1024)
    # Beyond 13 seeds the patterns are drawn, and the same ones every time.
    many = [1] * 14 + [-1] * 2
    assert difference_p(many) == difference_p(many)
    # Of 2^16 patterns 1 + 16 + 120 have at most two negatives. A drawn share errs by 0.0006.
    assert difference_p(many) == pytest.approx(2 * 137 / 2**16, abs=2e-3)


def test_equivalence_by_hand():
    # Mean 2 lies 2 below a margin of 4: the same t as above.
    assert equivalence_p([1, 2, 3], 4) == pytest.approx(TAIL, abs=1e-6)
    assert equivalence_p([-1, -2, -3], 4) == pytest.approx(TAIL, abs=1e-6)
    assert equivalence_p([1, 2, 3], 2) == pytest.approx(0.5)
    assert equivalence_p([1, 2, 3], 1) > 0.5


def test_differences_without_spread_leave_no_doubt():
    assert difference_p([0, 0, 0]) == 1
    assert difference_p([0.5] * 3) == 0
    assert equivalence_p([0, 0, 0], 0.1) == 0
    assert equivalence_p([0.5] * 3, 0.1) == 1


SIZES = st.lists(st.floats(-3, 3), min_size=3, max_size=9).filter(lambda d: np.std(d) > 1e-3)


@given(SIZES, st.floats(0.01, 2))
def test_libraries_agree(d, margin):
    interval = stats.ttest_1samp(d, 0).confidence_interval(0.9)
    found = estimate(d, alpha=0.1)
    assert (found.low, found.high) == pytest.approx(tuple(interval), abs=1e-9)
    assert difference_p(d) == pytest.approx(stats.ttest_1samp(d, 0).pvalue, abs=1e-9)
    tost = ttost_paired(np.array(d), np.zeros(len(d)), -margin, margin)[0]
    assert equivalence_p(d, margin) == pytest.approx(tost, abs=1e-9)


@given(SIZES)
def test_equivalent_is_that_the_interval_of_twice_alpha_lies_inside_the_margin(d):
    found, margin = estimate(d, alpha=0.1), 1.0
    inside = -margin < found.low and found.high < margin
    assert bool(equivalence_p(d, margin) < 0.05) == inside


def test_rows_are_treated_one_by_one():
    rows = np.random.default_rng(0).normal(size=(2, 3, 6))
    assert difference_p(rows).shape == (2, 3)
    assert difference_p(rows)[1, 2] == pytest.approx(difference_p(rows[1, 2]))
    assert equivalence_p(rows, 0.5)[0, 1] == pytest.approx(equivalence_p(rows[0, 1], 0.5))


def test_holm_by_hand():
    p = [0.01, 0.04, 0.03, 0.005]
    # In order .005 x 4, .01 x 3, .03 x 2, .04 x 1, and none below the one before it.
    assert holm(p, most_true=4) == pytest.approx([0.03, 0.06, 0.06, 0.02])
    # Two can be true: .005 x 2, .01 x 2, .03 x 2, .04 x 1.
    assert holm(p, most_true=2) == pytest.approx([0.02, 0.06, 0.06, 0.01])
    # One pair, two hypotheses, of which one is true: nothing to adjust but the order.
    assert holm([0.9, 0.04], most_true=1) == pytest.approx([0.9, 0.04])
    assert holm([0.6, 0.7], most_true=2) == pytest.approx([1, 1])
    assert holm([], most_true=0).shape == (0,)


@pytest.mark.parametrize("size", [1, 2, 5, 8])
def test_holm_is_that_of_statsmodels_where_all_may_be_true(size):
    p = np.random.default_rng(size).uniform(0, 0.3, size)
    assert holm(p, most_true=len(p)) == pytest.approx(multipletests(p, method="holm")[1])


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: estimate([1.0], 0.05), "at least 2 seeds"),
        (lambda: difference_p([1.0, np.nan]), "not finite"),
        (lambda: estimate([1.0, 2.0], 1.5), "alpha = 1.5"),
        (lambda: equivalence_p([1.0, 2.0], 0), "margin = 0"),
        (lambda: holm([0.5], most_true=2), "most_true = 2"),
    ],
)
def test_what_cannot_be_worked_out_is_refused(call, message):
    with pytest.raises(ConfigError, match=message):
        call()
