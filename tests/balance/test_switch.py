"""Switch loss: published values by hand, then the laws that carry them to every tree."""

from dataclasses import replace
from functools import partial
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from hmoe.balance import switch_loss
from hmoe.errors import ConfigError
from hmoe.layer import Routing, Tree
from hmoe.layer.tree_ops import sibling_softmax
from tests.cases import DIM, TREES, make_layer, make_routing

micro = partial(switch_loss, statistics="micro")
# Departments a and b of two experts each. Nodes: a, b, a.0, a.1, b.0, b.1.
GRID = Tree.from_spec({"a": 2, "b": 2})
# Nodes: solo, team, team.0, team.1, team.2; experts: solo, team.0, team.1, team.2.
RAGGED = Tree.from_spec({"solo": 1, "team": 3})


def values(loss: dict[str, Tensor]) -> dict[str, float]:
    return {level: value.item() for level, value in loss.items()}


# ------------------------------------------------------------------ switch loss by hand


def test_switch_is_the_published_value_on_a_flat_tree() -> None:
    # f = (3/4, 1/4, 0), P = (.5 + .6 + .2 + .3, .3 + .2 + .5 + .3, .2 + .2 + .3 + .4) / 4
    #   = (.4, .325, .275); 3 (3/4 * .4 + 1/4 * .325) = 1.14375.
    probs = torch.tensor([[0.5, 0.3, 0.2], [0.6, 0.2, 0.2], [0.2, 0.5, 0.3], [0.3, 0.3, 0.4]])
    routing = make_routing(Tree.from_spec([3]), [[0], [0], [1], [0]], probs)
    assert values(micro(routing)) == pytest.approx({"level_0": 1.14375})


def test_switch_counts_all_k_choices() -> None:
    # Four rows: f = (2/4, 1/4, 1/4), P = (.4, .35, .25); 3 (.2 + .0875 + .0625) = 1.05.
    probs = torch.tensor([[0.5, 0.3, 0.2], [0.3, 0.4, 0.3]])
    routing = make_routing(Tree.from_spec([3]), [[0, 1], [0, 2]], probs)
    assert values(micro(routing)) == pytest.approx({"level_0": 1.05})


@pytest.mark.parametrize("num_experts", [2, 8])
def test_switch_of_a_sure_gate_that_knows_one_expert_is_the_number_of_experts(
    num_experts: int,
) -> None:
    probs = torch.eye(num_experts)[[1] * 5]
    routing = make_routing(Tree.from_spec([num_experts]), [[1]] * 5, probs)
    assert values(micro(routing)) == pytest.approx({"level_0": num_experts})


def test_switch_on_two_levels_asks_each_department_about_its_own_rows() -> None:
    # Tokens 0, 1, 2 go to a.0, a.0, a.1, token 3 goes to b.0.
    probs = torch.tensor(
        [
            [0.8, 0.2, 0.6, 0.4, 0.1, 0.9],
            [0.6, 0.4, 0.9, 0.1, 0.2, 0.8],
            [0.5, 0.5, 0.3, 0.7, 0.3, 0.7],
            [0.1, 0.9, 0.7, 0.3, 0.8, 0.2],
        ]
    )
    routing = make_routing(GRID, [[0], [0], [1], [2]], probs)
    # Level 0: f = (3/4, 1/4), P = (2.0, 2.0) / 4; 2 (3/8 + 1/8) = 1.
    # In a: f = (2/3, 1/3), P = ((.6 + .9 + .3) / 3, (.4 + .1 + .7) / 3) = (.6, .4);
    # 2 (2/3 * .6 + 1/3 * .4) = 16/15. In b, token 3 alone: f = (1, 0), P = (.8, .2); 1.6.
    # By traffic: (3 * 16/15 + 1 * 1.6) / 4 = 4.8 / 4 = 1.2.
    assert values(micro(routing)) == pytest.approx({"level_0": 1.0, "level_1": 1.2})


def test_a_token_with_two_rows_in_a_department_counts_twice_there() -> None:
    # Token 0 sends both rows into a, token 1 one into a and one into b.
    probs = torch.tensor([[0.7, 0.3, 0.6, 0.4, 0.5, 0.5], [0.4, 0.6, 0.9, 0.1, 0.2, 0.8]])
    routing = make_routing(GRID, [[0, 1], [0, 3]], probs)
    # Level 0: f = (3/4, 1/4), P = (.55, .45); 2 (.4125 + .1125) = 1.05.
    # In a: f = (2/3, 1/3), P = (2 * (.6, .4) + (.9, .1)) / 3 = (.7, .3); 2 (1.4/3 + .1) = 17/15.
    # In b: f = (0, 1), P = (.2, .8); 1.6. By traffic: (3 * 17/15 + 1.6) / 4 = 5 / 4.
    assert values(micro(routing)) == pytest.approx({"level_0": 1.05, "level_1": 1.25})


