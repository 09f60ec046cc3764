"""One layer, forward and backward: ours, its bounds and peers, in turns, over numbers of experts.

Letters: T tokens, D width, E experts, K experts per token.
"""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Literal

import torch
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from hmoe.bench.entries import Point, own_entries
from hmoe.bench.layer_rows import (
    ENTRY_COLUMNS,
    PEER_COLUMNS,
    Measured,
    Seen,
    entry_rows,
    floor_bound,
    layer_aims,
    peer_rows,
    record,
)
from hmoe.bench.measure import AIM_COLUMNS, in_turns, save, save_page, spread, table, wide_console
from hmoe.bench.memory import peak_beyond
from hmoe.bench.peers import Factory, added_entry, load_factory, peer_entries, peer_versions
from hmoe.bench.plot import Mark, Panel, plot_panels
from hmoe.bench.work import check_countable, work_of
from hmoe.config import explain, plain_values
from hmoe.errors import ConfigError

_DEFAULTS: dict[str, dict[str, Any]] = {
    "cpu": {
        **{"experts": [8, 16, 64, 256], "k": [1, 2], "tokens": 4096, "dim": 256},
        **{"hidden_dim": 512, "dtype": "float32"},
    },
    # Fine-grained experts.
    "cuda": {
        **{"experts": [64, 128], "k": [8], "tokens": 16384, "dim": 2048},
        **{"hidden_dim": 768, "dtype": "bfloat16"},
    },
}
_COMMON = {"sequence": 512, "device": "cpu", "threads": None, "peers": True, "add": []}
_ROLES = {"bound": "dense and floor", "plain": "plain", "hmoe": "hmoe", "peer": "peers"}


class LayerOptions(BaseModel):
    """What may be chosen on the command line.

    Attributes:
        experts, k: every pair of them is a point.
        sequence: tokens of a sequence, for peers that count their capacity by sequence.
        threads: of torch; null leaves them as they are.
        peers: whether layers of others take part.
        add: module:factory, one or a list, of layers to be measured as peers.
    """

    model_config = ConfigDict(strict=True, extra="forbid")

    experts: list[int] = Field(min_length=1)
    k: list[int] = Field(min_length=1)
    tokens: int = Field(ge=1)
    sequence: int = Field(ge=1)
    dim: int = Field(ge=8, multiple_of=8)
    hidden_dim: int = Field(ge=8, multiple_of=8)
    dtype: Literal["float32", "bfloat16"]
    device: Literal["cpu", "cuda"]
    threads: int | None = Field(ge=1)
    peers: bool
    add: str | list[str]

    def points(self) -> list[Point]:
        """All points, few experts first."""
        shape = (self.tokens, self.sequence, self.dim, self.hidden_dim)
        like = (getattr(torch, self.dtype), self.device)
        return [Point(*shape, e, k, *like) for e in self.experts for k in self.k]


def bench_layer(*, rounds: int, out: Path, overrides: Sequence[str], command: str) -> Path:
    """Measure every point, print tables, write `layer.json`, `layer.md` and `layer.svg` into `out`.

    Raises:
        ConfigError: an option or a factory that cannot be; before anything is measured.
    """
    options = read_options(overrides)
    added = {spec: load_factory(spec) for spec in _as_list(options.add)}
    for point in options.points():
        for spec, factory in added.items():
            added_entry(point, spec, factory)
    if options.threads is not None:
        torch.set_num_threads(options.threads)
    console, tables, points = wide_console(), [], []
    for point in options.points():
        points.append(measure(point, added, peers=options.peers, rounds=rounds))
        tables += (shown := _tables(points[-1]))
        console.print(*(table(*parts) for parts in shown))
    aims = [aim.row() for aim in layer_aims(points)]
    tables.append(("aims", aims, AIM_COLUMNS))
    console.print(table(*tables[-1]))
    found = {
        "options": options.model_dump(),
        "peers": peer_versions(),
        "points": [record(m) for m in points],
        "aims": aims,
    }
    path = save(found, suite="layer", out=out, command=command)
    save_page(out / "layer.md", command, tables)
    _plot(points, out / "layer.svg")
    return path


