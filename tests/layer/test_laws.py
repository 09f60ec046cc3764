"""Identities that hold on every tree: random organisations, uniform, ragged and lopsided.

Examples are drawn the same way on every machine (`derandomize`), so a failure is one anywhere.

Letters: T tokens, D width, E experts, K experts per token, N nodes, R rows.
"""

import random
from collections import Counter
from functools import partial
from math import ceil
from typing import Any

import pytest
import torch
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from torch import Tensor

from hmoe.errors import ConfigError
from hmoe.layer import Choice, HMoE, Routing, Scores, Tree, expert_choice, soft
from hmoe.layer.beam import beam_search
from hmoe.layer.tree_ops import at_experts, path_product
from tests.cases import DIM, best, bottom_up, down, heads, layer_of, tied, top_down

T = 12
law = settings(max_examples=30, deadline=None, derandomize=True, database=None)


def named(units: list[Any]) -> dict[str, Any]:
    return dict(zip("abcd", units, strict=False))


UNIFORM = st.lists(st.integers(2, 3), min_size=1, max_size=3)
UNITS = st.recursive(
    st.integers(1, 3) | st.lists(st.integers(2, 3), min_size=1, max_size=2),
    lambda unit: st.lists(unit, min_size=2, max_size=3).map(named),
    max_leaves=5,
)
RAGGED = st.lists(UNITS, min_size=2, max_size=3).map(named)
SPECS = UNIFORM | RAGGED
TREES = SPECS.map(Tree.from_spec)
SEEDS = st.integers(0, 999)
KEEPING_ONE = st.sampled_from(["renormalized", "softmax", "even"])


def scored(tree: Tree, seed: int, biased: bool = True, **gate: Any) -> tuple[Scores, Choice]:
    """Scores of T random tokens, and the choice under a random bias."""
    torch.manual_seed(seed)
    module = top_down(**gate)(tree=tree, dim=DIM)
    scores = module(torch.randn(T, DIM))
    return scores, module.choose(scores, torch.randn(tree.num_nodes) if biased else None)


def table(routing: Routing) -> Tensor:
    """Weights (T, E), NaN where a token does not meet an expert."""
    weight_TE = torch.full((routing.num_tokens, routing.tree.num_experts), torch.nan)
    weight_TE[routing.token_R, routing.expert_R] = routing.weight_R.detach()
    return weight_TE


def assert_same(one: Routing, other: Routing) -> None:
    assert torch.allclose(table(one), table(other), atol=1e-6, equal_nan=True)


def some_k(data: st.DataObject, most: int, least: int = 1) -> int:
    return data.draw(st.integers(least, most), label="k")


# Probabilities and weights.


@law
@given(TREES, SEEDS)
def test_probabilities_of_the_experts_sum_to_one(tree: Tree, seed: int) -> None:
    torch.manual_seed(seed)
    x_TD = torch.randn(T, DIM)
    gates = (
        top_down(),
        top_down(link="sigmoid"),
        top_down(noise="learned"),
        bottom_up(),
        bottom_up(link="sigmoid", pool="top_2_sum"),
    )
    for gate in gates:
        probs_TN = gate(tree=tree, dim=DIM)(x_TD).probs_TN
        reach_TE = at_experts(path_product(probs_TN, tree), tree)
        assert torch.allclose(reach_TE.sum(-1), torch.ones(T), atol=1e-5)


@law
@given(TREES, SEEDS, st.data())
def test_weights_of_the_chosen_sum_to_one(tree: Tree, seed: int, data: st.DataObject) -> None:
    scores, choice = scored(tree, seed)
    k = some_k(data, tree.num_experts, least=2)
    weights = data.draw(KEEPING_ONE)
    for select in (best(k, weights=weights), down(2, weights=weights), down(None, weights=weights)):
        assert torch.allclose(table(select(scores, choice)).nansum(-1), torch.ones(T), atol=1e-5)
    tripled = best(k, weights=weights, scale=3.0)(scores, choice)
    assert torch.allclose(table(tripled).nansum(-1), torch.full((T,), 3.0), atol=1e-5)


@law
@given(TREES, SEEDS, st.data())
def test_probabilities_of_the_chosen_sum_to_at_most_one(
    tree: Tree, seed: int, data: st.DataObject
) -> None:
    scores, choice = scored(tree, seed)
    for select in (best(some_k(data, tree.num_experts)), down(1), down(2)):
        total_T = table(select(scores, choice)).nansum(-1)
        assert (total_T <= 1 + 1e-5).all()
        assert (total_T > 0).all()


# Rules that are one under some option.


