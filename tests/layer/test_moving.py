"""Moving: by hand, what must stay the same, what must not be touched, and every refusal."""

from functools import partial

import pytest
import torch
from hypothesis import given as drawn
from hypothesis import settings
from hypothesis import strategies as st

from hmoe.errors import ConfigError
from hmoe.layer import BottomUp, HMoE, LazyHMoE, Mlp, Shared, Tree, expert_choice, soft
from hmoe.layer.moving import drop, regroup, reinitialise, split_expert
from hmoe.layer.moving_gates import learned_nodes
from hmoe.layer.outline import FRESH
from tests.cases import (
    DIM,
    EXPERTS,
    GATES,
    TREES,
    best,
    bottom_up,
    by_unit,
    down,
    heads,
    layer_of,
    tied,
    top_down,
)

RAGGED = Tree.from_spec(TREES["ragged"])
SHARED = partial(Shared, units={"company": 1, "sales": 2}, experts=EXPERTS["mlp"])


def make(spec, seed: int = 0, **parts) -> HMoE:
    """A layer under soft selection, with parts other than the plain ones."""
    torch.manual_seed(seed)
    tree = Tree.from_spec(spec)
    layer = layer_of(**({"tree": tree, "selection": soft} | parts))(dim=DIM)
    for name, parameter in layer.named_parameters():
        if name.endswith(("bias_M", "noise_MD")):  # as after some training
            torch.nn.init.normal_(parameter)
    return layer


def inputs(seed: int = 1) -> torch.Tensor:
    return torch.randn(12, DIM, generator=torch.Generator().manual_seed(seed))


def weights(layer: HMoE) -> torch.Tensor:
    """What every expert weighs for a token of zeros under soft selection."""
    return layer(torch.zeros(1, DIM))[1].weight_R.detach()


def with_probs(layer: HMoE, probs: list[float]) -> HMoE:
    """The layer with scores that are the logs of given numbers, whatever the token."""
    scorer = layer.gate.scorer if isinstance(layer.gate, BottomUp) else layer.gate.scorers[0]
    scorer.weight_MD.data.zero_()
    scorer.bias_M.data.copy_(torch.tensor(probs).log())
    return layer


def same_function(one: HMoE, other: HMoE, move) -> None:
    """Outputs agree, and so do the gradients of the inputs and of all rows, copies summed."""
    outputs, slopes = [], []
    for layer in (one, other):
        x = inputs().requires_grad_()
        y, _ = layer(x)
        y.square().sum().backward()
        outputs.append(y)
        slopes.append(x.grad)
    assert_near(*outputs, 2e-6)
    assert_near(*slopes, 1e-4)
    assert set(move.origins) == set(other.parameters())
    summed = {p: torch.zeros_like(p) for p in one.parameters()}
    for new, (old, row_M) in move.origins.items():
        rows = torch.arange(len(old)) if row_M is None else row_M
        kept = rows != FRESH
        summed[old].index_add_(0, rows[kept], new.grad[kept])
    for old, total in summed.items():
        assert_near(total, old.grad, 1e-4)


def assert_near(one: torch.Tensor, other: torch.Tensor, tolerance: float) -> None:
    """Equal but for rounding: the tolerance is a share of the largest entry, of 1 at least."""
    torch.testing.assert_close(
        one, other, rtol=0, atol=tolerance * max(1.0, other.detach().abs().max().item())
    )


# ------------------------------------------------------------------ by hand


def test_a_split_into_a_unit_by_hand() -> None:
    layer = with_probs(make({"a": 1, "b": {"c": 1, "d": 1}}), [0.25, 0.75, 0.4, 0.6])
    new, move = split_expert(layer, "b.c", into="unit", noise=0.0)
    assert new.tree.path_N == ("a", "b", "b.c", "b.d", "b.c.0", "b.c.1")
    assert str(new.tree) == '{"a": 1, "b": {"c": 2, "d": 1}}'
    # Experts are numbered by level: a, b.d, then the two halves of b.c = 0.75 * 0.4.
    torch.testing.assert_close(weights(new), torch.tensor([0.25, 0.45, 0.15, 0.15]))
    origin = move.origins[new.gate.scorers[0].weight_MD]
    assert origin.row_M.tolist() == [0, 1, 2, 3, FRESH, FRESH]
    assert move.origins[new.experts.w_in_EDF].row_M.tolist() == [0, 2, 1, 1]
    assert move.dropped == ()


