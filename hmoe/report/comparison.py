"""Two runs or arms side by side: what they were set to, what they spent, what they reached."""

import json
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from rich import box
from rich.console import Console
from rich.measure import Measurement
from rich.table import Table

from hmoe.errors import ConfigError, nearest
from hmoe.report.contract import QUANTITIES, spent_by
from hmoe.report.numbers import NOTHING, count, interval, number, percent, plus_minus
from hmoe.report.tables import Spread, spread
from hmoe.statistics import Estimate, estimate
from hmoe.tracking import Run, find_run, read_study, stored_name, study_names

# Without a contract seconds, which are measured, need not agree.
_PROMISED = tuple(quantity for quantity in QUANTITIES if quantity != "seconds")
_TOLERANCE = 0.02
_ALPHA = 0.05
_WIDEST = 1000  # characters of a table
_NOT_SETTINGS = {"seed"}


@dataclass(frozen=True)
class Side:
    """One of two: a run, or the runs of an arm that are to be compared.

    Attributes:
        name: as it was asked for.
        runs: complete ones; of an arm its confirmation, or where there is none its trials.
    """

    name: str
    runs: tuple[Run, ...]

    @property
    def by_seed(self) -> dict[int, Run]:
        """The runs that have a seed, which pairs them with those of the other side."""
        return {run.seed: run for run in self.runs if run.seed is not None}

    @property
    def runs_in_words(self) -> str:
        """How many runs of which kind, "6 confirmation runs"."""
        kinds = {run.kind for run in self.runs}
        nouns = {"confirm": "confirmation run", "trial": "trial"}
        return count(len(self.runs), nouns.get(kinds.pop(), "run") if len(kinds) == 1 else "run")

    @property
    def exploratory(self) -> bool:
        """Whether its runs chose themselves by their values."""
        return any(run.kind == "trial" for run in self.runs)


@dataclass(frozen=True)
class CostRow:
    """A budget quantity: means, share by which B lies off A, and whether it should not."""

    name: str
    a: float | None
    b: float | None
    off: float | None
    broken: bool


@dataclass(frozen=True)
class MetricRow:
    """A metric: both spreads, and B - A on the S seeds that both have, in their order."""

    metric: str
    a: Spread | None
    b: Spread | None
    difference_S: tuple[float, ...]

    @property
    def difference(self) -> Estimate | None:
        """Mean paired difference with its 95 % interval by Student's t; None below two seeds."""
        return estimate(self.difference_S, _ALPHA) if len(self.difference_S) > 1 else None


def find_side(runs: Path, name: str) -> Side:
    """A run by its name, id or folder, or an arm as study/arm or by its folder.

    Raises:
        ConfigError: there is neither, or nothing of it is complete.
    """
    stored = stored_name(runs, name)
    study, _, arm = stored.rpartition("/")
    studies = study_names(runs)
    if stored in studies:
        own = ", ".join(f"{stored}/{arm}" for arm in read_study(runs, stored).arms)
        raise ConfigError(f"{name}: a study has many arms; name one: {own}.")
    if study in studies and arm in (found := read_study(runs, study)).arms:
        complete = [run for run in found.runs if run.arm == arm and run.state == "complete"]
        confirmed = [run for run in complete if run.kind == "confirm"]
        if not complete:
            raise ConfigError(f"{name}: no run of this arm is complete.")
        return Side(name, tuple(confirmed or complete))
    try:
        return Side(name, (find_run(runs, stored),))
    except ConfigError as error:
        if study not in studies:
            arms = [f"{known}/{arm}" for known in studies for arm in read_study(runs, known).arms]
            near = nearest(stored, arms)
            raise ConfigError(f"{error}{near and ' Among the arms:'}{near}") from error
        raise ConfigError(
            f"{name}: study {study} has no arm '{arm}' and no run of that name."
            f"{nearest(arm, found.arms)} Arms: {', '.join(found.arms)}."
        ) from error


def setting_rows(a: Side, b: Side) -> list[tuple[str, str, str]]:
    """(key, values of A, values of B) of the settings in which the two differ."""
    rows = []
    for key in dict.fromkeys(key for run in (*a.runs, *b.runs) for key in run.params):
        one, other = (_values(side.runs, key) for side in (a, b))
        if one != other and key not in _NOT_SETTINGS:
            rows.append((key, "; ".join(one) or NOTHING, "; ".join(other) or NOTHING))
    return rows


