"""Digits: shapes, ranges, splits shared by all seeds, images that belong to their labels."""

from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from hmoe.data import Digits, SplitLoader
from hmoe.data.pixels import stratified_split
from hmoe.errors import ConfigError


def make(**changes: Any) -> Digits:
    return Digits(**({"batch_size": 32, "seed": 0, "val_share": 0.2, "test_share": 0.2} | changes))


def whole(loader: SplitLoader) -> tuple[Tensor, Tensor]:
    batches = list(loader)
    return torch.cat([b["x"] for b in batches]), torch.cat([b["y"] for b in batches])


def test_stratified_split_takes_the_share_of_each_class() -> None:
    # Class 0: 10 rows, of which 2 and 4; class 1: 5 rows, of which 1 and 2; the rest is training.
    labels = np.array([0] * 10 + [1] * 5)
    rows = stratified_split(labels, {"val": 0.2, "test": 0.4})
    counts = {split: np.bincount(labels[kept]).tolist() for split, kept in rows.items()}
    assert counts == {"val": [2, 1], "test": [4, 2], "train": [4, 2]}


def test_stratified_split_is_disjoint_covers_all_rows_and_never_changes() -> None:
    labels = np.arange(1000) % 7
    rows = stratified_split(labels, {"val": 0.13, "test": 0.29})
    assert np.sort(np.concatenate(list(rows.values()))).tolist() == list(range(1000))
    again = stratified_split(labels, {"val": 0.13, "test": 0.29})
    assert all(np.array_equal(rows[split], again[split]) for split in rows)


def test_batches_have_the_promised_shapes_types_and_range() -> None:
    data = make()
    batch = data.train_batch(0)
    assert set(batch) == {"x", "y"}
    assert (batch["x"].shape, batch["x"].dtype) == ((32, 64), torch.float32)
    assert (batch["y"].shape, batch["y"].dtype) == ((32,), torch.int64)
    assert (data.in_dim, data.out_dim, data.domain_names) == (64, 10, ())
    x, y = whole(data.val_dataloader())
    assert (x.min().item(), x.max().item()) == (-1, 1)
    assert y.unique().tolist() == list(range(10))


def test_the_splits_hold_all_1797_images_once() -> None:
    data = make(batch_size=1)
    data.setup()
    train = torch.cat([data.train_batch(step)["x"] for step in range(1079)])  # one epoch
    parts = [train, whole(data.val_dataloader())[0], whole(data.test_dataloader())[0]]
    images = torch.cat(parts)
    assert len(images) == 1797
    assert len(images.unique(dim=0)) == 1797  # the set has no image twice


def test_seeds_share_splits_and_digest_but_not_the_training_stream() -> None:
    one, other = make(seed=0), make(seed=1)
    assert one.digest == other.digest
    for loader in ("val_dataloader", "test_dataloader"):
        assert torch.equal(whole(getattr(one, loader)())[0], whole(getattr(other, loader)())[0])
    assert not torch.equal(one.train_batch(0)["x"], other.train_batch(0)["x"])
    assert torch.equal(one.train_batch(90)["x"], make(seed=0).train_batch(90)["x"])


def test_digest_tells_another_split() -> None:
    assert make().digest != make(val_share=0.1).digest
    assert len(make().digest) == 64


def test_images_belong_to_their_labels() -> None:
    # Nearest class mean errs on one digit in ten; on shuffled labels it would on nine.
    data = make(batch_size=1079)
    train, (x, y) = data.train_batch(0), whole(data.val_dataloader())
    means = torch.stack([train["x"][train["y"] == label].mean(0) for label in range(10)])
    assert (torch.cdist(x, means).argmin(1) == y).float().mean() > 0.85


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"batch_size": 0}, r"data\.batch_size=0: must be at least 1"),
        ({"batch_size": 1080}, r"data\.batch_size=1080: must be at most 1079"),
        ({"seed": -1}, r"data\.seed=-1: must be from 0"),
        ({"val_share": 0.0}, r"data\.val_share=0\.0: must be more than 0"),
        ({"test_share": 1.0}, r"data\.test_share=1\.0: must be more than 0 and less than 1"),
        ({"val_share": 0.6, "test_share": 0.4}, r"data\.val_share=0\.6 data\.test_share=0\.4: the"),
        ({"val_share": 0.001}, r"data\.val_share: leaves no row in the val split"),
    ],
)
def test_settings_that_cannot_work_are_refused(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        make(**changes).setup()