def test_a_split_into_siblings_by_hand() -> None:
    layer = with_probs(make({"a": 1, "b": {"c": 1, "d": 1}}), [0.25, 0.75, 0.4, 0.6])
    new, _ = split_expert(layer, "b.c", into="siblings", noise=0.0)
    assert new.tree.path_N == ("a", "b", "b.c", "b.d", "b.c_2")
    torch.testing.assert_close(weights(new), torch.tensor([0.25, 0.15, 0.45, 0.15]))
    new, _ = split_expert(new, "b.c", into="siblings", noise=0.0)
    assert new.tree.path_N == ("a", "b", "b.c", "b.d", "b.c_2", "b.c_3")
    torch.testing.assert_close(weights(new), torch.tensor([0.25, 0.075, 0.45, 0.15, 0.075]))


def test_the_sibling_of_a_number_is_the_next_number() -> None:
    new, _ = split_expert(make([4]), "1", into="siblings", noise=0.0)
    assert (str(new.tree), new.tree.path_N) == ("5", ("0", "1", "2", "3", "4"))
    new, _ = split_expert(drop(make([4]), "0")[0], "1", into="siblings", noise=0.0)
    assert new.tree.path_N == ("1", "2", "3", "4")


@pytest.mark.parametrize("temperature", [1.0, 0.5])
def test_a_split_of_a_bottom_up_gate_by_hand(temperature: float) -> None:
    gate = bottom_up(temperature=temperature)
    layer = with_probs(make({"a": 1, "b": {"c": 1, "d": 1}}, gate=gate), [1.0, 3.0, 4.0])
    before = weights(layer)
    new, _ = split_expert(layer, "a", into="unit", noise=0.0)
    # Experts of one level in the order of their parents: the halves of a come before c and d.
    halves = torch.tensor([before[0] / 2, before[0] / 2, before[1], before[2]])
    torch.testing.assert_close(weights(new), halves)


@pytest.mark.parametrize(
    ("gate", "left"),
    # b.e = 0.75 * 0.5 goes. Its siblings share 0.75 as 2 to 3; bottom-up all share the whole.
    [(top_down(), [0.25, 0.3, 0.45]), (bottom_up(), [0.4, 0.24, 0.36])],
)
def test_what_a_dropped_expert_had_by_hand(gate, left: list[float]) -> None:
    probs = [0.25, 0.75, 0.2, 0.3, 0.5]
    experts = [0.25, 0.15, 0.225, 0.375]
    layer = make({"a": 1, "b": {"c": 1, "d": 1, "e": 1}}, gate=gate)
    with_probs(layer, experts if gate.func is BottomUp else probs)
    torch.testing.assert_close(weights(layer), torch.tensor(experts))
    new, move = drop(layer, "b.e")
    assert new.tree.path_N == ("a", "b", "b.c", "b.d")
    torch.testing.assert_close(weights(new), torch.tensor(left))
    assert move.origins[new.experts.w_out_EFD].row_M.tolist() == [0, 1, 2]


def test_a_unit_left_with_one_child_becomes_that_child_by_hand() -> None:
    layer = with_probs(make({"a": 1, "b": {"c": 1, "d": 1}}), [0.25, 0.75, 0.4, 0.6])
    new, move = drop(layer, "b.c")
    assert (str(new.tree), new.tree.path_N) == ('{"a": 1, "b": 1}', ("a", "b"))
    torch.testing.assert_close(weights(new), torch.tensor([0.25, 0.75]))
    # The unit's row in the gate, the child's network.
    assert move.origins[new.gate.scorers[0].bias_M].row_M.tolist() == [0, 1]
    assert move.origins[new.experts.w_in_EDF].row_M.tolist() == [0, 2]


def test_a_unit_that_becomes_a_unit_takes_its_children_up_by_hand() -> None:
    spec = {"a": 1, "b": {"c": 1, "d": {"c": 1, "e": 1}}}
    layer = with_probs(make(spec), [0.25, 0.75, 0.4, 0.6, 0.1, 0.9])
    new, move = drop(layer, "b.c")
    # The new b.c is the old b.d.c, not the old b.c.
    assert new.tree.path_N == ("a", "b", "b.c", "b.e")
    torch.testing.assert_close(weights(new), torch.tensor([0.25, 0.075, 0.675]))
    assert move.origins[new.gate.scorers[0].bias_M].row_M.tolist() == [0, 1, 4, 5]
    assert move.origins[new.experts.w_in_EDF].row_M.tolist() == [0, 2, 3]