def read_options(overrides: Sequence[str]) -> LayerOptions:
    """Options from overrides, the rest from the defaults of the device.

    Raises:
        ConfigError: an unknown option, a value of the wrong kind, or widths, numbers of experts or
            a device that cannot be measured.
    """
    defaults = {**_DEFAULTS["cpu"], **_COMMON}
    device = plain_values(overrides, defaults)["device"]
    defaults |= _DEFAULTS.get(str(device), {})  # another device is refused below
    try:
        options = LayerOptions.model_validate(plain_values(overrides, defaults))
    except ValidationError as error:
        raise ConfigError("\n".join(explain(error))) from error
    for k in options.k:
        if not 1 <= k <= min(options.experts):
            raise ConfigError(f"k = {k}: from 1 to the smallest number of experts is expected.")
    if options.tokens % options.sequence:
        raise ConfigError(f"sequence = {options.sequence}: a divisor of tokens is expected.")
    if options.device == "cuda" and not torch.cuda.is_available():
        raise ConfigError("device = cuda: torch finds none here. Use device=cpu.")
    check_countable(dim=options.dim, hidden_dim=options.hidden_dim, experts=options.experts)
    return options


def measure(point: Point, added: dict[str, Factory], *, peers: bool, rounds: int) -> Measured:
    """Check and measure all entries at a point."""
    entries, absent = own_entries(point), {}
    if peers:
        theirs, absent = peer_entries(point)
        entries += theirs
    entries += [added_entry(point, spec, factory) for spec, factory in added.items()]
    widths = {"dim": point.dim, "hidden_dim": point.hidden_dim}
    work = {e.name: work_of(e.layer, e.x, **widths) for e in entries}
    missing = {e.name: e.without_gradient() for e in entries}
    beyond = {e.name: peak_beyond(e.pass_, e.layer, point.device) for e in entries}
    product, flops = _matrix_product(point)
    runs: dict[str, Callable[[], object]] = {e.name: e.run for e in entries}
    runs["matrix product"] = product
    times = in_turns(runs, rounds=rounds, title=point.title, device=point.device)
    seen = {
        e.name: Seen(e, times[e.name], work[e.name], beyond[e.name], missing[e.name])
        for e in entries
    }
    return Measured(point, seen, absent, (times["matrix product"], flops))


def _tables(measured: Measured) -> list[tuple[str, list[dict[str, Any]], Sequence[str]]]:
    """Titles, rows and columns of what is shown of a point."""
    title, theirs = measured.point.title, peer_rows(measured)
    shown = [(f"{title}: forward and backward", entry_rows(measured), ENTRY_COLUMNS)]
    return [*shown, (f"{title}: ours / peer", theirs, PEER_COLUMNS)] if theirs else shown


def _matrix_product(point: Point) -> tuple[Callable[[], object], int]:
    """One large product in the type of the point, and its FLOPs: the rate of the machine."""
    size = 8192 if point.device == "cuda" else 1024
    x = torch.randn(size, size, device=point.device, dtype=point.dtype)
    return lambda: x @ x, 2 * size**3


def _plot(points: Sequence[Measured], path: Path) -> None:
    panels = []
    for measured in points:
        marks = [
            Mark(_label(measured, name), group=_ROLES[seen.entry.role], **spread(ratios))
            for name, seen in measured.seen.items()
            for ratios in [measured.ratios(name, f"floor, {seen.entry.kind}")]
        ]
        marks.sort(key=lambda mark: mark.median)
        panels.append(Panel(measured.point.title, marks, aim=floor_bound(measured.point)))
    title = "One layer, forward and backward: median, lowest and highest turn"
    label = "time / grouped products alone, of the same kind"
    plot_panels(panels, path, title=title, x_label=label)


def _label(measured: Measured, name: str) -> str:
    """A name, with the share of rows served where it is not all."""
    share = measured.seen[name].work.served / measured.point.rows
    return name if share == 1 else f"{name} (serves {share:.0%})"


def _as_list(value: str | list[str]) -> list[str]:
    return [value] if isinstance(value, str) else value
