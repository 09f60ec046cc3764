"""The confirmation: what is chosen, on which seeds, and that every run ends once.

Choices are tested on run folders made by hand; what trains is real.
"""

import io
import json
import os
import re
import signal
from collections.abc import Mapping
from pathlib import Path

import pytest
from omegaconf import DictConfig
from rich.console import Console

from hmoe.errors import ConfigError
from hmoe.study import (
    PlannedArm,
    Sweep,
    SweepInterruptedError,
    confirmation_table,
    load_sweep,
    plan_arms,
    plan_sweep,
    run_sweep,
    show_status,
)
from hmoe.study.confirm import (
    Choice,
    Confirmation,
    fresh_seeds,
    plan_confirmation,
    run_confirmation,
)
from hmoe.study.invocations import looks
from hmoe.study.registration import num_seeds, register
from hmoe.study.runner import Progress, Work
from hmoe.study.search import Search
from hmoe.study.standing import Standings
from hmoe.tracking import Store, read_study
from hmoe.training import Probe
from tests.stores import mlflow_runs, optuna_trials
from tests.study.test_runner import kill_once_saved, sweep_in, watched
from tests.tiny import Killed, sweep_overrides
from tests.tracking.fake import empty_store

CONFIRM = "confirm={seeds:2,margins:{val/loss:0.1}}"


def sweep_and_arms(runs: Path, *changes: str, steps: int = 20):
    sweep = load_sweep("hierarchy", sweep_overrides(runs, CONFIRM, *changes, steps=steps)[1:])
    return sweep, plan_arms(sweep)


Score = tuple[float, float | None] | None
SCORES: dict[str, list[Score]] = {
    "dense": [(0.5, None), (0.4, None)],
    "tree": [(0.3, 0.9), (0.6, 0.2)],
}
BOUND = "search={bounds:{val/load/cv/expert:0.5}}"


def searched(runs: Path, scores: Mapping[str, list[Score]], *changes: str):
    """A finished search by hand: loss and imbalance of each slot, None where it failed."""
    sweep, arms = sweep_and_arms(runs, *changes)
    fill(runs, sweep, arms, scores)
    return sweep, arms


def fill(runs: Path, sweep: Sweep, arms: list[PlannedArm], scores: Mapping[str, list[Score]]):
    """Tell every slot of a search its scores; returns the overrides of what ran by arm and slot."""
    folder = runs / "tiny"
    folder.mkdir(parents=True, exist_ok=True)
    register(folder, sweep, {arm.name: arm.setting for arm in arms})
    search, ran = Search(sweep, arms, runs), {}
    while ticket := search.ask():
        score = scores[ticket.arm.name][ticket.slot]
        if score is None:
            search.tell(ticket, None, "out of memory")
            continue
        metrics = dict(zip(("val/loss", "val/load/cv/expert"), score, strict=True))
        metrics = {key: value for key, value in metrics.items() if value is not None}
        (folder / ticket.place).mkdir(parents=True)
        result = {"metrics": metrics, "cost": {"seconds": 60.0}}
        (folder / ticket.place / "result.json").write_text(json.dumps(result))
        search.tell(ticket, metrics)
        ran[ticket.arm.name, ticket.slot] = ticket.overrides
    return ran


# ------------------------------------------------------------------- what is chosen


@pytest.fixture(scope="module")
def by_hand(tmp_path_factory):
    """A finished search by hand: its folder, the sweep, its arms."""
    runs = tmp_path_factory.mktemp("by_hand") / "runs"
    return runs, *searched(runs, SCORES, BOUND)


def test_the_best_of_each_arm_within_the_bounds_is_chosen(by_hand):
    runs, sweep, arms = by_hand
    plan = plan_confirmation(sweep, arms, runs)
    drawn = {(end.arm, end.slot): end.drawn for end in Search(sweep, arms, runs).ended()}
    # The better trial of the tree is too uneven; a dense arm has no load that could be.
    assert plan.choices == {
        "dense": Choice(1, drawn["dense", 1], 0.4, 60.0),
        "tree": Choice(1, drawn["tree", 1], 0.6, 60.0),
    }
    assert drawn["tree", 0] != drawn["tree", 1]
    assert plan.left_out == {}
    assert not (runs / "tiny" / "confirm").exists()


