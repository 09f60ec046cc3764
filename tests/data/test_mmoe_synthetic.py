"""Two related tasks: answers by hand, the relation as set, streams, splits, what noise leaves."""

from math import pi
from typing import Any

import numpy as np
import pytest
import torch

from hmoe.data import MmoeSynthetic
from hmoe.data.mmoe_synthetic import TwoTasks
from hmoe.errors import ConfigError


def make(**changes: Any) -> MmoeSynthetic:
    plain: dict[str, Any] = {
        **{"batch_size": 50, "seed": 0, "truth_seed": 0, "in_dim": 6, "correlation": 0.5},
        **{"scale": 1.0, "frequencies": [1.0, 2.0], "phases": [0.0, 0.5], "noise": 0.1},
        **{"num_val": 120, "num_test": 4000},
    }
    return MmoeSynthetic(**(plain | changes))


def whole(data: MmoeSynthetic, split: Any) -> tuple[torch.Tensor, torch.Tensor]:
    batches = list(data.pass_over(split))
    return torch.cat([b["x"] for b in batches]), torch.cat([b["y"] for b in batches])


def test_answers_by_hand() -> None:
    """w_1 = (1, 0), w_2 = (0, 2), sin(v) + sin(2 v + pi / 2) at v = pi / 2 and pi / 6."""
    tasks = TwoTasks(
        np.array([[1.0, 0.0], [0.0, 2.0]]), np.array([1.0, 2.0]), np.array([0, pi / 2])
    )
    answers = tasks.answers(np.array([[pi / 2, pi / 12]]))
    np.testing.assert_allclose(answers, [[pi / 2 + 1 - 1, pi / 6 + 0.5 + 0.5]])


@pytest.mark.parametrize("correlation", [1.0, 0.5, 0.0, -1.0])
def test_the_weights_have_the_length_and_the_cosine_that_are_set(correlation: float) -> None:
    options = {"in_dim": 7, "scale": 3.0, "frequencies": [1.0], "phases": [1.0]}
    tasks = TwoTasks.drawn(5, correlation=correlation, **options)
    products = tasks.weight_KD @ tasks.weight_KD.T
    np.testing.assert_allclose(np.diag(products), 9.0)
    assert products[0, 1] / 9 == pytest.approx(correlation, abs=1e-12)
    assert tasks.phase_M.tolist() == [pi]
    # Whatever the relation is, the first task stays.
    other = TwoTasks.drawn(5, correlation=0.3, **options)
    np.testing.assert_array_equal(other.weight_KD[0], tasks.weight_KD[0])
    assert not np.allclose(TwoTasks.drawn(6, correlation=0.3, **options).weight_KD, other.weight_KD)


def test_who_knows_the_tasks_is_left_with_the_noise() -> None:
    data = make(noise=0.3)
    x, y = whole(data, "test")
    left = y.numpy() - data.tasks.answers(x.double().numpy())
    assert np.square(left).mean() == pytest.approx(0.09, rel=0.05)
    assert abs(np.corrcoef(left.T)[0, 1]) < 0.06  # each task has a noise of its own
    assert data.floor == {"loss": pytest.approx(0.09), "mse": pytest.approx(0.09)}
    assert x.std() == pytest.approx(1.0, abs=0.02)


def test_like_tasks_differ_in_their_noise_alone() -> None:
    y = whole(make(correlation=1.0, noise=0.0), "val")[1]
    assert torch.equal(y[:, 0], y[:, 1])
    y = whole(make(noise=0.0), "val")[1]
    assert (y[:, 0] - y[:, 1]).abs().mean() > 0.1


def test_a_batch_is_a_function_of_seed_and_step_and_every_step_has_rows_of_its_own() -> None:
    data = make()
    assert data.train_batch(7)["x"].shape == (50, 6)
    assert data.train_batch(7)["y"].dtype == torch.float32
    for name in ("x", "y"):
        assert torch.equal(data.train_batch(7)[name], make().train_batch(7)[name])
    x = torch.cat([*(data.train_batch(s)["x"] for s in range(4)), make(seed=1).train_batch(0)["x"]])
    x = torch.cat([x, whole(data, "val")[0], whole(data, "test")[0]])
    assert len(x.unique(dim=0)) == len(x)


def test_val_and_test_are_the_same_for_every_seed_and_of_the_sizes_asked() -> None:
    one, other = make(), make(seed=1)
    assert [len(whole(one, split)[0]) for split in ("val", "test")] == [120, 4000]
    for split in ("val", "test"):
        for mine, theirs in zip(whole(one, split), whole(other, split), strict=True):
            assert torch.equal(mine, theirs)
    assert one.digest == other.digest
    assert {
        make(**c).digest for c in ({"truth_seed": 1}, {"correlation": 0.6}, {"noise": 0.2})
    }.isdisjoint({one.digest})


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"correlation": 1.1}, r"data\.correlation=1\.1: must be from -1 to 1\."),
        ({"scale": 0.0}, r"data\.scale=0\.0: must be a finite number above 0\."),
        ({"noise": -0.1}, r"data\.noise=-0\.1: must be a finite number of at least 0\."),
        ({"phases": [0.0]}, r"data\.phases=\[0\.0\]: must be 2 numbers"),
        ({"in_dim": 1}, r"data\.in_dim=1: must be at least 2\."),
        ({"num_val": 0}, r"data\.num_val=0: must be at least 1\."),
        ({"seed": -1}, r"data\.seed=-1: must be from 0"),
    ],
)
def test_what_cannot_be_is_refused(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        make(**changes)
