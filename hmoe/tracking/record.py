"""What of a run folder goes into MLflow: which params, tags and metrics, under which names."""

import json
import math
import os
import platform
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml

from hmoe.errors import DataError
from hmoe.tracking.redact import redact, redact_command

# How a run ended, and the status under which MLflow files it.
STATUS = {
    "complete": "FINISHED",
    "pruned": "FINISHED",
    "failed": "FAILED",
    "diverged": "FAILED",
    "interrupted": "KILLED",
}

# Settings that matter whatever is swept; those that a config lacks are left out. * is any key.
PARAMS = (
    "seed",
    "system",
    "tree.spec",
    "gate._target_",
    "selection._target_",
    "selection.k",
    "experts._target_",
    "experts.hidden_dim",
    "balance.terms.*.weight",
    "balance.bias.rate",
    "model._target_",
    "model.dim",
    "model.depth",
    "data._target_",
    "data.batch_size",
    "optim._target_",
    "optim.lr",
    "trainer.max_steps",
    "trainer.precision",
)


def read_config(folder: Path) -> dict[str, Any]:
    """The run's configuration with secrets redacted, {} before it is written."""
    path = folder / "config.yaml"
    if not path.exists():
        return {}
    try:
        config = yaml.safe_load(path.read_text())
    except yaml.YAMLError as error:
        raise DataError(f"{path} is not YAML: {error}") from error
    return redact(config) if isinstance(config, dict) else {}


def read_result(folder: Path) -> dict[str, Any] | None:
    """The run's result with secrets redacted, None while the run is not complete."""
    path = folder / "result.json"
    if not path.exists():
        return None
    try:
        result = json.loads(path.read_text())
    except ValueError as error:
        raise DataError(f"{path} is not JSON: {error}") from error
    clean: dict[str, Any] = redact(result)
    return clean | {"command": redact_command(str(result.get("command", "")))}


def chosen_params(config: Mapping[str, Any]) -> dict[str, str]:
    """Those of `PARAMS` that the config has, as text."""
    found = {key: value for pattern in PARAMS for key, value in _find(config, pattern.split("."))}
    return {key: as_text(value) for key, value in found.items() if value is not None}


def final_metrics(result: Mapping[str, Any]) -> Iterator[tuple[str, float]]:
    """Finite numbers of a result as final/*, best/* and cost/*.

    Written apart from the curves since MLflow's tables show a metric's last value, which is neither
    the best nor, for a run cut short, the final one.
    """
    for key, value in result.get("metrics", {}).items():
        yield from _finite(key if key.startswith("best/") else f"final/{key}", value)
    for key, value in result.get("cost", {}).items():
        yield from _finite(f"cost/{key}", value)


def result_tags(result: Mapping[str, Any]) -> dict[str, str]:
    """Tags that are known once a run has a result."""
    names = {
        "hmoe.tree": "tree",
        "hmoe.config_sha": "config_digest",
        "hmoe.data_sha": "data_digest",
        "hmoe.git_dirty": "git_dirty",
        "hmoe.hardware": "hardware",
        "hmoe.versions": "versions",
        "mlflow.source.git.commit": "git_commit",
    }
    found = {tag: result.get(key) for tag, key in names.items()}
    if result.get("cost", {}).get("num_mixtures") == 0:
        del found["hmoe.tree"]  # the dense control is configured with a tree that it does not use
    return {tag: as_text(value) for tag, value in found.items() if value not in (None, "")}


def as_text(value: Any) -> str:
    """A value as tags and params hold it: text as it is, anything else as JSON."""
    return value if isinstance(value, str) else json.dumps(value, default=str)


def _find(node: Any, pattern: Sequence[str], path: str = "") -> Iterator[tuple[str, Any]]:
    """The values of a nested config whose keys match, with their keys in full."""
    if not pattern:
        yield path.removeprefix("."), node
    elif isinstance(node, Mapping):
        for key in node if pattern[0] == "*" else {pattern[0]} & set(node):
            yield from _find(node[key], pattern[1:], f"{path}.{key}")


def _finite(key: str, value: Any) -> Iterator[tuple[str, float]]:
    if isinstance(value, int | float) and math.isfinite(value):
        yield key, float(value)


def hardware() -> str:
    """System, processor and how many of its threads, in a few words."""
    return f"{platform.system()} {platform.machine()}, {os.cpu_count()} CPU threads"
