"""Successive halving: rungs, ranks and verdicts worked out by hand, laws, and real sweeps."""

import json
import math
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hmoe.errors import ConfigError
from hmoe.study import load_sweep, plan_arms, run_sweep
from hmoe.study.pruning import Mark, Pruner, Validations, crowding, fronts, rung_steps, stand
from hmoe.study.search import Search, Ticket, check_search
from hmoe.study.sections import Pruning
from tests.stores import assert_every_slot_ended_once, mlflow_runs, optuna_trials
from tests.tiny import curve, sweep_overrides
from tests.tracking.fake import empty_store


def marks(*losses: tuple[float, ...] | float) -> list[Mark]:
    return [Mark(one if isinstance(one, tuple) else (one,)) for one in losses]


# ------------------------------------------------------------------- rungs


@pytest.mark.parametrize(
    ("first", "keep", "max_steps", "val_every", "steps"),
    [
        (0.1, 1 / 3, 1000, 10, (100, 300, 900)),
        (0.1, 1 / 3, 1000, 250, (250, 500)),  # 0.1 -> 250, 0.3 -> 500, 0.9 -> the end: no rung
        (0.1, 1 / 3, 1000, 400, (400,)),  # 0.1 and 0.3 meet at one validation
        (0.25, 0.5, 400, 100, (100, 200)),  # 1.0 is not below the end
        (0.125, 0.5, 400, 20, (60, 100, 200)),  # steps 50, 100, 200; 50 is moved to 60
        (0.1, 0.1, 100, 3, (12,)),  # step 10 is moved; step 100 is the end
        (0.9, 0.5, 100, 30, (90,)),
    ],
)
def test_rungs_lie_at_the_first_validation_at_or_after_their_share(
    first, keep, max_steps, val_every, steps
):
    assert rung_steps(Pruning(first=first, keep=keep), max_steps, val_every) == steps


@pytest.mark.parametrize("val_every", [500, 1000, 3000])
def test_a_plan_without_a_validation_between_the_first_rung_and_the_end_is_refused(val_every):
    with pytest.raises(ConfigError, match=rf"first rung lies at 600, but .*val_every={val_every}"):
        rung_steps(Pruning(first=0.6), 1000, val_every)


# ------------------------------------------------------------------- ranks


def test_fronts_by_hand():
    #        front 1: (1, 4) (2, 2) (4, 1); behind them (3, 3), which (2, 2) dominates, (4, 4) last
    found = fronts(marks((4, 1), (3, 3), (1, 4), (4, 4), (2, 2)))
    assert found == [1, 2, 1, 3, 1]


def test_equal_trials_do_not_dominate_each_other():
    assert fronts(marks((1, 1), (1, 1), (1, 2))) == [1, 1, 2]


def test_fronts_of_one_objective_are_its_ranks():
    assert fronts(marks(3.0, 1.0, 2.0, 1.0)) == [3, 1, 2, 1]


def test_within_the_bounds_comes_before_beyond_them_whatever_the_objectives():
    best, least, most = Mark((9.0,)), Mark((1.0,), excess=0.1), Mark((0.0,), excess=0.2)
    assert fronts([most, best, least]) == [3, 1, 2]


def test_crowding_by_hand():
    # Ranges 10 and 10. (1, 6): (3 - 0) / 10 + (10 - 1) / 10; (3, 1): (10 - 1) / 10 + (6 - 0) / 10.
    found = crowding(marks((0, 10), (1, 6), (3, 1), (10, 0)))
    assert found == [math.inf, pytest.approx(1.2), pytest.approx(1.5), math.inf]


def test_one_front_of_one_objective_is_not_crowded():
    assert crowding(marks(1.0, 1.0)) == [0.0, 0.0]


# ------------------------------------------------------------------- verdicts


def place(own: Mark, others: list[Mark], keep: float = 1 / 3) -> tuple[int, bool]:
    standing = stand(own, others, keep)
    return standing.place, standing.kept


def test_with_fewer_trials_than_one_over_keep_nobody_is_stopped():
    (worst,) = marks(9.0)
    assert place(worst, marks(1.0)) == (2, True)
    assert place(worst, marks(1.0, 2.0)) == (3, False)


@pytest.mark.parametrize(("trials", "kept"), [(3, 1), (5, 1), (6, 2), (8, 2), (9, 3)])
def test_the_best_third_goes_on(trials, kept):
    losses = marks(*map(float, range(trials)))
    found = [stand(own, [m for m in losses if m is not own], 1 / 3).kept for own in losses]
    assert found == [True] * kept + [False] * (trials - kept)


def test_a_front_is_thinned_from_its_crowded_middle_and_quality_breaks_ties():
    front = marks((0, 10), (1, 6), (3, 1), (10, 0))
    places = [stand(own, [m for m in front if m is not own], 0.5).place for own in front]
    # Both ends are infinitely alone: quality first. Then (3, 1) with 1.5 and (1, 6) with 1.2.
    assert places == [1, 4, 3, 2]


