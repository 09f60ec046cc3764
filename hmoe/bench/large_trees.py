"""Very large trees: memory of a lazy layer, and recall of its search.

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
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from typing import Any

import torch
from rich.console import Console
from torch import Tensor

import hmoe
from hmoe.bench.measure import save, table
from hmoe.errors import ConfigError
from hmoe.layer import Tree
from hmoe.layer.asking import LinearScorer
from hmoe.layer.beam import beam_widths, check_k
from hmoe.layer.descent import search
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
    """Measure both, print a table of each, write `large_trees.json` into `out`.

    Args:
        rounds: seeds of the recall.

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
    record = {"memory": memory, "recall": found}
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
        reach_TE = at_experts(reach_TN, tree)
        best_TK = reach_TE.topk(_K)
        scorer = LinearScorer(tree, x_TD, weight_ND, bias_N, [1.0] * tree.num_levels)
        found_TK = search(scorer, k=_K, beams=[beam] * (tree.num_levels - 1)).expert_TK
        shared = (found_TK[:, :, None] == best_TK.indices[:, None, :]).sum()
        recalls.append(shared.item() / found_TK.numel())
        found_mass = reach_TE.gather(1, found_TK).sum()
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


def _random_gate(
    tree: Tree, scale: float, seed: int, num_tokens: int, dim: int = 256
) -> tuple[Tensor, Tensor, Tensor]:
    """Tokens, weights and biases of a gate whose raw scores are N(0, scale^2)."""
    generator = torch.Generator().manual_seed(seed)
    x_TD = torch.randn(num_tokens, dim, generator=generator)
    weight_ND = torch.randn(tree.num_nodes, dim, generator=generator) * scale * dim**-0.5
    return x_TD, weight_ND, torch.zeros(tree.num_nodes)


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
