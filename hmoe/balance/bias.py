"""BiasController: balance without a loss. The load of this step moves the gate bias of the next.

This is one of the two loops of hmoe that lead back.

Letters: N nodes.
"""

from collections.abc import Sequence
from typing import Literal

import torch
from torch import Tensor

from hmoe.balance.ranks import over_ranks
from hmoe.errors import ConfigError, check_names
from hmoe.layer import HMoE, Scores, expert_choice
from hmoe.layer.checks import per_level
from hmoe.layer.tree import ROOT
from hmoe.layer.tree_ops import at_parents


class BiasController:
    """Raise the bias of nodes that got too few rows, lower it where there were too many.

    DeepSeek-AI (2024) and Wang et al. (2024), b += rate * sign(mean load - load). The gate decides
    what the bias is added to: a bottom-up gate adds it to the weights after the link, as published;
    a top-down gate to the raw scores before it, because a product of factors down a path must not
    turn negative. Only choices are biased, never weights.

    Args:
        rate: step of the bias, in units of what it is added to; one, or one a level. 0 leaves a
            level alone.
        rule: "sign" moves a node by `rate`; "size" by `rate` times its lack of rows as a share
            of the rows it is compared with.
        among: "siblings" compares a node with its siblings: its even load is its share, by experts
            below, of what its parent received. "experts" compares each expert with all others and
            moves no unit, as DeepSeek-V3 does; units must then feel the biases below them.

    Raises:
        ConfigError: a negative rate, or none that is positive; an unknown name.
    """

    def __init__(
        self,
        *,
        rate: float | Sequence[float],
        rule: Literal["sign", "size"],
        among: Literal["siblings", "experts"],
    ) -> None:
        rates = list(rate) if isinstance(rate, Sequence) else [rate]
        if min(rates, default=0) < 0 or max(rates, default=0) == 0:
            raise ConfigError(
                f"balance.bias.rate = {rate}: must be positive, on some level at least; "
                "balance=none has no bias."
            )
        check_names("balance.bias.rule", [rule], ("sign", "size"))
        check_names("balance.bias.among", [among], ("siblings", "experts"))
        self.rate = rate
        self.rule = rule
        self.among = among

    def attach(self, layer: HMoE) -> None:
        """Make room for the bias in a layer.

        Raises:
            ConfigError: a selection without a choice to steer, a list of rates of another length,
                experts' biases that cannot move the load between units.
        """
        per_level("balance.bias.rate", self.rate, layer.tree.num_levels)
        _check_choice(layer)
        if self.among == "experts":
            _check_units(layer)
        layer.add_bias()

    @torch.no_grad()
    def step(self, layer: HMoE, load_N: Tensor) -> None:
        """Move the bias of one layer by the rows asked of its nodes since the last step.

        In a distributed run these are the rows of all processes.
        """
        assert layer.bias_N is not None, "attach comes first"
        tree = layer.tree
        load_N = over_ranks(load_N)
        below_N = tree.index("num_below_N", load_N.device)
        if self.among == "siblings":
            whole_load_N, whole_below_N = at_parents(load_N, tree), at_parents(below_N, tree)
        else:
            whole_load_N = load_N[tree.level_slices[0]].sum().expand_as(load_N)
            whole_below_N = torch.full_like(below_N, tree.num_experts)
        # Whole numbers: shares such as 3/5 round, and would call an even load uneven.
        lack_N = whole_load_N * below_N - load_N * whole_below_N
        if self.among == "experts":
            lack_N = lack_N * tree.index("is_expert_N", load_N.device)
        if self.rule == "sign":
            move_N = lack_N.sign()
        else:
            move_N = lack_N / (whole_load_N.clamp(min=1) * whole_below_N)
        rates = per_level("balance.bias.rate", self.rate, tree.num_levels)
        for rate, here in zip(rates, tree.level_slices, strict=True):
            layer.bias_N[here] += rate * move_N[here]


def _check_choice(layer: HMoE) -> None:
    if getattr(layer.selection, "func", layer.selection) is expert_choice:
        raise ConfigError(
            "balance.bias: under selection=expert_choice every expert takes as many tokens as any "
            "other, so there is no load to steer. Use balance=none."
        )
    if layer.try_out(1).token_R.numel() == layer.tree.num_experts * layer.gate.num_heads:
        raise ConfigError(
            "balance.bias: the selection sends every token to every expert, so there is no load "
            "to steer. Use balance=none, or a selection that chooses."
        )


def _check_units(layer: HMoE) -> None:
    """Lift all experts of one unit alike: do they gain on the rest?"""
    tree = layer.tree
    unit = tree.parent_N[-1]
    if unit == ROOT:
        return
    scores = layer.try_out(1).scores
    bias_N = (tree.index("parent_N", torch.device("cpu")) == unit).float()
    # A gate that looks at chosen units only weighs them from the top down.
    if not isinstance(scores, Scores) or torch.allclose(
        layer.gate.choose(scores, None).weight_TN, layer.gate.choose(scores, bias_N).weight_TN
    ):
        raise ConfigError(
            "balance.bias.among = experts: this gate weighs units without looking at the biases of "
            "their experts, so these cannot move the load between units. Use gate=bottom_up, or "
            "balance.bias.among=siblings."
        )
