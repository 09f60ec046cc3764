"""What a model costs: parameters, active parameters and FLOPs per token, worked out, not measured.

A model on the meta device will do, so costs are known before any memory is taken.

Conventions: an active parameter is one that a token may meet, so all parameters count but those of
the experts that were not chosen. A multiply-add is 2 FLOPs; norms, softmax and activations are left
out; attention is counted without the saving of the causal mask. Training takes 3 times the forward
FLOPs (one forward, two products in the backward).
"""

from dataclasses import dataclass

import torch
from torch import nn

from hmoe.layer import HMoE, Selection, Tree
from hmoe.layer.tree_ops import sibling_softmax
from hmoe.models.dense import Dense
from hmoe.models.transformer import Attention


@dataclass(frozen=True)
class Cost:
    """Cost of a model; "token" is one vector for models that read vectors.

    Attributes:
        params: all trainable parameters.
        active_params: parameters met by one token, gates included.
        gate_params: parameters of the gates, contained in both.
        flops_per_token: forward FLOPs.
        num_mixtures: mixture layers; 0 for a dense control.
        experts_per_token: rows of one token in one mixture, as a mean over random gates; 0 without.
    """

    params: int
    active_params: float
    gate_params: int
    flops_per_token: float
    num_mixtures: int
    experts_per_token: float


def cost(model: nn.Module) -> Cost:
    """Work out what a model costs. Its weights are not looked at."""
    params = _count(model)
    mixtures = [m for m in model.modules() if isinstance(m, HMoE)]
    idle, gate_params, flops, rows = 0.0, 0, 0.0, 0.0
    for layer in mixtures:
        rows = experts_per_token(layer.selection, layer.tree)
        one_expert = _count(layer.experts) / layer.tree.num_experts
        idle += _count(layer.experts) - rows * one_expert
        gate_params += _count(layer.gate)
        flops += 2 * (_count_matrices(layer.gate) + rows * one_expert)
    for module in model.modules():
        if isinstance(module, nn.Linear):
            flops += 2 * module.weight.numel()
        elif isinstance(module, Dense):
            flops += 2 * _count(module)
        elif isinstance(module, Attention):
            # Scores and weighted sum over `context` positions.
            flops += 4 * module.context * module.out.in_features
    return Cost(params, params - idle, gate_params, flops, len(mixtures), rows)


def experts_per_token(selection: Selection, tree: Tree) -> float:
    """Rows per token of a selection on random probabilities: exact where K is fixed.

    Where K differs between tokens (a descent on a ragged tree) it is the mean over 4,096 tokens of
    standard normal scores around the gates' start, log(experts below a node).
    """
    num_tokens = 4096 if len({tree.level_N[n] for n in tree.node_E}) > 1 else 1
    generator = torch.Generator().manual_seed(0)
    logits_TN = torch.randn(num_tokens, tree.num_nodes, generator=generator)
    below_N = tree.index("num_below_N", logits_TN.device)
    probs_TN = sibling_softmax(logits_TN + below_N.log(), tree)
    return selection(tree, probs_TN, probs_TN).token_R.numel() / num_tokens


def _count(module: nn.Module) -> int:
    return sum(p.numel() for p in module.parameters())


def _count_matrices(module: nn.Module) -> int:
    return sum(p.numel() for p in module.parameters() if p.ndim > 1)
