"""Routing alone: who works on 4,096 tokens, and how the time grows from 2^8 to 2^20 experts.

Everything takes turns in one process, the sizes too, so that growth is a ratio of neighbours. A
router is left out where it would take minutes, or memory that a small machine has not: a flat gate
beyond 2^16 experts (2^12 backward), all nodes of a tree beyond 2^12.

Letters: T tokens, D width, N nodes, n nodes of a level, B groups in the running, b children of a
group, E experts, K experts per token.
"""

import gc
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

import hmoe
from hmoe.bench.measure import (
    AIM_COLUMNS,
    Aim,
    Timing,
    in_turns,
    save,
    save_page,
    spread,
    table,
    wide_console,
)
from hmoe.bench.plot import plot_lines
from hmoe.bench.routers import (
    DIM,
    Flat,
    OfLayer,
    ProductKeys,
    recalls,
    tied_layer,
    tree_layer,
    tree_spec,
)
from hmoe.config import plain_values
from hmoe.errors import ConfigError, nearest
from hmoe.layer import Tree
from hmoe.layer.asking import compare_asked, compare_level
from hmoe.layer.looks import Look

TOKENS = 4096
_SIZES = (2**8, 2**12, 2**16, 2**20)
_FORWARD, _BOTH = "forward", "forward + backward"
# Of each router how it is made, and the most experts it is asked for, forward and with backward.
_ROUTERS: dict[str, tuple[Callable[[int], nn.Module], int, int]] = {
    "flat": (Flat, 2**16, 2**12),
    "product keys": (ProductKeys, 2**20, 2**20),
    "tied tree": (tied_layer, 2**20, 2**20),
    "tree of 16": (lambda e: tree_layer(e, branching=16, beam=4), 2**20, 2**20),
    "tree of 32": (lambda e: tree_layer(e, branching=32, beam=4), 2**20, 2**20),
    "tree of 16, all nodes": (
        lambda e: tree_layer(e, branching=16, beam=4, ffn="hmoe"),
        2**12,
        2**12,
    ),
}
_RATIOS = ("over_product_keys", "over_4096")
_CROSSING = ("threads", "dim", "branching", "beam", "nodes", "asked", "level_over_asked")
_FILL = "first touch of a gradient"


def bench_routing(*, rounds: int, out: Path, overrides: Sequence[str], command: str) -> Path:
    """Measure, print tables, write `routing.json`, `routing.md` and `routing.svg` into `out`.

    Args:
        overrides: `device=cuda` (default cpu), `threads=[1]` (default [1,2]).

    Raises:
        ConfigError: another override.
    """
    device, threads = _options(overrides)
    rows: list[dict[str, Any]] = []
    crossings: list[dict[str, Any]] = []
    small: list[dict[str, Any]] = []
    for number in threads:
        with _threads(number):
            for passes in (_FORWARD, _BOTH):
                rows += growth(_SIZES, passes, rounds, device)
            crossings += dense_per_asked(rounds, device)
            small += lazy_over_dense((16, 64, 256, 1024, 4096), rounds, device)
    found = recalls(_SIZES[-1], device)
    aims = [aim.row() for aim in routing_aims(rows)]
    tables = [
        (
            "who works on 4,096 tokens",
            rows,
            ("threads", "passes", "router", "experts", "seconds", *_RATIOS),
        ),
        ("where dense scoring ends", crossings, _CROSSING),
        (
            "hmoe_lazy beside hmoe, forward + backward",
            small,
            ("threads", "tree", "lazy_over_dense"),
        ),
        (f"recall of the exact top 16 of {_SIZES[-1]}", found, ("router", "recall")),
        ("aims", aims, AIM_COLUMNS),
    ]
    wide_console().print(*(table(*parts) for parts in tables))
    record = {
        "routing": rows,
        "dense_per_asked": crossings,
        "lazy_over_dense": small,
        "recall": found,
        "aims": aims,
        "device": device,
    }
    path = save(record, suite="routing", out=out, command=command)
    save_page(out / "routing.md", command, tables)
    _plot([row for row in rows if row["threads"] == threads[-1]], out / "routing.svg")
    return path


