"""The processes that hmoe owns: how soon they start, and what it gains that they keep memory.

Rows of `started`: seconds from the command to its answer. Rows of `kept`: training steps in a
process that keeps its freed memory (`hmoe.training.keep_memory`) against one that gives it back.
"""

import json
import multiprocessing
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from functools import partial
from itertools import count
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import torch

import hmoe
from hmoe.bench.measure import AIM_COLUMNS, Aim, in_turns, save, spread, table, wide_console
from hmoe.config import compose
from hmoe.errors import ConfigError
from hmoe.training import assemble, keep_memory

_HMOE = (sys.executable, "-m", "hmoe.cli")
_RUNS = {
    "digits, residual MLP": ("data=digits", "model=mlp"),
    "stdlib, transformer": ("data=stdlib", "model=transformer"),
}
_LAYERS = {"layer of 16 experts": 16, "layer of 256 experts": 256}
_TURN_STEPS = dict(zip((*_RUNS, *_LAYERS), (100, 3, 5, 5), strict=True))


def bench_process(*, rounds: int, out: Path, overrides: Sequence[str], command: str) -> Path:
    """Seconds to help and to the first step, and what kept memory gains and costs.

    Prints tables, writes `process.json` into `out` and returns its path.

    Raises:
        ConfigError: an override; there is nothing to choose here.
    """
    if overrides:
        raise ConfigError(f"{overrides[0]}: process has no options but rounds and out.")
    runs: dict[str, Callable[[], float]] = {"help": help_seconds}
    for name, choices in _RUNS.items():
        runs[f"first step of {name}"] = partial(first_step_seconds, choices)
    started = [
        {"what": what, "seconds": spread([run() for _ in range(rounds)])}
        for what, run in runs.items()
    ]
    bounds = (0.5, *(8.0 for _ in _RUNS))
    aims = [
        Aim(f"seconds to the {row['what']}", row["seconds"]["median"], bound, "at most").row()
        for row, bound in zip(started, bounds, strict=True)
    ]
    kept = [kept_against_freed(case, rounds) for case in _TURN_STEPS]
    console = wide_console()
    console.print(table("seconds from the command", started, ("what", "seconds")))
    console.print(table("aims", aims, AIM_COLUMNS))
    title = "a step with memory kept / freed, and peak memory"
    console.print(table(title, kept, ("case", "step_ratio", "kept_mib", "freed_mib")))
    record = {"started": started, "aims": aims, "kept": kept}
    return save(record, suite="process", out=out, command=command)


def help_seconds() -> float:
    """Seconds that `hmoe --help` takes."""
    start = time.perf_counter()
    subprocess.run([*_HMOE, "--help"], check=True, capture_output=True)
    return time.perf_counter() - start


def first_step_seconds(choices: Sequence[str]) -> float:
    """Seconds from `hmoe train` to its first step, in a folder where nothing was tracked before."""
    once = ("trainer.max_steps=1", "trainer.log_every=1", "test=false")
    with tempfile.TemporaryDirectory() as runs:
        start = time.time()
        subprocess.run(
            [*_HMOE, "train", *choices, *once, f"runs={runs}", "name=first"],
            check=True,
            capture_output=True,
        )
        line = (Path(runs) / "train" / "first" / "events.jsonl").read_text().splitlines()[0]
    return json.loads(line)["time"] - start


def kept_against_freed(case: str, rounds: int) -> dict[str, Any]:
    """Steps in two processes, in turns: one keeps freed memory, one gives it back."""
    # Spawned: a forked child would start with its parent's memory.
    context = multiprocessing.get_context("spawn")
    pipes: dict[str, Connection] = {}
    for name in ("kept", "freed"):
        pipes[name], theirs = context.Pipe()
        context.Process(target=_serve, args=(case, name == "kept", theirs), daemon=True).start()

    peaks: dict[str, float] = {}

    def steps_in(name: str) -> None:
        pipes[name].send(True)
        peaks[name] = pipes[name].recv()

    turns = {name: partial(steps_in, name) for name in pipes}
    times = in_turns(turns, rounds=rounds, title=case)
    for pipe in pipes.values():
        pipe.send(False)
    ratios = times["kept"].over(times["freed"], "wall")
    return {
        "case": case,
        "step_ratio": spread(ratios),
        "kept_mib": peaks["kept"],
        "freed_mib": peaks["freed"],
        "ratios": ratios,
    }


def _serve(case: str, keep: bool, pipe: Connection) -> None:
    """Take a turn's steps whenever the pipe says so, and answer with the peak memory in MiB."""
    if keep:
        keep_memory()
    torch.manual_seed(0)
    step = _layer_step(_LAYERS[case]) if case in _LAYERS else _model_step(_RUNS[case])
    while pipe.recv():
        for _ in range(_TURN_STEPS[case]):
            step()
        pipe.send(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024)


def _layer_step(num_experts: int) -> Callable[[], None]:
    """Forward and backward of 4,096 tokens of width 256 through a flat layer, top 2."""
    layer = hmoe.build(
        *(f"tree.spec=[{num_experts}]", "selection.k=2", "balance=none"), dim=256, hidden_dim=512
    )
    x_TD = torch.randn(4096, 256)

    def step() -> None:
        layer.zero_grad()
        layer(x_TD)[0].square().mean().backward()

    return step


def _model_step(choices: Sequence[str]) -> Callable[[], None]:
    """A training step of a run, without its trainer."""
    parts = assemble(compose([*choices, "trainer.accelerator=cpu"]))
    optimizer, _ = parts.optim.make(parts.model, parts.options.max_steps)
    learner, steps = parts.learner(Path()), count()  # nothing is validated, so nothing written

    def step() -> None:
        optimizer.zero_grad()
        learner.loss(parts.data.train_batch(next(steps)))[0].backward()
        optimizer.step()

    return step
