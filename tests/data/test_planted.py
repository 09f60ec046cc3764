"""Planted data: the truth by hand, the least error met by who knows it, splits and seeds."""

from math import log
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from hmoe.config import build, compose
from hmoe.data import Planted
from hmoe.data.planted import Truth
from hmoe.errors import ConfigError
from hmoe.layer import Tree
from tests.tiny import train_in


def make(**changes: Any) -> Planted:
    plain: dict[str, Any] = {
        **{"batch_size": 50, "seed": 0, "truth": Tree.from_spec([2, 3]), "truth_seed": 0},
        **{"distance": [6.0, 3.0], "hidden_dim": None, "target": "regression", "noise": 0.1},
        **{"in_dim": 8, "out_dim": 3, "num_train": 3000, "num_val": 500, "num_test": 1000},
    }
    return Planted(**(plain | changes))


def rows(data: Planted, split: Any = "train") -> tuple[Tensor, Tensor]:
    batches = list(data.pass_over(split))
    return torch.cat([b["x"] for b in batches]), torch.cat([b["y"] for b in batches])


def drawn(tree: Tree, distance: list[float], hidden_dim: int | None = None) -> Truth:
    draw = np.random.RandomState(0)
    sizes = {"in_dim": 8, "out_dim": 3, "hidden_dim": hidden_dim}
    return Truth.drawn(tree, draw, distance=distance, **sizes)


# ------------------------------------------------------------------ the truth


def test_a_row_belongs_to_the_nearest_child_of_the_nearest_child() -> None:
    """On a line: a at 0 has teams at -1 and 4, b at 10 is an expert. 6 is nearer to a than to b."""
    tree = Tree.from_spec({"a": {"x": 1, "y": 1}, "b": 1})
    assert tree.path_N == ("a", "b", "a.x", "a.y")
    center = np.array([[0.0], [10.0], [-1.0], [4.0]])
    outer = np.array([[[7.0]], [[1.0]], [[-2.0]]])  # of b, a.x, a.y: experts in node order
    truth = Truth(tree, center, None, outer)
    x = np.array([[-3.0], [1.0], [2.0], [4.9], [5.1], [12.0]])
    assert truth.expert_of(x).tolist() == [1, 1, 2, 2, 0, 0]
    seen = [-3 + 1, 1 + 1, -2 * (2 - 4), -2 * (4.9 - 4), 7 * (5.1 - 10), 7 * (12 - 10)]
    np.testing.assert_allclose(truth.answers(x)[:, 0], seen)


def test_a_network_by_hand() -> None:
    tree = Tree.from_spec([2])
    inner, outer = np.array([[[2.0]], [[1.0]]]), np.array([[[3.0]], [[-1.0]]])
    truth = Truth(tree, np.array([[-5.0], [5.0]]), inner, outer)
    answers = truth.answers(np.array([[-4.5], [5.2]]))[:, 0]
    np.testing.assert_allclose(answers, [3 * np.tanh(1.0), -np.tanh(0.2)])


def test_children_lie_at_their_levels_distance_from_their_parent(tree: Tree) -> None:
    distance = [9.0, 4.0, 2.0, 1.0][: tree.num_levels]
    truth = drawn(tree, distance)
    for node, parent in enumerate(tree.parent_N):
        above = truth.center_ND[parent] if parent >= 0 else 0.0
        apart = np.linalg.norm(truth.center_ND[node] - above)
        assert apart == pytest.approx(distance[tree.level_N[node]])
    # Who stands at an expert's centre belongs to it, where clouds do not reach each other.
    if distance[-1] >= 4:
        at = truth.center_ND[list(tree.node_E)]
        assert truth.expert_of(at).tolist() == list(range(tree.num_experts))


# ------------------------------------------------------------------ the set


@pytest.mark.parametrize("hidden_dim", [None, 6])
def test_who_knows_the_truth_is_left_with_the_noise(hidden_dim: int | None) -> None:
    data = make(hidden_dim=hidden_dim, num_train=20_000, noise=0.3)
    x, y = rows(data)
    draw = np.random.RandomState(0)
    truth = Truth.drawn(
        data.truth, draw, in_dim=8, out_dim=3, distance=data.distance, hidden_dim=hidden_dim
    )
    # The scale of the features: that of the clouds, 1, and of the places of their centres.
    center_ED = truth.center_ND[list(data.truth.node_E)]
    scale = np.sqrt(1 + np.square(center_ED).mean())
    exact = np.mean((truth.answers(x.numpy() * scale) - y.numpy()) ** 2)
    assert data.floor == {"loss": pytest.approx(0.09), "mse": pytest.approx(0.09)}
    assert exact == pytest.approx(0.09, rel=0.1)
    # The functions hide behind no mean: the best single linear map leaves nearly all of them.
    design = torch.cat([x, torch.ones(len(x), 1)], 1)
    residual = y - design @ torch.linalg.lstsq(design, y).solution
    assert residual.square().mean() > 0.7 * y.var()