def test_a_root_left_with_one_department_becomes_that_department_by_hand() -> None:
    layer = with_probs(make({"a": 1, "b": {"c": 1, "d": 1}}), [0.25, 0.75, 0.4, 0.6])
    new, _ = drop(layer, "a")
    assert new.tree.path_N == ("c", "d")
    torch.testing.assert_close(weights(new), torch.tensor([0.4, 0.6]))


def test_an_order_says_which_old_expert_a_new_one_is() -> None:
    layer = with_probs(make([4]), [0.1, 0.2, 0.3, 0.4])
    new, move = regroup(layer, Tree.from_spec({"a": 1, "b": 3}), order=[3, 0, 2, 1])
    assert isinstance(new.gate, BottomUp)
    torch.testing.assert_close(weights(new), torch.tensor([0.4, 0.1, 0.3, 0.2]))
    _, routing = new(torch.zeros(1, DIM))
    torch.testing.assert_close(routing.reach_TN[0, :2].detach(), torch.tensor([0.4, 0.6]))
    assert move.origins[new.gate.scorer.bias_M].row_M.tolist() == [3, 0, 2, 1]


def test_learnt_noise_stays_with_its_nodes_by_hand() -> None:
    layer = make({"a": 1, "b": {"c": 1, "d": 1}}, gate=top_down(noise=["none", "learned"]))
    assert learned_nodes(layer.gate) == [2, 3]
    # A third level has the noise of the second: b.c, b.d, b.c.0, b.c.1.
    new, move = split_expert(layer, "b.c", into="unit", noise=0.0)
    assert learned_nodes(new.gate) == [2, 3, 4, 5]
    assert move.origins[new.gate.noise_MD].row_M.tolist() == [0, 1, FRESH, FRESH]
    # a.0, a.1, b.c, b.d.
    new, move = split_expert(layer, "a", into="unit", noise=0.0)
    assert move.origins[new.gate.noise_MD].row_M.tolist() == [FRESH, FRESH, 0, 1]
    new, move = drop(layer, "b.d")
    assert new.gate.noise_MD is None
    assert move.dropped == (layer.gate.noise_MD,)
    assert new(inputs())[0].shape == (12, DIM)
    new, move = drop(layer, "a")
    assert new.gate.noise_L == ["learned"]
    assert move.origins[new.gate.noise_MD].row_M.tolist() == [0, 1]


def test_levels_that_move_up_as_one_keep_their_options_by_hand() -> None:
    layer = make({"a": 1, "b": {"c": 1, "d": 1}}, gate=top_down(temperature=[1.0, 2.0]))
    with_probs(layer, [0.25, 0.75, 0.1, 0.9])
    new, _ = drop(layer, "a")
    # Scores halved are odds under a root: sqrt 0.1 to sqrt 0.9 is 1 to 3.
    torch.testing.assert_close(weights(new), torch.tensor([0.25, 0.75]))


def test_heads_go_on_seeing_what_they_saw_by_hand() -> None:
    gate = heads(visible=[["a"], ["x", "b"]])
    layer = make({"x": 1, "a": 2, "b": 2}, gate=gate)
    assert layer.gate.hidden_H == [[0, 2], [1]]
    assert drop(layer, "x")[0].gate.hidden_H == [[1], [0]]
    assert split_expert(layer, "x", into="siblings", noise=0.0)[0].gate.hidden_H == [[0, 2, 3], [1]]


@pytest.mark.parametrize("spec", [*TREES.values(), [2, 3], {"a": [2, 3], "b": 2, "c": 1}])
def test_the_name_of_a_changed_tree_makes_the_same_tree(spec) -> None:
    tree = Tree.from_spec(spec)
    # There and back: a sibling more at the end, and away with it.
    new, _ = split_expert(make(spec), tree.path_N[tree.node_E[-1]], into="siblings", noise=0.0)
    (added,) = set(new.tree.path_N) - set(tree.path_N)
    back, _ = drop(new, added)
    assert back.tree.path_N == tree.path_N
    assert back.tree.parent_N == tree.parent_N
    if str(tree) in ("8", "3x4", "2x2x3", "2x3"):
        assert str(back.tree) == str(tree)


# ------------------------------------------------------------------ what stays the same

REGROUPED = {
    "soft": soft,
    "top_2": best(2, weights="renormalized"),
    "top_2_probs": best(2),
    "top_2_after": best(2, weights="softmax"),
    "expert_choice": partial(expert_choice, k=2.0),
}
BOTTOM_UP = {
    "plain": bottom_up(),
    "hot": bottom_up(temperature=0.3),
    "sigmoid": bottom_up(link="sigmoid", pool="top_2_sum"),
    "max": bottom_up(score="cosine", pool="max"),
    "query": bottom_up(score="mlp", width=6),
    "hash": bottom_up(score="hash"),
    "heads": heads(gate=bottom_up()),
}


