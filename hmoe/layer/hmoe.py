"""HMoE: a mixture of experts whose gate is a tree. The algorithm in one forward.

Letters: T tokens, D width, N nodes, R rows.
"""

from collections.abc import Callable
from dataclasses import replace

import torch
from torch import Tensor, nn

from hmoe.layer.dispatch import combine, permute
from hmoe.layer.routing import Routing
from hmoe.layer.selection import Selection
from hmoe.layer.tree import Tree
from hmoe.layer.tree_ops import sibling_softmax


class HMoE(nn.Module):
    """A layer of experts organised as a tree.

    Args:
        tree: the organisation.
        gate: called as gate(tree=, dim=); the module scores every node for every token.
        selection: rule from probabilities to rows.
        experts: called as experts(num_experts=, dim=); the module answers rows in expert order.
        dim: width D of a token.

    Raises:
        ConfigError: the selection cannot work on this tree. It is tried on one token here, so
            that a mistake is told before any work starts.
    """

    # Added to the scores that choose, never to those that weigh; None without a bias controller.
    bias_N: Tensor | None

    def __init__(
        self,
        *,
        tree: Tree,
        gate: Callable[..., nn.Module],
        selection: Selection,
        experts: Callable[..., nn.Module],
        dim: int,
    ) -> None:
        super().__init__()
        self.tree = tree
        self.gate = gate(tree=tree, dim=dim)
        self.selection = selection
        self.experts = experts(num_experts=tree.num_experts, dim=dim)
        self.register_buffer("bias_N", None)
        with torch.device("cpu"):
            even_1N = sibling_softmax(torch.zeros(1, tree.num_nodes), tree)
            selection(tree, even_1N, even_1N)

    def add_bias(self) -> None:
        """Make room for a bias controller: a float32 buffer, one number a node, at zero."""
        device = next(self.parameters()).device
        self.bias_N = torch.zeros(self.tree.num_nodes, device=device)

    def forward(self, x: Tensor) -> tuple[Tensor, Routing]:
        """(..., D) -> (..., D) and the routing of the T tokens in the leading axes."""
        x_TD = x.reshape(-1, x.shape[-1])
        logits_TN = self.gate(x_TD)
        probs_TN = sibling_softmax(logits_TN, self.tree)
        choice_TN = probs_TN.detach()
        if self.bias_N is not None:
            choice_TN = sibling_softmax(logits_TN.detach() + self.bias_N, self.tree)
        routing = self.selection(self.tree, probs_TN, choice_TN)
        x_RD, order_R = permute(x_TD, routing)
        y_RD = self.experts(x_RD, routing.load_E)
        y_TD = combine(y_RD, order_R, routing)
        return y_TD.reshape(x.shape), replace(routing, logits_TN=logits_TN)
