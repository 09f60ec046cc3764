"""The commands that train nothing: bench, describe, report, compare, repro, inspect, ui.

Heavy libraries are imported inside the commands, as in `hmoe.cli`.
"""

import os
import shlex
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from hmoe.cli_progress import progress
from hmoe.cli_words import names_in, run_named
from hmoe.config import CONF, compose, plain_values, read_experiment, read_system
from hmoe.errors import ConfigError, check_names

if TYPE_CHECKING:
    from hmoe.metrics import Inspection
    from hmoe.tracking import Study

_PORT = 5000
_WORKERS = 4  # each holds data and a model


def bench(overrides: Sequence[str]) -> int:
    """Run suites of benchmarks, such as `train`: ratios of things measured in turns."""
    from hmoe.bench import SUITES
    from hmoe.training import keep_memory

    suites = [o for o in overrides if "=" not in o]
    check_names("suite", suites, SUITES)
    if not suites:
        raise ConfigError(f"a suite is missing: name one or more of {', '.join(SUITES)}.")
    own = [o for o in overrides if o.split("=")[0] in ("rounds", "out")]
    options = plain_values(own, {"rounds": 5, "out": "reports/bench"})
    if not isinstance(options["rounds"], int) or options["rounds"] < 1:
        raise ConfigError(f"rounds = {options['rounds']}: expected a whole number of at least 1.")
    rest = [o for o in overrides if o not in own and o not in suites]
    keep_memory()  # what is measured is what `hmoe train` would do
    for suite in suites:
        command = shlex.join(["hmoe", "bench", suite, *own, *rest])
        out = Path(options["out"])
        print(SUITES[suite](rounds=options["rounds"], out=out, overrides=rest, command=command))
    return 0


def describe(overrides: Sequence[str]) -> int:
    """Draw the tree and say what the model costs, without training."""
    cfg = compose(overrides)
    from hmoe.models import description
    from hmoe.training import assemble

    parts = assemble(cfg, device="meta")
    if cfg.experiment is not None:
        experiment = read_experiment(cfg.experiment, CONF)
        print(experiment.title)
        for name in ("score", "time", "hardware"):
            print(f"  {name:9} {getattr(experiment, name)}")
        print()
    if cfg.system is not None:
        system = read_system(cfg.system, CONF)
        print(system.title)
        for name in ("source", "equation", "differs"):
            print(f"  {name:9} {getattr(system, name)}")
        print()
    print(description(parts.model))
    return 0


def report(overrides: Sequence[str]) -> int:
    """Write the report of a study again; paper=true adds figures for print."""
    known = {"sweep": None, "name": None, "runs": "runs", "paper": False}
    overrides, tokens = split_tokens(overrides, default=0)
    options = plain_values(overrides, known)
    if not isinstance(options["paper"], bool):
        raise ConfigError(f"paper = {options['paper']}: expected true or false.")
    name = options["name"] or options["sweep"]
    if name is None:
        raise ConfigError("sweep= is missing: name the study, such as sweep=hierarchy.")
    runs = Path(options["runs"])
    if not (runs / name).exists():
        _refuse_unstarted(runs, name)
    return publish(runs, name, paper=options["paper"], tokens=tokens)


def compare(words: Sequence[str]) -> int:
    """Set two runs or arms beside each other: settings, costs, metrics, paired differences."""
    from rich.console import Console

    from hmoe.report import find_side, print_comparison

    (a, b), options = names_in(words, ("A", "B"))
    runs = Path(options["runs"])
    print_comparison(Console(), find_side(runs, a), find_side(runs, b))
    return 0


def repro(words: Sequence[str]) -> int:
    """Print the command that repeats a run, and whether what it rested on is still the same."""
    from hmoe.training import check_run

    (name,), options = names_in(words, ("RUN",))
    folder, _ = run_named(Path(options["runs"]), name)
    command, checks = check_run(folder)
    print(command)
    for check in checks:
        told = "same" if check.same else f"differs: then {check.then}, now {check.now}"
        print(f"{check.name:20} {told}")
    return 0 if all(check.same for check in checks) else 1


def inspect(words: Sequence[str]) -> int:
    """Look into a trained run: load, knowledge and weight of every node, written beside it.

    Into `inspection`, or for a run of a study, which keeps its own record there, into a folder
    named by split and tokens; `out=` names another.
    """
    from rich.console import Console

    from hmoe.inspection import FOLDER, inspect_run, print_inspection
    from hmoe.report import write_organisation

    known = {"split": "val", "tokens": 65536, "checkpoints": None, "out": None}
    (name,), options = names_in(words, ("RUN",), known)
    if not isinstance(options["tokens"], int):
        raise ConfigError(f"tokens = {options['tokens']}: expected a whole number.")
    runs = Path(options["runs"])
    folder, run = run_named(runs, name)
    with progress() as show:
        inspection = inspect_run(
            folder,
            split=options["split"],
            tokens=options["tokens"],
            name=run.name if run else folder.name,
            arm=run.arm if run and run.arm != run.name else "",
            checkpoints=Path(options["checkpoints"]) if options["checkpoints"] else None,
            show=show,
        )
    own = FOLDER
    if run is not None and run.kind != "train":
        own = f"{FOLDER}_{options['split']}_{options['tokens']}"
    out = Path(options["out"]) if options["out"] else folder / own
    inspection.save(out)
    page = write_organisation([inspection], out, paper=True)
    if run is not None:
        _log_inspection(runs, run.id, inspection, out)
    print_inspection(Console(), inspection)
    print(page)
    return 0


