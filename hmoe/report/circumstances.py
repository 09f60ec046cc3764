"""The circumstances under which a study's numbers came about: what one needs to judge them."""

import json
from collections.abc import Iterable, Sequence

from hmoe.report.numbers import NOTHING, count, duration, moment
from hmoe.report.tables import spread, trials
from hmoe.report.verdicts import confirm_runs
from hmoe.tracking import Run, Study

_SHORT = 12  # hex digits of a digest that tell it from another


def circumstances(study: Study) -> list[tuple[str, str]]:
    """(name, text) rows. Trials that differ in one of them show all values."""
    runs = trials(study)
    confirming = confirm_runs(study)
    trained = [_trained(runs, "trial")]
    trained += [_trained(confirming, "confirming run")] if confirming else []
    took = duration((study.end_ms - study.start_ms) / 1000) if study.end_ms else "still running"
    return [
        ("git commit", _commits(study)),
        ("versions", _all(_versions(run) for run in runs) or NOTHING),
        ("data", _all(_digest(run.tags.get("hmoe.data_sha", "")) for run in runs) or NOTHING),
        ("hardware", _hardware(study)),
        ("started", moment(study.start_ms)),
        ("active time", f"{duration(active_seconds(study))}, while some run was under way"),
        ("from beginning to end", took),
        ("training time", "; ".join(trained)),
    ]


def active_seconds(study: Study) -> float:
    """How long at least one run was under way: a night between search and confirmation is not."""
    total, until = 0, 0
    for run in sorted(study.runs, key=lambda run: run.start_ms):
        if run.end_ms is not None and run.end_ms > until:
            total += run.end_ms - max(run.start_ms, until)
            until = run.end_ms
    return total / 1000


def unlike(study: Study) -> list[str]:
    """In what any two runs differ that must be alike: commit, versions, data. Empty if all is well.

    Data may differ between seeds where it is made from the seed, each of which then has its own.
    """
    runs = [run for run in study.runs if run.state == "complete"]
    known = [r.tags for r in runs if "mlflow.source.git.commit" in r.tags]
    commits = {_commit(t["mlflow.source.git.commit"], t.get("hmoe.git_dirty")) for t in known}
    versions = {text for run in runs if (text := _versions(run))}
    found = [
        f"{name}: {'; '.join(sorted(values))}"
        for name, values in (("git commits", commits), ("versions", versions))
        if len(values) > 1
    ]
    data = {(r.seed, r.tags["hmoe.data_sha"]) for r in runs if "hmoe.data_sha" in r.tags}
    digests = {digest for _, digest in data}
    if len(digests) > 1 and not len({seed for seed, _ in data}) == len(digests) == len(data):
        found.append(f"data: {'; '.join(sorted(map(_digest, digests)))}")
    return found


def registered(study: Study) -> list[tuple[str, str]]:
    """(name, text) rows of what was written down before the first trial; empty if nothing was."""
    found = study.registration
    if found is None:
        return []
    return [
        ("digest of the plan", _digest(found.digest)),
        ("git commit", found.commit[:_SHORT] or "not a git checkout"),
        ("registered", found.time),
    ]


def deviations(study: Study) -> list[str]:
    """How the study left its registration: what was recorded, and what its runs show."""
    found: list[str] = json.loads(study.tags.get("hmoe.deviations", "[]"))
    searched = {run.seed for run in study.runs if run.kind == "trial"}
    used = {run.seed for run in study.runs if run.kind == "confirm"} & searched
    if used:
        seeds = ", ".join(str(seed) for seed in sorted(used, key=str))
        found = [*found, f"seeds of the search confirm too: {seeds}"]
    return found


def _trained(runs: Sequence[Run], noun: str) -> str:
    seconds = spread(run.cost["seconds"] for run in runs if "seconds" in run.cost)
    if seconds is None:
        return f"{NOTHING} in {count(0, noun)}"
    told = f"{duration(seconds.mean * seconds.n)} in {count(seconds.n, noun)}"
    return f"{told}, {duration(seconds.mean)} each on average"


def _commits(study: Study) -> str:
    tags = [run.tags for run in trials(study)] + [study.tags]
    known = [t for t in tags if "mlflow.source.git.commit" in t]
    return _all(_commit(t["mlflow.source.git.commit"], t.get("hmoe.git_dirty")) for t in known) or (
        "not a git checkout"
    )


def _commit(commit: str, dirty: str | None) -> str:
    changed = str(dirty).lower() in ("true", "1")
    return commit[:_SHORT] + (" with uncommitted changes" if changed else "")


def _versions(run: Run) -> str:
    found = json.loads(run.tags.get("hmoe.versions", "{}"))
    return ", ".join(f"{name} {version}" for name, version in found.items())


def _digest(sha: str) -> str:
    return f"sha256 {sha[:_SHORT]}…" if sha else ""


def _hardware(study: Study) -> str:
    own = _all(run.tags.get("hmoe.hardware", "") for run in trials(study))
    return own or study.tags.get("hmoe.hardware", NOTHING)


def _all(texts: Iterable[str]) -> str:
    return "; ".join(dict.fromkeys(text for text in texts if text))
