"""docs/balance.md keeps its word: formulas of other libraries on the same state, times its factors.

Factors, values at equal load, and which loss of ours they belong to are read from the page.
"""

import re
from collections.abc import Callable
from functools import partial
from pathlib import Path

import pytest
import torch
from torch import Tensor

from hmoe.balance import (
    BiasController,
    doubt_loss,
    importance_cv2,
    load_cv2,
    switch_loss,
    z_loss,
)
from hmoe.layer import Tree
from tests.balance import formulas
from tests.balance.formulas import EXPERTS, LAYERS, WORKERS, State, states
from tests.balance.formulas import per_layer as each
from tests.cases import DIM, best, bottom_up, down, layer_of, top_down

PAGE = (Path(__file__).parents[2] / "docs" / "balance.md").read_text(encoding="utf-8")
# key -> (our loss or rule with its options, factor as an expression).
ROWS = {
    key: (here.split(), factor)
    for key, here, factor in re.findall(
        r"^\| `(\w+)` \|.*\| `([\w ]+)` \| ([^|]+) \|$", PAGE, flags=re.MULTILINE
    )
}
# key -> their value at equal load, as an expression, or "any".
EVEN = dict(
    re.findall(r"^\| `(\w+)` \|[^|]*\| ([^|]+) \| `\w+_[\w ]*` \|", PAGE, flags=re.MULTILINE)
)
OURS: dict[str, Callable[..., dict[str, Tensor]]] = {
    "switch_loss": lambda routing, statistics: switch_loss(routing, statistics=statistics),
    "importance_cv2": importance_cv2,
    "load_cv2": load_cv2,
    "doubt_loss": lambda routing, weigh: doubt_loss(routing, weigh=weigh),
    "z_loss": z_loss,
}
Case = tuple[Callable[[list[State]], Tensor], Callable[[], list[State]]]
NOISY = top_down(noise="learned", init_std=0.3)
TWO = {"spec": (2, 3), "selection": down(1)}
BINARY = partial(states, 2, spec=(2, 2, 2))
CASES: dict[str, Case] = {
    "switch": (each(formulas.switch), partial(states, 1)),
    "first_choice": (each(formulas.first_choice), partial(states, 1)),
    "deepspeed_topk": (each(formulas.deepspeed_topk), partial(states, 2)),
    "megatron": (each(formulas.megatron), partial(states, 2)),
    "megatron_sequence": (each(formulas.by_sequence), partial(states, 2)),
    "megatron_global": (each(formulas.megatron), partial(states, 2)),
    "megablocks": (formulas.megablocks, partial(states, 2)),
    "olmo": (each(formulas.olmo), partial(states, 2)),
    "sonic": (each(formulas.sonic), partial(states, 2)),
    "transformers": (formulas.transformers, partial(states, 2, alike=True)),
    "fastmoe": (each(formulas.fastmoe), partial(states, 1)),
    "deepseek_sequence": (
        each(formulas.deepseek_sequence),
        partial(states, 2, gate=bottom_up(link="sigmoid")),
    ),
    "deepseek_devices": (
        each(formulas.deepseek_devices),
        partial(states, 2, spec=(2, 3), gate=bottom_up()),
    ),
    "shazeer_importance": (each(formulas.importance), partial(states, 2)),
    "shazeer_load": (each(formulas.load), partial(states, 2, gate=NOISY)),
    "shazeer_importance_h": (
        each(formulas.importance),
        partial(states, 1, **TWO),
    ),
    "shazeer_load_h": (
        each(formulas.load_h),
        partial(states, 1, gate=NOISY, **TWO),
    ),
    "z": (each(formulas.z), partial(states, 2)),
    "comet": (each(formulas.leaf_entropy), BINARY),
    "fff": (each(formulas.node_entropies), BINARY),
}
BIASES = {"bias_sign", "bias_centred", "bias_size"}


def test_the_page_and_the_formulas_are_about_the_same() -> None:
    assert set(ROWS) == set(CASES) | BIASES
    assert set(EVEN) == set(CASES)


