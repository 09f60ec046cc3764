"""Pre-registration: what defines a study is written down before its first trial.

A study goes on under the plan it began with, or not at all. What may change, such as its budget,
and what happened otherwise than planned is told by `deviations`.
"""

import hashlib
import json
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from textwrap import shorten
from typing import Any

from hmoe.config import literal, parse
from hmoe.errors import ConfigError
from hmoe.files import write_atomically
from hmoe.study.invocations import looks, used
from hmoe.study.spec import Sweep
from hmoe.tracking import Run, Study
from hmoe.training import held, provenance

REGISTRATION = "registration.json"
CHOSEN = "confirm/chosen.json"
_NOT_STUDY = {"runs"}  # where runs are kept does not change the answer
_SHORT = 12  # hex digits of a commit that tell it from another
_WENT_WRONG = ("failed", "diverged")


def fingerprint(sweep: Sweep) -> dict[str, Any]:
    """What defines a study, as plain data for JSON: two sweeps with equal ones may share trials.

    Question, name, budget, workers and the number of confirmation seeds may change from one call
    to the next.
    """
    kept = {"objectives", "contract", "overrides", "arms", "space", "when", "seed", "search"}
    content = sweep.model_dump(include=kept)
    content["overrides"] = [
        override
        for override in sweep.overrides
        if parse(override).key_or_group.partition(".")[0] not in _NOT_STUDY
    ]
    if sweep.confirm is not None:
        content["confirm"] = sweep.confirm.model_dump(exclude={"seeds"})
    return content


def register(folder: Path, sweep: Sweep, dials: Mapping[str, str]) -> dict[str, Any]:
    """Write down what is planned, once, and return what was; refuse another plan.

    The record: `plan`, which is the fingerprint; `free`, what may change; the sha256 `digest` of
    both; `dials`; `commit`, `dirty` and `versions` of the code; `time` (UTC).

    Args:
        folder: that of the study; must be there.
        dials: by arm where the contract turned its dial to, as an override; "" without one.

    Raises:
        ConfigError: the study was registered with another plan or with other dials, or has trials
            and no registration.
    """
    path = folder / REGISTRATION
    check_plan(folder, sweep)
    if path.exists():
        record = read_registration(folder)
        if changes := other_dials(folder, dials):
            raise ConfigError(changes)
        return record
    content = {"plan": fingerprint(sweep), "free": _free(sweep)}
    facts = provenance()
    record = {
        "digest": hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest(),
        "time": datetime.now(UTC).isoformat(timespec="seconds"),
        "commit": facts["git_commit"] or "unknown",
        "dirty": facts["git_dirty"],
        "versions": facts["versions"],
        "dials": dict(dials),
        **content,
    }
    write_atomically(path, json.dumps(record, indent=1))
    return record


def check_plan(folder: Path, sweep: Sweep) -> None:
    """Refuse to go on with a study under another plan, or under none that is known.

    Raises:
        ConfigError: the study was registered with another plan, or has trials and no registration.
    """
    if (folder / REGISTRATION).exists():
        registered(folder, sweep)
    elif any(folder.glob("*/trial_*")):
        raise ConfigError(
            f"sweep={sweep.name}: {folder} holds trials, but no {REGISTRATION}: what was planned "
            "before them is not known. Start a new study with name=."
        )


@contextmanager
def owned(folder: Path, sweep: Sweep) -> Iterator[None]:
    """Own a study: one process at a time trains in it.

    Raises:
        ConfigError: another process owns it, or its folder cannot be written.
    """
    busy = "wait for it, look at it with `hmoe status`, or give this sweep another name=."
    with held(folder, f"sweep={sweep.name}", busy):
        yield


