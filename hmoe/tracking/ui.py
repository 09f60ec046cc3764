"""MLflow's own pages for a runs folder, on this machine only."""

import importlib.util
import os
import signal
import socket
import subprocess
import sys
from contextlib import suppress
from pathlib import Path

from hmoe.errors import ConfigError
from hmoe.tracking.client import artifact_root, check_store, open_client, tracking_uri
from hmoe.tracking.views import view_places

_HOST = "127.0.0.1"
_LAST_PORT = 65535
# The job runner adds seven idle processes and 2 GB; telemetry reports to MLflow's makers.
_ENVIRONMENT = {"MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false", "MLFLOW_DISABLE_TELEMETRY": "true"}


def ui_command(runs: Path, port: int) -> list[str]:
    """The command of MLflow's server with one worker, reachable from this machine only."""
    return [
        *(sys.executable, "-m", "mlflow", "server"),
        *("--backend-store-uri", tracking_uri(runs)),
        *("--default-artifact-root", str(artifact_root(runs))),
        *("--host", _HOST),
        *("--port", str(port)),
        *("--workers", "1"),
    ]


def links(runs: Path, port: int) -> dict[str, list[str]]:
    """By study, newest first, the addresses of its views on a server of that port."""
    experiments = open_client(runs).search_experiments()  # newest first
    found = {e.name: view_places(e.experiment_id, e.tags).values() for e in experiments}
    return {
        name: [f"http://{_HOST}:{port}/{place}" for place in places]
        for name, places in found.items()
        if places
    }


def serve(runs: Path, port: int) -> int:
    """Show the runs until interrupted by Ctrl-C, SIGTERM or SIGHUP.

    Returns:
        The server's exit status, or 0 after an interrupt, which leaves no server behind.

    Raises:
        ConfigError: nothing tracked there, port taken, or MLflow installed without its server.
    """
    check_store(runs)
    if importlib.util.find_spec("fastapi") is None:
        raise ConfigError(
            "ui: this is mlflow-skinny, which has no server. Run `pip install mlflow`."
        )
    if not 0 < port <= _LAST_PORT:
        raise ConfigError(f"port = {port}: expected 1 to {_LAST_PORT}.")
    if not _is_free(port):
        free = next((p for p in range(port + 1, _LAST_PORT + 1) if _is_free(p)), None)
        hint = f" port={free} is free." if free else ""
        raise ConfigError(f"port = {port}: another program listens there.{hint}")
    for study, addresses in links(runs, port).items():
        print(f"{study}: {addresses[0]}")
    print("More ways to look at a study are in the menu of the page's upper right.", flush=True)
    for ending in (signal.SIGTERM, signal.SIGHUP):  # answered as Ctrl-C is
        if signal.getsignal(ending) is not signal.SIG_IGN:  # as under nohup
            signal.signal(ending, signal.default_int_handler)
    try:
        return _run(ui_command(runs, port), os.environ | _ENVIRONMENT)
    except KeyboardInterrupt:
        return 0


def _run(command: list[str], environment: dict[str, str]) -> int:
    """Run a command to its end, or until an exception; none of its processes is left then."""
    # MLflow's server leaves its worker behind when it is stopped: all share a group of their own.
    process = subprocess.Popen(command, env=environment, start_new_session=True)
    try:
        return process.wait()
    finally:
        with suppress(ProcessLookupError):  # none is left
            os.killpg(process.pid, signal.SIGTERM)
        process.wait()


def _is_free(port: int) -> bool:
    with socket.socket(socket.AF_INET, socket.SOCK_STREAM) as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((_HOST, port))
        except OSError:
            return False
    return True