@pytest.mark.parametrize("selection", REGROUPED)
@pytest.mark.parametrize("gate", BOTTOM_UP)
@settings(max_examples=3, deadline=None)
@drawn(
    pair=st.sampled_from(
        [("flat", "ragged"), ("ragged", "flat"), ("grid", "deep"), ("deep", "12")]
    ),
    order=st.randoms(use_true_random=False),
)
def test_the_tree_does_not_matter_to_a_bottom_up_gate(
    selection: str, gate: str, pair: tuple[str, str], order
) -> None:
    before, after = (({**TREES, "12": [12]})[name] for name in pair)
    layer = make(before, gate=BOTTOM_UP[gate], selection=REGROUPED[selection])
    new, move = regroup(
        layer,
        Tree.from_spec(after),
        order.sample(range(layer.tree.num_experts), layer.tree.num_experts),
    )
    assert new.tree.parent_N == Tree.from_spec(after).parent_N
    same_function(layer, new, move)


@pytest.mark.parametrize("selection", REGROUPED)
@pytest.mark.parametrize(
    "options",
    [
        {},
        {"link": "sigmoid", "temperature": 0.5},
        {"score": "cosine"},
        {"score": "mlp", "width": 6},
        {"score": "hash"},
    ],
)
def test_a_flat_top_down_gate_is_a_bottom_up_gate(selection: str, options: dict) -> None:
    layer = make([8], gate=top_down(**options), selection=REGROUPED[selection])
    new, move = regroup(layer, RAGGED)
    same_function(layer, new, move)
    assert isinstance(regroup(make([8], gate=heads()), RAGGED)[0].gate.heads[1], BottomUp)


@pytest.mark.parametrize(
    ("flat", "tree"),
    [
        (best(1), best(1, beam=1)),
        (best(4), down(2)),
        (best(2, capacity=1.0), best(2, capacity=1.0)),
    ],
)
def test_what_reads_units_changes_the_function_by_design(flat, tree) -> None:
    layer = make([8], gate=bottom_up())
    new, _ = regroup(layer, Tree.from_spec([2, 4]))
    x = torch.randn(400, DIM)  # so many that some of them choose otherwise
    torch.testing.assert_close(new(x)[0], layer(x)[0])
    layer.selection, new.selection = flat, tree
    assert not torch.allclose(new(x)[0], layer(x)[0])


SPLITTABLE = [
    ("top_down", "unit"),
    ("top_down", "siblings"),
    ("bottom_up", "unit"),
    ("bottom_up", "siblings"),
    ("cosine", "siblings"),
    ("laplace", "unit"),
    ("gaussian", "unit"),
    ("gaussian", "siblings"),
    ("mlp", "unit"),
    ("sigmoid", "unit"),
    ("heads", "siblings"),
    ("heads", "unit"),
]


@pytest.mark.parametrize(("gate", "into"), SPLITTABLE)
@pytest.mark.parametrize("experts", ["mlp", "swiglu", "constant"])
@pytest.mark.parametrize("spec", ["flat", "ragged", "lopsided"])
def test_a_split_keeps_the_function_when_soft(spec: str, experts: str, gate: str, into) -> None:
    layer = make(TREES[spec], gate=GATES[gate], experts=EXPERTS[experts])
    for node in {layer.tree.node_E[0], layer.tree.node_E[-1]}:
        new, move = split_expert(layer, layer.tree.path_N[node], into=into, noise=0.0)
        assert new.tree.num_experts == layer.tree.num_experts + 1
        layer.zero_grad()
        same_function(layer, new, move)


def test_a_split_with_several_temperatures_and_scores() -> None:
    gate = top_down(score=["cosine", "linear"], temperature=[0.3, 2.0], link=["softmax"] * 2)
    layer = make([3, 4], gate=gate)
    new, move = split_expert(layer, "1.2", into="unit", noise=0.0)
    assert new.gate.score_L == ["cosine", "linear", "linear"]
    same_function(layer, new, move)
    layer.zero_grad()
    new, move = split_expert(layer, "1.2", into="siblings", noise=0.0)
    same_function(layer, new, move)


