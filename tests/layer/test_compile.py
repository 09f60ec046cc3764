"""Where all tokens go to K experts no step waits for the device, and torch.compile has no break.

Traced forward and backward (AOTAutograd), without generating code, which takes many seconds; one
slow test does that too.
"""

import warnings
from functools import partial

import pytest
import torch
import torch._dynamo

import hmoe
from hmoe.layer import Mlp
from hmoe.models import Dense
from tests.cases import MODELS
from tests.operations import WAITING, Seen

TREES = {
    "flat": "[16]",
    "grid": "[4,4]",
    "binary": "[2,2,2,2]",
    "ragged": "{a: 4, b: {c: 3, d: 2}}",
}
# Rules and parts by which every token goes to K experts, whatever the scores.
CHOICES = {
    "top_k": [],
    "beam": ["selection.beam=2"],
    "softmax": ["selection.weights=softmax"],
    "swiglu": ["experts=swiglu"],
    "relu": ["experts.activation=relu"],
    "bfloat16": ["experts.dtype=bfloat16"],
    "sigmoid": ["gate.link=sigmoid"],
    "noise": ["gate.noise=learned"],
    "bottom_up": ["gate=bottom_up", "selection.beam=2"],
    "heads": ["gate=heads"],
    "shared": ["shared=company"],
}
UNIFORM = {"tied": ["gate=tied"], "descend": ["selection=descend", "selection.k=2"]}
RAGGED = {"capacity": ["selection.capacity=1.5"]}
CASES = [("grid", choice) for choice in (CHOICES | UNIFORM)]
CASES += [(tree, "top_k") for tree in TREES]


def make(tree: str, choice: str) -> hmoe.layer.HMoE:
    torch.manual_seed(0)
    base = ("gate=top_down", "selection=top_k", "selection.k=2", "experts=mlp", "balance=none")
    own = (CHOICES | UNIFORM | RAGGED)[choice]
    sizes = ("experts.hidden_dim=16", f"tree.spec={TREES[tree]}")
    return hmoe.build(*base, *sizes, *own, dim=16)


@pytest.fixture(autouse=True)
def _fresh():
    torch._dynamo.reset()
    yield
    torch._dynamo.reset()


def run(layer, x):
    torch.manual_seed(1)
    layer.zero_grad()
    y, routing = layer(x)
    (y * torch.arange(16.0)).sum().backward()
    return [y.detach(), routing.weight_R.detach(), routing.expert_R], [
        p.grad for p in layer.parameters()
    ]


@pytest.mark.parametrize(("tree", "choice"), CASES)
def test_the_layer_is_one_graph_with_the_same_answers(tree: str, choice: str) -> None:
    layer = make(tree, choice)
    x = torch.randn(2, 8, 16)
    expected, expected_grads = run(layer, x)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of the compiler, about itself
        # fullgraph raises at a graph break.
        compiled = torch.compile(layer, fullgraph=True, backend="aot_eager")
        found, grads = run(compiled, x)
    for mine, other in zip([*found, *grads], [*expected, *expected_grads], strict=True):
        assert (mine is None) == (other is None)
        if other is not None:
            assert torch.allclose(mine.float(), other.float(), atol=1e-5)


@pytest.mark.parametrize(("tree", "choice"), CASES)
def test_no_step_waits_for_the_device(tree: str, choice: str) -> None:
    layer, x = make(tree, choice), torch.randn(2, 8, 16)
    run(layer, x)  # what is copied to a device is copied once
    with Seen() as seen:
        run(layer, x)
    assert {"_grouped_mm", "topk"} <= seen.names
    assert not seen.names & WAITING


def test_waiting_is_seen() -> None:
    layer, x = make("grid", "capacity"), torch.randn(2, 8, 16)
    with Seen() as seen:
        layer(x)
    assert seen.names & WAITING


def test_graph_breaks_are_seen() -> None:
    """A capacity leaves a number of rows that no compiler knows: the checks here can fail."""
    layer = make("grid", "capacity")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        assert torch._dynamo.explain(layer)(torch.randn(4, 16)).graph_break_count >= 1


@pytest.mark.parametrize("name", ["mlp", "transformer"])
def test_a_whole_model_is_one_graph(name: str) -> None:
    parts = {}
    if name == "transformer":
        experts = partial(Mlp, hidden_dim=16, activation="gelu", dtype=None)
        parts["plain_ffn"] = partial(Dense, experts=partial(experts, implementation="grouped"))
    model = MODELS[name](ffn=lambda dim: make("grid", "top_k"), dim=16, depth=3, **parts)
    x = torch.randn(4, 5) if name == "mlp" else torch.randint(0, 11, (2, 6))
    expected, _ = model(x)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        explained = torch._dynamo.explain(model)(x)
        assert (explained.graph_count, explained.graph_break_count) == (1, 0)
        y, routings = torch.compile(model, fullgraph=True, backend="aot_eager")(x)
    assert torch.allclose(y, expected, atol=1e-5)
    assert len(routings) == len(model(x)[1])


@pytest.mark.slow
def test_generated_code_gives_the_same_answers() -> None:
    layer = make("grid", "top_k")
    x = torch.randn(2, 64, 16)
    expected, expected_grads = run(layer, x)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        found, grads = run(torch.compile(layer, fullgraph=True), x)
    for mine, other in zip([*found, *grads], [*expected, *expected_grads], strict=True):
        assert torch.allclose(mine.float(), other.float(), atol=1e-4)


@pytest.mark.gpu
@pytest.mark.parametrize(("tree", "choice"), CASES)
def test_no_step_waits_for_a_gpu(tree: str, choice: str) -> None:
    layer = make(tree, choice).to("cuda", torch.bfloat16)
    x = torch.randn(2, 8, 16, device="cuda", dtype=torch.bfloat16)
    for mode in ("default", "error"):  # the first time copies tables to the device
        torch.cuda.set_sync_debug_mode(mode)
        try:
            y, _ = layer(x)
            y.backward(torch.ones_like(y))
        finally:
            torch.cuda.set_sync_debug_mode("default")
