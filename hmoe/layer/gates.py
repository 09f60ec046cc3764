"""Gates: score every node of the tree for every token.

A gate is one matrix. Because siblings and levels are contiguous in node order, `x_TD @ W_DN` scores
the whole organisation in one product; the tree enters only through `tree_ops`. Scores are computed
in float32 whatever the autocast: a softmax over near ties decides who works.

Letters: T tokens, D width, N nodes, E experts.
"""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from hmoe.layer.tree import Tree
from hmoe.layer.tree_ops import pool_logsumexp


class TopDown(nn.Module):
    """Every node has its own weights: logits = x W + b, softmax among siblings.

    Jordan & Jacobs (1994), eq. 2-3; Shazeer et al. (2017), appendix B. We differ in the bias: it
    starts at log(experts below the node), so that on a ragged tree every expert, not every unit,
    is equally likely at first. On a uniform tree this is a constant among siblings, that is, zero.

    Args:
        tree: the organisation.
        dim: width D of a token.
        init_std: standard deviation of the initial weights.
    """

    def __init__(self, *, tree: Tree, dim: int, init_std: float) -> None:
        super().__init__()
        self.weight_ND = nn.Parameter(torch.randn(tree.num_nodes, dim) * init_std)
        below_N = tree.index("num_below_N", self.weight_ND.device)
        self.bias_N = nn.Parameter(below_N.to(self.weight_ND.dtype).log())

    def forward(self, x_TD: Tensor) -> Tensor:
        """(T, D) of any dtype -> logits (T, N), float32."""
        return _linear_float32(x_TD, self.weight_ND, self.bias_N)


class BottomUp(nn.Module):
    """Only experts have weights; a unit's score is the log-sum-exp of the scores below it.

    The organisation then changes which experts compete with which under a beam or a descent, and
    nothing else: taken down the tree, the probabilities are the flat softmax over the experts.

    Args:
        tree: the organisation.
        dim: width D of a token.
        init_std: standard deviation of the initial weights.
    """

    def __init__(self, *, tree: Tree, dim: int, init_std: float) -> None:
        super().__init__()
        self.tree = tree
        self.weight_ED = nn.Parameter(torch.randn(tree.num_experts, dim) * init_std)
        self.bias_E = nn.Parameter(torch.zeros(tree.num_experts))

    def forward(self, x_TD: Tensor) -> Tensor:
        """(T, D) of any dtype -> logits (T, N), float32."""
        return pool_logsumexp(_linear_float32(x_TD, self.weight_ED, self.bias_E), self.tree)


def _linear_float32(x_TD: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
    with torch.autocast(x_TD.device.type, enabled=False):
        return F.linear(x_TD.float(), weight.float(), bias.float())
