"""Processes that hmoe owns keep memory and share the threads; others are left as they are."""

import gc
import os
import platform
import subprocess
import sys
from multiprocessing import forkserver

import pytest
import torch

from hmoe.training import keep_memory, spared_collection, start_server
from tests.tiny import train_in

GNU = platform.libc_ver()[0] == "glibc"
# Counts the arrays that were mapped apart from the heap, and are given back when they are freed.
MAPPED = """
import ctypes, torch
class Info(ctypes.Structure):
    _fields_ = [(name, ctypes.c_size_t) for name in "a b c mapped d e f g h i".split()]
def mapped():
    libc = ctypes.CDLL(None)
    libc.mallinfo2.restype = Info
    before = libc.mallinfo2().mapped
    kept = torch.empty(2**24)
    return libc.mallinfo2().mapped - before
"""
IN_CHILD = """
import multiprocessing, sys
from pathlib import Path
from hmoe.training import child
def train(cfg, run, **_):
    (run / "mapped").write_text(str(mapped()))
sys.modules["hmoe.training.train"].train = train
process = multiprocessing.get_context("fork").Process(
    target=child._main, args=({}, Path(sys.argv[1]), "")
)
process.start()
process.join()
print((Path(sys.argv[1]) / "mapped").read_text())
"""


def said(code: str, *argv: str) -> str:
    """What a fresh interpreter prints."""
    done = subprocess.run([sys.executable, "-c", code, *argv], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


@pytest.mark.skipif(not GNU, reason="only GNU's C library can be told")
def test_importing_hmoe_leaves_the_memory_of_a_process_as_it_is(tmp_path):
    assert said(f"{MAPPED}\nimport hmoe.layer\nprint(mapped())") == "1"


@pytest.mark.skipif(not GNU, reason="only GNU's C library can be told")
@pytest.mark.slow
def test_a_child_keeps_its_memory(tmp_path):
    assert said(MAPPED + IN_CHILD, str(tmp_path / "run")) == "0"


def test_a_library_that_cannot_keep_memory_is_left_alone(monkeypatch):
    class Musl:
        """Has mallopt for the sake of old programs, and no version of GNU's."""

        def mallopt(self, *_: int) -> int:
            raise AssertionError("asked a library that is not GNU's")

    monkeypatch.setattr("ctypes.CDLL", lambda _: Musl())
    assert keep_memory() is False


def test_the_server_of_children_starts_with_their_threads(monkeypatch):
    """OpenMP reads the variable once, when its library is loaded."""
    seen = []
    monkeypatch.setattr(
        forkserver, "ensure_running", lambda: seen.append(os.environ.get("OMP_NUM_THREADS"))
    )
    monkeypatch.setenv("OMP_NUM_THREADS", "7")
    start_server(3)
    assert os.environ["OMP_NUM_THREADS"] == "7"
    monkeypatch.delenv("OMP_NUM_THREADS")
    start_server(2)
    start_server(None)
    assert "OMP_NUM_THREADS" not in os.environ
    assert seen == ["3", "2", None]


def test_a_run_has_the_threads_it_asks_for(tmp_path):
    before = torch.get_num_threads()
    try:
        result = train_in(tmp_path / "run", "trainer.threads=2", "test=false")
        assert result["threads"] == torch.get_num_threads() == 2
    finally:
        torch.set_num_threads(before)


def test_old_objects_are_spared_for_as_long_as_the_work_lasts():
    """Frozen objects are those that no search for garbage looks at."""
    kept = [[] for _ in range(1000)]
    before = gc.get_freeze_count()
    with spared_collection():
        assert gc.get_freeze_count() >= before + len(kept)
    assert gc.get_freeze_count() <= before
    with pytest.raises(KeyError), spared_collection():
        raise KeyError
    assert gc.get_freeze_count() <= before
