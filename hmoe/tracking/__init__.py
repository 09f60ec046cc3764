"""The tracking room: run folders into MLflow, and back out as plain tables.

Training writes files and never talks to MLflow. The parent process opens a `Store`, which tails
those files; reports call `read_study` and need not know MLflow, which only this room imports.
"""

import os

# MLflow reports its use to its makers unless told otherwise before it is imported.
os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")

from hmoe.tracking.follow import Follower
from hmoe.tracking.reading import (
    Contract,
    LevelLoad,
    Objective,
    Point,
    Run,
    Study,
    read_study,
    study_names,
    with_history,
)
from hmoe.tracking.store import Store
from hmoe.tracking.ui import serve, ui_command

__all__ = [
    "Contract",
    "Follower",
    "LevelLoad",
    "Objective",
    "Point",
    "Run",
    "Store",
    "Study",
    "read_study",
    "serve",
    "study_names",
    "ui_command",
    "with_history",
]