def growth(sizes: Sequence[int], passes: str, rounds: int, device: str) -> list[dict[str, Any]]:
    """Seconds of every router at every size, and their ratios to product keys of that size."""
    x_TD = torch.randn(TOKENS, DIM, device=device, requires_grad=passes == _BOTH)
    runs: dict[tuple[str, int], Callable[[], object]] = {}
    for name, (make, *limits) in _ROUTERS.items():
        for num_experts in sizes:
            if num_experts <= limits[passes == _BOTH]:
                torch.manual_seed(0)
                run = _forward if passes == _FORWARD else _both
                runs[name, num_experts] = run(make(num_experts).to(device), x_TD)
    if passes == _BOTH:
        shape = Tree.from_spec(tree_spec(sizes[-1], 16)).num_nodes, DIM
        runs[_FILL, sizes[-1]] = lambda: torch.empty(shape, device=device).zero_()
    times = _in_turns(runs, rounds, f"routing, {passes}", device)
    gc.collect()
    return growth_rows(times, passes, torch.get_num_threads())


def growth_rows(
    times: Mapping[tuple[str, int], Timing], passes: str, threads: int
) -> list[dict[str, Any]]:
    """A row for every router and size; no growth where 2^12 was not measured."""
    return [
        {
            "threads": threads,
            "passes": passes,
            "router": name,
            "experts": num_experts,
            "seconds": timing.seconds("wall"),
            "over_product_keys": _ratio(timing, times["product keys", num_experts]),
            "over_4096": _ratio(timing, base) if (base := times.get((name, 2**12))) else None,
            "all_seconds": timing.wall_s,
        }
        for (name, num_experts), timing in times.items()
    ]


def dense_per_asked(rounds: int, device: str) -> list[dict[str, Any]]:
    """A whole level of n nodes, and B b of them for every token: seconds over seconds.

    The search scores a level whole where that is cheaper. Where the ratio passes 1, n / (B b) is
    the constant that decides it, in `hmoe.layer.looks`.
    """
    rows = []
    for dim, branching, beam in ((256, 16, 4), (256, 32, 4), (256, 16, 16), (64, 16, 4)):
        asked = branching * beam
        for nodes in (asked, 2 * asked, 3 * asked, 4 * asked, 8 * asked):
            num_groups = nodes // branching
            tree = Tree.from_spec([num_groups, branching])
            x_TD = torch.randn(TOKENS, dim, device=device)
            weight_nD = torch.randn(nodes, dim, device=device)
            bias_n = torch.zeros(nodes, device=device)
            order_TG = torch.rand(TOKENS, num_groups, device=device).argsort(-1)
            # Group 0 are the units themselves.
            group_TB = order_TG[:, :beam].contiguous() + 1

            def run(compare: Callable[..., Tensor]) -> Callable[[], object]:
                # A look of its own each time: what it works out is part of the work.
                return lambda: compare(x_TD, weight_nD, bias_n, Look(tree, 1, group_TB, None))  # noqa: B023

            runs = {"level": run(compare_level), "asked": run(compare_asked)}
            times = in_turns(runs, rounds=3 * rounds, title=f"{nodes} nodes", device=device)
            rows.append(
                {
                    "threads": torch.get_num_threads(),
                    "dim": dim,
                    "branching": branching,
                    "beam": beam,
                    "nodes": nodes,
                    "asked": asked,
                    "level_over_asked": _ratio(times["level"], times["asked"]),
                }
            )
    return rows


