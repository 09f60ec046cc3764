"""Shares of a label, company and distance: by hand, random baselines, laws over random trees.

Letters: T tokens, E experts, L levels, C values of a label.
"""

from itertools import combinations
from math import isnan

import pytest
import torch
from hypothesis import given
from torch import Tensor

from hmoe.layer import Tree
from hmoe.layer.capacity import limited
from hmoe.metrics import (
    CompanyMetrics,
    coactivation,
    domain_specialisation,
    locality,
    random_locality,
    vocabulary_specialisation,
)
from tests.cases import TREES as SPECS
from tests.cases import make_routing
from tests.layer.test_laws import SEEDS, TREES, law


def rows(experts_T: list[list[int]]) -> tuple[Tensor, Tensor]:
    """Rows (token, expert) of the experts of every token."""
    pairs = [(token, expert) for token, experts in enumerate(experts_T) for expert in experts]
    token_R, expert_R = torch.tensor(pairs, dtype=torch.int64).reshape(-1, 2).T
    return token_R, expert_R


def path(tree: Tree, expert: int) -> list[int]:
    """The nodes from level 0 down to an expert."""
    node, found = tree.node_E[expert], []
    while node >= 0:
        found.insert(0, node)
        node = tree.parent_N[node]
    return found


def distance(tree: Tree, one: int, other: int) -> float:
    """(L - depth of the last common ancestor) / L of two experts, by walking from the root."""
    depth = 0
    for a, b in zip(path(tree, one), path(tree, other), strict=False):
        if a != b:
            break
        depth += 1
    return (tree.num_levels - depth) / tree.num_levels


# ------------------------------------------------------------------ by hand


def test_shares_of_a_domain_by_hand() -> None:
    # Two experts a token. 4 tokens of the first domain, 1 of the second, none of the third.
    counts_CE = torch.tensor([[4, 3, 1], [1, 0, 1], [0, 0, 0]])
    found_CE = domain_specialisation(counts_CE, 2)
    assert found_CE[:2].tolist() == [[1.0, 0.75, 0.25], [1.0, 0.0, 1.0]]
    assert found_CE[2].isnan().all()
    often_CE = vocabulary_specialisation(counts_CE, 2, 4)
    assert often_CE[0].equal(found_CE[0])
    assert often_CE[1:].isnan().all()


def test_company_by_hand() -> None:
    # Experts in node order: b itself, a.0, a.1. The cut of departments is a, b.
    tree = Tree.from_spec({"a": 2, "b": 1})
    assert [tree.path_N[n] for n in tree.cut(1)] == ["b", "a.0", "a.1"]
    company = rows([[1, 2], [1, 0], [2, 1], [2]])
    # b served one token, with a.0; a.0 three, one with b, two with a.1; a.1 three, two with a.0.
    expected = torch.tensor([[1, 1, 0], [1 / 3, 1, 2 / 3], [0, 2 / 3, 1]], dtype=torch.float64)
    torch.testing.assert_close(coactivation(*company, tree, 1), expected, atol=1e-6, rtol=0)
    # a served all four tokens, b one of them.
    assert coactivation(*company, tree, 0).tolist() == [[1, 1 / 4], [1, 1]]


def test_a_node_that_served_none_has_no_company() -> None:
    found = coactivation(*rows([[0], [0]]), Tree.from_spec([2]), 0)
    assert found[0].tolist() == [1, 0]
    assert found[1].isnan().all()


def test_distance_by_hand() -> None:
    tree = Tree.from_spec([2, 2])
    assert locality(*rows([[0, 1]]), tree) == 0.5
    assert locality(*rows([[0, 2]]), tree) == 1.0
    # Pairs (0, 1), (0, 2), (1, 2) of one token and (2, 3) of another; the third has none.
    assert locality(*rows([[0, 1, 2], [2, 3], [1]]), tree) == pytest.approx((2 * 0.5 + 2 * 1) / 4)
    assert isnan(locality(*rows([[0], [3]]), tree))
    # The same expert asked for by two heads is no pair.
    assert locality(*rows([[0, 0, 1]]), tree) == 0.5


