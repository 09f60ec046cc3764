"""Jacobs et al. (1991): figures of made cells by hand, the loop against hmoe's own loss."""

from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

from hmoe.reproductions import jacobs_1991_vowels as vowels
from hmoe.reproductions.record import Cell, Measured, Place
from tests.made import made_sets, write_set

EPOCHS = {"experts_4": 1000, "experts_8": 1200, "backprop_6": 2400, "backprop_12": 2000}


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    folder = tmp_path_factory.mktemp("sets")
    with made_sets():
        write_set("vowel_peterson_barney", folder)
        yield folder


def made_cells(**changes: float) -> list[Measured]:
    """Three seeds an arm: 10 epochs less, none, 10 more than those above."""
    cells = []
    for arm, epochs in EPOCHS.items():
        for seed in range(3):
            values = {"epochs": epochs + 10 * (seed - 1), "reached": True, "active": 3 + seed}
            values |= {"train": 0.87, "test": 0.91} | changes
            cells.append(Measured(Cell(arm, seed), values, 1.0))
    return cells


def test_figures_by_hand() -> None:
    found = vowels.figures(made_cells())
    assert found["ratio"].value == pytest.approx(2200 / 1100)
    assert found["experts_4_epochs"].value == 1000
    assert found["experts_4_epochs"].sd == pytest.approx(10)
    assert found["furthest"].value == pytest.approx(1)
    assert found["experts_gap"].value == -200
    assert found["hidden_gap"].value == -400
    assert found["experts_8_active"].value == 4
    assert found["spread"].value == pytest.approx(10 / 12)
    assert found["p"].value < 1e-3
    assert vowels.VOWELS_1991.verdict(found) == "reproduced"
    assert "the sign is reversed here (200 epochs" in vowels.notes(found)[0]


def test_what_fails_decides() -> None:
    worse = vowels.figures(made_cells(test=0.86))
    assert worse["furthest"].value == pytest.approx(4)
    assert vowels.VOWELS_1991.verdict(worse) == "in shape only"
    lost = vowels.figures(made_cells(reached=False))
    assert lost["failed"].value == 12
    assert vowels.VOWELS_1991.verdict(lost) == "not reproduced"


def test_a_step_is_the_rate_times_the_summed_gradient(root: Path) -> None:
    """Of the mixture, written out: -log sum_i p_i exp(-|d - o_i|^2 / 2), summed over rows."""
    train, _ = vowels.read_rows(root / "vowel_peterson_barney")
    model, plain = vowels.network("experts_4", 3), vowels.network("experts_4", 3)
    output = plain(train.x_TD)[0]
    square_TE = (train.target_TO[:, None] - output.answer_TEO).square().sum(-1)
    (-(output.reach_TE * (-square_TE / 2).exp()).sum(1).log().sum()).backward()
    assert vowels.descend(model, train, rate=1e-2, goal=0.0, most=1) == (1, False)
    for moved, start in zip(model.parameters(), plain.parameters(), strict=True):
        assert start.grad is not None
        torch.testing.assert_close(moved, start - 1e-2 * start.grad, atol=1e-6, rtol=1e-5)


def test_a_network_of_one_layer_descends_half_the_squared_distance(root: Path) -> None:
    train, test = vowels.read_rows(root / "vowel_peterson_barney")
    assert (len(train.x_TD), len(test.x_TD)) == (200, 100)
    model = vowels.network("backprop_6", 0)
    loss, error = vowels.losses(model, train)
    distance = (model(train.x_TD) - train.target_TO).square()
    assert loss.item() == pytest.approx(distance.sum().item() / 2, rel=1e-5)
    assert error.item() == pytest.approx(distance.mean().item(), rel=1e-5)


def test_first_weights_are_of_the_seed_and_in_range() -> None:
    one, same, other = (vowels.network("experts_8", seed) for seed in (1, 1, 2))
    for a, b, c in zip(one.parameters(), same.parameters(), other.parameters(), strict=True):
        assert torch.equal(a, b)
        assert not torch.equal(a, c)
        assert a.abs().max() <= 0.5
    assert sum(p.numel() for p in one.parameters()) == 8 * (2 * 4 + 4) + 8 * 3


def test_a_cell_on_made_rows(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Made vowels lie far apart: with a large rate they are told apart at once."""
    monkeypatch.setattr(vowels, "RATE", 0.05)
    found = vowels.measure(Cell("experts_4", 0), Place(root, root, "cpu"))
    assert found["reached"]
    assert 0 < found["epochs"] < 500
    assert found["test"] == 1.0
    assert 1 <= found["active"] <= 4


def test_the_picture_is_drawn(tmp_path: Path) -> None:
    vowels.draw(made_cells(), tmp_path / "figure.svg")
    assert "epochs until the squared error" in (tmp_path / "figure.svg").read_text()
