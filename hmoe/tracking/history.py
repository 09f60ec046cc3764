"""Reading the curves of runs back from MLflow, with their pauses left out of the seconds."""

import json
from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path

from mlflow import MlflowClient

from hmoe.tracking.client import open_client
from hmoe.tracking.reading import Point, Run, Study


def with_history(runs: Path, study: Study, keys: Iterable[str]) -> Study:
    """The study with the curves of some metrics; a metric that a run lacks is left out."""
    client = open_client(runs)
    wanted = list(dict.fromkeys(keys))
    return replace(
        study, runs=tuple(replace(r, history=_history(client, r, wanted)) for r in study.runs)
    )


def _history(client: MlflowClient, run: Run, keys: Iterable[str]) -> dict[str, tuple[Point, ...]]:
    found = {key: client.get_metric_history(run.id, key) for key in keys if key in run.metrics}
    times = sorted(m.timestamp for metrics in found.values() for m in metrics)
    pauses = _pauses(times, json.loads(run.tags.get("hmoe.resumes", "[]")))
    curves = {}
    for key, metrics in found.items():
        points = [Point(m.step, m.value, _seconds(m.timestamp, times[0], pauses)) for m in metrics]
        curves[key] = tuple(sorted(points))
    return curves


def _pauses(times: list[int], resumes: list[int]) -> list[tuple[int, int]]:
    """(when it ended, length) of every pause: from the last event before a resumption to it."""
    lasts = [(resume, max((t for t in times if t <= resume), default=resume)) for resume in resumes]
    return [(resume, resume - last) for resume, last in lasts]


def _seconds(time_ms: int, first_ms: int, pauses: list[tuple[int, int]]) -> float:
    paused = sum(length for resume, length in pauses if resume <= time_ms)
    return (time_ms - first_ms - paused) / 1000