def test_an_arm_without_the_first_objective_is_chosen_by_the_next(tmp_path):
    """Balance is asked for first; a dense arm has none, and the table says what stands there."""
    objectives = "objectives=[val/load/cv/expert,val/loss]"
    sweep, arms = searched(tmp_path, SCORES, objectives)
    plan = plan_confirmation(sweep, arms, tmp_path)
    chosen = {name: (choice.slot, choice.value) for name, choice in plan.choices.items()}
    assert chosen == {"dense": (1, 0.4), "tree": (1, 0.2)}
    console = Console(width=200)
    with console.capture() as captured:
        console.print(confirmation_table(sweep, arms, plan))
    assert re.search(r"dense +2 +val/loss 0\.4 ", captured.get())
    assert re.search(r"tree +2 +val/load/cv/expert 0\.2 ", captured.get())


def test_what_cannot_be_confirmed_is_left_out_with_the_reason(tmp_path):
    plan = plan_confirmation(*searched(tmp_path, SCORES | {"dense": [None, None]}), tmp_path)
    assert plan.choices.keys() == {"tree"}
    assert plan.left_out == {"dense": "none of its 2 trials is complete"}


def test_without_its_reference_nothing_is_confirmed(tmp_path):
    too_uneven = SCORES | {"tree": [(0.3, 0.9), (0.6, 0.7)]}
    told = "'tree' cannot be confirmed: none of its 2 complete trials is within search.bounds"
    with pytest.raises(ConfigError, match=told):
        plan_confirmation(*searched(tmp_path, too_uneven, BOUND), tmp_path)


def test_only_the_named_arms_and_the_reference_are_confirmed(tmp_path):
    confirm = "confirm={margins:{val/loss:0.1},arms:[]}"
    plan = plan_confirmation(*searched(tmp_path, SCORES, confirm), tmp_path)
    assert plan.choices.keys() == {"tree"}


# ------------------------------------------------------------------- seeds and jobs


def test_seeds_are_those_that_no_trial_has(tmp_path):
    sweep = load_sweep("hierarchy", sweep_overrides(tmp_path, "seed=7")[1:])

    def of(trials: int):
        return sweep.model_copy(update={"budget": sweep.budget.model_copy(update=trials)})

    assert fresh_seeds(sweep, 3) == [1007, 1008, 1009]
    assert fresh_seeds(of({"trials": 2000}), 1) == [1007]
    with pytest.raises(ConfigError, match=r"seeds 7 to 1007, and those of .* begin at 1007"):
        fresh_seeds(of({"trials": 2002}), 1)


def test_runs_come_seed_by_seed_end_once_and_come_again_when_interrupted(by_hand, tmp_path):
    runs, sweep, arms = by_hand
    plan = plan_confirmation(sweep, arms, runs)
    (tmp_path / "confirm").mkdir()
    source = Confirmation(plan, arms, tmp_path)
    assert list(source.states().values()) == ["waiting"] * 4
    first, second = source.ask(), source.ask()
    assert list(source.states().values()) == ["running"] * 2 + ["waiting"] * 2
    assert (first.place, second.place) == ("confirm/dense/seed_1000", "confirm/tree/seed_1000")
    assert first.overrides == [*arms[0].overrides, *first.drawn, "seed=1000", "test=true"]
    source.tell(first, {"val/loss": 0.5})
    source.interrupt(second)
    assert source.ask() == second
    # The next owner knows what has ended, and that the other was lost.
    other = Confirmation(plan, arms, tmp_path)
    assert [p for p, s in other.states().items() if s == "complete"] == ["confirm/dense/seed_1000"]
    assert [job.place for job in iter(other.ask, None)] == [
        "confirm/tree/seed_1000",
        "confirm/dense/seed_1001",
        "confirm/tree/seed_1001",
    ]


