"""The command line: `hmoe <command> [key=value ...]`, every command with Hydra's overrides.

Heavy libraries are imported inside the commands, so that help and mistakes are answered at once.
"""

import argparse
import json
import shlex
import signal
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from hmoe.cli_reproduce import reproduce
from hmoe.cli_text import fetch, generate
from hmoe.cli_views import (
    bench,
    compare,
    describe,
    inspect,
    publish,
    report,
    repro,
    split_tokens,
    ui,
)
from hmoe.config import compose, digest, plain_values
from hmoe.errors import ConfigError, HmoeError, nearest

INTERRUPTED = 130


def main(argv: Sequence[str] | None = None) -> None:
    """Entry point of the `hmoe` command."""
    parser, words = _parser(), list(sys.argv[1:] if argv is None else argv)
    if not words:
        parser.print_help(sys.stderr)
        sys.exit(2)
    if not words[0].startswith("-") and words[0] not in _COMMANDS:
        known = ", ".join(_COMMANDS)
        hint = nearest(words[0], _COMMANDS)
        parser.error(f"invalid choice: '{words[0]}'.{hint} Commands: {known}.")
    arguments, later = parser.parse_known_args(words)  # names and values may follow an option
    if strange := [word for word in later if word.startswith("-")]:
        parser.error(f"unrecognized arguments: {' '.join(strange)}")
    try:
        own = {name: vars(arguments)[name] for name in _OPTIONS.get(arguments.command, {})}
        status = arguments.run([*arguments.overrides, *later], **own)
    except HmoeError as error:
        print(f"hmoe {arguments.command}: {error}", file=sys.stderr)
        status = INTERRUPTED if type(error).__name__ == "SweepInterruptedError" else 2
    except KeyboardInterrupt:
        status = INTERRUPTED
    sys.exit(status)


def train(overrides: Sequence[str]) -> int:
    """Train one run; the last line on standard output is the path of its result.json."""
    cfg = compose(overrides)
    name, folder = _new_folder(cfg, "train")
    runs = Path(cfg.runs)
    command = shlex.join(["hmoe", "train", *overrides])
    about = {"study": "train", "kind": "train", "name": name, "arm": name}
    about |= {"seed": cfg.seed, "command": command}
    follower = None

    def follow() -> None:
        from hmoe.tracking import Follower

        nonlocal follower
        (folder / "failure.json").unlink(missing_ok=True)
        follower = Follower(runs=runs, folder=folder, about=about)

    signal.signal(signal.SIGTERM, signal.default_int_handler)  # answered as Ctrl-C is
    try:
        from hmoe.training import keep_memory
        from hmoe.training import train as train_run

        keep_memory()
        result = train_run(cfg, folder, command=command, progress=True, on_start=follow)
    except (KeyboardInterrupt, SystemExit):
        again = overrides if cfg.name else [*overrides, f"name={name}"]
        print(f"stopped; go on with: {shlex.join(['hmoe', 'train', *again])}", file=sys.stderr)
        return INTERRUPTED
    except Exception as error:
        if follower is not None:
            (folder / "failure.json").write_text(json.dumps({"message": str(error)}))
        raise
    finally:
        if follower is not None:
            follower.finish()
    _print_result(result)
    print(folder / "result.json")
    return 0 if result["state"] == "complete" else 1


def em(overrides: Sequence[str]) -> int:
    """Fit the mixture of 1994 by EM; the last line printed is the path of its result.json."""
    cfg = compose(overrides, root="em")
    _, folder = _new_folder(cfg, "em")
    from hmoe.training import EpochBar, fit

    command = shlex.join(["hmoe", "em", *overrides])
    with EpochBar() as bar:
        result = fit(cfg, folder, command=command, show=bar.show)
    for number, epoch in enumerate(result["epochs"]):
        shown = "  ".join(f"{key} {value:.4f}" for key, value in epoch.items())
        print(f"epoch {number:3}  {shown}")
    _print_result(result)
    for split, epoch in result["convergence_epochs"].items():
        print(f"{'convergence_epoch/' + split:24} {epoch} of {len(result['epochs']) - 1}")
    print(folder / "result.json")
    return 0


