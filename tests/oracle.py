"""The naive mixture: token by token, node by node, expert by expert, no tricks, never optimised.

It shares nothing with `hmoe.layer` but the parent of each node and the parameters. Everything is a
scalar tensor or a Python dict, so that autograd gives the gradients to compare with.
"""

import torch
import torch.nn.functional as F

from hmoe.layer import BottomUp, HMoE, SwiGlu, Tree


def naive_moe(layer: HMoE, x_TD: torch.Tensor) -> torch.Tensor:
    """(T, D) -> (T, D) as the papers write it."""
    rule = getattr(layer.selection, "func", layer.selection).__name__
    options = getattr(layer.selection, "keywords", {})
    outputs = []
    for x in x_TD:
        score = _scores(layer, x)
        probs = _sibling_softmax(layer.tree, score)
        if layer.bias_N is not None:
            score = [s + b for s, b in zip(score, layer.bias_N, strict=True)]
        choice = _sibling_softmax(layer.tree, score)
        weights = _RULES[rule](layer.tree, probs, choice, **options)
        outputs.append(sum(w * _expert(layer, node, x) for node, w in weights.items()))
    return torch.stack(outputs)


def children(tree: Tree, node: int) -> list[int]:
    """Children of a node, of the root for -1."""
    return [n for n, parent in enumerate(tree.parent_N) if parent == node]


def _scores(layer: HMoE, x):
    gate, tree = layer.gate, layer.tree
    if not isinstance(gate, BottomUp):
        return [(w * x).sum() + b for w, b in zip(gate.weight_ND, gate.bias_N, strict=True)]
    leaf = {n: e for e, n in enumerate(_leaves(tree))}

    def pooled(node):
        if node in leaf:
            return (gate.weight_ED[leaf[node]] * x).sum() + gate.bias_E[leaf[node]]
        return sum(pooled(child).exp() for child in children(tree, node)).log()

    return [pooled(node) for node in range(len(tree.parent_N))]


def _sibling_softmax(tree: Tree, score):
    probs = []
    for node, parent in enumerate(tree.parent_N):
        probs.append(score[node].exp() / sum(score[s].exp() for s in children(tree, parent)))
    return probs


def _path(tree: Tree, node: int) -> list[int]:
    return [] if node == -1 else [*_path(tree, tree.parent_N[node]), node]


def _reach(tree: Tree, probs, node: int):
    product = torch.ones(())
    for step in _path(tree, node):
        product = product * probs[step]
    return product


def _leaves(tree: Tree) -> list[int]:
    return [n for n in range(len(tree.parent_N)) if not children(tree, n)]


def _soft(tree, probs, choice):
    return {n: _reach(tree, probs, n) for n in _leaves(tree)}


def _top_k(tree, probs, choice, *, k, beam, renormalize):
    candidates = _leaves(tree)
    if beam is not None:
        frontier, candidates = children(tree, -1), []
        while frontier:
            candidates += [n for n in frontier if not children(tree, n)]
            units = [n for n in frontier if children(tree, n)]
            units.sort(key=lambda n: -_reach(tree, choice, n).item())
            frontier = [c for unit in units[:beam] for c in children(tree, unit)]
    candidates.sort(key=lambda n: -_reach(tree, choice, n).item())
    weights = {n: _reach(tree, probs, n) for n in candidates[:k]}
    total = sum(weights.values()) if renormalize else 1.0
    return {n: w / total for n, w in weights.items()}


def _descend(tree, probs, choice, *, k, renormalize):
    def below(node, weight):
        if node != -1 and not children(tree, node):
            return {node: weight}
        kept = sorted(children(tree, node), key=lambda n: -choice[n].item())[:k]
        total = sum(probs[n] for n in kept) if renormalize else 1.0
        weights = {}
        for n in kept:
            weights |= below(n, weight * probs[n] / total)
        return weights

    return below(-1, torch.ones(()))


_RULES = {"soft": _soft, "top_k": _top_k, "descend": _descend}


def _expert(layer: HMoE, node: int, x):
    e = _leaves(layer.tree).index(node)
    bank = layer.experts
    if isinstance(bank, SwiGlu):
        hidden = F.silu(x @ bank.w_gate_EDF[e]) * (x @ bank.w_up_EDF[e])
    else:
        hidden = F.gelu(x @ bank.w_in_EDF[e])
    return hidden @ bank.w_out_EFD[e]