def lazy_over_dense(sizes: Sequence[int], rounds: int, device: str) -> list[dict[str, Any]]:
    """Routing of `hmoe_lazy` over that of `hmoe`, flat and in two levels with a beam of 4."""
    x_TD = torch.randn(TOKENS, DIM, device=device, requires_grad=True)
    rows = []
    for num_experts in sizes:
        for spec in ([num_experts], [int(num_experts**0.5)] * 2):
            beam = "null" if len(spec) == 1 else 4
            choices = ("balance=none", "experts=zero", "selection.k=2", f"selection.beam={beam}")
            runs = {}
            for ffn in ("hmoe", "hmoe_lazy"):
                torch.manual_seed(0)
                layer = hmoe.build(
                    *choices, f"ffn@model.ffn={ffn}", f"tree.spec={spec}", dim=DIM
                ).to(device)
                runs[ffn] = _both(OfLayer(layer), x_TD)
            times = in_turns(runs, rounds=3 * rounds, title=f"lazy and dense {spec}", device=device)
            rows.append(
                {
                    "threads": torch.get_num_threads(),
                    "tree": "x".join(map(str, spec)),
                    "experts": num_experts,
                    "lazy_over_dense": _ratio(times["hmoe_lazy"], times["hmoe"]),
                }
            )
    return rows


def routing_aims(rows: Sequence[Mapping[str, Any]]) -> list[Aim]:
    """What routing must show, and what it shows, for every number of threads."""
    aims = [
        ("tree of 16", "over_4096", "2^20 over 2^12 experts, tree of 16", 4.0),
        ("tree of 32", "over_4096", "2^20 over 2^12 experts, tree of 32", 4.0),
        ("tied tree", "over_product_keys", "tied tree over product keys, 2^20", 1.05),
        ("tree of 16", "over_product_keys", "tree of 16 over product keys, 2^20", 2.0),
        ("tree of 32", "over_product_keys", "tree of 32 over product keys, 2^20", 2.0),
    ]
    aimed_at = [r for r in rows if r["passes"] == _FORWARD and r["experts"] == 2**20]
    found = {(r["threads"], r["router"]): r for r in aimed_at}
    return [
        Aim(f"{name}, threads {n}", found[n, router][ratio]["median"], bound, "at most")
        for n in sorted({n for n, _ in found})
        for router, ratio, name, bound in aims
    ]


def _forward(router: nn.Module, x_TD: Tensor) -> Callable[[], object]:
    return torch.no_grad()(lambda: router(x_TD))


def _both(router: nn.Module, x_TD: Tensor) -> Callable[[], object]:
    """A pass whose gradients are dropped again, as an optimiser that sets them to None does."""

    def run() -> None:
        weight = router(x_TD)[1]
        weight.backward(torch.linspace(-1, 1, weight.numel(), device=weight.device).view_as(weight))
        router.zero_grad()
        x_TD.grad = None

    return run


def _in_turns(
    runs: Mapping[tuple[str, int], Callable[[], object]], rounds: int, title: str, device: str
) -> dict[tuple[str, int], Timing]:
    named = {f"{name} {size}": run for (name, size), run in runs.items()}
    times = in_turns(named, rounds=rounds, title=title, device=device)
    return dict(zip(runs, times.values(), strict=True))


def _ratio(one: Timing, other: Timing) -> dict[str, float]:
    return spread(one.over(other, "wall"))


def _plot(rows: Sequence[Mapping[str, Any]], path: Path) -> None:
    """Seconds over experts, forward; what is measured at one size only is no line."""
    series: dict[str, dict[float, list[float]]] = {}
    for row in rows:
        if row["passes"] == _FORWARD:
            series.setdefault(row["router"], {})[row["experts"]] = row["all_seconds"]
    title = f"Who works on 4,096 tokens: forward, threads {rows[0]['threads']}"
    plot_lines(series, path, title=title, x_label="experts", y_label="seconds")


@contextmanager
def _threads(number: int) -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(number)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def _options(overrides: Sequence[str]) -> tuple[str, list[int]]:
    chosen = plain_values(overrides, {"device": "cpu", "threads": [1, 2]})
    device, threads = chosen["device"], chosen["threads"]
    numbers = threads if isinstance(threads, list) else [threads]
    if not numbers or not all(isinstance(n, int) and n > 0 for n in numbers):
        raise ConfigError(f"threads = {threads}: expected whole numbers of at least 1.")
    if device not in ("cpu", "cuda"):
        raise ConfigError(
            f"device = {device}: cpu or cuda is expected.{nearest(device, ['cpu', 'cuda'])}"
        )
    if device == "cuda" and not torch.cuda.is_available():
        raise ConfigError("device = cuda: torch finds none here. Use device=cpu.")
    return device, numbers
