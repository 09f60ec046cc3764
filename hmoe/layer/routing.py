"""Routing: who works on what. Data without algorithm, passed on and returned, never stashed.

One row is one token sent to one expert. Rows hold token choice (R = T K), ragged descent (K differs
between tokens), expert choice (R = E C), dropped tokens (a missing row) and the soft mixture
(R = T E) alike. With several heads T counts the tokens of all heads, head by head.

Letters: T tokens, R rows, K experts per token, N nodes, E experts.
"""

from dataclasses import dataclass, replace

import torch
from torch import Tensor

from hmoe.errors import HmoeError
from hmoe.layer.once import once
from hmoe.layer.scores import Scores, Unscored
from hmoe.layer.tree import Tree
from hmoe.layer.tree_ops import path_product, sum_below


@dataclass(frozen=True, eq=False)
class Routing:
    """The decisions of one mixture layer for T tokens.

    Attributes:
        scores: what the gate said of every node; `Unscored` after a lazy descent.
        token_R: int64, token of each row, ascending.
        expert_R: int64, expert of each row.
        weight_R: factor of the row in the token's sum; differentiable.
        num_sequences: the tokens are those of this many sequences of equal length, one after the
            other; None for tokens that form no sequences.
        asked: the rows before a capacity took some of them away; None where nothing did.
    """

    scores: Scores | Unscored
    token_R: Tensor
    expert_R: Tensor
    weight_R: Tensor
    num_sequences: int | None = None
    asked: "Routing | None" = None

    @classmethod
    def from_choice(
        cls, scores: Scores | Unscored, expert_TK: Tensor, weight_TK: Tensor
    ) -> "Routing":
        """Routing of a rule that sends every token to exactly K experts."""
        num_tokens, k = expert_TK.shape
        token_T = torch.arange(num_tokens, device=expert_TK.device)
        return cls(scores, token_T.repeat_interleave(k), expert_TK.flatten(), weight_TK.flatten())

    @property
    def tree(self) -> Tree:
        return self.scores.tree

    @property
    def scored(self) -> Scores:
        """The scores of all nodes.

        Raises:
            HmoeError: a lazy descent has none.
        """
        if isinstance(self.scores, Unscored):
            raise HmoeError("a lazy descent has no scores of all nodes; use HMoE where they matter")
        return self.scores

    @property
    def probs_TN(self) -> Tensor:
        """P(node | parent), float32; differentiable. Errors are those of `scored`."""
        return self.scored.probs_TN

    @property
    def num_tokens(self) -> int:
        return self.scores.num_tokens

    @once
    def before_drops(self) -> "Routing":
        """What was asked for: balance and load are about the gate, not about what fits."""
        if self.asked is None:
            return self
        return replace(self.asked, num_sequences=self.num_sequences)

    @once
    def load_E(self) -> Tensor:
        """int64, rows that each expert receives. Counted without waiting for the device."""
        load_E = self.expert_R.new_zeros(self.tree.num_experts)
        return load_E.index_add(0, self.expert_R, torch.ones_like(self.expert_R))

    @once
    def load_N(self) -> Tensor:
        """int64, rows at or below each node."""
        return sum_below(self.load_E, self.tree)

    @once
    def rows_TN(self) -> Tensor:
        """float32, rows of each token at or below each node; no gradient."""
        return self.sum_rows(torch.ones_like(self.weight_R, dtype=torch.float32).detach())

    def sum_rows(self, value_R: Tensor) -> Tensor:
        """Sum of a value of rows, for each token at or below each node. (R,) -> (T, N)."""
        value_TE = value_R.new_zeros(self.num_tokens, self.tree.num_experts)
        value_TE = value_TE.index_put((self.token_R, self.expert_R), value_R, accumulate=True)
        return sum_below(value_TE, self.tree)

    @once
    def reach_TN(self) -> Tensor:
        """P(node | root), float32; differentiable."""
        return path_product(self.probs_TN, self.tree)
