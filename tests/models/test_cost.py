"""Costs: by hand, against torch's own counter on the slow twin, and experts per token."""

from functools import partial
from math import erf, exp, log, pi, sqrt

import pytest
import torch
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

import hmoe
from hmoe.layer import (
    ByUnit,
    HMoE,
    LazyHMoE,
    Mlp,
    Neurons,
    Selection,
    Shared,
    SwiGlu,
    Tree,
    expert_choice,
    soft,
)
from hmoe.models import Cost, Dense, ResidualMlp, Transformer, cost
from hmoe.models.cost import experts_per_token
from tests.cases import (
    CASES,
    EXPERTS,
    GATES,
    MODELS,
    SELECTIONS,
    TREES,
    best,
    bottom_up,
    dense,
    down,
    heads,
    layer_of,
    make_input,
    mixture,
    tied,
    top_down,
)
from tests.oracle import children

# ------------------------------------------------------------------ by hand


@pytest.mark.parametrize(
    ("gate", "gate_params", "gate_flops"),
    # Six nodes of which four are experts; a row of 8 weights and a bias each.
    [
        (top_down(), 6 * 8 + 6, 2 * 6 * 8),
        (bottom_up(), 4 * 8 + 4, 2 * 4 * 8),
        (tied(), 2 * (2 * 8 + 2), 2 * 2 * 2 * 8),
        (top_down(score="mlp", width=5), 8 * 5 + 6 * 5 + 6, 2 * (8 * 5 + 6 * 5)),
        (top_down(noise="learned"), 2 * 6 * 8 + 6, 2 * 2 * 6 * 8),
        (top_down(score="random"), 0, 2 * 6 * 8),
    ],
)
def test_a_small_mixture_by_hand(gate, gate_params: int, gate_flops: int) -> None:
    ffn = layer_of(
        tree=Tree.from_spec([2, 2]),
        gate=gate,
        selection=best(1),
        experts=partial(SwiGlu, hidden_dim=16, dtype=None, implementation="loop"),
    )
    model = ResidualMlp(in_dim=5, out_dim=3, dim=8, depth=2, ffn=ffn)
    expert = 3 * 8 * 16  # into the gate and up, out again
    rest = (5 * 8 + 8) + 2 * 8 + 8 + (8 * 3 + 3)  # embed, two norms, norm, head
    assert cost(model) == Cost(
        total_params=rest + 2 * (gate_params + 4 * expert),
        active_params=rest + 2 * (gate_params + expert),
        gate_params=2 * gate_params,
        flops_per_token=2 * 5 * 8 + 2 * (gate_flops + 2 * expert) + 2 * 8 * 3,
        num_mixtures=2,
        experts_per_token=1.0,
    )


def test_a_lazy_gate_costs_what_it_looks_at() -> None:
    ffn = partial(
        LazyHMoE,
        **layer_of(
            tree=Tree.from_spec([4, 3, 2]),
            selection=best(2, beam=[2, 1]),
            experts=partial(
                Mlp, hidden_dim=16, activation="gelu", dtype=None, implementation="loop"
            ),
        ).keywords,
    )
    model = ResidualMlp(in_dim=5, out_dim=3, dim=8, depth=1, ffn=ffn)
    expert, rest = 2 * 8 * 16, (5 * 8 + 8) + 8 + 8 + (8 * 3 + 3)
    # A token meets 4 nodes, 3 below each of 2, 2 below 1. Of the second level it asks for so many
    # that all 12 are scored.
    met, compared, nodes = 4 + 2 * 3 + 2, 4 + 12 + 2, 4 + 12 + 24
    assert cost(model) == Cost(
        total_params=rest + nodes * 9 + 24 * expert,
        active_params=rest + met * 9 + 2 * expert,
        gate_params=nodes * 9,
        flops_per_token=2 * 5 * 8 + 2 * (compared * 8 + 2 * expert) + 2 * 8 * 3,
        num_mixtures=1,
        experts_per_token=2.0,
    )


def test_a_lazy_tied_gate_costs_all_of_its_few_scores() -> None:
    parts = {"tree": Tree.from_spec([4, 4]), "gate": tied(), "selection": best(2, beam=2)}
    lazy = partial(LazyHMoE, **layer_of(**parts).keywords)
    make = partial(ResidualMlp, in_dim=5, out_dim=3, dim=8, depth=1)
    assert cost(make(ffn=lazy)) == cost(make(ffn=layer_of(**parts)))


