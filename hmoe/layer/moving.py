"""Moving: the same experts under another tree, and trees that grow or shrink, mid-training.

Every move takes a layer and leaves it alone. It returns a new layer and a `Move`, which says of
every row of every parameter where it came from; `move_optimizer` aligns an optimiser with it:

    layer, move = regroup(model.ffns[0], Tree.from_spec([4, 4]))
    model.ffns[0] = layer
    move_optimizer(optimizer, move)   # before the next backward

The new layer keeps the selection, which must work on the new tree; another one may be set on the
old layer before. It keeps a controller's bias too, row by row, as far as its nodes live on. Whoever
holds statistics of the old tree, such as load metrics, must start them anew.

Letters: N nodes, E experts, L levels, M rows of a stack.
"""

import copy
from collections.abc import Iterator, Sequence

import torch
from torch import Tensor, nn

from hmoe.errors import ConfigError, check_names
from hmoe.layer.bottom_up import BottomUp
from hmoe.layer.gates import TopDown
from hmoe.layer.heads import Heads
from hmoe.layer.hmoe import HMoE
from hmoe.layer.move import Move
from hmoe.layer.moving_gates import (
    Step,
    check_split,
    gates,
    halved,
    kept,
    learned_nodes,
    moved_gate,
    regrouped,
    scored,
)
from hmoe.layer.outline import FRESH, Into, Plan, same, split, without
from hmoe.layer.rows import Origins, banks, restacked_bank, stacks, take_rows
from hmoe.layer.staff import Shared, node_number
from hmoe.layer.tree import ROOT, Tree


def regroup(layer: HMoE, tree: Tree, order: Sequence[int] | None = None) -> tuple[HMoE, Move]:
    """The same function under another tree: experts keep their scores, units are others.

    A bottom-up gate keeps its experts' rows, whatever its pool. A top-down gate of one level is a
    bottom-up gate of one level, and becomes one.

    The function stays the same under `soft`, and under `top_k` and `expert_choice` that search all
    experts at once, where nothing but an exact tie can change. It does not, by design, under what
    the tree is for: a beam, a descent, a capacity or a k of every level. A controller's bias stays
    with the experts and starts at zero for the units.

    Args:
        tree: the new organisation, of as many experts.
        order: order[e] is the old expert that becomes expert e of the new tree, a clustering
            perhaps; None keeps all numbers. Experts are numbered in node order.

    Raises:
        ConfigError: a gate that has no equal on another tree, another number of experts, an order
            that leaves some out, staff that is shared by units, a selection that does not work on
            the new tree.
    """
    num_experts = layer.tree.num_experts
    if tree.num_experts != num_experts:
        raise ConfigError(
            f"tree = {tree}: has {tree.num_experts} experts, and tree {layer.tree} has "
            f"{num_experts}. To regroup keeps all of them; see split_expert and drop."
        )
    expert_E = tuple(range(num_experts) if order is None else order)
    if sorted(expert_E) != list(range(num_experts)):
        raise ConfigError(
            f"order = {list(expert_E)}: must name every expert from 0 to {num_experts - 1} once."
        )
    if isinstance(layer.gate, Heads) and any(layer.gate.hidden_H):
        raise ConfigError("gate.visible: what a head may use are units of the old tree. Use null.")
    was_top_down = any(isinstance(gate, TopDown) for gate in gates(layer.gate))
    if was_top_down and layer.bias_N is not None and layer.bias_N.any():
        raise ConfigError(
            "balance.bias: a controller's bias is added before the link of a top-down gate and "
            "after that of a bottom-up gate, so the choice would change. Set it to zero first."
        )
    plan = Plan(tree, (FRESH,) * tree.num_nodes, expert_E)
    return _moved(layer, plan, regrouped)