def test_a_descent_that_keeps_the_whole_new_unit_keeps_the_function() -> None:
    torch.manual_seed(0)
    layer = make([3, 4], selection=down([2, 1]))
    with pytest.raises(ConfigError, match="3 expected"):
        split_expert(layer, "1.2", into="unit", noise=0.0)
    before = layer(inputs())[0]
    layer.selection = layer.eval_selection = down(1)  # any that works on both trees
    new, _ = split_expert(layer, "1.2", into="unit", noise=0.0)
    new.selection = down([2, 1, None])
    torch.testing.assert_close(new(inputs())[0], before)


def test_top_k_keeps_the_function_for_tokens_that_take_both_copies() -> None:
    layer = make([4], selection=best(1))
    new, _ = split_expert(layer, "2", into="siblings", noise=0.0)
    new.selection = best(2)
    y, routing = layer(inputs())
    chose = routing.expert_R == 2
    # Both copies rank next to each other, before or behind all others.
    both = torch.tensor(
        [{2, 4} == set(row) for row in new(inputs())[1].expert_R.view(-1, 2).tolist()]
    )
    assert (both & chose).any()
    assert not (both & ~chose).any()
    torch.testing.assert_close(new(inputs())[0][both], y[both])


def test_noise_pushes_copies_apart_and_the_function_in_second_order_only() -> None:
    layer = make([4])
    y = layer(inputs())[0]
    moved = []
    for noise in (1e-1, 1e-2):
        torch.manual_seed(3)
        new, _ = split_expert(layer, "2", into="siblings", noise=noise)
        weight = new.experts.w_in_EDF
        assert not torch.equal(weight[2], weight[4])
        torch.testing.assert_close((weight[2] + weight[4]) / 2, layer.experts.w_in_EDF[2])
        moved.append((new(inputs())[0] - y).norm().item())
    assert moved[0] / moved[1] == pytest.approx(100, rel=0.3)


@pytest.mark.parametrize("experts", ["mlp", "by_unit"])
def test_unequal_experts_and_shared_ones_move_along(experts: str) -> None:
    bank = EXPERTS["mlp"]
    if experts == "by_unit":
        wide = partial(Mlp, hidden_dim=12, activation="gelu", dtype=None, implementation="loop")
        bank = by_unit(RAGGED, {"sales": wide, "legal": "constant", "sales.us.1": "zero"})
    company = partial(Shared, units={"company": 2}, experts=EXPERTS["mlp"])
    layer = make(TREES["ragged"], gate=bottom_up(), experts=bank, shared=company)
    new, move = regroup(layer, Tree.from_spec([4, 2]), order=[7, 0, 3, 1, 6, 2, 5, 4])
    same_function(layer, new, move)
    layer = make(TREES["ragged"], experts=bank, shared=SHARED)
    for path, into in (("legal", "unit"), ("sales.us.0", "unit"), ("sales.us.2", "siblings")):
        layer.zero_grad()
        new, move = split_expert(layer, path, into=into, noise=0.0)
        same_function(layer, new, move)


def test_a_lazy_layer_moves_as_its_slow_twin() -> None:
    dense = make([2, 4], selection=best(2, beam=1), experts=EXPERTS["neurons"])
    lazy = LazyHMoE(
        **layer_of(tree=dense.tree, selection=dense.selection, experts=EXPERTS["neurons"]).keywords,
        dim=DIM,
    )
    lazy.load_state_dict(dense.state_dict())
    for step in (
        partial(split_expert, path="1.2", into="siblings", noise=0.0),
        partial(drop, path="0.1"),
    ):
        (one, _), (other, _) = step(dense), step(lazy)
        assert isinstance(other, LazyHMoE)
        torch.testing.assert_close(other(inputs())[0], one(inputs())[0])
    flat = LazyHMoE(**layer_of(tree=Tree.from_spec([8])).keywords, dim=DIM)
    with pytest.raises(ConfigError, match="lazy descent needs gate=top_down"):
        regroup(flat, dense.tree)


def test_shared_experts_go_with_their_unit() -> None:
    layer = make(TREES["ragged"], shared=SHARED)
    sales = layer.tree.path_N.index("sales")
    assert layer.shared.unit_M == [-1, sales, sales]
    new, move = drop(layer, "legal")
    assert new.shared.unit_M == [-1, sales, sales]
    new, move = drop(layer, "sales")
    assert new.shared.unit_M == [-1]
    assert move.origins[new.shared.experts.w_in_EDF].row_M.tolist() == [0]
    only = partial(Shared, units={"sales": 2}, experts=EXPERTS["mlp"])
    layer = make(TREES["ragged"], shared=only)
    new, move = drop(layer, "sales")
    assert new.shared.experts is None
    assert set(move.dropped) == set(layer.shared.parameters())
    assert new(inputs())[0].shape == (12, DIM)


