"""How much of what a gate chose it would choose again: overlap of two choices, level by level.

With two moments of one training, 1 - overlap is its churn; with a moment and the end it is router
saturation (Muennighoff et al. 2024, OLMoE), there for sets of equal size, here for any.

Letters: T tokens, K and J experts per token, E experts.
"""

import torch
from torch import Tensor
from torchmetrics import Metric

from hmoe.layer import Routing, Tree
from hmoe.metrics.levels import place_at_cut

NONE = -1  # stands for an expert where a token has none, or fewer than others


def heaviest(routing: Routing) -> Tensor:
    """The expert that weighs most for each token, the first row's of equals: (T,) int64.

    `NONE` for a token without rows, as expert choice may leave one. With several heads a token is
    counted once a head.
    """
    rows = routing.token_R, routing.expert_R, routing.weight_R.detach()
    return heaviest_of(*rows, routing.num_tokens)


def heaviest_of(token_R: Tensor, expert_R: Tensor, weight_R: Tensor, num_tokens: int) -> Tensor:
    """The same of rows that stand by themselves."""
    num_rows = len(token_R)
    most_T = weight_R.new_full((num_tokens,), -torch.inf)
    most_T = most_T.scatter_reduce(0, token_R, weight_R, "amax")
    row_R = torch.arange(num_rows, device=token_R.device)
    row_R = torch.where(weight_R == most_T[token_R], row_R, num_rows)
    first_T = token_R.new_full((num_tokens,), num_rows)
    first_T = first_T.scatter_reduce(0, token_R, row_R, "amin")
    # One row more, for tokens without any.
    return torch.cat([expert_R, expert_R.new_tensor([NONE])])[first_T]


def overlap(one_TK: Tensor, other_TJ: Tensor) -> Tensor:
    """Mean over tokens of |A and B| / max(|A|, |B|) for the two sets that each token chose: scalar.

    Rows hold numbers of experts or nodes in any order; a number counts once, `NONE` does not.
    Tokens for which both chose nothing are left out; 1 where that is all of them. float64.
    """
    total, num_choosing = _overlap_sum(one_TK, other_TJ)
    return torch.where(num_choosing > 0, total / num_choosing.clamp(min=1), 1.0)


def _overlap_sum(one_TK: Tensor, other_TJ: Tensor) -> tuple[Tensor, Tensor]:
    """Overlap in sum over the tokens that chose, and how many these are: two scalars."""
    one_TK, other_TJ = one_TK.sort(-1).values, other_TJ.sort(-1).values
    first_TK, first_TJ = _first(one_TK), _first(other_TJ)
    place_TK = torch.searchsorted(other_TJ, one_TK).clamp(max=other_TJ.shape[-1] - 1)
    both_T = (first_TK & (other_TJ.gather(-1, place_TK) == one_TK)).sum(-1)
    larger_T = torch.maximum(first_TK.sum(-1), first_TJ.sum(-1))
    return (both_T.double() / larger_T.clamp(min=1)).sum(), (larger_T > 0).sum()


def nodes_at(expert_TK: Tensor, tree: Tree, level: int) -> Tensor:
    """The node of a level's cut that each expert is at or below, `NONE` where there is none."""
    cut = torch.tensor(tree.cut(level), device=expert_TK.device)
    node_E = cut[place_at_cut(tree, level, expert_TK.device)]
    return torch.where(expert_TK == NONE, NONE, node_E[expert_TK.clamp(min=0)])


def overlaps(one_TK: Tensor, other_TJ: Tensor, tree: Tree) -> dict[str, float]:
    """Overlap of two choices of experts at every level: {"level_0": ..., "expert": ...}.

    "expert" is the cut through all experts; on the last level the two coincide.
    """
    found = {
        f"level_{level}": overlap(
            nodes_at(one_TK, tree, level), nodes_at(other_TJ, tree, level)
        ).item()
        for level in range(tree.num_levels)
    }
    return found | {"expert": found[f"level_{tree.num_levels - 1}"]}


class OverlapMetrics(Metric):
    """Overlap of two choices, added up over batches and, under data parallelism, over ranks.

    With a router and the same router later it is saturation, and 1 minus it churn. `update` takes
    the experts that each token chose, twice; `compute` returns what `overlaps` does of all tokens.
    """

    full_state_update = False
    total_L: Tensor
    num_choosing_L: Tensor

    def __init__(self, *, tree: Tree) -> None:
        super().__init__()
        self.tree = tree
        for name in ("total_L", "num_choosing_L"):
            zeros_L = torch.zeros(tree.num_levels, dtype=torch.float64)
            self.add_state(name, zeros_L, dist_reduce_fx="sum")

    def update(self, one_TK: Tensor, other_TJ: Tensor) -> None:
        """Add the choices of some tokens."""
        for level in range(self.tree.num_levels):
            nodes = (nodes_at(chosen, self.tree, level) for chosen in (one_TK, other_TJ))
            total, num_choosing = _overlap_sum(*nodes)
            self.total_L[level] += total
            self.num_choosing_L[level] += num_choosing

    def compute(self) -> dict[str, float]:
        """Of all tokens since the last reset."""
        mean_L = self.total_L / self.num_choosing_L.clamp(min=1)
        shares = mean_L.where(self.num_choosing_L > 0, 1.0).tolist()
        found = {f"level_{level}": share for level, share in enumerate(shares)}
        return found | {"expert": shares[-1]}


def _first(number_TK: Tensor) -> Tensor:
    """Of numbers in ascending order, which are the first of their value and not `NONE`."""
    new_TK = torch.ones_like(number_TK, dtype=torch.bool)
    new_TK[:, 1:] = number_TK[:, 1:] != number_TK[:, :-1]
    return new_TK & (number_TK != NONE)
