"""What the suite `layer` makes of its measurements: rows of tables, records, and its aims.

Ratios of time are by the wall's clock, neighbour by neighbour; where the processor's is shown it
says so.
"""

import statistics
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from hmoe.bench.entries import HALF, Entry, Point, flat_name, tree_name, trees, wants_half
from hmoe.bench.floors import Kind
from hmoe.bench.measure import Aim, Clock, Timing, spread
from hmoe.bench.work import Work

MIB = 2**20


@dataclass(frozen=True)
class Seen:
    """One entry and what was measured of it.

    Attributes:
        beyond: bytes at the peak, see `memory`.
        without_gradient: names of what got none; the input, or parameters.
    """

    entry: Entry
    timing: Timing
    work: Work
    beyond: int
    without_gradient: list[str]


@dataclass(frozen=True)
class Measured:
    """All entries at one point.

    Attributes:
        seen: by name, in turn.
        absent: peers that were not measured, and why.
        matrix: turns of one large product, and its FLOPs.
    """

    point: Point
    seen: dict[str, Seen]
    absent: dict[str, str]
    matrix: tuple[Timing, int]

    def ratios(self, name: str, other: str, clock: Clock = "wall") -> list[float]:
        """Time of one entry over that of another, turn by turn."""
        return self.seen[name].timing.over(self.seen[other].timing, clock)

    def median(self, name: str, other: str) -> float:
        return statistics.median(self.ratios(name, other))

    def rate_share(self, name: str) -> float | None:
        """FLOPs a second over those of one large product, as a median; None if not counted."""
        seen, (matrix, flops) = self.seen[name], self.matrix
        if not seen.work.flops:
            return None
        shares = [seen.work.flops / flops / ratio for ratio in seen.timing.over(matrix, "wall")]
        return statistics.median(shares)

    def per_served_row(self, name: str, other: str) -> list[float]:
        """Time per served row of one entry over that of another, turn by turn."""
        served = self.seen[other].work.served / self.seen[name].work.served
        return [ratio * served for ratio in self.ratios(name, other)]

    def serves_all(self, name: str) -> bool:
        return self.seen[name].work.served == self.point.rows


ENTRY_COLUMNS = (
    *("entry", "over_dense", "over_floor", "cpu", "served", "work"),
    *("beyond_mib", "over_plain", "rate"),
)
PEER_COLUMNS = (
    *("peer", "ours", "ours_over_peer", "cpu", "served", "dropped", "work"),
    *(
        "gradients",
        "ours_over_peer_per_served_row",
    ),
)


def entry_rows(measured: Measured) -> list[dict[str, Any]]:
    """One row an entry, in the columns `ENTRY_COLUMNS`; dense and floor are of the same kind."""
    plain = measured.seen["plain, gelu"].beyond
    rows = []
    for name, seen in measured.seen.items():
        kind = seen.entry.kind
        over_floor_cpu = measured.ratios(name, f"floor, {kind}", "cpu")
        rows.append(
            {
                "entry": name,
                "over_dense": spread(measured.ratios(name, f"dense, {kind}")),
                "over_floor": spread(measured.ratios(name, f"floor, {kind}")),
                "cpu": statistics.median(over_floor_cpu),
                **_checks(measured, name),
                "beyond_mib": seen.beyond / MIB,
                "over_plain": seen.beyond / plain if kind == "gelu" else None,
                "rate": measured.rate_share(name),
            }
        )
    return rows


def peer_rows(measured: Measured) -> list[dict[str, Any]]:
    """One row a peer, in the columns `PEER_COLUMNS`; of one that is absent, why."""
    rows: list[dict[str, Any]] = []
    for name, seen in measured.seen.items():
        twin = seen.entry.twin
        if twin is None:
            continue
        by_row = spread(measured.per_served_row(twin, name)) if seen.work.served else None
        rows.append(
            {
                "peer": name,
                "ours": twin,
                "ours_over_peer": spread(measured.ratios(twin, name)),
                "cpu": statistics.median(measured.ratios(twin, name, "cpu")),
                **_checks(measured, name),
                "gradients": f"{len(missing)} missing"
                if (missing := seen.without_gradient)
                else "all",
                "ours_over_peer_per_served_row": by_row,
            }
        )
    for name, reason in measured.absent.items():
        rows.append(dict.fromkeys(PEER_COLUMNS) | {"peer": name, "ours": reason})
    return rows


def _checks(measured: Measured, name: str) -> dict[str, Any]:
    """Whether the work is equal: rows served and dropped, over T k; FLOPs, over ours."""
    work, ours = measured.seen[name].work, measured.seen[_twin(measured, name)].work
    if not work.rows:
        return {"served": None, "dropped": None, "work": None}
    return {
        "served": work.served / measured.point.rows,
        "dropped": work.dropped(measured.point.rows),
        "work": work.flops / ours.flops,
    }


