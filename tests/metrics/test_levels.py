"""Decompositions: by hand, and laws over random trees: levels add up to the measures of experts."""

from math import log

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from hmoe.layer import Tree
from hmoe.layer.tree_ops import sum_below
from hmoe.metrics import decompose, level_counts, level_statistics, place_at_cut
from tests.layer.test_laws import TREES, law

EXACT = 1e-9


def parts(spec: object, loads: list[int]) -> dict[str, list[float]]:
    found = decompose(torch.tensor(loads), Tree.from_spec(spec))
    return {name: part_L.tolist() for name, part_L in found.items()}


@st.composite
def loaded_trees(draw: st.DrawFn) -> tuple[Tree, Tensor]:
    """A tree and the rows of its experts, at least one; many of them idle, some overloaded."""
    tree = draw(TREES)
    rows = st.integers(0, 3) | st.integers(0, 10**6)
    loads = draw(st.lists(rows, min_size=tree.num_experts, max_size=tree.num_experts).filter(any))
    return tree, torch.tensor(loads)


# ------------------------------------------------------------------ by hand


def test_departments_and_their_experts_by_hand() -> None:
    # Departments 3/4 and 1/4, inside them 2:1 and 1:0. Experts 1/2, 1/4, 1/4, 0, each 1/4 if even.
    found = parts([2, 2], [2, 1, 1, 0])
    departments = 0.75 * log(1.5) + 0.25 * log(0.5)
    experts = 0.75 * (2 / 3 * log(4 / 3) + 1 / 3 * log(2 / 3)) + 0.25 * log(2)
    assert found["kl"] == pytest.approx([departments, experts])
    # Ratios of departments 1.5 and 0.5; of experts 2, 1 about 1.5 and 1, 0 about 0.5.
    assert found["cv2"] == pytest.approx([0.25, 0.25])
    # The busiest expert: its department has 3/2 of its even load, itself 4/3 of that.
    assert found["violation"] == pytest.approx([log(3 / 2), log(4 / 3)])


def test_what_is_uneven_at_one_level_is_told_at_that_level_alone() -> None:
    zero = pytest.approx(0.0, abs=1e-12)
    for above in parts([2, 2], [3, 3, 1, 1]).values():
        assert above[0] > 0.1
        assert above[1] == zero
    for below in parts([2, 2], [3, 1, 3, 1]).values():
        assert below[0] == zero
        assert below[1] > 0.1


def test_a_ragged_tree_by_hand() -> None:
    # solo 1/2 of the rows and 1/4 of the experts; team 1/2 and 3/4, inside it 2:1:1 of thirds.
    found = parts({"solo": 1, "team": 3}, [4, 2, 1, 1])
    assert found["kl"] == pytest.approx(
        [0.5 * log(2) + 0.5 * log(2 / 3), 0.5 * (0.5 * log(1.5) + 0.5 * log(0.75))]
    )
    # Ratios 2 and 2/3; of the team's experts 1, 1/2, 1/2, a quarter of all each.
    assert found["cv2"] == pytest.approx(
        [0.25 * 1 + 0.75 / 9, 0.25 * (1 / 9 + 1 / 36 + 1 / 36)], abs=1e-12
    )
    # The busiest expert is on level 0; nothing below it is on its path.
    assert found["violation"] == pytest.approx([log(2), 0.0])


def test_the_busiest_expert_may_be_in_an_idle_department() -> None:
    # Departments of 2 and 4 with 4 and 6 rows of 10: the busiest expert has 5 of the 6.
    found = parts({"a": 2, "b": 4}, [2, 2, 5, 1, 0, 0])
    assert found["violation"] == pytest.approx([log(0.6 / (4 / 6)), log(5 / 6 * 4)])
    assert found["violation"][0] < 0


def test_without_rows_nothing_is_told(tree: Tree) -> None:
    for part_L in decompose(torch.zeros(tree.num_experts, dtype=torch.int64), tree).values():
        assert part_L.isnan().all()
        assert part_L.shape == (tree.num_levels,)


