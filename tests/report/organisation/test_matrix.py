"""Who works on what: ratios and partners by hand, and what was planted is found again."""

from itertools import pairwise

import numpy as np
import pytest

from hmoe.report.organisation import views
from hmoe.report.organisation.flow import MOST_PARTS, stage, stages
from hmoe.report.organisation.matrix import (
    MOST_NODES,
    aligned,
    matrix_of,
    ratios,
    seeds_figure,
    similar_order,
    tell_P,
)
from hmoe.report.organisation.paint import OCTAVES, diverging, octaves
from hmoe.report.style import INK
from tests.report.organisation.records import make_record, mutual


def test_ratios_by_hand() -> None:
    # 12 rows: expected 6 * 4 / 12 = 2 and so on; nobody chose the last node.
    counts = np.array([[4, 2, 0], [0, 6, 0]])
    expected = np.array([[2, 4], [2, 4]])
    assert ratios(counts)[:, :2] == pytest.approx(counts[:, :2] / expected)
    assert np.isnan(ratios(counts)[:, 2]).all()


def test_what_nodes_tell_adds_up_to_the_information() -> None:
    counts = np.random.default_rng(0).integers(0, 9, (5, 7))
    assert tell_P(counts).sum() == pytest.approx(mutual(counts))


def test_rows_of_a_matrix_are_in_that_order(named) -> None:
    view = views(named[0])[0]
    matrix = matrix_of(view, view.best_known, 1)
    shown = octaves(matrix.ratio_CP)
    steps = np.abs(np.diff(shown, axis=0)).sum(1)
    by_name = shown[np.argsort(matrix.rows)]
    assert steps.sum() < 0.8 * np.abs(np.diff(by_name, axis=0)).sum()


def test_similar_rows_become_neighbours() -> None:
    profiles = np.array([[0, 0.0], [9, 9], [0, 0.1], [9, 9.1]])
    order = similar_order(profiles).tolist()
    assert abs(order.index(0) - order.index(2)) == 1
    assert abs(order.index(1) - order.index(3)) == 1


def test_the_partners_of_a_shuffled_run_are_found() -> None:
    rng = np.random.default_rng(3)
    counts = rng.integers(1, 100, (12, 8))
    shuffled = rng.permutation(8)
    partner, alike = aligned(counts, counts[:, shuffled])
    assert (shuffled[partner] == np.arange(8)).all()
    assert alike == pytest.approx(1)


def test_a_run_without_roles_is_like_none() -> None:
    counts = np.random.default_rng(3).integers(1, 100, (12, 8))
    assert aligned(counts, np.ones((12, 8)))[1] == 0


def test_departments_that_were_swapped_between_seeds_are_aligned() -> None:
    """The second run has the domains of the first at other departments."""
    first = views(make_record([4, 2], planted=0, strength=1.0))[0]
    second = views(make_record([4, 2], planted=0, strength=1.0, seed=1))[0]
    known, other = first.best_known, second.best_known
    order = [2, 0, 3, 1]
    swapped = second.counts_CP(other, 0)[:, order]
    partner, alike = aligned(first.counts_CP(known, 0), swapped)
    assert [order[i] for i in partner] == [0, 1, 2, 3]
    assert alike > 0.95


def test_the_matrix_of_a_crowded_level_keeps_what_tells_most(huge) -> None:
    view = views(huge)[0]
    known = view.best_known
    matrix = matrix_of(view, known, 1)
    assert matrix.ratio_CP.shape == (12, MOST_NODES)
    assert matrix.title == "48 of 256 teams, those that tell most"
    tells = tell_P(view.counts_CP(known, 1))
    teams = [view.tree.path_N[node] for node in view.tree.cut(1)]
    kept = tells[[teams.index(name) for name in matrix.nodes]]
    assert kept.min() >= np.sort(tells)[-MOST_NODES]


def test_seeds_are_compared_only_where_there_are_two(named) -> None:
    same = [view for each in named for view in views(each) if view.layer.name == "blocks.0.ffn"]
    assert seeds_figure(same[:1], same[0].best_known) is None
    titles = [a.text for a in seeds_figure(same, same[0].best_known).layout.annotations]
    assert titles[0] == "seed 0"
    assert titles[1].startswith("seed 1, correlation 0.9")


def test_stages_group_the_rest_and_lose_no_row(named, huge) -> None:
    for record in (named[0], huge):
        view = views(record)[0]
        found, flows = stages(view, view.best_known)
        assert all(len(each.names) <= MOST_PARTS for each in found)
        rows = view.best_known.counts_CE.sum()
        assert [flow.sum() for flow in flows] == [rows] * len(flows)
        for into, out_of in pairwise(flows):
            assert into.sum(0) == pytest.approx(out_of.sum(1))


def test_a_stage_by_hand() -> None:
    grouped = stage("x", tuple("abcdefghi"), np.array([1, 9, 2, 8, 3, 7, 4, 6, 5]))
    assert grouped.names == ("b", "d", "f", "h", "i", "g", "e", "others (2)")
    assert grouped.part_of.tolist() == [7, 0, 7, 1, 6, 2, 5, 3, 4]
    assert stage("x", tuple("abcdefgh"), np.arange(8)).names == tuple("hgfedcba")


def test_only_nothing_is_dark() -> None:
    assert diverging(0.0) == INK
    assert diverging(1e-9) != INK
    assert diverging(1.0) == "#f3f4f6"
    placed = octaves(np.array([0, 1e-9, 0.5, 1, 2, 64]))
    assert placed[0] == -OCTAVES < placed[1]
    assert placed[2:].tolist() == [-1, 0, 1, OCTAVES]


def test_a_matrix_of_chance_says_so() -> None:
    view = views(make_record([64], planted=None, rows=2000))[0]
    assert matrix_of(view, view.best_known, 0).title == (
        "48 of 64 experts, those that tell most; permuted labels would show as much"
    )
    planted = views(make_record([4, 4], planted=0))[0]
    for level, title in enumerate(("departments", "experts")):
        assert matrix_of(planted, planted.best_known, level).title == title
