"""What the choice of experts tells of a label, such as the package that a byte is from.

Roles have emerged where it tells much: mutual information of label and node, in nats. It is asked
level by level, what the department knows and what the team adds, and beside what chance gives:
with few rows a cell, unrelated numbers share information too, about cells / (2 rows) nats. So it is
shown with the mean over permutations of the label, or adjusted for chance (Vinh et al. 2010).

Letters: T tokens, R rows, E experts, L levels, C values of a label, Z places: experts, nodes of a
cut or clusters.
"""

from math import log

import torch
from torch import Tensor
from torchmetrics import Metric

from hmoe.layer import Routing, Tree
from hmoe.metrics.levels import level_counts, place_at_cut
from hmoe.metrics.stability import NONE

_ROUNDING = 1e-12  # nats by which equal information may differ, for the order of a sum


def pair_counts(value_R: Tensor, place_R: Tensor, num_values: int, num_places: int) -> Tensor:
    """How often a value and a place go together: (R,), (R,) -> int64 (C, Z)."""
    pair_R = value_R * num_places + place_R
    return torch.bincount(pair_R, minlength=num_values * num_places).unflatten(
        0, (num_values, num_places)
    )


def entropy(count_Z: Tensor) -> Tensor:
    """Entropy of counts of any shape, in nats: scalar float64. 0 without any."""
    count_Z = count_Z.double()
    total = count_Z.sum().clamp(min=1)
    return total.log() - count_Z.xlogy(count_Z).sum() / total


def mutual_information(counts_CZ: Tensor) -> Tensor:
    """I(value; place) = H(value) + H(place) - H(both), in nats: scalar float64."""
    return entropy(counts_CZ.sum(1)) + entropy(counts_CZ.sum(0)) - entropy(counts_CZ)


def level_information(counts_CE: Tensor, tree: Tree) -> Tensor:
    """What each level adds: I(label; node of level l | node of level l - 1), (L,) float64.

    By the chain rule they add up to I(label; expert), exactly: the node of a cut is known from the
    node of any finer one.
    """
    upto_L = [
        mutual_information(level_counts(counts_CE, tree, level)) for level in range(tree.num_levels)
    ]
    return _added(torch.stack(upto_L))


def permutation_null(
    value_T: Tensor,
    token_R: Tensor,
    expert_R: Tensor,
    tree: Tree,
    permutations: int,
    generator: torch.Generator,
) -> tuple[Tensor, Tensor]:
    """What `level_information` would be by chance, and how often chance gives as much.

    The label is permuted among tokens, so that the rows of one token stay together: with several
    experts a token, rows are not independent.

    Args:
        value_T: label of every token, 0 .. C - 1.
        token_R, expert_R: the rows.
        permutations: how many; at least 100 for a mean to be trusted.
        generator: draws them, on the CPU.

    Returns:
        Mean over permutations, (L,) float64, and share of permutations with at least as much as the
        data, which itself is counted as one of them (Davison & Hinkley 1997, equation 4.11): (L,).
    """
    value_T, token_R, expert_R = value_T.cpu(), token_R.cpu(), expert_R.cpu()
    num_values = int(value_T.max()) + 1
    num_rows = max(1, len(token_R))
    # Cell numbers are value x places + place. The places' entropies stay as they are.
    levels = []
    for level in range(tree.num_levels):
        place_R = place_at_cut(tree, level, expert_R.device)[expert_R]
        num_places = len(tree.cut(level))
        levels.append((place_R, num_places, entropy(torch.bincount(place_R)).item()))
    # Sum over cells of n ln n, as a sum over rows of ln n: there are fewer rows than cells.
    log_n = torch.arange(num_rows + 1).double().clamp(min=1).log()

    def information_L(value_T: Tensor) -> Tensor:
        value_R = value_T[token_R]
        own = entropy(torch.bincount(value_R)).item()
        upto_L = []
        for place_R, num_places, places in levels:
            cell_R = torch.add(place_R, value_R, alpha=num_places)
            size = torch.bincount(cell_R, minlength=num_values * num_places)
            both = log(num_rows) - log_n[size[cell_R]].sum().item() / num_rows
            upto_L.append(own + places - both)
        return _added(torch.tensor(upto_L, dtype=torch.float64))

    here_L = information_L(value_T)
    total_L, at_least_L = torch.zeros_like(here_L), torch.ones_like(here_L)
    for _ in range(permutations):
        found_L = information_L(value_T[torch.randperm(len(value_T), generator=generator)])
        total_L += found_L
        at_least_L += found_L >= here_L - _ROUNDING
    return total_L / permutations, at_least_L / (permutations + 1)


