"""The mixture of whole networks: by hand, its cost, what it refuses."""

from functools import partial
from math import exp, log
from typing import Any

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

from hmoe.errors import ConfigError
from hmoe.layer import Heads, Tree
from hmoe.layer.tree_ops import at_experts, path_product, sibling_softmax
from hmoe.models import Cost, Mixture, cost, description
from tests.cases import GATES, bottom_up, top_down


def make(tree: Tree, **changes: Any) -> Mixture:
    options = {"gate": top_down(), "output": "none", "init_range": 0.5}
    return Mixture(**({"in_dim": 5, "out_dim": 3, "tree": tree} | options | changes))


def test_two_experts_by_hand() -> None:
    """x = 2: a gate of 3 to 1 blends 2 * 1 + 1 = 3 and 2 * 2 - 5 = -1 to 2."""
    model = make(Tree.from_spec([2]), in_dim=1, out_dim=1)
    parameters = dict(model.named_parameters())
    (weight_name,) = (n for n in parameters if n.startswith("gate") and parameters[n].ndim == 2)
    with torch.no_grad():
        for parameter in model.gate.parameters():
            parameter.zero_()
        parameters[weight_name].copy_(torch.tensor([[log(3) / 2], [0.0]]))
        model.weight_EDO.copy_(torch.tensor([[[1.0]], [[2.0]]]))
        model.bias_EO.copy_(torch.tensor([[1.0], [-5.0]]))
    blend, routings = model(torch.tensor([[2.0]]))
    assert routings == []
    assert blend.reach_TE.tolist() == [pytest.approx([0.75, 0.25])]
    assert blend.answer_TEO.flatten().tolist() == pytest.approx([3.0, -1.0])
    assert blend.mean_TO.item() == pytest.approx(2.0)
    model.output = "sigmoid"
    blend, _ = model(torch.tensor([[2.0]]))
    expected = 0.75 / (1 + exp(-3)) + 0.25 / (1 + exp(1))
    assert blend.mean_TO.item() == pytest.approx(expected)


@pytest.mark.parametrize("gate", [top_down(), bottom_up()], ids=["top_down", "bottom_up"])
def test_reach_is_the_product_down_the_tree(tree: Tree, gate: Any) -> None:
    model, x = make(tree, gate=gate), torch.randn(7, 5)
    blend, _ = model(x)
    probs_TN = sibling_softmax(model.gate(x).logits_TN, tree)
    torch.testing.assert_close(blend.reach_TE, at_experts(path_product(probs_TN, tree), tree))
    torch.testing.assert_close(blend.reach_TE.sum(-1), torch.ones(7))
    loop = sum(
        blend.reach_TE[:, [e]] * (x @ model.weight_EDO[e] + model.bias_EO[e])
        for e in range(tree.num_experts)
    )
    torch.testing.assert_close(blend.mean_TO, loop)


def test_first_weights_fill_their_range(tree: Tree) -> None:
    model = make(tree, in_dim=100, init_range=0.2)
    for parameter in (model.weight_EDO, model.bias_EO):
        assert parameter.abs().max() <= 0.2
    assert model.weight_EDO.abs().max() > 0.19


def test_cost_by_hand() -> None:
    """Two units of two: a gate of six rows of 5 and a bias; four experts of 5 x 3 and 3."""
    found = cost(make(Tree.from_spec([2, 2])))
    gate, experts = 6 * 5 + 6, 4 * (5 * 3 + 3)
    assert found == Cost(
        total_params=gate + experts,
        active_params=gate + experts,
        gate_params=gate,
        flops_per_token=2 * (6 * 5 + 4 * 5 * 3),
        num_mixtures=1,
        experts_per_token=4.0,
    )


def test_flops_are_those_torch_counts(tree: Tree) -> None:
    model = make(tree)
    with FlopCounterMode(display=False) as counter:
        model(torch.randn(4, 5))
    assert counter.get_total_flops() == 4 * cost(model).flops_per_token
    assert cost(model).total_params == sum(p.numel() for p in model.parameters())


def test_it_is_described_with_its_tree() -> None:
    assert description(make(Tree.from_spec([2, 2]))).startswith("company (4 experts, 2 levels)")


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (
            {"output": "sigmod"},
            r"model\.output = sigmod: must be one of none, sigmoid\. Did you mean 'sigmoid'",
        ),
        ({"init_range": 0.0}, r"model\.init_range = 0\.0: expected a number above 0"),
        (
            {"gate": partial(Heads, num=2, gate=top_down(), visible=None, merge="sum")},
            r"gate\.num = 2: model=mixture blends whole networks by one gate",
        ),
    ],
)
def test_settings_that_cannot_work_are_refused(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        make(Tree.from_spec([4]), **changes)


@pytest.mark.parametrize("gate", [name for name, gate in GATES.items() if gate.func is not Heads])
def test_every_gate_of_one_head_blends(gate: str) -> None:
    blend, _ = make(Tree.from_spec([2, 2, 2]), gate=GATES[gate])(torch.randn(6, 5))
    torch.testing.assert_close(blend.reach_TE.sum(-1), torch.ones(6))
