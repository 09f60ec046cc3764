"""Where the MLflow store of a runs folder lies, and how it is opened and searched."""

import fcntl
import logging
import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from mlflow import MlflowClient
from mlflow.entities import Run as MlflowRun

from hmoe.errors import ConfigError

PARENT = "mlflow.parentRunId"
RUN_ID = "mlflow_run_id"  # the file of a run folder that holds the id
_PAGE = 1000


def database(runs: Path) -> Path:
    return runs.resolve() / "mlflow.db"


def artifact_root(runs: Path) -> Path:
    return runs.resolve() / "mlartifacts"


def tracking_uri(runs: Path) -> str:
    return f"sqlite:///{database(runs)}"


def check_store(runs: Path) -> None:
    """Raise ConfigError unless something has been tracked under `runs`."""
    if not database(runs).is_file():
        raise ConfigError(
            f"runs = {str(runs)!r}: no tracked runs there ({database(runs)} is missing). "
            "Run `hmoe train` or `hmoe sweep` first, or name the folder with runs=PATH."
        )


def open_client(runs: Path) -> MlflowClient:
    """A client of the store under `runs`; the first call makes or updates its tables.

    No global state: `mlflow.set_tracking_uri` is never called, so that a host program's own use
    of MLflow goes on undisturbed. One process at a time: two that make the tables of one fresh
    database spoil each other's. And made aside: a kill half way, which takes seconds, would leave
    tables that MLflow neither completes nor accepts.
    """
    with _quiet(), _alone(runs):
        if not database(runs).exists():
            aside = database(runs).with_suffix(".part")
            aside.unlink(missing_ok=True)
            _open(aside)
            os.replace(aside, database(runs))
        return _open(database(runs))


def search(client: MlflowClient, experiments: Sequence[str], where: str) -> Iterator[MlflowRun]:
    """All runs of some experiments that match a filter, oldest first, page by page."""
    token = None
    while experiments:
        page = client.search_runs(
            list(experiments),
            filter_string=where,
            max_results=_PAGE,
            order_by=["attributes.start_time ASC"],
            page_token=token,
        )
        yield from page
        token = page.token
        if not token:
            return


def _open(file: Path) -> MlflowClient:
    client = MlflowClient(tracking_uri=f"sqlite:///{file}")
    client.search_experiments(max_results=1)
    return client


@contextmanager
def _alone(folder: Path) -> Iterator[None]:
    """Hold the lock of a folder; the system lets go of it however this process ends."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX)
        yield
    finally:
        os.close(descriptor)


@contextmanager
def _quiet() -> Iterator[None]:
    """Keep the messages of the making of a database to warnings."""
    loggers = [logging.getLogger(name) for name in ("mlflow.store.db.utils", "alembic")]
    before = [logger.level for logger in loggers]
    for logger in loggers:
        logger.setLevel(logging.WARNING)
    try:
        yield
    finally:
        for logger, level in zip(loggers, before, strict=True):
            logger.setLevel(level)