def _twin(measured: Measured, name: str) -> str:
    entry = measured.seen[name].entry
    return entry.twin or flat_name(entry.kind)


def record(measured: Measured) -> dict[str, Any]:
    """All of a point for the JSON file: every turn by both clocks, counts, checks."""
    matrix, flops = measured.matrix
    return {
        "experts": measured.point.experts,
        "k": measured.point.k,
        "matrix_product": {"flops": flops, "wall_s": matrix.wall_s, "cpu_s": matrix.cpu_s},
        "entries": [
            {
                **row,
                "kind": seen.entry.kind,
                "role": seen.entry.role,
                "rows": seen.work.rows,
                "rows_served": seen.work.served,
                "flops": seen.work.flops,
                "beyond_bytes": seen.beyond,
                "without_gradient": seen.without_gradient,
                "wall_s": seen.timing.wall_s,
                "cpu_s": seen.timing.cpu_s,
            }
            for row, seen in zip(entry_rows(measured), measured.seen.values(), strict=True)
        ],
        "peers": peer_rows(measured),
    }


def layer_aims(points: Sequence[Measured]) -> list[Aim]:
    """What the layer is to reach at the measured points; medians by the wall's clock."""
    aims = [aim for measured in points for aim in _own_aims(measured)]
    for kind in ("gelu", "swiglu"):
        aims += _peer_aims(points, kind)
    return aims + [aim for measured in points for aim in _hierarchical_aims(measured)]


def floor_bound(point: Point) -> float:
    """The most that our flat layer is to take of the time of grouped products alone."""
    return 1.10 if point.experts <= 64 else 1.15


def _own_aims(measured: Measured) -> list[Aim]:
    point, flat = measured.point, flat_name("gelu")
    bound = floor_bound(point)
    aims = [
        Aim(f"{point.title}: {flat_name(kind)} / floor", value, bound, "at most")
        for kind in ("gelu", "swiglu")
        for value in [measured.median(flat_name(kind), f"floor, {kind}")]
    ]
    names = [tree_name(spec) for spec in trees(point.experts)]
    for name in names:
        value = measured.median(name, flat)
        aims.append(Aim(f"{point.title}: {name} / flat", value, 1.05, "at most"))
    plain = measured.seen["plain, gelu"].beyond
    for name in (flat, *names):
        value = measured.seen[name].beyond / plain
        aims.append(Aim(f"{point.title}: memory, {name} / plain", value, 1.05, "at most"))
    if wants_half(point):
        value = measured.median(flat, HALF) if HALF in measured.seen else None
        name = f"{point.title}: float32 / bfloat16 experts"
        aims.append(Aim(name, value, 2.0, "at least", "the CPU has no instructions for bfloat16"))
    if point.device == "cuda":
        for kind in ("gelu", "swiglu"):
            value = measured.rate_share(flat_name(kind))
            name = f"{point.title}: {flat_name(kind)}, share of the matrix rate"
            aims.append(Aim(name, value, 0.70, "at least"))
    return aims


def _peer_aims(points: Sequence[Measured], kind: Kind) -> list[Aim]:
    """Against the fastest peer of a kind that serves all rows, at every point and on average."""
    aims, worst = [], []
    for measured in points:
        flat = flat_name(kind)
        found = [
            (measured.median(flat, name), name)
            for name, seen in measured.seen.items()
            if seen.entry.twin == flat and measured.serves_all(name)
        ]
        if found:
            ratio, name = max(found)
            worst.append(ratio)
            aims.append(Aim(f"{measured.point.title}: {flat} / {name}", ratio, 1.02, "at most"))
    name = f"mean over points: {flat_name(kind)} / fastest peer serving all rows"
    if not worst:
        return [Aim(name, None, 1.0, "at most", "no such peer was measured")]
    return [*aims, Aim(name, statistics.geometric_mean(worst), 1.0, "at most")]


def _hierarchical_aims(measured: Measured) -> list[Aim]:
    """Time per served row of lucidrains' hierarchical layer over that of the same tree of ours."""
    point = measured.point
    aims = []
    for spec, bound in (([4, 4], 1.5), ([16, 16], 2.5)):
        peer, ours = f"lucidrains {'x'.join(map(str, spec))}", tree_name(spec)
        name = f"{point.title}: {peer} / ours, per served row"
        if peer in measured.seen:
            value = statistics.median(measured.per_served_row(peer, ours))
            aims.append(Aim(name, value, bound, "at least"))
        elif peer in measured.absent:
            aims.append(Aim(name, None, bound, "at least", measured.absent[peer]))
    return aims