def test_a_standing_tells_front_and_place():
    standing = stand(Mark((3, 3)), marks((1, 4), (2, 2), (4, 4), (4, 1)), 1 / 3)
    assert (standing.front, standing.fronts, standing.place, standing.trials) == (2, 3, 4, 5)
    assert not standing.kept


def test_equals_share_the_better_place():
    assert place(Mark((1.0,)), marks(1.0, 2.0)) == (1, True)


grids = st.lists(
    st.tuples(st.integers(0, 4), st.integers(0, 4)).map(lambda two: Mark(tuple(map(float, two)))),
    min_size=1,
    max_size=12,
)


@given(grids, st.randoms())
def test_fronts_are_what_domination_says_in_any_order(trials, random):
    found = fronts(trials)
    for i, one in enumerate(trials):
        over = [found[j] for j, other in enumerate(trials) if other.dominates(one)]
        assert found[i] == 1 + max(over, default=0)
    order = list(range(len(trials)))
    random.shuffle(order)
    assert fronts([trials[i] for i in order]) == [found[i] for i in order]


@given(grids)
def test_as_keep_goes_to_one_nobody_is_stopped(trials):
    assert all(stand(own, trials, 1 - 1e-12).kept for own in trials)


@given(grids, st.floats(0.05, 0.95))
def test_who_is_dominated_by_all_is_stopped_before_anybody_else(trials, keep):
    worst = Mark((9.0, 9.0))
    standing = stand(worst, trials, keep)
    assert standing.place == len(trials) + 1
    others = [stand(one, [worst, *(t for t in trials if t is not one)], keep) for one in trials]
    if not all(other.kept for other in others):
        assert not standing.kept


@given(grids, st.floats(0.05, 0.95))
def test_who_dominates_all_goes_on(trials, keep):
    assert stand(Mark((-1.0, -1.0)), trials, keep).kept


# ------------------------------------------------------------------- event logs


def test_validations_are_told_once_and_whole(tmp_path):
    log, events = Validations(tmp_path / "events.jsonl"), tmp_path / "events.jsonl"
    assert log.new() == []
    lines = [
        json.dumps({"step": 4, "time": 0.0, "metrics": {"train/loss": 2.0}}) + "\n",
        json.dumps({"step": 8, "time": 0.0, "metrics": {"val/loss": 1.5}}) + "\n",
        json.dumps({"step": 16, "time": 0.0, "metrics": {"val/loss": 1.25}}) + "\n",
    ]
    events.write_text("".join(lines[:2]) + lines[2][:20])
    assert log.new() == [(8, {"val/loss": 1.5})]
    assert log.new() == []
    events.write_text("".join(lines))
    assert log.new() == [(16, {"val/loss": 1.25})]


# ------------------------------------------------------------------- searches that prune


PRUNING = "search.pruning={first: 0.4, keep: 0.5}"  # of 20 steps and val_every 8: rungs at 8, 16


def sweep_of(tmp_path: Path, *changes: str):
    sweep = load_sweep("hierarchy", sweep_overrides(tmp_path, *changes)[1:])
    return sweep, plan_arms(sweep)


def validate(folder: Path, step: int, loss: float, cv: float = 0.5) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    metrics = {"val/loss": loss, "val/load/cv/expert": cv}
    with (folder / "events.jsonl").open("a") as file:
        file.write(json.dumps({"step": step, "time": 0.0, "metrics": metrics}) + "\n")


def reach(search: Search, folder: Path, step: int, loss: float) -> tuple[Ticket, str]:
    """Ask for a trial, let it come to a step, and return the verdict."""
    ticket = search.ask()
    place = folder / ticket.arm.name / str(ticket.slot)
    validate(place, step, loss)
    return ticket, search.verdict(ticket, place)


@pytest.fixture
def plan(tmp_path):
    one_arm = "arms={tree:{overrides:['tree.spec=[2,2]']}}"
    return sweep_of(tmp_path, one_arm, "budget.trials=6", PRUNING)


def test_a_trial_is_stopped_at_a_rung_with_its_reason(plan, tmp_path):
    search = Search(*plan, tmp_path)
    assert reach(search, tmp_path, 8, 1.0)[1] == ""
    ticket, reason = reach(search, tmp_path, 8, 2.0)
    assert reason == "pruned at rung 1 (step 8): front 2 of 2, place 2 of 2 trials"
    search.tell(ticket, None, reason, pruned=True)
    (ended,) = search.ended()
    assert (ended.slot, ended.state, ended.values, ended.reason) == (1, "pruned", {}, reason)
    assert search.ask().slot == 2


def test_steps_between_rungs_are_not_judged(plan, tmp_path):
    search = Search(*plan, tmp_path)
    reach(search, tmp_path, 12, 1.0)
    assert reach(search, tmp_path, 12, 2.0)[1] == ""


def test_numbers_that_are_not_finite_are_left_to_the_run_to_end(plan, tmp_path):
    search = Search(*plan, tmp_path)
    reach(search, tmp_path, 8, 1.0)
    assert reach(search, tmp_path, 8, math.nan)[1] == ""
    assert reach(search, tmp_path, 8, 2.0)[1].endswith("place 2 of 2 trials")


