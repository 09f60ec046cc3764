"""Moving an optimiser: training goes on as if nothing had happened, and rows keep their moments."""

from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn
from torch.optim import SGD, AdamW, Optimizer

from hmoe.errors import ConfigError
from hmoe.layer import Tree, soft
from hmoe.layer.move import move_optimizer
from hmoe.layer.moving import drop, regroup, reinitialise, split_expert
from hmoe.models import ResidualMlp
from tests.cases import DIM, best, bottom_up, layer_of, top_down

ORDER = [3, 0, 5, 1, 7, 2, 4, 6]


def network(spec=(8,), **parts) -> ResidualMlp:
    torch.manual_seed(0)
    tree = Tree.from_spec(list(spec) if isinstance(spec, tuple) else spec)
    ffn = layer_of(**({"tree": tree, "selection": soft} | parts))
    return ResidualMlp(in_dim=5, out_dim=3, dim=DIM, depth=2, ffn=ffn)


def adam(model: nn.Module) -> AdamW:
    """Two groups with options of their own, as in a run."""
    matrices = [p for p in model.parameters() if p.ndim > 1]
    vectors = [p for p in model.parameters() if p.ndim == 1]
    return AdamW(
        [{"params": matrices}, {"params": vectors, "weight_decay": 0.0, "lr": 3e-3}],
        lr=1e-2,
        weight_decay=0.1,
    )


def momentum(model: nn.Module) -> SGD:
    return SGD(model.parameters(), lr=0.1, momentum=0.9)


def train(model: nn.Module, optimizer: Optimizer, steps: range) -> list[float]:
    losses = []
    for step in steps:
        generator = torch.Generator().manual_seed(step)
        x, y = torch.randn(16, 5, generator=generator), torch.randn(16, 3, generator=generator)
        loss = (model(x)[0] - y).square().mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    return losses


@pytest.mark.parametrize("optimizer", [adam, momentum])
@pytest.mark.parametrize("gate", [bottom_up(), top_down()])
@pytest.mark.parametrize("selection", [soft, best(2, weights="renormalized")])
def test_training_goes_on_as_without_the_move(
    selection: Callable, gate: Callable, optimizer: Callable[..., Optimizer]
) -> None:
    stayed, went = (network(gate=gate, selection=selection) for _ in range(2))
    stay, go = optimizer(stayed), optimizer(went)
    assert train(stayed, stay, range(5)) == train(went, go, range(5))
    went.ffns[0], move = regroup(went.ffns[0], Tree.from_spec([2, 4]), order=ORDER)
    move_optimizer(go, move)
    assert {p for group in go.param_groups for p in group["params"]} == set(went.parameters())
    # A regroup without the moments would be told at once: see the test below.
    torch.testing.assert_close(
        train(stayed, stay, range(5, 13)), train(went, go, range(5, 13)), rtol=1e-4, atol=1e-6
    )
    moved, old = went.ffns[0], stayed.ffns[0]
    torch.testing.assert_close(
        moved.experts.w_in_EDF, old.experts.w_in_EDF[ORDER], rtol=1e-3, atol=1e-4
    )
    torch.testing.assert_close(went.head.weight, stayed.head.weight, rtol=1e-3, atol=1e-4)


def test_without_its_moments_training_would_not_go_on_alike() -> None:
    stayed, went = network(gate=bottom_up()), network(gate=bottom_up())
    stay, go = adam(stayed), adam(went)
    train(stayed, stay, range(5))
    train(went, go, range(5))
    went.ffns[0], _ = regroup(went.ffns[0], Tree.from_spec([2, 4]), order=ORDER)
    forgetful = adam(went)
    a, b = train(stayed, stay, range(5, 13)), train(went, forgetful, range(5, 13))
    assert max(abs(one - other) for one, other in zip(a, b, strict=True)) > 1e-2


def moments(optimizer: Optimizer, parameter: Tensor) -> Tensor:
    state = optimizer.state[parameter]
    return torch.stack([state["exp_avg"], state["exp_avg_sq"]], 1).clone()


def trained(spec) -> tuple[ResidualMlp, AdamW]:
    model = network(spec)
    optimizer = adam(model)
    train(model, optimizer, range(3))
    return model, optimizer


