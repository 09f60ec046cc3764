"""EM for the hierarchical mixture (Jordan & Jacobs 1994, Algorithm 1); the likelihood never falls.

E-step: how much each expert, and each unit, explains of every row. M-step: every expert is a least
squares fit weighted by its posterior; every gate is a logistic fit to the posteriors of its
children. See Neal & Hinton (1998) for why part of the way up, such as a few Newton steps, will do.

Letters: T rows, C features with the constant, O targets, N nodes, E experts.
"""

from dataclasses import dataclass, replace
from typing import Literal

import torch
from torch import Tensor

from hmoe.classics.hme import Hme, posteriors
from hmoe.classics.irls import bound_step, least_squares, newton_step
from hmoe.errors import ConfigError, check_names
from hmoe.layer.tree import Tree
from hmoe.layer.tree_ops import at_experts

Variance = Literal["expert", "shared"]
Curvature = Literal["exact", "bound"]
_STEPS = {"exact": newton_step, "bound": bound_step}
# An expert with less than this many rows in all keeps the variance that it has.
_LEAST_ROWS = 1e-6
_ARRIVED = 1e-5


@dataclass(frozen=True, kw_only=True)
class EmOptions:
    """What a fit may choose.

    Args:
        epochs: EM steps, each over all rows.
        newton_steps: IRLS steps of every gate in an M-step; fewer where exact ones have arrived.
        curvature: what such a step divides by: "exact", as in the paper, or a "bound" of it, which
            costs less a step and takes many more of them.
        init_std: standard deviation of the gates' first weights.
        variance: "expert" gives every expert its own, "shared" one to all.
        min_variance: bound from below; without one the likelihood has no maximum, since an expert
            that explains a few rows exactly could have any density there.

    Raises:
        ConfigError: a count below 1, a number that is not above 0, an unknown curvature.
    """

    epochs: int
    newton_steps: int
    curvature: Curvature
    init_std: float
    variance: Variance
    min_variance: float

    def __post_init__(self) -> None:
        for name in ("epochs", "newton_steps"):
            if getattr(self, name) < 1:
                raise ConfigError(f"em.{name} = {getattr(self, name)}: must be at least 1.")
        for name in ("init_std", "min_variance"):
            if not 0 < getattr(self, name) < float("inf"):
                raise ConfigError(f"em.{name} = {getattr(self, name)}: must be a number above 0.")
        check_names("em.curvature", [self.curvature], _STEPS)


def start(
    tree: Tree, x_TC: Tensor, y_TO: Tensor, options: EmOptions, generator: torch.Generator
) -> Hme:
    """The model before the first step: every expert is the linear model of all rows.

    So the first E-step sees the gates alone, and it is their random weights that tell the experts
    apart. Intercepts start at log(experts below a node), so that on a ragged tree too every expert
    has about the same share of the rows.
    """
    weight_NC = torch.randn(tree.num_nodes, x_TC.shape[1], dtype=torch.float64, generator=generator)
    gate_NC = weight_NC * options.init_std
    gate_NC[:, -1] += torch.tensor(tree.num_below_N, dtype=torch.float64).log()
    nothing_1CO = x_TC.new_zeros(1, x_TC.shape[1], y_TO.shape[1])
    linear_1CO = least_squares(x_TC, y_TO, x_TC.new_ones(len(x_TC), 1), nothing_1CO)
    variance_O = (y_TO - x_TC @ linear_1CO[0]).square().mean(0).clamp(min=options.min_variance)
    size = tree.num_experts
    return Hme(tree, gate_NC, linear_1CO.expand(size, -1, -1), variance_O.expand(size, -1))


def em_step(model: Hme, x_TC: Tensor, y_TO: Tensor, options: EmOptions) -> Hme:
    """One E-step and one M-step; the log-likelihood of these rows does not fall."""
    h_TN = posteriors(model.log_joint(x_TC, y_TO), model.tree)
    h_TE = at_experts(h_TN, model.tree)
    expert_ECO = least_squares(x_TC, y_TO, h_TE, model.expert_ECO)
    fitted = replace(model, expert_ECO=expert_ECO)
    return replace(
        fitted,
        gate_NC=fit_gates(model, x_TC, h_TN, options),
        variance_EO=_variances(fitted, x_TC, y_TO, h_TE, options),
    )


def fit_gates(model: Hme, x_TC: Tensor, h_TN: Tensor, options: EmOptions) -> Tensor:
    """Some steps of the fit of every sibling group's gate, from where it stands; (N, C)."""
    step, blocks = _STEPS[options.curvature], []
    # Groups of one size lie side by side in node order and are fitted together.
    for block in (b for level in model.tree.blocks for b in level):
        nodes, shape = slice(block.start, block.stop), (block.num_groups, block.size)
        weight_GbC = model.gate_NC[nodes].unflatten(0, shape)
        target_bGT = h_TN[:, nodes].T.unflatten(0, shape).transpose(0, 1).contiguous()
        for _ in range(options.newton_steps):
            before_GbC, weight_GbC = weight_GbC, step(x_TC, target_bGT, weight_GbC)
            # Newton's steps converge quadratically: after one as small as this nothing is left to
            # do. Those under a bound converge linearly, and small ones may have far to go.
            if options.curvature == "exact" and torch.allclose(
                weight_GbC, before_GbC, rtol=_ARRIVED, atol=_ARRIVED
            ):
                break
        blocks.append(weight_GbC.flatten(0, 1))
    return torch.cat(blocks)


def _variances(fitted: Hme, x_TC: Tensor, y_TO: Tensor, h_TE: Tensor, options: EmOptions) -> Tensor:
    """The variances that are most likely, given posteriors and answers. (E, O)."""
    error_TEO = y_TO.unsqueeze(1) - fitted.answers(x_TC)
    squares_EO = torch.einsum("te,teo->eo", h_TE, error_TEO.square())
    rows_E1 = h_TE.sum(0).unsqueeze(1)
    if options.variance == "shared":
        squares_EO = squares_EO.sum(0).expand_as(squares_EO)
        rows_E1 = rows_E1.sum().expand_as(rows_E1)
    found_EO = (squares_EO / rows_E1).clamp(min=options.min_variance)
    return torch.where(rows_E1 < _LEAST_ROWS, fitted.variance_EO, found_EO)
