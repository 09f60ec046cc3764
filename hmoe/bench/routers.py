"""Routers: ways to find 16 of E experts for a token, each built for any power of 4 of experts.

Trees and tied trees are layers of hmoe; the other two are what they stand beside, written out in
plain torch: a flat gate, and product keys as PEER has them.

Letters: T tokens, D width, E experts, N nodes, K experts per token, S sub-keys of a set, H half of
the width.
"""

from math import isqrt, log2
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

import hmoe
from hmoe.layer import HMoE
from hmoe.layer.tree_ops import at_experts

K = 16
DIM = 256


class Chosen(NamedTuple):
    """Experts of every token, best first, and what they weigh."""

    expert_TK: Tensor
    weight_TK: Tensor


class Flat(nn.Module):
    """One score an expert: the best k of a softmax over all of them."""

    def __init__(self, num_experts: int) -> None:
        super().__init__()
        self.weight_ED = nn.Parameter(torch.randn(num_experts, DIM) * DIM**-0.5)
        self.bias_E = nn.Parameter(torch.zeros(num_experts))

    def forward(self, x_TD: Tensor) -> Chosen:
        best = F.linear(x_TD, self.weight_ED, self.bias_E).softmax(-1).topk(K)
        return Chosen(best.indices, best.values)


class ProductKeys(nn.Module):
    """The best k of E = S^2 pairs of sub-keys: Lample et al. (2019), section 3.1; PEER, He (2024).

    A query is halved; each half is compared with a set of S sub-keys; of the k^2 sums of the best k
    of both sets the best k are found exactly, and weigh their softmax. Without the batch norm of
    the query, and with one head.
    """

    def __init__(self, num_experts: int) -> None:
        super().__init__()
        size, half = isqrt(num_experts), DIM // 2
        self.query_DD = nn.Parameter(torch.randn(DIM, DIM) * DIM**-0.5)
        self.key_1_SH = nn.Parameter(torch.randn(size, half) * half**-0.5)
        self.key_2_SH = nn.Parameter(torch.randn(size, half) * half**-0.5)

    def forward(self, x_TD: Tensor) -> Chosen:
        query_1_TH, query_2_TH = (x_TD @ self.query_DD).chunk(2, -1)
        best_1 = (query_1_TH @ self.key_1_SH.T).topk(K)
        best_2 = (query_2_TH @ self.key_2_SH.T).topk(K)
        sum_TC = (best_1.values.unsqueeze(-1) + best_2.values.unsqueeze(-2)).flatten(1)
        expert_TC = best_1.indices.unsqueeze(-1) * len(self.key_2_SH) + best_2.indices.unsqueeze(-2)
        best = sum_TC.topk(K)
        return Chosen(expert_TC.flatten(1).gather(1, best.indices), best.values.softmax(-1))


class OfLayer(nn.Module):
    """What a layer of hmoe routes."""

    def __init__(self, layer: HMoE) -> None:
        super().__init__()
        self.layer = layer

    def forward(self, x_TD: Tensor) -> Chosen:
        routing = self.layer.route(x_TD, None)
        shape = (len(x_TD), -1)
        return Chosen(routing.expert_R.view(shape), routing.weight_R.view(shape))


def tree_layer(num_experts: int, *, branching: int, beam: int, ffn: str = "hmoe_lazy") -> OfLayer:
    """A top-down tree of units of equal size; what is left over goes to the root."""
    return _layer(
        f"ffn@model.ffn={ffn}",
        *("gate=top_down", f"gate.init_std={DIM**-0.5}"),
        *(f"tree.spec={tree_spec(num_experts, branching)}", f"selection.beam={beam}"),
    )


def tied_layer(num_experts: int) -> OfLayer:
    """Two tied levels, which are product keys: one query of half the width a level."""
    size, half = isqrt(num_experts), DIM // 2
    return _layer(
        "ffn@model.ffn=hmoe_lazy",
        *("gate=tied", f"gate.width={half}", f"gate.init_std={half**-0.5}"),
        *(f"tree.spec=[{size},{size}]", f"selection.beam={K}", "selection.weights=softmax"),
    )


def tree_spec(num_experts: int, branching: int) -> list[int]:
    """Branching factors of 2^n experts in units of `branching`, itself a power of 2."""
    levels, left = divmod(round(log2(num_experts)), round(log2(branching)))
    return [2**left] * (left > 0) + [branching] * levels


def with_keys_of(tied: OfLayer, keys: ProductKeys) -> None:
    """Make a tied tree the same function as product keys."""
    sizes = [DIM // 2] * 2
    with torch.no_grad():
        for scorer, query_DH, key_SH in zip(
            tied.layer.gate.scorers,
            keys.query_DD.split(sizes, 1),
            (keys.key_1_SH, keys.key_2_SH),
            strict=True,
        ):
            scorer.query_DW.copy_(query_DH)
            scorer.weight_MD.copy_(key_SH)


@torch.no_grad()
def exact_top(router: OfLayer, x_TD: Tensor) -> Tensor:
    """The exact best k of a layer's gate by the scores of all nodes, some tokens at a time."""
    gate, tree = router.layer.gate, router.layer.tree
    best = [
        at_experts(gate.choose(gate(x_tD), None).weight_TN, tree).topk(K).indices
        for x_tD in x_TD.split(16)
    ]
    return torch.cat(best)


def recall(found_TK: Tensor, exact_TK: Tensor) -> float:
    """Share of the exact best experts that were found."""
    return (found_TK.unsqueeze(-1) == exact_TK.unsqueeze(-2)).any(-2).float().mean().item()


def _layer(*choices: str) -> OfLayer:
    fixed = ("experts=zero", "balance=none", "selection=top_k", f"selection.k={K}")
    return OfLayer(hmoe.build(*fixed, *choices, dim=DIM))


def recalls(num_experts: int, device: str, num_tokens: int = 256) -> list[dict[str, Any]]:
    """Share of the exact best 16 of each gate that its search finds; gates are random.

    Product keys have the weights of the tied tree, so that its exact best are theirs too.
    """
    torch.manual_seed(0)
    x_TD = torch.randn(num_tokens, DIM, device=device)
    tied, keys = tied_layer(num_experts).to(device), ProductKeys(num_experts).to(device)
    with_keys_of(tied, keys)
    exact_TK = exact_top(tied, x_TD)
    with torch.no_grad():
        found = {
            "tied tree": recall(tied(x_TD).expert_TK, exact_TK),
            "product keys": recall(keys(x_TD).expert_TK, exact_TK),
        }
        for branching in (16, 32):
            trees = {b: tree_layer(num_experts, branching=branching, beam=b) for b in (4, 16)}
            trees[16].load_state_dict(trees[4].state_dict())
            exact_TK = exact_top(trees[4].to(device), x_TD)
            for beam, tree in trees.items():
                name = f"tree of {branching}, beam {beam}"
                found[name] = recall(tree.to(device)(x_TD).expert_TK, exact_TK)
    return [
        {"router": name, "experts": num_experts, "tokens": num_tokens, "recall": value}
        for name, value in found.items()
    ]
