"""Information: by hand, the chain rule over random trees, chance, and planted roles recovered.

Letters: T tokens, R rows, E experts, C values of a label, Z places.
"""

from math import log, sqrt

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from sklearn.metrics import (
    adjusted_mutual_info_score,
    mutual_info_score,
    normalized_mutual_info_score,
)
from torch import Tensor

from hmoe.layer import Tree
from hmoe.metrics import (
    InformationMetrics,
    agreement,
    ami,
    corrected_p,
    entropy,
    level_counts,
    level_information,
    mutual_information,
    nmi,
    pair_counts,
    permutation_null,
)
from tests.cases import make_routing
from tests.layer.test_laws import SEEDS, TREES, law

EXACT = 1e-9
PERMUTATIONS = 100


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def random_counts(tree: Tree, seed: int, num_values: int) -> Tensor:
    """Rows by value and expert: many cells empty, some very full."""
    size = (num_values, tree.num_experts)
    draw = torch.randint(0, 5, size, generator=generator(seed))
    return draw * 10 ** torch.randint(0, 5, size, generator=generator(seed + 1))


def permuted(
    value_T: Tensor, expert_TK: Tensor, tree: Tree, per_row: int = 1, permutations: int = 100
) -> Tensor:
    token_R = torch.arange(len(value_T)).repeat_interleave(expert_TK.shape[1])
    return permutation_null(
        value_T,
        token_R,
        expert_TK.flatten(),
        tree,
        tokens_per_row=per_row,
        permutations=permutations,
        generator=generator(),
    )


def null_of(
    value_T: Tensor, expert_TK: Tensor, tree: Tree, per_row: int = 1, permutations: int = 100
) -> tuple[Tensor, Tensor]:
    """Mean of the permutations, and p of every level by itself."""
    null_QL = permuted(value_T, expert_TK, tree, per_row, permutations)
    p_L = torch.cat(corrected_p(null_QL.split(1, -1)))
    return null_QL[1:].mean(0), p_L


# ------------------------------------------------------------------ by hand


def test_a_table_by_hand() -> None:
    # Two values, half of the rows each; the first goes to place 0, the second to 0 and 1 alike.
    counts_CZ = torch.tensor([[4, 0], [2, 2]])
    place = 0.75 * log(4 / 3) + 0.25 * log(4)
    found = log(2) + place - (0.5 * log(2) + 2 * 0.25 * log(4))
    assert entropy(counts_CZ.sum(0)).item() == pytest.approx(place)
    assert mutual_information(counts_CZ).item() == pytest.approx(found)
    assert nmi(counts_CZ) == pytest.approx(found / sqrt(place * log(2)))


def test_what_the_department_knows_and_what_its_experts_add() -> None:
    tree = Tree.from_spec([2, 2])
    # Values a and b are told apart by the department, c and d by the experts of the second.
    counts_CE = torch.tensor([[2, 2, 0, 0], [0, 0, 2, 2]])
    assert level_information(counts_CE, tree).tolist() == pytest.approx([log(2), 0], abs=EXACT)
    counts_CE = torch.tensor([[4, 4, 0, 0], [0, 0, 4, 0], [0, 0, 0, 4]])
    # H(label) = 1/2 ln 2 + 2/4 ln 4 = 1.5 ln 2; the department tells ln 2 of it.
    expected = [log(2), 0.5 * log(2)]
    assert level_information(counts_CE, tree).tolist() == pytest.approx(expected)


def test_rows_are_counted_by_value_and_place() -> None:
    value_R, place_R = torch.tensor([0, 2, 2, 2]), torch.tensor([1, 0, 0, 1])
    assert pair_counts(value_R, place_R, 3, 2).tolist() == [[0, 1], [0, 0], [2, 1]]


def test_nothing_is_told_by_or_of_what_is_constant() -> None:
    for counts_CZ in ([[5, 3]], [[5], [3]], [[0, 0], [0, 0]], [[4, 0], [2, 0]]):
        table = torch.tensor(counts_CZ)
        assert mutual_information(table).item() == pytest.approx(0.0, abs=EXACT)
        assert nmi(table) == ami(table) == 0.0


def test_agreement_is_about_groups_and_not_about_their_numbers() -> None:
    one_T = torch.tensor([0, 0, 1, 1, 2, 2, -1, 0])
    renamed_T = torch.tensor([7, 7, 0, 0, 3, 3, 3, -1])  # the last two have no partner
    assert agreement(one_T, renamed_T) == pytest.approx(1.0)
    assert agreement(one_T, torch.full_like(one_T, -1)) == 0.0
    # Every pair of groups meets once in 3 x 3 tokens: less alike than by chance.
    one_T = torch.arange(3).repeat_interleave(3)
    assert agreement(one_T, torch.arange(3).repeat(3)) < 0


