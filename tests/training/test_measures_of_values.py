"""Measures of values: errors in their own units, areas and ratings however batches fall."""

from math import sqrt

import numpy as np
import pytest
import torch

from hmoe.training.measures import Areas, RatingScores, RootMeanSquare


def test_errors_are_told_in_the_units_of_the_targets() -> None:
    """Errors of 1, 0 and 2 deviations of 10 each, in batches of two and one."""
    measure = RootMeanSquare(units=lambda: np.array([10.0]))
    for _ in range(2):  # a second pass begins anew
        measure.reset()
        measure.update(torch.tensor([[1.0], [2.0]]), {"y": torch.tensor([[0.0], [2.0]])})
        measure.update(torch.tensor([[0.0]]), {"y": torch.tensor([[2.0]])})
        assert measure.compute() == {"rmse": pytest.approx(10 * sqrt(5 / 3))}


def areas(answer: list[list[float]], y: list[list[float]], batch_size: int) -> dict[str, float]:
    measure = Areas(names=("rich", "old"))
    for _ in range(2):  # a second pass begins anew
        measure.reset()
        for part, said in zip(
            torch.tensor(answer).split(batch_size), torch.tensor(y).split(batch_size), strict=True
        ):
            measure.update(part, {"y": said})
    return measure.compute()


@pytest.mark.parametrize("batch_size", [1, 2, 4])
def test_areas_go_by_the_order_of_a_whole_pass(batch_size: int) -> None:
    """Also where the answers of one batch lie in [0, 1], as probabilities do, and others do not."""
    answer = [[0.9, 30.0], [9.0, 20.0], [-2.0, 10.0], [2.0, 0.0]]
    y = [[1.0, 1.0], [1.0, 1.0], [0.0, 0.0], [0.0, 0.0]]
    # 0.9 is over -2 and not over 2, 9 is over both; of old the first two are over the others.
    assert areas(answer, y, batch_size) == {"auc": 0.875, "auc/rich": 0.75, "auc/old": 1.0}


def test_areas_tell_scores_apart_where_their_sigmoids_are_equal() -> None:
    assert areas([[30.0, 0.0], [20.0, 1.0]], [[1.0, 0.0], [0.0, 1.0]], 2)["auc/rich"] == 1.0


def test_a_target_with_one_answer_has_no_area_and_no_part_in_the_mean() -> None:
    answer = [[1.0, 1.0], [2.0, 2.0]]
    assert areas(answer, [[0.0, 0.0], [1.0, 0.0]], 1) == {"auc": 1.0, "auc/rich": 1.0}
    assert areas(answer, [[1.0, 1.0], [0.0, 1.0]], 1) == {"auc": 0.0, "auc/rich": 0.0}
    assert areas(answer, [[1.0, 0.0], [1.0, 0.0]], 1) == {}


def test_areas_wait_for_no_device_before_the_end(monkeypatch: pytest.MonkeyPatch) -> None:
    measure = Areas(names=("rich",))
    with monkeypatch.context() as patch:
        for name in ("cpu", "item", "tolist", "numpy", "__bool__", "to"):
            patch.setattr(torch.Tensor, name, None)
        measure.update(torch.tensor([[1.0], [2.0]]), {"y": torch.tensor([[0.0], [1.0]])})
    assert measure.compute()["auc"] == 1.0


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
