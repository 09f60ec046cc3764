"""Routes: the same weights asked otherwise, with a node shut, or under another search.

A layer of a run that stands still is given another `route` for a while; nothing else changes.

Letters: T tokens, D width, R rows, N nodes, E experts, K experts per token, B beam.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from functools import partial
from math import prod

import torch
from torch import Tensor

from hmoe.data import SplitLoader
from hmoe.errors import ConfigError
from hmoe.inspection.run import TrainedRun
from hmoe.layer import (
    Choice,
    Heads,
    HMoE,
    LazyHMoE,
    Routing,
    Scores,
    Selection,
    Tree,
    descend,
    top_k,
)
from hmoe.layer.beam import beam_widths, check_k
from hmoe.layer.checks import per_level
from hmoe.layer.gates import Gate, TopDown
from hmoe.layer.selection import seen_rows
from hmoe.layer.tree_ops import at_experts
from hmoe.metrics import RecallMetrics

Route = Callable[[Tensor, Tensor | None], Routing]
EXACT, DESCEND = "exact", "descend"
_SHUT = -1e9  # a raw score out of reach; finite, so that nothing turns into NaN


@contextmanager
def rerouted(routes: Mapping[HMoE, Route]) -> Iterator[None]:
    """Let layers route in another way for a while."""
    with ExitStack() as stack:
        for layer, route in routes.items():
            layer.route = route  # type: ignore[method-assign]
            stack.callback(delattr, layer, "route")
        yield


# ------------------------------------------------------------------ a node shut


def masked(
    run: TrainedRun,
    layer: HMoE,
    nodes: Sequence[int],
    batches: SplitLoader,
    loss: float,
    show: Callable[[], None] = lambda: None,
) -> dict[int, float]:
    """How much the loss rises when a node may not be chosen, so that others take over.

    Intervention as in DeepSeekMoE (Dai et al. 2024, figure 4), there with the top experts of each
    token, here with one node of the organisation at a time.

    Args:
        nodes: those to try; each costs an evaluation of `batches`.
        batches: what the loss is taken of.
        loss: what it is with all nodes.
        show: called after every node.

    Returns:
        node -> rise; a node is absent if the rule has to choose it, for want of others.
    """
    rises = {}
    for node in nodes if can_shut(layer) else ():
        try:
            with rerouted({layer: lambda x, key, node=node: route_without(layer, node, x, key)}):
                rises[node] = run.loss(batches) - loss
        except _NeededError:
            pass
        show()
    return rises


class _NeededError(Exception):
    """A rule had to choose the node that is shut."""


def can_shut(layer: HMoE) -> bool:
    """Whether a node can be shut: not where the gate looks at the nodes in the running only."""
    return not isinstance(layer, LazyHMoE)


def route_without(layer: HMoE, node: int, x_TD: Tensor, key_T: Tensor | None) -> Routing:
    """The routing of a layer one of whose nodes must not work.

    Its raw score becomes too small to count, so that its siblings share what it had; of a gate that
    scores experts only, those of all experts below it.

    Raises:
        _NeededError: there are rows of weight for it nonetheless.
    """
    tree, gate = layer.tree, layer.gate
    below_n = torch.tensor(nodes_below(tree, node), device=x_TD.device)
    scores = _without(gate, layer.gate(x_TD, key_T), node, below_n)
    choice = gate.choose(scores, layer.bias_N)
    choice = Choice(
        choice.factor_TN.index_fill(-1, below_n[:1], float("-inf")),
        choice.weight_TN.index_fill(-1, below_n, float("-inf")),
        hides=True,
    )
    routing = layer.eval_selection(scores, choice)
    left = seen_rows(routing, choice)
    # Rows that weigh nothing may go: the others' weights are what they would be without them.
    if not torch.isclose(left.weight_R.sum(), routing.weight_R.sum(), rtol=1e-4):
        raise _NeededError
    return left


def nodes_below(tree: Tree, node: int) -> list[int]:
    """A node and all that is below it, ascending."""
    found = {node}
    for other in range(node + 1, tree.num_nodes):
        if tree.parent_N[other] in found:
            found.add(other)
    return sorted(found)


def _without(gate: Gate, scores: Scores, node: int, below_n: Tensor) -> Scores:
    # Heads are alike, and reading scores takes no weights.
    reader = gate.heads[0] if isinstance(gate, Heads) else gate
    if isinstance(reader, TopDown):
        return reader.read(scores.logits_TN.index_fill(-1, below_n[:1], _SHUT))
    logits_TN = scores.logits_TN.index_fill(-1, below_n, _SHUT)
    return reader.read(at_experts(logits_TN, scores.tree))


# ------------------------------------------------------------------ another search


def policies(layer: HMoE) -> dict[str, Selection]:
    """Searches that find experts for the same scores: all of them, and beams of 1, 2, 4, .. units.

    A beam of 1 is greedy descent to one unit. A layer that descends is held beside them too, as
    "descend", where the others can choose as many experts and weigh them as it does: see `_joint`.
    Empty where they cannot, where experts are chosen by another rule, or where there is one level,
    so that nothing is searched.
    """
    rule, tree = layer.eval_selection, layer.tree
    if not isinstance(rule, partial) or isinstance(layer, LazyHMoE) or tree.num_levels == 1:
        return {}
    exact = partial(rule, beam=None) if rule.func is top_k else _joint(rule, tree)
    if exact is None:
        return {}
    found: dict[str, Selection] = {EXACT: exact}
    if rule.func is not top_k:
        found[DESCEND] = rule
    beam = 1
    while beam < max(map(len, tree.inner_levels)):
        try:
            check_k(tree, exact.keywords["k"], beam_widths(tree, beam) or ())
            found[f"beam {beam}"] = partial(exact, beam=beam)
        except ConfigError:  # too narrow to be sure of k experts
            pass
        beam *= 2
    return found


def _joint(rule: partial[Routing], tree: Tree) -> partial[Routing] | None:
    """The joint choice of as many experts as a descent, each of which weighs what it does there.

    An expert weighs the same in both if that is its path. Weights that are normalised at every
    level depend on who else was chosen there, and a joint choice has no such levels: its loss would
    differ by more than the search. None for those, for a descent that keeps all children of a unit,
    and where experts sit on several levels, so that tokens differ in how many they have.
    """
    if rule.func is not descend:
        return None
    depth, options = tree.num_levels, rule.keywords
    k_L = per_level("selection.k", options["k"], depth)
    weights_L = per_level("selection.weights", options["weights"], depth)
    one_depth = all(tree.level_N[node] == depth - 1 for node in tree.node_E)
    if None in k_L or set(weights_L) != {"probs"} or not one_depth:
        return None
    return partial(
        top_k,
        k=prod(k or 1 for k in k_L),
        beam=None,
        weights="probs",
        scale=1.0,
        capacity=options["capacity"],
        drop=options["drop"],
    )


def search_gap(
    run: TrainedRun, batches: SplitLoader, show: Callable[[], None] = lambda: None
) -> tuple[dict[str, dict[str, float]], dict[str, float]]:
    """What narrow searches miss: recall of every layer, and the loss of the model under them.

    Recall is asked of the scores that the model has under exact search, in all layers; for the loss
    all layers search alike, so that what one misses the next ones feel.

    Returns:
        place of the layer -> policy -> recall; policy -> loss. Empty without policies.
    """
    rules = {name: policies(layer) for name, layer in run.layers.items()}
    names = list(dict.fromkeys(name for each in rules.values() for name in each))
    found = {
        name: _Recalls(run.layers[name], each, run.device) for name, each in rules.items() if each
    }
    losses = {}
    for policy in names:
        routes: dict[HMoE, Route] = {
            recalls.layer: recalls.route if policy == EXACT else recalls.plain(policy)
            for recalls in found.values()
        }
        with rerouted(routes):
            losses[policy] = run.loss(batches)
        show()
    return {name: recalls.shares() for name, recalls in found.items()}, losses


class _Recalls:
    """Recall of a layer's policies, added up while it searches exactly."""

    def __init__(self, layer: HMoE, rules: Mapping[str, Selection], device: torch.device) -> None:
        self.layer = layer
        self.rules = rules
        self.found = {name: RecallMetrics().to(device) for name in rules}

    def route(self, x_TD: Tensor, key_T: Tensor | None) -> Routing:
        """The exact choice, beside which all others are held."""
        scores, choice = self._asked(x_TD, key_T)
        routings = {name: rule(scores, choice) for name, rule in self.rules.items()}
        for name, routing in routings.items():
            pair = (routing.before_drops.expert_R, routings[EXACT].before_drops.expert_R)
            # All of them give every token k rows.
            self.found[name].update(*(e_R.reshape(scores.num_tokens, -1) for e_R in pair))
        return routings[EXACT]

    def plain(self, policy: str) -> Route:
        """The choice under a policy alone."""
        rule = self.rules.get(policy, self.layer.eval_selection)
        return lambda x_TD, key_T: rule(*self._asked(x_TD, key_T))

    def shares(self) -> dict[str, float]:
        """Recall of every policy."""
        return {name: float(metric.compute()) for name, metric in self.found.items()}

    def _asked(self, x_TD: Tensor, key_T: Tensor | None) -> tuple[Scores, Choice]:
        scores = self.layer.gate(x_TD, key_T)
        return scores, self.layer.gate.choose(scores, self.layer.bias_N)
