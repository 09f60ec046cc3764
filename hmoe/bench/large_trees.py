"""Very large trees: memory of a lazy layer, recall of its search, and its time beside a flat gate.

Memory is the highest resident size of a process of its own, less what the parameters and their
gradients take; the interpreter and its libraries are in it. Recall is the share of the exact k best
experts that a beam finds, over random gates: node weights and tokens are normal, so that raw scores
are normal and independent between nodes, of a standard deviation that is varied.

Letters: T tokens, D width, N nodes, E experts, K experts per token.
"""

import multiprocessing
import resource
import statistics
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ProcessPoolExecutor
from functools import partial
from pathlib import Path
from typing import Any

import torch
from rich.console import Console
from torch import Tensor

import hmoe
from hmoe.bench.measure import in_turns, save, table
from hmoe.bench.plot import plot_lines
from hmoe.errors import ConfigError
from hmoe.layer import Tree
from hmoe.layer.beam import beam_widths, check_k
from hmoe.layer.lazy import path_values, search
from hmoe.layer.looks import linear_scorer
from hmoe.layer.tree_ops import at_experts, path_product, sibling_softmax

GIB = 2**30
_BEAMS = (1, 4, 16)
_K = 16
# Trees of 2^12 experts.
_SHAPES: dict[str, Any] = {
    "4096": [4096],
    "64x64": [64, 64],
    "16x16x16": [16, 16, 16],
    "8x8x8x8": [8, 8, 8, 8],
    "2^12": [2] * 12,
    "ragged": {"a": [2048], "b": [32, 32], "c": [16, 8, 8]},
}


def bench_large_trees(*, rounds: int, out: Path, overrides: Sequence[str], command: str) -> Path:
    """Measure all three, print a table of each, write `large_trees.json` and `.svg` into `out`.

    Args:
        rounds: seeds of the recall, and turns of the timing.

    Raises:
        ConfigError: an override; there is nothing to choose here.
    """
    if overrides:
        raise ConfigError(f"{overrides[0]}: large_trees has no options but rounds and out.")
    console = Console()
    memory = [isolated_pass([16] * 3, ffn=ffn, beam=4) for ffn in ("hmoe", "hmoe_lazy")]
    memory += [isolated_pass([16] * 5, ffn="hmoe_lazy", beam=beam) for beam in _BEAMS]
    columns = ("tree", "ffn", "beam", "beyond_gib", "idle_gib", "params_and_grads_gib", "seconds")
    console.print(table("one-neuron experts, forward and backward", memory, columns))
    found = [
        recall(name, beam, scale, seeds=range(rounds))
        for scale in (1.0, 3.0)
        for name in _SHAPES
        for beam in _BEAMS
        if _leaves_enough(name, beam)
    ]
    columns = ("tree", "scale", "beam", "recall_mean", "recall_sd", "mass_mean", "mass_sd")
    console.print(table("recall of the exact top 16 of 2^12 experts", found, columns))
    times = [row for spec in ([16] * 3, [16] * 4) for row in search_seconds(spec, rounds)]
    columns = ("experts", "search", "seconds", "over_flat")
    console.print(table("who works on 4,096 tokens, forward", times, columns))
    _plot_seconds(times, out / "large_trees.svg")
    record = {"memory": memory, "recall": found, "seconds": times}
    return save(record, suite="large_trees", out=out, command=command)


def isolated_pass(
    spec: Sequence[int], *, ffn: str, beam: int, dim: int = 256, num_tokens: int = 4096
) -> dict[str, Any]:
    """One forward and backward of one-neuron experts, top 16, in a process of its own.

    Returns bytes in GiB: at the peak `beyond_gib` parameters and gradients, and `idle_gib` before
    there was a layer, which is contained; and the seconds of the second of two passes.
    """
    # Spawned: a forked child would start with its parent's memory.
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(1, mp_context=context) as pool:
        threads = torch.get_num_threads()
        return pool.submit(_pass, spec, ffn, beam, dim, num_tokens, threads).result()


def _pass(
    spec: Sequence[int], ffn: str, beam: int, dim: int, num_tokens: int, threads: int
) -> dict[str, Any]:
    torch.set_num_threads(threads)
    torch.manual_seed(0)
    idle = _peak_bytes()
    layer = hmoe.build(
        *(f"ffn@model.ffn={ffn}", "balance=none", "gate=top_down", f"gate.init_std={dim**-0.5}"),
        *("selection=top_k", f"selection.k={_K}", f"selection.beam={beam}", "experts=neurons"),
        f"tree.spec={list(spec)}",
        dim=dim,
    )
    x_TD = torch.randn(num_tokens, dim)
    for _ in range(2):
        layer.zero_grad()
        start = time.perf_counter()
        y_TD, _ = layer(x_TD)
        y_TD.square().sum().backward()
        seconds = time.perf_counter() - start
    held = sum(2 * p.numel() * p.element_size() for p in layer.parameters())
    return {
        "tree": str(layer.tree),
        "ffn": ffn,
        "beam": beam,
        "tokens": num_tokens,
        "dim": dim,
        "beyond_gib": (_peak_bytes() - held) / GIB,
        "params_and_grads_gib": held / GIB,
        "idle_gib": idle / GIB,
        "seconds": seconds,
    }