def test_a_choice_stored_since_the_plan_was_made_stands(tmp_path, monkeypatch):
    """Another process has chosen in between: its choice is confirmed, and its seeds are kept."""
    sweep, arms = searched(tmp_path, SCORES)
    plan, made = plan_confirmation(sweep, arms, tmp_path), []
    take = lambda *args, source, **kwargs: made.append(source())  # noqa: E731
    monkeypatch.setattr("hmoe.study.confirm.run_jobs", take)

    def confirm() -> dict:
        run_confirmation(sweep, arms, tmp_path, plan, command="", show=print)
        return json.loads((tmp_path / "tiny" / "confirm" / "chosen.json").read_text())

    first = confirm()
    assert first["arms"]["dense"]["slot"] == 1
    other = first | {"seeds": 3, "left_out": {"dense": "it was not asked for"}}
    other["arms"] = {"tree": first["arms"]["tree"]}
    (tmp_path / "tiny" / "confirm" / "chosen.json").write_text(json.dumps(other))
    assert confirm() == other
    assert [len(source.states()) for source in made] == [4, 3]


def test_a_look_is_noted_when_all_runs_have_ended(tmp_path):
    """At two seeds and at three, once each; not while a run is to come."""
    _, arms = searched(tmp_path, SCORES)
    folder = tmp_path / "tiny"
    (folder / "confirm").mkdir()
    for changes, before, after in (((), [], [2]), (("confirm.seeds=3",), [2], [2, 3])):
        more, _ = sweep_and_arms(tmp_path, CONFIRM, *changes)
        for _ in range(2):
            source = Confirmation(plan_confirmation(more, arms, tmp_path), arms, folder)
            for job in iter(source.ask, None):
                assert looks(folder) == before
                source.tell(job, {})
            assert looks(folder) == after


def test_to_be_looked_at_writes_nothing_and_to_be_gone_on_with_notes_the_look(
    tmp_path, monkeypatch
):
    """As after a kill between the end of the last run and its note."""
    sweep, arms = searched(tmp_path, SCORES)
    plan, folder = plan_confirmation(sweep, arms, tmp_path), tmp_path / "tiny"
    take = lambda *args, source, **kwargs: source()  # noqa: E731
    monkeypatch.setattr("hmoe.study.confirm.run_jobs", take)
    go_on = lambda: run_confirmation(sweep, arms, tmp_path, plan, command="", show=print)  # noqa: E731
    go_on()
    source = Confirmation(plan, arms, folder)
    for job in iter(source.ask, None):
        source.tell(job, None, "it was lost")
    (folder / "invocations.jsonl").unlink()
    before = sorted(folder.rglob("*"))
    show_status(Console(file=io.StringIO()), sweep, arms, tmp_path, watch=False)
    assert sorted(folder.rglob("*")) == before
    go_on()
    assert looks(folder) == [2]


# ------------------------------------------------------------------- twins


def searched_twins(runs: Path, third: str):
    """By hand a search that overwrites trees: all arms draw one, as slots are paired."""
    arms = f"a:{{overrides:['tree=flat']}},b:{{overrides:['tree=grid']}},c:{{overrides:[{third}]}}"
    space = "space=['tree.spec=choice([2,2],[4])']"
    changes = (f"arms={{{arms}}}", "contract={match:tokens,reference:b}", "budget.trials=6", space)
    told = [o.replace("'tree.spec=[2,2]',", "") for o in sweep_overrides(runs, CONFIRM, *changes)]
    sweep = load_sweep("hierarchy", told[1:])
    found = plan_arms(sweep)
    fill(runs, sweep, found, {arm: [(0.5, 0.1), (0.6, 0.1)] for arm in "abc"})
    return sweep, found


def test_a_twin_of_the_reference_is_left_out_by_name(tmp_path):
    """A comparison of a configuration with itself would end as equivalent, 0 [0, 0]."""
    plan = plan_confirmation(*searched_twins(tmp_path, "'gate.temperature=2.0'"), tmp_path)
    assert plan.choices.keys() == {"b", "c"}
    assert plan.left_out.keys() == {"a"}
    assert "the very configuration of the best of 'b'" in plan.left_out["a"]


