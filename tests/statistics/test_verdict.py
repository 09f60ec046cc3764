"""When which verdict is given."""

import numpy as np
import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from hmoe.errors import ConfigError
from hmoe.statistics import Judgement, Pair, judge

NEAR = np.array([-0.010, -0.012, -0.011, -0.009, -0.010, -0.011])  # mean -0.0105, sd 0.001


def one(d, margin=0.001, minimised=True, alpha=0.05):
    (found,) = judge([Pair(d, margin, minimised)], alpha)
    return found


def test_the_sign_in_favour_follows_the_direction():
    assert one(NEAR).verdict == "better"
    assert one(NEAR, minimised=False).verdict == "worse"
    assert one(-NEAR).verdict == "worse"
    assert one(-NEAR, minimised=False).verdict == "better"


def test_a_difference_inside_the_margin_is_equivalent_even_if_significant():
    found = one(NEAR, margin=0.02)
    assert (found.verdict, found.difference_p < 0.001) == ("equivalent", True)


@given(st.lists(st.floats(-1, 1), min_size=2, max_size=9), st.floats(0.01, 2))
def test_of_a_family_of_one_equivalent_is_the_inner_interval_inside_the_margin(d, margin):
    found = one(d, margin=margin)
    reach = max(-found.inner.low, found.inner.high)
    assume(abs(reach - margin) > 1e-6)
    assert (found.verdict == "equivalent") == (reach < margin)


def test_the_outer_interval_may_leave_the_margin_of_an_equivalent_arm():
    # Mean 0.012, sd 0.004: 2.920 and 4.303 times 0.004 / sqrt(3) reach 0.0187 and 0.0219.
    found = one([0.008, 0.012, 0.016], margin=0.02)
    assert found.verdict == "equivalent"
    assert found.inner.high == pytest.approx(0.01874, abs=1e-5)
    assert found.estimate.high == pytest.approx(0.02194, abs=1e-5)


def test_identical_arms_are_equivalent():
    found = one([0.0, 0.0, 0.0])
    assert (found.verdict, found.improvement, found.detectable) == ("equivalent", 0.5, 0)
    assert found.estimate is not None
    assert (found.estimate.low, found.estimate.high) == (0, 0)


def test_an_undecided_pair_says_how_many_seeds_it_takes():
    found = one([0.1, -0.2, 0.05], margin=0.1)
    assert found.verdict == "undecided"
    assert found.more_seeds is not None
    assert found.more_seeds > 0
    assert one([0.1, -0.2, 0.05], margin=1e-4).more_seeds is None  # more than can be counted
    assert one(NEAR).more_seeds is None


def test_improvement_counts_the_seeds_in_favour_and_half_of_the_ties():
    assert one([-1, -1, 1, 0], margin=0.5).improvement == (2 + 0.5) / 4
    assert one([-1, -1, 1, 0], margin=0.5, minimised=False).improvement == (1 + 0.5) / 4


def test_a_larger_family_asks_for_more():
    # 1, 2, 3 of a margin that it does not reach: p = 0.0742, and the noise beside it 1.
    d, noise = [1, 2, 3], [1, -1, 0]
    assert one(d, margin=0.1, alpha=0.08).verdict == "worse"
    pairs = [Pair(d, 0.1, True), Pair(noise, 0.1, True)]
    first, second = judge(pairs, 0.08)
    assert (first.verdict, second.verdict) == ("undecided", "undecided")
    assert first.difference_p == pytest.approx(2 * 0.0741799)


def test_declared_pairs_without_seeds_count_in_the_family():
    d = [1, 2, 3]
    first, pending = judge([Pair(d, 0.1, True), Pair([0.3], 0.1, True)], 0.08)
    assert pending == Judgement("undecided")
    assert first.difference_p == pytest.approx(2 * 0.0741799)
    assert judge([], 0.05) == []


def test_alpha_is_checked():
    with pytest.raises(ConfigError, match=r"alpha = 0"):
        judge([], 0)
