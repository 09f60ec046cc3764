"""BottomUp: a gate that scores experts only; units are what their experts make of them.

Letters: T tokens, D width, N nodes, E experts.
"""

from collections.abc import Callable
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor

from hmoe.errors import check_names
from hmoe.layer.checks import check_temperatures
from hmoe.layer.gates import Gate
from hmoe.layer.scorers import SCORERS, Score, check_scorers
from hmoe.layer.scores import Choice, Scores
from hmoe.layer.tree import Tree
from hmoe.layer.tree_ops import (
    at_experts,
    path_product,
    pool,
    pool_logsumexp,
    sibling_softmax,
    sum_below,
)

Pool = Literal["logsumexp", "max", "top_2_sum"]
_POOLS: dict[str, Callable[[Tensor], Tensor]] = {
    # Values, not logs: the sum of values is the exponential of the log-sum-exp.
    "logsumexp": lambda group: group.sum(-1),
    "max": lambda group: group.amax(-1),
    "top_2_sum": lambda group: group.topk(2, -1).values.sum(-1),
}


class BottomUp(Gate):
    """Only experts have weights; a unit's score pools the scores below it.

    The organisation then changes which experts compete with which under a beam or a descent, and
    nothing else. With log-sum-exp the probabilities down the tree are the flat softmax over the
    experts exactly. "top_2_sum" under a sigmoid is the group score of DeepSeek-V3 (DeepSeek-AI
    2024, section 2.1.2), "max" that of V2; on deeper trees they pool the units below.

    Under a sigmoid an expert's weight is its own, and a unit's their sum, which may exceed 1; the
    factors are shares all the same, of a unit's children in its sum, since nothing else multiplies
    down the tree. So there path weights are not products of factors: `top_k` and `soft` weigh by
    the sigmoids, `descend` by the shares.

    Args:
        tree, dim, width, init_std: as in `TopDown`.
        score: how a token is compared with an expert.
        temperature: raw scores are divided by it.
        noise: added to raw scores in training.
        link: from raw scores to weights, over all experts.
        pool: from the weights of children, biases included, to the number by which a unit is
            chosen. Probabilities are pooled by their sum whatever this is.

    Raises:
        ConfigError: as in `TopDown`.
    """

    def __init__(
        self,
        *,
        tree: Tree,
        dim: int,
        score: Score,
        width: int | None,
        init_std: float,
        temperature: float,
        noise: Literal["none", "gumbel"],
        link: Literal["softmax", "sigmoid"],
        pool: Pool,
    ) -> None:
        super().__init__()
        check_scorers([score], width)
        check_names("gate.noise", [noise], ("none", "gumbel"))
        check_names("gate.link", [link], ("softmax", "sigmoid"))
        check_names("gate.pool", [pool], tuple(_POOLS))
        check_temperatures([temperature])
        self.tree = tree
        self.temperature = temperature
        self.noise = noise
        self.link = link
        self.pool = pool
        zero_E = torch.zeros(tree.num_experts)
        self.scorer = SCORERS[score](prior_M=zero_E, dim=dim, width=width, init_std=init_std)

    def forward(self, x_TD: Tensor, key_T: Tensor | None = None) -> Scores:
        logits_TE = self.scorer(x_TD, key_T) / self.temperature
        if self.training and self.noise == "gumbel":
            logits_TE = logits_TE - torch.empty_like(logits_TE).exponential_().log()
        return self.read(logits_TE)

    def read(self, logits_TE: Tensor) -> Scores:
        """What raw scores of the experts mean."""
        logits_TN = pool_logsumexp(logits_TE, self.tree)
        if self.link == "softmax":
            probs_TN = sibling_softmax(logits_TN, self.tree)
            weight_TN = path_product(probs_TN, self.tree)
        else:
            probs_TN = sibling_softmax(
                pool_logsumexp(F.logsigmoid(logits_TE), self.tree), self.tree
            )
            weight_TN = sum_below(logits_TE.sigmoid(), self.tree)
        # A unit's score is made of those below it: adding it to them would count them twice.
        return Scores(self.tree, logits_TN, probs_TN, probs_TN, weight_TN, path_TN=logits_TN)

    def choose(self, scores: Scores, bias_N: Tensor | None) -> Choice:
        """The numbers that decide, with the bias of a controller added to the weights.

        After the link, as DeepSeek-AI (2024, eq. 16) and Wang et al. (2024) have it: nothing is
        multiplied here. A unit pools the biased weights below it, then its own bias is added.
        """
        value_TE = at_experts(scores.weight_TN.detach(), self.tree)
        if bias_N is not None:
            value_TE = value_TE + at_experts(bias_N, self.tree)
        value_TN = pool(value_TE, self.tree, _POOLS[self.pool])
        if bias_N is not None:
            value_TN = value_TN + bias_N * ~self.tree.index("is_expert_N", bias_N.device)
        return Choice(value_TN, value_TN)

    def random_scores(self, num_tokens: int, generator: torch.Generator) -> Scores:
        logits_TE = torch.randn(num_tokens, self.tree.num_experts, generator=generator)
        return self.read(logits_TE.requires_grad_())