@law
@given(TREES, SEEDS, st.data())
def test_a_wide_beam_is_exact_top_k(tree: Tree, seed: int, data: st.DataObject) -> None:
    assume(tree.num_levels > 1)
    scores, choice = scored(tree, seed)
    k = some_k(data, tree.num_experts)
    assert_same(best(k, beam=tree.num_experts)(scores, choice), best(k)(scores, choice))


def test_a_beam_is_said_to_leave_what_the_worst_units_leave() -> None:
    """a leaves two experts, b a unit of two: neither fewer experts nor fewer units at once."""
    tree = Tree.from_spec({"a": 2, "b": [2, 2]})
    scores, choice = scored(tree, seed=0)
    assert best(2, beam=1)(scores, choice).load_E.sum() == 2 * T
    with pytest.raises(ConfigError, match="only 2 experts are sure"):
        best(3, beam=1)(scores, choice)


@law
@given(TREES, SEEDS, st.integers(1, 3))
def test_a_beam_leaves_what_it_is_said_to(tree: Tree, seed: int, width: int) -> None:
    assume(tree.num_levels > 1)
    scores, choice = scored(tree, seed)
    beams = [width] * (tree.num_levels - 1)
    found_T = beam_search(tree, choice, beams).sum(-1)
    for k in range(1, tree.num_experts + 1):
        try:
            best(k, beam=width)(scores, choice)
        except ConfigError:
            assert k > 1
            return
        assert (found_T >= k).all()


@law
@given(TREES, SEEDS)
def test_descending_to_all_children_is_soft(tree: Tree, seed: int) -> None:
    scores, choice = scored(tree, seed)
    assert_same(down(None)(scores, choice), soft(scores, choice))


@law
@given(UNIFORM.filter(lambda spec: len(spec) > 1), SEEDS, st.data())
def test_product_keys_find_the_exact_top_k_of_sums(
    spec: list[int], seed: int, data: st.DataObject
) -> None:
    tree = Tree.from_spec(spec)
    torch.manual_seed(seed)
    gate = tied()(tree=tree, dim=DIM)
    scores = gate(torch.randn(T, DIM))
    k = some_k(data, tree.num_experts)
    routing = best(k, beam=k)(scores, gate.choose(scores, None))
    sum_TE = torch.zeros(T, 1)
    for level, size in zip(tree.level_slices, spec, strict=True):
        level_Tb = scores.logits_TN[:, level][:, :size]
        sum_TE = (sum_TE.unsqueeze(-1) + level_Tb.unsqueeze(1)).flatten(1)
    found_TK = routing.expert_R.view(T, k)
    assert torch.equal(found_TK.sort().values, sum_TE.topk(k).indices.sort().values)


# Layers that are one under another tree.


def layer(tree: Tree, **parts: Any) -> HMoE:
    return layer_of(tree=tree, **parts)(dim=DIM)


def copy_rows(source: HMoE, target: HMoE, node_N: list[int], expert_E: list[int]) -> None:
    """Give the nodes and experts of `target` the weights of these nodes and experts of `source`."""
    weights = source.state_dict()
    target.load_state_dict(
        {
            name: value[node_N if name.startswith("gate.") else expert_E]
            for name, value in weights.items()
        }
    )


@law
@given(TREES, SEEDS, st.data())
def test_a_bottom_up_tree_under_exact_top_k_is_flat(
    tree: Tree, seed: int, data: st.DataObject
) -> None:
    parts = {
        "gate": bottom_up(),
        "selection": best(
            some_k(data, tree.num_experts, least=2),
            weights=data.draw(st.sampled_from(["probs", "renormalized", "softmax"])),
        ),
    }
    torch.manual_seed(seed)
    deep, flat = layer(tree, **parts), layer(Tree.from_spec([tree.num_experts]), **parts)
    flat.load_state_dict(deep.state_dict())
    x_TD = torch.randn(T, DIM)
    outputs = deep(x_TD)[0], flat(x_TD)[0]
    assert torch.allclose(*outputs, atol=1e-5)
    gradients = [
        torch.autograd.grad(y_TD.square().sum(), list(module.parameters()))
        for y_TD, module in zip(outputs, (deep, flat), strict=True)
    ]
    for one, other in zip(*gradients, strict=True):
        assert torch.allclose(one, other, atol=1e-4)