def nmi(counts_CZ: Tensor) -> float:
    """I / sqrt(H(value) H(place)), 0 to 1; 0 where either is constant. Not adjusted for chance."""
    both = (entropy(counts_CZ.sum(1)) * entropy(counts_CZ.sum(0))).sqrt()
    return (mutual_information(counts_CZ) / both).item() if both > _ROUNDING else 0.0


def ami(counts_CZ: Tensor) -> float:
    """(I - E[I]) / (sqrt(H(value) H(place)) - E[I]): 0 as by chance, 1 if either tells the other.

    E[I] is over tables of the same margins (Vinh et al. 2010). 0 where either is constant.
    """
    # Imported here because it takes a second that no other command has to pay.
    from sklearn.metrics import adjusted_mutual_info_score

    counts_CZ = counts_CZ.cpu()
    if min((counts_CZ.sum(axis) > 0).sum() for axis in (0, 1)) < 2:
        return 0.0
    value, place = counts_CZ.nonzero(as_tuple=True)
    times = counts_CZ[value, place]
    value_R, place_R = (x.repeat_interleave(times).numpy() for x in (value, place))
    return float(adjusted_mutual_info_score(value_R, place_R, average_method="geometric"))


def agreement(one_T: Tensor, other_T: Tensor) -> float:
    """AMI of two choices of nodes for the same tokens, such as those of two seeds.

    What nodes are called does not matter: 1 if both sort the tokens into the same groups, 0 as by
    chance. Tokens for which either chose `NONE` are left out.
    """
    both_T = (one_T != NONE) & (other_T != NONE)
    one_T, other_T = (x[both_T].unique(return_inverse=True)[1] for x in (one_T, other_T))
    num_one, num_other = (int(x.max()) + 1 if len(x) else 0 for x in (one_T, other_T))
    return ami(pair_counts(one_T, other_T, num_one, num_other))


class InformationMetrics(Metric):
    """What a layer knows of a label, added up over batches and, under data parallelism, over ranks.

    `update` takes a Routing and the label of each of its tokens; `compute` returns, a level, the
    information it adds, and the adjusted and normalised information of its cut: {
    "information/level_0": ..., "ami/level_0": ..., "nmi/level_0": ...}.
    """

    full_state_update = False
    counts_CE: Tensor

    def __init__(self, *, tree: Tree, num_values: int) -> None:
        super().__init__()
        self.tree = tree
        zeros_CE = torch.zeros(num_values, tree.num_experts, dtype=torch.int64)
        self.add_state("counts_CE", zeros_CE, dist_reduce_fx="sum")

    def update(self, routing: Routing, value_T: Tensor) -> None:
        """Add the rows asked for, before a capacity took any away."""
        asked = routing.before_drops
        self.counts_CE += pair_counts(value_T[asked.token_R], asked.expert_R, *self.counts_CE.shape)

    def compute(self) -> dict[str, float]:
        """Of all rows since the last reset."""
        found = {}
        for level, added in enumerate(level_information(self.counts_CE, self.tree).tolist()):
            counts_CZ = level_counts(self.counts_CE, self.tree, level)
            found[f"information/level_{level}"] = added
            found[f"ami/level_{level}"] = ami(counts_CZ)
            found[f"nmi/level_{level}"] = nmi(counts_CZ)
        return found


def _added(upto_L: Tensor) -> Tensor:
    """What each level adds to the one above it."""
    return torch.diff(upto_L, prepend=upto_L.new_zeros(1))
