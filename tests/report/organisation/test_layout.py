"""Where boxes lie: worked out by hand, and the laws of any tree's chart."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from hmoe.layer import Tree
from hmoe.report.organisation.layout import MOST_BOXES, lay_out_tree, strip_cells

UNITS = st.recursive(
    st.integers(2, 5),
    lambda below: st.dictionaries(st.sampled_from("abcdef"), below, min_size=2, max_size=4),
    max_leaves=12,
)
TREES = st.dictionaries(st.sampled_from("uvwxyz"), UNITS, min_size=2, max_size=4)


def test_two_departments_by_hand() -> None:
    layout = lay_out_tree(Tree.from_spec({"a": 2, "b": 3, "c": 1}))
    assert layout.num_slots == 6
    assert layout.x_N == (1.0, 3.5, 5.5, 0.5, 1.5, 2.5, 3.5, 4.5)
    assert layout.width_N == (2, 3, 1, 1, 1, 1, 1, 1)
    assert layout.strips == ()


@given(TREES)
def test_boxes_of_a_level_do_not_overlap_and_lie_beneath_their_unit(spec) -> None:
    tree = Tree.from_spec(spec)
    layout = lay_out_tree(tree)
    x_N, half_N = np.array(layout.x_N), np.array(layout.width_N) / 2
    for level in tree.level_slices:
        here = slice(level.start, min(level.stop, layout.num_boxes))
        ends, starts = (x_N + half_N)[here][:-1], (x_N - half_N)[here][1:]
        assert (ends <= starts).all()
    for node in range(layout.num_boxes):
        parent = tree.parent_N[node]
        if parent >= 0:
            assert abs(x_N[node] - x_N[parent]) <= half_N[parent] - half_N[node]
    sizes = [level.stop - level.start for level in tree.level_slices]
    assert all(n <= MOST_BOXES or i in layout.strips for i, n in enumerate(sizes))


@pytest.mark.parametrize(("spec", "strips"), [([4096], (0,)), ([16, 16, 16], (1, 2)), ([4, 4], ())])
def test_crowded_levels_are_strips(spec, strips) -> None:
    assert lay_out_tree(Tree.from_spec(spec)).strips == strips


def test_a_strip_has_each_team_in_a_column_of_its_own() -> None:
    tree = Tree.from_spec([16, 16, 16])
    cells = strip_cells(tree, 2)
    teams = cells.grid(np.array(tree.parent_N)[list(cells.starts)])
    assert teams.shape == (16, 256)
    assert (teams == teams[0]).all()


@given(st.integers(41, 20_000))
def test_a_strip_is_bounded_and_its_means_keep_the_whole(experts: int) -> None:
    tree = Tree.from_spec([experts])
    cells = strip_cells(tree, 0)
    assert len(cells.starts) <= 4096
    assert cells.columns <= 256
    values_N = np.arange(experts, dtype=float)
    sizes = np.diff([*cells.starts, cells.stop])
    assert (cells.means(values_N) * sizes).sum() == pytest.approx(values_N.sum())
    assert np.isfinite(cells.grid(cells.means(values_N))).sum() == len(cells.starts)
