"""Store: the writer's side of tracking, opened by the one process that owns a study.

The run folders are the truth and MLflow is a view of them: every method may be called again after a
crash and leaves the same view. Layout (DESIGN.md, section 9): experiment = study, parent run = the
sweep, child runs = trials and confirmation seeds. Nothing stays RUNNING once its owner is gone.
"""

import json
import os
import re
import time
from collections.abc import Collection, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import yaml
from mlflow.entities import Metric, Param, RunTag
from mlflow.exceptions import MlflowException
from numpy.typing import NDArray

from hmoe.errors import ConfigError, check_names
from hmoe.files import write_atomically
from hmoe.tracking.client import PARENT, RUN_ID, artifact_root, open_client, search
from hmoe.tracking.events import Bookmark, new_events
from hmoe.tracking.images import log_images
from hmoe.tracking.record import (
    STATUS,
    as_text,
    chosen_params,
    final_metrics,
    hardware,
    read_config,
    read_result,
    result_tags,
)
from hmoe.tracking.redact import redact, redact_command
from hmoe.tracking.views import set_views

_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,79}")
_BATCH = 1000  # MLflow's limit of metrics a call
_NUM_TAGS = 100  # MLflow's limit of tags, and of params, a call


class Store:
    """The MLflow store of one runs folder. One writer at a time; readers do not matter.

    Makes `runs`, its database and tables when they are not there (some seconds, once).
    """

    def __init__(self, runs: Path) -> None:
        self.runs = runs.resolve()
        self.runs.mkdir(parents=True, exist_ok=True)
        self._client = open_client(self.runs)

    def experiment(self, name: str) -> str:
        """The id of an experiment, which is made if there is none of that name."""
        if not _NAME.fullmatch(name):
            raise ConfigError(
                f"study = {name!r}: the name of a study is also that of a folder; 1 to 80 of "
                "A-Z a-z 0-9 . _ - are allowed, beginning with a letter or a digit."
            )
        known = self._client.get_experiment_by_name(name)
        if known is None:
            root = artifact_root(self.runs)
            return str(self._client.create_experiment(name, artifact_location=str(root / name)))
        if known.lifecycle_stage != "active":
            raise ConfigError(
                f"study = {name!r}: a study of that name was deleted in MLflow and is still in its "
                "bin. Choose another name, or restore it or delete it for good (`mlflow gc`)."
            )
        return str(known.experiment_id)

    def start_study(
        self,
        study: str,
        *,
        question: str,
        objectives: Sequence[tuple[str, str]],
        contract: Mapping[str, Any],
        arms: Sequence[str],
        command: str,
        tags: Mapping[str, Any] | None = None,
        params: Mapping[str, Any] | None = None,
    ) -> str:
        """Start the parent run of a study, or go on with the one there is. Returns its id.

        Args:
            objectives: (metric, "minimize" | "maximize"), quality first, balance second.
            contract: {"match": cost, "reference": arm or number, "tolerance": share}.
            command: exact command of the study; that of the first start is kept.
            tags: further tags, such as "mlflow.source.git.commit" or "hmoe.hardware".
        """
        experiment = self.experiment(study)
        all_tags = {
            "hmoe.kind": "sweep",
            "hmoe.question": question,
            "hmoe.objectives": [list(objective) for objective in objectives],
            "hmoe.contract": contract,
            "hmoe.arms": list(arms),
            "hmoe.command": redact_command(command),
            "hmoe.hardware": hardware(),
            **(tags or {}),
        }
        found = list(search(self._client, [experiment], "tags.`hmoe.kind` = 'sweep'"))
        if found:
            run_id = str(found[-1].info.run_id)
            del all_tags["hmoe.command"]
            self._resume(run_id)
        else:
            run_id = self._client.create_run(experiment, run_name=study).info.run_id
        self._set(run_id, tags=all_tags, params=params or {})
        set_views(self._client, run_id, confirmed=False)
        return run_id

    def start_run(
        self,
        folder: Path,
        *,
        study: str,
        kind: str,
        name: str,
        arm: str,
        seed: int,
        command: str,
        parent: str | None = None,
        swept: Mapping[str, Any] | None = None,
    ) -> str:
        """Start the run of a run folder, or go on with the run it had. Returns the run's id.

        The id is kept in the folder, so that a resumed trial goes on in the same MLflow run.

        Args:
            study: name of the experiment.
            kind: "trial", "confirm" or "train".
            parent: id of the study's run; None for a run by itself.
            swept: the settings that the study varies, by key.
        """
        run_id = self._known_run(folder)
        if run_id is not None:
            self._resume(run_id)
        else:
            run_id = self._client.create_run(self.experiment(study), run_name=name).info.run_id
            folder.mkdir(parents=True, exist_ok=True)
            write_atomically(folder / RUN_ID, run_id)
        tags: dict[str, Any] = {
            "hmoe.kind": kind,
            "hmoe.state": "running",
            "hmoe.arm": arm,
            "hmoe.seed": seed,
            "hmoe.command": redact_command(command),
            "hmoe.folder": os.path.relpath(folder.resolve(), self.runs),
            "hmoe.swept": sorted(swept or {}),
            "mlflow.note.content": f"Repeat it with\n\n    {redact_command(command)}\n",
        }
        if parent is not None:
            tags[PARENT] = parent
            tags["hmoe.contract"] = self._tags(parent).get("hmoe.contract", "")
        self._set(run_id, tags=tags, params=redact(swept or {}))
        return run_id

    def append_events(self, run_id: str, folder: Path) -> int:
        """Upload what was added to the folder's events.jsonl. Returns the number of values sent."""
        mark = Bookmark.load(folder, run_id)
        before, sent = mark.offset, 0
        for events in new_events(folder, mark, _BATCH):
            metrics = [Metric(e.key, e.value, e.time_ms, e.step) for e in events]
            self._log(run_id, metrics)
            sent += len(metrics)
            flaws = {"hmoe.nonfinite": mark.nonfinite, "hmoe.bad_lines": mark.bad_lines}
            if mark.offset > before:
                self._set(run_id, tags={tag: value for tag, value in flaws.items() if value})
                mark.save(folder)
        return sent

    def log_images(
        self, run_id: str, key: str, images: Iterable[tuple[int, NDArray[np.uint8]]]
    ) -> int:
        """Add images along the steps of a run; see `hmoe.tracking.images`. Returns how many."""
        return log_images(self._client, run_id, key, images, round(1000 * time.time()))

    def finish(self, run_id: str, folder: Path, *, state: str, reason: str | None = None) -> None:
        """Close a run: the rest of its events, its result if it has one, its state.

        Args:
            state: complete, pruned, failed, diverged or interrupted.
            reason: why it did not complete, in a few words; shown in the report.
        """
        check_names("state", [state], STATUS)
        self.append_events(run_id, folder)
        config, result = read_config(folder), read_result(folder)
        ended = time.time()
        tags: dict[str, Any] = {"hmoe.state": state}
        if reason:
            tags["hmoe.reason"] = redact_command(reason)
        if config:
            text = yaml.safe_dump(config, sort_keys=False)
            self._client.log_text(run_id, text, "config.yaml")
        if result is not None:
            ended = float(result.get("ended", ended))
            tags |= result_tags(result)
            metrics = [Metric(k, v, round(1000 * ended), 0) for k, v in final_metrics(result)]
            self._log(run_id, metrics)
            self._client.log_text(run_id, json.dumps(result, indent=2), "result.json")
            loads = json.dumps(result.get("level_loads", {}))
            self._client.log_text(run_id, loads, "level_loads.json")
        self._set(run_id, tags=tags, params=chosen_params(config))
        self._client.set_terminated(run_id, STATUS[state], end_time=round(1000 * ended))

    def tag_study(self, run_id: str, tags: Mapping[str, Any]) -> None:
        """Set tags of the parent run of a study that are known only later."""
        self._set(run_id, tags=tags)

    def finish_study(self, run_id: str, *, state: str) -> None:
        """Close the parent run of a study."""
        check_names("state", [state], STATUS)
        self._set(run_id, tags={"hmoe.state": state})
        self._client.set_terminated(run_id, STATUS[state])

    def set_answer(
        self,
        parent: str,
        *,
        note: str,
        pareto: Collection[str],
        means: Mapping[str, float] | None = None,
        report: Path | None = None,
    ) -> None:
        """Put the answer of a study on its parent run and mark the children on the Pareto front.

        Args:
            note: markdown shown by MLflow beside the run.
            pareto: ids of the runs on the front; all other children are marked as not on it.
            means: by "metric/arm" the number of an arm; kept as the parent's metric "answer/...".
            report: folder to keep as the artifact "report".
        """
        self._set(parent, tags={"mlflow.note.content": note})
        now = round(1000 * time.time())
        self._log(parent, [Metric(f"answer/{k}", v, now, 0) for k, v in (means or {}).items()])
        experiment = self._client.get_run(parent).info.experiment_id
        children = list(search(self._client, [experiment], f"tags.`{PARENT}` = '{parent}'"))
        for run in children:
            on_front = json.dumps(run.info.run_id in pareto)
            self._client.set_tag(run.info.run_id, "hmoe.pareto", on_front)
        kinds = {run.data.tags.get("hmoe.kind") for run in children}
        set_views(self._client, parent, confirmed="confirm" in kinds)
        if report is not None:
            self._client.log_artifacts(parent, str(report), "report")

    def log_folder(self, run_id: str, folder: Path, name: str) -> None:
        """Keep the files of a folder as artifacts of a run below a name, in place of older ones."""
        self._client.log_artifacts(run_id, str(folder), name)

    def close_orphans(self, study: str | None = None) -> list[str]:
        """Close runs that a dead process left RUNNING; returns their ids.

        A run whose folder holds a result had finished and is closed as what the result says; any
        other is closed as interrupted, with its events up to the last. Call it only while no other
        process owns the study (None: any study) - a live run looks like a dead one.
        """
        if study is None:
            experiments = [e.experiment_id for e in self._client.search_experiments()]
        else:
            experiments = [self.experiment(study)]
        closed = []
        for run in search(self._client, experiments, "attributes.status = 'RUNNING'"):
            run_id, place = run.info.run_id, run.data.tags.get("hmoe.folder")
            folder = self.runs / place if place else None
            if folder is None or not folder.is_dir():
                self.finish_study(run_id, state="interrupted")
            else:
                result = read_result(folder) if self._known_run(folder) == run_id else None
                state = result["state"] if result else "interrupted"
                reason = None if result else "the process that owned it ended"
                self.finish(run_id, folder, state=state, reason=reason)
            closed.append(run_id)
        return closed

    def _known_run(self, folder: Path) -> str | None:
        """The run of a run folder, None if it has none that still exists."""
        try:
            run = self._client.get_run((folder / RUN_ID).read_text().strip())
        except (OSError, MlflowException):
            return None
        return run.info.run_id if run.info.lifecycle_stage == "active" else None

    def _resume(self, run_id: str) -> None:
        """Set a run back to RUNNING, and note when, so that pauses can be told from work."""
        tags = self._tags(run_id)
        resumes = json.loads(tags.get("hmoe.resumes", "[]"))
        for stale in {"hmoe.reason", "hmoe.state"} & set(tags):
            self._client.delete_tag(run_id, stale)
        self._set(run_id, tags={"hmoe.resumes": [*resumes, round(1000 * time.time())]})
        self._client.update_run(run_id, status="RUNNING")

    def _tags(self, run_id: str) -> dict[str, str]:
        return self._client.get_run(run_id).data.tags

    def _log(self, run_id: str, metrics: Sequence[Metric]) -> None:
        for start in range(0, len(metrics), _BATCH):
            self._client.log_batch(run_id, metrics=metrics[start : start + _BATCH])

    def _set(
        self, run_id: str, tags: Mapping[str, Any], params: Mapping[str, Any] | None = None
    ) -> None:
        """Set tags, and those params that are not set yet: MLflow's params cannot change."""
        known = self._client.get_run(run_id).data.params if params else {}
        new = [Param(k, as_text(v)) for k, v in (params or {}).items() if k not in known]
        all_tags = [RunTag(key, as_text(value)) for key, value in tags.items()]
        for start in range(0, max(len(all_tags), len(new)), _NUM_TAGS):
            here = slice(start, start + _NUM_TAGS)
            self._client.log_batch(run_id, tags=all_tags[here], params=new[here])
