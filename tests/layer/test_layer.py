"""HMoE against the naive oracle, outputs and every gradient, over trees x gates x selections."""

import copy
from functools import partial
from itertools import product

import pytest
import torch

from hmoe.errors import ConfigError
from hmoe.layer import ByUnit, HMoE, Mlp, Tree, soft
from hmoe.layer.tree_ops import at_experts
from tests.cases import (
    CASES,
    DIM,
    EXPERTS,
    GATES,
    NO_SHARED,
    SELECTIONS,
    TREES,
    best,
    bottom_up,
    by_unit,
    down,
    heads,
    layer_of,
    make_layer,
    tied,
    top_down,
)
from tests.oracle import naive_moe


def gradients(layer: HMoE, x: torch.Tensor, y: torch.Tensor) -> list[torch.Tensor]:
    """Gradients of a fixed nonlinear function of y, zero where a parameter was not used."""
    inputs = [x, *layer.parameters()]
    grads = torch.autograd.grad((y * y.detach().cos()).sum(), inputs, allow_unused=True)
    return [
        torch.zeros_like(p) if grad is None else grad for p, grad in zip(inputs, grads, strict=True)
    ]


def assert_is_the_oracle(layer: HMoE) -> None:
    x = torch.randn(6, DIM, requires_grad=True)
    y, routing = layer(x)
    assert (routing.token_R.diff() >= 0).all(), "the weighted sum relies on it"
    expected = naive_moe(layer, x)
    assert torch.allclose(y, expected, atol=1e-5)
    for fast, slow in zip(gradients(layer, x, y), gradients(layer, x, expected), strict=True):
        assert torch.allclose(fast, slow, atol=2e-5)


@pytest.mark.parametrize("gate", ["top_down", "bottom_up"])
@pytest.mark.parametrize(("tree", "selection"), CASES)
def test_layer_is_the_oracle(tree: str, selection: str, gate: str) -> None:
    assert_is_the_oracle(make_layer(tree, selection, gate))


LEARNT = [gate for gate in GATES if gate not in ("top_down", "bottom_up", "random", "hash")]


@pytest.mark.parametrize("gate", LEARNT)
@pytest.mark.parametrize("selection", ["soft", "top_2", "top_2_after", "beam_2", "descend_2"])
def test_layer_is_the_oracle_under_every_gate(selection: str, gate: str) -> None:
    assert_is_the_oracle(make_layer("ragged", selection, gate))


@pytest.mark.parametrize("gate", ["random", "hash"])
@pytest.mark.parametrize(
    "selection",
    [
        best(2, weights="even"),
        best(2, weights="softmax", scale=2.5),
        down(2, weights=["even", "probs", "renormalized"]),
    ],
)
def test_layer_is_the_oracle_under_a_gate_that_does_not_learn(selection, gate: str) -> None:
    tree = Tree.from_spec(TREES["ragged"])
    assert_is_the_oracle(layer_of(tree=tree, gate=GATES[gate], selection=selection)(dim=DIM))


def test_a_gate_that_learns_may_not_be_cut_off() -> None:
    with pytest.raises(ConfigError, match="do not depend on the gate"):
        layer_of(tree=Tree.from_spec([4]), selection=best(2, weights="even"))(dim=DIM)


@pytest.mark.parametrize("experts", EXPERTS)
@pytest.mark.parametrize("selection", ["soft", "top_2", "descend_2"])
@pytest.mark.parametrize("gate", ["top_down", "groups", "strongest"])
def test_biased_layer_is_the_oracle(gate: str, selection: str, experts: str) -> None:
    layer = make_layer("ragged", selection, gate, experts)
    layer.add_bias()
    layer.bias_N += torch.randn(layer.tree.num_nodes) * 2
    assert_is_the_oracle(layer)


@pytest.mark.parametrize("spec", [[4], [3, 4], [2, 2, 3]])
@pytest.mark.parametrize("score", ["linear", "laplace"])
def test_a_tied_gate_is_the_oracle_of_its_weights_written_out(spec: list[int], score: str) -> None:
    tree = Tree.from_spec(spec)
    layer = layer_of(tree=tree, gate=tied(score=score))(dim=DIM)
    untied = layer_of(tree=tree, gate=top_down(score=score))(dim=DIM)
    untied.experts = layer.experts
    (scorer,) = untied.gate.scorers
    repeats = [level[0].num_groups for level in tree.blocks]
    with torch.no_grad():
        for name, whole in (("weight_MD", scorer.weight_MD), ("bias_M", scorer.bias_M)):
            levels = [getattr(s, name) for s in layer.gate.scorers]
            whole.copy_(
                torch.cat([w for w, r in zip(levels, repeats, strict=True) for _ in range(r)])
            )
    x = torch.randn(6, DIM)
    assert torch.allclose(layer(x)[0], naive_moe(untied, x), atol=1e-5)


