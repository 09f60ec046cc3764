"""The plan: minutes, hours and disk by hand from a made-up probe, and when it is taken anew."""

import json
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest
from omegaconf import DictConfig
from rich.console import Console

from hmoe.errors import ConfigError
from hmoe.study import Plan, load_sweep, plan_sweep, plan_table
from hmoe.study.probes import ROUNDS
from hmoe.study.registration import register
from hmoe.training import Probe
from tests.tiny import sweep_overrides

MIB = 2**20
# Of the tiny run: 20 steps, validations after 8, 16 and at the end, checkpoints after every 5.
MADE_UP = {
    **{"setup_s": 0.5, "step_s": 0.1, "validation_s": 0.5, "checkpoint_s": 0.125},
    "peak_bytes": 300 * MIB,
}
RUN_S = 0.5 + 20 * 0.1 + 3 * 0.5 + 4 * 0.125


class Measured(list[DictConfig]):
    """Stands for the probe: notes what it was asked to measure."""

    device = "cpu"

    def __call__(self, cfg: DictConfig) -> Probe:
        self.append(cfg)
        return Probe(**MADE_UP, device=self.device, threads=cfg.trainer.threads)


@pytest.fixture
def measured(monkeypatch: pytest.MonkeyPatch) -> Iterator[Measured]:
    found = Measured()
    monkeypatch.setattr("hmoe.study.plan.probe", found)
    monkeypatch.setattr("hmoe.study.plan.start_server", lambda threads: None)
    monkeypatch.setattr("os.cpu_count", lambda: 4)
    return found


def plan_of(runs: Path, *changes: str, measure: bool = True) -> Plan:
    # The tiny run has one thread; here a worker has its share.
    overrides = [o.replace(",'trainer.threads=1'", "") for o in sweep_overrides(runs, *changes)]
    return plan_sweep(load_sweep("hierarchy", overrides[1:]), runs, measure=measure)


def shown(plan: Plan) -> str:
    console = Console(width=80)
    with console.capture() as captured:
        console.print(plan_table(plan))
    return captured.get()


# ------------------------------------------------------------------ by hand


def test_minutes_and_core_hours_by_hand(tmp_path: Path, measured: Measured) -> None:
    """Two arms of two trials of 4.5 s, on two workers of two of the four cores."""
    plan = plan_of(tmp_path)
    assert [row.arm.spend.seconds for row in plan.arms] == [RUN_S, RUN_S] == [4.5, 4.5]
    assert [row.trials for row in plan.arms] == [2, 2]
    assert [row.minutes for row in plan.arms] == [2 * 4.5 / 2 / 60] * 2
    assert plan.minutes == pytest.approx(9 / 60)
    assert [row.device_hours for row in plan.arms] == [2 * 4.5 * 2 / 3600] * 2
    assert [cfg.trainer.threads for cfg in measured] == [2, 2]


def test_workers_share_one_gpu(tmp_path: Path, measured: Measured) -> None:
    """Its hours are those on the clock."""
    measured.device = "cuda"
    plan = plan_of(tmp_path)
    assert plan.device == "cuda"
    assert plan.device_hours == pytest.approx(plan.minutes / 60)
    assert "GPU-hours" in shown(plan)


def test_runs_that_confirm_are_in_the_plan(tmp_path: Path, measured: Measured) -> None:
    """Of the arms named and of the reference, which is `tree`."""
    confirm = "confirm={seeds:5,margins:{val/loss:0.1}}"
    assert [row.confirmations for row in plan_of(tmp_path, confirm).arms] == [5, 5]
    named = "confirm={seeds:5,margins:{val/loss:0.1},arms:[tree]}"
    dense, tree = plan_of(tmp_path, named).arms
    assert (dense.confirmations, tree.confirmations) == (0, 5)
    assert tree.minutes == (2 + 5) * 4.5 / 2 / 60


