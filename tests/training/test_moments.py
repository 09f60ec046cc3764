"""Moments: churn by hand, an even sample, what is kept of a run, and the same after a kill."""

from pathlib import Path

import pytest
import torch
from torch import Tensor

from hmoe.layer import Routing, Tree
from hmoe.layer.capacity import limited
from hmoe.metrics import level_entropy
from hmoe.training import moments
from hmoe.training.moments import Moments, moment_files, read_moment
from tests.cases import make_routing
from tests.tiny import curve, killed, train_in

GRID = Tree.from_spec([2, 2])
KEYS = tuple(f"val/gate/churn/{level}" for level in ("level_0", "level_1", "expert"))


def validated(watched: Moments, step: int, *batches: list[Routing]) -> dict[str, float]:
    watched.start()
    for batch in batches:
        watched.watch(batch)
    layers = zip(*batches, strict=True)
    loads = [sum((r.load_E for r in layer), torch.zeros(4, dtype=torch.int64)) for layer in layers]
    found = watched.finish(step, loads)
    return {key.removeprefix("churn/"): x for key, x in found.items() if key.startswith("churn/")}


def chosen(*experts: int) -> Routing:
    return make_routing(GRID, [[expert] for expert in experts])


def kept(run: Path) -> dict[int, list[list[Tensor]]]:
    found = map(read_moment, moment_files(run / "routing"))
    return {m.step: [list(m.load_E), list(m.choice_T), list(m.entropy_L)] for m in found}


def test_churn_is_the_share_that_chose_otherwise_as_a_mean_over_mixtures(tmp_path: Path) -> None:
    watched = Moments(folder=tmp_path, trees=[GRID, GRID])
    assert validated(watched, 5, [chosen(0, 1), chosen(0, 0)], [chosen(2, 3), chosen(1, 1)]) == {}
    # First mixture: 0 -> 1 within its unit, 3 -> 0 across; second: as before.
    found = validated(watched, 10, [chosen(1, 1), chosen(0, 0)], [chosen(2, 0), chosen(1, 1)])
    assert found == {"level_0": 0.125, "level_1": 0.25, "expert": 0.25}
    assert validated(watched, 15, [chosen(1, 1, 2, 0), chosen(0, 0, 1, 1)])["expert"] == 0.0


def test_a_step_that_is_validated_twice_has_the_churn_it_had(tmp_path: Path) -> None:
    """Else a run that is resumed after its last validation would say that nothing changed."""
    validated(Moments(folder=tmp_path, trees=[GRID]), 5, [chosen(0, 1)])
    first = validated(Moments(folder=tmp_path, trees=[GRID]), 10, [chosen(0, 3)])
    assert first["expert"] == 0.5
    resumed = Moments(folder=tmp_path, trees=[GRID])
    assert validated(resumed, 10, [chosen(0, 3)]) == first
    assert validated(resumed, 15, [chosen(0, 3)])["expert"] == 0.0


def test_what_a_gate_asked_for_counts_whether_or_not_it_fits(tmp_path: Path) -> None:
    """Four tokens ask for expert 0, one after the other; a capacity of 1.0 is one row each."""
    full = limited(chosen(0, 0, 0, 0), capacity=[None, 1.0], drop="order")
    assert len(full.token_R) == 1
    validated(Moments(folder=tmp_path, trees=[GRID]), 5, [full])
    (path,) = moment_files(tmp_path)
    assert read_moment(path).choice_T[0].tolist() == [0, 0, 0, 0]


def test_a_moment_is_read_as_it_was(tmp_path: Path) -> None:
    watched = Moments(folder=tmp_path, trees=[GRID, GRID])
    validated(watched, 5, [chosen(0, 3, 3), chosen(2, 2, 1)])
    (path,) = moment_files(tmp_path)
    moment = read_moment(path)
    assert moment.step == 5
    assert [load_E.tolist() for load_E in moment.load_E] == [[1, 0, 0, 2], [0, 1, 2, 0]]
    assert [choice_T.tolist() for choice_T in moment.choice_T] == [[0, 3, 3], [2, 2, 1]]


