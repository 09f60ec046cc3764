"""What a sweep shows in the terminal before it begins: its plan, and what it will confirm."""

from collections.abc import Sequence
from dataclasses import fields

from rich import box
from rich.console import Group
from rich.markup import escape
from rich.table import Table

from hmoe.study.confirm import Chosen
from hmoe.study.contract import PlannedArm, Spend
from hmoe.study.plan import Plan
from hmoe.study.spec import Sweep


def plan_table(plan: Plan) -> Group:
    """The arms, what one run of each spends, what the sweep takes, and why it cannot start."""
    tables = (_arms_table(plan), _spend_table(plan), _effort_table(plan))
    return Group(
        f"[bold]{escape(plan.sweep.question)}",
        *tables,
        *_bounds(plan),
        *_doubts(plan),
        *_uncounted(plan),
    )


def _uncounted(plan: Plan) -> list[str]:
    """What no probe has measured, where times are told."""
    told = "Not in these times: libraries, which a sweep loads once, and the report."
    return [] if plan.minutes is None else [told]


def _doubts(plan: Plan) -> list[str]:
    """How well the seconds are known that a contract makes alike."""
    doubts = {row.arm.name: row.doubt for row in plan.arms if row.doubt is not None}
    if plan.sweep.contract.match != "seconds" or not doubts:
        return []
    told = ", ".join(f"{arm} to {doubt:.1%}" for arm, doubt in doubts.items())
    return [escape(f"Seconds beside those of '{plan.sweep.contract.reference}' are known: {told}.")]


def _bounds(plan: Plan) -> list[str]:
    """Between which minutes a sweep that prunes ends: how much it prunes is not known before."""
    if plan.sweep.search.pruning is None or plan.least_minutes is None:
        return []
    return [
        "With pruning these times are the most, as if no trial were stopped early; at",
        f"least {_time(plan.least_minutes)}, as if all were stopped at their first rung.",
    ]


def _arms_table(plan: Plan) -> Table:
    table = _table("The arms", ("arm", "tree", "dial"), ("gate params", "FLOPs/token"))
    for arm in plan.planned:
        costs = _short(arm.cost.gate_params), _short(arm.cost.flops_per_token)
        table.add_row(arm.name, _tree(arm.tree), arm.setting, *costs)
    return table


def _spend_table(plan: Plan) -> Table:
    """The five quantities that a contract may be about."""
    contract, quantities = plan.sweep.contract, [field.name for field in fields(Spend)]
    table = _table(
        f"One run of each: {contract.match} of '{contract.reference}' within "
        f"{contract.tolerance:.2g}",
        ("arm",),
        (*(quantity.replace("_", "\n") for quantity in quantities), "off by"),
    )
    for arm in plan.planned:
        spent = [_short(getattr(arm.spend, quantity)) for quantity in quantities]
        off = f"{arm.deviation:+.2%}"
        missed = abs(arm.deviation) > contract.tolerance
        table.add_row(arm.name, *spent, f"[red]{off}" if missed else off)
    return table


def _effort_table(plan: Plan) -> Table:
    """Runs, memory, time and disk, arm by arm and together."""
    sweep, hours = plan.sweep, "GPU-hours" if plan.device == "cuda" else "core-hours"
    workers = "one worker" if sweep.workers == 1 else f"{sweep.workers} workers"
    table = _table(
        f"All runs: {workers}, {_bytes(plan.free_bytes)} free on disk",
        ("arm",),
        ("trials", "confirm", "memory", "time", hours, "disk"),
    )
    for row in plan.arms:
        table.add_row(
            row.arm.name,
            str(row.trials),
            str(row.confirmations),
            _bytes(row.probe.peak_bytes if row.probe else None),
            _time(row.minutes),
            _short(row.device_hours),
            _bytes(row.disk_bytes),
        )
    table.add_section()
    table.add_row(
        "all",
        str(sum(row.trials for row in plan.arms)),
        str(sum(row.confirmations for row in plan.arms)),
        "",
        _time(plan.minutes),
        _short(plan.device_hours),
        _bytes(plan.disk_bytes),
    )
    return table


def _table(title: str, names: Sequence[str], numbers: Sequence[str]) -> Table:
    table = Table(
        title=title, title_justify="left", title_style="bold", box=box.SIMPLE, padding=(0, 1, 0, 0)
    )
    for name in names:
        table.add_column(name, no_wrap=True)
    for number in numbers:
        table.add_column(number, justify="right", no_wrap=True)
    return table


def confirmation_table(sweep: Sweep, arms: Sequence[PlannedArm], plan: Chosen) -> Table:
    """What is trained again, how it fared in the search, and how long all of it will take."""
    seconds = len(plan.seeds) * sum(choice.seconds for choice in plan.choices.values())
    table = Table(
        title=f"{sweep.question}\n{len(plan.choices)} arms on seeds {plan.seeds[0]} to "
        f"{plan.seeds[-1]}, about {_time(seconds / sweep.workers / 60)}",
        title_justify="left",
        title_style="bold",
        box=box.SIMPLE,
        padding=(0, 1),
        caption="\n".join(f"not confirmed: {arm}: {why}" for arm, why in plan.left_out.items()),
        caption_justify="left",
    )
    for column in ("arm", "trial", "in the search", "settings"):
        table.add_column(column, no_wrap=column == "arm")
    metrics = {arm.name: arm.objectives[0] for arm in arms}
    for name, choice in plan.choices.items():
        reached = f"{metrics[name]} {choice.value:.4g}"
        table.add_row(name, str(choice.slot + 1), reached, " ".join(choice.drawn))
    return table


def _tree(text: str) -> str:
    """The tree in a word: its branching factors, or that its units have names."""
    return "named" if text.startswith("{") else text or "dense"


def _short(number: float | None) -> str:
    """Four digits and a unit, or of small numbers two; "-" for what was not measured."""
    if number is None:
        return "-"
    for unit, size in (("P", 1e15), ("T", 1e12), ("G", 1e9), ("M", 1e6), ("k", 1e3)):
        if number >= size:
            return f"{number / size:.4g}{unit}"
    return f"{number:.2g}" if number < 10 and number % 1 else f"{number:.0f}"


def _time(minutes: float | None) -> str:
    """In seconds below a minute."""
    if minutes is None:
        return "-"
    return f"{_short(minutes)} min" if minutes >= 1 else f"{_short(60 * minutes)} s"


def _bytes(number: int | None) -> str:
    """In units of 1024."""
    if number is None:
        return "-"
    for unit, size in (("GiB", 2**30), ("MiB", 2**20)):
        if number >= size:
            return f"{number / size:.4g} {unit}"
    return f"{number / 2**10:.4g} KiB"
