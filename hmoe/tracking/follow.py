"""Following one run from a process of its own, so that training never waits for a store.

The follower outlives the training process by a moment: if that is killed, whatever way, it closes
the MLflow run as what the run folder says, and nothing is left RUNNING.
"""

import json
import multiprocessing
import signal
import sys
from multiprocessing.connection import Connection, wait
from pathlib import Path
from typing import Any

from hmoe.errors import HmoeError

_SECONDS = 2.0
_SIGNALS = (signal.SIGINT, signal.SIGTERM)


class Follower:
    """Upload what a run folder gains until `finish`, or until this process is gone.

    Args:
        runs: folder of the store.
        folder: the run folder.
        about: keyword arguments of `Store.start_run`.
    """

    def __init__(self, *, runs: Path, folder: Path, about: dict[str, Any]) -> None:
        context = multiprocessing.get_context("spawn")
        # Nothing is ever sent: the pipe closes when this process says so, or dies.
        reader, self._open = context.Pipe(duplex=False)
        self._process = context.Process(target=_follow, args=(runs, folder, about, reader))
        # Ctrl-C is for the run. Ignored from the first moment on, the imports take seconds.
        before = {number: signal.signal(number, signal.SIG_IGN) for number in _SIGNALS}
        try:
            self._process.start()
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)
        reader.close()

    def finish(self) -> None:
        """Upload the rest, close the MLflow run as the run folder says, and wait for it."""
        self._open.close()
        self._process.join()


def _follow(runs: Path, folder: Path, about: dict[str, Any], pipe: Connection) -> None:
    from hmoe.tracking.store import Store

    try:
        store = Store(runs)
        run_id = store.start_run(folder, **about)
        while not wait([pipe], timeout=_SECONDS):
            store.append_events(run_id, folder)
        state, reason = _how_it_ended(folder)
        store.finish(run_id, folder, state=state, reason=reason)
    except HmoeError as error:
        print(f"this run is not in MLflow: {error}", file=sys.stderr)


def _how_it_ended(folder: Path) -> tuple[str, str | None]:
    if (folder / "result.json").exists():
        result = json.loads((folder / "result.json").read_text(encoding="utf-8"))
        return result["state"], result["reason"] or None
    if (folder / "failure.json").exists():
        text = (folder / "failure.json").read_text(encoding="utf-8")
        return "failed", json.loads(text)["message"]
    return "interrupted", "its process ended"
