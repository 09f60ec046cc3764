"""Balance: the terms a run adds to its task loss, and its bias controller."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import NamedTuple

import torch
from torch import Tensor, nn

from hmoe.balance.bias import BiasController
from hmoe.balance.cv import load_cv2
from hmoe.errors import ConfigError
from hmoe.layer import HMoE, Routing, Scores


class Term(NamedTuple):
    """One balance loss and its weight: one number for all levels, or one a level."""

    loss: Callable[[Routing], dict[str, Tensor]]
    weight: float | Sequence[float]


class Balance:
    """What uneven load costs in this run.

    Args:
        terms: name -> {"loss": function of a Routing, "weight": number or one number a level}.
        bias: the bias controller, or None.

    Raises:
        ConfigError: a weight that is not a number of at least 0.
    """

    def __init__(self, *, terms: Mapping[str, Mapping], bias: BiasController | None) -> None:
        self.terms = {name: Term(**term) for name, term in terms.items()}
        for name, term in self.terms.items():
            _check_weight(name, term.weight)
        self.bias = bias

    def attach(self, model: nn.Module) -> None:
        """Prepare every mixture layer of the model. Call once, before weights are loaded.

        Every term is tried on made-up tokens, so that a mistake is told before any work starts.

        Raises:
            ConfigError: a term with another number of weights than the tree has levels, or that
                cannot work on this layer, or that the gate has no influence on; a bias controller
                where there is no choice to steer.
        """
        # A model that does not say what it reads is taken to know.
        reads_sequences = getattr(model, "input_kind", "tokens") == "tokens"
        for layer in mixture_layers(model):
            for name, term in self.terms.items():
                weights = _weights(name, term.weight, layer.tree.num_levels)
                _try_term(name, term, weights, layer, reads_sequences)
            if self.bias is not None:
                self.bias.attach(layer)

    def loss(self, routings: Sequence[Routing]) -> tuple[Tensor | float, dict[str, Tensor]]:
        """The weighted sum over terms, levels and layers, and each value as a mean over layers.

        The values are unweighted, keyed "term/level_n", detached. Every layer is measured by
        itself: layers that collapse on different experts do not make each other look even.
        """
        total: Tensor | float = 0.0
        values: dict[str, list[Tensor]] = {}
        for routing in routings:
            for name, term in self.terms.items():
                weights = _weights(name, term.weight, routing.tree.num_levels)
                for weight, (level, value) in zip(weights, term.loss(routing).items(), strict=True):
                    total = total + weight * value
                    values.setdefault(f"{name}/{level}", []).append(value.detach())
        return total, {key: torch.stack(layers).mean() for key, layers in values.items()}

    def step(self, model: nn.Module, routings: Sequence[Routing]) -> None:
        """Let the bias controller answer the loads of one optimiser step."""
        if self.bias is not None:
            for layer, routing in zip(mixture_layers(model), routings, strict=True):
                self.bias.step(layer, routing.before_drops.load_N)


def mixture_layers(model: nn.Module) -> list[HMoE]:
    """All mixture layers of a model, in the order in which it returns their routings."""
    return [module for module in model.modules() if isinstance(module, HMoE)]


def _try_term(
    name: str, term: Term, weights: Sequence[float], layer: HMoE, reads_sequences: bool
) -> None:
    routing = layer.try_out(2)
    if not isinstance(routing.scores, Scores):
        raise ConfigError(
            f"balance.terms.{name}: losses need the scores of all nodes, and a gate that looks at "
            "chosen units only has none. Use balance=bias or balance=none."
        )
    if reads_sequences:
        routing = replace(routing, num_sequences=layer.gate.num_heads)
    if getattr(term.loss, "func", term.loss) is load_cv2:
        _check_noise(name, weights, routing.scores)
    try:
        values = term.loss(routing)
    except ConfigError as error:
        raise ConfigError(f"balance.terms.{name}.loss: {error}") from error
    for level, (weight, value) in enumerate(zip(weights, values.values(), strict=True)):
        if weight and not value.requires_grad:
            raise ConfigError(
                f"balance.terms.{name}.weight = {weight} on level_{level}: the gate has no "
                "influence on this loss, so it would change nothing. Use 0, or another loss."
            )


def _check_noise(name: str, weights: Sequence[float], scores: Scores) -> None:
    """A smooth load has a gradient on levels with learnt noise only."""
    for level, (weight, here) in enumerate(zip(weights, scores.tree.level_slices, strict=True)):
        if weight and (scores.noise_TN is None or not scores.noise_TN[:, here].all()):
            raise ConfigError(
                f"balance.terms.{name}.weight = {weight} on level_{level}: load_cv2 asks what new "
                "noise would change, and this gate learns none there. Use gate.noise=learned, or "
                "0 on this level."
            )


def _check_weight(name: str, weight: object) -> None:
    weights = weight if isinstance(weight, list | tuple) else [weight]
    for one in weights:
        if isinstance(one, bool) or not isinstance(one, int | float) or one < 0:
            raise ConfigError(
                f"balance.terms.{name}.weight = {weight!r}: must be a number of at least 0, or a "
                "list of such numbers, one a level."
            )


def _weights(name: str, weight: float | Sequence[float], levels: int) -> list[float]:
    weights = [weight] * levels if isinstance(weight, int | float) else list(weight)
    if len(weights) != levels:
        raise ConfigError(
            f"balance.terms.{name}.weight = {weights}: {len(weights)} numbers given, {levels} "
            "expected, one a level of the tree (or one number for all)."
        )
    return weights
