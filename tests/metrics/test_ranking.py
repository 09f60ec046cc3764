"""Ranking: NDCG and areas by hand, beside torchmetrics and scikit-learn; warm and cold users."""

from math import log2, sqrt

import numpy as np
import pytest
import torch
from sklearn.metrics import ndcg_score, roc_auc_score
from torchmetrics.retrieval import RetrievalNormalizedDCG

from hmoe.metrics import area_under_roc, ndcg_of_users, rating_scores


def test_an_area_is_the_share_of_pairs_in_order() -> None:
    """Of yes 3 and 1 over no 2, 1 and 0: 3 beats three; 1 beats one and is equal to one."""
    score, yes = np.array([3.0, 1, 2, 1, 0]), np.array([True, True, False, False, False])
    assert area_under_roc(score, yes) == pytest.approx((3 + 1 + 1 / 2) / 6)
    assert area_under_roc(-score, yes) == pytest.approx(1 - (3 + 1 + 1 / 2) / 6)


def test_an_area_of_scores_that_are_no_numbers_is_none() -> None:
    assert np.isnan(area_under_roc(np.array([1.0, np.nan, 2]), np.array([True, False, False])))


def test_an_area_is_that_of_scikit_learn_with_ties() -> None:
    draw = np.random.RandomState(2)
    score, yes = draw.randint(0, 9, 200).astype(float), draw.rand(200) < 0.2
    assert area_under_roc(score, yes) == pytest.approx(roc_auc_score(yes, score), rel=1e-12)


def test_one_user_by_hand() -> None:
    """Gains 1, 3, 2 in the order of prediction; the best order is 3, 2, 1."""
    users, value = ndcg_of_users(np.array([9.0, 5, 1]), np.array([1.0, 3, 2]), np.zeros(3, int), 10)
    got, best = 1 + 3 / log2(3) + 2 / 2, 3 + 2 / log2(3) + 1 / 2
    assert users.tolist() == [0]
    assert value == pytest.approx([got / best])


def test_beyond_k_nothing_counts() -> None:
    _, value = ndcg_of_users(np.array([9.0, 5, 1]), np.array([1.0, 3, 2]), np.zeros(3, int), 1)
    assert value == pytest.approx([1 / 3])


def test_equal_predictions_share_their_places() -> None:
    """Gains 1 and 3 in one tie: 2 at each of both places."""
    _, value = ndcg_of_users(np.zeros(2), np.array([1.0, 3]), np.zeros(2, int), 10)
    assert value == pytest.approx([(2 + 2 / log2(3)) / (3 + 1 / log2(3))])


def test_users_are_apart_and_ascending() -> None:
    predicted, gain = np.array([1.0, 2, 2, 1]), np.array([4.0, 1, 4, 1])
    users, value = ndcg_of_users(predicted, gain, np.array([7, 7, 3, 3]), 10)
    assert users.tolist() == [3, 7]
    assert value == pytest.approx([1.0, (1 + 4 / log2(3)) / (4 + 1 / log2(3))])


def test_a_user_without_gain_has_none() -> None:
    _, value = ndcg_of_users(np.array([1.0, 2]), np.zeros(2), np.zeros(2, int), 10)
    assert value.tolist() == [0.0]


@pytest.mark.parametrize("k", [1, 3, 10])
def test_it_is_that_of_torchmetrics_where_nothing_ties(k: int) -> None:
    draw = np.random.RandomState(0)
    user, gain = draw.randint(0, 9, 100), draw.randint(1, 11, 100) / 2
    predicted = draw.permutation(100).astype(float)
    metric = RetrievalNormalizedDCG(top_k=k)
    metric.update(torch.from_numpy(predicted), torch.from_numpy(gain), torch.from_numpy(user))
    found = ndcg_of_users(predicted, gain, user, k)[1].mean()
    assert found == pytest.approx(metric.compute().item(), rel=1e-5)


@pytest.mark.parametrize("k", [1, 3, 10])
def test_it_is_that_of_scikit_learn_with_ties(k: int) -> None:
    draw = np.random.RandomState(1)
    user, gain = np.repeat(np.arange(5), 12), draw.randint(1, 6, 60).astype(float)
    predicted = draw.randint(0, 4, 60).astype(float)
    expected = [
        ndcg_score(gain[user == u][None], predicted[user == u][None], k=k) for u in range(5)
    ]
    assert ndcg_of_users(predicted, gain, user, k)[1] == pytest.approx(expected)


def test_scores_of_warm_and_cold_users_by_hand() -> None:
    predicted, rating = np.array([1.0, 2, 3]), np.array([2.0, 2, 5])
    user, cold = np.array([0, 0, 1]), np.array([False, False, True])
    scores = rating_scores(predicted, rating, user, cold, k=10)
    assert scores["rmse"] == pytest.approx(sqrt(5 / 3))
    assert scores["rmse/warm"] == pytest.approx(sqrt(1 / 2))
    assert scores["rmse/cold"] == pytest.approx(2.0)
    assert (scores["ndcg"], scores["ndcg/warm"], scores["ndcg/cold"]) == (1.0, 1.0, 1.0)


def test_without_cold_users_nothing_is_said_of_them() -> None:
    scores = rating_scores(np.ones(2), np.ones(2), np.zeros(2, int), np.zeros(2, bool), k=10)
    assert set(scores) == {"rmse", "ndcg", "rmse/warm", "ndcg/warm"}
