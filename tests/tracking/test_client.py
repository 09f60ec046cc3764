"""Opening the MLflow store: a database is there whole or not at all."""

import signal
import subprocess
import sys

from hmoe.tracking.client import artifact_root, database, open_client

KILLED_HALF_WAY = """
import os, signal, sys
from pathlib import Path
from mlflow.store.db import utils
from sqlalchemy import text
from hmoe.tracking.client import open_client

def half_way(engine):
    with engine.begin() as connection:
        connection.execute(text("CREATE TABLE experiments (name TEXT)"))
    os.kill(os.getpid(), signal.SIGKILL)

utils._initialize_tables = half_way
open_client(Path(sys.argv[1]))
"""


def test_a_kill_while_the_tables_are_made_leaves_no_database(tmp_path):
    """MLflow makes its tables in many steps, and neither completes nor accepts half of them."""
    killed = subprocess.run([sys.executable, "-c", KILLED_HALF_WAY, tmp_path], check=False)
    assert killed.returncode == -signal.SIGKILL
    assert len(list(tmp_path.iterdir())) == 1
    assert not database(tmp_path).exists()
    client = open_client(tmp_path)
    assert [file.name for file in tmp_path.iterdir()] == ["mlflow.db"]
    root = artifact_root(tmp_path)
    experiment = client.create_experiment("s", artifact_location=str(root / "s"))
    assert client.create_run(experiment).info.artifact_uri.startswith(str(root))
    again = open_client(tmp_path)
    assert {found.name for found in again.search_experiments()} == {"s", "Default"}
