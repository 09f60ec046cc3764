"""Stability: overlaps by hand, against sets of Python, and laws over trees."""

from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from hmoe.layer import Routing, Tree
from hmoe.layer.capacity import limited
from hmoe.metrics import NONE, cut_shares, heaviest, nodes_at, overlap, overlaps
from tests.cases import DIM, SELECTIONS, TREES, make_layer, make_routing

NUMBERS = st.lists(st.integers(NONE, 5), min_size=3, max_size=3)


def routed(rows: list[tuple[int, int, float]], num_tokens: int, num_experts: int) -> Routing:
    """A routing of these rows (token, expert, weight)."""
    scores = make_routing(Tree.from_spec([num_experts]), [[0]] * num_tokens).scores
    token, expert, weight = zip(*rows, strict=True)
    return Routing(scores, torch.tensor(token), torch.tensor(expert), torch.tensor(weight))


# ------------------------------------------------------------------ by hand


def test_the_heaviest_expert_by_hand() -> None:
    """Token 0 has equals, token 1 has no row, token 2 has its heaviest last."""
    rows = [(0, 3, 0.5), (0, 1, 0.5), (2, 0, 0.1), (2, 2, 0.2)]
    assert heaviest(routed(rows, 4, 4)).tolist() == [3, NONE, 2, NONE]


def test_overlap_by_hand() -> None:
    one = torch.tensor([[0, 1], [2, 2], [3, NONE], [NONE, NONE], [NONE, NONE], [4, 5]])
    two = torch.tensor([[1, 0], [2, 3], [3, NONE], [NONE, NONE], [1, 2], [0, 1]])
    # Equal sets, half of the larger one, equal, left out, nothing of something, nothing in common.
    assert overlap(one, two).item() == pytest.approx((1 + 0.5 + 1 + 0 + 0) / 5)
    nothing = torch.full((3, 2), NONE)
    assert overlap(nothing, nothing).item() == 1.0


def test_a_token_may_change_its_team_and_keep_its_department() -> None:
    """sales.emea.0 is expert 3: levels are legal, sales.emea's; see the numbers of the tree."""
    tree = Tree.from_spec({"sales": {"emea": 2, "us": 2}, "legal": 1})
    assert [tree.path_N[n] for n in tree.node_E] == [
        *("legal", "sales.emea.0", "sales.emea.1", "sales.us.0", "sales.us.1")
    ]
    before, now = torch.tensor([[1], [1], [1], [0]]), torch.tensor([[2], [3], [0], [0]])
    # Another expert of the team; of the department; of another department; none other.
    assert overlaps(before, now, tree) == {
        "level_0": 0.75,
        "level_1": 0.5,
        "level_2": 0.25,
        "expert": 0.25,
    }


def test_rows_that_a_capacity_took_away_were_chosen_all_the_same() -> None:
    asked = make_routing(Tree.from_spec([2]), [[0], [0], [0], [1]])
    kept = limited(asked, capacity=[1.0], drop="order")
    assert len(kept.token_R) < 4
    assert heaviest(kept.before_drops).tolist() == [0, 0, 0, 1]


# ------------------------------------------------------------------ laws


@settings(max_examples=100, deadline=None)
@given(st.lists(st.tuples(NUMBERS, NUMBERS), min_size=1, max_size=6))
def test_overlap_is_that_of_sets_and_the_same_either_way(pairs: list[Any]) -> None:
    one, other = (torch.tensor(side) for side in zip(*pairs, strict=True))
    shares = []
    for a, b in pairs:
        mine, theirs = set(a) - {NONE}, set(b) - {NONE}
        if mine or theirs:
            shares.append(len(mine & theirs) / max(len(mine), len(theirs)))
    expected = sum(shares) / len(shares) if shares else 1.0
    assert overlap(one, other).item() == pytest.approx(expected)
    assert overlap(other, one).item() == pytest.approx(expected)
    assert overlap(one, other[:, :1]).item() == pytest.approx(
        overlap(one, other[:, :1].repeat(1, 3)).item()
    )


@pytest.mark.parametrize("tree", TREES)
def test_one_choice_settles_from_the_top_down(tree: str) -> None:
    """Who keeps the expert keeps its unit, so that upper levels overlap at least as much."""
    made = Tree.from_spec(TREES[tree])
    one, other = torch.randint(made.num_experts, (2, 200, 1))
    found = list(overlaps(one, other, made).values())
    assert found == sorted(found, reverse=True)
    assert found[-1] == (one == other).double().mean().item()
    assert set(overlaps(one, one, made).values()) == {1.0}


@pytest.mark.parametrize("tree", TREES)
def test_nodes_of_a_cut_are_those_by_which_load_is_counted(tree: str) -> None:
    made = Tree.from_spec(TREES[tree])
    expert_TK = torch.arange(made.num_experts).unsqueeze(-1)
    for level in range(made.num_levels):
        node = nodes_at(expert_TK, made, level).flatten()
        counts = torch.stack([(node == n).sum() for n in made.cut(level)])
        _, even_C = cut_shares(torch.ones(made.num_experts, dtype=torch.int64), made, level)
        torch.testing.assert_close(counts / made.num_experts, even_C.float())


@pytest.mark.parametrize("selection", SELECTIONS)
def test_the_heaviest_expert_is_that_of_a_loop_over_rows(selection: str) -> None:
    layer = make_layer("ragged", selection)
    routing = layer(torch.randn(40, DIM))[1]
    best: dict[int, tuple[float, int]] = {}
    rows = (routing.token_R, routing.expert_R, routing.weight_R)
    for token, expert, weight in zip(*(value.tolist() for value in rows), strict=True):
        if token not in best or weight > best[token][0]:
            best[token] = (weight, expert)
    expected = [best[token][1] if token in best else NONE for token in range(40)]
    assert heaviest(routing).tolist() == expected