@pytest.mark.parametrize("path", ["sales", "sales.emea", "sales.us.1", "support", "legal"])
@pytest.mark.parametrize("gate", ["top_down", "bottom_up", "heads"])
def test_a_drop_shares_out_what_the_node_had(gate: str, path: str) -> None:
    """P of what is left over 1 - P of what went: among siblings, or bottom-up among all."""
    layer = make(TREES["ragged"], gate=GATES[gate])
    tree = layer.tree
    _, routing = layer(inputs())
    node = tree.path_N.index(path)
    gone = {n for n, p in enumerate(tree.path_N) if f"{p}.".startswith(f"{path}.")}
    left = [n for n in tree.node_E if n not in gone]
    reach_TN, probs_TN = routing.reach_TN, routing.probs_TN
    if gate == "bottom_up":
        expected = reach_TN[:, left] / (1 - reach_TN[:, [node]])
    else:
        unit = path.rpartition(".")[0]
        near = torch.tensor([tree.path_N[n].startswith(f"{unit}." if unit else "") for n in left])
        expected = reach_TN[:, left] / torch.where(near, 1 - probs_TN[:, [node]], 1.0)
    new, _ = drop(layer, path)
    _, routing = new(inputs())
    # An expert is known by its network, whatever its name and number are now.
    old_E, new_E = layer.experts.w_in_EDF[:, 0, 0], new.experts.w_in_EDF[:, 0, 0]
    order = [new_E.tolist().index(old_E[tree.node_E.index(n)].item()) for n in left]
    found = routing.reach_TN[:, list(new.tree.node_E)][:, order]
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("gate", ["top_down", "bottom_up"])
def test_a_controllers_bias_stays_with_what_it_steers(gate: str) -> None:
    layer = make({"a": 1, "b": {"c": 1, "d": 1, "e": 2}}, gate=GATES[gate])
    layer.add_bias()
    assert layer.tree.path_N[2:] == ("b.c", "b.d", "b.e", "b.e.0", "b.e.1")
    layer.bias_N += torch.arange(1.0, 8.0)
    up = gate == "bottom_up"
    new, _ = split_expert(layer, "b.c", into="unit", noise=0.0)
    assert new.tree.path_N[2:7] == ("b.c", "b.d", "b.e", "b.c.0", "b.c.1")
    # Bottom-up experts carry the bias, top-down the node of the old name.
    assert new.bias_N.tolist() == [1, 2, *((0, 4, 5, 3, 3) if up else (3, 4, 5, 0, 0)), 6, 7]
    new, _ = drop(layer, "b.e.0")
    assert new.bias_N.tolist() == [1, 2, 3, 4, 7 if up else 5]
    new, _ = reinitialise(
        layer, "b.e", fresh=make({"a": 1, "b": {"c": 1, "d": 1, "e": 2}}, gate=GATES[gate])
    )
    assert new.bias_N.tolist() == [1, 2, 3, 4, 5, 0, 0]
    assert layer.bias_N.tolist() == [1, 2, 3, 4, 5, 6, 7]
    if up:
        new, _ = regroup(layer, Tree.from_spec([5]), order=[4, 0, 1, 2, 3])
        assert new.bias_N.tolist() == [7, 1, 3, 4, 6]
        layer.selection = layer.eval_selection = best(2)
        new, move = regroup(layer, Tree.from_spec([5]), order=[4, 0, 1, 2, 3])
        same_function(layer, new, move)


# ------------------------------------------------------------------ fresh weights


