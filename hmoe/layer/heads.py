"""Heads: several gates over one organisation.

Letters: T tokens, D width, N nodes, H heads.
"""

from collections.abc import Callable, Sequence
from typing import get_args

import torch
from torch import Tensor, nn

from hmoe.errors import ConfigError, check_names, nearest
from hmoe.layer.gates import Gate, Merge, TopDown
from hmoe.layer.scores import Choice, Scores
from hmoe.layer.tree import Tree
from hmoe.layer.tree_ops import constant, path_sum


class Heads(Gate):
    """Several gates over one organisation; every head sends each token on its own errand.

    Multi-gate mixtures (Ma et al. 2018: one gate a task), the query heads of PEER (He
    2024), the k trees of COMET (Ibrahim et al. 2023). The decisions of H gates about T tokens are
    those of one gate about H T tokens, head by head; the layer sums, averages or stacks them.

    Args:
        tree, dim: as for any gate.
        num: number H of heads.
        gate: called as gate(tree=, dim=), once a head.
        visible: for every head the children of the root that it may use, with all that is below
            them; None: all. PLE (Tang et al. 2020) shows a task its own experts and shared ones.
            Hidden experts get no rows from the head.
        merge: of the heads' answers the "sum" or "mean" goes on; "stack" gives every head its own
            from the layer, (H, ..., D).

    Raises:
        ConfigError: no head, a list of another length, a name that is no child of the root.
    """

    def __init__(
        self,
        *,
        tree: Tree,
        dim: int,
        num: int,
        gate: Callable[..., Gate],
        visible: Sequence[Sequence[str]] | None,
        merge: Merge,
    ) -> None:
        super().__init__()
        check_names("gate.merge", [merge], get_args(Merge))
        if num < 1:
            raise ConfigError(f"gate.num = {num}: a number of heads is at least 1.")
        self.tree = tree
        self.num_heads = num
        self.merge = merge
        self.heads = nn.ModuleList(gate(tree=tree, dim=dim) for _ in range(num))
        if any(isinstance(head, Heads) for head in self.heads):
            raise ConfigError(
                "gate.gate: heads of heads are heads. Use gate.num for more of them, and a single "
                "gate such as gate@gate.gate=top_down."
            )
        self.hidden_H = [[]] * num if visible is None else self._hidden(visible)

    def forward(self, x_TD: Tensor, key_T: Tensor | None = None) -> Scores:
        """(T, D) -> Scores of H T tokens, head by head."""
        return self._joined([gate(x_TD, key_T) for gate in self._gates])

    def choose(self, scores: Scores, bias_N: Tensor | None) -> Choice:
        """The numbers that decide: a controller has one bias a node for all heads.

        What a head does not see is minus infinity: see `Choice`.
        """
        choice = self._gates[0].choose(scores, bias_N)
        if not any(self.hidden_H):
            return choice
        device = choice.factor_TN.device
        top_HN = torch.zeros(self.num_heads, self.tree.num_nodes, device=device)
        for top_N, nodes in zip(top_HN, self.hidden_H, strict=True):
            top_N.index_fill_(0, constant(tuple(nodes), device), 1.0)
        each = scores.num_tokens // self.num_heads
        top_TN = top_HN.repeat_interleave(each, 0)
        return Choice(
            choice.factor_TN.masked_fill(top_TN > 0, float("-inf")),
            choice.weight_TN.masked_fill(path_sum(top_TN, self.tree) > 0, float("-inf")),
            hides=True,
        )

    def random_scores(self, num_tokens: int, generator: torch.Generator) -> Scores:
        """Scores of made-up tokens for every head."""
        return self._joined([gate.random_scores(num_tokens, generator) for gate in self._gates])

    @property
    def _gates(self) -> list[Gate]:
        return list(self.heads)  # type: ignore[arg-type]

    def _joined(self, heads: Sequence[Scores]) -> Scores:
        shown = []
        for gate, scores, hidden in zip(self._gates, heads, self.hidden_H, strict=True):
            if hidden:
                # Out of reach before any rule sees it; finite, so that nothing turns into NaN.
                node = constant(tuple(hidden), scores.logits_TN.device)
                logits_TN = scores.logits_TN.index_fill(-1, node, -1e9)
                clean_TN = scores.clean_TN
                if clean_TN is not None:
                    clean_TN = clean_TN.index_fill(-1, node, -1e9)
                assert isinstance(gate, TopDown)  # see _hidden
                scores = gate.read(logits_TN, clean_TN, scores.noise_TN)
            shown.append(vars(scores))
        named = {name: [scores[name] for scores in shown] for name in shown[0] if name != "tree"}
        joined = {n: None if v[0] is None else torch.cat(v) for n, v in named.items()}
        return Scores(tree=self.tree, **joined)  # type: ignore[arg-type]

    def _hidden(self, visible: Sequence[Sequence[str]]) -> list[list[int]]:
        """For every head the children of the root that it may not use."""
        if len(visible) != self.num_heads:
            raise ConfigError(
                f"gate.visible = {visible}: {len(visible)} lists given, {self.num_heads} expected, "
                "one a head."
            )
        if not all(isinstance(gate, TopDown) for gate in self._gates):
            raise ConfigError(
                "gate.visible: units are hidden from gates that score them, such as gate=top_down."
            )
        top = self.tree.level_slices[0]
        names = self.tree.path_N[top]
        for name in (name for head in visible for name in head):
            if name not in names:
                raise ConfigError(
                    f"gate.visible has {name!r}: must be one of {', '.join(names)}, the units "
                    f"below the root.{nearest(name, names)}"
                )
        if not all(visible):
            raise ConfigError(f"gate.visible = {visible}: every head needs a unit to use.")
        return [[n for n, name in enumerate(names) if name not in head] for head in visible]
