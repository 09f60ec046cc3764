"""Branch: a binary tree of linear nodes, each centred on the tokens that arrive at it.

BRANCH-MoE (2026, arXiv 2610.06725), as second-hand notes describe it; the paper was not read. A
unit sends a token to its first child with probability sigmoid(f(x) - a). While it trains, the
anchor a is the mean of f over the batch, each token counted as much as it arrives at the unit;
afterwards it is a moving average of those means. So every unit parts what arrives about its middle,
and the load is to be even without a loss. Ours, for want of a word on it: the arrivals are
constants of the gradient, the means are not; f has no bias, which the anchor would take away; the
average starts at zero.

Letters: T tokens, D width, N nodes, U units that decide, P units of a level.
"""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from hmoe.errors import ConfigError
from hmoe.layer.gates import TopDown
from hmoe.layer.scorers import Score
from hmoe.layer.scores import Scores
from hmoe.layer.tree import Tree


class Branch(TopDown):
    """Units that part their tokens in two, about the mean of what arrives.

    Args:
        tree: the organisation; every unit has two children.
        dim: width D of a token.
        init_std: standard deviation of the initial weights.
        decay: share of the moving average that a training step keeps.

    Raises:
        ConfigError: a unit with another number of children, a decay outside [0, 1).
    """

    anchor_U: Tensor

    def __init__(self, *, tree: Tree, dim: int, init_std: float, decay: float) -> None:
        sizes = {block.size for level in tree.blocks for block in level}
        if sizes != {2}:
            raise ConfigError(
                f"gate: branch parts tokens in two, but tree {tree} has units of {max(sizes)} "
                "children. Use a binary tree such as tree.spec=[2,2,2,2], or gate=top_down."
            )
        if not 0 <= decay < 1:
            raise ConfigError(f"gate.decay = {decay}: must be at least 0 and less than 1.")
        super().__init__(
            tree=tree,
            dim=dim,
            score="linear",
            width=None,
            init_std=init_std,
            temperature=1.0,
            noise="none",
            link="softmax",
        )
        self.decay = decay
        num_units = tree.num_nodes // 2
        self.weight_UD = nn.Parameter(torch.randn(num_units, dim) * init_std)
        self.register_buffer("anchor_U", torch.zeros(num_units))

    def forward(self, x_TD: Tensor, key_T: Tensor | None = None) -> Scores:
        with torch.autocast(x_TD.device.type, enabled=False):
            raw_TU = F.linear(x_TD.float(), self.weight_UD.float())
            return self.read(self._centred(raw_TU))

    def _centred(self, raw_TU: Tensor) -> Tensor:
        """Raw scores of nodes, half of f - a for first children and minus that for second ones.

        Their softmax is the sigmoid of f - a.
        """
        units = set(self.tree.parent_N)
        arrival_TP = torch.ones_like(raw_TU[:, :1])
        logits, anchors, start = [], [], 0
        for here in self.tree.level_slices:
            stop = start + arrival_TP.shape[1]
            raw_TP, anchor_P = raw_TU[:, start:stop], self.anchor_U[start:stop]
            if self.training:
                total_P = arrival_TP.sum(0).clamp(min=torch.finfo(torch.float32).tiny)
                anchor_P = (arrival_TP * raw_TP).sum(0) / total_P
            half_TP = (raw_TP - anchor_P) / 2
            pair_TP2 = torch.stack([half_TP, -half_TP], -1)
            arrival_Tn = (arrival_TP.unsqueeze(-1) * pair_TP2.detach().softmax(-1)).flatten(-2)
            deciding = [node - here.start for node in range(here.start, here.stop) if node in units]
            arrival_TP = arrival_Tn[:, deciding]
            logits.append(pair_TP2.flatten(-2))
            anchors.append(anchor_P)
            start = stop
        if self.training:
            with torch.no_grad():
                mean_U = torch.cat(anchors).to(self.anchor_U.dtype)
                self.anchor_U.lerp_(mean_U, 1 - self.decay)
        return torch.cat(logits, -1)

    def _runs(self) -> list[tuple[Score, Tensor]]:
        return []  # units score, and nodes do not
