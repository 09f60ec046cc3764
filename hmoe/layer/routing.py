"""Routing: who works on what. Data without algorithm, passed on and returned, never stashed.

One row is one token sent to one expert. Rows hold token choice (R = T K), ragged descent (K differs
between tokens), dropped tokens (a missing row) and the soft mixture (R = T E) alike.

Letters: T tokens, R rows, K experts per token, N nodes, E experts.
"""

from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor

from hmoe.layer.tree import Tree
from hmoe.layer.tree_ops import at_experts, path_product, sum_below


@dataclass(frozen=True, eq=False)
class Routing:
    """The decisions of one mixture layer for T tokens.

    Attributes:
        tree: the organisation.
        token_R: int64, token of each row, ascending.
        expert_R: int64, expert of each row.
        weight_R: factor of the row in the token's sum; differentiable.
        probs_TN: P(node | parent), float32; differentiable.
        logits_TN: raw scores of the gate, float32; differentiable. None until the layer adds them.
    """

    tree: Tree
    token_R: Tensor
    expert_R: Tensor
    weight_R: Tensor
    probs_TN: Tensor
    logits_TN: Tensor | None = None

    @classmethod
    def from_choice(
        cls, tree: Tree, expert_TK: Tensor, weight_TK: Tensor, probs_TN: Tensor
    ) -> "Routing":
        """Routing of a rule that sends every token to exactly K experts."""
        num_tokens, k = expert_TK.shape
        token_T = torch.arange(num_tokens, device=expert_TK.device)
        return cls(
            tree, token_T.repeat_interleave(k), expert_TK.flatten(), weight_TK.flatten(), probs_TN
        )

    @property
    def num_tokens(self) -> int:
        return self.probs_TN.shape[0]

    @cached_property
    def load_E(self) -> Tensor:
        """int64, rows that each expert receives. Counted without waiting for the device."""
        load_E = self.expert_R.new_zeros(self.tree.num_experts)
        return load_E.index_add(0, self.expert_R, torch.ones_like(self.expert_R))

    @cached_property
    def load_N(self) -> Tensor:
        """int64, rows at or below each node."""
        return sum_below(self.load_E, self.tree)

    @cached_property
    def rows_TN(self) -> Tensor:
        """float32, rows of each token at or below each node; no gradient."""
        rows_TE = torch.zeros(self.num_tokens, self.tree.num_experts, device=self.probs_TN.device)
        one_R = torch.ones_like(self.weight_R, dtype=rows_TE.dtype).detach()
        rows_TE.index_put_((self.token_R, self.expert_R), one_R, accumulate=True)
        return sum_below(rows_TE, self.tree)

    @cached_property
    def reach_TN(self) -> Tensor:
        """P(node | root), float32; differentiable."""
        return path_product(self.probs_TN, self.tree)

    @property
    def importance_E(self) -> Tensor:
        """Probability mass that each expert receives; differentiable."""
        return at_experts(self.reach_TN, self.tree).sum(0)
