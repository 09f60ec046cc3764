"""Routing alone: who works on 4,096 tokens, and how the time grows from 2^8 to 2^20 experts.

Everything takes turns in one process, the sizes too, so that growth is a ratio of neighbours. A
router is left out where it would take minutes, or memory that a small machine has not: a flat gate
beyond 2^16 experts (2^12 backward), all nodes of a tree beyond 2^12.

Letters: T tokens, D width, N nodes, n nodes of a level, B groups in the running, b children of a
group, E experts, K experts per token.
"""

import gc
import statistics
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from omegaconf import OmegaConf
from rich.console import Console
from torch import Tensor, nn

import hmoe
from hmoe.bench.measure import Timing, in_turns, save, table
from hmoe.bench.routers import (
    DIM,
    Flat,
    OfLayer,
    ProductKeys,
    exact_top,
    recall,
    tied_layer,
    tree_layer,
    tree_spec,
    with_keys_of,
)
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
_FILL = "first touch of a gradient"


def bench_routing(*, rounds: int, out: Path, overrides: Sequence[str], command: str) -> Path:
    """Measure, print tables, write `routing.json` into `out`.

    Args:
        overrides: `device=cuda` (default cpu), `threads=[1]` (default [1,2]).

    Raises:
        ConfigError: another override.
    """
    device, threads = _options(overrides)
    console = Console()
    rows: list[dict[str, Any]] = []
    crossings: list[dict[str, Any]] = []
    small: list[dict[str, Any]] = []
    for number in threads:
        with _threads(number):
            for passes in (_FORWARD, _BOTH):
                rows += growth(_SIZES, passes, rounds, device)
            crossings += dense_per_asked(rounds, device)
            small += lazy_over_dense((16, 64, 256, 1024, 4096), rounds, device)
    columns = ("threads", "passes", "router", "experts", "seconds", "over_product_keys")
    console.print(table("who works on 4,096 tokens", rows, columns))
    columns = ("threads", "dim", "branching", "beam", "nodes", "asked", "level_over_asked")
    console.print(table("where dense scoring ends", crossings, columns))
    columns = ("threads", "tree", "lazy_over_dense", "lowest", "highest")
    console.print(table("hmoe_lazy beside hmoe, forward + backward", small, columns))
    found = recalls(_SIZES[-1], device)
    console.print(table(f"recall of the exact top 16 of {_SIZES[-1]}", found, ("router", "recall")))
    aims = _aims(rows)
    console.print(table("aims", aims, ("threads", "aim", "measured", "bound")))
    record = {
        "routing": rows,
        "dense_per_asked": crossings,
        "lazy_over_dense": small,
        "recall": found,
        "aims": aims,
        "device": device,
    }
    return save(record, suite="routing", out=out, command=command)


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
    return [
        {
            "threads": torch.get_num_threads(),
            "passes": passes,
            "router": name,
            "experts": num_experts,
            "seconds": timing.seconds("wall"),
            "over_product_keys": _ratio(timing, times["product keys", num_experts]),
            "over_4096": _ratio(timing, times.get((name, 2**12), timing)),
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
            ratios = times["hmoe_lazy"].over(times["hmoe"], "wall")
            rows.append(
                {
                    "threads": torch.get_num_threads(),
                    "tree": "x".join(map(str, spec)),
                    "experts": num_experts,
                    "lazy_over_dense": statistics.median(ratios),
                    "lowest": min(ratios),
                    "highest": max(ratios),
                }
            )
    return rows


def recalls(num_experts: int, device: str, num_tokens: int = 256) -> list[dict[str, Any]]:
    """Share of the exact best 16 of each gate that its search finds; gates are random.

    Product keys have the weights of the tied tree, so that its exact best are theirs too.
    """
    torch.manual_seed(0)
    x_TD = torch.randn(num_tokens, DIM, device=device)
    tied, keys = tied_layer(num_experts).to(device), ProductKeys(num_experts).to(device)
    with_keys_of(tied, keys)
    exact_TK = exact_top(tied, x_TD)
    with torch.no_grad():
        found = {
            "tied tree": recall(tied(x_TD).expert_TK, exact_TK),
            "product keys": recall(keys(x_TD).expert_TK, exact_TK),
        }
        for branching in (16, 32):
            trees = {b: tree_layer(num_experts, branching=branching, beam=b) for b in (4, 16)}
            trees[16].load_state_dict(trees[4].state_dict())
            exact_TK = exact_top(trees[4].to(device), x_TD)
            for beam, tree in trees.items():
                name = f"tree of {branching}, beam {beam}"
                found[name] = recall(tree.to(device)(x_TD).expert_TK, exact_TK)
    return [
        {"router": name, "experts": num_experts, "tokens": num_tokens, "recall": value}
        for name, value in found.items()
    ]


def _aims(rows: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """What routing must show, and what it shows."""
    aims = [
        ("tree of 16", "over_4096", "2^20 over 2^12 experts, tree of 16", 4.0),
        ("tree of 32", "over_4096", "2^20 over 2^12 experts, tree of 32", 4.0),
        ("tied tree", "over_product_keys", "tied tree over product keys, 2^20", 1.05),
        ("tree of 16", "over_product_keys", "tree of 16 over product keys, 2^20", 2.0),
        ("tree of 32", "over_product_keys", "tree of 32 over product keys, 2^20", 2.0),
    ]
    found = {(r["threads"], r["router"]): r for r in rows if _is_aimed_at(r)}
    return [
        {"threads": threads, "aim": name, "measured": found[threads, router][ratio], "bound": bound}
        for threads in sorted({threads for threads, _ in found})
        for router, ratio, name, bound in aims
    ]


def _is_aimed_at(row: Mapping[str, Any]) -> bool:
    return row["passes"] == _FORWARD and row["experts"] == 2**20


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


def _ratio(one: Timing, other: Timing) -> float:
    return statistics.median(one.over(other, "wall"))


@contextmanager
def _threads(number: int) -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(number)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def _options(overrides: Sequence[str]) -> tuple[str, list[int]]:
    options = {"device": "cpu", "threads": [1, 2]}
    given: dict[str, Any] = OmegaConf.to_container(OmegaConf.from_dotlist(list(overrides)))  # type: ignore[assignment]
    for name in given:
        if name not in options:
            raise ConfigError(
                f"{name}: routing has the options {', '.join(options)}, rounds and out."
                + nearest(name, options)
            )
    chosen = options | given
    threads = chosen["threads"]
    numbers = threads if isinstance(threads, list) else [threads]
    if not all(isinstance(n, int) and n > 0 for n in numbers):
        raise ConfigError(f"threads = {threads}: expected whole numbers of at least 1.")
    if chosen["device"] == "cuda" and not torch.cuda.is_available():
        raise ConfigError("device = cuda: this machine has none that torch can use.")
    return str(chosen["device"]), numbers
