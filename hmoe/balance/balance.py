"""Balance: the terms a run adds to its task loss, and its bias controller."""

from collections.abc import Callable, Mapping, Sequence
from typing import NamedTuple

import torch
from torch import Tensor, nn

from hmoe.balance.bias import BiasController
from hmoe.errors import ConfigError
from hmoe.layer import HMoE, Routing


class Term(NamedTuple):
    """One balance loss and its weight: one number for all levels, or one a level."""

    loss: Callable[[Routing], dict[str, Tensor]]
    weight: float | Sequence[float]


class Balance:
    """What uneven load costs in this run.

    Args:
        terms: name -> {"loss": function of a Routing, "weight": number or one number a level}.
        bias: the bias controller, or None.
    """

    def __init__(self, *, terms: Mapping[str, Mapping], bias: BiasController | None) -> None:
        self.terms = {name: Term(**term) for name, term in terms.items()}
        self.bias = bias

    def attach(self, model: nn.Module) -> None:
        """Prepare every mixture layer of the model. Call once, before weights are loaded.

        Raises:
            ConfigError: a term has another number of weights than the tree has levels; a term where
                a lazy descent scores but a few nodes; a bias controller where there is no choice to
                steer.
        """
        for layer in mixture_layers(model):
            for name, term in self.terms.items():
                _weights(name, term.weight, layer.tree.num_levels)
                _check_scores(name, layer)
            if self.bias is not None:
                _check_choice(layer)
                layer.add_bias()

    def loss(self, routings: Sequence[Routing]) -> tuple[Tensor | float, dict[str, Tensor]]:
        """The weighted sum over terms, levels and layers, and each value as a mean over layers.

        The values are unweighted, keyed "term/level_n", detached.
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
                self.bias.step(layer, routing.load_N)


def mixture_layers(model: nn.Module) -> list[HMoE]:
    """All mixture layers of a model, in the order in which it returns their routings."""
    return [module for module in model.modules() if isinstance(module, HMoE)]


def _check_scores(name: str, layer: HMoE) -> None:
    if not layer.scores_all_nodes:
        raise ConfigError(
            f"balance.terms.{name}: a loss on the scores of all nodes, and a lazy descent "
            "makes but a few. Use balance=none, balance=bias, or ffn@model.ffn=hmoe."
        )


def _check_choice(layer: HMoE) -> None:
    if layer.try_out(1).token_R.numel() == layer.tree.num_experts * layer.gate.num_heads:
        raise ConfigError(
            "balance.bias: the selection sends every token to every expert, so there is no load "
            "to steer. Use balance=none, or a selection that chooses."
        )


def _weights(name: str, weight: float | Sequence[float], levels: int) -> list[float]:
    weights = [weight] * levels if isinstance(weight, int | float) else list(weight)
    if len(weights) != levels:
        raise ConfigError(
            f"balance.terms.{name}.weight = {weights}: {len(weights)} numbers given, {levels} "
            "expected, one a level of the tree (or one number for all)."
        )
    return weights