def other_dials(folder: Path, dials: Mapping[str, str]) -> str:
    """Why a study cannot go on with these dials; "" if it can, or has not begun.

    What the sweep file leaves to the contract is part of the study too: steps, widths.
    """
    if not (folder / REGISTRATION).exists():
        return ""
    record = read_registration(folder)
    before = record.get("dials", dials)  # early records have none
    changes = [
        f"{arm}: {before[arm] or 'no dial'} -> {now or 'no dial'}"
        for arm, now in dials.items()
        if before[arm] != now
    ]
    if not changes:
        return ""
    return (
        f"sweep={folder.name}: the contract now turns the dials otherwise than at "
        f"{record['time']}, when the study in {folder} was registered:\n  "
        + "\n  ".join(changes)
        + "\nIts trials and new ones could not be compared. With contract.match = seconds the "
        "steps come from the study's probe.json: put the first one back. Else start a new "
        "study with name=."
    )


def registered(folder: Path, sweep: Sweep) -> dict[str, Any]:
    """The registration of a study that has begun.

    Raises:
        ConfigError: it has not begun, or began with another plan.
    """
    record = read_registration(folder)
    changes = diff_fingerprints(record["plan"], json.loads(json.dumps(fingerprint(sweep))))
    if changes:
        raise ConfigError(
            f"sweep={sweep.name}: the study in {folder} was registered at {record['time']} and "
            "started under another plan:\n  "
            + "\n  ".join(changes)
            + "\nIts trials and new ones could not be compared. Start a new study with name=."
        )
    return record


def read_registration(folder: Path) -> dict[str, Any]:
    """What was written down before the first trial of the study in a folder.

    Raises:
        ConfigError: the study has not been started.
    """
    path = folder / REGISTRATION
    if not path.exists():
        raise ConfigError(
            f"sweep={folder.name}: has not been started in {folder.parent}. Start it with "
            f"`hmoe sweep sweep={folder.name}`."
        )
    return dict(json.loads(path.read_text(encoding="utf-8")))


def num_seeds(folder: Path, sweep: Sweep) -> int:
    """Seeds of the confirmation: as many as were ever asked for, and trained.

    Raises:
        ConfigError: fewer are asked for than were registered.
    """
    assert sweep.confirm is not None
    planned = registered(folder, sweep)["free"]["seeds"]
    if sweep.confirm.seeds < planned:
        raise ConfigError(
            f"confirm.seeds={sweep.confirm.seeds}: {planned} were registered before the first "
            "trial; their number can only grow."
        )
    return max(sweep.confirm.seeds, kept_choice(folder).get("seeds", 0))


def kept_choice(folder: Path) -> dict[str, Any]:
    """What is confirmed, as it was chosen; {} while nothing is."""
    path = folder / CHOSEN
    return dict(json.loads(path.read_text(encoding="utf-8"))) if path.exists() else {}


def parent_tags(folder: Path, sweep: Sweep) -> dict[str, Any]:
    """What of the registration, and of the confirmation if one is planned, the study's run says."""
    record = registered(folder, sweep)
    tags: dict[str, Any] = {
        "hmoe.registration": {key: record[key] for key in ("digest", "commit", "time")}
    }
    if sweep.confirm is not None:
        tags["hmoe.confirm"] = sweep.confirm.model_dump() | {"seeds": num_seeds(folder, sweep)}
    return tags


def end_tags(folder: Path, sweep: Sweep, study: Study) -> dict[str, Any]:
    """What the study's run says when a call ends: see `deviations` and `looks`."""
    return {"hmoe.deviations": deviations(folder, sweep, study), "hmoe.looks": looks(folder)}


def deviations(folder: Path, sweep: Sweep, study: Study) -> list[str]:
    """What is otherwise than registered, one text each; none when all went as planned.

    Args:
        folder: that of the study.
        sweep: the sweep; how many trials and seeds it asks for now does not count, only what
            was run.
        study: its runs so far.
    """
    record = registered(folder, sweep)
    found = _beyond(folder, record["free"], study)
    for arm, reason in kept_choice(folder).get("left_out", {}).items():
        found.append(f"arm '{arm}' is not confirmed: {reason}")
    if record["dirty"]:
        found.append("the code had uncommitted changes when the study was registered")
    found += _other_code(record, study.runs)
    for (kind, state, reason), number in Counter(
        (run.kind, run.state, run.reason) for run in study.runs if run.state in _WENT_WRONG
    ).items():
        of = sum(run.kind == kind for run in study.runs)
        why = shorten(reason, 200, placeholder=" ...")
        found.append(f"{number} of {of} {_KINDS[kind]} {state}: {why}")
    return found


