"""docs/balance.md keeps its word: formulas of other libraries on the same state, times its factors.

Every formula is typed anew from its definition: T tokens, E experts, k per token, p probabilities,
n tokens sent to an expert. Factors, values at equal load, and which loss of ours they belong to are
read from the page.
"""

import re
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

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
from hmoe.layer import Choice, Routing, Scores, Tree
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
LAYERS, BATCH, POSITIONS, EXPERTS, WORKERS = 3, 4, 12, 6, 2


class State(NamedTuple):
    """What the gate of one layer said and decided."""

    routing: Routing
    p: Tensor  # (T, E) probability of each expert
    sent: Tensor  # (T, E) 1 where a token is sent

    @property
    def k(self) -> int:
        return int(self.sent[0].sum())

    @property
    def n(self) -> Tensor:
        return self.sent.sum(0)


def states(
    k: int,
    spec: Sequence[int] = (EXPERTS,),
    gate: Any = None,
    selection: Any = None,
    alike: bool = False,
) -> list[State]:
    """Layers with a skewed gate each, on the same tokens; `alike`, the same gate in each."""
    x = torch.randn(BATCH, POSITIONS, DIM)
    result = []
    for seed in range(LAYERS):
        torch.manual_seed(0 if alike else seed)
        make = layer_of(
            tree=Tree.from_spec(spec), gate=gate or top_down(), selection=selection or best(k)
        )
        layer = make(dim=DIM)
        with torch.no_grad():
            for name, parameter in layer.gate.named_parameters():
                if name.endswith("bias_M"):
                    parameter += torch.randn_like(parameter)
        result.append(state(layer(x)[1]))
    return result


def state(routing: Routing) -> State:
    node_E = list(routing.tree.node_E)
    return State(routing, routing.reach_TN[:, node_E].detach(), routing.rows_TN[:, node_E])


def even_state(k: int) -> State:
    """Every expert gets as many tokens of every sequence as any other, from a gate that is sure."""
    tree = Tree.from_spec([EXPERTS])
    first_T = torch.arange(BATCH * POSITIONS)
    logits_TN = torch.zeros(len(first_T), EXPERTS)
    for rank in range(k):
        logits_TN[first_T, (first_T + rank) % EXPERTS] = 30.0 - 0.5 * rank
    probs_TN = logits_TN.softmax(-1)
    noise_TN = torch.full_like(logits_TN, 0.1)
    scores = Scores(tree, logits_TN, probs_TN, probs_TN, probs_TN, logits_TN, noise_TN)
    return state(best(k)(scores, Choice(probs_TN, probs_TN)))


# ------------------------------------------------------------------ their formulas, coefficient 1


def switch(s: State) -> Tensor:
    tokens = len(s.p)
    return EXPERTS * (s.n / tokens * s.p.mean(0)).sum()


def first_choice(s: State) -> Tensor:
    first = torch.nn.functional.one_hot(s.p.argmax(-1), EXPERTS).float()
    return (s.p.mean(0) * first.mean(0)).mean() * EXPERTS * EXPERTS


def deepspeed_topk(s: State) -> Tensor:
    return (s.p.mean(0) * s.sent.mean(0)).mean() * EXPERTS * EXPERTS / s.k


def megatron(s: State) -> Tensor:
    tokens = len(s.p)
    return (s.p.sum(0) * s.n).sum() * EXPERTS / (s.k * tokens * tokens)


def by_sequence(s: State) -> Tensor:
    """Megatron folds the batch into the experts and divides by it."""
    p = s.p.view(BATCH, POSITIONS, EXPERTS).sum(1)
    n = s.sent.view(BATCH, POSITIONS, EXPERTS).sum(1)
    return (p * n).sum() * EXPERTS / (s.k * POSITIONS * POSITIONS) / BATCH


def deepseek_sequence(s: State) -> Tensor:
    """f = E / (k T) counts, P = mean of s / sum s, of each sequence; s is the sigmoid."""
    scores = s.routing.scores.logits_TN.sigmoid()
    share = (scores / scores.sum(-1, keepdim=True)).view(BATCH, POSITIONS, EXPERTS)
    count = s.sent.view(BATCH, POSITIONS, EXPERTS).sum(1)
    return (EXPERTS / (s.k * POSITIONS) * count * share.mean(1)).sum(-1).mean()


def deepseek_devices(s: State) -> Tensor:
    """f' of a device is the mean f of its experts, P' the sum of their P; two devices of three."""
    f = EXPERTS / (s.k * len(s.p)) * s.n
    return (f.view(2, 3).mean(1) * s.p.mean(0).view(2, 3).sum(1)).sum()


def olmo(s: State) -> Tensor:
    return EXPERTS / s.k * torch.dot(s.n, s.p.mean(0)) / len(s.p)


def sonic(s: State) -> Tensor:
    mass = s.p.sum(0)
    return EXPERTS * (mass / mass.sum() * s.n / s.n.sum()).sum()