def test_distance_on_a_ragged_tree_by_hand() -> None:
    # Experts in node order: a, b.c, b.d.0, b.d.1; three levels.
    tree = Tree.from_spec({"a": 1, "b": {"c": 1, "d": 2}})
    pairs = {(0, 1): 1, (0, 2): 1, (1, 2): 2 / 3, (2, 3): 1 / 3}
    for pair, expected in pairs.items():
        assert locality(*rows([list(pair)]), tree) == pytest.approx(expected)
    # All six pairs: a with three others, c with two, the two of d.
    assert random_locality(tree, 2) == pytest.approx((3 * 1 + 2 * 2 / 3 + 1 / 3) / 6)


def test_the_random_distance_of_sixteen_experts_in_a_binary_tree() -> None:
    # From an expert 1, 2, 4 and 8 others are 1/4, 2/4, 3/4 and 1 away: 12.25 / 15 = 49/60.
    tree = Tree.from_spec([2, 2, 2, 2])
    assert random_locality(tree, 4) == pytest.approx(49 / 60)
    assert random_locality(Tree.from_spec([16]), 2) == 1.0
    assert isnan(random_locality(tree, 1))


# ------------------------------------------------------------------ laws


@law
@given(TREES, SEEDS)
def test_distance_is_that_of_walking_from_the_root(tree: Tree, seed: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    num_each = torch.randint(1, 5, (10,), generator=generator).clamp(max=tree.num_experts)
    experts_T = [
        torch.randperm(tree.num_experts, generator=generator)[:num].tolist()
        for num in num_each.tolist()
    ]
    pairs = [pair for experts in experts_T for pair in combinations(experts, 2)]
    if pairs:
        mean = sum(distance(tree, *pair) for pair in pairs) / len(pairs)
        assert locality(*rows(experts_T), tree) == pytest.approx(mean, abs=1e-12)


@law
@given(TREES)
def test_all_experts_of_a_token_are_as_far_apart_as_random_ones(tree: Tree) -> None:
    everyone = rows([list(range(tree.num_experts))])
    assert locality(*everyone, tree) == pytest.approx(random_locality(tree, 2))


@law
@given(TREES, SEEDS)
def test_company_is_counted_token_by_token(tree: Tree, seed: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    experts_T = torch.randint(0, tree.num_experts, (15, 3), generator=generator).tolist()
    for level in range(tree.num_levels):
        cut = tree.cut(level)
        served_T = [{n for n in cut for e in each if n in path(tree, e)} for each in experts_T]
        found = coactivation(*rows(experts_T), tree, level)
        for i, one in enumerate(cut):
            own = [served for served in served_T if one in served]
            for j, other in enumerate(cut):
                if own:
                    share = sum(other in served for served in own) / len(own)
                    assert found[i, j].item() == pytest.approx(share)
                else:
                    assert found[i, j].isnan()


@law
@given(TREES, SEEDS)
def test_shares_of_a_domain_add_up_to_the_experts_of_a_token(tree: Tree, seed: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    counts_CE = torch.randint(1, 9, (3, tree.num_experts), generator=generator)
    assert domain_specialisation(counts_CE, 2).sum(1).tolist() == pytest.approx([2.0] * 3)
    even_CE = domain_specialisation(torch.full_like(counts_CE, 7), 2)
    assert even_CE.unique().tolist() == pytest.approx([2 / tree.num_experts])


# ------------------------------------------------------------------ batches


def test_the_class_is_the_function_of_all_batches_together() -> None:
    tree = Tree.from_spec(SPECS["ragged"])
    first, second = [[0, 3, 4], [1]], [[5, 4], [0, 1]]
    metric = CompanyMetrics(tree=tree, level=1)
    for batch in (first, second):
        metric.update(make_routing(tree, batch))
    company, found = metric.compute()
    together = rows(first + second)
    torch.testing.assert_close(company, coactivation(*together, tree, 1), equal_nan=True)
    assert found == pytest.approx(locality(*together, tree))


def test_the_class_counts_what_was_asked_for() -> None:
    tree = Tree.from_spec([2])
    asked = make_routing(tree, [[0, 1], [0, 1]])
    metric = CompanyMetrics(tree=tree, level=0)
    metric.update(limited(asked, capacity=0.5, drop="order"))
    assert metric.compute()[0].tolist() == [[1, 1], [1, 1]]
    assert metric.counts_ZZ.tolist() == [[2, 2], [2, 2]]
