"""Planted data: the truth by hand, the least error met by who knows it, splits and seeds."""

from math import log
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from hmoe.config import build, compose
from hmoe.data import Planted
from hmoe.errors import ConfigError
from hmoe.layer import Tree
from tests.tiny import train_in


def make(**changes: Any) -> Planted:
    plain: dict[str, Any] = {
        **{"batch_size": 50, "seed": 0, "truth": Tree.from_spec([2, 3]), "truth_seed": 0},
        **{"distance": [6.0, 3.0], "hidden_dim": None, "target": "regression", "noise": 0.1},
        **{"kinship": 0.0, "twin": "none"},
        **{"in_dim": 8, "out_dim": 3, "num_train": 3000, "num_val": 500, "num_test": 1000},
    }
    return Planted(**(plain | changes))


def rows(data: Planted, split: Any = "train") -> tuple[Tensor, Tensor]:
    batches = list(data.pass_over(split))
    return torch.cat([b["x"] for b in batches]), torch.cat([b["y"] for b in batches])


# ------------------------------------------------------------------ the set


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"hidden_dim": 6},
        {"kinship": 0.4, "twin": "shuffled"},
        {"kinship": 0.4, "twin": "flat", "hidden_dim": 6},
    ],
)
def test_who_knows_the_truth_is_left_with_the_noise(changes: dict[str, Any]) -> None:
    data = make(num_train=20_000, noise=0.3, **changes)
    x, y = rows(data)
    truth = data.known(np.random.RandomState(data.truth_seed))
    # The scale of the features: that of the clouds, 1, and of the places of their centres.
    center_ED = truth.center_ND[list(truth.tree.node_E)]
    scale = np.sqrt(1 + np.square(center_ED).mean())
    exact = np.mean((truth.answers(x.numpy() * scale) - y.numpy()) ** 2)
    assert data.floor == {"loss": pytest.approx(0.09), "mse": pytest.approx(0.09)}
    assert exact == pytest.approx(0.09, rel=0.1)
    # Functions of strangers hide behind no mean: the best single linear map leaves nearly all.
    if data.kinship:
        return
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


# ------------------------------------------------------------------ kin and twins


def test_without_kinship_or_twin_the_data_are_those_of_version_0_1() -> None:
    """Digests from before there were kinship and twins: published figures stay repeatable."""
    assert make().digest.startswith("e5a5f6e8fa17fb7d0461")
    assert make(hidden_dim=6).digest.startswith("f96e3d8cbb0a2f9a6457")
    classes = make(target="classification", noise=0.2)
    assert classes.digest.startswith("7827ed2c248b42e56773")


def test_kinship_and_deal_leave_the_rows_where_they_are() -> None:
    plain, kin, dealt = make(), make(kinship=0.5), make(kinship=0.5, twin="shuffled")
    for other in (kin, dealt):
        assert torch.equal(rows(other)[0], rows(plain)[0])
        assert not torch.equal(rows(other)[1], rows(plain)[1])
        assert other.floor == plain.floor
    assert not torch.equal(rows(dealt)[1], rows(kin)[1])
    assert not torch.equal(rows(make(twin="flat"))[0], rows(plain)[0])


def test_the_domains_of_a_flat_twin_are_those_of_its_functions() -> None:
    """Its experts keep their numbers, and with them the department that they have in the tree."""
    data = make(twin="flat", truth=Tree.from_spec({"a": 2, "b": 1}))
    assert data.label_names == {"department": ("a", "b"), "expert": ("b", "a.0", "a.1")}
    labels = [data.labels(batch) for batch in data.pass_over("val")]
    department, expert = (torch.cat([each[name] for each in labels]) for name in data.label_names)
    assert set(zip(department.tolist(), expert.tolist(), strict=True)) == {(0, 1), (0, 2), (1, 0)}


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
        ({"target": "regresion"}, r"data\.target = regresion: .*Did you mean 'regression'"),
        ({"noise": -0.1}, r"data\.noise=-0\.1: must be a finite number of at least 0"),
        (
            {"noise": 0.7, "target": "classification"},
            r"data\.noise=0\.7: must be at least 0 and less than 0\.666667",
        ),
        ({"kinship": 1.0}, r"data\.kinship=1\.0: must be at least 0 and less than 1"),
        ({"kinship": -0.1}, r"data\.kinship=-0\.1: must be"),
        ({"twin": "shufled"}, r"data\.twin = shufled: .*Did you mean 'shuffled'"),
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
    truth = data.known(np.random.RandomState(data.truth_seed))
    x, _ = rows(data, "val")
    center_ED = truth.center_ND[[1, 2, 3]]
    scale = np.linalg.norm(center_ED) / np.linalg.norm([x[expert == e].mean(0) for e in range(3)])
    for place in range(3):
        mean = x[expert == place].mean(0).numpy() * scale
        assert np.abs(mean - center_ED[place]).max() < 0.6


def test_levels_have_names_and_classes_are_a_label() -> None:
    def names(spec: list[int], **changes: Any) -> list[str]:
        tree = Tree.from_spec(spec)
        return list(make(truth=tree, distance=[6.0] * tree.num_levels, **changes).label_names)

    assert names([4]) == ["expert"]
    assert names([2, 2, 2]) == ["department", "team", "expert"]
    assert names([2, 2, 2, 2]) == ["department", "team", "level_2", "expert"]
    assert names([4], target="classification") == ["expert", "class"]
