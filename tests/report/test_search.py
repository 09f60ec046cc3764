"""Rows and figures of the search, worked out by hand."""

from hmoe.report.effort import effort_rows, hypervolumes, spans, tuned_equally
from hmoe.report.importance import importance
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


def searched(n, quality):
    return [
        make_run(
            arm,
            quality(i) + shift,
            0.5,
            seed=i,
            swept=("lr", "rule"),
            params={"lr": str(10.0**i), "rule": "ab"[i % 2]},
        )
        for arm, shift in (("flat", 0.0), ("tree", 100.0))
        for i in range(n)
    ]


def test_importance_sees_a_best_value_in_the_middle_and_sets_arms_apart():
    rows = importance(make_study(searched(9, lambda i: abs(i - 4))))
    shares = {row.setting: row.share for row in rows}
    assert [row.setting for row in rows] == ["arm", "lr", "rule"]
    # Ranks within arms: the middle third has 1 to 3 of 9, the outer ones both the rest.
    assert shares["lr"] > 0.6
    assert shares["rule"] < 0.1
    assert {row.n for row in rows} == {18}


def test_importance_needs_ten_trials():
    assert importance(make_study(searched(4, float))) == []
    assert importance_figure(make_study(searched(4, float))) is None
    assert len(importance(make_study(searched(5, float)))) == 3


def test_figures_draw_what_the_rows_say():
    runs = searched(5, float)
    runs[0] = make_run("flat", state="failed", seed=0, start_ms=0, end_ms=60_000)
    study = make_study(runs)
    timeline = timeline_figure(study)
    assert timeline.data[0].base[0] == 0
    assert timeline.data[0].x[0] == 1  # minutes
    assert timeline.data[0].marker.pattern.shape[:2] == ("/", "")
    bars = importance_figure(make_study(searched(5, float))).data[0]
    assert list(bars.x) == [row.share for row in importance(make_study(searched(5, float)))]
    names = [trace.name for trace in hypervolume_figure(study).data]
    assert names == ["all arms", "flat", "tree"]
    empty = make_study([make_run("a", state="running", end_ms=None)])
    assert timeline_figure(empty) is None
    assert hypervolume_figure(empty) is None
    assert bars.x[0] == max(bars.x)