def ui(overrides: Sequence[str]) -> int:
    """Open MLflow on this machine."""
    options = plain_values(overrides, {"runs": "runs", "port": _PORT})
    if not isinstance(options["port"], int):
        raise ConfigError(f"port = {options['port']}: expected a whole number.")
    from hmoe.tracking import serve

    return serve(Path(options["runs"]), options["port"])


def split_tokens(overrides: Sequence[str], default: int = 16_384) -> tuple[list[str], int]:
    """The other overrides, and on how many tokens to inspect the runs that an answer rests on.

    Raises:
        ConfigError: `inspect=` is no number of tokens.
    """
    own = [o for o in overrides if o.startswith("inspect=")]
    tokens = plain_values(own, {"inspect": default})["inspect"]
    if isinstance(tokens, bool) or not isinstance(tokens, int) or tokens < 0:
        raise ConfigError(f"inspect = {tokens}: expected a number of tokens, or 0 for none.")
    return [o for o in overrides if o not in own], tokens


def publish(
    runs: Path, name: str, *, paper: bool = False, tokens: int = 0, workers: int | None = None
) -> int:
    """Write the report, put the answer on the parent run, and say where to look.

    Args:
        tokens: to inspect the confirmed runs on that were not inspected yet; 0 inspects none.
        workers: runs inspected at once; None is one a core, four at most.
    """
    from hmoe.report import answer, means, pareto_front, write_report
    from hmoe.tracking import Store, links, read_study

    study = read_study(runs, name)
    workers = workers or min(os.cpu_count() or 1, _WORKERS)
    inspections = _inspections(runs, study, tokens, workers)
    out = Path("reports") / name
    page = write_report(runs, name, out, paper=paper, inspections=inspections)
    front = pareto_front(study)
    note = f"{answer(study)}\n\nBest commands:\n\n"
    note += "".join(f"    {run.command}\n" for run in front)
    note += f"\nReport: {page}, also the artifact report/{page.name}."
    Store(runs).set_answer(
        study.id,
        note=note,
        pareto=[run.id for run in front],
        means=means(study),
        report=page.parent,
    )
    print(answer(study))
    print(f"report: {page}")
    print(f"runs:   make ui, then {links(runs, _PORT)[name][0]}")
    return 0


def _refuse_unstarted(runs: Path, name: str) -> None:
    """Say how to start a study that has a sweep file and no runs."""
    from hmoe.study import SWEEPS
    from hmoe.tracking import study_names

    kept = study_names(runs) if (runs / "mlflow.db").exists() else []  # its folders may be gone
    if (SWEEPS / f"{name}.yaml").exists() and name not in kept:
        raise ConfigError(
            f"sweep={name}: has not been started in {runs}. Start it with "
            f"`hmoe sweep sweep={name}`."
        )


def _inspections(
    runs: Path, study: "Study", tokens: int, workers: int
) -> "Mapping[str, Inspection]":
    """What is known of the organisation of the runs on which the answer rests, by their ids."""
    from hmoe.inspection import FOLDER, inspect_study, known_inspections
    from hmoe.tracking import run_folder_of

    if tokens == 0:
        found = known_inspections(runs, study)
    else:
        with progress() as show:
            found = inspect_study(runs, study, tokens=tokens, workers=workers, show=show)
    for run in study.runs:
        if run.id in found.new:
            folder = run_folder_of(runs, run) / FOLDER
            _log_inspection(runs, run.id, found.known[run.id], folder)
    for run_name, reason in found.left_out.items():
        print(f"not inspected: {run_name}: {reason}", file=sys.stderr)
    return found.known


def _log_inspection(runs: Path, run_id: str, inspection: "Inspection", folder: Path) -> None:
    """Keep an inspection as artifacts of its run, and its layer that knows most as images."""
    from hmoe.report import frames, views
    from hmoe.tracking import Store

    store = Store(runs)
    store.log_folder(run_id, folder, folder.name)
    first = views(inspection)[0]
    # A step that has an image keeps it: another pass or another layer has a key of its own.
    key = f"organisation/{inspection.split}_{inspection.num_tokens}/{first.layer.name}"
    store.log_images(run_id, key, frames(first))