def test_a_verdict_outlives_its_owner_and_later_trials(plan, tmp_path):
    """What was let pass is not judged again; what was stopped stays so; a slot counts once."""
    search = Search(*plan, tmp_path)
    passed, _ = reach(search, tmp_path, 8, 5.0)
    stopped, reason = reach(search, tmp_path, 8, 6.0)
    for loss in (1.0, 2.0):  # slot 0 would now be third of four
        reach(search, tmp_path, 8, loss)
    again = Search(*plan, tmp_path)
    again.recover()
    tickets = [again.ask() for _ in range(2)]
    assert [ticket.slot for ticket in tickets] == [passed.slot, stopped.slot]
    folders = [tmp_path / "tree" / str(ticket.slot) for ticket in tickets]
    assert [again.verdict(*pair) for pair in zip(tickets, folders, strict=True)] == ["", reason]
    assert reach(again, tmp_path / "new", 8, 1.5)[1] == ""  # slot 2 goes on with its verdict
    for _ in range(2):
        asked, told = reach(again, tmp_path / "new", 8, 9.0)
    assert (asked.slot, told[-len("place 5 of 5 trials") :]) == (4, "place 5 of 5 trials")


def test_bounds_come_before_quality(tmp_path):
    one_arm = "arms={tree:{overrides:['tree.spec=[2,2]']}}"
    bounds = "search.bounds={val/load/cv/expert: 0.3}"
    plan = sweep_of(tmp_path, one_arm, PRUNING, bounds, "objectives=[val/loss]")
    search = Search(*plan, tmp_path)
    within, beyond = search.ask(), search.ask()
    validate(tmp_path / "within", 8, loss=2.0, cv=0.25)
    validate(tmp_path / "beyond", 8, loss=1.0, cv=0.5)
    assert search.verdict(within, tmp_path / "within") == ""
    reason = search.verdict(beyond, tmp_path / "beyond")
    assert reason.endswith("place 2 of 2 trials")
    search.tell(beyond, None, reason, pruned=True)
    (ended,) = search.ended()
    assert ended.excess == pytest.approx({"val/load/cv/expert": 0.2})


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (("trainer.val_every=20",), r"arm 'dense': search\.pruning\.first=0\.4: of 20 steps"),
        (
            ("overrides=['data=digits','model=mlp']", "space=['trainer.val_every=choice(8, 16)']"),
            r"search\.pruning: 'trainer\.val_every' is searched",
        ),
    ],
)
def test_pruning_that_cannot_be_is_refused_before_any_work(changes, message, tmp_path):
    sweep, arms = sweep_of(tmp_path, PRUNING, "contract.tolerance=0.5", "when={}", *changes)
    with pytest.raises(ConfigError, match=message):
        check_search(sweep, arms)
    with pytest.raises(ConfigError, match=message):
        run_sweep(sweep, arms, tmp_path / "runs", command="", show=print)
    assert not (tmp_path / "runs").exists()


def test_without_pruning_nothing_is_judged(tmp_path):
    sweep, arms = sweep_of(tmp_path)
    assert Pruner(sweep, arms).verdict(arms[0], None, tmp_path) == ""


# ------------------------------------------------------------------- sweeps that prune

LONG = 1200  # steps: seconds, so that a child is met on its way


@pytest.mark.slow
def test_a_sweep_stops_its_worse_trial_on_the_way_and_says_so(tmp_path):
    """The first rate learns, the other does not, and so its trial is stopped."""
    empty_store(tmp_path)
    changes = (
        "arms={tree:{overrides:['tree.spec=[2,2]']}}",
        "space=['optim.lr=choice(1e-2, 1e-7)']",
        "when={}",
        "objectives=[val/loss]",
        "search={sampler: grid, pruning: {first: 0.1, keep: 0.5}}",
        "trainer.val_every=120",
        "trainer.checkpoint_every=1200",
        "workers=1",
        "budget.trials=2",
    )
    sweep = load_sweep("hierarchy", sweep_overrides(tmp_path, *changes, steps=LONG)[1:])
    shown = []
    run_sweep(sweep, plan_arms(sweep), tmp_path, command="hmoe sweep it", show=shown.append)
    assert_every_slot_ended_once(tmp_path, "tiny", {"tree": 2})
    learns, other = sorted(optuna_trials(tmp_path), key=lambda trial: trial.slot)
    assert learns.state == "COMPLETE"
    reason = "pruned at rung 1 (step 120): front 2 of 2, place 2 of 2 trials"
    assert (other.state, other.reason) == ("PRUNED", reason)
    assert shown[-1].message.endswith(reason)
    assert sorted(shown[-1].states.values()) == ["complete", "pruned"]
    _, children = mlflow_runs(tmp_path, "tiny")
    (tags,) = [run.data.tags for run in children if run.info.run_name == "tree/trial_001"]
    assert (tags["hmoe.state"], tags["hmoe.reason"]) == ("pruned", reason)
    folder = tmp_path / "tiny" / "tree" / "trial_001"
    assert not (folder / "result.json").exists()
    assert 120 <= curve(folder, "train/loss")[-1][0] < LONG
