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
# Rows whose outer products are in memory at a time.
_CHUNK = 4096


def moments(x_TC: Tensor, weight_TM: Tensor) -> Tensor:
    """Weighted second moments: sum over rows of w x x^T for each of M weightings, (M, C, C)."""
    num_features = x_TC.shape[1]
    total = x_TC.new_zeros(weight_TM.shape[1], num_features**2)
    for x, weight in zip(x_TC.split(_CHUNK), weight_TM.split(_CHUNK), strict=True):
        total += weight.T @ (x.unsqueeze(2) * x.unsqueeze(1)).flatten(1)
    return total.view(-1, num_features, num_features)


def least_squares(x_TC: Tensor, y_TO: Tensor, weight_TM: Tensor, start_MCO: Tensor) -> Tensor:
    """Minimise sum_t w_tm |y_t - x_t U_m|^2 for each of M weightings, from a start. (M, C, O).

    Jordan & Jacobs (1994), eq. 23.
    """
    error_TMO = y_TO.unsqueeze(1) - torch.einsum("tc,mco->tmo", x_TC, start_MCO)
    slope_MCO = torch.einsum("tc,tm,tmo->mco", x_TC, weight_TM, error_TMO)
    return start_MCO + _solve(moments(x_TC, weight_TM), slope_MCO)


def group_objective(logits_TGb: Tensor, target_TGb: Tensor) -> Tensor:
    """What a gate's fit climbs: sum over rows and children of h log p, one number a group, (G,)."""
    return (target_TGb * logits_TGb.log_softmax(-1)).sum((0, 2))


def newton_step(x_TC: Tensor, target_TGb: Tensor, weight_GbC: Tensor) -> Tensor:
    """One step of IRLS for G multinomial logistic models; returns new weights (G, b, C).

    Jordan & Jacobs (1994), eq. 24-25 and appendix A: the targets of a group's children sum to the
    posterior of their parent, which so weighs the rows. We differ in that a step that would lower
    the objective is halved until it does not.
    """
    num_groups, size, num_features = weight_GbC.shape
    logits_TGb = torch.einsum("tc,gbc->tgb", x_TC, weight_GbC)
    step_GbC = _solve(
        curvature(x_TC, target_TGb, logits_TGb),
        slope(x_TC, target_TGb, logits_TGb).flatten(1).unsqueeze(2),
    ).view(num_groups, size, num_features)
    change_TGb = torch.einsum("tc,gbc->tgb", x_TC, step_GbC)
    before_G = group_objective(logits_TGb, target_TGb)
    factor_G = torch.ones_like(before_G)
    for _ in range(_HALVINGS):
        after_G = group_objective(logits_TGb + factor_G[:, None] * change_TGb, target_TGb)
        if (worse_G := ~(after_G >= before_G)).any():
            factor_G = torch.where(worse_G, factor_G / 2, factor_G)
        else:
            break
    else:
        factor_G = torch.where(worse_G, 0.0, factor_G)
    return weight_GbC + factor_G[:, None, None] * step_GbC


def slope(x_TC: Tensor, target_TGb: Tensor, logits_TGb: Tensor) -> Tensor:
    """Gradient of `group_objective` with respect to the weights, (G, b, C)."""
    parent_TG1 = target_TGb.sum(-1, keepdim=True)
    return torch.einsum("tc,tgb->gbc", x_TC, target_TGb - parent_TG1 * logits_TGb.softmax(-1))


def curvature(x_TC: Tensor, target_TGb: Tensor, logits_TGb: Tensor) -> Tensor:
    """Minus the Hessian of `group_objective`, (G, b C, b C)."""
    probs_TGb = logits_TGb.softmax(-1)
    weighted_TGb = target_TGb.sum(-1, keepdim=True) * probs_TGb
    pairs_TGbb = torch.diag_embed(weighted_TGb) - weighted_TGb.unsqueeze(3) * probs_TGb.unsqueeze(2)
    num_groups, size, num_features = *target_TGb.shape[1:], x_TC.shape[1]
    found = moments(x_TC, pairs_TGbb.flatten(1)).view(
        num_groups, size, size, num_features, num_features
    )
    return found.transpose(2, 3).reshape(num_groups, size * num_features, size * num_features)


def _solve(matrix_MCC: Tensor, right_MCO: Tensor) -> Tensor:
    """Solve positive semidefinite systems, damped by the ridge."""
    mean_M1 = matrix_MCC.diagonal(dim1=1, dim2=2).mean(-1, keepdim=True)
    ridge_MC = (_RIDGE * mean_M1 + _RIDGE_FLOOR).expand(matrix_MCC.shape[:2])
    solution_MCO: Tensor = torch.linalg.solve(matrix_MCC + torch.diag_embed(ridge_MC), right_MCO)
    return solution_MCO
