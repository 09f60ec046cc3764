"""What is written down before the first trial, and what is told to be otherwise."""

import hashlib
import json
from datetime import UTC, datetime
from pathlib import Path

import pytest

from hmoe.errors import ConfigError
from hmoe.study import load_sweep, registration
from hmoe.study.invocations import invocations, looks, note
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


def trained(arm: str, seed: int, **tags) -> object:
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
    assert record["plan"]["confirm"] == {
        "margins": {"val/loss": 0.1},
        "alpha": 0.05,
        "arms": None,
        "against": {},
    }
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
            "against": {},
        },
    }


def test_a_study_that_went_as_planned_has_no_deviations(folder):
    register(folder, sweep(folder), DIALS)
    study = make_study(
        [trained("dense", 0), trained("tree", 0), trained("tree", 1000, kind="confirm")]
    )
    assert deviations(folder, sweep(folder), study) == []


TRIALS, SEEDS = "budget.trials: 4 registered, {} run", "confirm.seeds: 4 registered, {} run"


@pytest.mark.parametrize(
    ("lines", "ran", "told"),
    [
        ([{"trials": 4}], 4, []),
        ([{"trials": 4}], 3, []),  # one is to come
        ([{"trials": 8}], 5, [TRIALS.format(8)]),
        # A later call that asks for fewer, or for none, trained nothing: it changes nothing.
        ([{"trials": 4}, {"trials": 6}], 6, [TRIALS.format(6)]),
        ([{"trials": 6}, {"seeds": 4}], 6, [TRIALS.format(6)]),
        # Stopped, and ended with fewer than were registered.
        ([{"trials": 4}, {"trials": 2}], 2, [TRIALS.format(2)]),
        ([{"trials": 8}, {"trials": 4}], 6, [TRIALS.format(6)]),
        ([{"seeds": 4}, {"seeds": 6}, {"seeds": 5}], 4, [SEEDS.format(6)]),
        ([{"question": "Why?"}, {"trials": 4}], 4, ["question: {} registered, Why? run"]),
        ([], 4, []),  # older than the file
        ([], 6, [TRIALS.format(6)]),
    ],
)
def test_what_was_run_otherwise_is_told_whatever_is_asked_for_now(lines, ran, told, folder):
    register(folder, sweep(folder), DIALS)
    for line in lines:
        note(folder, command="hmoe sweep", **line)
    study = make_study([trained("tree", slot) for slot in range(ran)])
    asked = registration.literal(sweep(folder).question)
    for changes in ((), ("budget.trials=2",), ("budget.trials=16", "question=Whatever")):
        found = deviations(folder, sweep(folder, *changes), study)
        assert found == [text.replace("{}", asked) for text in told]


def test_the_notes_hold_when_and_by_which_command(folder):
    before = datetime.now(UTC).replace(microsecond=0)
    note(folder, command="hmoe sweep", trials=4)
    note(folder, command="hmoe confirm", seeds=3)
    for looked in (3, 5):
        note(folder, looked=looked)
    first, *_ = invocations(folder)
    assert before <= datetime.fromisoformat(first.pop("time")) <= datetime.now(UTC)
    assert first == {"command": "hmoe sweep", "trials": 4}
    assert looks(folder) == [3, 5]


def test_other_code_is_told_with_the_number_of_runs(folder):
    register(folder, sweep(folder), DIALS)
    other = {"mlflow.source.git.commit": "b" * 40, "hmoe.git_dirty": "true"}
    newer = {"hmoe.versions": json.dumps(CODE["versions"] | {"torch": "2.14.0", "mlflow": "3.17"})}
    runs = [
        trained("tree", 0),
        trained("tree", 1, **other),
        trained("tree", 2, **other),
        trained("a", 3, **newer),
    ]
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
    runs = [
        trained("dense", 0, **memory),
        trained("dense", 1, **memory),
        trained("tree", 0, state="pruned"),
    ]
    runs += [trained("tree", 1000, kind="confirm", **nan), trained("tree", 1001, kind="confirm")]
    assert deviations(folder, sweep(folder), make_study(runs)) == [
        "arm 'dense' is not confirmed: none of its 2 trials is complete",
        "2 of 3 trials failed: out of memory",
        "1 of 2 confirmation runs diverged: train/loss is nan at step 5",
    ]