def cost_rows(a: Side, b: Side) -> list[CostRow]:
    """The budget quantities that both know. What was to be matched and is not, is broken.

    That is the quantity of the contract where both run under the same; else all but the seconds.
    """
    contracts = {run.tags.get("hmoe.contract", "") for run in (*a.runs, *b.runs)}
    promised, tolerance = _PROMISED, _TOLERANCE
    if len(contracts) == 1 and (text := contracts.pop()):
        contract = json.loads(text)
        promised, tolerance = (contract["match"],), contract["tolerance"]
    rows = []
    for name in dict.fromkeys([*QUANTITIES, *promised]):
        one, other = (spread(spent_by(side.runs, name)) for side in (a, b))
        off = other.mean / one.mean - 1 if one and other and one.mean else None
        broken = name in promised and off is not None and abs(off) > tolerance
        rows.append(
            CostRow(name, one.mean if one else None, other.mean if other else None, off, broken)
        )
    return rows


def metric_rows(a: Side, b: Side) -> list[MetricRow]:
    """The final values of both, but for loads of single levels, and their paired differences."""
    runs = (*a.runs, *b.runs)
    keys = [k for run in runs for k in run.metrics if k.startswith("final/") and "/level_" not in k]
    one, other = a.by_seed, b.by_seed
    rows = []
    for key in dict.fromkeys(keys):
        paired = [
            other[seed].metrics[key] - one[seed].metrics[key]
            for seed in sorted(one.keys() & other.keys())
            if key in one[seed].metrics and key in other[seed].metrics
        ]
        spreads = (spread(r.metrics[key] for r in s.runs if key in r.metrics) for s in (a, b))
        rows.append(MetricRow(key.removeprefix("final/"), *spreads, tuple(paired)))
    return rows


def print_comparison(console: Console, a: Side, b: Side) -> None:
    """Tables of settings, costs and metrics; in red, what should be equal and is not."""
    for letter, side in (("A", a), ("B", b)):
        console.print(f"{letter}: {side.name}, {side.runs_in_words}", highlight=False)
    if len(a.runs) > 1 or len(b.runs) > 1:
        console.print("An arm stands for its confirmation runs, or without any for its trials.")
    settings = _table("settings that differ", "A", "B")
    for row in setting_rows(a, b):
        settings.add_row(*row)
    console.print(settings)
    costs = _table("what they spent", "A", "B", "B off A")
    spent = cost_rows(a, b)
    for cost in spent:
        off = percent(cost.off, signed=True)
        style = "bold red" if cost.broken else None
        costs.add_row(cost.name, number(cost.a), number(cost.b), off, style=style)
    _print_whole(console, costs)
    console.print("B off A: the share of A by which B spent more (+) or less.")
    if broken := [cost.name for cost in spent if cost.broken]:
        console.print(
            f"not matched on {', '.join(broken)}: what they reached compares budgets too",
            style="bold red",
        )
    rows = metric_rows(a, b)
    paired = max((len(row.difference_S) for row in rows), default=0)
    metrics = _table(
        "what they reached",
        f"A (n = {len(a.runs)})",
        f"B (n = {len(b.runs)})",
        f"B - A [95 %] (n = {paired})",
    )
    for row in rows:
        found = row.difference
        metrics.add_row(
            row.metric,
            _text(row.a, len(a.runs)),
            _text(row.b, len(b.runs)),
            interval(found.mean, found.low, found.high) + _other(found.num_seeds, paired)
            if found
            else NOTHING,
        )
    _print_whole(console, metrics)
    if paired:
        console.print("B - A is taken seed by seed, on the seeds that both have.")
    if any(row.difference for row in rows) and (a.exploratory or b.exploratory):
        console.print("Trials of a search are a lead, not a finding: confirm them on fresh seeds.")


def _table(title: str, *headings: str) -> Table:
    table = Table(title=f"\n{title}", title_justify="left", box=box.SIMPLE, padding=(0, 1))
    table.pad_edge = table.show_edge = False
    table.add_column("")
    for heading in headings:
        table.add_column(heading, justify="right")
    return table


def _print_whole(console: Console, table: Table) -> None:
    """Print a table as wide as its longest cells, so that neither names nor values are broken."""
    table.width = Measurement.get(console, console.options.update(max_width=_WIDEST), table).maximum
    console.print(table, crop=False, no_wrap=True, overflow="ignore")


def _values(runs: Iterable[Run], key: str) -> list[str]:
    return sorted({run.params[key] for run in runs if key in run.params})


def _text(values: Spread | None, n: int) -> str:
    if values is None:
        return NOTHING
    return plus_minus(values.mean, values.sd) + _other(values.n, n)


def _other(n: int, heading: int) -> str:
    """The number of runs where it is not that of the heading."""
    return f" (n = {n})" if n != heading else ""
