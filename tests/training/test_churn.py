"""Churn: by hand, over a cap, in a run, and the same after a kill."""

from pathlib import Path

import pytest
import torch

from hmoe.layer import Routing, Tree
from hmoe.layer.capacity import limited
from hmoe.training import churn
from hmoe.training.churn import Churn
from tests.cases import make_routing
from tests.tiny import checkpoint, curve, killed, train_in

GRID = Tree.from_spec([2, 2])
KEYS = tuple(f"val/gate/churn/{level}" for level in ("level_0", "level_1", "expert"))


def validated(watched: Churn, step: int, *batches: list[Routing]) -> dict[str, float]:
    watched.start()
    for batch in batches:
        watched.watch(batch)
    return watched.finish(step)


def chosen(*experts: int) -> Routing:
    return make_routing(GRID, [[expert] for expert in experts])


def test_churn_is_the_share_that_chose_otherwise_as_a_mean_over_mixtures() -> None:
    watched = Churn(trees=[GRID, GRID])
    assert validated(watched, 5, [chosen(0, 1), chosen(0, 0)], [chosen(2, 3), chosen(1, 1)]) == {}
    # First mixture: 0 -> 1 within its unit, 3 -> 0 across; second: as before.
    found = validated(watched, 10, [chosen(1, 1), chosen(0, 0)], [chosen(2, 0), chosen(1, 1)])
    assert found == {"level_0": 0.125, "level_1": 0.25, "expert": 0.25}
    assert validated(watched, 15, [chosen(1, 1, 2, 0), chosen(0, 0, 1, 1)])["expert"] == 0.0


def test_a_step_that_is_validated_twice_has_the_churn_it_had() -> None:
    """Else a run that is resumed after its last validation would say that nothing changed."""
    watched = Churn(trees=[GRID])
    validated(watched, 5, [chosen(0, 1)])
    first = validated(watched, 10, [chosen(0, 3)])
    assert first["expert"] == 0.5
    resumed = Churn(trees=[GRID])
    resumed.load_state_dict(watched.state_dict())
    assert validated(resumed, 10, [chosen(0, 3)]) == first
    assert validated(resumed, 15, [chosen(0, 3)])["expert"] == 0.0


def test_what_a_gate_asked_for_counts_whether_or_not_it_fits() -> None:
    """Four tokens ask for expert 0, one after the other; a capacity of 1.0 is one row each."""
    full = limited(chosen(0, 0, 0, 0), capacity=[None, 1.0], drop="order")
    assert len(full.token_R) == 1
    watched = Churn(trees=[GRID])
    validated(watched, 5, [full])
    assert watched.state_dict()["chosen"][0].tolist() == [0, 0, 0, 0]


def test_only_the_first_tokens_are_remembered(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(churn, "_MOST_TOKENS", 3)
    watched = Churn(trees=[GRID])
    validated(watched, 5, [chosen(0, 0)], [chosen(0, 0)], [chosen(0)])
    assert watched.state_dict()["chosen"][0].tolist() == [0, 0, 0]
    found = validated(watched, 10, [chosen(0, 0)], [chosen(3, 3)], [chosen(3)])
    assert found["level_0"] == pytest.approx(1 / 3)


def test_a_run_tells_churn_from_its_second_validation_on(tmp_path: Path) -> None:
    result = train_in(tmp_path / "run", "optim.lr=0.05")
    for key in KEYS:
        points = curve(tmp_path / "run", key)
        assert [step for step, _ in points] == [16, 20]
        assert result["metrics"][key] == points[-1][1]
        assert all(0 <= value <= 1 for _, value in points)
    assert any(value > 0 for _, value in curve(tmp_path / "run", KEYS[-1]))
    assert not any("churn" in key for key in result["metrics"] if key.startswith(("best", "test")))


def test_a_model_that_does_not_move_has_no_churn(tmp_path: Path) -> None:
    """Dropout, noise or another order of the validation set would show."""
    result = train_in(tmp_path / "run", "optim.lr=1e-30")
    assert [result["metrics"][key] for key in KEYS] == [0.0, 0.0, 0.0]


@pytest.mark.parametrize(
    "arm",
    [
        ("ffn@model.ffn=dense", "balance=none"),
        ("ffn@model.ffn=soft_moe", "balance=none", "tree.spec=[4]"),
    ],
)
def test_without_a_gate_there_is_none(arm: tuple[str, ...], tmp_path: Path) -> None:
    assert not any("churn" in key for key in train_in(tmp_path / "run", *arm)["metrics"])


@pytest.mark.parametrize(
    "arm",
    [
        ("selection=soft",),
        ("selection=expert_choice",),
        ("selection.capacity=1.0",),
        ("gate=heads",),
        ("ffn@model.ffn=hmoe_lazy", "balance=none"),
    ],
    ids=" ".join,
)
def test_every_way_of_choosing_has_a_heaviest_expert(arm: tuple[str, ...], tmp_path: Path) -> None:
    metrics = train_in(tmp_path / "run", *arm)["metrics"]
    assert all(0 <= metrics[key] <= 1 for key in KEYS)


@pytest.mark.parametrize(("where", "step"), [("learn", 17), ("learn", 13), ("test_step", 20)])
@pytest.mark.parametrize("val_every", [4, 8])
def test_a_resumed_run_tells_the_same_churn(
    where: str, step: int, val_every: int, tmp_path: Path
) -> None:
    """At 4 the last step is saved after its validation, at 8 that validation is one by itself."""
    options = ("optim.lr=0.05", f"trainer.val_every={val_every}")
    train_in(tmp_path / "whole", *options)
    with killed(where, step):
        train_in(tmp_path / "cut", *options)
    result = train_in(tmp_path / "cut", *options)
    assert result["resumed_from"] is not None
    whole, cut = (checkpoint(tmp_path / name)["churn"] for name in ("whole", "cut"))
    assert whole["step"] == cut["step"]
    assert torch.equal(whole["chosen"][0], cut["chosen"][0])
    for key in KEYS:
        undisturbed = dict(curve(tmp_path / "whole", key))
        assert dict(curve(tmp_path / "cut", key)) == undisturbed
        assert result["metrics"][key] == undisturbed[20]
    assert undisturbed[20] > 0, "else it would prove nothing"