def split_expert(layer: HMoE, path: str, *, into: Into, noise: float) -> tuple[HMoE, Move]:
    """An expert becomes two with its weights, each at half its weight in the mixture.

    "unit": a unit of two takes the expert's place, on a level of its own if need be. Under a
    top-down gate the unit keeps the expert's row and the two start from rows of zeros, so that each
    has P = 1/2; under a bottom-up gate both have the expert's row and log 2 less.
    "siblings": a second expert joins the unit, both with the expert's row and log 2 less.

    Without noise the function stays the same under `soft`, and under any rule for the tokens of
    which the rule takes both copies where it took the expert, and all else that it took. `top_k`
    needs k + 1 for tokens that chose the expert; at the old k a token may lose another of its
    choice, or half the expert. `descend` takes both if it keeps all children of the new unit, k =
    null on its level. All this holds outside training if the gate adds noise.

    Args:
        path: of the expert.
        noise: the copies' weights are multiplied by 1 + noise n and 1 - noise n, n standard normal
            numbers of torch's generator. Their mean is the old weight, so the function changes in
            second order of the noise. With 0 the copies get equal gradients under `soft`, and stay
            equal.

    Raises:
        ConfigError: no such expert, a gate that cannot halve a weight, units that must be equal,
            noise for experts without weights.
    """
    check_names("into", [into], ("unit", "siblings"))
    if noise < 0:
        raise ConfigError(f"noise = {noise}: must be at least 0.")
    plan = split(layer.tree, path, into)
    node = node_number("path", path, layer.tree)
    for gate in gates(layer.gate):
        check_split(gate, layer.tree.level_N[node], into)
    new, move = _moved(layer, plan, kept)
    old = layer.tree.node_E.index(node)
    copies = [expert for expert, was in enumerate(plan.expert_E) if was == old]
    for gate in gates(new.gate):
        if into == "siblings" or isinstance(gate, BottomUp):
            halved(gate, [plan.tree.node_E[expert] for expert in copies])
    if noise:
        _perturb(new, copies, noise)
    return new, move


def drop(layer: HMoE, path: str) -> tuple[HMoE, Move]:
    """The layer without a node and all that is below it.

    A softmax among siblings shares out what the node had: siblings keep their odds, and under a
    bottom-up gate all experts do. A unit left with one child becomes that child, in the unit's
    place and with the unit's name and row, since the choice in it is sure; likewise the root.

    Raises:
        ConfigError: no such node; one expert would be left; nodes that move up would meet others
            with other options; shared experts of a unit that would be no more; heads that see
            nothing else; a selection that needs more experts.
    """
    plan = without(layer.tree, path)
    return _moved(layer, plan, kept, gone=_below(layer.tree, path))


def reinitialise(layer: HMoE, path: str, *, fresh: HMoE) -> tuple[HMoE, Move]:
    """The layer with new weights below a node, and all else as it was.

    New are the experts at and below the node, shared ones too, and the gate's rows below it. The
    node's own row stays, so under a top-down gate it gets as much work as before. A bottom-up gate
    has rows of experts alone, so there the node starts with what its new experts score. A
    controller's bias goes back to zero for nodes below.

    Args:
        path: of the node.
        fresh: a layer made as this one was, the source of the new weights.

    Raises:
        ConfigError: no such node, or a fresh layer of another make.
    """
    node_number("path", path, layer.tree)
    plan = same(layer.tree)
    new, move = _moved(layer, plan, kept)
    below = _below(layer.tree, path)
    strictly = below - {node_number("path", path, layer.tree)}
    if _make(fresh) != _make(layer):
        raise ConfigError(
            "fresh: must be a layer of the same make: the same tree, and parameters of the same "
            "names and shapes."
        )
    for (mine, nodes, is_gate), (others, _, _) in zip(_stacks(new), _stacks(fresh), strict=True):
        rows = [row for row, n in enumerate(nodes) if n in (strictly if is_gate else below)]
        for value, other in zip(mine, others, strict=True):
            value.data[rows] = other.detach()[rows].to(value)
            if isinstance(value, nn.Parameter):
                row_M = move.origins[value].row_M
                assert row_M is not None
                row_M[rows] = FRESH
    if new.bias_N is not None:
        new.bias_N[sorted(strictly)] = 0
    return new, move


