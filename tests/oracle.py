"""The naive mixture: token by token, node by node, expert by expert, no tricks, never optimised.

It shares nothing with `hmoe.layer` but the parent of each node and the parameters. Everything is a
scalar tensor or a Python dict, so that autograd gives the gradients to compare with.
"""

from math import ceil

import torch
import torch.nn.functional as F

from hmoe.layer import BottomUp, ByUnit, Constant, Heads, HMoE, Identity, Mlp, Neurons, Tree, Zero


def naive_moe(layer: HMoE, x_TD: torch.Tensor) -> torch.Tensor:
    """(T, D) -> (T, D) as the papers write it; several heads are summed."""
    gates = layer.gate.heads if isinstance(layer.gate, Heads) else [layer.gate]
    chosen_HT = [_chosen(layer, gate, x_TD) for gate in gates]
    outputs = []
    for x, heads in zip(x_TD, zip(*chosen_HT, strict=True), strict=True):
        rows = [(node, w) for weights in heads for node, w in weights.items()]
        y = sum((w * _expert(layer, node, x) for node, w in rows), torch.zeros_like(x))
        outputs.append(y + _shared(layer, rows, x))
    return torch.stack(outputs)


def children(tree: Tree, node: int) -> list[int]:
    """Children of a node, of the root for -1."""
    return [n for n, parent in enumerate(tree.parent_N) if parent == node]


def _chosen(layer: HMoE, gate, x_TD: torch.Tensor) -> list[dict]:
    """For every token the nodes of its experts and their weights."""
    rule = getattr(layer.selection, "func", layer.selection).__name__
    options = getattr(layer.selection, "keywords", {})
    said = [_Said(layer, gate, x) for x in x_TD]
    if rule == "expert_choice":
        return _expert_choice(layer.tree, said, **options)
    return [_RULES[rule](layer.tree, token, **options) for token in said]


class _Said:
    """What a gate says of every node for one token: weights and ranks, by sibling and by path."""

    def __init__(self, layer: HMoE, gate, x: torch.Tensor) -> None:
        tree, bias = layer.tree, layer.bias_N
        nodes = range(len(tree.parent_N))
        self.pooled = isinstance(gate, BottomUp)
        if self.pooled:
            leaf = {n: e for e, n in enumerate(_leaves(tree))}
            raw = [s / gate.temperature for s in _compare(gate.scorer, x)]
            below = {n: [leaf[m] for m in _leaves(tree) if n in _path(tree, m)] for n in nodes}
            total = sum(s.exp() for s in raw)
            value = [
                s.exp() / total if gate.link == "softmax" else 1 / (1 + (-s).exp()) for s in raw
            ]
            mass = {n: sum(value[e] for e in below[n]) for n in nodes}
            mass[-1] = sum(value)
            self.logit = [sum(raw[e].exp() for e in below[n]).log() for n in nodes]
            self.factor = [mass[n] / mass[tree.parent_N[n]] for n in nodes]
            self.weight = {n: value[e] for n, e in leaf.items()}
            biased = [
                v.item() + (0.0 if bias is None else bias[n].item())
                for v, n in zip(value, _leaves(tree), strict=True)
            ]
            pools = {"logsumexp": sum, "max": max, "top_2_sum": lambda v: sum(sorted(v)[-2:])}

            def rank(node: int) -> float:
                if node in leaf:
                    return biased[leaf[node]]
                own = 0.0 if bias is None else bias[node].item()
                return pools[gate.pool]([rank(child) for child in children(tree, node)]) + own

            self.sibling_rank = self.path_rank = [rank(n) for n in nodes]
            return
        score = [s for scorer in gate.scorers for s in _compare(scorer, x)]
        score = [s / gate.temperature_L[len(_path(tree, n)) - 1] for n, s in enumerate(score)]
        self.logit = score
        self.factor = _linked(gate, tree, score)
        self.weight = {n: _along(tree, self.factor, n) for n in _leaves(tree)}
        if bias is not None:
            score = [s + b for s, b in zip(score, bias, strict=True)]
        choice = _linked(gate, tree, score)
        self.sibling_rank = [c.item() for c in choice]
        self.path_rank = [_along(tree, choice, n).item() for n in nodes]


def _compare(scorer, x):
    kind = type(scorer).__name__
    if kind in ("Random", "Hash"):
        return list(scorer(x[None], None)[0])  # its numbers are drawn, not worked out
    query = x if scorer.query_DW is None else x @ scorer.query_DW
    if kind == "Mlp":
        query = F.gelu(query)
    formulas = {
        "Linear": lambda w: (query * w).sum(),
        "Mlp": lambda w: (query * w).sum(),
        "Cosine": lambda w: (query * w).sum() / (query.norm() * w.norm()),
        "Laplace": lambda w: -(query - w).norm(),
        "Gaussian": lambda w: -(query - w).square().sum() / 2,
    }
    return [formulas[kind](w) + b for w, b in zip(scorer.weight_MD, scorer.bias_M, strict=True)]


