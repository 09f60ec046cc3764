"""Lazy descent: score only the children of nodes that are still in the running.

For very large trees. A dense gate scores all N nodes for every token; a token that is sent to K
experts by a beam of B needs the scores of B sibling groups a level. `looks` scores them, or the
whole level where that is cheaper; `descent` goes down the tree with them.

Letters: T tokens, D width, N nodes, K experts per token.
"""

from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from hmoe.errors import ConfigError
from hmoe.layer.asking import LinearScorer, Scorer, TiedScorer
from hmoe.layer.beam import beam_widths, check_k
from hmoe.layer.checks import check_count
from hmoe.layer.descent import best_sums, path_values, search
from hmoe.layer.gates import Gate, Tied, TopDown
from hmoe.layer.hmoe import HMoE
from hmoe.layer.routing import Routing
from hmoe.layer.scorers import Linear
from hmoe.layer.scores import Unscored
from hmoe.layer.selection import Selection, check_weights, top_k, weighed_rows
from hmoe.layer.tree import Tree


class LazyHMoE(HMoE):
    """`HMoE` with a lazy descent: the same parameters, answers and gradients, for very large trees.

    Only `top_k` can be searched lazily, and only gates that can be asked for a few nodes: linear
    top-down ones, and tied ones of any score. The routing holds no scores of all nodes, so losses
    on them do not go with it; a bias controller does.

    Arguments are those of `HMoE`.

    Raises:
        ConfigError: those of `HMoE`; a gate or a selection that cannot be searched lazily.
    """

    def route(self, x_TD: Tensor, key_T: Tensor | None) -> Routing:
        """Who works on what: (T, D), ids (T,) or None -> Routing."""
        scorer = gate_scorer(self.gate, x_TD, key_T)
        return self._routing(self.selection if self.training else self.eval_selection, scorer)

    def try_out(self, num_tokens: int) -> Routing:
        """The routing of made-up tokens around the gate's start: costs and checks read it."""
        _check_gate(self.gate)
        scorer = _made_up(self.tree, num_tokens)
        with torch.device("cpu"):
            self._routing(self.eval_selection, scorer)
            return self._routing(self.selection, scorer)

    def saving(self) -> tuple[float, float]:
        """What a token is spared by not being compared with all nodes.

        Returns multiply-adds of the forward, and parameters of the gate that it does not meet. A
        token meets the groups in the running; on levels that are scored whole it is compared with
        others too. Exact on a uniform tree, else the mean over made-up tokens; nothing under a tied
        gate, which has no more than one set of scores a level to begin with.
        """
        own = _own_weights(self.gate)
        if own is None:
            return 0.0, 0.0
        num_tokens, num_nodes, width = 1024, *own.weight_MD.shape
        with torch.device("cpu"):
            k, beams = self._reads(self.selection)
            found = search(_made_up(self.tree, num_tokens), k=k, beams=beams)
        met = sum(step.look.num_asked() for step in found.steps) / num_tokens
        compared = sum(step.look.num_compared() for step in found.steps) / num_tokens
        return (num_nodes - compared) * width, (num_nodes - met) * (width + 1)

    def _routing(self, selection: Selection, scorer: Scorer) -> Routing:
        k, beams = self._reads(selection)
        options = _options(selection)
        # Of "softmax" the raw scores along a path are asked for, else its probability.
        raw = options["weights"] == "softmax"
        if isinstance(scorer, TiedScorer) and self.bias_N is None:
            expert_TK, value_TK = best_sums(scorer, k=k, beams=beams, raw=raw)
        else:
            found = search(scorer, k=k, beams=beams, bias_N=self.bias_N)
            expert_TK, value_TK = found.expert_TK, path_values(scorer, found, raw=raw)
        scores = Unscored(self.tree, len(scorer.x_TD))
        weighing = {name: options[name] for name in ("weights", "scale", "capacity", "drop")}
        return weighed_rows(scores, expert_TK, value_TK, **weighing)

    def _reads(self, selection: Selection) -> tuple[int, list[int]]:
        """Experts per token, and the beam of each level before the last; both checked."""
        options = _options(selection)
        k: int = options["k"]
        check_count("selection.k", k, self.tree.num_experts, "experts")
        check_weights(options["weights"], [k])
        # Without a beam every unit stays in the running.
        every = [self.tree.num_nodes] * (self.tree.num_levels - 1)
        beams = beam_widths(self.tree, options["beam"]) or every
        check_k(self.tree, k, beams)
        return k, beams