def test_a_small_transformer_by_hand() -> None:
    plain = partial(
        Dense,
        experts=partial(Mlp, hidden_dim=24, activation="gelu", dtype=None, implementation="loop"),
    )
    ffn = layer_of(
        tree=Tree.from_spec([4]),
        experts=partial(Mlp, hidden_dim=16, activation="gelu", dtype=None, implementation="loop"),
    )
    model = Transformer(
        in_dim=10,
        out_dim=12,
        context=32,
        dim=8,
        depth=2,
        num_heads=2,
        ffn=ffn,
        ffn_blocks=[1],
        plain_ffn=plain,
    )
    expert, gate, attention = 2 * 8 * 16, 4 * 8 + 4, 8 * 24 + 8 * 8
    # Embedding, per block two norms and attention, the plain block, gate, norm, head.
    met = 10 * 8 + 2 * (2 * 8 + attention) + 2 * 8 * 24 + gate + 8 + 8 * 12
    # A lookup is no product; 32 scores of 8 products each, and as many to weigh the values.
    products = 2 * attention + 2 * 8 * 24 + 4 * 8 + 2 * expert + 8 * 12 + 2 * (32 * 8 + 32 * 8)
    assert cost(model) == Cost(
        total_params=met + 4 * expert,
        active_params=met + 2 * expert,
        gate_params=gate,
        flops_per_token=2 * products,
        num_mixtures=1,
        experts_per_token=2.0,
    )


@pytest.mark.parametrize("model", MODELS)
def test_a_dense_control_is_all_active_and_has_no_gate(model: str) -> None:
    network = MODELS[model](ffn=dense())
    found = cost(network)
    assert found.total_params == found.active_params == sum(p.numel() for p in network.parameters())
    assert (found.gate_params, found.num_mixtures, found.experts_per_token) == (0, 0, 0.0)


# ------------------------------------------------------------------ oracles


@pytest.mark.parametrize("model", MODELS)
@pytest.mark.parametrize(("tree", "selection"), [*CASES, (None, None)])
def test_parameters_are_the_real_ones_and_active_those_a_token_moves(
    model: str, tree: str | None, selection: str | None
) -> None:
    network = MODELS[model](ffn=mixture(tree, selection) if tree else dense())
    found = cost(network)
    assert found.total_params == sum(p.numel() for p in network.parameters())
    x = torch.randn(1, 5) if model == "mlp" else torch.randint(0, 11, (1, 1))
    output, routings = network(x)
    output.square().sum().backward()
    mixtures = [m for m in network.modules() if isinstance(m, HMoE)]
    moved, expected = found.total_params, found.active_params
    for layer, routing in zip(mixtures, routings, strict=True):
        in_experts = [p.grad for p in layer.experts.parameters()]
        moved -= sum((grad == 0).sum().item() for grad in in_experts)
        # A ragged descent gives this token its own number of experts; all others are sure.
        surprise = len(routing.expert_R) - found.experts_per_token
        expected += surprise * sum(grad[0].numel() for grad in in_experts)
    assert moved == pytest.approx(expected)


def test_shared_experts_and_units_of_their_own_by_hand() -> None:
    """One expert for the company, one in each of two departments; two widths of experts."""
    tree = Tree.from_spec([2, 2])
    wide, narrow = (
        partial(Mlp, hidden_dim=width, activation="relu", dtype=None, implementation="loop")
        for width in (16, 8)
    )
    shared = partial(Shared, units={"company": 1, "level_0": 1}, experts=narrow)
    experts = partial(ByUnit, tree=tree, default=narrow, units={"1": wide})
    layer = layer_of(tree=tree, selection=down(1), experts=experts, shared=shared)
    model = ResidualMlp(in_dim=5, out_dim=3, dim=8, depth=1, ffn=layer)
    rest = (5 * 8 + 8) + 8 + 8 + (8 * 3 + 3)
    gate, small, large = 6 * 8 + 6, 2 * 8 * 8, 2 * 8 * 16
    found = cost(model)
    assert found.total_params == rest + gate + 2 * small + 2 * large + 3 * small
    # At even load a row meets the mean of the experts; a token passes company and one department.
    met = (small + large) / 2 + small + small
    assert found.active_params == rest + gate + met
    assert found.flops_per_token == 2 * (5 * 8 + 6 * 8 + met + 8 * 3)