@pytest.mark.parametrize("path", ["sales", "sales.us", "sales.us.1", "legal"])
@pytest.mark.parametrize("gate", ["top_down", "bottom_up", "noise", "hash", "heads"])
def test_new_weights_are_those_below_and_no_others(gate: str, path: str) -> None:
    parts = {"gate": {**GATES, "noise": top_down(noise="learned")}[gate], "shared": SHARED}
    layer, fresh = (make(TREES["ragged"], seed, **parts) for seed in (0, 9))
    new, move = reinitialise(layer, path, fresh=fresh)
    nodes = layer.tree.path_N
    experts = [nodes[n] for n in layer.tree.node_E]
    staff = ["", "sales", "sales"]
    named = {
        "shared": staff,
        "experts": experts,
        "gate": experts if gate == "bottom_up" else nodes,
    }
    old, source = layer.state_dict(), fresh.state_dict()
    changed = 0
    for name, tensor in new.state_dict().items():
        if name.endswith("plane_BD"):  # of all nodes
            assert torch.equal(tensor, old[name])
            continue
        room = name.split(".")[0]
        for row, owner in enumerate(named[room]):
            at, under = owner == path, owner.startswith(f"{path}.")
            touched = under or (at and room != "gate")
            assert torch.equal(tensor[row], (source if touched else old)[name][row]), (name, owner)
            changed += touched
    assert changed > 0
    for parameter, (_, row_M) in move.origins.items():
        room = next(n for n, p in new.named_parameters() if p is parameter).split(".")[0]
        expected = [
            FRESH if owner.startswith(f"{path}.") or (owner == path and room != "gate") else row
            for row, owner in enumerate(named[room])
        ]
        assert row_M.tolist() == expected


def test_a_query_belongs_to_all_and_stays() -> None:
    layer, fresh = (make([2, 3], seed, gate=top_down(width=4)) for seed in (0, 9))
    new, move = reinitialise(layer, "0", fresh=fresh)
    query = new.gate.scorers[0].query_DW
    assert torch.equal(query, layer.gate.scorers[0].query_DW)
    assert move.origins[query].row_M is None


def test_a_move_leaves_the_old_layer_alone_and_shares_nothing_with_it() -> None:
    layer = make(TREES["ragged"], shared=SHARED, gate=top_down(width=4, noise="learned"))
    before = {name: value.clone() for name, value in layer.state_dict().items()}
    for new, _ in (
        split_expert(layer, "legal", into="unit", noise=0.1),
        drop(layer, "legal"),
        reinitialise(
            layer,
            "legal",
            fresh=make(TREES["ragged"], 9, shared=SHARED, gate=top_down(width=4, noise="learned")),
        ),
    ):
        for parameter in new.parameters():
            parameter.data.fill_(7.0)
    for name, value in layer.state_dict().items():
        assert torch.equal(value, before[name])
    assert layer.tree.path_N == RAGGED.path_N


# ------------------------------------------------------------------ refusals


class Odd(torch.nn.Module):
    """Experts that keep one weight for all."""

    def __init__(self, num_experts: int, dim: int) -> None:
        super().__init__()
        self.weight = torch.nn.Parameter(torch.ones(dim))

    def forward(self, x_RD: torch.Tensor, load_E: torch.Tensor) -> torch.Tensor:
        return x_RD * self.weight


def biased(layer: HMoE) -> HMoE:
    layer.add_bias()
    layer.bias_N += 1
    return layer


