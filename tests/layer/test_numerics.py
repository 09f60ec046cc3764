"""Numbers at their limits: what a layer makes of NaN, of very large scores, and of no tokens."""

from collections.abc import Callable
from functools import partial
from math import log

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from hmoe.balance import BiasController, doubt_loss, spread_loss, z_loss
from hmoe.layer import HMoE, LazyHMoE, Shared, SoftMoE, Tree, expert_choice
from hmoe.layer.asking import LinearScorer
from hmoe.layer.descent import search
from hmoe.layer.scorers import Hash, Laplace
from hmoe.layer.selection import Selection
from hmoe.layer.tree_ops import at_experts
from tests.cases import (
    CASES,
    DIM,
    EXPERTS,
    GATES,
    MODELS,
    SELECTIONS,
    TREES,
    best,
    down,
    heads,
    layer_of,
    make_input,
    make_layer,
    tied,
    top_down,
)
from tests.operations import WAITING, Seen

META = GATES | {
    "noisy": top_down(noise=["gumbel", "learned"], temperature=[0.5, 2.0]),
    "tied": tied(noise=["learned", "gumbel"], temperature=[0.5, 2.0]),
}
# Gates that do not learn need even weights.
del META["random"], META["hash"]
# An expert that chooses its tokens looks at all of them, so there a NaN token is not alone.
BY_TOKEN = [case for case in CASES if case[1] != "expert_choice"]


def assert_nan_stays(layer: HMoE) -> None:
    """A NaN in one token gives NaN in that token's answer only, and the backward works."""
    x = torch.randn(7, DIM)
    expected = layer(x)[0].detach()
    others = torch.arange(7) != 3
    x[3, 1] = torch.nan
    y, _ = layer(x)
    assert y[3].isnan().all()
    assert torch.allclose(y[others], expected[others], atol=1e-6)
    y.sum().backward()


@pytest.mark.parametrize(("tree", "selection"), BY_TOKEN)
def test_nan_stays_with_its_token(tree: str, selection: str) -> None:
    assert_nan_stays(make_layer(tree, selection))


@pytest.mark.parametrize("tree", TREES)
@pytest.mark.parametrize("beam", [1, 2, None])
def test_nan_stays_with_its_token_under_a_lazy_descent(tree: str, beam: int | None) -> None:
    organisation = Tree.from_spec(TREES[tree])
    selection = best(1, beam=beam if organisation.num_levels > 1 else None)
    dense = layer_of(tree=organisation, selection=selection)
    assert_nan_stays(LazyHMoE(**(dense.keywords | {"dim": DIM})))


def test_nan_chooses_nobody_twice() -> None:
    """The decisions of a NaN token are arbitrary, yet decisions: so many experts, all different."""
    for selection in ("descend_2", "top_2", "beam_2"):
        routing = make_layer("grid", selection)(torch.full((1, DIM), torch.nan))[1]
        experts = routing.expert_R.tolist()
        assert len(experts) == len(set(experts)) == (4 if selection == "descend_2" else 2)


# ------------------------------------------------------------------ kinds of numbers


@pytest.mark.parametrize("cast", [nn.Module.bfloat16, nn.Module.half, nn.Module.double])
def test_a_bias_stays_float32(cast: Callable[[nn.Module], nn.Module]) -> None:
    """3000 steps of 0.001 are 3; in bfloat16 they end at 0.5, where a step rounds to nothing."""
    layer = make_layer("grid", "top_2")
    layer.add_bias()
    layer.bias_N[0] = 1 / 3
    cast(nn.Sequential(layer))
    assert layer.bias_N.dtype == torch.float32
    assert layer.bias_N[0] == torch.tensor(1 / 3)
    layer.bias_N.zero_()
    controller = BiasController(rate=0.001, rule="sign", among="siblings")
    load_N = torch.zeros(layer.tree.num_nodes, dtype=torch.int64)
    load_N[1] = 30  # department 0 has too little to do
    for _ in range(3000):
        controller.step(layer, load_N)
    assert layer.bias_N[0].item() == pytest.approx(3, abs=0.01)