def test_arms_that_have_all_become_one_are_not_confirmed(tmp_path):
    told = r"there is nothing to confirm\. a: its best trial has .* of 'b'.*; c: its best .* of 'b'"
    with pytest.raises(ConfigError, match=told):
        plan_confirmation(*searched_twins(tmp_path, "'tree=deep'"), tmp_path)


# ------------------------------------------------------------------- equal seconds

SECONDS = (
    "contract={match:seconds,reference:tree}",
    "arms={dense:{overrides:['model=mlp_dense','balance=none']},"
    "tree:{overrides:['tree.spec=[2,2]']}}",
)


def clocked(dense_step_s: float):
    """Stands for the probe: a step of the tree takes 0.1 s, all else nothing."""

    def probe(cfg: DictConfig) -> Probe:
        step_s = 0.1 if "tree" in str(cfg.model.ffn) else dense_step_s
        times = {"setup_s": 0.0, "validation_s": 0.0, "checkpoint_s": 0.0}
        return Probe(**times, step_s=step_s, peak_bytes=1, device="cpu", threads=1)

    return probe


@pytest.fixture
def equal_seconds(tmp_path, monkeypatch):
    """A sweep under a contract on seconds, planned where a dense step takes half as long."""
    monkeypatch.setattr("hmoe.study.plan.start_server", lambda threads: None)
    monkeypatch.setattr("hmoe.study.plan.probe", clocked(0.05))
    sweep = load_sweep("hierarchy", sweep_overrides(tmp_path, CONFIRM, *SECONDS)[1:])
    return sweep, plan_sweep(sweep, tmp_path, measure=True).planned


def test_equal_seconds_are_confirmed_with_the_steps_of_the_search(equal_seconds, tmp_path):
    """`hmoe confirm` measures nothing: the steps come from the probe that the search had."""
    sweep, arms = equal_seconds
    assert [arm.setting for arm in arms] == ["trainer.max_steps=40", ""]
    ran = fill(tmp_path, sweep, arms, SCORES)
    later = plan_sweep(sweep, tmp_path, measure=False).planned
    assert later == arms
    plan = plan_confirmation(sweep, later, tmp_path)
    source = Confirmation(plan, later, tmp_path / "tiny")
    standing = Standings("confirm", sweep, later, tmp_path / "tiny").of(source.states())
    assert standing.total_steps == 2 * (40 + 20)
    for job in iter(source.ask, None):
        trial = ran[job.arm.name, plan.choices[job.arm.name].slot]
        assert job.overrides[:-2] == trial[:-2], "all but seed and test"


def test_equal_seconds_stay_those_of_the_first_probe(equal_seconds, tmp_path, monkeypatch):
    """A slower machine changes no step; a lost probe is told, and another is another study."""
    sweep, arms = equal_seconds
    fill(tmp_path, sweep, arms, SCORES)
    monkeypatch.setattr("hmoe.study.plan.probe", clocked(0.08))
    assert plan_sweep(sweep, tmp_path, measure=True).planned == arms
    (tmp_path / "tiny" / "probe.json").unlink()
    with pytest.raises(ConfigError, match=r"contract\.match = seconds: how long an arm takes"):
        plan_sweep(sweep, tmp_path, measure=False)
    other = plan_sweep(sweep, tmp_path, measure=True).planned
    told = r"dense: trainer\.max_steps=40 -> trainer\.max_steps=25\n.*probe\.json: put the first"
    with pytest.raises(ConfigError, match=told):
        run_sweep(sweep, other, tmp_path, command="", show=print)
    plan = plan_confirmation(sweep, other, tmp_path)
    with pytest.raises(ConfigError, match=told):
        run_confirmation(sweep, other, tmp_path, plan, command="", show=print)
    assert not (tmp_path / "tiny" / "confirm").exists()