# ------------------------------------------------------------------ laws


@law
@given(TREES, SEEDS, st.integers(1, 6))
def test_levels_add_up_to_what_the_expert_tells(tree: Tree, seed: int, num_values: int) -> None:
    counts_CE = random_counts(tree, seed, num_values)
    found = level_information(counts_CE, tree)
    assert found.sum().item() == pytest.approx(mutual_information(counts_CE).item(), abs=EXACT)
    assert (found > -EXACT).all()


@law
@given(TREES, SEEDS)
def test_a_level_adds_the_information_among_the_children_of_each_unit(
    tree: Tree, seed: int
) -> None:
    """The definition: sum over the nodes v above of P(v) I(label; child | v)."""
    counts_CE = random_counts(tree, seed, 3)
    total = counts_CE.sum()
    if total == 0:
        return
    expected = [mutual_information(level_counts(counts_CE, tree, 0)).item()]
    for level in range(1, tree.num_levels):
        counts_CZ, added = level_counts(counts_CE, tree, level), 0.0
        cut = tree.cut(level)
        for unit in tree.inner_levels[level - 1]:
            own = [place for place, node in enumerate(cut) if tree.parent_N[node] == unit]
            inside = counts_CZ[:, own]
            added += (mutual_information(inside) * inside.sum() / total).item()
        expected.append(added)
    assert level_information(counts_CE, tree).tolist() == pytest.approx(expected, abs=EXACT)


@law
@given(SEEDS, st.integers(2, 5), st.integers(2, 5))
def test_the_measures_are_those_of_scikit_learn(seed: int, num_values: int, places: int) -> None:
    value_R = torch.randint(0, num_values, (60,), generator=generator(seed))
    place_R = torch.randint(0, places, (60,), generator=generator(seed + 1)).minimum(value_R)
    counts_CZ = pair_counts(value_R, place_R, num_values, places)
    pair = value_R.numpy(), place_R.numpy()
    assert mutual_information(counts_CZ).item() == pytest.approx(mutual_info_score(*pair))
    expected = normalized_mutual_info_score(*pair, average_method="geometric")
    assert nmi(counts_CZ) == pytest.approx(expected)
    expected = adjusted_mutual_info_score(*pair, average_method="geometric")
    assert ami(counts_CZ) == pytest.approx(expected)


@law
@given(TREES, SEEDS)
def test_the_null_of_a_label_with_one_value_is_nothing(tree: Tree, seed: int) -> None:
    expert_TK = torch.randint(0, tree.num_experts, (20, 2), generator=generator(seed))
    null_L, p_L = null_of(torch.zeros(20, dtype=torch.int64), expert_TK, tree)
    assert null_L.abs().max().item() < EXACT
    assert p_L.tolist() == [1.0] * tree.num_levels


# ------------------------------------------------------------------ chance


def test_a_permutation_by_hand() -> None:
    # Two tokens in two places: any order of two labels tells all, so chance gives as much.
    null_L, p_L = null_of(torch.tensor([0, 1]), torch.tensor([[0], [1]]), Tree.from_spec([2]))
    assert null_L.tolist() == pytest.approx([log(2)])
    assert p_L.tolist() == [1.0]


def test_all_permutations_of_four_tokens() -> None:
    # Labels a a b b, places 0 0 1 1: of the 6 orders 2 tell all, ln 2, the other 4 nothing.
    value_T, expert_TK = torch.tensor([0, 0, 1, 1]), torch.tensor([[0], [0], [1], [1]])
    null_L, p_L = null_of(value_T, expert_TK, Tree.from_spec([2]), permutations=3000)
    # The share is 1/3 with a standard error of sqrt(2/9 / 3000) = 0.0086.
    assert null_L.item() == pytest.approx(log(2) / 3, abs=0.02)
    assert p_L.item() == pytest.approx(1 / 3, abs=0.03)


def test_on_random_routing_information_is_its_null(tree: Tree) -> None:
    value_T = torch.randint(0, 20, (2000,))
    expert_TK = torch.stack([torch.randperm(tree.num_experts)[:2] for _ in range(2000)])
    null_L, p_L = null_of(value_T, expert_TK, tree)
    counts_CE = pair_counts(value_T.repeat_interleave(2), expert_TK.flatten(), 20, tree.num_experts)
    found_L = level_information(counts_CE, tree)
    # Four standard deviations of the widest level, 8 experts, over 60 draws of this.
    assert (found_L - null_L).abs().max() < 0.007
    # What is taken off is more than a rounding: 19 (nodes - 1) / (2 tokens) where one is chosen.
    assert null_L.sum() > 0.005
    assert (p_L > 0.005).all()
    for level in range(tree.num_levels):
        assert abs(ami(level_counts(counts_CE, tree, level))) < 0.005