# Torch counts matrix products; neurons multiply by element.
COUNTED = [name for name in EXPERTS if name != "neurons"]
FLOPS = [
    *((tree, selection, "top_down", "mlp") for tree, selection in CASES),
    *((tree, "top_2", gate, "mlp") for tree in ("grid", "ragged") for gate in GATES),
    *((tree, "top_2", "top_down", experts) for tree in ("flat", "ragged") for experts in COUNTED),
    *((None, None, "", experts) for experts in COUNTED),
]


@pytest.mark.parametrize("model", MODELS)
@pytest.mark.parametrize(("tree", "selection", "gate", "experts"), FLOPS)
def test_flops_are_those_torch_counts_on_the_slow_twin(
    model: str, tree: str | None, selection: str | None, gate: str, experts: str
) -> None:
    if tree is None:
        network = MODELS[model](ffn=dense(experts))
    else:
        network = MODELS[model](ffn=mixture(tree, selection, gate, experts))
    x = make_input(model, batch=3)
    tokens = x.shape[0] * (1 if model == "mlp" else x.shape[1])
    # The fused attention of the CPU counts as nothing; written out as products it is counted.
    with sdpa_kernel(SDPBackend.MATH), FlopCounterMode(display=False) as counter:
        _, routings = network(x)
    found = cost(network)
    expected = found.flops_per_token * tokens
    for layer, routing in zip(
        (m for m in network.modules() if isinstance(m, HMoE)), routings, strict=True
    ):
        # A ragged descent gave these tokens their own number of experts; all others are sure.
        surprise = len(routing.expert_R) - found.experts_per_token * tokens
        one_expert = sum(p[0].numel() for p in layer.experts.parameters() if p.ndim == 3)
        expected += 2 * surprise * one_expert
    assert counter.get_total_flops() == pytest.approx(expected, rel=1e-9)


@pytest.mark.parametrize("model", MODELS)
@pytest.mark.parametrize("tree", ["ragged", None])
def test_neurons_cost_what_networks_of_one_hidden_unit_cost(model: str, tree: str | None) -> None:
    costs = []
    for bank in (
        Neurons,
        partial(Mlp, hidden_dim=1, activation="gelu", dtype=None, implementation="loop"),
    ):
        parts = {"tree": Tree.from_spec(TREES["ragged"]), "experts": bank}
        ffn = layer_of(**parts) if tree else partial(Dense, experts=bank)
        costs.append(cost(MODELS[model](ffn=ffn)))
    assert costs[0] == costs[1]


@pytest.mark.parametrize("model", MODELS)
@pytest.mark.parametrize(("tree", "selection"), [*CASES, (None, None)])
def test_a_model_without_memory_costs_the_same(
    model: str, tree: str | None, selection: str | None
) -> None:
    make = partial(MODELS[model], ffn=mixture(tree, selection) if tree else dense())
    with torch.device("meta"):
        blank = make()
    assert {p.device.type for p in blank.parameters()} == {"meta"}
    assert cost(blank) == cost(make())


# ------------------------------------------------------------------ experts per token


def layer_with(spec: object, selection: Selection) -> HMoE:
    return layer_of(tree=Tree.from_spec(spec), selection=selection)(dim=8)


SURE = [
    *((spec, soft, Tree.from_spec(spec).num_experts) for spec in TREES.values()),
    *((spec, SELECTIONS["top_2"], 2) for spec in TREES.values()),
    *((spec, SELECTIONS["descend_1"], 1) for spec in TREES.values()),
    ([3, 4], SELECTIONS["beam_2"], 2),
    ([3, 4], down([2, 3], weights="renormalized"), 6),
    ([3, 4], partial(expert_choice, k=2.0), 2),
    ([3, 4], partial(expert_choice, k=[1.0, 0.5]), 0.5),
    ([2, 2, 3], SELECTIONS["descend_2"], 8),
    ({"sales": {"emea": 2, "us": 3}, "support": 2, "legal": 1}, SELECTIONS["beam_2"], 2),
]