@pytest.mark.parametrize("key", CASES)
def test_a_coefficient_carries_over_by_the_factor_on_the_page(key: str) -> None:
    theirs, make = CASES[key]
    layers = make()
    (name, *options), factor = ROWS[key]
    values = [OURS[name](layer.routing, *options) for layer in layers]
    weight = eval(factor, {}, {"c": 0.3, "k": layers[0].k, "L": LAYERS, "W": WORKERS})
    weights = weight if isinstance(weight, list) else [weight] * len(values[0])
    ours = sum(
        w * value.item() for one in values for w, value in zip(weights, one.values(), strict=True)
    )
    assert ours == pytest.approx(0.3 * theirs(layers).item(), rel=1e-4)


# Load_H is of two levels, so that its formula does not fit a flat state; `test_laws` has its zero.
@pytest.mark.parametrize(
    "key", [key for key, even in EVEN.items() if even != "any" and key != "shazeer_load_h"]
)
def test_the_value_at_equal_load_is_that_on_the_page(key: str) -> None:
    theirs, make = CASES[key]
    uneven = make()
    expected = eval(EVEN[key], {}, {"k": uneven[0].k, "W": WORKERS})
    value = theirs([formulas.even_state(uneven[0].k)]).item()
    assert value == pytest.approx(expected, abs=1e-5)
    # At equal load formulas agree whatever their factor; those above are far from it.
    per_layer = theirs(uneven).item() / (1 if key in ("megablocks", "transformers") else LAYERS)
    assert abs(per_layer - expected) > 0.01


def test_concatenated_layers_hide_collapse_from_transformers_and_not_from_ours() -> None:
    """Eight layers, each sure of another expert: k there, as if perfect; 8 in each layer here."""
    tree = Tree.from_spec([8])
    counts, values = torch.zeros(8), []
    for expert in range(8):
        layer = layer_of(tree=tree, selection=best(1))(dim=DIM)
        with torch.no_grad():
            layer.gate.scorers[0].bias_M[expert] = 100.0
        _, routing = layer(torch.randn(20, DIM))
        counts += routing.load_E / 160
        values.append(switch_loss(routing, statistics="micro")["level_0"].item())
    # Every expert has an eighth of the rows and of the probability of the concatenation.
    assert (8 * counts * counts).sum().item() == pytest.approx(1.0)
    assert values == pytest.approx([8.0] * 8, rel=1e-3)


# ------------------------------------------------------------------ rates


def their_step(key: str, load_E: Tensor) -> Tensor:
    lack_E = load_E.float().mean() - load_E
    if key == "bias_size":
        return lack_E
    step_E = lack_E.sign()
    return step_E - step_E.mean() if key == "bias_centred" else step_E


@pytest.mark.parametrize("key", sorted(BIASES))
def test_a_rate_carries_over_by_the_factor_on_the_page(key: str) -> None:
    layer = layer_of(
        tree=Tree.from_spec([EXPERTS]), gate=bottom_up(link="sigmoid"), selection=best(2)
    )(dim=DIM)
    (rule, among), factor = ROWS[key]
    x = torch.randn(100, DIM)
    _, routing = layer(x)
    rate = eval(factor, {}, {"u": 0.002, "R": 200})
    controller = BiasController(rate=rate, rule=rule, among=among)  # type: ignore[arg-type]
    controller.attach(layer)
    controller.step(layer, routing.load_N)
    theirs_E = 0.002 * their_step(key, routing.load_E)
    assert layer.bias_N is not None
    offset_E = layer.bias_N - theirs_E
    # A centred bias is another one for all alike, and chooses the same experts.
    assert torch.allclose(offset_E, offset_E.mean().expand(EXPERTS), atol=1e-6)
    assert key == "bias_centred" or torch.allclose(offset_E, torch.zeros(EXPERTS), atol=1e-6)
    assert theirs_E.abs().max() > 0.001
    _, ours = layer(x)
    layer.bias_N.copy_(theirs_E)
    _, theirs = layer(x)
    assert torch.equal(ours.expert_R, theirs.expert_R)
