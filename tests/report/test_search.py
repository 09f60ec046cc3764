"""Rows and figures of the search, worked out by hand."""

import pytest

from hmoe.report.effort import effort_rows, hypervolumes, spans, tuned_equally
from hmoe.report.importance import cautions, importance
from hmoe.report.page import html
from hmoe.report.search_figures import hypervolume_figure, importance_figure, timeline_figure
from tests.report.hand import make_run, make_study


def test_tuning_is_counted_per_arm():
    spent = {"train_flops": 1e12, "tokens": 100, "seconds": 2.0}
    runs = [
        make_run("flat", 1.0, seed=0, cost=spent),
        make_run("flat", seed=1, state="pruned", cost={key: x / 2 for key, x in spent.items()}),
        make_run("flat", seed=2, state="failed", cost={}),
        make_run("flat", 1.0, seed=9, kind="confirm", cost=spent),
        make_run("tree", 1.0, cost=spent),
    ]
    flat, tree = effort_rows(make_study(runs))
    assert (flat.trials, flat.ended) == (3, {"complete": 1, "pruned": 1, "failed": 1})
    assert (flat.train_flops, flat.tokens, flat.seconds, flat.untold) == (1.5e12, 150, 3.0, 1)
    assert tree.trials == 1
    assert not tuned_equally(make_study(runs))
    assert tuned_equally(make_study([*runs[:1], *runs[3:]]))


def test_a_lane_is_taken_by_the_first_run_after_it_is_free():
    times = [(0, 10), (2, 6), (6, 8), (7, 12), (20, None)]
    runs = [
        make_run("a", seed=i, start_ms=1000 * start, end_ms=end and 1000 * end)
        for i, (start, end) in enumerate(times)
    ]
    found = spans(make_study(list(reversed(runs)), start_ms=0))
    assert [(s.run.seed, s.lane, s.start, s.end) for s in found] == [
        (0, 0, 0, 10),
        (1, 1, 2, 6),
        (2, 1, 6, 8),
        (3, 2, 7, 12),
    ]


def test_hypervolume_over_trials_by_hand():
    # (quality, balance): the worst of both are 4 and 3.
    points = {"flat": [(4, 1), (3, 2)], "tree": [(2, 3), (1, 2)]}
    runs = [
        make_run(arm, q, b, seed=i, end_ms=i + (0 if arm == "flat" else 2))
        for arm, pairs in points.items()
        for i, (q, b) in enumerate(pairs)
    ]
    found = hypervolumes(make_study(runs))
    assert found == {
        "": [0, 1, 1, 3],  # (3, 2) covers 1 x 1, (1, 2) covers 3 x 1
        "flat": [0, 1, 1, 1],
        "tree": [0, 0, 0, 3],
    }
    assert hypervolumes(make_study(runs[:1])) == {}


def searched(n, quality, arms=("flat", "tree")):
    return [
        make_run(
            arm,
            quality(i) + 100 * shift,
            0.5,
            seed=i,
            swept=("lr", "rule"),
            params={"lr": str(10.0**i), "rule": "ab"[i % 2]},
        )
        for shift, arm in enumerate(arms)
        for i in range(n)
    ]


def test_importance_sees_a_best_value_in_the_middle_and_sets_arms_apart():
    rows = importance(make_study(searched(12, lambda i: abs(i - 5.5))))
    shares = {row.setting: row.share for row in rows}
    assert [row.setting for row in rows] == ["arm", "lr", "rule"]
    # Ranks: the middle third has 1 to 4 of 12, mean 2.5, the outer ones the rest, mean 8.5.
    # Between groups 8 of 140 / 12 with ties: 0.686; chance is 2 / 11.
    assert shares["lr"] == pytest.approx((96 / 140 - 2 / 11) / (9 / 11))
    assert shares["rule"] < 0.1
    assert {row.setting: row.n for row in rows} == {"arm": 24, "lr": 12, "rule": 12}


def test_arms_need_ten_trials_and_settings_ten_draws_that_arms_may_share():
    assert importance(make_study(searched(4, float))) == []
    assert importance_figure(make_study(searched(4, float))) is None
    # Five arms with the same three settings are fifteen trials, and three settings.
    few = searched(3, float, arms="abcde")
    assert [row.setting for row in importance(make_study(few))] == ["arm"]
    assert cautions(make_study(few)) == [
        "lr: 3 distinct settings: too few to tell",
        "rule: 2 distinct settings in 3 draws: too few to tell",
    ]
    text = html(make_study(few))
    assert "lr: 3 distinct settings: too few to tell" in text
    assert len(importance(make_study(searched(10, float)))) == 3
    assert cautions(make_study(searched(10, float))) == []


def test_settings_that_move_together_are_not_told_apart():
    def drawn(weights):
        return make_study(
            [
                make_run("a", lr, seed=lr, swept=("lr", "w"), params={"lr": str(lr), "w": str(w)})
                for lr, w in enumerate(weights)
            ]
        )

    assert cautions(drawn(range(20, 0, -2))) == [
        "lr and w moved together (rank correlation -1.00): what one explains may be the other's "
        "doing"
    ]
    # 0 to 9 against these ranks: squares of differences sum to 158, 1 - 6 x 158 / 990 = 0.04.
    assert cautions(drawn([4, 9, 2, 1, 7, 0, 8, 3, 6, 5])) == []


def test_figures_draw_what_the_rows_say():
    runs = searched(5, float)
    runs[0] = make_run("flat", state="failed", seed=0, start_ms=0, end_ms=60_000)
    study = make_study(runs)
    timeline = timeline_figure(study)
    assert timeline.data[0].base[0] == 0
    assert timeline.data[0].x[0] == 1  # minutes
    assert timeline.data[0].marker.pattern.shape[:2] == ("/", "")
    bars = importance_figure(make_study(searched(10, float))).data[0]
    assert list(bars.x) == [row.share for row in importance(make_study(searched(10, float)))]
    names = [trace.name for trace in hypervolume_figure(study).data]
    assert names == ["all arms", "flat", "tree"]
    empty = make_study([make_run("a", state="running", end_ms=None)])
    assert timeline_figure(empty) is None
    assert hypervolume_figure(empty) is None
    assert bars.x[0] == max(bars.x)
