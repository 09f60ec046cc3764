"""What is written down before the first trial, and what is told to be otherwise."""

import hashlib
import json
from datetime import UTC, datetime
from pathlib import Path

import pytest

from hmoe.errors import ConfigError
from hmoe.study import load_sweep, registration
from hmoe.study.registration import deviations, fingerprint, parent_tags, register, registered
from tests.report.hand import make_run, make_study
from tests.tiny import sweep_overrides

CONFIRM = "confirm={seeds:4,margins:{val/loss:0.1}}"
DIALS = {"dense": "experts.hidden_dim=16", "tree": ""}
CODE = {
    "git_commit": "a" * 40,
    "git_dirty": False,
    "versions": {"torch": "2.13.0", "python": "3.11.7"},
}


@pytest.fixture(autouse=True)
def _code(monkeypatch):
    monkeypatch.setattr(registration, "provenance", lambda: CODE)


def sweep(folder: Path, *changes: str):
    return load_sweep("hierarchy", sweep_overrides(folder.parent, CONFIRM, *changes)[1:])


@pytest.fixture
def folder(tmp_path):
    folder = tmp_path / "tiny"
    folder.mkdir()
    return folder


def ran(arm: str, seed: int, **tags) -> object:
    """A run by the registered code, with other tags where given."""
    own = {
        "mlflow.source.git.commit": "a" * 40,
        "hmoe.git_dirty": "false",
        "hmoe.versions": json.dumps(CODE["versions"]),
    }
    changes = {key: tags.pop(key) for key in ("kind", "state") if key in tags}
    return make_run(arm, 1.0, seed=seed, tags=own | tags, **changes)


def test_the_record_holds_plan_code_and_time_and_is_written_once(folder):
    before = datetime.now(UTC).replace(microsecond=0)
    record = register(folder, sweep(folder), DIALS)
    assert record == json.loads((folder / "registration.json").read_text())
    assert (record["commit"], record["dirty"]) == ("a" * 40, False)
    assert record["versions"] == CODE["versions"]
    assert before <= datetime.fromisoformat(record["time"]) <= datetime.now(UTC)
    assert record["plan"] == json.loads(json.dumps(fingerprint(sweep(folder))))
    assert record["plan"]["confirm"] == {"margins": {"val/loss": 0.1}, "alpha": 0.05, "arms": None}
    assert record["free"] == {"question": sweep(folder).question, "trials": 4, "seeds": 4}
    assert register(folder, sweep(folder, "budget.trials=8", "workers=1"), DIALS) == record


def test_the_digest_can_be_checked_from_the_file_and_changes_with_the_plan(folder, tmp_path):
    record = register(folder, sweep(folder), DIALS)
    content = json.dumps({key: record[key] for key in ("plan", "free")}, sort_keys=True)
    assert record["digest"] == hashlib.sha256(content.encode()).hexdigest()
    digests = {record["digest"]}
    changes = ("confirm.seeds=5", "confirm.margins={val/loss:0.2}", "seed=3")
    for number, change in enumerate(changes):
        other = tmp_path / str(number) / "tiny"
        other.mkdir(parents=True)
        digests.add(register(other, sweep(other, change), DIALS)["digest"])
    assert len(digests) == 4


def test_other_dials_are_another_study(folder):
    """What the contract turned is no word of the sweep file, and defines its trials as much."""
    record = register(folder, sweep(folder), DIALS)
    assert record["dials"] == DIALS
    told = r"dense: experts\.hidden_dim=16 -> experts\.hidden_dim=24\n.*probe\.json: put the first"
    with pytest.raises(ConfigError, match=told):
        register(folder, sweep(folder), DIALS | {"dense": "experts.hidden_dim=24"})
    assert register(folder, sweep(folder), DIALS) == record