def test_switch_on_a_ragged_tree_divides_by_the_share_of_experts() -> None:
    # Level 0 has shares 1/4 and 3/4: f = (1/2, 1/2), P = (.3, .7); .5 * .3 * 4 + .5 * .7 * 4/3.
    # Level 1 is the team with its two rows: f = (1, 0, 0), P = (.5, .3, .2); 3 * .5 = 1.5.
    probs = torch.tensor([[0.3, 0.7, 0.5, 0.3, 0.2]] * 4)
    routing = make_routing(RAGGED, [[0], [0], [1], [1]], probs)
    expected = {"level_0": 0.6 + 1.4 / 3, "level_1": 1.5}
    assert values(micro(routing)) == pytest.approx(expected)


# ------------------------------------------------------------------ switch loss, laws


def equal_load(tree: Tree, rows_each: int, experts_per_token: int) -> list[list[int]]:
    """Every expert gets the same number of rows; tokens are of several experts each."""
    rows = list(range(tree.num_experts)) * rows_each
    step = experts_per_token
    return [rows[start : start + step] for start in range(0, len(rows), step)]


@pytest.mark.parametrize("experts_per_token", [1, 2, 3])
def test_switch_is_one_at_equal_load_on_every_level(tree: Tree, experts_per_token: int) -> None:
    experts_T = equal_load(tree, 6, experts_per_token)
    probs = sibling_softmax(torch.randn(len(experts_T), tree.num_nodes) * 3, tree)
    assert probs.std(0).min() > 0.01, "P must not be uniform for the law to say anything"
    loss = values(micro(make_routing(tree, experts_T, probs)))
    assert loss == pytest.approx({f"level_{n}": 1.0 for n in range(tree.num_levels)}, abs=1e-5)


def units(depth: int) -> st.SearchStrategy[Any]:
    """A named organisation of up to `depth` levels below, ragged as it comes."""
    child = st.integers(1, 4) if depth == 0 else st.integers(1, 4) | units(depth - 1)
    return st.lists(child, min_size=2, max_size=3).map(
        lambda parts: {f"u{i}": part for i, part in enumerate(parts)}
    )


@given(spec=units(2), seed=st.integers(0, 2**16))
@settings(max_examples=60, deadline=None)
def test_switch_is_one_at_equal_load_on_any_tree(spec: dict[str, Any], seed: int) -> None:
    tree = Tree.from_spec(spec)
    generator = torch.Generator().manual_seed(seed)
    probs = sibling_softmax(
        torch.randn(tree.num_experts, tree.num_nodes, generator=generator), tree
    )
    loss = values(micro(make_routing(tree, equal_load(tree, 1, 1), probs)))
    assert loss == pytest.approx({f"level_{n}": 1.0 for n in range(tree.num_levels)}, abs=1e-5)


@pytest.mark.parametrize("spec", [[4], [2, 3], [2, 2, 2]])
def test_switch_of_a_sure_gate_that_goes_one_way_is_the_branching_of_each_level(
    spec: list[int],
) -> None:
    tree = Tree.from_spec(spec)
    logits = torch.zeros(3, tree.num_nodes)
    logits[:, [level_slice.start for level_slice in tree.level_slices]] = 100.0
    routing = make_routing(tree, [[0]] * 3, sibling_softmax(logits, tree))
    expected = {f"level_{level}": float(branching) for level, branching in enumerate(spec)}
    assert values(micro(routing)) == pytest.approx(expected)


def test_switch_costs_less_the_more_the_gate_gives_the_idle_expert() -> None:
    tree = Tree.from_spec([2])
    loads = [[0], [0], [0], [1]]
    towards_idle, even, towards_busy = (
        micro(make_routing(tree, loads, torch.tensor([[p, 1 - p]] * 4)))["level_0"].item()
        for p in (0.2, 0.5, 0.8)
    )
    assert towards_idle < even == 1.0 < towards_busy