@pytest.mark.slow
def test_equal_seconds_from_sweep_to_confirmation(equal_seconds, tmp_path):
    """What trains takes the solved steps, in the search and in the confirmation."""
    sweep, arms = equal_seconds
    empty_store(tmp_path)
    run_sweep(sweep, arms, tmp_path, command="hmoe sweep it", show=lambda _: None)
    later = plan_sweep(sweep, tmp_path, measure=False).planned
    plan = plan_confirmation(sweep, later, tmp_path)
    run_confirmation(sweep, later, tmp_path, plan, command="hmoe confirm it", show=lambda _: None)
    for place, number in (("*/trial_*", 2), ("confirm/*/seed_*", 2)):
        for arm, steps in (("dense", 40), ("tree", 20)):
            files = list((tmp_path / "tiny").glob(f"{place}/result.json"))
            own = [file for file in files if file.parent.parent.name == arm]
            tokens = {json.loads(file.read_text())["cost"]["tokens"] for file in own}
            assert (len(own), tokens) == (number, {64 * steps})


# ------------------------------------------------------------------- refused


def test_a_confirmation_that_was_not_planned_is_refused(tmp_path):
    sweep, arms = sweep_and_arms(tmp_path, "confirm=null")
    told = r"plans no confirmation\. A section confirm: with seeds and margins"
    with pytest.raises(ConfigError, match=told):
        plan_confirmation(sweep, arms, tmp_path)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("change", "told"),
    [
        ("budget.trials=6", r"4 of budget\.trials=6 trials have ended; only a complete search is"),
        ("name=other", "sweep=other: has not been started in"),
        ("confirm.margins={val/loss:0.2}", r"another plan:\n  confirm\.margins\.val/loss: 0.1 ->"),
    ],
)
def test_what_is_not_the_complete_registered_search_is_not_confirmed(by_hand, change, told):
    runs, _, _ = by_hand
    before = sorted(runs.rglob("*"))
    sweep, arms = sweep_and_arms(runs, BOUND, change)
    with pytest.raises(ConfigError, match=told):
        plan_confirmation(sweep, arms, runs)
    assert sorted(runs.rglob("*")) == before


def test_fewer_seeds_than_registered_are_refused(by_hand, tmp_path):
    folder = tmp_path / "tiny"
    folder.mkdir()
    sweep, more = (
        load_sweep("hierarchy", sweep_overrides(tmp_path, CONFIRM, f"confirm.seeds={n}")[1:])
        for n in (3, 4)
    )
    register(folder, more, {})
    with pytest.raises(ConfigError, match=r"confirm\.seeds=3: 4 were registered before the first"):
        num_seeds(folder, sweep)


# ------------------------------------------------------------------- the real thing


def confirm_in(runs: Path, *changes: str, steps: int = 20) -> list[Progress]:
    sweep, arms = sweep_and_arms(runs, *changes, steps=steps)
    shown: list[Progress] = []
    plan = plan_confirmation(sweep, arms, runs)
    run_confirmation(sweep, arms, runs, plan, command="hmoe confirm it", show=shown.append)
    return shown


def confirmed(runs: Path) -> dict[str, dict]:
    """Every result of the confirmation by its MLflow run's name; each ended once in MLflow."""
    parent, children = mlflow_runs(runs, "tiny")
    assert (parent.info.status, parent.data.tags["hmoe.state"]) == ("FINISHED", "complete")
    runs_of = {r.info.run_name: r for r in children if r.data.tags["hmoe.kind"] == "confirm"}
    found = {}
    for file in (runs / "tiny").glob("confirm/*/seed_*/result.json"):
        found[str(file.parent.relative_to(runs / "tiny"))] = json.loads(file.read_text())
    assert runs_of.keys() == found.keys()
    for name, run in runs_of.items():
        assert (run.info.status, run.data.tags["hmoe.state"]) == ("FINISHED", "complete")
        assert run.data.tags["hmoe.seed"] == name.rpartition("_")[2]
        assert run.data.metrics["final/test/loss"] == found[name]["metrics"]["test/loss"]
    return found


