"""Whether a run can be repeated here, told of runs whose records were changed by hand."""

import json
import shlex
from pathlib import Path

import pytest

from hmoe.config import compose
from hmoe.errors import ConfigError
from hmoe.training import check_run, repro, train
from tests.tiny import RUN

NAMES = ["commit", "uncommitted changes", "lock", "data", "settings"]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A run as a sweep makes it: its command does not say how many threads it had."""
    overrides = [o for o in RUN if not o.startswith("trainer.threads")]
    cfg = compose([*overrides, "trainer.threads=1", "trainer.max_steps=2"])
    folder = tmp_path_factory.mktemp("runs") / "run"
    command = shlex.join(["hmoe", "train", *overrides, "trainer.max_steps=2"])
    train(cfg, folder, command=command, progress=False)
    return folder


@pytest.fixture
def here(folder, monkeypatch):
    """A checkout without changes, the same as then."""
    then = json.loads((folder / "result.json").read_text())
    now = {key: then[key] for key in ("git_commit", "lock_digest")} | {"git_dirty": False}
    monkeypatch.setattr(repro, "provenance", lambda: now)
    return now


def changed(folder: Path, to: Path, **changes) -> Path:
    """A copy of the run's record with some of it changed; the run itself was clean."""
    then = json.loads((folder / "result.json").read_text()) | {"git_dirty": False}
    to.mkdir(exist_ok=True)
    (to / "config.yaml").write_text((folder / "config.yaml").read_text())
    (to / "result.json").write_text(json.dumps(then | changes))
    return to


def differing(folder: Path) -> dict[str, str]:
    _, checks = check_run(folder)
    assert [check.name for check in checks] == NAMES
    return {check.name: check.now for check in checks if not check.same}


def test_an_unchanged_checkout_is_the_same_in_all(folder, here, tmp_path):
    same = changed(folder, tmp_path / "run")
    assert differing(same) == {}
    command, _ = check_run(same)
    assert command == json.loads((folder / "result.json").read_text())["command"]


def test_the_lock_is_in_the_record(folder):
    from hashlib import sha256

    lock = Path(__file__).parents[2] / "requirements.lock"
    then = json.loads((folder / "result.json").read_text())
    assert then["lock_digest"] == sha256(lock.read_bytes()).hexdigest()


@pytest.mark.parametrize(
    ("key", "name"),
    [
        ("git_commit", "commit"),
        ("lock_digest", "lock"),
        ("data_digest", "data"),
        ("config_digest", "settings"),
    ],
)
def test_whatever_is_another_is_told(key, name, folder, here, tmp_path):
    assert differing(changed(folder, tmp_path / "run", **{key: "0" * 40})).keys() == {name}
    if key in here:
        here[key] = None  # what is not known is not the same
        assert differing(changed(folder, tmp_path / "run")) == {name: "not known"}


@pytest.mark.parametrize(("then", "now"), [(True, False), (False, True), (True, True)])
def test_uncommitted_changes_are_never_the_same(then, now, folder, here, tmp_path):
    here["git_dirty"] = now
    run = changed(folder, tmp_path / "run", git_dirty=then)
    assert differing(run) == {"uncommitted changes": "yes" if now else "no"}


def test_settings_that_changed_are_named(folder, here, tmp_path):
    command = json.loads((folder / "result.json").read_text())["command"]
    other = changed(folder, tmp_path / "run", command=f"{command} optim.lr=0.5")
    assert "(optim.lr: 0.003 -> 0.5)" in differing(other)["settings"]


def test_a_command_that_is_refused_now_is_told(folder, here, tmp_path):
    other = changed(folder, tmp_path / "run", command="hmoe train optim.gone=1")
    told = "refused: optim.gone=1: no such key"
    assert [text[: len(told)] for text in differing(other).values()] == [told, told]


def test_a_run_without_a_result_tells_nothing(tmp_path):
    with pytest.raises(ConfigError, match=r"holds no result\.json"):
        check_run(tmp_path)
