"""The tables over seeds: which runs, and their agreement."""

from dataclasses import replace

import numpy as np
import pytest

from hmoe.report.organisation import views
from hmoe.report.organisation.tables import (
    agreement_rows,
    knowledge_rows,
    left_out,
    level_rows,
    same_organisation,
)
from hmoe.report.organisation.view import idle_nodes, known_share, node_words
from tests.report.organisation.records import NAMED, make_record, mutual


def layers(records, name="blocks.0.ffn"):
    return [view for each in records for view in views(each) if view.layer.name == name]


def test_counts_of_a_cut_tell_what_the_record_says(named) -> None:
    view = views(named[0])[0]
    known = view.best_known
    for level in range(view.tree.num_levels):
        told = known.information_L[: level + 1].sum()
        assert mutual(view.counts_CP(known, level)) == pytest.approx(told)


def test_the_layer_that_knows_most_comes_first(named) -> None:
    shares = [known_share(view.best_known) for view in views(named[0])]
    assert shares == sorted(shares, reverse=True)
    assert shares[0] > 2 * shares[1]


def test_rows_are_over_all_seeds(named) -> None:
    same = layers(named)
    rows = level_rows(same)
    assert [row.level for row in rows] == ["departments", "teams", "experts"]
    assert [row.num_nodes for row in rows] == [4, 8, 13]
    cv = [view.layer.load["cv"][1] for view in same]
    assert (rows[1].cv.mean, rows[1].cv.n) == (pytest.approx(np.mean(cv)), 3)
    assert sum(row.part.mean for row in rows) == pytest.approx(1)
    # Eight moments of 50 steps: half-way is the fourth.
    assert rows[0].saturation.mean == pytest.approx(same[0].layer.history.saturation_SL[3, 0])
    first = knowledge_rows(same)[0]
    assert (first.label, first.level) == ("package", "departments")
    assert first.p == max(view.layer.knowledge[0].p_L[0] for view in same)


def test_one_run_has_no_spread_and_no_agreement(named) -> None:
    same = layers(named[:1])
    assert level_rows(same)[0].cv.sd is None
    assert agreement_rows(same) == []


def test_runs_agree_only_about_the_same_tokens(named) -> None:
    renamed = [replace(named[0], tokens="others"), named[1]]
    assert agreement_rows(layers(renamed)) == []
    rows = agreement_rows(layers(named))
    assert [row.pairs for row in rows] == [3, 3, 3]
    assert all(0.2 < row.ami.mean < 1 for row in rows)


def test_a_run_agrees_with_its_shuffled_self_and_not_with_chance() -> None:
    view = views(make_record([4, 4], planted=None, rows=3000))[0]
    shuffled = np.random.default_rng(1).permutation(16)
    renamed = replace(view, layer=replace(view.layer, choice_T=shuffled[view.layer.choice_T]))
    departments, experts = agreement_rows([view, renamed])
    assert experts.ami.mean == pytest.approx(1)
    assert departments.ami.mean < 0.9
    other = views(make_record([4, 4], planted=None, rows=3000, seed=5))[0]
    assert agreement_rows([view, other])[1].ami.mean == pytest.approx(0, abs=0.02)


def test_tokens_without_an_expert_are_left_out() -> None:
    view = views(make_record([4], planted=0, rows=200))[0]
    some = np.where(np.arange(200) % 2, view.layer.choice_T, -1)
    partly = replace(view, layer=replace(view.layer, choice_T=some))
    assert agreement_rows([view, partly])[0].ami.mean == pytest.approx(1)


def test_the_run_with_the_median_loss_speaks_for_its_tree() -> None:
    runs = [
        make_record([4], rows=50, loss=loss, seed=seed) for seed, loss in enumerate((1.3, 1.1, 1.2))
    ]
    other = make_record([2, 2], rows=50, loss=9.0, seed=3)
    assert [each.seed for each in same_organisation([*runs, other])] == [2, 0, 1]


def test_idle_nodes_are_the_topmost() -> None:
    # Both experts of team web.a are numbers 4 and 5: legal and sales' three come before them.
    view = views(make_record(NAMED, dead=(4, 5), planted=None, skew=0.3))[0]
    assert [view.tree.path_N[node] for node in idle_nodes(view)] == ["web.a"]
    assert node_words(view.tree, idle_nodes(view)[0]) == "team `a` of department `web`"


def test_only_runs_asked_about_the_same_tokens_are_put_together() -> None:
    def asked(seed: int, tokens: str, loss: float):
        return make_record([4], rows=50, seed=seed, tokens=tokens, loss=loss)

    runs = [asked(0, "all", 1.3), asked(1, "few", 1.0), asked(2, "all", 1.4)]
    same = same_organisation(runs)
    assert [each.seed for each in same] == [0, 2]
    assert left_out(runs, same) == "runs/two_level/1 (inspected on other tokens: 50 of val)"
    # One and one: the run with the median loss of all, the better of two, decides.
    assert [each.seed for each in same_organisation(runs[:2])] == [1]
    other = make_record([2, 2], rows=50, seed=3, tokens="all", loss=9.0)
    same = same_organisation([runs[0], runs[2], other])
    assert left_out([runs[0], runs[2], other], same) == "runs/two_level/3 (has another tree)"
    assert left_out(runs[:1], runs[:1]) == ""
