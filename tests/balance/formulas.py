"""Balance formulas of other libraries, typed anew from their definitions, at coefficient 1.

T tokens, E experts, k per token, p probabilities, n tokens sent to an expert.
"""

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor

from hmoe.layer import Choice, Routing, Scores, Tree
from tests.cases import DIM, best, layer_of, top_down

LAYERS, BATCH, POSITIONS, EXPERTS, WORKERS = 3, 4, 12, 6, 2


class State(NamedTuple):
    """What the gate of one layer said and decided."""

    routing: Routing
    p: Tensor  # (T, E) probability of each expert
    sent: Tensor  # (T, E) 1 where a token is sent

    @property
    def k(self) -> int:
        return int(self.sent[0].sum())

    @property
    def n(self) -> Tensor:
        return self.sent.sum(0)


def states(
    k: int,
    spec: Sequence[int] = (EXPERTS,),
    gate: Any = None,
    selection: Any = None,
    alike: bool = False,
) -> list[State]:
    """Layers with a skewed gate each, on the same tokens; `alike`, the same gate in each."""
    x = torch.randn(BATCH, POSITIONS, DIM)
    result = []
    for seed in range(LAYERS):
        torch.manual_seed(0 if alike else seed)
        make = layer_of(
            tree=Tree.from_spec(spec), gate=gate or top_down(), selection=selection or best(k)
        )
        layer = make(dim=DIM)
        with torch.no_grad():
            for name, parameter in layer.gate.named_parameters():
                if name.endswith("bias_M"):
                    parameter += torch.randn_like(parameter)
        result.append(state(layer(x)[1]))
    return result


def state(routing: Routing) -> State:
    node_E = list(routing.tree.node_E)
    return State(routing, routing.reach_TN[:, node_E].detach(), routing.rows_TN[:, node_E])


def even_state(k: int) -> State:
    """Every expert gets as many tokens of every sequence as any other, from a gate that is sure."""
    tree = Tree.from_spec([EXPERTS])
    first_T = torch.arange(BATCH * POSITIONS)
    logits_TN = torch.zeros(len(first_T), EXPERTS)
    for rank in range(k):
        logits_TN[first_T, (first_T + rank) % EXPERTS] = 30.0 - 0.5 * rank
    probs_TN = logits_TN.softmax(-1)
    noise_TN = torch.full_like(logits_TN, 0.1)
    scores = Scores(tree, logits_TN, probs_TN, probs_TN, probs_TN, logits_TN, noise_TN)
    return state(best(k)(scores, Choice(probs_TN, probs_TN)))


# ------------------------------------------------------------------ their formulas, coefficient 1


def switch(s: State) -> Tensor:
    tokens = len(s.p)
    return EXPERTS * (s.n / tokens * s.p.mean(0)).sum()


def first_choice(s: State) -> Tensor:
    first = torch.nn.functional.one_hot(s.p.argmax(-1), EXPERTS).float()
    return (s.p.mean(0) * first.mean(0)).mean() * EXPERTS * EXPERTS


def deepspeed_topk(s: State) -> Tensor:
    return (s.p.mean(0) * s.sent.mean(0)).mean() * EXPERTS * EXPERTS / s.k


def megatron(s: State) -> Tensor:
    tokens = len(s.p)
    return (s.p.sum(0) * s.n).sum() * EXPERTS / (s.k * tokens * tokens)


def by_sequence(s: State) -> Tensor:
    """Megatron folds the batch into the experts and divides by it."""
    p = s.p.view(BATCH, POSITIONS, EXPERTS).sum(1)
    n = s.sent.view(BATCH, POSITIONS, EXPERTS).sum(1)
    return (p * n).sum() * EXPERTS / (s.k * POSITIONS * POSITIONS) / BATCH


def deepseek_sequence(s: State) -> Tensor:
    """f = E / (k T) counts, P = mean of s / sum s, of each sequence; s is the sigmoid."""
    scores = s.routing.scores.logits_TN.sigmoid()
    share = (scores / scores.sum(-1, keepdim=True)).view(BATCH, POSITIONS, EXPERTS)
    count = s.sent.view(BATCH, POSITIONS, EXPERTS).sum(1)
    return (EXPERTS / (s.k * POSITIONS) * count * share.mean(1)).sum(-1).mean()