def plan(overrides: Sequence[str]) -> int:
    """Match the arms of a sweep and show what it would take: time, memory, disk."""
    from rich.console import Console

    from hmoe.study import plan_table

    console = Console()
    plan, _ = _plan(overrides, console)
    console.print(plan_table(plan))
    plan.check()
    return 0


def sweep(overrides: Sequence[str]) -> int:
    """Run a sweep, or go on with it, confirm it if its file says so, and write its report."""
    from rich.console import Console

    from hmoe.study import ProgressDisplay, Standings, plan_table, run_sweep

    console = Console(stderr=True)
    overrides, tokens = split_tokens(overrides)
    plan, runs = _plan(overrides, console, start=True)
    plan.check()
    console.print(plan_table(plan))
    study = plan.sweep
    standings = Standings("trial", study, plan.planned, runs / study.name)
    display = ProgressDisplay(console, standings)
    command = shlex.join(["hmoe", "sweep", *overrides])
    with display.live():
        run_sweep(study, plan.planned, runs, command=command, show=display.show)
    if study.confirm is None:
        return publish(runs, study.name, tokens=tokens, workers=study.workers)
    own = [o for o in overrides if not o.startswith("probe=")]
    return _confirm(study, plan.planned, runs, own, tokens)


def confirm(overrides: Sequence[str]) -> int:
    """Train the best of each arm on fresh seeds, with a look at the test set, and report."""
    from hmoe.study import planned_arms

    overrides, tokens = split_tokens(overrides)
    study, runs = _load_sweep(overrides)
    return _confirm(study, planned_arms(study, runs), runs, overrides, tokens)


def _confirm(
    study: Any, arms: Sequence[Any], runs: Path, overrides: Sequence[str], tokens: int
) -> int:
    """Confirm a study whose arms are planned; the overrides are those that do it again."""
    from rich.console import Console

    from hmoe.study import (
        ProgressDisplay,
        Standings,
        confirmation_table,
        plan_confirmation,
        run_confirmation,
    )

    console = Console(stderr=True)
    plan = plan_confirmation(study, arms, runs)
    console.print(confirmation_table(study, arms, plan))
    display = ProgressDisplay(console, Standings("confirm", study, arms, runs / study.name))
    command = shlex.join(["hmoe", "confirm", *overrides])
    with display.live():
        run_confirmation(study, arms, runs, plan, command=command, show=display.show)
    return publish(runs, study.name, tokens=tokens, workers=study.workers)


def status(overrides: Sequence[str]) -> int:
    """Show how far a sweep is; watch=true goes on until it ends."""
    from rich.console import Console

    from hmoe.study import planned_arms, show_status
    from hmoe.study.registration import read_registration

    own = [o for o in overrides if o.startswith("watch=")]
    options = plain_values(own, {"watch": False})
    if not isinstance(options["watch"], bool):
        raise ConfigError(f"watch = {options['watch']}: expected true or false.")
    study, runs = _load_sweep([o for o in overrides if o not in own])
    read_registration(runs / study.name)
    show_status(Console(), study, planned_arms(study, runs), runs, watch=options["watch"])
    return 0


_COMMANDS: dict[str, tuple[Callable[..., int], str]] = {
    "train": (train, "hmoe train data=digits tree.spec=[4,4] selection.k=2"),
    "em": (em, "hmoe em data=robot_arm tree.spec=[2,2,2,2]"),
    "describe": (describe, "hmoe describe tree=company model=transformer data=stdlib"),
    "plan": (plan, "hmoe plan sweep=hierarchy"),
    "sweep": (sweep, "hmoe sweep sweep=hierarchy workers=2"),
    "confirm": (confirm, "hmoe confirm sweep=hierarchy"),
    "status": (status, "hmoe status sweep=hierarchy"),
    "report": (report, "hmoe report sweep=hierarchy"),
    "compare": (compare, "hmoe compare hierarchy/flat hierarchy/two_level"),
    "repro": (repro, "hmoe repro runs/hierarchy/flat/trial_000"),
    "reproduce": (reproduce, "hmoe reproduce all --check"),
    "inspect": (inspect, "hmoe inspect runs/hierarchy/two_level/trial_000 tokens=65536"),
    "generate": (generate, "hmoe generate runs/train/plays --prompt ROMEO: tokens=400"),
    "fetch": (fetch, "hmoe fetch tiny_shakespeare"),
    "ui": (ui, "hmoe ui port=5000"),
    "bench": (bench, "hmoe bench train rounds=9"),
}

