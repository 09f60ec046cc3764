"""`hmoe reproduce`: published results, run again and judged, or only judged again."""

import os
import shlex
import signal
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, get_args

from hmoe.cli_progress import progress
from hmoe.cli_words import check_folders
from hmoe.config import plain_values
from hmoe.errors import ConfigError, check_names, nearest

if TYPE_CHECKING:
    from hmoe.reproductions import Reproduction

_KNOWN = {
    "root": "data",
    "seeds": None,
    "size": "cpu",
    "workers": None,
    "runs": "runs",
    "out": "reports/reproductions",
}


def reproduce(words: Sequence[str], *, check: bool, rewrite: bool) -> int:
    """Run published results again and judge them; `all` is every one, --check runs nothing."""
    from hmoe.reproductions import REPRODUCTIONS
    from hmoe.reproductions import rewrite as rewrite_page

    names = [word for word in words if "=" not in word]
    given = [word for word in words if "=" in word]
    options = _options(given)
    if not names:
        raise ConfigError(f"a name is missing: all, or of {', '.join(REPRODUCTIONS)}.")
    for name in names:
        if name != "all" and name not in REPRODUCTIONS:
            raise ConfigError(
                f"{name}: no such reproduction.{nearest(name, REPRODUCTIONS)} There are "
                f"{', '.join(REPRODUCTIONS)}, and all."
            )
    chosen = [r for r in REPRODUCTIONS.values() if "all" in names or r.name in names]
    _check_use(chosen, options, given, check=check, rewrite=rewrite)
    for reproduction in chosen if rewrite else ():
        rewrite_page(reproduction, Path(options["out"]) / reproduction.name)
    if rewrite:
        return 0
    if check:
        return _check(chosen, Path(options["out"]))
    for reproduction in chosen:  # what is missing is told before any work starts
        _find_sets(reproduction, Path(options["root"]))
    signal.signal(signal.SIGTERM, signal.default_int_handler)  # answered as Ctrl-C is
    for reproduction in chosen:
        _run(reproduction, options, shlex.join(["hmoe", "reproduce", reproduction.name, *given]))
    return 0


def _check_use(
    chosen: Sequence["Reproduction"],
    options: dict[str, Any],
    given: Sequence[str],
    *,
    check: bool,
    rewrite: bool,
) -> None:
    """Raise ConfigError for options that would be ignored, or would overwrite what is stored."""
    from hmoe.reproductions import REPRODUCTIONS

    if check and rewrite:
        raise ConfigError("--check and --rewrite: one of them; a page just written never drifts.")
    if unused := [word for word in given if check or rewrite if not word.startswith("out=")]:
        raise ConfigError(
            f"{unused[0]}: nothing is run with --check or --rewrite, which know out=."
        )
    own_out = any(word.startswith("out=") for word in given)
    for reproduction in chosen if options["seeds"] and not own_out else ():
        if options["seeds"] < reproduction.seeds:  # a trial must not overwrite what is stored
            raise ConfigError(
                f"seeds = {options['seeds']}: {reproduction.name} has {reproduction.seeds}. Say "
                "where the result of fewer goes: out=<folder>."
            )
    if no_gpu := [r.name for r in chosen if options["size"] == "gpu" and not r.gpu]:
        own = ", ".join(r.name for r in REPRODUCTIONS.values() if r.gpu)
        raise ConfigError(f"size = gpu: {no_gpu[0]} runs on the CPU alone; it is known to {own}.")


def _run(reproduction: "Reproduction", options: dict[str, Any], command: str) -> None:
    from hmoe.reproductions import cells_of_other_commits, declared, measure_all, write_result

    size, seeds = options["size"], options["seeds"] or reproduction.seeds
    folder = Path(options["runs"]) / "reproductions" / f"{reproduction.name}_{size}"
    fresh = not folder.exists()
    workers = options["workers"] or (os.cpu_count() or 1 if size == "cpu" else 1)
    started = time.time()
    print(f"{reproduction.name}: {reproduction.title}", file=sys.stderr)
    try:
        with progress(f"about {reproduction.minutes:g} min", time_left=True) as show:
            measured = measure_all(
                reproduction,
                root=Path(options["root"]),
                folder=folder,
                size=size,
                seeds=seeds,
                workers=workers,
                show=show,
            )
    except KeyboardInterrupt:
        print(f"stopped; go on with: {command}", file=sys.stderr)
        raise
    if older := cells_of_other_commits(measured):
        print(
            f"measured at {', '.join(older)}, not at this commit. If what these cells measure has "
            f"changed since, delete {folder} and run again.",
            file=sys.stderr,
        )
    # A GPU's result stands beside that of the CPU, which `--check` judges.
    out = Path(options["out"]) / (reproduction.name + "_gpu" * (size == "gpu"))
    result = write_result(
        reproduction,
        measured,
        out,
        command=command,
        size=size,
        minutes=(time.time() - started) / 60 if fresh else None,
        declared=declared(folder),
    )
    print(f"{reproduction.name}: {result['verdict']}")
    print(out / "README.md")


def _check(chosen: Sequence["Reproduction"], out: Path) -> int:
    from hmoe.reproductions import drift, read_result

    drifted = 0
    for reproduction in chosen:
        folder = out / reproduction.name
        try:
            found, stored = drift(reproduction, folder), read_result(reproduction, folder)
        except ConfigError as error:  # of several, the others are looked at
            print(f"{reproduction.name}: {error}")
            drifted += 1
            continue
        drifted += bool(found)
        print(f"{reproduction.name}: {stored['verdict']}{', DRIFTED' if found else ', as stored'}")
        for line in found:
            print(f"  {line}")
    return 1 if drifted else 0


def _options(overrides: Sequence[str]) -> dict[str, Any]:
    from hmoe.reproductions import Size

    options = plain_values(overrides, _KNOWN)
    for name, least in {"seeds": 2, "workers": 1}.items():  # one seed has no spread
        value = options[name]
        if value is not None and (type(value) is not int or value < least):
            raise ConfigError(f"{name} = {value}: expected a whole number of at least {least}.")
    check_folders(options, "root", "runs", "out")
    check_names("size", [options["size"]], get_args(Size))
    return options


def _find_sets(reproduction: "Reproduction", root: Path) -> None:
    """Raise DataError if a file that a reproduction reads is missing."""
    from hmoe.data import KNOWN_SETS

    for name in reproduction.sets:
        elsewhere = f"Or name the folder in which {name} lies: root=/path/to/folder."
        for file in KNOWN_SETS[name].files:
            KNOWN_SETS[name].find(root / name, file.name, elsewhere)
