"""Several tasks over one organisation: hand-written MMoE, CGC and shared bottom."""

import pytest
import torch
from torch import Tensor, nn

from hmoe.config import build, compose
from hmoe.errors import ConfigError
from hmoe.layer import HMoE
from hmoe.models import MultiTask

SIZES = [
    "model.dim=6",
    "model.tower_dim=3",
    "experts.hidden_dim=5",
    "experts.activation=relu",
    "experts.implementation=loop",
]
MMOE = ["model=multi_task", "gate=heads", "gate.merge=stack", "selection=soft", "balance=none"]


def make(*words: str, tasks: int = 2) -> MultiTask:
    model: MultiTask = build(compose([*words, *SIZES]).model)(in_dim=4, out_dim=tasks)
    for parameter in model.parameters():  # gates start at zero, where all mixes are alike
        nn.init.normal_(parameter, std=0.7)
    return model


def expert(model: MultiTask, number: int, h_BD: Tensor) -> Tensor:
    bank = model.ffn.experts
    return (h_BD @ bank.w_in_EDF[number]).relu() @ bank.w_out_EFD[number]


def tower(model: MultiTask, task: int, y_BD: Tensor) -> Tensor:
    return model.out[task](model.hidden[task](y_BD).relu())[:, 0]


def gate_logits(model: MultiTask, task: int, h_BD: Tensor) -> Tensor:
    """What a head says of every node, by its own weights."""
    assert isinstance(model.ffn, HMoE)
    weights = dict(model.ffn.gate.heads[task].named_parameters())
    (weight,) = (w for w in weights.values() if w.ndim == 2)
    (bias,) = (w for w in weights.values() if w.ndim == 1)
    return h_BD @ (weight if weight.shape[0] == h_BD.shape[1] else weight.T) + bias


@torch.no_grad()
def test_stacked_heads_are_a_hand_written_mmoe() -> None:
    """f^k = sum_i softmax(W_k h)_i f_i(h), y_k = tower_k(f^k) (Ma et al. 2018, eq. 5 to 7)."""
    model, x = make(*MMOE, "tree.spec=[3]"), torch.randn(7, 4)
    h = model.embed(x).relu()
    expected = []
    for task in range(2):
        share_BE = gate_logits(model, task, h).softmax(-1)
        mix = sum(share_BE[:, [e]] * expert(model, e, h) for e in range(3))
        expected.append(tower(model, task, mix))
    answer_BK, routings = model(x)
    torch.testing.assert_close(answer_BK, torch.stack(expected, 1))
    assert len(routings) == 1
    assert routings[0].num_tokens == 14  # every task has every row


@torch.no_grad()
def test_visible_units_are_a_hand_written_cgc() -> None:
    """Task k's gate sees its own experts and the shared ones (Tang et al. 2020), unit by unit."""
    spec = "tree.spec={shared: 2, one: 1, two: 2}"
    model = make(*MMOE, spec, "gate.visible=[[shared,one],[shared,two]]")
    x = torch.randn(7, 4)
    h = model.embed(x).relu()
    tree = model.ffn.tree
    names = [tree.path_N[node] for node in range(tree.num_nodes)]
    children = [n for n, parent in enumerate(tree.parent_N) if parent >= 0]
    expected = []
    for task, own in enumerate(["one", "two"]):
        logits_BN = gate_logits(model, task, h)
        seen = [names.index("shared"), names.index(own)]
        unit_B2 = logits_BN[:, seen].softmax(-1)
        mix = torch.zeros(7, 6)
        for place, unit in enumerate(seen):
            below = [n for n in children if tree.parent_N[n] == unit] or [unit]
            share = logits_BN[:, below].softmax(-1) if below != [unit] else torch.ones(7, 1)
            for column, node in enumerate(below):
                number = tree.node_E.index(node)
                weight = unit_B2[:, [place]] * share[:, [column]]
                mix += weight * expert(model, number, h)
        expected.append(tower(model, task, mix))
    torch.testing.assert_close(model(x)[0], torch.stack(expected, 1))


@torch.no_grad()
def test_one_gate_gives_all_tasks_the_same_mix() -> None:
    model, x = make("model=multi_task", "selection=soft", "tree.spec=[3]"), torch.randn(7, 4)
    y, _ = model.ffn(model.embed(x).relu())
    expected = torch.stack([tower(model, task, y) for task in range(2)], 1)
    torch.testing.assert_close(model(x)[0], expected)


@torch.no_grad()
def test_the_dense_control_is_a_shared_bottom() -> None:
    model, x = make("model=multi_task_dense", tasks=3), torch.randn(7, 4)
    y = expert(model, 0, model.embed(x).relu())
    answer_BK, routings = model(x)
    expected = torch.stack([tower(model, task, y) for task in range(3)], 1)
    torch.testing.assert_close(answer_BK, expected)
    assert routings == []


def test_a_task_moves_its_own_gate_and_tower_alone() -> None:
    model, x = make(*MMOE, "tree.spec=[2,2]"), torch.randn(7, 4)
    model(x)[0][:, 1].sum().backward()
    moved = {n for n, p in model.named_parameters() if p.grad is not None and p.grad.any()}
    assert any(name.startswith("ffn.gate.heads.1") for name in moved)
    strangers = ("ffn.gate.heads.0", "hidden.0", "out.0")
    assert [name for name in moved if name.startswith(strangers)] == []


def test_heads_that_are_not_as_many_as_the_tasks_are_refused() -> None:
    message = r"gate\.num = 2: .* the data have 3 tasks\. Use gate\.num=3\."
    with pytest.raises(ConfigError, match=message):
        make(*MMOE, "tree.spec=[3]", tasks=3)
