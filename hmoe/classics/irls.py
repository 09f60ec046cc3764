"""Weighted fits of linear models: what the M-step of EM asks of experts and of gates.

Both fits climb a concave function from where they stand, by Newton steps; for least squares one
step is the whole way. The ridge that makes every system solvable damps the step and not the goal,
so that no fit, however few rows have weight in it, can end lower than it began.

Letters: T rows, C features, O targets, M fits side by side, G sibling groups of b children.
"""

import torch
from torch import Tensor

# Added to the diagonal, relative to its mean and absolute: a fit without any weight stays put.
_RIDGE, _RIDGE_FLOOR = 1e-9, 1e-12
# A Newton step is halved at most this often before the fit stays where it is.
_HALVINGS = 30
# A gain below this share of the objective is lost in its rounding: such a step is not halved.
_ROUNDING = 1e-12
# Rows whose products are in memory at a time; they should stay near the processor.
_CHUNK = 1024


def moments(x_TC: Tensor, weight_TM: Tensor) -> Tensor:
    """Weighted second moments: sum over rows of w x x^T for each of M weightings, (M, C, C)."""
    num_features = x_TC.shape[1]
    one_P, other_P = torch.triu_indices(num_features, num_features, device=x_TC.device)
    total_MP = x_TC.new_zeros(weight_TM.shape[1], len(one_P))
    for x, weight in zip(x_TC.split(_CHUNK), weight_TM.split(_CHUNK), strict=True):
        x_CT = x.T.contiguous()  # rows are gathered faster than columns
        total_MP.addmm_(weight.T, (x_CT[one_P] * x_CT[other_P]).T)  # symmetric: half is enough
    found_MCC = total_MP.new_empty(len(total_MP), num_features, num_features)
    found_MCC[:, one_P, other_P] = total_MP
    found_MCC[:, other_P, one_P] = total_MP
    return found_MCC


def least_squares(x_TC: Tensor, y_TO: Tensor, weight_TM: Tensor, start_MCO: Tensor) -> Tensor:
    """Minimise sum_t w_tm |y_t - x_t U_m|^2 for each of M weightings, from a start. (M, C, O).

    Jordan & Jacobs (1994), eq. 23.
    """
    error_TMO = y_TO.unsqueeze(1) - torch.einsum("tc,mco->tmo", x_TC, start_MCO)
    slope_MCO = torch.einsum("tc,tmo->mco", x_TC, weight_TM.unsqueeze(2) * error_TMO)
    return start_MCO + _solve(moments(x_TC, weight_TM), slope_MCO)


def group_objective(logits_bGT: Tensor, target_bGT: Tensor) -> Tensor:
    """What a gate's fit climbs: sum over rows and children of h log p, one number a group, (G,)."""
    return (target_bGT * logits_bGT.log_softmax(0)).sum((0, 2))


def logits(x_TC: Tensor, weight_GbC: Tensor) -> Tensor:
    """Scores of the children of every group, (b, G, T): all that is done with them is done along
    the children, and goes fast where the rows lie side by side."""
    return (weight_GbC.transpose(0, 1) @ x_TC.T).contiguous()


def newton_step(x_TC: Tensor, target_bGT: Tensor, weight_GbC: Tensor) -> Tensor:
    """One step of IRLS for G multinomial logistic models; returns new weights (G, b, C).

    Jordan & Jacobs (1994), eq. 24-25 and appendix A: the targets of a group's children sum to the
    posterior of their parent, which so weighs the rows. We differ in that a step that would lower
    the objective is halved until it does not.
    """
    logits_bGT = logits(x_TC, weight_GbC)
    slope_GbC = slope(x_TC, target_bGT, logits_bGT)
    step_GbC = _solve(
        curvature(x_TC, target_bGT, logits_bGT), slope_GbC.flatten(1).unsqueeze(2)
    ).view_as(weight_GbC)
    return weight_GbC + _damping(x_TC, target_bGT, logits_bGT, slope_GbC, step_GbC) * step_GbC


