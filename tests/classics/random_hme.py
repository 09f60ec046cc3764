"""Random models and rows for the tests of the classics."""

import torch
from torch import Tensor

from hmoe.classics import Hme, with_constant
from hmoe.layer import Tree

FEATURES, TARGETS = 3, 2


def random_hme(tree: Tree) -> Hme:
    """A model with gates, experts and variances of about unit size."""
    return Hme(
        tree,
        gate_NC=torch.randn(tree.num_nodes, FEATURES + 1).double(),
        expert_ECO=torch.randn(tree.num_experts, FEATURES + 1, TARGETS).double(),
        variance_EO=torch.rand(tree.num_experts, TARGETS).double() + 0.5,
    )


def random_rows(num_rows: int = 60) -> tuple[Tensor, Tensor]:
    """Features with the constant, and targets that are no linear function of them."""
    x_TD = torch.randn(num_rows, FEATURES)
    y_TO = torch.stack([x_TD.abs().sum(1), x_TD.prod(1)], 1) + 0.1 * torch.randn(num_rows, TARGETS)
    return with_constant(x_TD), y_TO.double()
