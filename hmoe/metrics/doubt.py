"""How much in doubt a gate is, level by level: where tokens may go, and how narrow choices are.

Letters: T tokens, N nodes, G sibling groups, L levels, C nodes of a cut.
"""

from math import log

import numpy as np
import torch
from torch import Tensor
from torchmetrics import Metric

from hmoe.layer import Routing, Tree
from hmoe.layer.scores import Unscored
from hmoe.layer.tree_ops import among_siblings, path_product


def level_entropy(probs_TN: Tensor, tree: Tree) -> Tensor:
    """Entropy over a level's cut of where a token may go, over its largest value: (T, L), 0 to 1.

    0 is sure of one node; 1 is all nodes alike, each ln C. float32.
    """
    reach_TN = path_product(probs_TN, tree)
    term_TN = -reach_TN.xlogy(reach_TN)
    cuts = [
        torch.tensor(tree.cut(level), device=probs_TN.device) for level in range(tree.num_levels)
    ]
    return torch.stack([term_TN[:, cut].sum(-1) / log(len(cut)) for cut in cuts], -1)


def group_margins(probs_TN: Tensor, tree: Tree) -> Tensor:
    """Best minus second-best log-probability in every sibling group, in nats: (T, N) -> (T, G).

    A probability of zero counts as the smallest float32 can hold, so that a margin is at most 88.
    """
    log_TN = probs_TN.clamp(min=torch.finfo(torch.float32).tiny).log()

    def margin(log_TGb: Tensor) -> Tensor:
        first_TG2 = log_TGb.topk(2).values
        return first_TG2[..., :1] - first_TG2[..., 1:]

    return among_siblings([margin] * tree.num_levels, log_TN, tree)


def decided_groups(routing: Routing) -> Tensor:
    """Whether a token was decided in a sibling group: it has rows there. Bool (T, G)."""
    rows_TN, tree = routing.before_drops.rows_TN, routing.tree
    units = torch.cat([torch.tensor(level) for level in tree.inner_levels]).long()
    all_T1 = rows_TN[:, tree.level_slices[0]].sum(-1, keepdim=True)
    return torch.cat([all_T1, rows_TN[:, units.to(rows_TN.device)]], -1) > 0


class Doubt(Metric):
    """Doubt of one layer, added up over batches and, under data parallelism, over ranks.

    `update` takes a Routing; `compute` returns, as numpy arrays (L,), the mean over tokens of
    `level_entropy`, and the mean of `group_margins` over all groups of the level and tokens that
    were decided there. NaN where no token was, and after a lazy descent, which scores few nodes.
    """

    full_state_update = False
    entropy_L: Tensor
    num_tokens: Tensor
    margin_L: Tensor
    num_decided_L: Tensor

    def __init__(self, *, tree: Tree) -> None:
        super().__init__()
        self.tree = tree
        # Of a group, the level of its nodes: where the group starts.
        start_G = tree.index("start_G", torch.device("cpu"))
        self.level_G = tree.index("level_N", torch.device("cpu"))[start_G]
        for name in ("entropy_L", "margin_L", "num_decided_L"):
            zeros_L = torch.zeros(tree.num_levels, dtype=torch.float64)
            self.add_state(name, zeros_L, dist_reduce_fx="sum")
        self.add_state("num_tokens", torch.zeros((), dtype=torch.float64), dist_reduce_fx="sum")

    @torch.no_grad()
    def update(self, routing: Routing) -> None:
        """Add a routing."""
        if isinstance(routing.scores, Unscored):
            return
        probs_TN = routing.probs_TN.detach()
        level_G = self.level_G.to(probs_TN.device)
        decided_TG = decided_groups(routing)
        margin_TG = group_margins(probs_TN, self.tree).where(decided_TG, 0.0)
        self.entropy_L += level_entropy(probs_TN, self.tree).sum(0, dtype=torch.float64)
        self.num_tokens += routing.num_tokens
        self.margin_L.index_add_(0, level_G, margin_TG.sum(0, dtype=torch.float64))
        self.num_decided_L.index_add_(0, level_G, decided_TG.sum(0, dtype=torch.float64))

    def compute(self) -> tuple[np.ndarray, np.ndarray]:
        """Entropy and margin of every level, of all tokens since the last reset."""
        # As arrays: torchmetrics would make a number of a tensor with one level.
        entropy_L = self.entropy_L / self.num_tokens
        margin_L = self.margin_L / self.num_decided_L
        return entropy_L.cpu().numpy(), margin_L.cpu().numpy()