def _peak_bytes() -> int:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


def recall(name: str, beam: int, scale: float, seeds: Sequence[int]) -> dict[str, Any]:
    """Recall of the exact top 16, and the probability found over the most there is to find.

    Args:
        scale: standard deviation of raw scores.
        seeds: of the gate and its tokens; mean and standard deviation are over them.
    """
    tree = Tree.from_spec(_SHAPES[name])
    recalls, masses = [], []
    for seed in seeds:
        x_TD, weight_ND, bias_N = _random_gate(tree, scale, seed, num_tokens=1024)
        reach_TN = path_product(sibling_softmax(x_TD @ weight_ND.T, tree), tree)
        best_TK = at_experts(reach_TN, tree).topk(_K)
        found_TK = _lazy(tree, x_TD, weight_ND, bias_N, beam)
        score = linear_scorer(x_TD, weight_ND, bias_N)
        shared = (found_TK[:, :, None] == best_TK.indices[:, None, :]).sum()
        recalls.append(shared.item() / found_TK.numel())
        found_mass = path_values(tree, score, found_TK, raw=False).sum()
        masses.append((found_mass / best_TK.values.sum()).item())
    return {
        "tree": name,
        "scale": scale,
        "beam": beam,
        "seeds": list(seeds),
        "recall_mean": statistics.mean(recalls),
        "recall_sd": statistics.stdev(recalls) if len(recalls) > 1 else 0.0,
        "mass_mean": statistics.mean(masses),
        "mass_sd": statistics.stdev(masses) if len(masses) > 1 else 0.0,
    }


def search_seconds(spec: Sequence[int], rounds: int) -> list[dict[str, Any]]:
    """Seconds to find 16 experts for 4,096 tokens: a flat gate, and beams of a tree, in turns."""
    tree, flat = Tree.from_spec(spec), Tree.from_spec([Tree.from_spec(spec).num_experts])
    x_TD, weight_ND, bias_N = _random_gate(tree, 1.0, seed=0, num_tokens=4096)
    weight_ED = weight_ND[: flat.num_nodes]
    searches: dict[str, Callable[[], Tensor]] = {
        "flat": lambda: (x_TD @ weight_ED.T).softmax(-1).topk(_K).indices
    }
    for beam in _BEAMS:
        searches[f"beam {beam}"] = partial(_lazy, tree, x_TD, weight_ND, bias_N, beam)
    times = in_turns(searches, rounds=rounds, title=f"search of {tree}")
    return [
        {
            "experts": tree.num_experts,
            "search": name,
            "seconds": timing.seconds("wall"),
            "over_flat": statistics.median(timing.over(times["flat"], "wall")),
            "all_seconds": timing.wall_s,
        }
        for name, timing in times.items()
    ]


def _plot_seconds(rows: Sequence[dict[str, Any]], path: Path) -> None:
    """Seconds of every search over the number of experts."""
    series: dict[str, dict[float, list[float]]] = {}
    for row in rows:
        series.setdefault(row["search"], {})[row["experts"]] = row["all_seconds"]
    labels = {"x_label": "experts", "y_label": "seconds"}
    plot_lines(series, path, title="Who works on 4,096 tokens, forward", **labels)


def _random_gate(
    tree: Tree, scale: float, seed: int, num_tokens: int, dim: int = 256
) -> tuple[Tensor, Tensor, Tensor]:
    """Tokens, weights and biases of a gate whose raw scores are N(0, scale^2)."""
    generator = torch.Generator().manual_seed(seed)
    x_TD = torch.randn(num_tokens, dim, generator=generator)
    weight_ND = torch.randn(tree.num_nodes, dim, generator=generator) * scale * dim**-0.5
    return x_TD, weight_ND, torch.zeros(tree.num_nodes)


@torch.no_grad()
def _lazy(tree: Tree, x_TD: Tensor, weight_ND: Tensor, bias_N: Tensor, beam: int) -> Tensor:
    score = linear_scorer(x_TD, weight_ND, bias_N)
    beams = [beam] * (tree.num_levels - 1)
    return search(tree, score, num_tokens=len(x_TD), k=_K, beams=beams, device=x_TD.device)


def _leaves_enough(name: str, beam: int) -> bool:
    """Whether a beam is sure to leave 16 experts; on one level there is none, and all are left."""
    tree = Tree.from_spec(_SHAPES[name])
    if tree.num_levels == 1:
        return beam == _BEAMS[0]
    try:
        check_k(tree, _K, beam_widths(tree, beam) or [])
    except ConfigError:
        return False
    return True
