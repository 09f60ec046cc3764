"""Hypervolume and membership of the front by hand."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from hmoe.errors import ConfigError
from hmoe.statistics import front_membership, hypervolume, hypervolume_history


def test_hypervolume_by_hand():
    assert hypervolume([[1, 1]], (3, 4)) == 2 * 3
    # (1, 3) covers 2 x 1; (2, 1) adds 1 x 2 below it.
    assert hypervolume([[2, 1], [1, 3]], (3, 4)) == 2 * 1 + 1 * 2
    assert hypervolume([[2, 1], [1, 3], [2, 2], [2, 1]], (3, 4)) == 4  # dominated, and twice
    assert hypervolume([[3, 1], [1, 5]], (3, 4)) == 0  # on the edge, and beyond it
    assert hypervolume(np.empty((0, 2)), (3, 4)) == 0


def test_history_by_hand():
    assert hypervolume_history([[2, 1], [2, 2], [1, 3]], (3, 4)).tolist() == [3, 3, 4]


UNIT = st.floats(0, 1, allow_subnormal=False)


@given(st.lists(st.tuples(UNIT, UNIT), min_size=1, max_size=6))
def test_hypervolume_is_the_area_of_the_union(points):
    # Cells of the grid that the coordinates make, each inside or outside whole.
    x, y = (sorted({0.0, 1.0, *(p[i] for p in points)}) for i in (0, 1))
    area = sum(
        (x[i + 1] - x[i]) * (y[j + 1] - y[j])
        for i in range(len(x) - 1)
        for j in range(len(y) - 1)
        if any(a <= x[i] and b <= y[j] for a, b in points)
    )
    assert hypervolume(points, (1, 1)) == pytest.approx(area)


def test_membership_of_arms_that_seeds_do_not_change():
    value = np.array([[1, 3], [2, 2], [3, 3], [1, 3]], dtype=float)
    still = np.repeat(value[:, None, :], 4, axis=1)
    assert front_membership(still, num_resamples=50, seed=0).tolist() == [1, 1, 0, 1]


def test_membership_by_hand():
    # The second arm is beaten unless both draws of two seeds hit its good one: 1 in 4. Its means
    # are 0, 2 and 4 beside the first arm's 1; the other objective is the same.
    value = np.array([[[1, 0], [1, 0]], [[0, 0], [4, 0]]], dtype=float)
    first, second = front_membership(value, num_resamples=40_000, seed=0)
    assert second == pytest.approx(1 / 4, abs=0.01)  # four standard errors
    assert first == pytest.approx(3 / 4, abs=0.01)


def test_seeds_are_drawn_for_all_arms_together():
    # The arms differ by a constant, so that whatever is drawn the first one is in front.
    first = np.random.default_rng(0).normal(size=(6, 2))
    shares = front_membership(np.stack([first, first + 0.01]), num_resamples=500, seed=1)
    assert shares.tolist() == [1, 0]


def test_shapes_are_checked():
    with pytest.raises(ConfigError, match=r"\(arms, seeds, 2\)"):
        front_membership(np.zeros((2, 3)), num_resamples=10, seed=0)
    with pytest.raises(ConfigError, match="not finite"):
        hypervolume([[np.inf, 0]], (1, 1))