def test_entropy_is_a_mean_over_tokens_and_mixtures(tmp_path: Path) -> None:
    """Even gates leave all in doubt; one that is sure of its units is even among their experts."""
    sure_N = torch.tensor([1.0, 0.0, 0.5, 0.5, 0.5, 0.5])
    sure = make_routing(GRID, [[0], [0]], sure_N.expand(2, -1))
    watched = Moments(folder=tmp_path, trees=[GRID, GRID])
    watched.start()
    watched.watch([chosen(0, 0), sure])
    # ln 2 of the ln 4 nats that experts have at most.
    assert watched.finish(5, [torch.zeros(4)] * 2) == {
        "entropy/level_0": 0.5,
        "entropy/level_1": 0.75,
    }
    (path,) = moment_files(tmp_path)
    assert [entropy_L.tolist() for entropy_L in read_moment(path).entropy_L] == [[1, 1], [0, 0.5]]


CUTS = pytest.mark.parametrize("cuts", [[13], [1] * 13, [4, 4, 5], [2, 11]])


@CUTS
def test_of_many_tokens_an_even_sample_is_kept(cuts: list[int]) -> None:
    """Of 13 tokens at most 4: every second, then every fourth, however they come in batches."""
    sample = moments._Sample(4)
    for part in torch.arange(13).split(cuts):
        places = sample.places(len(part))
        assert len(part[places]) <= 4
        sample.keep(part[places])
    assert sample.values().tolist() == [0, 4, 8, 12]


@CUTS
def test_the_entropy_of_few_tokens_is_taken(
    cuts: list[int], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """Of 13 tokens 0, 4, 8 and 12, of which the first is sure: the same in any batches."""
    monkeypatch.setattr(moments, "_MOST_DOUBTS", 4)
    probs_TN = torch.full((13, 6), 0.5)
    probs_TN[[0, 1, 2, 3, 5, 6]] = torch.tensor([1.0, 0, 1, 0, 1, 0])
    watched, taken = Moments(folder=tmp_path, trees=[GRID]), []
    monkeypatch.setattr(
        moments,
        "level_entropy",
        lambda probs_TN, tree: taken.append(len(probs_TN)) or level_entropy(probs_TN, tree),
    )
    watched.start()
    for part_TN in probs_TN.split(cuts):
        watched.watch([make_routing(GRID, [[0]] * len(part_TN), part_TN)])
    found = watched.finish(5, [torch.zeros(4)])
    assert found == {"entropy/level_0": 0.75, "entropy/level_1": 0.75}
    assert max(taken) <= 4


def test_a_run_keeps_its_moments_and_tells_churn_from_the_second_on(tmp_path: Path) -> None:
    result = train_in(tmp_path / "run", "optim.lr=0.05")
    assert list(kept(tmp_path / "run")) == [8, 16, 20]
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
    metrics = train_in(tmp_path / "run", *arm)["metrics"]
    assert not any("churn" in key for key in metrics)
    assert not (tmp_path / "run" / "routing").exists()


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
def test_a_resumed_run_tells_the_same(
    where: str, step: int, val_every: int, tmp_path: Path
) -> None:
    """At 4 the last step is saved after its validation, at 8 that validation is one by itself."""
    options = ("optim.lr=0.05", f"trainer.val_every={val_every}")
    train_in(tmp_path / "whole", *options)
    with killed(where, step):
        train_in(tmp_path / "cut", *options)
    result = train_in(tmp_path / "cut", *options)
    assert result["resumed_from"] is not None
    whole, cut = (kept(tmp_path / name) for name in ("whole", "cut"))
    assert list(whole) == list(cut)
    for one, other in zip(whole.values(), cut.values(), strict=True):
        assert all(map(torch.equal, [*one[0], *one[1], *one[2]], [*other[0], *other[1], *other[2]]))
    for key in KEYS:
        undisturbed = dict(curve(tmp_path / "whole", key))
        assert dict(curve(tmp_path / "cut", key)) == undisturbed
        assert result["metrics"][key] == undisturbed[20]
    assert undisturbed[20] > 0, "else it would prove nothing"