def test_the_rows_of_a_token_are_permuted_together() -> None:
    """Two rows a token that say the same are one observation: the bias is that of the tokens."""
    tree = Tree.from_spec([8])
    value_T, expert_T = torch.randint(0, 10, (500,)), torch.randint(0, 8, (500,))
    once_L, _ = null_of(value_T, expert_T[:, None], tree)
    twice_L, _ = null_of(value_T, expert_T[:, None].repeat(1, 2), tree)
    assert twice_L.tolist() == pytest.approx(once_L.tolist())
    assert once_L.item() == pytest.approx(9 * 7 / (2 * 500), rel=0.1)  # Miller 1955


def test_windows_are_permuted_as_a_whole() -> None:
    """Four windows of three tokens, labels a a b b, places 0 0 1 1: as four tokens would be."""
    value_T, expert_TK = torch.tensor([0, 0, 1, 1]), torch.tensor([[0], [0], [1], [1]])
    tree = Tree.from_spec([2])
    windows_QL = permuted(value_T.repeat_interleave(3), expert_TK.repeat_interleave(3, 0), tree, 3)
    torch.testing.assert_close(windows_QL, permuted(value_T, expert_TK, tree))
    # By token it would seem that chance rarely tells ln 2: 2 of 12! / 6!^2 orders.
    by_token_L, _ = null_of(value_T.repeat_interleave(3), expert_TK.repeat_interleave(3, 0), tree)
    assert by_token_L.item() < 0.1 < windows_QL.mean().item()


def test_a_label_that_changes_in_a_window_keeps_its_order() -> None:
    """Two windows, labels a b and c c, the last token of the first alone at place 1."""
    value_T, expert_TK = torch.tensor([0, 1, 2, 2]), torch.tensor([[0], [1], [0], [0]])
    found_Q1 = permuted(value_T, expert_TK, Tree.from_spec([2]), 2)
    # As it is H(place) is told in full. Swapped, c c | a b: place 1 has one of the two c, and what
    # is left of H(place), 1/2 of the tokens being c, is 1/2 ln 2.
    place = 0.75 * log(4 / 3) + 0.25 * log(4)
    expected = {round(place, 9), round(place - 0.5 * log(2), 9)}
    assert {round(x, 9) for x in found_Q1.flatten().tolist()} == expected
    assert found_Q1[0].item() == pytest.approx(place)


@law
@given(TREES, SEEDS, st.integers(1, 4), st.integers(1, 3))
def test_a_permuted_table_is_the_information_of_permuted_labels(
    tree: Tree, seed: int, per_row: int, k: int
) -> None:
    """The fast way of counting is the definition, permutation by permutation."""
    draws = generator(seed)
    value_T = torch.randint(0, 3, (6 * per_row,), generator=draws)
    expert_TK = torch.randint(0, tree.num_experts, (6 * per_row, k), generator=draws)
    found_QL = permuted(value_T, expert_TK, tree, per_row, permutations=3)
    same = generator()
    orders = [torch.arange(6)] + [torch.randperm(6, generator=same) for _ in range(3)]
    for found_L, order_W in zip(found_QL, orders, strict=True):
        value_R = value_T.view(6, per_row)[order_W].flatten().repeat_interleave(k)
        counts_CE = pair_counts(value_R, expert_TK.flatten(), 3, tree.num_experts)
        torch.testing.assert_close(found_L, level_information(counts_CE, tree))


def test_p_for_a_family_by_hand() -> None:
    """Two questions, four draws; the second has the larger deviation in the third draw only."""
    first_Q1 = torch.tensor([[3.0], [0.0], [0.0], [0.0]]).double()
    second_Q1 = torch.tensor([[2.0], [1.0], [3.0], [2.0]]).double()
    steady_Q1 = torch.full((4, 1), 0.7).double()
    # Deviations: sqrt(3) and -1/sqrt(3); 0, -sqrt(2), sqrt(2), 0.
    p = corrected_p([first_Q1, torch.cat([second_Q1, steady_Q1], 1)])
    assert [p_L.tolist() for p_L in p] == [[0.25], [0.75, 1.0]]


@law
@given(SEEDS, st.integers(1, 5), st.integers(1, 4))
def test_who_asks_twice_pays_once_and_who_asks_more_pays_more(
    seed: int, levels: int, more: int
) -> None:
    draws = generator(seed)
    null_QL, more_QL = (torch.rand(40, n, generator=draws).double() for n in (levels, more))
    (alone_L,) = corrected_p([null_QL])
    twice_L, again_L = corrected_p([null_QL, 3 * null_QL + 1])  # units do not matter
    assert twice_L.equal(alone_L)
    assert again_L.equal(alone_L)
    assert (corrected_p([null_QL, more_QL])[0] >= alone_L).all()