def test_places_in_a_cut_by_hand() -> None:
    # Experts in node order: a, b.c, b.d.0, b.d.1. The cut at level 1 is a, b.c, b.d.
    tree = Tree.from_spec({"a": 1, "b": {"c": 1, "d": 2}})
    places = [place_at_cut(tree, level, torch.device("cpu")).tolist() for level in range(3)]
    assert places == [[0, 1, 1, 1], [0, 1, 2, 2], [0, 1, 2, 3]]
    assert level_counts(torch.tensor([1, 2, 3, 4]), tree, 1).tolist() == [1, 2, 7]


# ------------------------------------------------------------------ laws


@law
@given(loaded_trees())
def test_levels_add_up_to_the_measures_of_experts(case: tuple[Tree, Tensor]) -> None:
    tree, load_E = case
    found = {name: part_L.sum().item() for name, part_L in decompose(load_E, tree).items()}
    share_E = load_E.double() / load_E.sum()
    ratio_E = share_E * tree.num_experts
    assert found["kl"] == pytest.approx(share_E.xlogy(ratio_E).sum().item(), abs=EXACT)
    assert found["cv2"] == pytest.approx((ratio_E - 1).square().mean().item(), abs=EXACT, rel=EXACT)
    assert found["violation"] == pytest.approx(ratio_E.max().log().item(), abs=EXACT)
    statistics = level_statistics(load_E, tree)
    assert found["cv2"] == pytest.approx(statistics["cv"][-1] ** 2, abs=EXACT, rel=EXACT)
    assert found["violation"] == pytest.approx(log(1 + statistics["max_violation"][-1]))


@law
@given(loaded_trees())
def test_the_levels_down_to_a_cut_add_up_to_its_measures(case: tuple[Tree, Tensor]) -> None:
    tree, load_E = case
    found = decompose(load_E, tree)
    statistics = level_statistics(load_E, tree)
    for level in range(tree.num_levels):
        kl = -log(statistics["effective"][level])
        assert found["kl"][: level + 1].sum().item() == pytest.approx(kl, abs=EXACT)
        cv2 = statistics["cv"][level] ** 2
        assert found["cv2"][: level + 1].sum().item() == pytest.approx(cv2, abs=EXACT, rel=EXACT)


@law
@given(loaded_trees())
def test_a_level_is_the_sum_of_divergences_among_siblings(case: tuple[Tree, Tensor]) -> None:
    """The definition: sum over parents of F_v KL(f_.|v || u_.|v), group by group."""
    tree, load_E = case
    load_N, below_N = sum_below(load_E, tree).double(), tree.num_below_N
    expected = [0.0] * tree.num_levels
    for parent in {*tree.parent_N}:
        group = [n for n in range(tree.num_nodes) if tree.parent_N[n] == parent]
        f_b = load_N[group] / load_N[group].sum().clamp(min=1)
        u_b = torch.tensor([below_N[n] for n in group]).double()
        divergence = f_b.xlogy(f_b / (u_b / u_b.sum())).sum()
        share = load_N[group].sum() / load_E.sum()
        expected[tree.level_N[group[0]]] += (share * divergence).item()
    assert decompose(load_E, tree)["kl"].tolist() == pytest.approx(expected, abs=EXACT)


@law
@given(loaded_trees())
def test_no_level_takes_divergence_or_variance_away(case: tuple[Tree, Tensor]) -> None:
    found = decompose(case[1], case[0])
    assert (found["kl"] >= -EXACT).all()
    assert (found["cv2"] >= 0).all()


@law
@given(TREES, st.integers(1, 10**6))
def test_even_load_is_even_on_every_level(tree: Tree, rows: int) -> None:
    for part_L in decompose(torch.full((tree.num_experts,), rows), tree).values():
        assert part_L.abs().max().item() < EXACT
