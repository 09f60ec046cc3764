"""Lawful records of made-up inspections: tokens choose experts at random, or by their domain.

Everything is counted from the same draws, so that a record keeps the laws of its docstrings.

Letters: R rows, C values of a label, N nodes, E experts, L levels, S moments.
"""

from dataclasses import replace
from typing import Any

import numpy as np
import torch

from hmoe.layer import Tree
from hmoe.metrics import (
    History,
    Inspection,
    Knowledge,
    LayerInspection,
    decompose,
    level_statistics,
    place_at_cut,
)

DOMAINS = ("web", "mail", "log", "math", "test", "io", "async", "data", "cli", "text", "net", "sys")
NAMED = {"web": {"a": 2, "b": 3}, "science": {"physics": 2, "law": 2}, "legal": 1, "sales": 3}
PERMUTATIONS = 20


def places(tree: Tree, level: int) -> np.ndarray:
    return place_at_cut(tree, level, torch.device("cpu")).numpy()


def mutual(counts: np.ndarray) -> float:
    """I(row; column) in nats."""
    p = counts / counts.sum()
    even = p.sum(1, keepdims=True) * p.sum(0)
    return float((p[p > 0] * np.log(p[p > 0] / even[p > 0])).sum())


def entropy(counts: np.ndarray) -> float:
    p = counts[counts > 0] / counts.sum()
    return float(-(p * np.log(p)).sum())


def table(a_R: np.ndarray, b_R: np.ndarray, num_a: int, num_b: int) -> np.ndarray:
    return np.bincount(a_R * num_b + b_R, minlength=num_a * num_b).reshape(num_a, num_b)


def knowledge(
    tree: Tree, name: str, values: tuple[str, ...], value_R: Any, expert_R: Any, control: float
) -> Knowledge:
    """What the choices tell of the values; `control` is what k-means gets of the AMI."""
    rng = np.random.default_rng(1)
    C = len(values)
    sizes = [len(tree.cut(i)) for i in range(tree.num_levels)]
    place_LR = [places(tree, i)[expert_R] for i in range(tree.num_levels)]

    def at_levels(value_R: np.ndarray) -> np.ndarray:
        return np.array(
            [mutual(table(value_R, p, C, n)) for p, n in zip(place_LR, sizes, strict=True)]
        )

    whole_L = at_levels(value_R)
    nulls_L = np.array([at_levels(rng.permutation(value_R)) for _ in range(PERMUTATIONS)])
    own, shuffled = (np.diff(x, prepend=0) for x in (whole_L, nulls_L))
    H = entropy(np.bincount(value_R))
    H_L = np.array([entropy(np.bincount(p)) for p in place_LR])
    mean_L = (H + H_L) / 2
    ami_L = (whole_L - nulls_L.mean(0)) / np.maximum(mean_L - nulls_L.mean(0), 1e-9)
    return Knowledge(
        label=name,
        values=values,
        counts_CE=table(value_R, expert_R, C, tree.num_experts),
        entropy=H,
        information_L=own,
        null_L=shuffled.mean(0),
        p_L=((shuffled >= own).sum(0) + 1) / (PERMUTATIONS + 1),
        nmi_L=whole_L / np.maximum(mean_L, 1e-9),
        ami_L=ami_L,
        clusters_ami_L=ami_L * control,
    )


def load_of(tree: Tree, expert_R: np.ndarray) -> np.ndarray:
    """Share of the rows at every node."""
    load_N = np.zeros(tree.num_nodes)
    node, expert = np.array(tree.below).T
    np.add.at(load_N, node, np.bincount(expert_R, minlength=tree.num_experts)[expert])
    return load_N / len(expert_R)


def history(tree: Tree, load_N: np.ndarray, moments: int, rng: np.random.Generator) -> History:
    """From even to the load at the end; upper levels settle first."""
    even_N = np.array(tree.num_below_N) / tree.num_experts
    t = np.linspace(0, 1, moments)[:, None]
    L = tree.num_levels
    pace = 3.0 / (1 + np.arange(L))
    saturation = np.clip(0.2 + 0.8 * t ** (1 / pace), 0, 1)
    saturation[-1] = 1
    churn = np.vstack([np.full((1, L), np.nan), np.diff(saturation, axis=0) * 0.8])
    return History(
        step_S=np.arange(1, moments + 1) * 50,
        load_SN=(1 - t) * even_N + t * load_N,
        saturation_SL=saturation,
        churn_SL=np.clip(churn, 0, 1),
        entropy_SL=np.clip(1 - 0.7 * t * pace / 3, 0, 1),
    )


