"""Resuming: a run that was killed ends as one that was not, bit for bit on the CPU."""

import os
import shutil
from pathlib import Path

import pytest
import torch

from hmoe.config import compose
from hmoe.errors import ConfigError
from hmoe.training import changed_settings
from hmoe.training.checkpoints import latest, whole
from tests.tiny import RUN, Killed, checkpoint, curve, events, killed, same, train_in

BALANCES = ("balance=switch", "balance=bias")


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """The tiny run with each balance, never interrupted."""
    folders = {}
    for balance in BALANCES:
        folders[balance] = tmp_path_factory.mktemp("runs") / "run"
        train_in(folders[balance], balance)
    return folders


def assert_ends_alike(folder: Path, other: Path) -> None:
    """Weights, buffers, optimiser, schedule, random state and validation curve are the same."""
    one, two = checkpoint(folder), checkpoint(other)
    assert one["global_step"] == two["global_step"] == 20
    for key in ("state_dict", "optimizer_states", "lr_schedulers"):
        assert same(one[key], two[key]), key
    random_states = [c["callbacks"]["Checkpoints"]["random_state"] for c in (one, two)]
    assert torch.equal(*random_states)
    for key in ("val/loss", "val/load/cv/expert"):
        assert curve(folder, key) == curve(other, key)


@pytest.mark.parametrize(
    ("balance", "where", "step", "resumed_from"),
    [
        ("balance=bias", "learn", 3, None),
        ("balance=switch", "learn", 9, "step_00000005.ckpt"),  # after a validation
        ("balance=bias", "learn", 13, "step_00000010.ckpt"),  # in the middle of an epoch
        ("balance=switch", "learn", 17, "step_00000015.ckpt"),  # in the second epoch
        ("balance=bias", "validation_step", 16, "step_00000015.ckpt"),
        ("balance=bias", "test_step", 20, "step_00000020.ckpt"),
    ],
)
def test_a_resumed_run_ends_with_the_weights_of_the_uninterrupted_one(
    balance, where, step, resumed_from, undisturbed, tmp_path
):
    with killed(where, step):
        train_in(tmp_path / "run", balance)
    result = train_in(tmp_path / "run", balance)
    assert result["resumed_from"] == resumed_from
    assert_ends_alike(tmp_path / "run", undisturbed[balance])


def test_the_bias_buffers_are_in_the_checkpoint_and_have_moved(undisturbed):
    state = checkpoint(undisturbed["balance=bias"])["state_dict"]
    biases = [value for key, value in state.items() if key.endswith("ffns.0.bias_N")]
    assert len(biases) == 1
    assert biases[0].any()


def test_a_validation_cut_off_at_a_checkpoint_is_repeated(tmp_path):
    """Saved before its validation, the resumed run would go on without the numbers of it."""
    intervals = ("trainer.val_every=5", "trainer.checkpoint_every=5")
    with killed("validation_step", 10):
        train_in(tmp_path / "run", *intervals)
    result = train_in(tmp_path / "run", *intervals)
    assert result["resumed_from"] == "step_00000005.ckpt"
    assert [step for step, _ in curve(tmp_path / "run", "val/loss")] == [5, 10, 15, 20]


def test_a_run_killed_many_times_ends_alike(undisturbed, tmp_path):
    for step in (7, 8, 11, 16, 19):
        with killed("learn", step):
            train_in(tmp_path / "run", "balance=bias")
    train_in(tmp_path / "run", "balance=bias")
    assert_ends_alike(tmp_path / "run", undisturbed["balance=bias"])


def test_two_runs_of_one_seed_are_bit_equal_and_another_seed_is_not(undisturbed, tmp_path):
    train_in(tmp_path / "again", "balance=switch")
    assert_ends_alike(tmp_path / "again", undisturbed["balance=switch"])
    train_in(tmp_path / "other", "balance=switch", "seed=1")
    states = [checkpoint(tmp_path / name)["state_dict"] for name in ("again", "other")]
    assert not same(*states)