SPLIT = {"into": "unit", "noise": 0.0}
VISIBLE = [["0", "1"], ["2", "3"]]
REFUSED = {
    "top-down tree": (
        lambda: regroup(make([2, 4]), Tree.from_spec([8])),
        "top-down gate on tree 2x4 has no equal on another tree.*gate=bottom_up.*tree.spec=.8.",
    ),
    "learnt noise": (
        lambda: regroup(make([8], gate=top_down(noise="learned")), RAGGED),
        "gate.noise = learned",
    ),
    "steps": (
        lambda: regroup(make([2], gate=top_down(link="smooth_step")), Tree.from_spec([2])),
        "gate.link = smooth_step",
    ),
    "tied": (
        lambda: regroup(make([8], gate=tied()), RAGGED),
        "Tied cannot be moved.*gate=top_down",
    ),
    "another number": (
        lambda: regroup(make([8]), Tree.from_spec([3, 3])),
        "tree = 3x3: has 9 experts, and tree 8 has 8.*split_expert and drop",
    ),
    "bad order": (
        lambda: regroup(make([2]), Tree.from_spec([2]), order=[0, 0]),
        r"order = \[0, 0\]: must name every expert from 0 to 1 once",
    ),
    "visible": (
        lambda: regroup(make([4], gate=heads(visible=VISIBLE)), Tree.from_spec([2, 2])),
        "gate.visible: .*units of the old tree",
    ),
    "bias and link": (
        lambda: regroup(biased(make([4])), Tree.from_spec([2, 2])),
        "balance.bias: .*before the link",
    ),
    "staff without unit": (
        lambda: regroup(make(TREES["ragged"], gate=bottom_up(), shared=SHARED), RAGGED),
        "unit 'sales' .* has shared experts",
    ),
    "beam": (
        lambda: regroup(
            make([2, 4], gate=bottom_up(), selection=best(2, beam=1)), Tree.from_spec([8])
        ),
        "selection.beam = 1: tree 8 has one level",
    ),
    "no such expert": (lambda: split_expert(make([4]), "5", **SPLIT), "path has '5': no node"),
    "no expert": (
        lambda: split_expert(make(TREES["ragged"]), "sales", **SPLIT),
        "path = sales: a unit, .*such as sales.emea.0",
    ),
    "into": (
        lambda: split_expert(make([4]), "1", into="units", noise=0.0),
        "into = units: must be one of unit, siblings. Did you mean 'unit'",
    ),
    "negative noise": (
        lambda: split_expert(make([4]), "1", into="unit", noise=-0.1),
        "noise = -0.1: must be at least 0",
    ),
    "noise without weights": (
        lambda: split_expert(make([4], experts=EXPERTS["identity"]), "1", into="unit", noise=0.1),
        "noise = 0.1: Identity experts have no weights",
    ),
    "fixed gate": (
        lambda: split_expert(make([4], gate=top_down(score="hash")), "1", **SPLIT),
        "gate.score = hash: .*never tell the copies",
    ),
    "fixed bottom-up gate": (
        lambda: split_expert(make([4], gate=bottom_up(score="random")), "1", **SPLIT),
        "gate.score = random",
    ),
    "half a sigmoid": (
        lambda: split_expert(
            make([4], gate=top_down(link="sigmoid")), "1", into="siblings", noise=0.0
        ),
        "gate.link = sigmoid: .*into=unit",
    ),
    "half a bottom-up sigmoid": (
        lambda: split_expert(make([4], gate=bottom_up(link="sigmoid")), "1", **SPLIT),
        "gate.link = sigmoid: no shift",
    ),
    "no direction": (
        lambda: split_expert(make([4], gate=top_down(score="cosine")), "1", **SPLIT),
        "gate.score = cosine: .*into=siblings",
    ),
    "distance": (
        lambda: split_expert(
            make([4], gate=top_down(score="laplace", link="sigmoid")), "1", **SPLIT
        ),
        "gate.link = sigmoid with gate.score = laplace",
    ),
    "tied split": (lambda: split_expert(make([4], gate=tied()), "1", **SPLIT), "Tied cannot"),
    "odd experts": (
        lambda: split_expert(make([4], experts=Odd), "1", **SPLIT),
        "experts: Odd has 'weight', which is no stack",
    ),
    "nothing left": (
        lambda: drop(make([2]), "0"),
        "path = 0: without it '1' would be the only expert of tree 2",
    ),
    "no such node": (lambda: drop(make([2, 2]), "2"), "path has '2': no node of tree 2x2"),
    "too few experts": (
        lambda: drop(make([3], selection=best(3)), "0"),
        "selection.k = 3: must be from 1 to 2",
    ),
    "staff of a unit that ends": (
        lambda: drop(
            make(
                TREES["ragged"],
                shared=partial(Shared, units={"support": 1}, experts=EXPERTS["mlp"]),
            ),
            "support.0",
        ),
        "unit 'support' .* has shared experts",
    ),
    "staff of a unit that moves up": (
        lambda: drop(
            make(
                {"a": {"b": 2, "c": 1}, "d": 1},
                shared=partial(Shared, units={"a.b": 1}, experts=EXPERTS["mlp"]),
            ),
            "a.c",
        ),
        "unit 'a.b' .* has shared experts",
    ),
    "options that meet": (
        lambda: drop(
            make(
                {"a": {"b": 2, "c": 1}, "d": {"e": 1, "f": 1}},
                gate=top_down(temperature=[1.0, 1.0, 2.0]),
            ),
            "a.c",
        ),
        r"nodes of levels \[1, 2\] of tree .* would meet on one level",
    ),
    "blind head": (
        lambda: drop(make([4], gate=heads(visible=[["0"], ["1", "2"]])), "0"),
        "gate.visible: head 0 would have no unit left",
    ),
    "another make": (
        lambda: reinitialise(make([4]), "0", fresh=make([2, 2])),
        "fresh: must be a layer of the same make",
    ),
    "no node to renew": (
        lambda: reinitialise(make([4]), "7", fresh=make([4])),
        "path has '7': no node",
    ),
}


@pytest.mark.parametrize("why", REFUSED)
def test_what_cannot_be_moved_is_refused_with_the_reason(why: str) -> None:
    move, message = REFUSED[why]
    with pytest.raises(ConfigError, match=f"(?s){message}"):
        move()
