"""Results of reproductions: result.json with every number, a README beside it, and their check."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from datetime import UTC, datetime
from math import isclose
from pathlib import Path
from typing import Any

from hmoe.errors import ConfigError
from hmoe.files import write_atomically
from hmoe.reproductions.cells import criteria_of, fingerprint
from hmoe.reproductions.page import PICTURE, readme
from hmoe.reproductions.record import Cell, Measured, Reproduction
from hmoe.training import provenance

RESULT, README = "result.json", "README.md"
_NEAR = 1e-9
_PARTS = {
    "added_minutes",
    "cells",
    "criteria",
    "declared_at",
    "declared_criteria",
    "figures",
    "fingerprint",
    "size",
    "verdict",
}


def write_result(
    reproduction: Reproduction,
    measured: Sequence[Measured],
    out: Path,
    *,
    command: str,
    size: str,
    minutes: float | None,
    declared: Mapping[str, Any],
) -> dict[str, Any]:
    """Judge the cells, write result.json, README.md and the picture, and return the result.

    Args:
        reproduction: what was measured.
        measured: all its cells.
        out: folder to write into; made if missing.
        command: the shell command that repeats it.
        size: of the runs.
        minutes: all cells took by the clock; None if some were measured by an earlier call.
        declared: what was written down before the first cell. If the folder holds a result by the
            same criteria, they are as old as they were there.
    """
    figures = reproduction.figures(measured)
    result = {
        "name": reproduction.name,
        "size": size,
        "verdict": reproduction.verdict(figures),
        "criteria": criteria_of(reproduction),
        "declared_at": _first_declared(reproduction, out, declared),
        "declared_criteria": declared["criteria"],
        "figures": {name: asdict(figure) for name, figure in figures.items()},
        "cells": [[m.cell.arm, m.cell.seed, dict(m.values), m.seconds] for m in measured],
        "fingerprint": fingerprint(measured),
        "measured_at": sorted({m.commit for m in measured if m.commit}),
        "command": command,
        "minutes": minutes,
        "added_minutes": sum(m.seconds for m in measured) / 60,
        "at": datetime.now(UTC).isoformat(timespec="seconds"),
        **provenance(),
    }
    out.mkdir(parents=True, exist_ok=True)
    write_atomically(out / RESULT, json.dumps(result, indent=None, separators=(",", ":")))
    reproduction.draw(measured, out / PICTURE)
    write_atomically(out / README, readme(reproduction, result))
    return result


def _first_declared(reproduction: Reproduction, out: Path, declared: Mapping[str, Any]) -> float:
    at: float = declared["at"]
    try:
        before = read_result(reproduction, out)
    except ConfigError:  # there is none, or a damaged one, which is written anew
        return at
    same = before["declared_criteria"] == declared["criteria"]
    return min(at, before["declared_at"]) if same else at


def read_result(reproduction: Reproduction, folder: Path) -> dict[str, Any]:
    """The stored result.

    Raises:
        ConfigError: there is none, or what is there is none.
    """
    file = folder / RESULT
    if not file.is_file():
        raise ConfigError(f"{file}: nothing stored. Run it: hmoe reproduce {reproduction.name}")
    try:
        found = json.loads(file.read_text(encoding="utf-8"))
    except json.JSONDecodeError as error:
        raise ConfigError(f"{file}: damaged ({error}). Restore it, or run it again.") from error
    if not isinstance(found, dict) or not found.keys() >= _PARTS:
        raise ConfigError(f"{file}: no result of hmoe reproduce. Restore it, or run it again.")
    return found


def rewrite(reproduction: Reproduction, folder: Path) -> None:
    """Write page and picture of a stored result anew, after a change of their words.

    Raises:
        ConfigError: there is no stored result, or its figures are no longer those of the code.
    """
    result = read_result(reproduction, folder)
    if found := _apart(reproduction, result):
        raise ConfigError(f"{folder / RESULT}: {found[0]}. Run hmoe reproduce {reproduction.name}")
    reproduction.draw(stored_cells(result), folder / PICTURE)
    write_atomically(folder / README, readme(reproduction, result))


def stored_cells(result: Mapping[str, Any]) -> list[Measured]:
    """The cells of a stored result."""
    return [Measured(Cell(arm, seed), v, s) for arm, seed, v, s in result["cells"]]


def drift(reproduction: Reproduction, folder: Path) -> list[str]:
    """What of a stored result no longer follows from its numbers, by the code of now.

    Raises:
        ConfigError: there is no stored result.
    """
    result = read_result(reproduction, folder)
    found = _apart(reproduction, result)
    if not (folder / PICTURE).is_file():
        found.append(f"{folder / PICTURE} is missing")
    page = folder / README
    if not page.is_file():
        found.append(f"{page} is missing")
    elif not found and page.read_text(encoding="utf-8") != readme(reproduction, result):
        found.append(f"{page} is not what the result says")
    return found


def _apart(reproduction: Reproduction, result: Mapping[str, Any]) -> list[str]:
    """Where numbers, criteria, figures and verdict of a result do not follow from one another."""
    measured, found = stored_cells(result), []
    cells = reproduction.cells(result["size"], reproduction.seeds)
    if lost := len(set(cells) - {m.cell for m in measured}):
        found.append(f"{lost} of {len(cells)} cells are missing")
    if fingerprint(measured) != result["fingerprint"]:
        found.append("the numbers of the cells were changed")
    if result["criteria"] != json.loads(json.dumps(criteria_of(reproduction))):
        found.append("criteria are not those of the code")
    figures = reproduction.figures(measured)
    stored = result["figures"]
    for name in sorted(figures.keys() ^ stored.keys()):
        found.append(f"figure {name} is only {'stored' if name in stored else 'in the code'}")
    for name in sorted(figures.keys() & stored.keys()):
        for key, value in asdict(figures[name]).items():
            if not _same(value, stored[name][key]):
                found.append(f"figure {name}, {key}: stored {stored[name][key]}, now {value}")
    if (verdict := reproduction.verdict(figures)) != result["verdict"]:
        found.append(f"verdict: stored {result['verdict']}, now {verdict}")
    return found


def _same(one: float | None, other: float | None) -> bool:
    if one is None or other is None:
        return one is other
    return isclose(one, other, rel_tol=_NEAR, abs_tol=_NEAR) or (one != one and other != other)
