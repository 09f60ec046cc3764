"""HMoE against the naive oracle, outputs and every gradient, over trees x gates x selections."""

import copy

import pytest
import torch

from hmoe.errors import ConfigError
from hmoe.layer import HMoE, Tree
from tests.cases import CASES, DIM, EXPERTS, GATES, SELECTIONS, make_layer
from tests.oracle import naive_moe


def gradients(layer: HMoE, x: torch.Tensor, y: torch.Tensor) -> list[torch.Tensor]:
    """Gradients of a fixed nonlinear function of y, zero where a parameter was not used."""
    inputs = [x, *layer.parameters()]
    grads = torch.autograd.grad((y * y.detach().cos()).sum(), inputs, allow_unused=True)
    return [
        torch.zeros_like(p) if grad is None else grad for p, grad in zip(inputs, grads, strict=True)
    ]


@pytest.mark.parametrize("gate", GATES)
@pytest.mark.parametrize(("tree", "selection"), CASES)
def test_layer_is_the_oracle(tree: str, selection: str, gate: str) -> None:
    layer = make_layer(tree, selection, gate, "mlp")
    x = torch.randn(6, DIM, requires_grad=True)
    y, _ = layer(x)
    expected = naive_moe(layer, x)
    assert torch.allclose(y, expected, atol=1e-5)
    for fast, slow in zip(gradients(layer, x, y), gradients(layer, x, expected), strict=True):
        assert torch.allclose(fast, slow, atol=2e-5)


@pytest.mark.parametrize("experts", EXPERTS)
@pytest.mark.parametrize("selection", ["soft", "top_2", "descend_2"])
def test_biased_layer_is_the_oracle(selection: str, experts: str) -> None:
    layer = make_layer("ragged", selection, "top_down", experts)
    layer.add_bias()
    layer.bias_N += torch.randn(layer.tree.num_nodes) * 2
    x = torch.randn(6, DIM, requires_grad=True)
    y, _ = layer(x)
    expected = naive_moe(layer, x)
    assert torch.allclose(y, expected, atol=1e-5)
    for fast, slow in zip(gradients(layer, x, y), gradients(layer, x, expected), strict=True):
        assert torch.allclose(fast, slow, atol=2e-5)


def test_bottom_up_under_exact_top_k_is_the_flat_layer() -> None:
    """The same function under another tree: weights copied expert by expert."""
    deep = make_layer("deep", "top_2", "bottom_up")
    flat = HMoE(
        tree=Tree.from_spec([12]),
        gate=GATES["bottom_up"],
        selection=SELECTIONS["top_2"],
        experts=EXPERTS["mlp"],
        dim=DIM,
    )
    flat.load_state_dict(deep.state_dict())
    x = torch.randn(32, DIM)
    assert torch.allclose(flat(x)[0], deep(x)[0], atol=1e-5)


@pytest.mark.parametrize(("tree", "selection"), CASES)
def test_evaluation_is_deterministic(tree: str, selection: str) -> None:
    layer = make_layer(tree, selection).eval()
    x = torch.randn(32, DIM)
    with torch.no_grad():
        first, second = layer(x)[0], layer(x)[0]
    assert torch.equal(first, second)


@pytest.mark.parametrize("shape", [(), (5,), (2, 3)])
def test_leading_axes_are_tokens(shape: tuple[int, ...]) -> None:
    layer = make_layer("grid", "top_2")
    x = torch.randn(*shape, DIM)
    y, routing = layer(x)
    assert y.shape == x.shape
    assert routing.num_tokens == max(1, x[..., 0].numel())
    assert routing.logits_TN.shape == (routing.num_tokens, layer.tree.num_nodes)


def test_a_token_does_not_see_the_others() -> None:
    layer = make_layer("ragged", "descend_2")
    x = torch.randn(10, DIM)
    assert torch.allclose(layer(x)[0][3:5], layer(x[3:5])[0], atol=1e-6)


def test_every_used_gate_gets_a_gradient() -> None:
    layer = make_layer("grid", "top_2")
    y, routing = layer(torch.randn(256, DIM))
    y.square().sum().backward()
    used_N = routing.load_N > 0
    # A sibling group whose children were all used twice by some token moves every child.
    assert (layer.gate.weight_ND.grad.abs().sum(-1) > 0)[used_N].all()


def test_one_expert_for_all_stays_finite() -> None:
    layer = make_layer("grid", "top_1")
    with torch.no_grad():
        layer.gate.bias_N[[0, 3]] += 100.0
    y, routing = layer(torch.randn(16, DIM))
    y.sum().backward()
    assert routing.load_E.max() == 16
    assert all(torch.isfinite(p.grad).all() for p in layer.parameters() if p.grad is not None)


@pytest.mark.parametrize("selection", ["top_2", "descend_2"])
def test_a_bias_against_all_probability_stays_finite(selection: str) -> None:
    layer = make_layer("grid", selection)
    layer.add_bias()
    with torch.no_grad():
        layer.gate.bias_N[0] += 1000.0  # department 0 has all the probability
        layer.bias_N[0] -= 2000.0  # and is never chosen
    y, _ = layer(torch.randn(8, DIM))
    y.sum().backward()
    assert torch.isfinite(y).all()
    assert all(torch.isfinite(p.grad).all() for p in layer.parameters() if p.grad is not None)


def test_bfloat16_keeps_the_gate_in_float32() -> None:
    layer = make_layer("grid", "top_2")
    layer.experts.implementation = "grouped"
    x = torch.randn(16, DIM)
    exact, exact_routing = layer(x)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        y, routing = layer(x)
    assert routing.probs_TN.dtype == torch.float32
    assert torch.equal(routing.expert_R, exact_routing.expert_R)
    assert torch.allclose(y.float(), exact, atol=0.1, rtol=0.1)
    half = copy.deepcopy(layer).to(torch.bfloat16)
    y, routing = half(x.to(torch.bfloat16))
    assert y.dtype == torch.bfloat16
    assert routing.probs_TN.dtype == torch.float32


def test_a_selection_that_cannot_work_is_told_at_construction() -> None:
    with pytest.raises(ConfigError, match="k on level 0"):
        HMoE(
            tree=Tree.from_spec([2, 8]),
            gate=GATES["top_down"],
            selection=lambda *a: SELECTIONS["descend_2"].func(*a, k=3, renormalize=False),
            experts=EXPERTS["mlp"],
            dim=DIM,
        )


@pytest.mark.gpu
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_cuda_is_the_cpu(dtype: torch.dtype) -> None:
    layer = make_layer("ragged", "top_2")
    layer.experts.implementation = "grouped"
    x = torch.randn(64, DIM)
    expected, _ = layer(x)
    y, _ = layer.to("cuda", dtype)(x.to("cuda", dtype))
    assert torch.allclose(y.cpu().float(), expected, atol=1e-4 if dtype == torch.float32 else 0.2)
