"""Recall of a search: by hand, and of greedy descent beside the exact choice."""

from math import isnan

import pytest
import torch

from hmoe.layer import Tree
from hmoe.layer.tree_ops import sibling_softmax
from hmoe.metrics import RecallMetrics, recall
from tests.cases import best, choice_of, given


def test_recall_by_hand() -> None:
    exact = torch.tensor([[0, 1], [2, 3], [4, -1]])
    assert recall(exact, exact) == 1.0
    assert recall(exact.flip(1), exact) == 1.0  # in any order
    # 1 of 2, 0 of 2, 1 of 1; what a search finds beyond does not count, nor that it found none.
    found = torch.tensor([[1, 5, 6], [-1, -1, -1], [7, 4, 3]])
    assert recall(found, exact) == pytest.approx(2 / 5)
    assert isnan(recall(found, torch.full_like(exact, -1)))


def test_greedy_descent_misses_the_best_expert_of_a_department_it_does_not_enter() -> None:
    tree = Tree.from_spec([2, 2])
    # Joint: 0.6 * 0.5 twice in the first department, 0.4 * 0.9 in the second.
    probs_TN = torch.tensor([[0.6, 0.4, 0.5, 0.5, 0.9, 0.1], [0.9, 0.1, 0.8, 0.2, 0.5, 0.5]])
    scores, choice = given(tree, probs_TN), choice_of(tree, probs_TN)
    exact = best(1)(scores, choice).expert_R[:, None]
    greedy = best(1, beam=1)(scores, choice).expert_R[:, None]
    assert exact.tolist() == [[2], [0]]
    assert recall(greedy, exact) == 0.5


def test_recall_grows_with_the_beam_up_to_one() -> None:
    tree = Tree.from_spec([4, 2, 2])
    probs_TN = sibling_softmax(torch.randn(200, tree.num_nodes), tree)
    scores, choice = given(tree, probs_TN), choice_of(tree, probs_TN)
    exact = best(1)(scores, choice).expert_R[:, None]
    found = [recall(best(1, beam=b)(scores, choice).expert_R[:, None], exact) for b in (1, 2, 8)]
    assert found == sorted(found)
    assert 0.5 < found[0] < 1
    assert found[-1] == 1.0


def test_the_class_is_the_function_of_all_batches_together() -> None:
    exact, found = torch.tensor([[0, 1], [2, 3], [4, 5]]), torch.tensor([[0, 2], [3, 2], [6, 7]])
    metric = RecallMetrics()
    metric.update(found[:1], exact[:1])
    metric.update(found[1:], exact[1:])
    assert metric.compute() == recall(found, exact) == 0.5
