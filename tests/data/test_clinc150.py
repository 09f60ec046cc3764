"""CLINC150: weights of words worked out by hand, labels of two levels, out of scope left out."""

from collections.abc import Iterator
from math import log, sqrt
from pathlib import Path

import numpy as np
import pytest
import torch

from hmoe.data import Clinc150
from hmoe.errors import ConfigError, DataError
from tests.made import made_sets, write_set


def make(root: Path, max_features: int = 200) -> Clinc150:
    return Clinc150(root=str(root), batch_size=4, seed=0, max_features=max_features)


@pytest.fixture
def root(tmp_path: Path) -> Iterator[Path]:
    with made_sets():
        yield write_set("clinc150", tmp_path)


def test_the_published_splits_without_what_is_out_of_scope(root: Path) -> None:
    data = make(root)
    sizes = {split: len(y) for split, (_, y) in data._load().items()}
    assert sizes == {"train": 300, "val": 150, "test": 150}
    batch = next(iter(data.test_dataloader()))
    assert batch["x"].shape == (4, 200)
    assert batch["x"].dtype == torch.float32
    assert batch["y"].tolist() == [0, 1, 2, 3]


def test_a_weight_is_tf_idf(root: Path) -> None:
    # "please do intent_0_00 for me 0": a word of one character does not count, so 5 words do, 4 of
    # them in all 300 sentences, with a weight of 1, and one in 2 of them: 1 + ln(301 / 3).
    data = make(root)
    x = data._load()["train"][0][0]
    rare = 1 + log(301 / 3)
    length = sqrt(4 + rare**2)
    assert sorted(x[x > 0].tolist()) == pytest.approx([*[1 / length] * 4, rare / length], rel=1e-5)


def test_fewer_words_than_features_leave_columns_of_zero(root: Path) -> None:
    x = make(root, max_features=500)._load()["val"][0]
    assert x.shape == (150, 500)
    assert np.abs(x[:, 154:]).max() == 0  # please, do, for, me, and 150 names
    assert (x[:, :154].max(0) > 0).all()


def test_labels_are_domain_and_intent(root: Path) -> None:
    data = make(root)
    names = data.label_names
    assert list(names) == ["domain", "intent"]
    assert names["domain"] == tuple(f"domain_{d}" for d in range(10))
    assert len(names["intent"]) == data.out_dim == 150
    for batch in data.val_dataloader():
        labels = data.labels(batch)
        assert torch.equal(labels["intent"], batch["y"])
        for domain, intent in zip(*(labels[name].tolist() for name in names), strict=True):
            assert names["intent"][intent].split("_")[1] == names["domain"][domain].split("_")[1]


def test_the_digest_is_of_words_that_count(root: Path) -> None:
    assert make(root).digest == make(root).digest != make(root, max_features=100).digest


def test_what_cannot_work_is_refused(root: Path) -> None:
    with pytest.raises(ConfigError, match=r"data\.max_features=0: must be at least 1"):
        make(root, max_features=0)
    (root / "domains.json").unlink()
    with pytest.raises(DataError, match=r"domains\.json: expected .*hmoe fetch clinc150"):
        make(root).setup()