def test_a_bias_moves_with_its_layer() -> None:
    layer = make_layer("grid", "top_2")
    layer.add_bias()
    layer.to("meta", torch.bfloat16)
    assert (layer.bias_N.device.type, layer.bias_N.dtype) == ("meta", torch.float32)
    layer.to_empty(device="cpu")
    assert layer.bias_N.device.type == "cpu"


def test_a_bias_made_under_another_default_is_float32() -> None:
    layer = make_layer("grid", "top_2")
    torch.set_default_dtype(torch.bfloat16)
    try:
        layer.add_bias()
    finally:
        torch.set_default_dtype(torch.float32)
    assert layer.bias_N.dtype == torch.float32


@pytest.mark.parametrize("selection", SELECTIONS)
def test_a_layer_of_doubles(selection: str) -> None:
    layer = make_layer("grid", selection)
    layer.experts.implementation = "grouped"
    x = torch.randn(9, DIM)
    rough = layer(x)[0]
    y, _ = layer.double()(x.double())
    assert y.dtype == torch.float64
    assert torch.allclose(y.float(), rough, atol=1e-5)
    y.sum().backward()


# ------------------------------------------------------------------ temperature


@pytest.mark.parametrize("temperature", [0.25, 4.0, "by_level"])
@pytest.mark.parametrize("tree", TREES)
@pytest.mark.parametrize("score", ["linear", "cosine", "mlp", "random"])
def test_experts_start_equally_likely(tree: str, temperature: float | str, score: str) -> None:
    organisation = Tree.from_spec(TREES[tree])
    by_level = [0.3 * (level + 1) for level in range(organisation.num_levels)]
    gate = top_down(
        score=score,
        width=4 if score == "mlp" else None,
        init_std=0.0,
        temperature=by_level if temperature == "by_level" else temperature,
    )(tree=organisation, dim=DIM)
    weight_TE = at_experts(gate(torch.randn(3, DIM)).weight_TN, organisation)
    assert torch.allclose(weight_TE, torch.full_like(weight_TE, 1 / organisation.num_experts))


@pytest.mark.parametrize("temperature", [0.25, 4.0])
def test_hashed_experts_are_chosen_equally_often_at_any_temperature(temperature: float) -> None:
    torch.manual_seed(0)
    tree = Tree.from_spec({"a": 1, "b": 3})
    gate = top_down(score="hash", temperature=temperature)(tree=tree, dim=DIM)
    scores = gate(torch.zeros(8000, DIM), torch.arange(8000))
    routing = down(1, weights="even")(scores, gate.choose(scores, None))
    assert torch.allclose(routing.load_E / 8000, torch.full((4,), 0.25), atol=0.03)


# ------------------------------------------------------------------ made without memory


@pytest.mark.parametrize("gate", META)
def test_a_layer_made_on_meta_is_what_is_loaded_into_it(gate: str) -> None:
    """`to_empty` leaves garbage in all that a checkpoint does not restore."""
    organisation = Tree.from_spec(TREES["grid"])
    layer = layer_of(tree=organisation, gate=META[gate], selection=best(2))
    model = partial(MODELS["transformer"], ffn=layer)
    torch.manual_seed(0)
    source = model()
    with torch.device("meta"):
        target = model()
    target.to_empty(device="cpu")
    strangers = {n for n, _ in target.named_buffers()} - target.state_dict().keys()
    assert not strangers
    target.load_state_dict(source.state_dict())
    x = make_input("transformer")
    outcomes = []
    for one in (source, target):
        torch.manual_seed(1)  # of the noise
        outcomes.append(one(x)[0])
    assert torch.equal(*outcomes)


# ------------------------------------------------------------------ noise of a tied gate


@pytest.mark.parametrize("noise", ["gumbel", "learned", ["learned", "gumbel"]])
def test_groups_of_a_tied_gate_share_their_noise(noise: str | list[str]) -> None:
    scores = tied(noise=noise)(tree=Tree.from_spec([3, 4]), dim=DIM)(torch.randn(5, DIM))
    for value_TN in (scores.logits_TN, scores.clean_TN, scores.noise_TN):
        if value_TN is not None:
            group_TGb = value_TN[:, 3:].unflatten(-1, (3, 4))
            assert torch.equal(group_TGb, group_TGb[:, :1].expand_as(group_TGb))
    assert not torch.equal(scores.logits_TN, scores.clean_TN)


