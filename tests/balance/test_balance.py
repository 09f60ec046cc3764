"""Balance: how terms, weights, levels and layers add up, and what is attached to a model."""

from collections.abc import Sequence
from functools import partial
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from hmoe.balance import (
    Balance,
    BiasController,
    importance_cv2,
    load_cv2,
    mixture_layers,
    switch_loss,
    z_loss,
)
from hmoe.errors import ConfigError
from hmoe.layer import Mlp, Routing, Tree
from hmoe.models import Dense, ResidualMlp
from tests.cases import (
    DIM,
    MODELS,
    best,
    down,
    heads,
    layer_of,
    make_input,
    make_layer,
    make_routing,
    mixture,
    top_down,
)

GRID = Tree.from_spec([2, 2])
CONTROLLER = BiasController(rate=0.1, rule="sign", among="siblings")
SWITCH = partial(switch_loss, statistics="micro")


def constant(routing: Routing, *, levels: Sequence[float]) -> dict[str, Tensor]:
    """A loss of known value; a second layer's is ten times the first one's."""
    scale = 10.0 if routing.num_tokens == 2 else 1.0
    logits_TN = routing.scores.logits_TN
    # Of no value, but with a gradient.
    zero = (logits_TN - logits_TN.detach()).sum()
    return {f"level_{n}": zero + value * scale for n, value in enumerate(levels)}


def balance(bias: BiasController | None = None, **weights: Any) -> Balance:
    """Terms that are 1, 2 on the two levels (a), and 3, 5 (b)."""
    levels = {"a": [1.0, 2.0], "b": [3.0, 5.0]}
    terms = {
        name: {"loss": partial(constant, levels=levels[name]), "weight": weight}
        for name, weight in weights.items()
    }
    return Balance(terms=terms, bias=bias)


# ------------------------------------------------------------------ the sum, by hand

ONE_LAYER = [make_routing(GRID, [[0]])]
TWO_LAYERS = [make_routing(GRID, [[0]]), make_routing(GRID, [[0], [1]])]


@pytest.mark.parametrize(
    ("weights", "total"),
    [
        ({"a": 0.5}, 0.5 * (1 + 2)),
        ({"a": [0.1, 0.01]}, 0.1 * 1 + 0.01 * 2),
        ({"a": 2, "b": [0.0, 1.0]}, 2 * (1 + 2) + 1.0 * 5),
    ],
)
def test_the_penalty_is_the_weighted_sum_over_terms_and_levels(
    weights: dict[str, Any], total: float
) -> None:
    assert balance(**weights).loss(ONE_LAYER)[0].item() == pytest.approx(total)


def test_layers_add_up_in_the_penalty_and_are_averaged_in_the_report() -> None:
    total, values = balance(a=[0.1, 0.01], b=1.0).loss(TWO_LAYERS)
    # The second layer is ten times the first: 1 and 10, 2 and 20; 3 and 30, 5 and 50.
    assert total.item() == pytest.approx(0.1 * 11 + 0.01 * 22 + 33 + 55)
    assert {key: value.item() for key, value in values.items()} == pytest.approx(
        {"a/level_0": 5.5, "a/level_1": 11.0, "b/level_0": 16.5, "b/level_1": 27.5}
    )


def test_losses_over_concatenated_layers_hide_collapse_and_ours_do_not() -> None:
    tree = Tree.from_spec([2])
    collapsed = [make_routing(tree, [[e]] * 4, torch.eye(2)[[e] * 4]) for e in (0, 1)]
    # Over the concatenated layers, as transformers counts, f = P = (1/2, 1/2): a perfect 1.
    f_E, prob_E = (
        sum(values) / 8
        for values in zip(*((r.load_E, r.probs_TN.sum(0)) for r in collapsed), strict=True)
    )
    assert 2 * (f_E * prob_E).sum().item() == pytest.approx(1.0)
    # Each layer by itself has 2, the worst.
    switch = Balance(terms={"switch": {"loss": SWITCH, "weight": 0.5}}, bias=None)
    total, values = switch.loss(collapsed)
    assert total.item() == pytest.approx(0.5 * (2 + 2))
    assert values["switch/level_0"].item() == pytest.approx(2.0)