def test_the_disk_is_that_of_checkpoints_and_logs(tmp_path: Path, measured: Measured) -> None:
    """Two checkpoints of a run hold each number and its two moments, 4 bytes each.

    Beside them 40 kB a checkpoint, 100 kB a run, 1 kB for each of 10 lines, 6 kB for each of 3
    validations, and there of every mixture of four experts half of 8,192 choices of 2 bytes and 4
    loads of 8; 6 MB a study, and a checkpoint that each worker is about to write.
    """
    plan = plan_of(tmp_path)
    numbers = [row.arm.cost.total_params for row in plan.arms]
    assert [bool(row.arm.cost.num_mixtures) for row in plan.arms] == [False, True]
    moments = [row.arm.cost.num_mixtures * (8_192 * 2 + 4 * 8) // 2 for row in plan.arms]
    runs = [
        100_000 + 10_000 + 3 * (6_000 + moment) + 2 * (40_000 + 12 * n)
        for n, moment in zip(numbers, moments, strict=True)
    ]
    assert [row.disk_bytes for row in plan.arms] == [2 * run for run in runs]
    assert plan.disk_bytes == 2 * sum(runs) + 6_000_000 + 2 * (40_000 + 12 * max(numbers))


@pytest.mark.parametrize(("kept", "number"), [("null", 4), (1, 1), (9, 4)])
def test_the_disk_is_that_of_as_many_checkpoints_as_are_kept(
    kept: object, number: int, tmp_path: Path, measured: Measured
) -> None:
    """Of 20 steps, one every 5, there are 4."""
    common = next(o for o in sweep_overrides(tmp_path) if o.startswith("overrides="))
    two = plan_of(tmp_path).arms
    others = plan_of(tmp_path, f"{common[:-1]},'trainer.keep_checkpoints={kept}']").arms
    differ = [o.disk_bytes - t.disk_bytes for o, t in zip(others, two, strict=True)]
    sizes = [40_000 + 12 * row.arm.cost.total_params for row in two]
    assert differ == [2 * (number - 2) * size for size in sizes]


def test_pruning_is_bounded_by_all_trials_and_by_none_stopped(
    tmp_path: Path, measured: Measured
) -> None:
    """The first rung is the validation at step 8 of 20; what confirms is never stopped."""
    stopped = 0.5 + 8 * 0.1 + 1 * 0.5 + 2 * 0.125
    changes = ("search={pruning:{first:0.3}}", "confirm={seeds:5,margins:{val/loss:0.1}}")
    plan = plan_of(tmp_path, *changes)
    for row in plan.arms:
        assert row.minutes == pytest.approx((2 + 5) * RUN_S / 2 / 60)
        assert row.least_minutes == pytest.approx((2 * stopped + 5 * RUN_S) / 2 / 60)
    assert plan.minutes == pytest.approx(63 / 2 / 60)
    assert plan.least_minutes == pytest.approx((4 * stopped + 10 * RUN_S) / 2 / 60)
    assert "at\nleast 27 s, as if all were stopped at their first rung" in shown(plan)
    whole = plan_of(tmp_path, changes[1])
    assert whole.least_minutes == whole.minutes == plan.minutes
    assert "With pruning" not in shown(whole)


def test_pruning_without_a_rung_is_told_not_bounded(tmp_path: Path, measured: Measured) -> None:
    plan = plan_of(tmp_path, "search={pruning:{first:0.9}}")
    assert plan.least_minutes is None
    with pytest.raises(ConfigError, match=r"arm 'dense': search\.pruning\.first=0\.9"):
        plan.check()
    plan_of(tmp_path)  # now it is known what a run takes
    again = plan_of(tmp_path, "search={pruning:{first:0.9}}")
    assert again.least_minutes == again.minutes == pytest.approx(9 / 60)


# ------------------------------------------------------------------ refusals


def test_a_short_disk_is_refused_with_needed_and_free_bytes(
    tmp_path: Path, measured: Measured, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What the study holds already is not needed again."""
    needed = plan_of(tmp_path / "runs").disk_bytes
    kept = sum(file.stat().st_size for file in (tmp_path / "runs/tiny").iterdir())
    usage = shutil.disk_usage(tmp_path)
    for free, fits in ((needed - kept, True), (needed - kept - 1, False)):
        monkeypatch.setattr("shutil.disk_usage", lambda _, free=free: usage._replace(free=free))
        plan = plan_of(tmp_path / "runs")
        if fits:
            plan.check()
            continue
        message = f"{needed - kept:,} bytes are needed .about., and {free:,} are free on that disk"
        with pytest.raises(ConfigError, match=message):
            plan.check()


def test_arms_that_miss_are_shown_before_they_are_refused(
    tmp_path: Path, measured: Measured
) -> None:
    """And nothing is measured of a sweep that cannot start."""
    plan = plan_of(tmp_path, "contract.tolerance=1e-6")
    assert measured == []
    assert not (tmp_path / "tiny").exists()
    assert re_row("dense", shown(plan), "-")
    with pytest.raises(ConfigError, match="arm 'dense' has"):
        plan.check()


def test_a_search_that_breaks_the_contract_is_refused_before_anything_is_measured(
    tmp_path: Path, measured: Measured
) -> None:
    """The width of the tree's experts is searched; that of the dense arm is its dial."""
    tree = "tree:{overrides:['tree.spec=[2,2]']}"
    dense = "dense:{overrides:['model=mlp_dense','balance=none']}"
    plan = plan_of(tmp_path, f"arms={{{dense},{tree}}}", "space=['model.depth=choice(2, 3)']")
    assert measured == []
    with pytest.raises(ConfigError) as told:
        plan.check()
    dense_line, tree_line = str(told.value).splitlines()
    for name, line in (("dense", dense_line), ("tree", tree_line)):
        start = "sweep tiny: what is searched breaks contract.match = active_params in arm"
        assert line.startswith(f"{start} '{name}'")
        assert "model.depth=3 has" in line
    assert not (tmp_path / "tiny").exists()


def test_a_probe_that_fails_names_the_arm(
    tmp_path: Path, measured: Measured, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(cfg: DictConfig) -> Probe:
        raise ConfigError("the probe, its first steps, failed: no text")

    monkeypatch.setattr("hmoe.study.plan.probe", broken)
    with pytest.raises(ConfigError, match="arm 'dense': the probe, its first steps, failed"):
        plan_of(tmp_path)


# ------------------------------------------------------------------ what is kept


def test_a_sweep_after_its_plan_measures_nothing_again(tmp_path: Path, measured: Measured) -> None:
    first = plan_of(tmp_path)
    assert len(measured) == 2
    assert plan_of(tmp_path).arms == first.arms
    assert len(measured) == 2
    # Other trials and another length are the same steps; another width is not.
    plan_of(tmp_path, "budget.trials=8", "trainer.max_steps=50")
    assert len(measured) == 2
    plan_of(tmp_path, "model.dim=24")
    assert len(measured) == 4


def test_other_threads_are_measured_anew(tmp_path: Path, measured: Measured) -> None:
    plan_of(tmp_path)
    plan_of(tmp_path, "workers=4")
    assert [cfg.trainer.threads for cfg in measured] == [2, 2, 1, 1]


def test_a_contract_on_seconds_holds_on_to_its_first_probe(
    tmp_path: Path, measured: Measured
) -> None:
    """The steps come from it; a sweep that went on with others would be another study."""
    seconds = (
        "contract={match:seconds,reference:tree,tolerance:0.02}",
        "arms={dense:{overrides:['model=mlp_dense','balance=none']},"
        "tree:{overrides:['tree.spec=[2,2]']}}",
    )
    first = plan_of(tmp_path, *seconds)
    later = plan_of(tmp_path, *seconds, "workers=4")
    assert [cfg.trainer.threads for cfg in measured] == [2, 2] * ROUNDS
    assert [arm.overrides for arm in first.planned] == [arm.overrides for arm in later.planned]


def test_seconds_in_the_file_decide_the_steps(tmp_path: Path, measured: Measured) -> None:
    """0.1 s a step and 0.5 s a validation, every 8 steps; the dense arm is made twice as fast."""
    seconds = (
        "contract={match:seconds,reference:tree,tolerance:0.02}",
        "arms={dense:{overrides:['model=mlp_dense','balance=none','trainer.val_every=1000','trainer.checkpoint_every=1000']},"
        "tree:{overrides:['tree.spec=[2,2]','trainer.val_every=1000','trainer.checkpoint_every=1000']}}",
    )
    plan_of(tmp_path, *seconds)
    file = tmp_path / "tiny/probe.json"
    stored = json.loads(file.read_text())
    dense, _ = stored.values()  # in the order of the arms
    for one in dense:
        one["step_s"] = 0.05
    file.write_text(json.dumps(stored))
    dense, tree = plan_of(tmp_path, *seconds).planned
    assert tree.spend.seconds == dense.spend.seconds == 0.5 + 20 * 0.1 + 0.5 + 0.125
    assert (dense.cfg.trainer.max_steps, tree.cfg.trainer.max_steps) == (40, 20)


# ------------------------------------------------------------------ a study that has begun


@pytest.mark.parametrize(
    "change", ["confirm.margins={val/loss:0.2}", "seed=3", "space=['optim.lr=interval(1e-3, 1)']"]
)
def test_another_plan_is_refused_before_any_probe(
    tmp_path: Path, measured: Measured, change: str
) -> None:
    confirm = "confirm={seeds:2,margins:{val/loss:0.1}}"
    sweep = plan_of(tmp_path, confirm, measure=False).sweep
    (tmp_path / "tiny").mkdir()
    register(tmp_path / "tiny", sweep, {"dense": "experts.hidden_dim=32", "tree": ""})
    with pytest.raises(ConfigError, match="started under another plan"):
        plan_of(tmp_path, confirm, change)
    assert measured == []


def test_other_dials_are_told_with_the_plan(tmp_path: Path, measured: Measured) -> None:
    first = plan_of(tmp_path, measure=False)
    (tmp_path / "tiny").mkdir()
    dials = {arm.name: arm.setting for arm in first.planned}
    register(tmp_path / "tiny", first.sweep, dials | {"dense": "experts.hidden_dim=999"})
    plan = plan_of(tmp_path)
    with pytest.raises(ConfigError, match=r"dense: experts\.hidden_dim=999 -> experts"):
        plan.check()


# ------------------------------------------------------------------ seconds, in turns

EQUAL = (
    "arms={dense:{overrides:['model=mlp_dense','balance=none']},"
    "tree:{overrides:['tree.spec=[2,2]']}}",
    "trainer.val_every=20",
)


def in_turns(monkeypatch: pytest.MonkeyPatch, dense: list[float], tree: list[float]) -> list[str]:
    """Let the probes of two arms find these seconds a step, and nothing else; notes whose turn."""
    turns, steps = [], {"dense": iter(dense), "tree": iter(tree)}

    def take(cfg: DictConfig) -> Probe:
        turns.append("tree" if "tree" in str(cfg.model.ffn) else "dense")
        times = {"setup_s": 0.0, "validation_s": 0.0, "checkpoint_s": 0.0}
        step_s = next(steps[turns[-1]])
        return Probe(**times, step_s=step_s, peak_bytes=1, device="cpu", threads=1)

    monkeypatch.setattr("hmoe.study.plan.probe", take)
    return turns


def seconds_of(runs: Path, tolerance: float, measure: bool | int = True) -> Plan:
    contract = f"contract={{match:seconds,reference:tree,tolerance:{tolerance}}}"
    overrides = sweep_overrides(runs, contract, *EQUAL)[1:]
    return plan_sweep(load_sweep("hierarchy", overrides), runs, measure=measure)


def test_arms_are_measured_in_turns_and_medians_count(
    tmp_path: Path, measured: Measured, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A machine that is twice as slow for a round slows both: the ratio does not move."""
    turns = in_turns(monkeypatch, [0.05, 0.1, 0.05, 0.05, 0.1], [0.1, 0.2, 0.1, 0.1, 0.2])
    plan = seconds_of(tmp_path, tolerance=0.0)
    assert turns == ["dense", "tree"] * 5
    assert [row.arm.setting for row in plan.arms] == ["trainer.max_steps=40", ""]
    assert [row.arm.spend.seconds for row in plan.arms] == pytest.approx([2.0, 2.0])
    assert (plan.arms[0].doubt, plan.arms[1].doubt) == (pytest.approx(0.0), None)
    assert "Seconds beside those of 'tree' are known: dense to 0.0%." in shown(plan)


def test_the_doubt_is_twice_the_standard_error_of_the_ratio(
    tmp_path: Path, measured: Measured, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Ratios of 0.9, 1, 1, 1.1: a variance of 0.02 / 3, by 4 rounds, and twice the root of it."""
    in_turns(monkeypatch, [0.09, 0.1, 0.1, 0.11], [0.1] * 4)
    plan = seconds_of(tmp_path, tolerance=0.03, measure=4)
    doubt = 2 * (0.02 / 3 / 4) ** 0.5
    assert plan.arms[0].doubt == pytest.approx(doubt)
    assert f"dense to {doubt:.1%}" in shown(plan)


def test_seconds_in_doubt_are_refused_and_not_kept(
    tmp_path: Path, measured: Measured, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The doubt of 8.2 % is more than three times 2 %, and less than three times 3 %."""
    for tolerance in (0.02, 0.03):
        in_turns(monkeypatch, [0.09, 0.1, 0.1, 0.11], [0.1] * 4)
        if tolerance == 0.02:
            told = r"in 4 rounds .* of 'dense' .* 8\.2% only.*probe=16, or widen .* to 0\.027 or"
            with pytest.raises(ConfigError, match=told):
                seconds_of(tmp_path, tolerance, measure=4)
            assert not (tmp_path / "tiny" / "probe.json").exists()
        else:
            assert seconds_of(tmp_path, tolerance, measure=4).faults == ()


# ------------------------------------------------------------------ what is shown


def re_row(arm: str, page: str, *cells: str) -> bool:
    """Whether a row of the page begins with the arm and holds these cells."""
    rows = [line.split() for line in page.splitlines()]
    return any(row[:1] == [arm] and set(cells) <= set(row) for row in rows)


def test_the_plan_is_shown_on_80_columns(tmp_path: Path, measured: Measured) -> None:
    page = shown(plan_of(tmp_path))
    assert "…" not in page
    for words in ("active", "total", "train", "tokens", "seconds", "core-hours", "free on disk"):
        assert words in page
    assert re_row("tree", page, "1.28k", "4.5", "+0.00%")  # 20 steps of 64 vectors
    assert re_row("tree", page, "300", "MiB", "4.5", "s")  # two trials on two workers
    assert re_row("all", page, "4", "9", "s")
    assert "Not in these times: libraries" in page


def test_times_are_seconds_below_a_minute(tmp_path: Path, measured: Measured) -> None:
    """Of 60 trials an arm of 4.5 s on two workers, 135 s each."""
    assert re_row("tree", shown(plan_of(tmp_path, "budget.trials=120")), "2.2", "min")
    assert re_row("all", shown(plan_of(tmp_path, "budget.trials=26")), "58", "s")


def test_without_a_probe_time_and_memory_are_a_dash(tmp_path: Path, measured: Measured) -> None:
    plan = plan_of(tmp_path, measure=False)
    assert (measured, plan.minutes, plan.device_hours) == ([], None, None)
    assert re_row("tree", shown(plan), "1.28k", "-")
    assert not (tmp_path / "tiny").exists()
    plan_of(tmp_path)
    assert plan_of(tmp_path, measure=False).minutes == pytest.approx(9 / 60), "known from before"
