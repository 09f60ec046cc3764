"""BiasController: balance without a loss. The load of this step moves the gate bias of the next.

This is one of the two loops of hmoe that lead back.
"""

from typing import Literal

import torch
from torch import Tensor

from hmoe.errors import ConfigError
from hmoe.layer import HMoE
from hmoe.layer.tree import ROOT


class BiasController:
    """Raise the bias of nodes that got too few rows, lower it where there were too many.

    DeepSeek-AI (2024) and Wang et al. (2024), b += rate * sign(mean load - load), at every sibling
    group of a tree: a node's even load is its share, by experts below, of what its parent received.
    We differ in where the bias enters: it is added to the scores before the softmax among
    siblings, not after, because a product of probabilities down a path must not turn negative.

    Args:
        rate: step of the bias, in units of the gate's scores.
        rule: "sign" moves every node by `rate`; "size" by `rate` times its lack of rows as a share
            of its parent's rows.

    Raises:
        ConfigError: a rate that is not positive.
    """

    def __init__(self, *, rate: float, rule: Literal["sign", "size"]) -> None:
        if rate <= 0:
            raise ConfigError(
                f"balance.bias.rate = {rate}: must be positive; balance=none has no bias."
            )
        self.rate = rate
        self.rule = rule

    @torch.no_grad()
    def step(self, layer: HMoE, load_N: Tensor) -> None:
        """Move the bias of one layer by the rows its nodes received since the last step."""
        assert layer.bias_N is not None, "HMoE.add_bias comes first"
        tree = layer.tree
        below_N = tree.index("num_below_N", load_N.device)
        parent_N = tree.index("parent_N", load_N.device)
        top, above_N = parent_N == ROOT, parent_N.clamp(min=0)
        root_load = load_N[tree.level_slices[0]].sum()
        parent_load_N = torch.where(top, root_load, load_N[above_N])
        parent_below_N = torch.where(top, tree.num_experts, below_N[above_N])
        # Whole numbers: shares such as 3/5 round, and would call an even load uneven.
        lack_N = parent_load_N * below_N - load_N * parent_below_N
        if self.rule == "sign":
            layer.bias_N += self.rate * lack_N.sign()
        else:
            layer.bias_N += self.rate * lack_N / (parent_load_N.clamp(min=1) * parent_below_N)