def test_without_terms_or_without_mixtures_nothing_is_added() -> None:
    assert balance().loss(TWO_LAYERS) == (0.0, {})
    assert balance(a=1.0).loss([]) == (0.0, {})


def test_reported_values_carry_no_graph_and_the_penalty_does() -> None:
    layer = make_layer("ragged", "top_2")
    _, routing = layer(torch.randn(16, DIM))
    both = {
        "switch": {"loss": SWITCH, "weight": 0.1},
        "z": {"loss": z_loss, "weight": [1.0, 0.0, 0.5]},
    }
    total, values = Balance(terms=both, bias=None).loss([routing])
    assert not any(value.requires_grad for value in values.values())
    assert list(values) == [f"{term}/level_{n}" for term in ("switch", "z") for n in range(3)]
    (gradient,) = torch.autograd.grad(total, layer.gate.scorers[0].weight_MD)
    assert gradient.abs().max() > 0


# ------------------------------------------------------------------ wrong numbers of weights


@pytest.mark.parametrize("weight", [[0.1], [0.1, 0.2, 0.3], []])
def test_a_wrong_number_of_weights_is_told_before_training(weight: list[float]) -> None:
    wrong = balance(a=weight)
    message = rf"balance\.terms\.a\.weight = .*: {len(weight)} numbers given, 2 expected, one a lev"
    with pytest.raises(ConfigError, match=message):
        wrong.attach(nn.Sequential(make_layer("grid", "top_2")))
    with pytest.raises(ConfigError, match=message):
        wrong.loss(ONE_LAYER)


def test_a_right_number_of_weights_attaches() -> None:
    for weight in (0.1, 1, [0.1, 0.2]):
        balance(a=weight).attach(nn.Sequential(make_layer("grid", "top_2")))


# ------------------------------------------------------------------ layers and the controller


def mixtures(depth: int) -> ResidualMlp:
    made = iter([make_layer("grid", "top_2", seed=seed) for seed in range(depth)])
    return ResidualMlp(in_dim=5, out_dim=3, dim=DIM, depth=depth, ffn=lambda dim: next(made))


def test_only_a_controller_brings_bias_buffers() -> None:
    for controller in (None, CONTROLLER):
        model = mixtures(2)
        balance(controller, a=1.0).attach(model)
        saved = {key for key in model.state_dict() if key.endswith("bias_N")} - {
            key for key, _ in model.named_parameters()
        }
        assert saved == (set() if controller is None else {"ffns.0.bias_N", "ffns.1.bias_N"})
        for layer in mixture_layers(model):
            assert controller is None or layer.bias_N.tolist() == [0.0] * layer.tree.num_nodes


def test_mixtures_are_found_in_the_order_of_their_routings() -> None:
    model = mixtures(3)
    seen: dict[int, Any] = {}
    for number, layer in enumerate(mixture_layers(model)):
        layer.register_forward_hook(
            lambda _m, _x, out, number=number: seen.update({number: out[1]})
        )
    _, routings = model(torch.randn(4, 5))
    assert [seen[number] for number in range(3)] == routings


def test_each_layer_answers_its_own_loads() -> None:
    model = mixtures(2)
    controlled = balance(BiasController(rate=0.25, rule="sign", among="siblings"))
    controlled.attach(model)
    # Layer 0 overloads department 0, layer 1 department 2.
    routings = [
        make_routing(layer.tree, [[4 * d]]) for layer, d in zip(model.ffns, (0, 2), strict=True)
    ]
    controlled.step(model, routings)
    assert model.ffns[0].bias_N[:3].tolist() == [-0.25, 0.25, 0.25]
    assert model.ffns[1].bias_N[:3].tolist() == [0.25, 0.25, -0.25]


def test_a_step_without_a_controller_changes_nothing() -> None:
    model = mixtures(1)
    balance(a=1.0).attach(model)
    balance(a=1.0).step(model, [make_routing(model.ffns[0].tree, [[0]])])
    assert model.ffns[0].bias_N is None