def _moved(
    layer: HMoE, plan: Plan, step: Step, gone: frozenset[int] = frozenset()
) -> tuple[HMoE, Move]:
    """The layer that a plan describes, tried on one token."""
    origins: Origins = {}
    memo: dict[int, object] = {
        id(layer.tree): plan.tree,
        id(layer.gate): moved_gate(layer.gate, plan, origins, step),
        id(layer.experts): restacked_bank(
            layer.experts, layer.tree.num_experts, plan.expert_E, origins
        ),
        id(layer.shared): _moved_shared(layer.shared, layer.tree, plan, gone, origins),
    }
    # All that is not said here is copied as it is.
    new: HMoE = copy.deepcopy(layer, memo)
    if layer.bias_N is not None:
        new.bias_N = _moved_bias(layer, layer.bias_N, plan)
    new.try_out(1)
    kept_old = {origin.parameter for origin in origins.values()}
    return new, Move(origins, tuple(p for p in layer.parameters() if p not in kept_old))


def _moved_shared(
    shared: Shared, tree: Tree, plan: Plan, gone: frozenset[int], origins: Origins
) -> Shared:
    """Shared experts go where their units go."""
    if shared.experts is None:
        return copy.deepcopy(shared)
    new_of = {old: new for new, old in enumerate(plan.node_N) if old != FRESH} | {ROOT: ROOT}
    experts_now = set(plan.tree.node_E)
    unit_M, rows = [], []
    for row, unit in enumerate(shared.unit_M):
        if unit in gone:
            continue
        if unit not in new_of or new_of[unit] in experts_now:
            raise ConfigError(
                f"shared.units: unit '{tree.path_N[unit]}' of tree {tree} has shared experts and "
                f"would be no unit of tree {plan.tree}. Only those of the company move anywhere."
            )
        unit_M.append(new_of[unit])
        rows.append(row)
    experts = restacked_bank(shared.experts, len(shared.unit_M), rows, origins) if rows else None
    memo = {} if experts is None else {id(shared.experts): experts}
    moved: Shared = copy.deepcopy(shared, memo)
    moved.unit_M, moved.experts = unit_M, experts
    return moved


def _moved_bias(layer: HMoE, bias_N: Tensor, plan: Plan) -> Tensor:
    """A controller's bias stays with what it steers: the gate's row, or the unit that pools."""
    node_N = list(plan.node_N)
    if isinstance(gates(layer.gate)[0], BottomUp):
        experts_before = set(layer.tree.node_E)
        node_N = [FRESH if node in experts_before else node for node in node_N]
        for expert, node in enumerate(plan.tree.node_E):
            node_N[node] = layer.tree.node_E[plan.expert_E[expert]]
    return take_rows(bias_N, torch.tensor(node_N))


def _perturb(layer: HMoE, copies: Sequence[int], noise: float) -> None:
    """Push the weights of two equal experts apart."""
    one, other = copies
    for bank, experts in banks(layer.experts, layer.tree.num_experts):
        if one in experts:
            weights = list(bank.parameters())
            if not weights:
                raise ConfigError(
                    f"noise = {noise}: {type(bank).__name__} experts have no weights. Use noise=0."
                )
            for weight in weights:
                push = noise * torch.randn_like(weight[0])
                weight.data[one - experts.start] *= 1 + push
                weight.data[other - experts.start] *= 1 - push


def _stacks(layer: HMoE) -> Iterator[tuple[list[Tensor], Sequence[int], bool]]:
    """Stacks, the node of each of their rows, and whether they are a gate's."""
    for gate in gates(layer.gate):
        if isinstance(gate, TopDown) and gate.noise_MD is not None:
            yield [gate.noise_MD], learned_nodes(gate), True
        for scorer, nodes in scored(gate):
            yield stacks(scorer), nodes, True
    node_E = layer.tree.node_E
    for bank, experts in banks(layer.experts, len(node_E)):
        yield stacks(bank), [node_E[expert] for expert in experts], False
    if layer.shared.experts is not None:
        for bank, rows in banks(layer.shared.experts, len(layer.shared.unit_M)):
            yield stacks(bank), [layer.shared.unit_M[row] for row in rows], False


def _make(layer: HMoE) -> tuple[str, dict[str, torch.Size]]:
    shapes = {name: tensor.shape for name, tensor in layer.state_dict().items()}
    return str(layer.tree), {name: shape for name, shape in shapes.items() if name != "bias_N"}


def _below(tree: Tree, path: str) -> frozenset[int]:
    """The nodes at and below a path."""
    number = node_number("path", path, tree)
    found = {number}
    for node, parent in enumerate(tree.parent_N):
        if parent in found:
            found.add(node)
    return frozenset(found)