def test_each_level_may_have_its_own_score_temperature_and_link() -> None:
    gate = top_down(
        score=["laplace", "linear", "mlp"],
        width=6,
        temperature=[0.5, 1.0, 2.0],
        link=["softmax", "sigmoid", "softmax"],
    )
    layer = layer_of(tree=Tree.from_spec(TREES["ragged"]), gate=gate)(dim=DIM)
    assert [type(scorer).__name__ for scorer in layer.gate.scorers] == ["Laplace", "Linear", "Mlp"]
    assert_is_the_oracle(layer)


@pytest.mark.parametrize(
    ("gate", "selection"),
    # Expert choice looks at the tokens of all heads together, the oracle at one head.
    [
        *product(["top_down", "heads"], ["soft", "top_2", "descend_2"]),
        ("top_down", "expert_choice"),
    ],
)
def test_shared_experts_and_units_of_their_own_are_the_oracle(gate: str, selection: str) -> None:
    tree = Tree.from_spec(TREES["ragged"])
    shared = partial(
        NO_SHARED.func,
        units={"company": 2, "level_0": 1, "sales.us": 1},
        experts=EXPERTS["swiglu"],
    )
    wide = partial(EXPERTS["swiglu"].func, hidden_dim=12, dtype=None, implementation="loop")
    units = {"sales": "relu", "sales.us": wide, "legal": "zero", "support.1": "constant"}
    layer = layer_of(
        tree=tree,
        gate=GATES[gate],
        selection=SELECTIONS[selection],
        experts=by_unit(tree, units, default="identity"),
        shared=shared,
    )(dim=DIM)
    assert_is_the_oracle(layer)


def test_bottom_up_under_exact_top_k_is_the_flat_layer() -> None:
    """The same function under another tree: weights copied expert by expert."""
    deep = make_layer("deep", "top_2", "bottom_up")
    flat = layer_of(tree=Tree.from_spec([12]), gate=GATES["bottom_up"])(dim=DIM)
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
    assert routing.scores.logits_TN.shape == (routing.num_tokens, layer.tree.num_nodes)
    assert routing.num_sequences == (2 if len(shape) == 2 else None)


def test_a_layer_may_be_evaluated_before_it_is_trained() -> None:
    """Tables that are made under inference mode must serve a backward later."""
    tree = Tree.from_spec([2, 2])
    shared = partial(NO_SHARED.func, units={"level_0": 1}, experts=EXPERTS["mlp"])
    layer = layer_of(tree=tree, gate=GATES["groups"], shared=shared)(dim=DIM)
    tree._tensors.clear()  # as on a device where nothing has run yet
    x = torch.randn(4, DIM)
    with torch.inference_mode():
        expected = layer(x)[0]
    y, _ = layer(x)
    y.sum().backward()
    assert torch.equal(y, expected)


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
    assert (layer.gate.scorers[0].weight_MD.grad.abs().sum(-1) > 0)[used_N].all()


def test_one_expert_for_all_stays_finite() -> None:
    layer = make_layer("grid", "top_1")
    with torch.no_grad():
        layer.gate.scorers[0].bias_M[[0, 3]] += 100.0
    y, routing = layer(torch.randn(16, DIM))
    y.sum().backward()
    assert routing.load_E.max() == 16
    assert all(torch.isfinite(p.grad).all() for p in layer.parameters() if p.grad is not None)


@pytest.mark.parametrize("selection", ["top_2", "descend_2"])
def test_a_bias_against_all_probability_stays_finite(selection: str) -> None:
    layer = make_layer("grid", selection)
    layer.add_bias()
    with torch.no_grad():
        layer.gate.scorers[0].bias_M[0] += 1000.0  # department 0 has all the probability
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


def test_experts_in_bfloat16_leave_routing_and_the_tokens_precision_alone() -> None:
    layer = make_layer("grid", "top_2")
    x = torch.randn(16, DIM)
    exact, exact_routing = layer(x)
    layer.experts.dtype = torch.bfloat16
    y, routing = layer(x)
    assert y.dtype == torch.float32
    assert torch.equal(routing.weight_R, exact_routing.weight_R)
    assert not torch.equal(y, exact)
    assert (y - exact).norm() < 0.01 * exact.norm()


def test_a_selection_that_cannot_work_is_told_at_construction() -> None:
    with pytest.raises(ConfigError, match="k on level 0"):
        layer_of(tree=Tree.from_spec([2, 8]), selection=down(3))(dim=DIM)
    with pytest.raises(ConfigError, match="k on level 0"):
        layer_of(tree=Tree.from_spec([2, 8]), eval_selection=down(3))(dim=DIM)