def deepseek_devices(s: State) -> Tensor:
    """f' of a device is the mean f of its experts, P' the sum of their P; two devices of three."""
    f = EXPERTS / (s.k * len(s.p)) * s.n
    return (f.view(2, 3).mean(1) * s.p.mean(0).view(2, 3).sum(1)).sum()


def olmo(s: State) -> Tensor:
    return EXPERTS / s.k * torch.dot(s.n, s.p.mean(0)) / len(s.p)


def sonic(s: State) -> Tensor:
    mass = s.p.sum(0)
    return EXPERTS * (mass / mass.sum() * s.n / s.n.sum()).sum()


def fastmoe(s: State) -> Tensor:
    return (s.sent.mean(0) * s.p.mean(0)).mean() * (EXPERTS // WORKERS) ** 2


def cv2(values: Sequence[float] | Tensor) -> Tensor:
    values = torch.as_tensor(values)
    return values.var(correction=0) / values.mean() ** 2


def importance(s: State) -> Tensor:
    gates = torch.zeros_like(s.p)
    for t, e, w in zip(s.routing.token_R, s.routing.expert_R, s.routing.weight_R, strict=True):
        gates[t, e] = w.detach()
    return cv2(gates.sum(0))


def chance(clean: Tensor, noisy: Tensor, noise: Tensor, k: int) -> Tensor:
    """P(t, i) with the k-th highest of the others, expert by expert."""
    columns = []
    for i in range(clean.shape[-1]):
        others = torch.cat([noisy[:, :i], noisy[:, i + 1 :]], -1)
        threshold = others.sort(-1, descending=True).values[:, k - 1]
        columns.append(
            torch.distributions.Normal(0, 1).cdf((clean[:, i] - threshold) / noise[:, i])
        )
    return torch.stack(columns, -1)


def noise_of(s: State, nodes: slice) -> tuple[Tensor, Tensor, Tensor]:
    scores = s.routing.scores
    assert scores.clean_TN is not None
    assert scores.noise_TN is not None
    return scores.clean_TN[:, nodes], scores.logits_TN[:, nodes], scores.noise_TN[:, nodes]


def load(s: State) -> Tensor:
    return cv2(chance(*noise_of(s, slice(None)), s.k).sum(0))


def load_h(s: State) -> Tensor:
    """Load_primary_i Load_i(X_i)_j / |X_i|; k = 1 of two departments, then k = 1 of three."""
    primary = chance(*noise_of(s, slice(0, 2)), 1).sum(0)
    loads = []
    for i in range(2):
        here = s.sent[:, 3 * i : 3 * i + 3].any(-1)
        inner = [value[here] for value in noise_of(s, slice(2 + 3 * i, 5 + 3 * i))]
        loads.append(primary[i] * chance(*inner, 1).sum(0) / here.sum())
    return cv2(torch.cat(loads))


def z(s: State) -> Tensor:
    return s.routing.scores.logits_TN.logsumexp(-1).square().mean()


def leaf_entropy(s: State) -> Tensor:
    return torch.special.entr(s.p).sum(-1).mean()


def node_entropies(s: State) -> Tensor:
    """Sum over the seven nodes of a binary tree, mean over tokens; left is every other node."""
    left = s.routing.probs_TN[:, ::2]
    return (torch.special.entr(left) + torch.special.entr(1 - left)).sum(-1).mean()


def per_layer(formula: Callable[[State], Tensor]) -> Callable[[list[State]], Tensor]:
    return lambda layers: torch.stack([formula(layer) for layer in layers]).sum()


def megablocks(layers: list[State]) -> Tensor:
    n = torch.cat([s.n for s in layers])
    p = torch.cat([s.p.mean(0) for s in layers])
    tokens = len(layers[0].p)
    return EXPERTS / (len(layers) * tokens * layers[0].k) * torch.dot(n, p)


def transformers(layers: list[State]) -> Tensor:
    """Means over the tokens of all layers, one after the other; slots are summed, not averaged."""
    p = torch.cat([s.p for s in layers])
    slots = torch.cat([s.p.topk(s.k, -1).indices for s in layers])
    mask = torch.nn.functional.one_hot(slots, EXPERTS).float()
    return (mask.mean(0) * p.mean(0)).sum() * EXPERTS