@pytest.mark.parametrize(("spec", "selection", "rows"), SURE)
def test_experts_per_token_are_exact_where_their_number_is_fixed(
    spec: object, selection: Selection, rows: float
) -> None:
    assert experts_per_token(layer_with(spec, selection)) == pytest.approx(rows, rel=3e-3)


def test_several_heads_send_a_token_to_more_experts() -> None:
    layer = layer_of(tree=Tree.from_spec([3, 4]), gate=heads(num=3))(dim=8)
    assert experts_per_token(layer) == 6


def test_a_token_meets_no_expert_that_its_head_does_not_see() -> None:
    """Own experts and shared ones, as in PLE: 4 + 2 for the first head, 4 + 3 for the second."""
    tree = Tree.from_spec({"shared": 4, "first": 2, "second": 3})
    gate = heads(visible=[["shared", "first"], ["shared", "second"]])
    assert experts_per_token(layer_of(tree=tree, gate=gate, selection=soft)(dim=8)) == 13


def test_experts_per_token_of_a_ragged_descent_by_an_integral() -> None:
    """Two children of three are kept. With solo a token has 1 + 2 experts, without it 2 + 2.

    Solo is left out when its score, N(0, 1), is below both units' scores, N(ln 2, 1):
    P = integral of phi(z) (1 - Phi(z - ln 2))^2 dz.
    """
    tree = Tree.from_spec({"solo": 1, "a": 2, "b": 2})

    def above(z: float) -> float:
        return (1 - erf((z - log(2)) / sqrt(2))) / 2

    grid = [-8 + i / 1000 for i in range(16000)]
    solo_out = sum(exp(-z * z / 2) / sqrt(2 * pi) * above(z) ** 2 / 1000 for z in grid)
    assert 0.5 < solo_out < 0.7
    layer = layer_of(tree=tree, selection=down(2, weights="renormalized"))(dim=8)
    assert experts_per_token(layer) == pytest.approx(3 + solo_out, rel=0.01)


def simulated_rows(tree: Tree, k: int, num_tokens: int) -> float:
    """Mean rows of a descent, unit by unit; scores are drawn as the function says it draws them."""
    score = torch.randn(num_tokens, tree.num_nodes)
    score += torch.tensor(tree.num_below_N).log()

    def rows_below(node: int) -> torch.Tensor:
        below = children(tree, node)
        if not below:
            return torch.ones(num_tokens)
        kept = torch.zeros(num_tokens, len(below)).scatter_(1, score[:, below].topk(k).indices, 1.0)
        return (kept * torch.stack([rows_below(child) for child in below], 1)).sum(1)

    return rows_below(-1).mean().item()


@pytest.mark.parametrize(
    "spec",
    [
        TREES["ragged"],
        TREES["lopsided"],
        {"a": {"b": 4, "c": 2}, "d": 6, "e": 1, "f": {"g": {"h": 2, "i": 3}, "j": 2, "k": 1}},
    ],
)
@pytest.mark.parametrize("k", [1, 2])
def test_experts_per_token_of_a_ragged_descent_are_those_of_a_long_simulation(
    spec: object, k: int
) -> None:
    tree = Tree.from_spec(spec)
    found = experts_per_token(layer_with(spec, down(k)))
    assert found == pytest.approx(simulated_rows(tree, k, num_tokens=200_000), rel=0.02)


def test_experts_per_token_do_not_move_the_random_state() -> None:
    layer = layer_with(TREES["ragged"], SELECTIONS["descend_2"])
    before = torch.get_rng_state()
    first = experts_per_token(layer)
    second = experts_per_token(layer)
    assert torch.equal(torch.get_rng_state(), before)
    assert first == second


def test_a_layer_by_itself_is_taken_to_read_ids() -> None:
    """Ids are hashed as they are, so the gate of a hash layer costs nothing."""
    layer = hmoe.build("system=hash", "tree.spec=[4]", dim=8, hidden_dim=16)
    # One expert of two matrices, 8 x 16.
    assert cost(layer).flops_per_token == 2 * 2 * 8 * 16
