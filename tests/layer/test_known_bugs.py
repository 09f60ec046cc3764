"""Bugs that published mixtures of experts have had, one test each: hmoe must not have them.

Where it is cheap the faulty formula stands beside, in a function `faulty_...`, and is shown to have
the symptom: a test that such code would pass proves nothing.

Letters: T tokens, D width, E experts, K experts per token, N nodes, R rows.
"""

from functools import partial
from itertools import pairwise

import pytest
import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from hmoe.layer import HMoE, Mlp, Shared, SwiGlu, Tree
from tests.cases import (
    DIM,
    EXPERTS,
    GATES,
    SELECTIONS,
    TREES,
    best,
    bottom_up,
    by_unit,
    choice_of,
    given,
    heads,
    layer_of,
    make_layer,
    tied,
    top_down,
)

NOISY = {
    "learned": top_down(noise="learned"),
    "gumbel": top_down(noise="gumbel"),
    "learned_above_gumbel": top_down(noise=["learned", "gumbel"]),
    "tied_gumbel": tied(noise="gumbel"),
    "tied_learned": tied(noise="learned"),
    "bottom_up_gumbel": bottom_up(noise="gumbel"),
    "learned_heads": heads(gate=top_down(noise="learned")),
    "hiding_heads": heads(gate=top_down(noise="learned"), visible=[["0", "1", "2"], ["0", "2"]]),
}
ALL_GATES = GATES | NOISY | {"tied": tied(), "levels": top_down(score=["linear", "mlp"], width=4)}
# What a head may not use it need not learn.
LEARNING = [name for name in ALL_GATES if name not in ("random", "hash", "hiding_heads")]
# Even weights are for gates that do not learn.
WEIGHING = [name for name in SELECTIONS if name != "top_2_even"]


def grid_layer(**parts) -> HMoE:
    return layer_of(tree=Tree.from_spec(TREES["grid"]), **parts)(dim=DIM)


# Routing at random while evaluating: lucidrains, st-moe, DeepSpeed's top 2, FuseMoE.


@pytest.mark.parametrize("selection", WEIGHING)
@pytest.mark.parametrize("gate", ALL_GATES)
def test_evaluation_has_no_noise(gate: str, selection: str) -> None:
    layer = grid_layer(gate=ALL_GATES[gate], selection=SELECTIONS[selection]).eval()
    x_TD = torch.randn(32, DIM)
    first, second = (layer(x_TD) for _ in range(2))
    assert torch.equal(first[0], second[0])
    assert torch.equal(first[1].expert_R, second[1].expert_R)


@pytest.mark.parametrize("gate", NOISY)
def test_training_has_noise(gate: str) -> None:
    """Or else the test above would be empty."""
    layer = grid_layer(gate=NOISY[gate])
    x_TD = torch.randn(32, DIM)
    assert not torch.equal(layer(x_TD)[1].expert_R, layer(x_TD)[1].expert_R)


# A mask of 0.0 on dropped groups: transformers 5.3, LibMoE.


def faulty_mask(value_TE: Tensor, groups: int, kept: int, k: int) -> Tensor:
    """The best experts (T, k) of the best groups, where a dropped group's score is 0.0."""
    value_TGb = value_TE.unflatten(-1, (groups, -1))
    group_TB = value_TGb.topk(2, -1).values.sum(-1).topk(kept, -1).indices
    kept_TG = torch.zeros_like(value_TGb[..., 0]).scatter_(-1, group_TB, 1.0).bool()
    return value_TGb.masked_fill(~kept_TG.unsqueeze(-1), 0.0).flatten(-2).topk(k, -1).indices