def _damping(
    x_TC: Tensor, target_bGT: Tensor, logits_bGT: Tensor, slope_GbC: Tensor, step_GbC: Tensor
) -> Tensor:
    """The largest of 1, 1/2, 1/4 .. of a step that does not lower the objective, (G, 1, 1)."""
    change_bGT = logits(x_TC, step_GbC)
    before_G = group_objective(logits_bGT, target_bGT)
    gain_G = (slope_GbC * step_GbC).sum((1, 2))
    least_G = before_G.where(gain_G > _ROUNDING * before_G.abs(), -torch.inf)
    factor_G = torch.ones_like(before_G)
    for _ in range(_HALVINGS):
        after_G = group_objective(logits_bGT + factor_G[:, None] * change_bGT, target_bGT)
        if (worse_G := ~(after_G >= least_G)).any():
            factor_G = torch.where(worse_G, factor_G / 2, factor_G)
        else:
            break
    else:
        factor_G = torch.where(worse_G, 0.0, factor_G)
    return factor_G[:, None, None]


def bound_step(x_TC: Tensor, target_bGT: Tensor, weight_GbC: Tensor) -> Tensor:
    """One step of the same fit under a bound of its curvature that is the same everywhere.

    Böhning (1992), Multinomial logistic regression algorithm, Ann. Inst. Statist. Math. 44: the
    curvature is at most (I - 1 1^T / b) / 2 times the weighted moments of the rows. The slopes of a
    group's children add up to nothing, so that dividing by the bound is to double and to divide by
    the moments. No step goes down, and none is halved; each is small, so that many are needed.
    """
    slope_GbC = slope(x_TC, target_bGT, logits(x_TC, weight_GbC))
    parent_TG = target_bGT.sum(0).T
    step_GCb = 2 * _solve(moments(x_TC, parent_TG), slope_GbC.transpose(1, 2))
    return weight_GbC + step_GCb.transpose(1, 2)


def slope(x_TC: Tensor, target_bGT: Tensor, logits_bGT: Tensor) -> Tensor:
    """Gradient of `group_objective` with respect to the weights, (G, b, C)."""
    error_bGT = target_bGT - target_bGT.sum(0) * logits_bGT.softmax(0)
    return (error_bGT @ x_TC).transpose(0, 1)


def curvature(x_TC: Tensor, target_bGT: Tensor, logits_bGT: Tensor) -> Tensor:
    """Minus the Hessian of `group_objective`, (G, b C, b C).

    Its blocks are -S_ij, with S_ij = sum_t h p_i p_j x x^T and h the row's target in all. They add
    up to nothing along a row, so that those of i < j tell the rest: a half, and of pairs a quarter.
    """
    (size, num_groups), num_features = target_bGT.shape[:2], x_TC.shape[1]
    one_P, other_P = torch.triu_indices(size, size, 1, device=x_TC.device)
    probs_bGT = logits_bGT.softmax(0)
    weighted_bGT = target_bGT.sum(0) * probs_bGT
    pairs_PGT = weighted_bGT[one_P] * probs_bGT[other_P]
    blocks_PGCC = moments(x_TC, pairs_PGT.flatten(0, 1).T).unflatten(0, (len(one_P), num_groups))
    found_bbGCC = x_TC.new_zeros(size, size, num_groups, num_features, num_features)
    found_bbGCC[one_P, other_P] = -blocks_PGCC
    found_bbGCC[other_P, one_P] = -blocks_PGCC
    each_b = torch.arange(size, device=x_TC.device)
    found_bbGCC[each_b, each_b] = -found_bbGCC.sum(1)
    return found_bbGCC.permute(2, 0, 3, 1, 4).reshape(num_groups, size * num_features, -1)


def _solve(matrix_MCC: Tensor, right_MCO: Tensor) -> Tensor:
    """Solve positive semidefinite systems, damped by the ridge."""
    mean_M1 = matrix_MCC.diagonal(dim1=1, dim2=2).mean(-1, keepdim=True)
    ridge_MC = (_RIDGE * mean_M1 + _RIDGE_FLOOR).expand(matrix_MCC.shape[:2])
    solution_MCO: Tensor = torch.linalg.solve(matrix_MCC + torch.diag_embed(ridge_MC), right_MCO)
    return solution_MCO
