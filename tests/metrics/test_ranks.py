"""Distributed runs: of two processes each metric is that of all tokens together."""

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torchmetrics import Metric

from hmoe.layer import Routing, Tree
from hmoe.layer.tree_ops import sibling_softmax
from hmoe.metrics import (
    CompanyMetrics,
    Doubt,
    ImbalanceMetrics,
    InformationMetrics,
    LoadMetrics,
    OverlapMetrics,
    RecallMetrics,
    SpecialisationMetrics,
    decompose,
    overlaps,
)
from tests.cases import make_routing

# One process of two, with its half of the tokens.
PROCESS = """
import json, sys
import torch.distributed as dist
from tests.metrics.test_ranks import answers, halves, updated

rank, store = int(sys.argv[1]), sys.argv[2]
dist.init_process_group("gloo", init_method=f"file://{store}", rank=rank, world_size=2)
print(json.dumps(answers(updated(halves()[rank : rank + 1]))))
dist.destroy_process_group()
"""
TREE = {"a": 1, "b": {"c": 1, "d": 3}}

Half = tuple[Routing, torch.Tensor]


def halves() -> list[Half]:
    """Two processes' tokens, more on one than on the other, with their labels."""
    tree = Tree.from_spec(TREE)
    probs_TN = torch.randn(7, tree.num_nodes, generator=torch.Generator().manual_seed(0))
    probs_TN = sibling_softmax(probs_TN, tree)
    experts = [[[0, 1], [0, 2], [1, 0], [3, 0]], [[3, 4], [4, 2], [2, 3]]]
    labels = [torch.tensor([0, 0, 1, 1]), torch.tensor([2, 2, 1])]
    return [
        (make_routing(tree, experts[0], probs_TN[:4]), labels[0]),
        (make_routing(tree, experts[1], probs_TN[4:]), labels[1]),
    ]


def updated(parts: list[Half]) -> dict[str, Metric]:
    """Every class of the room, shown some tokens."""
    tree = Tree.from_spec(TREE)
    load, doubt = LoadMetrics(tree=tree), Doubt(tree=tree)
    information = InformationMetrics(tree=tree, num_values=3)
    specialisation = SpecialisationMetrics(tree=tree, num_values=3, k=2)
    company, recall = CompanyMetrics(tree=tree, level=1), RecallMetrics()
    imbalance, kept = ImbalanceMetrics(tree=tree), OverlapMetrics(tree=tree)
    for routing, label_T in parts:
        for metric in (load, doubt, company, imbalance):
            metric.update(routing)
        for metric in (information, specialisation):
            metric.update(routing, label_T)
        expert_TK = routing.expert_R.reshape(-1, 2)
        for metric in (recall, kept):
            metric.update(expert_TK.clamp(max=2), expert_TK)
    named = {"load": load, "doubt": doubt, "information": information, "company": company}
    named |= {"recall": recall, "imbalance": imbalance, "kept": kept}
    return named | {"specialisation": specialisation}


def answers(metrics: dict[str, Metric]) -> dict[str, list[float]]:
    """What they compute, as numbers in a row."""
    return {name: numbers(metric.compute()) for name, metric in metrics.items()}


def numbers(found: Any) -> list[float]:
    if isinstance(found, dict):
        found = tuple(found.values())
    parts = found if isinstance(found, tuple) else (found,)
    return [float(x) for part in parts for x in np.asarray(part, dtype=float).flatten()]


def assert_whole(found: dict[str, list[float]]) -> None:
    whole = answers(updated(halves()))
    assert list(found) == list(whole)
    for name, values in whole.items():
        assert found[name] == pytest.approx(values, nan_ok=True), name
        for half in halves():  # or a half would do
            alone = answers(updated([half]))[name]
            assert alone != pytest.approx(values, nan_ok=True), name


def test_of_all_tokens_they_are_what_the_functions_say() -> None:
    tree, parts = Tree.from_spec(TREE), halves()
    found = updated(parts)
    load_E = sum(routing.load_E for routing, _ in parts)
    for name, values_L in decompose(load_E, tree).items():
        assert torch.equal(found["imbalance"].compute()[name], values_L)
    chosen_TK = torch.cat([routing.expert_R.reshape(-1, 2) for routing, _ in parts])
    assert found["kept"].compute() == overlaps(chosen_TK.clamp(max=2), chosen_TK, tree)
    # Domain 0 has the tokens with experts 0 1 and 0 2: all of them have 0, half of them 1, and 2.
    assert found["specialisation"].compute()[0].tolist() == [1, 0.5, 0.5, 0, 0]


def test_merged_states_are_those_of_all_tokens() -> None:
    one, other = (updated([half]) for half in halves())
    for name, metric in one.items():
        metric.merge_state(other[name])
    assert_whole(answers(one))


@pytest.mark.slow
def test_two_real_processes_agree_with_one(tmp_path: Path) -> None:
    root = Path(__file__).parents[2]
    processes = [
        subprocess.Popen(
            [sys.executable, "-c", PROCESS, str(rank), str(tmp_path / "store")],
            cwd=root,
            env={"PYTHONPATH": str(root), "OMP_NUM_THREADS": "1", "GLOO_SOCKET_IFNAME": "lo"},
            stdout=subprocess.PIPE,
            text=True,
        )
        for rank in range(2)
    ]
    for process in processes:
        assert_whole(json.loads(process.communicate(timeout=100)[0]))
