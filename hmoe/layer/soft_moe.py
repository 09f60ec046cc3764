"""SoftMoE: experts work on mixtures of tokens, not on tokens. A layer beside HMoE, without rows.

Letters: G groups of tokens, T tokens of a group, D width, E experts, S slots of one expert, M = E S
slots in all, R rows.
"""

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from hmoe.errors import ConfigError
from hmoe.layer.streams import own_stream
from hmoe.layer.tree import Tree


class SoftMoE(nn.Module):
    """Every slot reads a weighted mean of all tokens, every token one of all slots' answers.

    Puigcerver et al. (2023), From Sparse to Soft Mixtures of Experts, with normalised scores: with
    S = scale x / |x| . phi / |phi|, X~ = softmax over tokens (S)^T X and Y = softmax over slots (S)
    f(X~). There are no decisions, hence no `Routing`, no load and nothing to balance. Scores are
    float32 whatever the autocast.

    A token's answer depends on all other tokens of its group, later ones too: do not read language
    model losses under it as those of a causal model. Where the batch is the group, it depends on
    the batch, in evaluation as well.

    Args:
        tree: the organisation; it must have one level.
        experts: called as experts(num_experts=, dim=); the module answers rows in expert order.
        slots: of one expert.
        group: tokens of a group in training, so that costs can be told for one token; any number
            will do in `forward`.
        dim: width D of a token.

    Raises:
        ConfigError: a tree with levels that nobody would ask, a count below 1.
    """

    def __init__(
        self,
        *,
        tree: Tree,
        experts: Callable[..., nn.Module],
        slots: int,
        group: int,
        dim: int,
    ) -> None:
        super().__init__()
        if tree.num_levels > 1:
            raise ConfigError(
                f"tree = {tree}: a Soft MoE mixes all tokens for all experts at once and would "
                f"ignore all levels but one. Use tree.spec=[{tree.num_experts}]."
            )
        for name, count in (("slots", slots), ("group", group)):
            if count < 1:
                raise ConfigError(f"ffn.{name} = {count}: must be at least 1.")
        self.tree = tree
        self.slots = slots
        self.group = group
        with own_stream():  # other slots leave the experts as they are
            self.phi_MD = nn.Parameter(torch.randn(tree.num_experts * slots, dim) * dim**-0.5)
        self.scale = nn.Parameter(torch.ones(()))
        self.experts = experts(num_experts=tree.num_experts, dim=dim)

    def forward(self, x: Tensor, key: Tensor | None = None) -> tuple[Tensor, None]:
        """(..., T, D) -> the same shape and no routing; each (T, D) is a group.

        Ids, for gates that look at ids, have no effect.
        """
        x_GTD = x.reshape(x.shape[:-2].numel(), *x.shape[-2:])
        logits_GTM = self.scores(x_GTD)
        slot_GMD = logits_GTM.softmax(1).to(x.dtype).transpose(1, 2) @ x_GTD
        # In expert order: the slots of an expert in all groups follow each other.
        slot_EGSD = slot_GMD.unflatten(1, (-1, self.slots)).transpose(0, 1)
        num_rows = slot_EGSD.shape[1] * self.slots
        load_E = torch.full((len(slot_EGSD),), num_rows, dtype=torch.int64, device=x.device)
        y_RD: Tensor = self.experts(slot_EGSD.reshape(-1, x.shape[-1]), load_E)
        y_GMD = y_RD.reshape(slot_EGSD.shape).transpose(0, 1).flatten(1, 2)
        y_GTD = logits_GTM.softmax(2).to(y_GMD.dtype) @ y_GMD
        return y_GTD.reshape(x.shape).to(x.dtype), None

    def scores(self, x_GTD: Tensor) -> Tensor:
        """Scaled cosines of tokens and slots, float32: (G, T, D) -> (G, T, M)."""
        with torch.autocast(x_GTD.device.type, enabled=False):
            token_GTD = F.normalize(x_GTD.float(), dim=-1)
            slot_MD = F.normalize(self.phi_MD.float(), dim=-1)
            cosine_GTM: Tensor = token_GTD @ slot_MD.T
            return self.scale.float() * cosine_GTM

    @property
    def experts_per_token(self) -> float:
        """Rows of the experts for each token of a group."""
        return len(self.phi_MD) / self.group