def test_chance_is_seldom_taken_for_knowledge_of_anything() -> None:
    """Of 400 families without truth 20 have some p of 0.05 or less, give or take 4.4."""
    tree, false = Tree.from_spec([2, 2]), 0
    for _ in range(400):
        labels = [torch.randint(0, 3, (30,)) for _ in range(2)]
        layers = [torch.randint(0, 4, (30, 1)) for _ in range(4)]
        nulls = [permuted(value_T, expert_TK, tree) for value_T in labels for expert_TK in layers]
        false += min(p_L.min().item() for p_L in corrected_p(nulls)) <= 0.05
    assert 7 <= false <= 33  # three deviations


# ------------------------------------------------------------------ planted


def test_roles_planted_in_departments_are_found_there_and_nowhere_else() -> None:
    tree = Tree.from_spec([4, 4])
    value_T = torch.randint(0, 4, (4000,))
    noisy_T = torch.where(torch.rand(4000) < 0.01, torch.randint(0, 4, (4000,)), value_T)
    expert_TK = (noisy_T * 4 + torch.randint(0, 4, (4000,)))[:, None]
    null_L, p_L = null_of(value_T, expert_TK, tree)
    counts_CE = pair_counts(value_T, expert_TK.flatten(), 4, 16)
    net_L = level_information(counts_CE, tree) - null_L
    assert ami(level_counts(counts_CE, tree, 0)) > 0.9
    assert net_L[0] > 0.9 * log(4)
    assert abs(net_L[1]) < 0.01
    assert p_L[0] == pytest.approx(1 / (PERMUTATIONS + 1))
    assert p_L[1] > 0.005


def test_roles_planted_in_teams_are_found_among_teams() -> None:
    """The place inside the department tells the label, the department nothing."""
    tree = Tree.from_spec({name: 3 for name in ("web", "data")})
    value_T = torch.randint(0, 3, (4000,))
    expert_TK = (torch.randint(0, 2, (4000,)) * 3 + value_T)[:, None]
    null_L, p_L = null_of(value_T, expert_TK, tree)
    counts_CE = pair_counts(value_T, expert_TK.flatten(), 3, 6)
    net_L = level_information(counts_CE, tree) - null_L
    assert abs(net_L[0]) < 0.01
    assert net_L[1] == pytest.approx(log(3), abs=0.01)
    assert (p_L[0] > 0.005, p_L[1] < 0.01) == (True, True)


# ------------------------------------------------------------------ batches


def test_the_class_is_the_function_of_all_batches_together() -> None:
    tree = Tree.from_spec({"a": 1, "b": 2})
    metric = InformationMetrics(tree=tree, num_values=2)
    metric.update(make_routing(tree, [[0, 1], [1]]), torch.tensor([0, 1]))
    metric.update(make_routing(tree, [[0], [2]]), torch.tensor([0, 1]))
    counts_CE = torch.tensor([[2, 1, 0], [0, 1, 1]])
    assert metric.counts_CE.equal(counts_CE)
    found = metric.compute()
    for level, added in enumerate(level_information(counts_CE, tree).tolist()):
        cut = level_counts(counts_CE, tree, level)
        assert found[f"information/level_{level}"] == added
        assert found[f"ami/level_{level}"] == ami(cut)
        assert found[f"nmi/level_{level}"] == nmi(cut)
    assert len(found) == 6


def test_rows_of_a_group_are_one_piece_of_evidence() -> None:
    """Experts and labels are drawn group by group, apart from each other: nobody knows anything."""
    tree, group_W = Tree.from_spec([4]), torch.arange(20).repeat_interleave(30)
    found: dict[bool, list[bool]] = {True: [], False: []}
    for seed in range(40):
        draw = torch.randint(0, 4, (2, 20), generator=generator(seed))
        expert_R, value_T = draw[:, group_W]
        for grouped in found:
            null_QL = permutation_null(
                value_T,
                torch.arange(600),
                expert_R,
                tree,
                tokens_per_row=1,
                permutations=99,
                generator=generator(),
                group_W=group_W * 7 if grouped else None,  # any numbers
            )
            found[grouped].append(corrected_p([null_QL])[0].item() <= 0.05)
    assert sum(found[False]) == 40
    assert sum(found[True]) <= 5  # 2 in the mean


def test_a_label_that_changes_within_a_group_is_permuted_row_by_row() -> None:
    value_T = torch.randint(0, 3, (60,), generator=generator(1))
    words = {"tokens_per_row": 1, "permutations": 20}
    apart, grouped = (
        permutation_null(
            value_T,
            torch.arange(60),
            torch.randint(0, 4, (60,), generator=generator(2)),
            Tree.from_spec([2, 2]),
            **words,
            generator=generator(),
            group_W=group_W,
        )
        for group_W in (None, torch.arange(60) // 6)
    )
    assert torch.equal(apart, grouped)