def gate_scorer(gate: Gate, x_TD: Tensor, key_T: Tensor | None) -> Scorer:
    """Ask a gate for a few nodes: the raw scores that it would give them, float32.

    Raises:
        ConfigError: a gate that cannot be asked.
    """
    _check_gate(gate)
    assert isinstance(gate, TopDown)
    own = _own_weights(gate)
    if own is None:
        levels = zip(gate.scorers, gate.temperature_L, strict=True)
        score_L = [partial(_tied_scores, scorer, key_T, temp) for scorer, temp in levels]
        return TiedScorer(gate.tree, x_TD, score_L)
    with torch.autocast(x_TD.device.type, enabled=False):
        query_TD = own.query(x_TD.float())
    return LinearScorer(
        gate.tree, query_TD, own.weight_MD.float(), own.bias_M.float(), gate.temperature_L
    )


def _tied_scores(
    scorer: nn.Module, key_T: Tensor | None, temperature: float, x_TD: Tensor
) -> Tensor:
    logits_Tb: Tensor = scorer(x_TD, key_T)
    return logits_Tb if temperature == 1 else logits_Tb / temperature


def _own_weights(gate: Gate) -> Linear | None:
    """The one scorer of a linear gate whose nodes have weights of their own, else None."""
    if not isinstance(gate, TopDown) or isinstance(gate, Tied) or len(gate.scorers) != 1:
        return None
    scorer = gate.scorers[0]
    return scorer if type(scorer) is Linear else None


def _check_gate(gate: Gate) -> None:
    works = "A lazy descent needs gate=top_down with gate.score=linear, or gate=tied"
    if not isinstance(gate, TopDown):
        raise ConfigError(f"gate: {type(gate).__name__} scores all nodes together. {works}.")
    if set(gate.noise_L) != {"none"} or set(gate.link_L) != {"softmax"}:
        raise ConfigError(
            f"gate.noise = {gate.noise_L}, gate.link = {gate.link_L}: a lazy descent needs "
            "gate.noise=none and gate.link=softmax on all levels."
        )
    if isinstance(gate, Tied):
        return
    if _own_weights(gate) is None:
        raise ConfigError(f"gate.score = {gate.score_L}: {works}.")


def _options(selection: Selection) -> dict[str, Any]:
    """The options of a `top_k`."""
    if not isinstance(selection, partial) or selection.func is not top_k:
        rule = selection.func if isinstance(selection, partial) else selection
        raise ConfigError(
            f"selection = {getattr(rule, '__name__', rule)}: a lazy descent finds the best k of a "
            "beam. Use selection=top_k with a selection.beam, or ffn@model.ffn=hmoe."
        )
    return dict(selection.keywords)


def _made_up(tree: Tree, num_tokens: int) -> LinearScorer:
    """A random linear gate around the start of a top-down one, over tokens of four numbers."""
    with torch.device("cpu"):
        generator = torch.Generator().manual_seed(0)
        x_TD = torch.randn(num_tokens, 4, generator=generator)
        weight_ND = torch.randn(tree.num_nodes, 4, generator=generator) / 2
        prior_N = tree.index("num_below_N", x_TD.device).log()
    weight_ND.requires_grad_()
    return LinearScorer(tree, x_TD, weight_ND, prior_N, [1.0] * tree.num_levels)