def test_a_damaged_newest_checkpoint_falls_back_to_the_one_before_with_a_warning(
    undisturbed, tmp_path
):
    with killed("learn", 17):
        train_in(tmp_path / "run", "balance=switch")
    newest = tmp_path / "run" / "checkpoints" / "step_00000015.ckpt"
    content = bytearray(newest.read_bytes())
    content[len(content) // 2] ^= 1
    newest.write_bytes(content)
    with pytest.warns(UserWarning, match="step_00000015.ckpt is damaged"):
        result = train_in(tmp_path / "run", "balance=switch")
    assert result["resumed_from"] == "step_00000010.ckpt"
    assert_ends_alike(tmp_path / "run", undisturbed["balance=switch"])


def test_with_all_checkpoints_damaged_a_run_begins_anew(undisturbed, tmp_path):
    with killed("learn", 17):
        train_in(tmp_path / "run", "balance=switch")
    for file in (tmp_path / "run" / "checkpoints").glob("*.ckpt"):
        file.write_bytes(file.read_bytes()[:-1])
    with pytest.warns(UserWarning, match="is damaged") as warned:
        result = train_in(tmp_path / "run", "balance=switch")
    assert len(warned) == 2
    assert result["resumed_from"] is None
    assert_ends_alike(tmp_path / "run", undisturbed["balance=switch"])


@pytest.mark.parametrize("fails", ["torch.save", "os.fsync", "os.replace"])
def test_a_checkpoint_that_cannot_be_written_leaves_the_old_one(fails, tmp_path, monkeypatch):
    with killed("learn", 12):
        train_in(tmp_path / "run")
    before = latest(tmp_path / "run" / "checkpoints")
    module = {"torch": torch, "os": os}[fails.partition(".")[0]]

    def torn(*args, **kwargs):
        if fails == "torch.save":
            args[1].write(b"half of a checkp")
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch, pytest.raises(OSError, match="No space"):
        # Not before the run has its folder, which is written in the same way.
        train_in(
            tmp_path / "run",
            on_start=lambda: patch.setattr(module, fails.partition(".")[2], torn),
        )
    assert latest(tmp_path / "run" / "checkpoints") == before
    assert train_in(tmp_path / "run")["resumed_from"] == before.name


@pytest.mark.parametrize(("kept", "steps"), [(2, [18, 20]), (1, [20]), ("null", [6, 12, 18, 20])])
def test_the_last_checkpoints_are_kept_and_the_last_step_is_always_saved(kept, steps, tmp_path):
    train_in(tmp_path / "run", "trainer.checkpoint_every=6", f"trainer.keep_checkpoints={kept}")
    names = sorted(file.name for file in (tmp_path / "run" / "checkpoints").iterdir())
    assert names == [f"step_{step:08d}.{suffix}" for step in steps for suffix in ("ckpt", "sha256")]


def test_whole_checkpoints_are_those_with_their_digest(undisturbed, tmp_path):
    shutil.copytree(undisturbed["balance=switch"] / "checkpoints", tmp_path / "copy")
    one, other = whole(tmp_path / "copy")
    assert (one.stem, other.stem) == ("step_00000015", "step_00000020")
    other.write_bytes(other.read_bytes()[:-1])
    assert whole(tmp_path / "copy") == [one]
    one.with_suffix(".sha256").unlink()
    assert whole(tmp_path / "copy") == []


def test_a_line_of_the_event_log_cut_off_by_a_kill_does_no_harm(undisturbed, tmp_path):
    with killed("learn", 13):
        train_in(tmp_path / "run", "balance=switch")
    with (tmp_path / "run" / "events.jsonl").open("a") as file:
        file.write('{"step": 12, "time": 17')
    train_in(tmp_path / "run", "balance=switch")
    assert all(set(event) == {"step", "time", "metrics"} for event in events(tmp_path / "run"))
    assert_ends_alike(tmp_path / "run", undisturbed["balance=switch"])


def test_seconds_count_the_time_before_the_interruption(tmp_path):
    with killed("learn", 13):
        train_in(tmp_path / "run")
    path = latest(tmp_path / "run" / "checkpoints")
    held = torch.load(path, weights_only=True)["callbacks"]["Checkpoints"]["seconds"]
    result = train_in(tmp_path / "run")
    assert result["cost"]["seconds"] > held > 0
    assert result["cost"]["seconds"] > result["ended"] - result["started"]


def test_a_run_is_not_gone_on_with_under_other_settings(tmp_path):
    with killed("learn", 13):
        train_in(tmp_path / "run")
    before = checkpoint(tmp_path / "run")
    with pytest.raises(ConfigError, match=r"other settings:\n  optim\.lr: 0\.003 -> 0\.01\n"):
        train_in(tmp_path / "run", "optim.lr=0.01")
    with pytest.raises(ConfigError, match=r"gate\._target_: \S+TopDown -> \S+BottomUp"):
        train_in(tmp_path / "run", "gate=bottom_up")
    assert same(before, checkpoint(tmp_path / "run"))
    # Where it is kept, and on how many cores it runs, may change.
    moved = compose([*RUN, "trainer.threads=2", "runs=elsewhere", "name=run"])
    assert changed_settings(tmp_path / "run", moved) == []


def test_one_process_at_a_time_trains_in_a_folder(tmp_path, monkeypatch):
    monkeypatch.setattr("hmoe.training.folder._PATIENCE_S", 0.2)

    def second():
        with pytest.raises(ConfigError, match=rf"in use by process {os.getpid()}"):
            train_in(tmp_path / "run")
        raise Killed

    with pytest.raises(Killed):
        train_in(tmp_path / "run", on_start=second)