@law
@given(RAGGED, SEEDS, st.data())
def test_a_tree_whose_root_is_certain_is_that_branch(
    spec: dict[str, Any], seed: int, data: st.DataObject
) -> None:
    units = [name for name, unit in spec.items() if unit != 1]
    assume(units)
    unit = data.draw(st.sampled_from(units))
    below = spec[unit]
    whole, branch = (
        Tree.from_spec(spec),
        Tree.from_spec([below] if isinstance(below, int) else below),
    )
    # Breadth first below a unit is breadth first: numbers are in the order of the branch's.
    inside = f"{unit}."
    node_N = [n for n, path in enumerate(whole.path_N) if path.startswith(inside)]
    expert_E = [e for e, n in enumerate(whole.node_E) if whole.path_N[n].startswith(inside)]
    assert [whole.path_N[n].removeprefix(inside) for n in node_N] == list(branch.path_N)
    k = some_k(data, branch.num_experts)
    for selection in (soft, best(k), down(1)):
        torch.manual_seed(seed)
        ours, theirs = layer(whole, selection=selection), layer(branch, selection=selection)
        copy_rows(ours, theirs, node_N, expert_E)
        with torch.no_grad():
            ours.gate.scorers[0].bias_M[whole.path_N.index(unit)] += 500.0
        x_TD = torch.randn(T, DIM)
        assert torch.allclose(ours(x_TD)[0], theirs(x_TD)[0], atol=1e-5)


def spelt_out(unit: Any) -> Any:
    """A specification with a name for every node."""
    if isinstance(unit, dict):
        return {name: spelt_out(child) for name, child in unit.items()}
    if isinstance(unit, int):
        return 1 if unit == 1 else {f"n{i}": 1 for i in range(unit)}
    size, *rest = unit
    return {f"n{i}": spelt_out(rest) if rest else 1 for i in range(size)}


def shuffled(unit: Any, order: random.Random) -> Any:
    """The same units with siblings in another order."""
    if unit == 1:
        return 1
    names = list(unit)
    order.shuffle(names)
    return {name: shuffled(unit[name], order) for name in names}


@law
@given(SPECS, SEEDS)
def test_the_order_of_siblings_does_not_matter(spec: Any, seed: int) -> None:
    spec = spelt_out(spec)
    one, other = Tree.from_spec(spec), Tree.from_spec(shuffled(spec, random.Random(seed)))
    node_N = [one.path_N.index(path) for path in other.path_N]
    expert_E = [one.node_E.index(node_N[n]) for n in other.node_E]
    rules = [soft, best(1), best(2, weights="softmax"), down(1), down(2, weights="renormalized")]
    rules += [partial(expert_choice, k=1.0), partial(expert_choice, k=[1.0] * one.num_levels)]
    rules += [best(1, beam=1)] if one.num_levels > 1 else []
    for rule in rules:
        torch.manual_seed(seed)
        ours, theirs = layer(one, selection=rule), layer(other, selection=rule)
        copy_rows(ours, theirs, node_N, expert_E)
        x_TD = torch.randn(T, DIM)
        (our_y, our_routing), (their_y, their_routing) = ours(x_TD), theirs(x_TD)
        assert torch.allclose(our_y, their_y, atol=1e-5)
        assert torch.equal(our_routing.load_N[node_N], their_routing.load_N)


# Loads.


def greedy(routing: Routing, capacity_L: list[float], drop: str) -> set[tuple[int, int]]:
    """(token, expert) of the rows that stay: one after the other takes a place where all have one.

    An expert above a level is a node of that level.
    """
    tree = routing.tree
    rows = list(zip(routing.token_R.tolist(), routing.expert_R.tolist(), strict=True))
    weight = dict(zip(rows, routing.weight_R.tolist(), strict=True))
    rows.sort(key=lambda row: -weight[row])
    if drop == "order":
        rank = {row: sum(other[0] == row[0] for other in rows[:i]) for i, row in enumerate(rows)}
        rows.sort(key=lambda row: (rank[row], row[0]))
    taken: Counter[tuple[int, int]] = Counter()
    kept = set()
    for token, expert in rows:
        places = []
        for level in range(tree.num_levels):
            node = tree.node_E[expert]
            while tree.level_N[node] > level:
                node = tree.parent_N[node]
            share = tree.num_below_N[node] / tree.num_experts
            places.append(((level, node), ceil(round(capacity_L[level] * len(rows) * share, 6))))
        if all(taken[place] < limit for place, limit in places):
            taken.update(place for place, _ in places)
            kept.add((token, expert))
    return kept