def test_a_tied_gate_learns_the_noise_of_places() -> None:
    gate = tied(noise="learned")(tree=Tree.from_spec([3, 4]), dim=DIM)
    assert gate.noise_MD.shape == (3 + 4, DIM)


# ------------------------------------------------------------------ scores at their limits


@pytest.mark.parametrize(("bits", "uniform"), [(-1, 1 - 2.0**-24), (0, 2.0**-24)])
def test_the_extreme_hashes_are_finite(
    bits: int, uniform: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("hmoe.layer.scorers._mix", lambda value: torch.full_like(value, bits))
    scorer = Hash(prior_M=torch.zeros(1), dim=DIM, width=None, init_std=1.0)
    scorer.salt_M.zero_()
    score = scorer(torch.zeros(1, DIM), torch.zeros(1, dtype=torch.int64)).item()
    assert score == pytest.approx(-log(-log(uniform)), rel=1e-5)


@pytest.mark.parametrize("dim", [8, 512])
@pytest.mark.parametrize("scale", [0.01, 1.0, 100.0])
@pytest.mark.parametrize("away", [0.0, 1e-5, 1e-4, 1e-3, 1e-2, 1.0])
def test_distances_are_right_to_their_stated_limit(away: float, scale: float, dim: int) -> None:
    scorer = Laplace(prior_M=torch.zeros(64), dim=dim, width=None, init_std=scale)
    length_M1 = scorer.weight_MD.norm(dim=-1, keepdim=True)
    step_MD = F.normalize(torch.randn(64, dim), dim=-1)
    x_MD = (scorer.weight_MD + away * length_M1 * step_MD).detach().requires_grad_()
    score_M = scorer(x_MD, None).diagonal()
    exact_M = (x_MD.double() - scorer.weight_MD.double()).norm(dim=-1)
    assert ((-score_M - exact_M).abs() <= x_MD.norm(dim=-1) / 500 + 1e-6).all()
    score_M.sum().backward()
    assert torch.isfinite(x_MD.grad).all()
    assert torch.isfinite(scorer.weight_MD.grad).all()


@pytest.mark.parametrize("rule", [best(2), down(2), partial(expert_choice, k=2.0)])
def test_probabilities_that_underflow_are_still_ranked(rule: Selection) -> None:
    """Of these scores all but the first have a probability of 0 in float32."""
    gate = top_down()(tree=Tree.from_spec([4]), dim=DIM)
    scores = gate.read(torch.tensor([[300.0, 0.0, -5.0, 150.0], [0.0, 300.0, 150.0, -5.0]]))
    routing = rule(scores, gate.choose(scores, None))
    if rule.func is expert_choice:  # every expert takes the token that wants it more
        assert routing.expert_R.tolist() == [0, 3, 1, 2]
    else:
        assert sorted(routing.expert_R[:2].tolist()) == [0, 3]
        assert sorted(routing.expert_R[2:].tolist()) == [1, 2]


def test_paths_that_underflow_are_still_ranked() -> None:
    """Of departments only 0 has a probability above 0 in float32; 4 is the next best."""
    tree = Tree.from_spec([5, 2])
    logits_N = torch.tensor([0.0, -400.0, -350.0, -300.0, -200.0, *[0.0, -50.0] * 5])
    scorer = LinearScorer(tree, torch.zeros(1, 4), torch.zeros(15, 4), logits_N, [1.0, 1.0])
    assert search(scorer, k=4, beams=[2]).expert_TK.tolist() == [[0, 1, 8, 9]]
    gate = top_down()(tree=tree, dim=DIM)
    scores = gate.read(logits_N.unsqueeze(0))
    routing = best(4, beam=2)(scores, gate.choose(scores, None))
    assert routing.expert_R.tolist() == [0, 1, 8, 9]


# ------------------------------------------------------------------ no tokens


@pytest.mark.parametrize("shape", [(0,), (2, 0), (0, 3), (2, 0, 3)])
@pytest.mark.parametrize("selection", SELECTIONS)
@pytest.mark.parametrize("gate", ["top_down", "bottom_up"])
def test_no_tokens_have_no_answers(selection: str, gate: str, shape: tuple[int, ...]) -> None:
    layer = make_layer("grid", selection, gate)
    x = torch.randn(*shape, DIM, requires_grad=True)
    y, routing = layer(x)
    assert y.shape == x.shape
    assert routing.num_tokens == routing.token_R.numel() == 0
    y.sum().backward()


@pytest.mark.parametrize("merge", ["sum", "mean", "stack"])
@pytest.mark.parametrize("shape", [(2, 0), (0, 3)])
def test_no_tokens_have_no_answers_from_heads(merge: str, shape: tuple[int, ...]) -> None:
    tree = Tree.from_spec(TREES["grid"])
    layer = layer_of(tree=tree, gate=heads(merge=merge), selection=best(2))(dim=DIM)
    y, routing = layer(torch.randn(*shape, DIM))
    assert y.shape == ((2, *shape, DIM) if merge == "stack" else (*shape, DIM))
    assert routing.num_sequences == 2 * shape[0]


@pytest.mark.parametrize("shape", [(2, 0), (0, 3)])
def test_slots_without_tokens(shape: tuple[int, ...]) -> None:
    tree = Tree.from_spec([4])
    layer = SoftMoE(tree=tree, experts=EXPERTS["mlp"], slots=2, group=3, dim=DIM)
    y, _ = layer(torch.randn(*shape, DIM))
    assert y.shape == (*shape, DIM)


@pytest.mark.parametrize(
    "loss", [spread_loss, z_loss, *(partial(doubt_loss, weigh=w) for w in ("reach", "units"))]
)
@pytest.mark.parametrize("tree", TREES)
def test_no_tokens_cost_nothing(tree: str, loss: Callable[..., dict[str, torch.Tensor]]) -> None:
    layer = make_layer(tree, "top_2")
    values = loss(layer(torch.zeros(0, DIM))[1])
    assert [value.item() for value in values.values()] == [0.0] * layer.tree.num_levels
    sum(values.values()).backward()
    grads = [p.grad for p in layer.gate.parameters()]
    assert all(grad is None or torch.isfinite(grad).all() for grad in grads)


# ------------------------------------------------------------------ shared experts


def shared_layer(spec: list[int], units: dict[str, int], **parts) -> HMoE:
    shared = partial(Shared, units=units, experts=EXPERTS["mlp"])
    parts = {"tree": Tree.from_spec(spec), "shared": shared, "selection": best(2)} | parts
    return layer_of(**parts)(dim=DIM)


@pytest.mark.parametrize("merge", ["sum", "stack"])
def test_the_company_s_staff_is_not_looked_for(merge: str) -> None:
    """Neither the shared experts' rows nor their units make the device be waited for."""
    layer = shared_layer([3, 4], {"company": 2}, gate=heads(merge=merge))
    layer.experts.implementation = layer.shared.experts.implementation = "grouped"
    layer(torch.randn(5, DIM))
    with Seen() as seen:
        layer(torch.randn(5, DIM))
    assert not seen.names & WAITING


def test_a_few_units_of_a_large_tree_are_not_all_nodes() -> None:
    layer = shared_layer([32, 32], {"0": 1, "company": 1})
    routing = layer(torch.randn(50, DIM))[1]
    with Seen() as seen:
        layer.shared_weights(routing)
    assert seen.largest < 50 * 1024 / 10


@pytest.mark.parametrize("units", [{"company": 1}, {"level_0": 1}, {"company": 1, "0": 2}])
def test_no_tokens_meet_no_shared_experts(units: dict[str, int]) -> None:
    for gate in (top_down(), heads(merge="mean")):
        y, _ = shared_layer([3, 4], units, gate=gate)(torch.randn(0, DIM))
        assert y.shape == (0, DIM)