def test_a_dense_control_has_no_mixtures_to_balance() -> None:
    dense = partial(
        Dense,
        experts=partial(Mlp, hidden_dim=8, activation="gelu", dtype=None, implementation="loop"),
    )
    model = ResidualMlp(in_dim=5, out_dim=3, dim=DIM, depth=2, ffn=dense)
    assert mixture_layers(model) == []
    controlled = balance(CONTROLLER, a=1.0)
    controlled.attach(model)
    controlled.step(model, [])
    assert not any(key.endswith("bias_N") for key in model.state_dict())


def test_a_controller_without_a_choice_to_steer_is_refused() -> None:
    with pytest.raises(ConfigError, match=r"balance\.bias: .*every token to every expert"):
        Balance(terms={}, bias=CONTROLLER).attach(make_layer("grid", "soft"))


# ------------------------------------------------------------------ terms that cannot work


def one_term(name: str, loss: Any, weight: Any = 0.1) -> Balance:
    return Balance(terms={name: {"loss": loss, "weight": weight}}, bias=None)


def test_load_needs_learnt_noise_on_every_level_that_has_a_weight() -> None:
    for noise, weight, level in (
        ("none", 0.1, 0),
        ("gumbel", 0.1, 0),
        (["learned", "none"], 0.1, 1),
        (["none", "learned"], [0.1, 0.1], 0),
    ):
        layer = layer_of(tree=GRID, gate=top_down(noise=noise), selection=down(1))(dim=DIM)
        message = rf"balance\.terms\.load\.weight = 0\.1 on level_{level}: load_cv2 asks"
        with pytest.raises(ConfigError, match=message):
            one_term("load", load_cv2, weight).attach(layer)
    for noise, weight in (
        ("learned", 0.1),
        (["learned", "none"], [0.1, 0.0]),
        (["none", "learned"], [0.0, 0.1]),
    ):
        for gate in (top_down(noise=noise), heads(gate=top_down(noise=noise))):
            layer = layer_of(tree=GRID, gate=gate, selection=down(1))(dim=DIM)
            one_term("load", load_cv2, weight).attach(layer)


def test_importance_needs_weights_that_depend_on_the_gate() -> None:
    layer = layer_of(tree=GRID, gate=top_down(score="hash"), selection=best(2, weights="even"))(
        dim=DIM
    )
    with pytest.raises(ConfigError, match=r"importance\.weight = 0\.1 on level_0: .* no influence"):
        one_term("importance", importance_cv2).attach(layer)


def test_sequences_are_asked_of_models_that_read_them() -> None:
    by_sequence = one_term("switch", partial(switch_loss, statistics="sequence"))
    with pytest.raises(ConfigError, match=r"balance\.terms\.switch\.loss: statistics = sequence"):
        by_sequence.attach(mixtures(2))
    model = MODELS["transformer"](ffn=mixture("grid", "top_2"))
    by_sequence.attach(model)
    _, routings = model(make_input("transformer"))
    assert by_sequence.loss(routings)[0].requires_grad
    # A layer by itself may be given sequences later.
    layer = make_layer("grid", "top_2", "heads")
    by_sequence.attach(layer)
    _, routing = layer(torch.randn(3, 5, DIM))
    assert routing.num_sequences == 6
    assert by_sequence.loss([routing])[0].requires_grad


def test_attaching_draws_no_random_numbers() -> None:
    """Trials of terms must not change what a seed means."""
    layer = layer_of(tree=GRID, gate=top_down(noise="learned"), selection=down(1))(dim=DIM)
    before = torch.get_rng_state()
    Balance(terms={"load": {"loss": load_cv2, "weight": 0.1}}, bias=CONTROLLER).attach(layer)
    assert torch.equal(torch.get_rng_state(), before)


@pytest.mark.parametrize("weight", ["hi", -0.1, True, [0.1, "0.2"], [0.1, -1]])
def test_a_weight_is_a_number_of_at_least_zero(weight: object) -> None:
    with pytest.raises(ConfigError, match=r"balance\.terms\.z\.weight = .*number of at least 0"):
        Balance(terms={"z": {"loss": z_loss, "weight": weight}}, bias=None)