@law
@given(TREES, SEEDS, st.sampled_from(["order", "weight"]), st.data())
def test_capacity_is_kept_on_every_level_and_drops_nothing_that_fits(
    tree: Tree, seed: int, drop: str, data: st.DataObject
) -> None:
    scores, choice = scored(tree, seed, biased=False)
    factor = st.floats(0.3, 1.5).map(lambda value: round(value, 2))
    levels = tree.num_levels
    capacity_L = data.draw(st.lists(factor, min_size=levels, max_size=levels), label="capacity")
    k = some_k(data, tree.num_experts)
    kept = best(k, capacity=capacity_L, drop=drop)(scores, choice)
    rows = set(zip(kept.token_R.tolist(), kept.expert_R.tolist(), strict=True))
    assert rows == greedy(best(k)(scores, choice), capacity_L, drop)
    share_N = torch.tensor(tree.num_below_N) / tree.num_experts
    capacity_N = torch.tensor(capacity_L)[list(tree.level_N)]
    assert (kept.load_N < capacity_N * T * k * share_N + 1).all()


@law
@given(TREES, SEEDS, st.floats(0.1, 2.0))
def test_expert_choice_loads_are_exactly_even(tree: Tree, seed: int, k: float) -> None:
    scores, choice = scored(tree, seed)
    load_E = expert_choice(scores, choice, k=k).load_E
    assert load_E.tolist() == [min(ceil(round(k * T / tree.num_experts, 6)), T)] * tree.num_experts


@law
@given(UNIFORM, SEEDS)
def test_expert_choice_down_the_tree_is_even_on_every_level(spec: list[int], seed: int) -> None:
    """Every child takes the half of its parent's tokens, however many siblings it has."""
    tree = Tree.from_spec(spec)
    scores, choice = scored(tree, seed)
    routing = expert_choice(scores, choice, k=[size / 2 for size in spec])
    tokens = T
    for _ in spec:
        tokens = ceil(tokens / 2)
    assert routing.load_E.tolist() == [tokens] * tree.num_experts


@law
@given(RAGGED, SEEDS)
def test_a_head_works_only_with_the_units_that_it_sees(spec: dict[str, Any], seed: int) -> None:
    tree = Tree.from_spec(spec)
    units = list(spec)
    torch.manual_seed(seed)
    gate = heads(len(units), visible=[[unit] for unit in units])(tree=tree, dim=DIM)
    scores = gate(torch.randn(T, DIM))
    routing = best(1)(scores, gate.choose(scores, None))
    unit_R = [tree.path_N[tree.node_E[e]].split(".")[0] for e in routing.expert_R.tolist()]
    assert unit_R == [unit for unit in units for _ in range(T)]


@law
@given(RAGGED, SEEDS, st.data())
def test_hidden_experts_get_no_rows_and_the_seen_all_the_weight(
    spec: dict[str, Any], seed: int, data: st.DataObject
) -> None:
    tree = Tree.from_spec(spec)
    shown = st.lists(st.sampled_from(list(spec)), min_size=1, unique=True)
    visible = [data.draw(shown), data.draw(shown)]
    torch.manual_seed(seed)
    gate = heads(visible=visible)(tree=tree, dim=DIM)
    scores = gate(torch.randn(T, DIM))
    choice = gate.choose(scores, torch.randn(tree.num_nodes))
    tops = [tree.path_N[node].split(".")[0] for node in tree.node_E]
    seen = {
        (head * T + token, expert)
        for head, units in enumerate(visible)
        for token in range(T)
        for expert, top in enumerate(tops)
        if top in units
    }
    after = down(None, weights="softmax")
    for rule in (soft, down(None), after, partial(expert_choice, k=float(tree.num_experts))):
        routing = rule(scores, choice)
        assert set(zip(routing.token_R.tolist(), routing.expert_R.tolist(), strict=True)) == seen
        weight_T = torch.zeros(2 * T).index_add(0, routing.token_R, routing.weight_R)
        torch.testing.assert_close(weight_T, torch.ones(2 * T))
        gate.zero_grad()
        routing.weight_R.square().sum().backward(retain_graph=True)
        assert all(p.grad.isfinite().all() for p in gate.parameters())
    for rule in (best(1), down(1), partial(expert_choice, k=1.0), best(1, weights="even")):
        routing = rule(scores, choice)
        assert set(zip(routing.token_R.tolist(), routing.expert_R.tolist(), strict=True)) <= seen


# Gradients.


@law
@given(TREES, SEEDS, st.data())
def test_gradients_reach_every_gate_weight_that_was_used(
    tree: Tree, seed: int, data: st.DataObject
) -> None:
    for selection in (best(some_k(data, tree.num_experts)), down(1), down(2), soft):
        torch.manual_seed(seed)
        module = layer(tree, selection=selection)
        y_TD, routing = module(torch.randn(T, DIM))
        (y_TD * torch.randn(T, DIM)).sum().backward()
        used_N = routing.load_N > 0
        scorer = module.gate.scorers[0]
        assert (scorer.weight_MD.grad.abs().amax(-1) > 0)[used_N].all()
        assert (scorer.bias_M.grad.abs() > 0)[used_N].all()
