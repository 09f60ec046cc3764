"""Scores: what a gate says of every node, for every token. Data without algorithm.

Letters: T tokens, N nodes.
"""

from dataclasses import dataclass
from typing import NamedTuple

from torch import Tensor

from hmoe.layer.tree import Tree


class Choice(NamedTuple):
    """The numbers that decide who works; only their order counts, and none has a gradient.

    Attributes:
        factor_TN: ranks siblings; read by rules that decide unit by unit.
        weight_TN: ranks nodes of a level, and experts of all levels; read by rules that look at
            whole paths.
        hides: some nodes must not work for some tokens, whatever the rule: `weight_TN` is minus
            infinity at all of them, `factor_TN` at the highest, so that some sibling is finite.
    """

    factor_TN: Tensor
    weight_TN: Tensor
    hides: bool = False


@dataclass(frozen=True, eq=False)
class Scores:
    """The numbers that decide how much it counts; float32 and differentiable.

    Under a softmax `probs_TN` and `factor_TN` are one, and `weight_TN` is P(node | root). Sigmoid
    scores are not probabilities; they then sum to anything, and only `probs_TN` is normalised. Of a
    top-down gate `weight_TN` is the product of `factor_TN` down the path; of a bottom-up gate under
    a sigmoid it is not: see `BottomUp`.

    Attributes:
        tree: the organisation.
        logits_TN: raw scores, noise included.
        probs_TN: P(node | parent).
        factor_TN: what a node contributes to the weight of the paths through it.
        weight_TN: weight of the path from the root to the node.
        clean_TN: raw scores without their noise; None where no noise was learnt.
        noise_TN: standard deviation of the learnt noise, 0 on levels without; None likewise.
        path_TN: raw scores of whole paths; None where they are the sums down the paths.
    """

    tree: Tree
    logits_TN: Tensor
    probs_TN: Tensor
    factor_TN: Tensor
    weight_TN: Tensor
    clean_TN: Tensor | None = None
    noise_TN: Tensor | None = None
    path_TN: Tensor | None = None

    @property
    def num_tokens(self) -> int:
        return self.logits_TN.shape[0]


@dataclass(frozen=True, eq=False)
class Unscored:
    """Stands for scores where the gate looked at the nodes in the running only: see `lazy`.

    Attributes:
        tree: the organisation.
        num_tokens: T.
    """

    tree: Tree
    num_tokens: int