def test_the_gradient_lowers_the_overloaded_child_and_lifts_its_siblings(tree: Tree) -> None:
    logits = torch.randn(5, tree.num_nodes, requires_grad=True)
    probs = sibling_softmax(logits, tree)
    # All rows go to the last expert; every unit on its path is overloaded.
    routing = make_routing(tree, [[tree.num_experts - 1]] * 5, probs)
    loss = micro(routing)
    sum(loss.values()).backward()
    path = [node for node, expert in tree.below if expert == tree.num_experts - 1]
    for node in range(tree.num_nodes):
        grad_T = logits.grad[:, node]
        if node in path:
            assert (grad_T > 0).all(), "descent must lower the score of the overloaded node"
        elif tree.parent_N[node] in [-1, *path]:
            assert (grad_T < 0).all(), "descent must lift its siblings"
        else:
            assert (grad_T == 0).all(), "no rows there, nothing to balance"


def test_switch_stays_finite_where_a_department_or_everyone_receives_nothing(tree: Tree) -> None:
    for experts_T in ([[0]] * 3, [[]] * 3):
        logits = torch.randn(3, tree.num_nodes, requires_grad=True)
        loss = micro(make_routing(tree, experts_T, sibling_softmax(logits, tree)))
        total = sum(loss.values())
        total.backward()
        assert torch.isfinite(total)
        assert torch.isfinite(logits.grad).all()
        assert any(experts_T) or total == 0


@pytest.mark.parametrize("tree_name", TREES)
def test_the_order_of_tokens_does_not_matter(tree_name: str) -> None:
    layer = make_layer(tree_name, "descend_1")
    x = torch.randn(40, DIM)
    one, other = (values(micro(layer(rows)[1])) for rows in (x, x.flip(0)))
    assert one == pytest.approx(other, rel=1e-5)


# ------------------------------------------------------------------ which tokens count together


def in_sequences(routing: Routing, num_sequences: int) -> dict[str, float]:
    routing = replace(routing, num_sequences=num_sequences)
    return values(switch_loss(routing, statistics="sequence"))


def test_sequences_that_each_use_one_expert_look_even_together_and_uneven_by_themselves() -> None:
    probs = torch.tensor([[0.9, 0.1], [0.7, 0.3], [0.2, 0.8], [0.4, 0.6]])
    routing = make_routing(Tree.from_spec([2]), [[0], [0], [1], [1]], probs)
    assert values(micro(routing)) == pytest.approx({"level_0": 1.0})
    # First sequence: f = (1, 0), P = (.8, .2): 1.6. Second: f = (0, 1), P = (.3, .7): 1.4.
    assert in_sequences(routing, 2) == pytest.approx({"level_0": 1.5})


def test_a_sequence_that_sends_nobody_to_a_level_has_no_say_there() -> None:
    # All of the second sequence goes to solo; of the first, all to team.0 with P = 1/2: 3/2.
    probs = torch.tensor([[0.3, 0.7, 0.5, 0.3, 0.2]] * 4)
    routing = make_routing(RAGGED, [[1], [1], [0], [0]], probs)
    # At the root .7 * 4/3 and .3 * 4.
    expected = {"level_0": (2.8 / 3 + 1.2) / 2, "level_1": 1.5}
    assert in_sequences(routing, 2) == pytest.approx(expected)


@pytest.mark.parametrize("num_sequences", [1, 2, 4])
def test_by_sequence_is_the_mean_of_the_sequences(tree: Tree, num_sequences: int) -> None:
    # Every token uses all experts but one, so that every sequence has rows on every level.
    experts_T = [[e for e in range(tree.num_experts) if e != t % 3] for t in range(8)]
    probs = sibling_softmax(torch.randn(8, tree.num_nodes) * 2, tree)
    size = 8 // num_sequences
    alone = [
        values(micro(make_routing(tree, experts_T[n : n + size], probs[n : n + size])))
        for n in range(0, 8, size)
    ]
    expected = {key: sum(one[key] for one in alone) / num_sequences for key in alone[0]}
    assert in_sequences(make_routing(tree, experts_T, probs), num_sequences) == pytest.approx(
        expected
    )


def test_vectors_form_no_sequences() -> None:
    routing = make_routing(GRID, [[0]])
    with pytest.raises(ConfigError, match=r"statistics = sequence: needs a model that reads seq"):
        switch_loss(routing, statistics="sequence")


def test_an_unknown_name_is_refused() -> None:
    with pytest.raises(ConfigError, match=r"statistics = globl: .* Did you mean 'global'"):
        switch_loss(make_routing(GRID, [[0]]), statistics="globl")  # type: ignore[arg-type]


def test_global_statistics_of_one_process_are_its_own(tree: Tree) -> None:
    probs = sibling_softmax(torch.randn(5, tree.num_nodes), tree)
    routing = make_routing(tree, [[0, 1], [1], [2], [0], [3]], probs)
    assert values(switch_loss(routing, statistics="global")) == values(micro(routing))
