"""Hme: the hierarchical mixture of experts of Jordan & Jacobs (1994) as a statistical model.

    P(y | x) = sum_e reach_e(x) N(y; U_e x, diag(variance_e))                          (eq. 6, 10)

where reach is the product of the gates' probabilities on the path to the expert. Experts and gates
are linear with an intercept. The paper writes two levels; here the tree may have any shape. All is
float64: EM multiplies many small probabilities and solves for the weights exactly.

Letters: T rows, D features, C = D + 1 with the constant, O targets, N nodes, E experts.
"""

from dataclasses import dataclass
from math import log, pi

import torch
from torch import Tensor

from hmoe.layer.tree import Tree
from hmoe.layer.tree_ops import among_siblings, at_experts, path_sum, sum_below


@dataclass(frozen=True, eq=False)
class Hme:
    """The parameters of the model, float64; an EM step returns new ones.

    Attributes:
        tree: the organisation.
        gate_NC: weights of every node; softmax among siblings.
        expert_ECO: weights of every expert.
        variance_EO: variance of every target around every expert's answer. The paper allows any
            covariance; as in most uses of it, ours has no correlations between targets.
    """

    tree: Tree
    gate_NC: Tensor
    expert_ECO: Tensor
    variance_EO: Tensor

    def log_reach(self, x_TC: Tensor) -> Tensor:
        """log P(expert | x), (T, E)."""
        log_probs_TN = sibling_log_softmax(x_TC @ self.gate_NC.T, self.tree)
        return at_experts(path_sum(log_probs_TN, self.tree), self.tree)

    def log_joint(self, x_TC: Tensor, y_TO: Tensor) -> Tensor:
        """log P(expert, y | x), (T, E)."""
        error_TEO = y_TO.unsqueeze(1) - self.answers(x_TC)
        log_density_TEO = -0.5 * (
            error_TEO.square() / self.variance_EO + self.variance_EO.log() + log(2 * pi)
        )
        return self.log_reach(x_TC) + log_density_TEO.sum(-1)

    def log_likelihood(self, x_TC: Tensor, y_TO: Tensor) -> float:
        """Mean over rows of log P(y | x), in nats."""
        return self.log_joint(x_TC, y_TO).logsumexp(-1).mean().item()

    def answers(self, x_TC: Tensor) -> Tensor:
        """The answer of every expert, (T, E, O)."""
        return torch.einsum("tc,eco->teo", x_TC, self.expert_ECO)

    def predict(self, x_TC: Tensor) -> Tensor:
        """The mean of P(y | x): the answers blended by reach, (T, O) (eq. 1-2)."""
        return torch.einsum("te,teo->to", self.log_reach(x_TC).exp(), self.answers(x_TC))


def sibling_log_softmax(logits_TN: Tensor, tree: Tree) -> Tensor:
    """log P(node | parent), exact where the probability is too small to be written. (T, N)."""
    rules = [lambda group: group.log_softmax(-1)] * tree.num_levels
    return among_siblings(rules, logits_TN, tree)


def posteriors(log_joint_TE: Tensor, tree: Tree) -> Tensor:
    """The E-step: P(node | x, y), the share of every node in explaining a row. (T, E) -> (T, N).

    At an expert it is h_ij of the paper, at a unit h_i, and h_j|i is a node's over its parent's
    (eq. 14-16).
    """
    return sum_below(log_joint_TE.softmax(-1), tree)


def with_constant(x_TD: Tensor) -> Tensor:
    """Features in float64 and a last one that is 1, for the intercepts. (T, D) -> (T, C)."""
    x_TD = x_TD.double()
    return torch.cat([x_TD, x_TD.new_ones(len(x_TD), 1)], -1)