# What is no key=value: a thing to do or not, and text that no grammar should read.
_OPTIONS: dict[str, dict[str, dict[str, Any]]] = {
    "reproduce": {
        "check": {"action": "store_true", "help": "judge stored results, run nothing"},
        "rewrite": {"action": "store_true", "help": "write their pages anew, run nothing"},
    },
    "generate": {"prompt": {"default": "", "metavar": "TEXT", "help": "what to go on from"}},
}


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="hmoe", description="Experiments with hierarchical mixtures of experts."
    )
    commands = parser.add_subparsers(dest="command", metavar="command")
    for name, (run, example) in _COMMANDS.items():
        summary = (run.__doc__ or "").splitlines()[0]
        command = commands.add_parser(
            name, help=summary, description=summary, epilog=f"example: {example}"
        )
        told = "overrides, or names"
        command.add_argument("overrides", nargs="*", metavar="key=value", help=told)
        for option, how in _OPTIONS.get(name, {}).items():
            command.add_argument(f"--{option}", **how)
        command.set_defaults(run=run)
    return parser


def _new_folder(cfg: Any, kind: str) -> tuple[str, Path]:
    """Name and folder of a run; refuse one that is complete."""
    name = cfg.name or f"{time.strftime('%Y%m%d-%H%M%S')}-{digest(cfg)[:6]}"
    folder = Path(cfg.runs) / kind / name
    if (folder / "result.json").exists():
        raise ConfigError(f"name = {name}: the run in {folder} is complete. Choose another name.")
    return name, folder


def _load_sweep(overrides: Sequence[str]) -> tuple[Any, Path]:
    """The sweep that `sweep=` names, changed by the other overrides, and the runs folder."""
    from hmoe.study import SWEEPS, load_sweep

    names = sorted(file.stem for file in SWEEPS.glob("*.yaml"))
    chosen = [o.removeprefix("sweep=") for o in overrides if o.startswith("sweep=")]
    if len(chosen) != 1:
        raise ConfigError(f"sweep= must be given once; there are {', '.join(names)}.")
    runs = [o.removeprefix("runs=") for o in overrides if o.startswith("runs=")]
    rest = [o for o in overrides if not o.startswith("sweep=")]
    return load_sweep(chosen[0], rest), Path(runs[-1] if runs else "runs")


def _plan(overrides: Sequence[str], console: Any, *, start: bool = False) -> tuple[Any, Path]:
    """The plan of a sweep, and the runs folder; probe=false measures nothing, probe=20 longer.

    A sweep that is to start is refused first if another process is at it.
    """
    from hmoe.study import plan_sweep
    from hmoe.study.registration import owned

    own = [o for o in overrides if o.startswith("probe=")]
    options = plain_values(own, {"probe": True})
    probe = options["probe"]
    if not isinstance(probe, int) or (probe is not False and probe < 1):
        raise ConfigError(f"probe = {probe}: expected true, false or a number of rounds.")
    study, runs = _load_sweep([o for o in overrides if o not in own])
    if start and (runs / study.name).exists():
        with owned(runs / study.name, study):
            pass
    with console.status("matching the arms and measuring a few steps of each"):
        return plan_sweep(study, runs, measure=probe), runs


def _print_result(result: dict[str, Any]) -> None:
    """The scores of a run, and beside bits per byte those of context models on the same bytes."""
    for key, value in result["metrics"].items():
        if not key.startswith("best/") and "/load/" not in key:
            print(f"{key:24} {value:.4f}")
    for key, value in result["metrics"].items():
        if key.startswith("val/load/") and key.endswith("/expert"):
            print(f"{key:24} {value:.4f}")
    for name, value in result.get("baselines", {}).items():
        print(f"{'baseline/' + name:24} {value:.4f}")


if __name__ == "__main__":
    main()