def make_record(
    spec: Any,
    *,
    planted: int | None = 0,
    strength: float = 0.8,
    skew: float = 1.0,
    dead: tuple[int, ...] = (),
    rows: int = 6000,
    moments: int = 8,
    seed: int = 0,
    layers: int = 1,
    control: float = 0.9,
    dropped: float = 0.0,
    **changes: Any,
) -> Inspection:
    """A record: domains choose by `planted` level with `strength`, `dead` experts get nothing."""
    tree, rng = Tree.from_spec(spec), np.random.default_rng(seed)
    found = []
    value_R = np.random.default_rng(0).integers(len(DOMAINS), size=rows)  # the same tokens
    for place in range(layers):
        expert_R = _choices(
            tree, value_R, planted, strength * (1 - place / layers), skew, dead, rng
        )
        load_N = load_of(tree, expert_R)
        load_E = torch.from_numpy(np.bincount(expert_R, minlength=tree.num_experts))
        told = level_statistics(load_E, tree)
        masked_N = np.full(tree.num_nodes, np.nan)
        upper = [n for n in range(tree.num_nodes) if tree.level_N[n] < 2][:64]
        masked_N[upper] = load_N[upper] * 2 + rng.normal(size=len(upper)) * 0.01
        tables = {}
        for level in range(tree.num_levels):
            if len(tree.cut(level)) <= 64:
                size = len(tree.cut(level))
                both = rng.random((size, size)) ** 3
                np.fill_diagonal(both, 1)
                tables[f"level_{level}"] = both
        layer = LayerInspection(
            name=f"blocks.{place}.ffn",
            load_N=load_N,
            dropped=dropped,
            load={name: np.array(values_L) for name, values_L in told.items()},
            decomposition={k: v.numpy() for k, v in decompose(load_E, tree).items()},
            entropy_L=np.linspace(0.3, 0.7, tree.num_levels),
            margin_L=np.linspace(2, 1, tree.num_levels),
            knowledge=(
                knowledge(tree, "package", DOMAINS, value_R, expert_R, control),
                knowledge(
                    tree, "half", ("first", "last"), rng.integers(2, size=rows), expert_R, 0.5
                ),
            ),
            coactivation=tables,
            locality=0.4,
            locality_random=0.8,
            masked_N=masked_N,
            recall={"greedy": 0.62, "beam 2": 0.88, "beam 4": 0.97},
            policy_loss={"greedy": 1.31, "beam 2": 1.27, "beam 4": 1.255, "exact": 1.25},
            choice_T=expert_R,
            history=history(tree, load_N, moments, rng) if moments else None,
        )
        found.append(layer)
    record = Inspection(
        run=f"runs/two_level/{seed}",
        arm="two_level",
        seed=seed,
        step=400,
        split="val",
        asked=rows,
        num_tokens=rows,
        tokens="0123abcd",
        loss=1.25 + 0.01 * seed,
        num_tried=rows // 2,
        tried_loss=1.25,
        tree_spec=spec,
        layers=tuple(found),
        seconds=12.5,
    )
    return replace(record, **changes)


def _choices(
    tree: Tree,
    value_R: np.ndarray,
    planted: int | None,
    strength: float,
    skew: float,
    dead: tuple[int, ...],
    rng: np.random.Generator,
) -> np.ndarray:
    """Experts of the rows."""
    liked_E = rng.dirichlet(np.full(tree.num_experts, 1 / max(skew, 1e-3) ** 2))
    liked_E[list(dead)] = 0
    expert_R = rng.choice(tree.num_experts, size=len(value_R), p=liked_E / liked_E.sum())
    if planted is None:
        return expert_R
    place_E = places(tree, planted)
    alive = liked_E > 0
    for value in range(len(DOMAINS)):
        open_places = np.unique(place_E[alive])
        below = np.flatnonzero(alive & (place_E == open_places[value % len(open_places)]))
        own = (value_R == value) & (rng.random(len(value_R)) < strength)
        expert_R[own] = rng.choice(below, size=int(own.sum()))
    return expert_R
