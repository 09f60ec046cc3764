"""The commands that look at what is there: report, compare, repro, ui.

Heavy libraries are imported inside the commands, as in `hmoe.cli`.
"""

from collections.abc import Sequence
from pathlib import Path

from hmoe.config import plain_values
from hmoe.errors import ConfigError


def report(overrides: Sequence[str]) -> int:
    """Write the report of a study from MLflow again; paper=true adds figures for print."""
    known = {"sweep": None, "name": None, "runs": "runs", "paper": False}
    options = plain_values(overrides, known)
    if not isinstance(options["paper"], bool):
        raise ConfigError(f"paper = {options['paper']}: expected true or false.")
    name = options["name"] or options["sweep"]
    if name is None:
        raise ConfigError("sweep= is missing: name the study, such as sweep=hierarchy.")
    runs = Path(options["runs"])
    if not (runs / name).exists():
        _refuse_unstarted(runs, name)
    return publish(runs, name, paper=options["paper"])


def compare(words: Sequence[str]) -> int:
    """Set two runs or arms beside each other: settings, costs, metrics, paired differences."""
    from rich.console import Console

    from hmoe.report import find_side, print_comparison

    (a, b), runs = _names(words, ("A", "B"))
    print_comparison(Console(), find_side(runs, a), find_side(runs, b))
    return 0


def repro(words: Sequence[str]) -> int:
    """Print the command that repeats a run, and whether what it rested on is still the same."""
    from hmoe.tracking import find_run, run_folder_of
    from hmoe.training import check_run

    (name,), runs = _names(words, ("RUN",))
    folder = Path(name) if Path(name).is_dir() else run_folder_of(runs, find_run(runs, name))
    command, checks = check_run(folder)
    print(command)
    for check in checks:
        told = "same" if check.same else f"differs: then {check.then}, now {check.now}"
        print(f"{check.name:20} {told}")
    return 0 if all(check.same for check in checks) else 1


def ui(overrides: Sequence[str]) -> int:
    """Open MLflow on this machine."""
    options = plain_values(overrides, {"runs": "runs", "port": 5000})
    if not isinstance(options["port"], int):
        raise ConfigError(f"port = {options['port']}: expected a whole number.")
    from hmoe.tracking import serve

    return serve(Path(options["runs"]), options["port"])


def publish(runs: Path, name: str, *, paper: bool = False) -> int:
    """Write the report, put the answer on the parent run, and say where to look."""
    from hmoe.report import answer, pareto_front, write_report
    from hmoe.tracking import Store, read_study

    page = write_report(runs, name, Path("reports") / name, paper=paper)
    study = read_study(runs, name)
    front, told = pareto_front(study), answer(study)
    note = f"{told}\n\nBest commands:\n\n"
    note += "".join(f"    {run.command}\n" for run in front)
    note += f"\nReport: {page}, also the artifact report/{page.name}."
    Store(runs).set_answer(study.id, note=note, pareto=[r.id for r in front], report=page.parent)
    print(told)
    print(f"report: {page}")
    print("runs:   make ui, then http://127.0.0.1:5000")
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


def _names(words: Sequence[str], wanted: Sequence[str]) -> tuple[list[str], Path]:
    """The names among the words, as many as wanted, and the runs folder."""
    names = [word for word in words if "=" not in word]
    if len(names) != len(wanted):
        raise ConfigError(
            f"{' '.join(wanted)}: {len(names)} names given, {len(wanted)} expected: runs by name, "
            "id or folder, or arms as study/arm."
        )
    options = plain_values([word for word in words if "=" in word], {"runs": "runs"})
    return names, Path(options["runs"])
