"""The training stream is a pure function of (seed, step), and evaluation covers a split once."""

from itertools import chain, islice
from pathlib import Path

import pytest
import pytorch_lightning as pl
import torch
from torch import Tensor, nn

from hmoe.data import Digits, SplitLoader, StepLoader
from hmoe.data.loader import EpochOrder, random_state
from hmoe.errors import ConfigError


def rows(order: EpochOrder, *steps: int) -> list[list[int]]:
    return [order.rows_at(step).tolist() for step in steps]


def test_an_epoch_of_five_rows_is_two_batches_of_two() -> None:
    # 5 // 2 = 2 batches an epoch, one row left out: steps 0 and 1 are epoch 0, 2 and 3 epoch 1.
    order = EpochOrder(num_rows=5, batch_size=2, seed=3)
    for epoch in (0, 1):
        permutation = random_state(3, epoch).permutation(5).tolist()
        assert rows(order, 2 * epoch, 2 * epoch + 1) == [permutation[:2], permutation[2:4]]


def test_no_row_occurs_twice_in_an_epoch() -> None:
    order = EpochOrder(num_rows=103, batch_size=10, seed=0)
    for epoch in range(5):
        seen = list(chain(*rows(order, *range(10 * epoch, 10 * epoch + 10))))
        assert len(set(seen)) == 100
        assert set(seen) <= set(range(103))


def test_rows_left_out_of_one_epoch_are_met_in_others() -> None:
    order = EpochOrder(num_rows=7, batch_size=4, seed=0)
    assert set(chain(*rows(order, *range(20)))) == set(range(7))


def test_rows_depend_on_seed_and_step_alone() -> None:
    forward = EpochOrder(num_rows=50, batch_size=8, seed=1)
    backward = EpochOrder(num_rows=50, batch_size=8, seed=1)
    steps = range(30)
    assert rows(forward, *steps) == rows(backward, *reversed(steps))[::-1]
    assert rows(forward, *steps) != rows(EpochOrder(num_rows=50, batch_size=8, seed=2), *steps)


def test_epochs_differ() -> None:
    order = EpochOrder(num_rows=100, batch_size=100, seed=0)
    assert order.rows_at(0).tolist() != order.rows_at(1).tolist()


def test_seed_and_step_are_not_interchangeable() -> None:
    assert random_state(0, 1).randint(2**31) != random_state(1, 0).randint(2**31)
    assert random_state(0, 0).randint(2**31) != random_state(0, 2**32).randint(2**31)


def test_the_stream_is_the_same_on_every_machine() -> None:
    # Written down once: a numpy that drew otherwise would unpair runs made before it.
    assert random_state(0, 0).randint(1000, size=4).tolist() == [607, 975, 801, 504]


def test_a_batch_larger_than_the_split_is_refused() -> None:
    with pytest.raises(ConfigError, match=r"data\.batch_size=6: must be at most 5"):
        EpochOrder(num_rows=5, batch_size=6, seed=0)


def test_step_loader_starts_at_the_first_step_of_each_iteration() -> None:
    now = 0
    loader = StepLoader(batch_at=lambda step: {"x": torch.tensor(step)}, first_step=lambda: now)
    assert [int(batch["x"]) for batch in islice(loader, 3)] == [0, 1, 2]
    now = 7
    assert [int(batch["x"]) for batch in islice(loader, 2)] == [7, 8]
    assert not hasattr(loader, "__len__")


def test_split_loader_covers_the_rows_once_in_order() -> None:
    loader = SplitLoader(num_rows=7, batch_size=3, batch_of=lambda rows: {"x": rows})
    for _ in range(2):
        assert [batch["x"].tolist() for batch in loader] == [[0, 1, 2], [3, 4, 5], [6]]
    assert len(loader) == 3


class Recorder(pl.LightningModule):
    """Learns nothing to speak of, and remembers which labels it was shown."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(64, 10)
        self.shown: list[list[int]] = []
        self.validated: list[int] = []

    def training_step(self, batch: dict[str, Tensor], index: int) -> Tensor:
        self.shown.append(batch["y"].tolist())
        return nn.functional.cross_entropy(self.layer(batch["x"]), batch["y"])

    def validation_step(self, batch: dict[str, Tensor], index: int) -> None:
        self.validated.append(len(batch["y"]))

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.SGD(self.parameters(), lr=0.1)


def test_a_resumed_trainer_sees_the_data_of_the_uninterrupted_one(tmp_path: Path) -> None:
    def fit(max_steps: int, checkpoint: Path | None) -> tuple[pl.Trainer, Recorder]:
        trainer = pl.Trainer(
            max_steps=max_steps,
            max_epochs=-1,
            accelerator="cpu",
            logger=False,
            enable_checkpointing=False,
            enable_progress_bar=False,
            enable_model_summary=False,
            default_root_dir=tmp_path,
        )
        model = Recorder()
        data = Digits(batch_size=400, seed=0, val_share=0.2, test_share=0.2)
        trainer.fit(model, datamodule=data, ckpt_path=checkpoint)
        return trainer, model

    _, whole = fit(7, None)
    trainer, first = fit(3, None)  # in the middle of an epoch: 1079 // 400 = 2 batches each
    trainer.save_checkpoint(tmp_path / "last.ckpt")
    _, second = fit(7, tmp_path / "last.ckpt")
    assert whole.validated == [359]  # the trainer's trial run: one batch is the whole split
    assert len(whole.shown) == 7
    assert first.shown + second.shown == whole.shown


# ------------------------------------------------------------------ an even choice of rows


def test_a_pass_is_thinned_out_evenly_and_in_order() -> None:
    def loader(num_rows: int) -> SplitLoader:
        return SplitLoader(num_rows=num_rows, batch_size=3, batch_of=lambda rows: {"x": rows})

    def met(loader: SplitLoader) -> list[list[int]]:
        return [batch["x"].tolist() for batch in loader]

    assert met(loader(10).spread(4)) == [[0, 2, 5], [7]]
    assert met(loader(10).spread(10)) == met(loader(10).spread(99)) == met(loader(10))
    assert met(loader(10).spread(8).spread(4)) == [[0, 2, 5], [7]]


def test_digits_know_their_class() -> None:
    data = Digits(batch_size=64, seed=0, val_share=0.1, test_share=0.1)
    batch = next(iter(data.pass_over("val")))
    assert data.label_names == {"class": tuple("0123456789")}
    assert torch.equal(data.labels(batch)["class"], batch["y"])