def _linked(gate, tree: Tree, score):
    factors = []
    for node, parent in enumerate(tree.parent_N):
        link = gate.link_L[len(_path(tree, node)) - 1]
        if link == "softmax":
            total = sum(score[s].exp() for s in children(tree, parent))
            factors.append(score[node].exp() / total)
        else:
            factors.append(1 / (1 + (-score[node]).exp()))
    return factors


def _path(tree: Tree, node: int) -> list[int]:
    return [] if node == -1 else [*_path(tree, tree.parent_N[node]), node]


def _along(tree: Tree, value, node: int):
    product = torch.ones(())
    for step in _path(tree, node):
        product = product * value[step]
    return product


def _leaves(tree: Tree) -> list[int]:
    return [n for n in range(len(tree.parent_N)) if not children(tree, n)]


def _weigh(how: str, weights: dict, logits: dict) -> dict:
    if how == "even":
        return {n: torch.tensor(1 / len(weights)) for n in weights}
    if how == "softmax":
        weights = {n: logits[n].exp() for n in weights}
    total = 1.0 if how == "probs" else sum(weights.values())
    return {n: w / total for n, w in weights.items()}


def _soft(tree, said):
    return said.weight


def _top_k(tree, said, *, k, beam, weights, scale, capacity, drop):
    candidates = _leaves(tree)
    if beam is not None:
        frontier, candidates = children(tree, -1), []
        while frontier:
            candidates += [n for n in frontier if not children(tree, n)]
            units = [n for n in frontier if children(tree, n)]
            units.sort(key=lambda n: -said.path_rank[n])
            frontier = [c for unit in units[:beam] for c in children(tree, unit)]
    candidates.sort(key=lambda n: -said.path_rank[n])
    # A bottom-up unit's score is made of those below it, a top-down path adds up.
    steps = {n: [n] if said.pooled else _path(tree, n) for n in candidates[:k]}
    logits = {n: sum(said.logit[step] for step in steps[n]) for n in steps}
    chosen = _weigh(weights, {n: said.weight[n] for n in candidates[:k]}, logits)
    return {n: w * scale for n, w in chosen.items()}


def _descend(tree, said, *, k, weights, capacity, drop):
    def below(node, weight):
        if node != -1 and not children(tree, node):
            return {node: weight}
        kept = sorted(children(tree, node), key=lambda n: -said.sibling_rank[n])[:k]
        how = weights if isinstance(weights, str) else weights[len(_path(tree, kept[0])) - 1]
        own = _weigh(how, {n: said.factor[n] for n in kept}, dict(enumerate(said.logit)))
        found = {}
        for n in kept:
            found |= below(n, weight * own[n])
        return found

    return below(-1, torch.ones(()))


def _expert_choice(tree, said, *, k):
    leaves = _leaves(tree)
    size = min(ceil(k * len(said) / len(leaves)), len(said))
    chosen = [{} for _ in said]
    for node in leaves:
        for t in sorted(range(len(said)), key=lambda t: -said[t].path_rank[node])[:size]:
            chosen[t][node] = said[t].weight[node]
    return chosen


_RULES = {"soft": _soft, "top_k": _top_k, "descend": _descend}


def _expert(layer: HMoE, node: int, x):
    e = _leaves(layer.tree).index(node)
    bank = layer.experts
    if isinstance(bank, ByUnit):
        for size, inner in zip(bank.sizes, bank.banks, strict=True):
            if e < size:
                return _answer(inner, e, x)
            e -= size
    return _answer(bank, e, x)


def _shared(layer: HMoE, rows: list, x):
    total = torch.zeros_like(x)
    for m, unit in enumerate(layer.shared.unit_M):
        below = [w for node, w in rows if unit in [-1, *_path(layer.tree, node)]]
        if unit == -1 or below:
            weight = 1.0 if unit == -1 else sum(below)
            total = total + weight * _answer(layer.shared.experts, m, x)
    return total


def _answer(bank, e: int, x):
    if isinstance(bank, Zero):
        return torch.zeros_like(x)
    if isinstance(bank, Identity):
        return x
    if isinstance(bank, Constant):
        a, b = (x @ bank.mix_ED2[e]).exp() / (x @ bank.mix_ED2[e]).exp().sum()
        return a * x + b * bank.vector_ED[e]
    if isinstance(bank, Neurons):
        return F.gelu((bank.w_in_EDF[e, :, 0] * x).sum()) * bank.w_out_EFD[e, 0]
    if isinstance(bank, Mlp):
        activation = {"gelu": F.gelu, "relu": F.relu, "silu": F.silu}[bank.activation]
        hidden = activation(x @ bank.w_in_EDF[e])
    else:
        hidden = F.silu(x @ bank.w_gate_EDF[e]) * (x @ bank.w_up_EDF[e])
    return hidden @ bank.w_out_EFD[e]