@pytest.mark.parametrize(("bias", "faulty_share"), [(0.0, 0.0), (-0.8, 1.0)])
def test_tokens_stay_in_their_groups(bias: float, faulty_share: float) -> None:
    """64 experts in 8 groups, 2 groups kept, 6 experts a token, one bias on all experts."""
    tree = Tree.from_spec([8, 8])
    gate = bottom_up(link="sigmoid", pool="top_2_sum")(tree=tree, dim=DIM)
    scores = gate.read(torch.randn(1000, 64) * 0.5)
    bias_N = torch.zeros(tree.num_nodes).index_fill(0, torch.tensor(tree.node_E), bias)
    choice = gate.choose(scores, bias_N)
    group_TB = choice.weight_TN[:, :8].topk(2, -1).indices

    def escaped(expert_TK: Tensor) -> float:
        inside_TK = (expert_TK.unsqueeze(-1) // 8 == group_TB.unsqueeze(1)).any(-1)
        return (~inside_TK).any(-1).float().mean().item()

    assert escaped(faulty_mask(choice.weight_TN[:, 8:], groups=8, kept=2, k=6)) == faulty_share
    assert escaped(best(6, beam=2)(scores, choice).expert_R.view(-1, 6)) == 0.0


# Capacity without the factor k: lucidrains, st-moe, Mesh TensorFlow.


def faulty_slots(tokens: int, experts: int, factor: float) -> int:
    return int(tokens * factor / experts)


@pytest.mark.parametrize(("factor", "slots"), [(1.0, 128), (1.25, 160)])
@pytest.mark.parametrize("drop", ["order", "weight"])
def test_capacity_counts_every_choice(factor: float, slots: int, drop: str) -> None:
    """1024 tokens, 16 experts, 2 a token: an even load is 128 rows an expert."""
    tree = Tree.from_spec([16])
    token_T = torch.arange(1024)
    probs_TN = torch.full((1024, 16), 0.1 / 14)
    probs_TN[token_T, token_T % 16] = 0.6
    probs_TN[token_T, (token_T + 5) % 16] = 0.3
    select = best(2, capacity=factor, drop=drop)
    even = select(given(tree, probs_TN), choice_of(tree, probs_TN))
    assert even.load_E.tolist() == [128] * 16
    if factor == 1.25:
        kept = 16 * min(128, faulty_slots(1024, 16, factor))
        assert 1 - kept / 2048 == 0.375
    # All tokens first choose expert 0: it takes its slots and no more.
    probs_TN = torch.full((1024, 16), 0.1 / 14)
    probs_TN[:, 0] = 0.6
    probs_TN[token_T, token_T % 15 + 1] = 0.3
    skewed = select(given(tree, probs_TN), choice_of(tree, probs_TN))
    assert skewed.load_E[0] == slots
    assert skewed.load_E[1:].sum() == 1024


# Gates whose weights are made in `forward`, never registered and never trained: FuseMoE's HME.


@pytest.mark.parametrize("selection", ["soft", "top_2"])
@pytest.mark.parametrize("gate", LEARNING)
def test_every_weight_learns(gate: str, selection: str) -> None:
    """Every tensor is registered, gets a gradient, and a step moves it; softly in every row."""
    layer = grid_layer(gate=ALL_GATES[gate], selection=SELECTIONS[selection])
    before = {name: p.detach().clone() for name, p in layer.named_parameters()}
    assert any(name.startswith("gate.") for name in before)
    for module in layer.modules():
        assert not any(torch.is_tensor(held) for held in vars(module).values()), module
    optimizer = torch.optim.SGD(layer.parameters(), lr=1.0)
    y_TD, _ = layer(torch.randn(256, DIM))
    (y_TD * torch.randn_like(y_TD)).sum().backward()
    optimizer.step()
    for name, parameter in layer.named_parameters():
        moved = (parameter.detach() - before[name]).abs() > 0
        assert moved.any(), name
        if selection == "soft":
            assert moved.flatten(1 if moved.ndim > 1 else 0).any(-1).all(), name


@pytest.mark.parametrize(
    ("gate", "rows"),
    [
        ("top_down", 15),
        ("learned", 15 + 15),
        ("learned_above_gumbel", 15 + 3),
        ("bottom_up", 12),
        ("tied", 3 + 4),
        ("heads", 2 * 15),
    ],
)
def test_a_gate_has_weights_for_its_nodes(gate: str, rows: int) -> None:
    """Three departments of four experts: 15 nodes, and rows of DIM weights for each."""
    module = ALL_GATES[gate](tree=Tree.from_spec(TREES["grid"]), dim=DIM)
    assert sum(p.numel() for p in module.parameters() if p.ndim == 2) == rows * DIM


# Memory that grows with the square of the number of leaves in soft training: fast feedforward.


class FaultyLeaves(nn.Module):
    """All leaves on all tokens, written slice by slice into one tensor."""

    def __init__(self, num_leaves: int) -> None:
        super().__init__()
        self.weight_EDD = nn.Parameter(torch.randn(num_leaves, DIM, DIM))

    def forward(self, x_TD: Tensor) -> Tensor:
        y_TED = x_TD.new_zeros(x_TD.shape[0], *self.weight_EDD.shape[:2])
        for e, w_DD in enumerate(self.weight_EDD):
            y_TED[:, e] = x_TD @ w_DD
        return y_TED.sum(1)


class NewBytes(TorchDispatchMode):
    """Counts the bytes of all results that are new tensors, not views and not in place."""

    total = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        result = func(*args, **(kwargs or {}))
        given, new = (
            {t.untyped_storage().data_ptr(): t for t in tree_leaves(values) if torch.is_tensor(t)}
            for values in (args, result)
        )
        self.total += sum(new[p].untyped_storage().nbytes() for p in new.keys() - given.keys())
        return result


def bytes_of_a_step(module: nn.Module) -> int:
    """Bytes allocated by the operations of one forward and backward."""
    x_TD = torch.randn(64, DIM)
    with NewBytes() as count:
        output = module(x_TD)
        y_TD = output[0] if isinstance(output, tuple) else output
        y_TD.square().sum().backward()
    return count.total


def test_memory_of_soft_training_grows_with_the_leaves() -> None:
    """Per doubling of the leaves about 2 times the bytes, not 4."""

    def fast_feedforward(depth: int) -> HMoE:
        return layer_of(
            tree=Tree.from_spec([2] * depth),
            gate=top_down(link="sigmoid"),
            selection=SELECTIONS["soft"],
            experts=partial(
                Mlp, hidden_dim=4, activation="relu", dtype=None, implementation="loop"
            ),
        )(dim=DIM)

    depths = (5, 6, 7)
    ours = [bytes_of_a_step(fast_feedforward(depth)) for depth in depths]
    faulty = [bytes_of_a_step(FaultyLeaves(2**depth)) for depth in depths]
    assert all(b < 2.3 * a for a, b in pairwise(ours))
    assert all(b > 3.0 * a for a, b in pairwise(faulty))


# A beam that starves experts above its level: it compares a leaf with a whole department.


def test_a_beam_does_not_starve_a_shallow_expert() -> None:
    """P(a) = 0.4 is the best expert; department b has 0.6, of which its best expert has half."""
    tree = Tree.from_spec({"a": 1, "b": {"c": 1, "d": 1, "e": 1}})
    probs_TN = torch.tensor([[0.4, 0.6, 0.5, 0.3, 0.2]])
    assert probs_TN[0, :2].argmax() == 1  # a beam of one over all nodes would cut a
    routing = best(1, beam=1)(given(tree, probs_TN), choice_of(tree, probs_TN))
    assert tree.path_N[tree.node_E[routing.expert_R.item()]] == "a"
    assert routing.weight_R.item() == pytest.approx(0.4)


def test_a_beam_finds_a_shallow_expert_wherever_exact_top_k_does() -> None:
    layer = make_layer("lopsided", "beam_1")
    exact = make_layer("lopsided", "top_1")
    exact.load_state_dict(layer.state_dict())
    x_TD = torch.randn(512, DIM)
    with torch.no_grad():
        beam_T, exact_T = layer(x_TD)[1].expert_R, exact(x_TD)[1].expert_R
    shallow = layer.tree.path_N.index("a")
    shallow = layer.tree.node_E.index(shallow)
    assert 50 < (exact_T == shallow).sum() < 462
    assert torch.equal(beam_T == shallow, exact_T == shallow)


# Not a number where an expert has no token or all of them.

BANKS = EXPERTS | {
    "grouped_mlp": partial(
        Mlp, hidden_dim=8, activation="silu", dtype=None, implementation="grouped"
    ),
    "grouped_swiglu": partial(SwiGlu, hidden_dim=8, dtype=None, implementation="grouped"),
    "by_unit": by_unit(
        Tree.from_spec(TREES["grid"]), {"0": "constant", "1": "zero", "2.0": "swiglu"}
    ),
}


@pytest.mark.parametrize("tokens", [0, 1, 32])
@pytest.mark.parametrize("chosen", [0, 4, 8, 11])
@pytest.mark.parametrize("bank", BANKS)
def test_one_expert_for_all_and_none_for_others_stay_finite(
    bank: str, chosen: int, tokens: int
) -> None:
    layer = grid_layer(
        selection=best(1),
        experts=BANKS[bank],
        shared=partial(Shared, units={"company": 1, "level_0": 1}, experts=EXPERTS["swiglu"]),
    )
    node = layer.tree.node_E[chosen]
    with torch.no_grad():
        layer.gate.scorers[0].bias_M[[node, layer.tree.parent_N[node]]] += 200.0
    x_TD = torch.randn(tokens, DIM, requires_grad=True)
    y_TD, routing = layer(x_TD)
    assert routing.load_E[chosen] == tokens
    loss = y_TD.square().sum()
    loss.backward()
    assert torch.isfinite(loss)
    grads = [x_TD.grad, *(p.grad for p in layer.parameters() if p.grad is not None)]
    assert all(torch.isfinite(grad).all() for grad in grads)
