"""The user interface: refusals in words, and that MLflow's server starts and answers."""

import os
import signal
import socket
import subprocess
import time
import urllib.request
from contextlib import closing

import pytest

from hmoe.errors import ConfigError
from hmoe.tracking import serve, ui, ui_command
from tests.tracking.fake import empty_store


@pytest.fixture
def taken():
    with closing(socket.socket()) as server:
        server.bind(("127.0.0.1", 0))
        server.listen()
        yield server.getsockname()[1]


def test_a_missing_store_says_what_to_run(tmp_path):
    with pytest.raises(ConfigError, match="hmoe sweep"):
        serve(tmp_path, 5000)


def test_a_taken_port_names_the_next_free_one(tmp_path, taken):
    empty_store(tmp_path)
    with pytest.raises(ConfigError, match=rf"port = {taken}: .* port=\d+ is free"):
        serve(tmp_path, taken)


def test_an_impossible_port_is_refused(tmp_path):
    empty_store(tmp_path)
    with pytest.raises(ConfigError, match="port = 0"):
        serve(tmp_path, 0)


def test_the_server_is_local_and_has_one_worker(tmp_path):
    command = ui_command(tmp_path, 5001)
    assert command[command.index("--host") + 1] == "127.0.0.1"
    assert command[command.index("--workers") + 1] == "1"
    assert command[command.index("--backend-store-uri") + 1] == f"sqlite:///{tmp_path}/mlflow.db"


@pytest.mark.slow
def test_the_server_answers(tmp_path):
    empty_store(tmp_path)
    with closing(socket.socket()) as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    environment = os.environ | ui._ENVIRONMENT
    process = subprocess.Popen(ui_command(tmp_path, port), env=environment, start_new_session=True)
    try:
        for _ in range(120):
            try:
                with urllib.request.urlopen(f"http://127.0.0.1:{port}/health") as answer:
                    assert answer.status == 200
                return
            except OSError:
                time.sleep(0.5)
        pytest.fail("no answer in 60 s")
    finally:
        os.killpg(process.pid, signal.SIGTERM)
        process.wait(30)