@pytest.mark.slow
def test_sweep_then_confirmation_then_more_seeds(tmp_path, monkeypatch):
    trials = "budget.trials=2"
    sweep_in(tmp_path, CONFIRM, trials)
    searched = {run.arm: run for run in read_study(tmp_path, "tiny").runs}
    assert all("final/test/loss" not in run.metrics for run in searched.values())
    shown = confirm_in(tmp_path, trials)
    assert list(shown[-1].states.values()) == ["complete"] * 4
    first = confirmed(tmp_path)
    assert sorted(first) == [
        f"confirm/{a}/seed_{s}" for a in ("dense", "tree") for s in (1000, 1001)
    ]
    # Each arm trained with what its trial had drawn, and nothing else.
    for name, result in first.items():
        arm, seed = name.removeprefix("confirm/").split("/seed_")
        trained = searched[arm].command.removesuffix(" seed=0 test=false")
        assert result["command"] == f"{trained} seed={seed} test=true"
    study = read_study(tmp_path, "tiny")
    assert (study.confirmation.seeds, study.confirmation.margins) == (2, {"val/loss": 0.1})
    record = json.loads((tmp_path / "tiny" / "registration.json").read_text())
    assert study.registration.digest == record["digest"]
    assert [trial.state for trial in optuna_trials(tmp_path)] == ["COMPLETE", "COMPLETE"]

    confirm_in(tmp_path, trials, "confirm.seeds=3")
    assert confirmed(tmp_path).keys() == first.keys() | {
        "confirm/dense/seed_1002",
        "confirm/tree/seed_1002",
    }
    assert {name: confirmed(tmp_path)[name] for name in first} == first
    told = json.loads(read_study(tmp_path, "tiny").tags["hmoe.deviations"])
    assert "confirm.seeds: 2 registered, 3 run" in told
    assert (study.looks, read_study(tmp_path, "tiny").looks) == ((2,), (2, 3))
    # Whoever asks for no more gets no less, and nothing is trained or chosen again.
    monkeypatch.setattr(Work, "start", None)
    assert confirm_in(tmp_path, trials) == []
    study = read_study(tmp_path, "tiny")
    assert (study.confirmation.seeds, study.looks) == (3, (2, 3))
    assert "confirm.seeds: 2 registered, 3 run" in json.loads(study.tags["hmoe.deviations"])


ONE = ("arms={tree:{overrides:['tree.spec=[2,2]']}}", "budget.trials=1", "workers=1")


@pytest.mark.slow
def test_a_stopped_confirmation_goes_on_where_it_was(tmp_path, monkeypatch):
    sweep_in(tmp_path, CONFIRM, *ONE, steps=400)

    def interrupt(work: Work) -> bool:
        if saved := work.newest_checkpoint():
            os.kill(os.getpid(), signal.SIGINT)
        return bool(saved)

    again = pytest.raises(SweepInterruptedError, match="stopped; go on with: hmoe confirm it")
    with watched(monkeypatch, interrupt), again:
        confirm_in(tmp_path, *ONE, steps=400)
    with watched(monkeypatch, lambda work: work.lost_at is not None or kill_once_saved(work)):
        confirm_in(tmp_path, *ONE, steps=400)
    found = confirmed(tmp_path)
    assert sorted(found) == ["confirm/tree/seed_1000", "confirm/tree/seed_1001"]
    assert all(result["resumed_from"] for result in found.values())


@pytest.mark.parametrize(
    "place", [(Confirmation, "tell"), pytest.param((Store, "finish"), marks=pytest.mark.slow)]
)
def test_an_owner_killed_after_a_run_has_finished_only_tells_it(place, tmp_path, monkeypatch):
    sweep_in(tmp_path, CONFIRM, *ONE)

    def deadly(*args, **kwargs):
        raise Killed

    with monkeypatch.context() as patch:
        for method in (place, (Confirmation, "interrupt"), (Store, "finish_study")):
            patch.setattr(*method, deadly)
        with pytest.raises(Killed):
            confirm_in(tmp_path, *ONE)
    before = (tmp_path / "tiny" / "confirm" / "tree" / "seed_1000" / "result.json").read_text()
    confirm_in(tmp_path, *ONE)
    assert len(confirmed(tmp_path)) == 2
    after = (tmp_path / "tiny" / "confirm" / "tree" / "seed_1000" / "result.json").read_text()
    assert after == before