_KINDS = {"trial": "trials", "confirm": "confirmation runs"}
_FREE = {"question": "question", "trials": "budget.trials", "seeds": "confirm.seeds"}


def _free(sweep: Sweep) -> dict[str, Any]:
    """What may change after the first trial, and is told when it did."""
    seeds = None if sweep.confirm is None else sweep.confirm.seeds
    return {"question": sweep.question, "trials": sweep.budget.trials, "seeds": seeds}


def _beyond(folder: Path, planned: Mapping[str, Any], study: Study) -> list[str]:
    """Which of what may change was otherwise when something was trained."""
    asked = used(folder, "trials")[-1:]
    ran = sum(run.kind == "trial" for run in study.runs)
    # Fewer than planned are a deviation once fewer were asked for, not while some are to come.
    trials = max(ran, *asked) if asked else max(ran, planned["trials"])
    seeds = [*used(folder, "seeds"), kept_choice(folder).get("seeds")]
    now = {
        "question": used(folder, "question"),
        "trials": [trials],
        "seeds": [max((number for number in seeds if number), default=planned["seeds"])],
    }
    return [
        f"{_FREE[key]}: {literal(before)} registered, {literal(value)} run"
        for key, before in planned.items()
        for value in now[key]
        if value != before
    ]


def _other_code(record: Mapping[str, Any], runs: Iterable[Run]) -> list[str]:
    """Commits, uncommitted changes and versions of runs that are not those registered."""
    known = [run.tags for run in runs if "mlflow.source.git.commit" in run.tags]
    commits = Counter(tags["mlflow.source.git.commit"] for tags in known)
    commits.pop(record["commit"], None)
    found = [
        f"{number} of {len(known)} runs at commit {commit[:_SHORT]}, registered at "
        f"{record['commit'][:_SHORT]}"
        for commit, number in commits.items()
    ]
    if dirty := sum(tags.get("hmoe.git_dirty") == "true" for tags in known):
        found.append(f"{dirty} of {len(known)} runs with uncommitted changes of the code")
    versions = Counter(
        (package, version)
        for tags in known
        for package, version in json.loads(tags.get("hmoe.versions", "{}")).items()
        if version != record["versions"].get(package)
    )
    return found + [
        f"{number} of {len(known)} runs with {package} {version}, registered with "
        f"{record['versions'].get(package, 'none')}"
        for (package, version), number in versions.items()
    ]


def diff_fingerprints(old: Mapping[str, Any], new: Mapping[str, Any]) -> list[str]:
    """The differences of two fingerprints, one a line; none when they are equal."""
    before, after = dict(_leaves("", old)), dict(_leaves("", new))
    lines = []
    for key in dict.fromkeys([*before, *after]):
        one, other = before.get(key), after.get(key)
        if one == other:
            continue
        if not (isinstance(one, list) and isinstance(other, list)):
            lines.append(f"{key}: {_word(key, before)} -> {_word(key, after)}")
        elif sorted(one) == sorted(other):
            lines.append(f"{key}: in another order")
        else:
            lines += [f"{key}: - {item}" for item in one if item not in other]
            lines += [f"{key}: + {item}" for item in other if item not in one]
    return lines


def _leaves(path: str, node: Any) -> list[tuple[str, Any]]:
    if not isinstance(node, Mapping):
        return [(path, node)]
    return [
        leaf
        for key, value in node.items()
        for leaf in _leaves(f"{path}.{key}" if path else str(key), value)
    ]


def _word(key: str, leaves: Mapping[str, Any]) -> str:
    return literal(leaves[key]) if key in leaves else "(absent)"