def test_trials_without_a_registration_are_not_gone_on_with(folder):
    (folder / "tree" / "trial_000").mkdir(parents=True)
    with pytest.raises(ConfigError, match=r"holds trials, but no registration\.json"):
        register(folder, sweep(folder), DIALS)
    with pytest.raises(ConfigError, match="has not been started in"):
        registered(folder, sweep(folder))


def test_what_the_report_reads_of_it(folder):
    record = register(folder, sweep(folder), DIALS)
    assert parent_tags(folder, sweep(folder)) == {
        "hmoe.registration": {key: record[key] for key in ("digest", "commit", "time")},
        "hmoe.confirm": {
            "seeds": 4,
            "margins": {"val/loss": 0.1},
            "alpha": 0.05,
            "arms": None,
        },
    }


def test_a_study_that_went_as_planned_has_no_deviations(folder):
    register(folder, sweep(folder), DIALS)
    study = make_study([ran("dense", 0), ran("tree", 0), ran("tree", 1000, kind="confirm")])
    assert deviations(folder, sweep(folder), study) == []


@pytest.mark.parametrize(
    ("changes", "told"),
    [
        (["budget.trials=8"], ["budget.trials: 4 registered, 8 now"]),
        (["confirm.seeds=6"], ["confirm.seeds: 4 registered, 6 now"]),
        (["question=Why"], ["question: {} registered, Why now"]),
        (["workers=1"], []),
    ],
)
def test_what_changed_of_the_plan_is_told(changes, told, folder):
    register(folder, sweep(folder), DIALS)
    asked = registration.literal(sweep(folder).question)
    found = deviations(folder, sweep(folder, *changes), make_study([ran("tree", 0)]))
    assert found == [text.format(asked) for text in told]


def test_other_code_is_told_with_the_number_of_runs(folder):
    register(folder, sweep(folder), DIALS)
    other = {"mlflow.source.git.commit": "b" * 40, "hmoe.git_dirty": "true"}
    newer = {"hmoe.versions": json.dumps(CODE["versions"] | {"torch": "2.14.0", "mlflow": "3.17"})}
    runs = [ran("tree", 0), ran("tree", 1, **other), ran("tree", 2, **other), ran("a", 3, **newer)]
    assert deviations(folder, sweep(folder), make_study(runs)) == [
        "2 of 4 runs at commit bbbbbbbbbbbb, registered at aaaaaaaaaaaa",
        "2 of 4 runs with uncommitted changes of the code",
        "1 of 4 runs with torch 2.14.0, registered with 2.13.0",
        "1 of 4 runs with mlflow 3.17, registered with none",
    ]


def test_a_registration_by_changed_code_is_told(folder, monkeypatch):
    monkeypatch.setattr(registration, "provenance", lambda: CODE | {"git_dirty": True})
    register(folder, sweep(folder), DIALS)
    told = "the code had uncommitted changes when the study was registered"
    assert deviations(folder, sweep(folder), make_study([])) == [told]


def test_what_failed_and_what_is_not_confirmed_is_told(folder):
    register(folder, sweep(folder), DIALS)
    (folder / "confirm").mkdir()
    chosen = {"seeds": 4, "arms": {}, "left_out": {"dense": "none of its 2 trials is complete"}}
    (folder / "confirm" / "chosen.json").write_text(json.dumps(chosen))
    memory = {"state": "failed", "hmoe.reason": "out of memory"}
    nan = {"state": "diverged", "hmoe.reason": "train/loss is nan at step 5"}
    runs = [ran("dense", 0, **memory), ran("dense", 1, **memory), ran("tree", 0, state="pruned")]
    runs += [ran("tree", 1000, kind="confirm", **nan), ran("tree", 1001, kind="confirm")]
    assert deviations(folder, sweep(folder), make_study(runs)) == [
        "arm 'dense' is not confirmed: none of its 2 trials is complete",
        "2 of 3 trials failed: out of memory",
        "1 of 2 confirmation runs diverged: train/loss is nan at step 5",
    ]
