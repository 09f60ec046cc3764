"""Churn: how much of what the gates choose changes from one validation to the next.

The validation set and its order stay the same and evaluation draws nothing, so that what differs
are the gates, and what they read. A gate that has settled has a churn near 0 at every level.

Letters: T tokens.
"""

from collections.abc import Sequence
from statistics import fmean
from typing import Any

import torch
from torch import Tensor

from hmoe.layer import Routing, Tree
from hmoe.metrics import heaviest, overlaps

# So many tokens of a layer tell a share to within half a percent; a checkpoint holds 4 bytes each.
_MOST_TOKENS = 16_384


class Churn:
    """The heaviest expert of the first validation tokens, remembered until the next validation.

    Args:
        trees: of the mixtures, in the order of their routings.
    """

    def __init__(self, *, trees: Sequence[Tree]) -> None:
        self._trees = tuple(trees)
        self._step = -1
        self._chosen: list[Tensor] = []
        self._churn: dict[str, float] = {}
        self.start()

    def start(self) -> None:
        """Begin a validation."""
        self._parts: list[list[Tensor]] = [[] for _ in self._trees]

    def watch(self, routings: Sequence[Routing]) -> None:
        """Add a batch of the validation. What experts were asked to do counts, dropped or not."""
        for parts, routing in zip(self._parts, routings, strict=True):
            left = _MOST_TOKENS - sum(map(len, parts))
            if left > 0:
                parts.append(heaviest(routing.before_drops)[:left].int())

    def finish(self, step: int) -> dict[str, float]:
        """End the validation of a step: churn by level, as a mean over mixtures; {} at the first.

        A run that was resumed at its end validates its last step again. That changes nothing: it
        is told the churn that the step had.
        """
        if step == self._step:
            return self._churn
        chosen = [torch.cat(parts).cpu() for parts in self._parts]
        kept = (
            [
                overlaps(before_T.unsqueeze(-1), now_T.unsqueeze(-1), tree)
                for before_T, now_T, tree in zip(self._chosen, chosen, self._trees, strict=True)
            ]
            if self._chosen
            else []
        )
        self._churn = {key: 1 - fmean(k[key] for k in kept) for key in (kept[0] if kept else ())}
        self._step, self._chosen = step, chosen
        return self._churn

    def state_dict(self) -> dict[str, Any]:
        """What a checkpoint carries along."""
        return {"step": self._step, "chosen": self._chosen, "churn": self._churn}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on from a checkpoint."""
        self._step, self._chosen, self._churn = state["step"], state["chosen"], state["churn"]