def test_classes_are_wrong_as_often_as_said_and_each_other_class_alike() -> None:
    noisy, clean = (
        make(target="classification", noise=noise, num_train=20_000) for noise in (0.2, 0.0)
    )
    (x, y), (same, right) = rows(noisy), rows(clean)
    assert torch.equal(x, same)
    assert (y.dtype, set(y.tolist())) == (torch.int64, {0, 1, 2})
    step = (y - right) % 3
    for wrong in (1, 2):
        assert (step == wrong).float().mean() == pytest.approx(0.1, abs=0.01)
    assert noisy.floor["accuracy"] == pytest.approx(0.8)
    assert noisy.floor["loss"] == pytest.approx(-0.8 * log(0.8) - 0.2 * log(0.1))
    assert clean.floor == {"loss": 0.0, "accuracy": 1.0}


def test_the_seed_of_a_run_changes_the_order_and_the_truths_seed_the_rows() -> None:
    data = make()
    x, y = rows(data)
    assert (x.shape, y.shape, x.dtype, y.dtype) == ((3000, 8), (3000, 3), *(torch.float32,) * 2)
    assert [len(rows(data, split)[0]) for split in ("val", "test")] == [500, 1000]
    everything = torch.cat([x, rows(data, "val")[0], rows(data, "test")[0]])
    assert everything.square().mean() == pytest.approx(1.0, abs=1e-4)
    other = make(seed=1)
    assert other.digest == data.digest
    assert torch.equal(rows(other)[0], x)
    assert not torch.equal(other.train_batch(0)["x"], data.train_batch(0)["x"])
    assert make().digest == data.digest
    assert make(truth_seed=1).digest != data.digest


def test_a_run_on_it_tells_the_floor(tmp_path: Any) -> None:
    changes = ("data=planted", "data.num_train=256", "data.num_val=64", "data.noise=0.5")
    result = train_in(tmp_path / "run", *changes, "trainer.max_steps=2")
    assert result["floor"] == {"loss": 0.25, "mse": 0.25}
    assert result["metrics"]["val/mse"] > 0.25


def test_the_file_makes_the_set_as_it_stands() -> None:
    data = build(compose(["data=planted", "data.truth.spec=[2,2]", "seed=3"]).data)
    assert isinstance(data, Planted)
    assert (str(data.truth), data.seed, data.task) == ("2x2", 3, "regression")


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"num_val": 0}, r"data\.num_val=0: must be at least 1"),
        ({"hidden_dim": 0}, r"data\.hidden_dim=0: must be at least 1"),
        ({"in_dim": 0}, r"data\.in_dim=0: must be at least 1"),
        ({"truth_seed": -1}, r"data\.truth_seed=-1: must be at least 0"),
        ({"distance": [6.0]}, r"data\.distance=\[6\.0\]: must be 2 numbers above 0.*2x3"),
        ({"distance": [6.0, 0.0]}, r"data\.distance=.*above 0"),
        ({"target": "regresion"}, r"data\.target=regresion: .*Did you mean 'regression'"),
        ({"noise": -0.1}, r"data\.noise=-0\.1: must be a finite number of at least 0"),
        (
            {"noise": 0.7, "target": "classification"},
            r"data\.noise=0\.7: must be at least 0 and less than 0\.666667",
        ),
        ({"out_dim": 1, "target": "classification"}, r"data\.out_dim=1: must be at least 2"),
        ({"batch_size": 3001}, r"data\.batch_size=3001: must be at most 3000"),
    ],
)
def test_settings_that_cannot_work_are_refused(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        make(**changes).setup()


# ------------------------------------------------------------------ what is known of a row


def test_labels_are_where_the_truth_has_the_row() -> None:
    """Of a ragged truth a b | a.0 a.1 the level of departments has a and b, that of experts all."""
    data = make(truth=Tree.from_spec({"a": 2, "b": 1}))
    assert data.label_names == {"department": ("a", "b"), "expert": ("b", "a.0", "a.1")}
    batches = list(data.pass_over("val"))
    labels = [data.labels(batch) for batch in batches]
    department, expert = (torch.cat([each[name] for each in labels]) for name in data.label_names)
    assert expert.shape == (500,)
    assert set(zip(department.tolist(), expert.tolist(), strict=True)) == {(0, 1), (0, 2), (1, 0)}
    # The mean of the rows of an expert is its centre, in the scale of the rows.
    truth = drawn_like(data)
    x, _ = rows(data, "val")
    center_ED = truth.center_ND[[1, 2, 3]]
    scale = np.linalg.norm(center_ED) / np.linalg.norm([x[expert == e].mean(0) for e in range(3)])
    for place in range(3):
        mean = x[expert == place].mean(0).numpy() * scale
        assert np.abs(mean - center_ED[place]).max() < 0.6


def drawn_like(data: Planted) -> Truth:
    draw = np.random.RandomState(data.truth_seed)
    sizes = {"in_dim": data.in_dim, "out_dim": data.out_dim, "hidden_dim": data.hidden_dim}
    return Truth.drawn(data.truth, draw, distance=data.distance, **sizes)


def test_levels_have_names_and_classes_are_a_label() -> None:
    def names(spec: list[int], **changes: Any) -> list[str]:
        tree = Tree.from_spec(spec)
        return list(make(truth=tree, distance=[6.0] * tree.num_levels, **changes).label_names)

    assert names([4]) == ["expert"]
    assert names([2, 2, 2]) == ["department", "team", "expert"]
    assert names([2, 2, 2, 2]) == ["department", "team", "level_2", "expert"]
    assert names([4], target="classification") == ["expert", "class"]
