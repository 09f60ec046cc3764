"""What the choice of experts tells of a label, such as the package that a byte is from.

Roles have emerged where it tells much: mutual information of label and node, in nats. It is asked
level by level, what the department knows and what the team adds, and beside what chance gives:
with few rows a cell, unrelated numbers share information too, about cells / (2 rows) nats. So it is
shown with the mean over permutations of the label, or adjusted for chance (Vinh et al. 2010).

Letters: T tokens, R rows, E experts, L levels, C values of a label, Z places: experts, nodes of a
cut or clusters; W rows of the data, B tokens of each, P pairs of token and expert, Q permutations,
X questions.
"""

from collections.abc import Sequence
from itertools import pairwise
from math import log

import torch
from torch import Tensor
from torchmetrics import Metric

from hmoe.layer import Routing, Tree
from hmoe.metrics.levels import level_counts, place_at_cut
from hmoe.metrics.specialisation import domain_specialisation
from hmoe.metrics.stability import NONE

_ROUNDING = 1e-12  # nats by which equal information may differ, for the order of a sum
_STEADY = 1e-9  # nats; what deviates less is the same in all permutations but for rounding
_ROUNDING_Z = 1e-6  # standard deviations by which equal ones may differ
_AT_ONCE = 2**21  # labels, or cells, of the permutations that are counted together


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
    *,
    tokens_per_row: int,
    permutations: int,
    generator: torch.Generator,
    group_W: Tensor | None = None,
) -> Tensor:
    """`level_information` as it is, and as it would be if labels had nothing to do with choices.

    What is permuted are the rows of the data: each row hands the labels of its tokens, in their
    order, to another row. So tokens that hang together, the bytes of a window, do so by chance too.
    A label that is constant in a row, the package of a window, moves as a whole; one that changes
    within rows, the byte, keeps its run and its place in the row. Rows of one token are permuted
    token by token. Rows of the mixture stay with their token: with several experts a token they are
    not independent. Rows of the data are taken for exchangeable; where neighbours are alike, as two
    windows of one file, chance is still somewhat too low. Where the data know what rows hang
    together by, as ratings by their user, a label that is constant in every group is permuted group
    by group: a gate that sees the user sends all his rows alike, which are one piece of evidence.

    Args:
        value_T: label of every token, 0 .. C - 1, row after row.
        token_R, expert_R: the rows of the mixture.
        tokens_per_row: tokens of a row of the data, T = W rows of so many.
        permutations: how many, Q.
        generator: draws them, on the CPU: as many, of as many rows, are the same permutations for
            every layer and label, as `corrected_p` needs.
        group_W: what the rows of the data hang together by, any int64 numbers; None: by nothing.

    Returns:
        (1 + Q, L) float64, the data first.
    """
    value_WB = value_T.cpu().unflatten(0, (-1, tokens_per_row))
    unit_R, expert_R = token_R.cpu(), expert_R.cpu()
    if (value_WB == value_WB[:, :1]).all():
        # The rows of the mixture that are in the same row of the data then move together.
        unit_R, value_WB = unit_R // tokens_per_row, value_WB[:, :1]
        if group_W is not None:
            groups_G, group_W = group_W.cpu().unique(return_inverse=True)
            value_G1 = value_WB.new_zeros(len(groups_G), 1)
            value_G1[group_W] = value_WB
            if (value_G1[group_W] == value_WB).all():
                unit_R, value_WB = group_W[unit_R], value_G1
    num_values, num_rows = int(value_WB.max()) + 1, max(1, len(unit_R))
    pair_P, times_P = (unit_R * tree.num_experts + expert_R).unique(return_counts=True)
    unit_P, expert_P = pair_P // tree.num_experts, pair_P % tree.num_experts
    times_P = times_P.double()
    levels = []
    for level in range(tree.num_levels):
        place_P = place_at_cut(tree, level, expert_P.device)[expert_P]
        count_Z = torch.bincount(place_P, times_P, minlength=len(tree.cut(level)))
        levels.append((place_P, len(count_Z), entropy(count_Z)))

    def information_QL(order_QW: Tensor) -> Tensor:
        value_QP = value_WB[order_QW].flatten(1)[:, unit_P]
        own_Q = log(num_rows) - _log_size(value_QP, num_values, times_P) / num_rows
        upto = []
        for place_P, num_places, places in levels:
            cell_QP = torch.add(place_P, value_QP, alpha=num_places)
            logs_Q = _log_size(cell_QP, num_values * num_places, times_P)
            upto.append(own_Q + places - (log(num_rows) - logs_Q / num_rows))
        return torch.stack([upto[0], *(b - a for a, b in pairwise(upto))], -1)

    orders = [torch.arange(len(value_WB))]
    orders += [torch.randperm(len(value_WB), generator=generator) for _ in range(permutations)]
    at_once = max(1, _AT_ONCE // max(value_WB.numel(), len(pair_P), num_values * tree.num_experts))
    parts = torch.stack(orders).split(at_once)
    return torch.cat([information_QL(order_QW) for order_QW in parts])


def _log_size(cell_QP: Tensor, num_cells: int, times_P: Tensor) -> Tensor:
    """Sum over cells of n ln n, as a sum over rows of ln n, which are fewer: (Q, P) -> (Q,)."""
    cell_QP = cell_QP + torch.arange(len(cell_QP))[:, None] * num_cells  # each its own cells
    times_QP = times_P.expand(cell_QP.shape)
    size = torch.bincount(cell_QP.flatten(), times_QP.flatten(), minlength=len(cell_QP) * num_cells)
    return size[cell_QP].log() @ times_P


def corrected_p(nulls: Sequence[Tensor]) -> list[Tensor]:
    """How often chance tells as much anywhere: p values for a whole family of questions at once.

    A permutation counts against a value if the largest that it gives in the whole family is as
    large, each in standard deviations of its own column (Westfall & Young 1993, single-step maxT).
    So where choices have nothing to do with any label, some p is at most 0.05 in one of twenty
    families only, however many layers, labels and levels are asked, and however they depend.

    Args:
        nulls: tables of `permutation_null`, (1 + Q, L) each, from the same permutations.

    Returns:
        Of each table the p of its first row, which itself is counted as a permutation (Davison &
        Hinkley 1997, equation 4.11): (L,) float64 each.
    """
    all_QX = torch.cat(list(nulls), 1)
    # The data are in mean and deviation too: so all rows are alike where chance made them.
    deviation_QX = all_QX - all_QX.mean(0)
    size_X = deviation_QX.square().mean(0).sqrt()
    deviation_QX = torch.where(size_X > _STEADY, deviation_QX / size_X, -torch.inf)
    most_Q = deviation_QX.amax(1)
    p_X = (most_Q[:, None] >= deviation_QX[0] - _ROUNDING_Z).double().mean(0)
    return list(p_X.split([null_QL.shape[1] for null_QL in nulls]))


def nmi(counts_CZ: Tensor) -> float:
    """I / sqrt(H(value) H(place)), 0 to 1; 0 where either is constant. Not adjusted for chance."""
    both = (entropy(counts_CZ.sum(1)) * entropy(counts_CZ.sum(0))).sqrt()
    return (mutual_information(counts_CZ) / both).item() if both > _ROUNDING else 0.0


def ami(counts_CZ: Tensor) -> float:
    """(I - E[I]) / (sqrt(H(value) H(place)) - E[I]): 0 as by chance, 1 if either tells the other.

    E[I] is over tables of the same margins (Vinh et al. 2010), as if rows were independent: where
    tokens hang together, as the bytes of a window, it is too small and AMI flatters; the null of
    `permutation_null` is not. 0 where either is constant.
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


class SpecialisationMetrics(InformationMetrics):
    """Who works on what, added up likewise: `compute` returns `domain_specialisation`.

    Args:
        tree: the organisation.
        num_values: of the label.
        k: experts per token.
    """

    def __init__(self, *, tree: Tree, num_values: int, k: float) -> None:
        super().__init__(tree=tree, num_values=num_values)
        self.k = k

    def compute(self) -> Tensor:  # type: ignore[override]
        """Of all rows since the last reset: (C, E)."""
        return domain_specialisation(self.counts_CE, self.k)


def _added(upto_L: Tensor) -> Tensor:
    """What each level adds to the one above it."""
    return torch.diff(upto_L, prepend=upto_L.new_zeros(1))
