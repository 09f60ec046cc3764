"""A command of hmoe as a user starts it, with every process that it starts in sight."""

import os
import shutil
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

from tests.tiny import sweep_overrides
from tests.tracking.fake import empty_store

HMOE = shutil.which("hmoe", path=Path(sys.executable).parent) or "hmoe"


class Command:
    """`hmoe sweep` of the tiny sweep in a session of its own, so that every process is known."""

    def __init__(self, runs: Path, *changes: str) -> None:
        runs.mkdir(parents=True, exist_ok=True)
        if not (runs / "mlflow.db").exists():
            empty_store(runs)
        self.runs = runs
        steps = ("trainer.max_steps=900", "trainer.val_every=300", "trainer.checkpoint_every=25")
        self.argv = ["sweep", *sweep_overrides(runs, *steps, *changes)]
        self._said = runs.parent / f"said_{len(list(runs.parent.glob('said_*')))}"
        with self._said.open("w") as file:
            self.process = subprocess.Popen(
                [HMOE, *self.argv],
                cwd=runs,
                stdout=file,
                stderr=file,
                env={**os.environ, "OMP_NUM_THREADS": "1"},
                start_new_session=True,
            )

    def pids(self) -> list[int]:
        """Every process of the session that is not a zombie, the command itself first."""
        found = []
        for stat in Path("/proc").glob("[0-9]*/stat"):
            try:
                state, _, _, session = stat.read_text().rpartition(")")[2].split()[:4]
            except OSError:
                continue
            if int(session) == self.process.pid and state not in "ZX":
                found.append(int(stat.parent.name))
        return sorted(found)

    def trials(self) -> dict[int, Path]:
        """The processes that train, and their run folders."""
        found = {}
        for pid in self.pids():
            try:
                log = Path(os.readlink(f"/proc/{pid}/fd/1"))
            except OSError:
                continue
            if log.name == "log.txt":
                found[pid] = log.parent
        return found

    def server(self) -> int:
        """The process that trials are forked from."""
        (pid,) = [
            pid
            for pid in self.pids()
            if b"forkserver" in Path(f"/proc/{pid}/cmdline").read_bytes()
            and pid not in self.trials()
        ]
        return pid

    def said(self) -> str:
        return self._said.read_text()

    def wait(self, status: int, seconds: float = 180) -> str:
        """Wait for the end, with this exit status, and for the end of all that it started."""
        assert self.process.wait(timeout=seconds) == status, self.said()
        self.nothing_is_left()
        return self.said()

    def nothing_is_left(self, seconds: float = 10) -> None:
        deadline = time.monotonic() + seconds
        while pids := self.pids():
            assert time.monotonic() < deadline, [
                Path(f"/proc/{pid}/cmdline").read_bytes() for pid in pids
            ]
            time.sleep(0.05)


def until(what: Callable[[], object], seconds: float = 120) -> None:
    deadline = time.monotonic() + seconds
    while not what():
        assert time.monotonic() < deadline, "waited in vain"
        time.sleep(0.02)


def saved(folder: Path) -> str:
    """The newest checkpoint of a run, "" without one."""
    return max((file.name for file in folder.glob("checkpoints/*.ckpt")), default="")
