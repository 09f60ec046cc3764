"""Z-loss: keeps raw scores small.

Letters: T tokens, N nodes, G sibling groups.
"""

import torch
from torch import Tensor

from hmoe.layer import Routing


def z_loss(routing: Routing) -> dict[str, Tensor]:
    """Mean squared log-sum-exp of the scores in each sibling group.

    Zoph et al. (2022), eq. 5, at every group of the tree; a level's value is the mean over its
    groups and tokens, 0 without any token. It measures no load: (ln b)^2 for b children that all
    score 0.
    """
    logits_TN = routing.scored.logits_TN
    values = {}
    for level, blocks in enumerate(routing.tree.blocks):
        squares = [
            logits_TN[:, b.start : b.stop]
            .unflatten(-1, (b.num_groups, b.size))
            .logsumexp(-1)
            .square()
            for b in blocks
        ]
        squares_TG = torch.cat(squares, -1)
        values[f"level_{level}"] = squares_TG.sum() / max(squares_TG.numel(), 1)
    return values