def test_moments_follow_their_rows_and_fresh_rows_have_none() -> None:
    model, optimizer = trained({"a": 1, "b": 2})
    layer = model.ffns[0]
    expert = moments(optimizer, layer.experts.w_in_EDF)
    row = moments(optimizer, layer.gate.scorers[0].weight_MD)
    elsewhere = moments(optimizer, model.head.weight)
    assert expert.flatten(1).any(1).all()
    assert row.flatten(1).any(1).all()

    new, move = split_expert(layer, "a", into="unit", noise=0.0)
    model.ffns[0] = new
    move_optimizer(optimizer, move)
    # Experts a.0, a.1, b.0, b.1; nodes a, b, a.0, a.1, b.0, b.1.
    assert torch.equal(moments(optimizer, new.experts.w_in_EDF), expert[[0, 0, 1, 2]])
    found = moments(optimizer, new.gate.scorers[0].weight_MD)
    assert torch.equal(found[[0, 1, 4, 5]], row)
    assert not found[[2, 3]].any()
    assert torch.equal(moments(optimizer, model.head.weight), elsewhere)
    assert [optimizer.state[p]["step"].item() for p in model.parameters()] == [3.0] * len(
        list(model.parameters())
    )

    expert, row = expert[[0, 0, 1, 2]], found
    model.ffns[0], move = drop(new, "b.0")
    move_optimizer(optimizer, move)
    # b is the old b.1, with the row of b: experts b, a.0, a.1.
    kept = model.ffns[0]
    assert kept.tree.path_N == ("a", "b", "a.0", "a.1")
    assert torch.equal(moments(optimizer, kept.experts.w_in_EDF), expert[[3, 0, 1]])
    assert torch.equal(moments(optimizer, kept.gate.scorers[0].weight_MD), row[[0, 1, 2, 3]])
    train(model, optimizer, range(3, 5))
    assert all(optimizer.state[p]["step"] == 5 for p in model.parameters())


def test_new_weights_start_without_moments() -> None:
    model, optimizer = trained({"a": 2, "b": 2})
    layer = model.ffns[0]
    expert = moments(optimizer, layer.experts.w_out_EFD)
    bias = moments(optimizer, layer.gate.scorers[0].bias_M)
    new, move = reinitialise(layer, "b", fresh=network({"a": 2, "b": 2}).ffns[1])
    model.ffns[0] = new
    move_optimizer(optimizer, move)
    found = moments(optimizer, new.experts.w_out_EFD)
    assert torch.equal(found[:2], expert[:2])
    assert not found[2:].any()
    found = moments(optimizer, new.gate.scorers[0].bias_M)
    assert torch.equal(found[:4], bias[:4])
    assert not found[4:].any()


def test_every_group_keeps_its_place_and_its_options() -> None:
    model, optimizer = trained((4,))
    options = [{k: v for k, v in g.items() if k != "params"} for g in optimizer.param_groups]
    sizes = [len(group["params"]) for group in optimizer.param_groups]
    model.ffns[1], move = split_expert(model.ffns[1], "2", into="siblings", noise=0.1)
    move_optimizer(optimizer, move)
    groups = optimizer.param_groups
    assert [{k: v for k, v in g.items() if k != "params"} for g in groups] == options
    assert [len(group["params"]) for group in groups] == sizes
    assert [{p.ndim > 1 for p in group["params"]} for group in groups] == [{True}, {False}]
    held = [p for group in groups for p in group["params"]]
    assert set(held) == set(model.parameters()) == set(optimizer.state)
    places = {id(p): place for place, p in enumerate(held)}
    assert places[id(model.ffns[1].experts.w_in_EDF)] < places[id(model.head.weight)]


def test_an_optimizer_that_has_not_stepped_moves_too() -> None:
    model = network((4,))
    optimizer = adam(model)
    model.ffns[0], move = drop(model.ffns[0], "3")
    move_optimizer(optimizer, move)
    assert not optimizer.state
    train(model, optimizer, range(2))
    assert set(optimizer.state) == set(model.parameters())


def test_what_cannot_follow_is_refused_with_the_reason() -> None:
    model, optimizer = trained((4,))
    _, move = drop(model.ffns[0], "3")
    move_optimizer(optimizer, move)
    with pytest.raises(ConfigError, match="holds no parameter of the old layer"):
        move_optimizer(optimizer, move)

    model = network((4,))
    _, move = drop(model.ffns[0], "3")
    with pytest.raises(ConfigError, match=r"made of named parameters.*model\.parameters\(\)"):
        move_optimizer(AdamW(model.named_parameters(), lr=0.1), move)

    optimizer = torch.optim.Adafactor(model.parameters())
    train(model, optimizer, range(1))
    before = {p: set(state) for p, state in optimizer.state.items()}
    held = [list(group["params"]) for group in optimizer.param_groups]
    with pytest.raises(ConfigError, match=r"remembers 'row_var' of shape .*Use AdamW or SGD"):
        move_optimizer(optimizer, move)
    # Refused before anything was changed.
    assert {p: set(state) for p, state in optimizer.state.items()} == before
    for group, parameters in zip(optimizer.param_groups, held, strict=True):
        assert all(a is b for a, b in zip(group["params"], parameters, strict=True))
