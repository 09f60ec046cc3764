"""Measures of values: errors in their own units, and ratings however they fall into batches."""

from math import sqrt

import numpy as np
import pytest
import torch

from hmoe.training.measures import RatingScores, RootMeanSquare


def test_errors_are_told_in_the_units_of_the_targets() -> None:
    """Errors of 1, 0 and 2 deviations of 10 each, in batches of two and one."""
    measure = RootMeanSquare(units=lambda: np.array([10.0]))
    for _ in range(2):  # a second pass begins anew
        measure.reset()
        measure.update(torch.tensor([[1.0], [2.0]]), {"y": torch.tensor([[0.0], [2.0]])})
        measure.update(torch.tensor([[0.0]]), {"y": torch.tensor([[2.0]])})
        assert measure.compute() == {"rmse": pytest.approx(10 * sqrt(5 / 3))}


def test_ratings_are_scored_as_they_were_given() -> None:
    """The mean 3 is taken off: answers of -1, 0 and 2 say 2, 3 and 5."""
    measure = RatingScores(places=10)
    rating = torch.tensor([2.0, 4.0, 5.0])
    batch = {
        "y": (rating - 3)[:, None],
        "rating": rating,
        "user": torch.tensor([0, 0, 1]),
        "cold": torch.tensor([False, False, True]),
    }
    measure.update(torch.tensor([[-1.0], [0.0]]), {k: v[:2] for k, v in batch.items()})
    measure.update(torch.tensor([[2.0]]), {k: v[2:] for k, v in batch.items()})
    scores = measure.compute()
    assert scores["rmse"] == pytest.approx(sqrt(1 / 3))
    assert scores["rmse/cold"] == pytest.approx(0)
    assert scores["ndcg"] == pytest.approx(1)
    assert set(scores) == set(measure.names)
