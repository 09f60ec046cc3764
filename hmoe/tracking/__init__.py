"""The tracking room: run folders into MLflow, and back out as plain tables.

Training writes files and never talks to MLflow. The parent process opens a `Store`, which tails
those files; reports call `read_study` and need not know MLflow, which only this room imports.
MLflow takes a second to load. So a name is loaded when it is first asked for: who starts a
`Follower`, whose process does the talking, does not wait for it.
"""

import os
from importlib import import_module
from typing import TYPE_CHECKING, Any

# MLflow reports its use to its makers unless told otherwise before it is imported.
os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")

if TYPE_CHECKING:
    from hmoe.tracking.follow import Follower
    from hmoe.tracking.history import with_history
    from hmoe.tracking.reading import (
        Confirmation,
        Contract,
        LevelLoad,
        Objective,
        Point,
        Registration,
        Run,
        Study,
        find_run,
        read_study,
        run_folder_of,
        run_in,
        stored_name,
        study_names,
    )
    from hmoe.tracking.store import Store
    from hmoe.tracking.ui import links, serve, ui_command

__all__ = [
    "Confirmation",
    "Contract",
    "Follower",
    "LevelLoad",
    "Objective",
    "Point",
    "Registration",
    "Run",
    "Store",
    "Study",
    "find_run",
    "links",
    "read_study",
    "run_folder_of",
    "run_in",
    "serve",
    "stored_name",
    "study_names",
    "ui_command",
    "with_history",
]

_HOMES = {
    "Follower": "follow",
    "Store": "store",
    "links": "ui",
    "serve": "ui",
    "ui_command": "ui",
    "with_history": "history",
}


def __getattr__(name: str) -> Any:
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{_HOMES.get(name, 'reading')}"), name)
