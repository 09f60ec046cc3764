"""The user interface: refusals in words, and that MLflow's server starts and answers."""

import signal
import socket
import subprocess
import sys
import time
import urllib.request
from contextlib import closing, contextmanager

import pytest

from hmoe.errors import ConfigError
from hmoe.tracking import serve, ui_command
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
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_the_server_answers_until_the_command_is_stopped_however_that_is(number, tmp_path):
    with shown(tmp_path) as (process, port):
        process.send_signal(number)
        assert process.wait(30) == 0
        assert not answers(port)


@pytest.mark.slow
def test_under_nohup_the_server_outlives_its_terminal(tmp_path):
    with shown(tmp_path, "nohup") as (process, port):
        process.send_signal(signal.SIGHUP)
        time.sleep(2)
        assert process.poll() is None
        assert answers(port)


@contextmanager
def shown(runs, *before):
    """A running `hmoe ui`, once it answers, and its port."""
    empty_store(runs)
    with closing(socket.socket()) as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    words = [*before, sys.executable, "-m", "hmoe.cli", "ui", f"runs={runs}", f"port={port}"]
    with subprocess.Popen(words, start_new_session=True, stdout=subprocess.DEVNULL) as process:
        try:
            assert eventually(lambda: answers(port))
            yield process, port
        finally:
            process.terminate()


def answers(port):
    try:
        with urllib.request.urlopen(f"http://127.0.0.1:{port}/health") as answer:
            return answer.status == 200
    except OSError:
        return False


def eventually(holds):
    return any(holds() or time.sleep(0.5) for _ in range(120))
