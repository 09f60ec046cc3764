"""Dealing: organisations told apart by hand, and the law of a layer that was regrouped."""

from itertools import permutations
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from hmoe.errors import ConfigError
from hmoe.layer import HMoE, Tree, dealt, regroup, soft
from hmoe.layer.dealing import deals, organisation
from tests.cases import DIM, TREES, best, bottom_up, layer_of

PAIRS = Tree.from_spec([2, 2])


def who_is_together(tree: Tree, order: Any) -> set[frozenset[int]]:
    """The experts below each unit, by the numbers that they had."""
    return {
        frozenset(order[expert] for node, expert in tree.below if node == unit)
        for unit in range(tree.num_nodes)
    }


def test_two_pairs_are_the_same_in_8_of_24_orders() -> None:
    """Swap the two of a pair, of the other, and the pairs: 2 * 2 * 2. Four people, three ways."""
    forms = [organisation(PAIRS, order, [0] * 6) for order in permutations(range(4))]
    assert len(set(forms)) == 3
    assert sorted(map(forms.count, set(forms))) == [8, 8, 8]


def test_kinds_and_staff_count_and_names_do_not() -> None:
    def of(kinds: str, staff: list[int]) -> Any:
        return organisation(PAIRS, kinds, [*staff, 0, 0, 0, 0])

    assert of("aabb", [0, 0]) == of("bbaa", [0, 0]) != of("abab", [0, 0])
    assert of("aabb", [1, 0]) == of("bbaa", [0, 1]) != of("aabb", [0, 1])
    ragged = Tree.from_spec({"legal": 1, "sales": 2})
    assert organisation(ragged, "abc", [0] * 4) != organisation(ragged, "bac", [0] * 4)
    assert organisation(ragged, "abc", [0] * 4) == organisation(ragged, "acb", [0] * 4)


def layer_on(tree: Tree, selection: Any, seed: int) -> HMoE:
    torch.manual_seed(seed)
    return layer_of(tree=tree, gate=bottom_up(), selection=selection)(dim=DIM)


@settings(max_examples=20, deadline=None)
@given(
    spec=st.sampled_from([TREES["grid"], TREES["deep"], TREES["ragged"], [2, 2], {"a": 1, "b": 3}]),
    seed=st.integers(0, 10_000),
    clustering=st.randoms(use_true_random=False),
)
def test_a_regrouped_layer_dealt_out_again_is_the_same_function_in_other_groups(
    spec: Any, seed: int, clustering: Any
) -> None:
    tree = Tree.from_spec(spec)
    layer = layer_on(Tree.from_spec([tree.num_experts]), soft, seed)
    order = clustering.sample(range(tree.num_experts), tree.num_experts)
    other = dealt(tree, order, seed=seed)
    assert other == dealt(tree, order, seed=seed)
    assert sorted(other) == sorted(order)
    assert who_is_together(tree, other) != who_is_together(tree, order)
    clustered, shuffled = (regroup(layer, tree, o)[0] for o in (order, other))
    x_TD = torch.randn(9, DIM)
    torch.testing.assert_close(clustered(x_TD)[0], shuffled(x_TD)[0], rtol=1e-4, atol=1e-5)
    # From the one to the other in one move: places instead of numbers.
    places = [order.index(expert) for expert in other]
    again, _ = regroup(clustered, tree, places)
    for name, value in again.state_dict().items():
        assert torch.equal(value, shuffled.state_dict()[name]), name


def test_a_rule_that_reads_groups_chooses_otherwise() -> None:
    """Under a beam of one unit, experts 0 and 1 are chosen together only if they share one."""
    layer = layer_on(Tree.from_spec([4]), best(2), 0)
    layer.gate.scorer.weight_MD.data.zero_()
    layer.gate.scorer.bias_M.data.copy_(torch.tensor([2.0, 1.5, 0.0, 0.0]))
    layer.selection = best(2, beam=1)
    chosen = {}
    for order in ((0, 1, 2, 3), dealt(PAIRS, (0, 1, 2, 3), seed=0)):
        moved, _ = regroup(layer, PAIRS, order)
        places = moved(torch.zeros(1, DIM))[1].expert_R.tolist()
        chosen[order] = {order[place] for place in places}
    together, apart = chosen.values()
    assert together == {0, 1}
    assert 0 in apart
    assert 1 not in apart


def test_draws_are_promised_to_stay() -> None:
    """Worked out from the documented stream: random.Random(0).random() begins .84, .76, .42."""
    assert next(deals("abc", seed=0)) == ("c", "b", "a")


@pytest.mark.parametrize(
    ("tree", "kinds"),
    [([4], range(4)), ([2, 2], "aaaa"), ([2, 2], "abbb"), ({"a": 2, "b": 1}, "aaa")],
)
def test_what_has_no_other_organisation_is_refused(tree: Any, kinds: Any) -> None:
    with pytest.raises(ConfigError, match="the same organisation again"):
        dealt(Tree.from_spec(tree), list(kinds), seed=0)