def fastmoe(s: State) -> Tensor:
    return (s.sent.mean(0) * s.p.mean(0)).mean() * (EXPERTS // WORKERS) ** 2


def cv2(values: Sequence[float] | Tensor) -> Tensor:
    values = torch.as_tensor(values)
    return values.var(correction=0) / values.mean() ** 2


def importance(s: State) -> Tensor:
    gates = torch.zeros_like(s.p)
    for t, e, w in zip(s.routing.token_R, s.routing.expert_R, s.routing.weight_R, strict=True):
        gates[t, e] = w.detach()
    return cv2(gates.sum(0))


def chance(clean: Tensor, noisy: Tensor, noise: Tensor, k: int) -> Tensor:
    """P(t, i) with the k-th highest of the others, expert by expert."""
    columns = []
    for i in range(clean.shape[-1]):
        others = torch.cat([noisy[:, :i], noisy[:, i + 1 :]], -1)
        threshold = others.sort(-1, descending=True).values[:, k - 1]
        columns.append(
            torch.distributions.Normal(0, 1).cdf((clean[:, i] - threshold) / noise[:, i])
        )
    return torch.stack(columns, -1)


def noise_of(s: State, nodes: slice) -> tuple[Tensor, Tensor, Tensor]:
    scores = s.routing.scores
    assert scores.clean_TN is not None
    assert scores.noise_TN is not None
    return scores.clean_TN[:, nodes], scores.logits_TN[:, nodes], scores.noise_TN[:, nodes]


def load(s: State) -> Tensor:
    return cv2(chance(*noise_of(s, slice(None)), s.k).sum(0))


def load_h(s: State) -> Tensor:
    """Load_primary_i Load_i(X_i)_j / |X_i|; k = 1 of two departments, then k = 1 of three."""
    primary = chance(*noise_of(s, slice(0, 2)), 1).sum(0)
    loads = []
    for i in range(2):
        here = s.sent[:, 3 * i : 3 * i + 3].any(-1)
        inner = [value[here] for value in noise_of(s, slice(2 + 3 * i, 5 + 3 * i))]
        loads.append(primary[i] * chance(*inner, 1).sum(0) / here.sum())
    return cv2(torch.cat(loads))


def z(s: State) -> Tensor:
    return s.routing.scores.logits_TN.logsumexp(-1).square().mean()


def leaf_entropy(s: State) -> Tensor:
    return torch.special.entr(s.p).sum(-1).mean()


def node_entropies(s: State) -> Tensor:
    """Sum over the seven nodes of a binary tree, mean over tokens; left is every other node."""
    left = s.routing.probs_TN[:, ::2]
    return (torch.special.entr(left) + torch.special.entr(1 - left)).sum(-1).mean()


def per_layer(formula: Callable[[State], Tensor]) -> Callable[[list[State]], Tensor]:
    return lambda layers: torch.stack([formula(layer) for layer in layers]).sum()


def megablocks(layers: list[State]) -> Tensor:
    n = torch.cat([s.n for s in layers])
    p = torch.cat([s.p.mean(0) for s in layers])
    tokens = len(layers[0].p)
    return EXPERTS / (len(layers) * tokens * layers[0].k) * torch.dot(n, p)


def transformers(layers: list[State]) -> Tensor:
    """Means over the tokens of all layers, one after the other; slots are summed, not averaged."""
    p = torch.cat([s.p for s in layers])
    slots = torch.cat([s.p.topk(s.k, -1).indices for s in layers])
    mask = torch.nn.functional.one_hot(slots, EXPERTS).float()
    return (mask.mean(0) * p.mean(0)).sum() * EXPERTS


Case = tuple[Callable[[list[State]], Tensor], Callable[[], list[State]]]
NOISY = top_down(noise="learned", init_std=0.3)
TWO = {"spec": (2, 3), "selection": down(1)}
BINARY = partial(states, 2, spec=(2, 2, 2))
CASES: dict[str, Case] = {
    "switch": (per_layer(switch), partial(states, 1)),
    "first_choice": (per_layer(first_choice), partial(states, 1)),
    "deepspeed_topk": (per_layer(deepspeed_topk), partial(states, 2)),
    "megatron": (per_layer(megatron), partial(states, 2)),
    "megatron_sequence": (per_layer(by_sequence), partial(states, 2)),
    "megatron_global": (per_layer(megatron), partial(states, 2)),
    "megablocks": (megablocks, partial(states, 2)),
    "olmo": (per_layer(olmo), partial(states, 2)),
    "sonic": (per_layer(sonic), partial(states, 2)),
    "transformers": (transformers, partial(states, 2, alike=True)),
    "fastmoe": (per_layer(fastmoe), partial(states, 1)),
    "deepseek_sequence": (
        per_layer(deepseek_sequence),
        partial(states, 2, gate=bottom_up(link="sigmoid")),
    ),
    "deepseek_devices": (
        per_layer(deepseek_devices),
        partial(states, 2, spec=(2, 3), gate=bottom_up()),
    ),
    "shazeer_importance": (per_layer(importance), partial(states, 2)),
    "shazeer_load": (per_layer(load), partial(states, 2, gate=NOISY)),
    "shazeer_importance_h": (per_layer(importance), partial(states, 1, **TWO)),
    "shazeer_load_h": (per_layer(load_h), partial(states, 1, gate=NOISY, **TWO)),
    "z": (per_layer(z), partial(states, 2)),
    "comet": (per_layer(leaf_entropy), BINARY),
    "fff": (per_layer(node_entropies), BINARY),
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
    value = theirs([even_state(uneven[0].k)]).item()
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
