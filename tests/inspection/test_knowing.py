"""Knowing: of runs that know nothing few are said to know something, whatever is asked of them.

Letters: W windows, B tokens of each, R rows, S sampled tokens, D width.
"""

import numpy as np
import pytest
import torch
from torch import Tensor

from hmoe.inspection import knowing
from hmoe.inspection.knowing import knowledge
from hmoe.inspection.observe import Seen
from hmoe.layer import Tree
from hmoe.metrics import Inspection, LayerInspection
from hmoe.report.organisation import View, describe

WINDOWS, BYTES, LAYERS = 32, 16, 8
TREE = Tree.from_spec([2, 2])


def seen_of(expert_T: Tensor) -> Seen:
    """A layer that sent each token to one expert."""
    nan_L = np.full(TREE.num_levels, np.nan)
    return Seen(
        tree=TREE,
        num_tokens=len(expert_T),
        token_R=torch.arange(len(expert_T)),
        expert_R=expert_T,
        weight_R=torch.ones(len(expert_T)),
        dropped=0.0,
        entropy_L=nan_L,
        margin_L=nan_L,
        sample_S=torch.empty(0, dtype=torch.int64),
        input_SD=torch.empty(0, 1),
    )


def layer_of(name: str, seen: Seen, known: tuple) -> LayerInspection:
    nan_L = np.full(TREE.num_levels, np.nan)
    return LayerInspection(
        name=name,
        load_N=seen.load_N,
        dropped=0.0,
        load={},
        decomposition={},
        entropy_L=nan_L,
        margin_L=nan_L,
        knowledge=known,
        coactivation={},
        locality=np.nan,
        locality_random=np.nan,
        masked_N=np.full(TREE.num_nodes, np.nan),
        recall={},
        policy_loss={},
        choice_T=seen.heaviest_T.numpy(),
        history=None,
    )


def paragraphs(layers: dict[str, Seen], labels: dict[str, Tensor]) -> list[str]:
    names = {label: ("x", "y", "z") for label in labels}
    known = knowledge(layers, labels, names, tokens_per_row=BYTES)
    found = tuple(layer_of(place, layers[place], known[place]) for place in layers)
    record = Inspection(
        run="r",
        arm="",
        seed=0,
        step=1,
        split="val",
        asked=WINDOWS * BYTES,
        num_tokens=WINDOWS * BYTES,
        tokens="t",
        loss=1.0,
        num_tried=0,
        tried_loss=1.0,
        tree_spec=[2, 2],
        layers=found,
        seconds=0.0,
    )
    return [describe(View(record, layer)) for layer in found]


def claims(paragraphs: list[str]) -> bool:
    return any("decided" in text or "of what the router knows" in text for text in paragraphs)


def windows_that_hang_together() -> Tensor:
    """Each window has an expert of its own, chosen by three of four of its tokens."""
    own_TB = torch.randint(0, 4, (WINDOWS, 1)).expand(-1, BYTES)
    stray_TB = torch.randint(0, 4, (WINDOWS, BYTES))
    return torch.where(torch.rand(WINDOWS, BYTES) < 0.75, own_TB, stray_TB).flatten()


def package() -> Tensor:
    return torch.randint(0, 3, (WINDOWS, 1)).expand(-1, BYTES).flatten()


def test_random_routing_is_seldom_said_to_know_anything(monkeypatch: pytest.MonkeyPatch) -> None:
    """8 layers, 2 labels, 2 levels: 3 of 60 runs, give or take 1.7, in any of their paragraphs.

    By tokens, or level by level, nearly every run would be.
    """
    monkeypatch.setattr(knowing, "_PERMUTATIONS", (99, 99))
    told = 0
    for _ in range(60):
        layers = {str(i): seen_of(windows_that_hang_together()) for i in range(LAYERS)}
        byte_T = torch.randint(0, 3, (WINDOWS * BYTES,))
        told += claims(paragraphs(layers, {"package": package(), "byte": byte_T}))
    assert told <= 8  # three deviations


def test_one_layer_that_knows_is_found_among_those_that_do_not() -> None:
    """Permutations suffice to tell, of 32 questions."""
    package_T = package()
    layers = {str(i): seen_of(windows_that_hang_together()) for i in range(LAYERS)}
    layers["3"] = seen_of(torch.where(torch.rand(len(package_T)) < 0.9, package_T, 3))
    labels = {"package": package_T, "byte": torch.randint(0, 3, (WINDOWS * BYTES,))}
    known = knowledge(layers, labels, dict.fromkeys(labels, ("x", "y", "z")), tokens_per_row=BYTES)
    package_p, byte_p = (each.p_L for each in known["3"])
    assert package_p.max() == pytest.approx(1 / 1000)
    assert byte_p.min() > 0.05
    assert "of what the router knows of `package`" in paragraphs(layers, labels)[3]