@pytest.mark.gpu
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_cuda_is_the_cpu(dtype: torch.dtype) -> None:
    layer = make_layer("ragged", "top_2")
    layer.experts.implementation = "grouped"
    x = torch.randn(64, DIM)
    expected, _ = layer(x)
    y, _ = layer.to("cuda", dtype)(x.to("cuda", dtype))
    assert torch.allclose(y.cpu().float(), expected, atol=1e-4 if dtype == torch.float32 else 0.2)


@pytest.mark.parametrize("selection", [best(3), best(3, weights="softmax"), down([2, 1])])
def test_a_head_cannot_choose_more_than_it_sees(selection) -> None:
    """Of a with two experts and b with three the second head sees a alone."""
    parts = {"tree": Tree.from_spec({"a": 2, "b": 3}), "gate": heads(visible=[["a", "b"], ["a"]])}
    for rules in ({"selection": selection}, {"eval_selection": selection, "selection": soft}):
        with pytest.raises(ConfigError, match=r"selection\.k: more than .* some head sees"):
            layer_of(**parts, **rules)(dim=DIM)
    routing = layer_of(**parts, selection=best(2))(dim=DIM).route(torch.randn(4, DIM), None)
    # The second head's tokens are the last four.
    assert routing.expert_R[routing.token_R >= 4].unique().tolist() == [0, 1]


@pytest.mark.parametrize(
    ("gate", "selection", "level"),
    [
        (top_down(), down(2, weights=["even", "probs"]), 0),
        (top_down(), down(2, weights=["probs", "even"]), 1),
        (top_down(score=["linear", "random"]), down(1, weights=["even", "probs"]), 0),
        (tied(), down([2, 1], weights=["even", "probs"]), 0),
        (heads(), down(2, weights=["even", "renormalized"]), 0),
        # Of one unit the weights of its experts, over their sum, say nothing about the unit.
        (top_down(), best(2, beam=1, weights="renormalized"), 0),
        (top_down(), best(2, beam=1, weights="softmax"), 0),
    ],
)
def test_a_level_that_would_never_learn_is_refused(gate, selection, level: int) -> None:
    parts = {"tree": Tree.from_spec([3, 4]), "gate": gate}
    with pytest.raises(ConfigError, match=f"the weights do not depend on level {level} of"):
        layer_of(**parts, selection=selection)(dim=DIM)
    # Outside training nothing learns.
    layer_of(**parts, selection=soft, eval_selection=selection)(dim=DIM)


@pytest.mark.parametrize(
    ("gate", "selection"),
    [
        (top_down(score=["random", "linear"]), down(2, weights=["even", "probs"])),
        (top_down(score=["linear", "hash"]), down(2, weights=["probs", "even"])),
        (top_down(), best(2, weights="softmax")),
        (heads(visible=[["0"], ["1", "2"]]), best(2)),
        # One score an expert, for all levels.
        (bottom_up(), down(2, weights=["even", "probs"])),
    ],
)
def test_levels_that_do_not_learn_and_gates_without_levels_go_with_even(gate, selection) -> None:
    layer = layer_of(tree=Tree.from_spec([3, 4]), gate=gate, selection=selection)(dim=DIM)
    y_TD, _ = layer(torch.randn(64, DIM))
    y_TD.square().sum().backward()
    for name, parameter in layer.gate.named_parameters():
        assert parameter.grad is not None, name
        assert parameter.grad.abs().max() > 1e-4, name


# ------------------------------------------------------------------ what cannot be built


def test_heads_of_heads_are_refused() -> None:
    with pytest.raises(ConfigError, match="heads of heads are heads"):
        layer_of(tree=Tree.from_spec([4]), gate=heads(gate=heads()))(dim=DIM)


@pytest.mark.parametrize(
    ("bank", "message"),
    [
        ("zero", r"experts\.units\.legal = 'zero': must be a bank of experts"),
        (partial(Mlp, hidden_dim=8), r"experts\.units\.legal: missing a required .*activation"),
    ],
)
def test_what_is_no_bank_is_refused(bank: object, message: str) -> None:
    tree = Tree.from_spec(TREES["ragged"])
    experts = partial(ByUnit, tree=tree, default=EXPERTS["mlp"], units={"legal": bank})
    with pytest.raises(ConfigError, match=message):
        layer_of(tree=tree, experts=experts)(dim=DIM)


@pytest.mark.parametrize("tree", TREES)
@pytest.mark.parametrize("link", ["softmax", "sigmoid"])
@pytest.mark.parametrize("temperature", [1.0, 0.25])
def test_experts_start_equally_likely(temperature: float, link: str, tree: str) -> None:
    organisation = Tree.from_spec(TREES[tree])
    gate = top_down(link=link, temperature=temperature, init_std=0.0)
    layer = layer_of(tree=organisation, gate=gate)(dim=DIM)
    weight_TE = at_experts(layer.gate(torch.randn(2, DIM)).weight_TN, organisation)
    expected = torch.full_like(weight_TE, 1 / organisation.num_experts)
    assert torch.allclose(weight_TE, expected, atol=1e-6)
