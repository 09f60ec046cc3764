"""What a model costs: parameters, active parameters and FLOPs per token, worked out, not measured.

A model on the meta device will do, so costs are known before any memory is taken.

Conventions: an active parameter is one that a token may meet, so all parameters count but those of
the experts that were not chosen, and of the nodes that a lazy descent does not look at. A
multiply-add is 2 FLOPs; norms, softmax and activations are left out; attention is counted without
the saving of the causal mask. A token meets every expert of a `SoftMoE`, since every slot reads
some of it. In a `Vit` patches are what experts meet: active parameters and experts per token are of
a patch, FLOPs of a picture with all its patches, since pictures are what a step counts.
"""

from dataclasses import dataclass

import torch
from torch import nn

from hmoe.layer import HMoE, LazyHMoE, SoftMoE
from hmoe.layer.scorers import Hash
from hmoe.models.dense import Dense
from hmoe.models.mixture import Mixture
from hmoe.models.transformer import Attention
from hmoe.models.vit import Vit

_MANY = 4096  # made-up tokens, where a mean must be taken


@dataclass(frozen=True)
class Cost:
    """Cost of a model; "token" is one vector for models that read vectors.

    Attributes:
        total_params: all trainable parameters.
        active_params: parameters met by one token, gates included.
        gate_params: parameters of the gates, contained in both.
        flops_per_token: forward FLOPs.
        num_mixtures: mixture layers, soft ones with slots too; 0 for a dense control.
        experts_per_token: rows of one token in one mixture, as a mean over random gates; 0 without.
            Slots work for all tokens of a group: then their number over that of the tokens.
    """

    total_params: int
    active_params: float
    gate_params: int
    flops_per_token: float
    num_mixtures: int
    experts_per_token: float

    def train_flops(self, tokens: float) -> float:
        """FLOPs of a training on so many tokens: one forward, and two products in the backward."""
        return 3 * self.flops_per_token * tokens


def cost(model: nn.Module) -> Cost:
    """Work out what a model costs. Its weights are not looked at."""
    params = _count(model)
    mixtures = [m for m in model.modules() if isinstance(m, HMoE)]
    idle, gate_params, flops, rows = 0.0, 0, 0.0, 0.0
    for layer in mixtures:
        num_experts = layer.tree.num_experts
        rows = experts_per_token(layer)
        # Experts differ in size where units do; at even load a row meets their mean.
        idle += _count(layer.experts) * (1 - min(rows / num_experts, 1))
        gate_params += _count(layer.gate)
        flops += 2 * _count_matrices(layer.gate, 2)
        if isinstance(layer, LazyHMoE):
            skipped, unmet = layer.saving()
            flops -= 2 * skipped
            idle += unmet
        flops += 2 * _count_matrices(layer.experts, 3) * rows / num_experts
        if layer.shared.experts is not None:
            reached = shared_per_token(layer) / len(layer.shared.unit_M)
            idle += _count(layer.shared) * (1 - min(reached, 1))
            flops += 2 * _count_matrices(layer.shared, 3) * reached
    num_mixtures = len(mixtures)
    # A model that does not say what it reads, such as a layer by itself, is taken to read ids.
    reads_ids = getattr(model, "input_kind", "tokens") != "vectors"
    for module in model.modules():
        if isinstance(module, nn.Linear):
            flops += 2 * module.weight.numel()
        elif isinstance(module, Dense):
            flops += 2 * _count_matrices(module, 3)
        elif isinstance(module, Hash) and reads_ids:
            flops -= 2 * module.plane_BD.numel()  # ids are hashed as they are
        elif isinstance(module, Mixture):
            gate_params += _count(module.gate)
            flops += 2 * (_count_matrices(module.gate, 2) + module.weight_EDO.numel())
            num_mixtures, rows = num_mixtures + 1, float(module.tree.num_experts)
        elif isinstance(module, SoftMoE):
            num_mixtures, rows = num_mixtures + 1, module.experts_per_token
            gate_params += module.phi_MD.numel() + module.scale.numel()
            # Scores, tokens into slots, and slots into tokens.
            flops += 3 * 2 * module.phi_MD.numel()
            flops += 2 * _count_matrices(module.experts, 3) * rows / module.tree.num_experts
        elif isinstance(module, Attention):
            # Scores and weighted sum over `context` positions.
            flops += 4 * module.context * module.out.in_features
    if isinstance(model, Vit):  # all but the head is done for every patch
        head = 2 * model.head.weight.numel()
        flops = head + model.num_patches * (flops - head)
    return Cost(params, params - idle, gate_params, flops, num_mixtures, rows)


def experts_per_token(layer: HMoE) -> float:
    """Rows of one token in one mixture, over all its heads: exact where K is fixed.

    Where it differs between tokens (a descent on a ragged tree, expert choice, a capacity) it is
    the mean over 4,096 made-up tokens around the gate's start.
    """
    rows_T = torch.bincount(layer.try_out(8).token_R, minlength=8 * layer.gate.num_heads)
    if len(rows_T.unique()) == 1:
        return rows_T[0].item() * layer.gate.num_heads
    return layer.try_out(_MANY).token_R.numel() / _MANY


def shared_per_token(layer: HMoE) -> float:
    """Shared experts that one token meets in one mixture, as a mean over made-up tokens."""
    return (layer.shared_weights(layer.try_out(_MANY)) > 0).sum().item() / _MANY


def _count(module: nn.Module) -> int:
    return sum(p.numel() for p in module.parameters())


def _count_matrices(module: nn.Module, ndim: int) -> int:
    """Entries of a module's matrices, drawn or learnt; stacked ones, of experts, have 3 axes."""
    tensors = [*module.parameters(), *module.buffers()]
    return sum(tensor.numel() for tensor in tensors if tensor.ndim >= ndim)
