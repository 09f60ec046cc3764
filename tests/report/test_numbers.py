"""Numbers are printed the same everywhere."""

import pytest

from hmoe.report.numbers import (
    NOTHING,
    THIN,
    count,
    duration,
    interval,
    moment,
    number,
    p_value,
    percent,
    plus_minus,
)


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (0, "0"),
        (7, "7"),
        (-3.0, "\u22123"),
        (1234567, "1 234 567"),
        (999_999_999, "999 999 999"),
        (1_234_567_890, "1.235 × 10⁹"),
        (0.123456, "0.1235"),
        (0.00123456, "0.001235"),
        (0.0000123456, "1.235 × 10⁻⁵"),
        (1.5, "1.500"),
        (9.99996, "10.00"),
        (999.96, "1 000"),
        (12345.678, "12 350"),
        (float("nan"), NOTHING),
        (float("inf"), "∞"),
        (None, NOTHING),
    ],
)
def test_four_significant_digits_and_thin_separators(value, text):
    assert number(value) == text.replace(" ", THIN)


def test_a_spread_has_the_decimals_of_its_mean():
    assert plus_minus(2.18712, 0.01234) == "2.187 ± 0.012"
    assert plus_minus(2.18712, None) == "2.187"
    assert plus_minus(None, 1.0) == NOTHING
    assert plus_minus(1500.0, 20.0) == f"1{THIN}500 ± 20"


@pytest.mark.parametrize(
    ("share", "text"),
    [(0.0334, "+3.34~%"), (-0.02, "\u22122.00~%"), (0.0, "0.00~%"), (None, NOTHING)],
)
def test_percent_with_its_sign(share, text):
    assert percent(share, signed=True) == text.replace("~", THIN)


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (0.26, "0.3~s"),
        (59.97, "1~min"),
        (61, "1~min 1~s"),
        (3599.8, "1~h"),
        (3725, "1~h 2~min"),
        (7200, "2~h"),
        (None, NOTHING),
    ],
)
def test_durations(seconds, text):
    assert duration(seconds) == text.replace("~", THIN)


def test_moments_and_counts():
    assert moment(0) == "1970-01-01 00:00 UTC"
    assert (count(1, "seed"), count(2, "seed")) == ("1 seed", "2 seeds")


def test_the_width_of_an_interval_decides_its_decimals():
    minus = "\u2212"
    # Half of it is 0.0073: two digits of that end at the fourth decimal.
    assert interval(0.0031, -0.0042, 0.0104) == f"+0.0031 [{minus}0.0042, +0.0104]"
    assert interval(12.0, -30.0, 54.0) == f"+12 [{minus}30, +54]"
    assert interval(0.0, 0.0, 0.0) == "0 [0, 0]"
    assert interval(-0.001, -0.9, 0.9) == f"+0.00 [{minus}0.90, +0.90]"  # no minus before a zero
    assert interval(None) == NOTHING


def test_p_values():
    assert [p_value(p) for p in (1, 0.07775, 0.0005, 0.00049, 0)] == [
        *("1.000", "0.078", "0.001"),
        *(f"<{THIN}0.001",) * 2,
    ]
