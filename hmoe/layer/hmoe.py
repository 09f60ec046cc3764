"""HMoE: a mixture of experts whose gate is a tree. The algorithm in one forward.

Letters: T tokens, D width, N nodes, R rows, H heads.
"""

from collections.abc import Callable
from dataclasses import replace
from itertools import chain
from typing import Self

import torch
from torch import Tensor, nn

from hmoe.errors import ConfigError
from hmoe.layer.dispatch import combine, expert_order, permute
from hmoe.layer.gates import Gate, TopDown
from hmoe.layer.heads import Heads
from hmoe.layer.routing import Routing
from hmoe.layer.scores import Scores
from hmoe.layer.selection import Selection, check_seen
from hmoe.layer.staff import Shared
from hmoe.layer.streams import own_stream
from hmoe.layer.tree import Tree


class HMoE(nn.Module):
    """A layer of experts organised as a tree.

    Args:
        tree: the organisation.
        gate: called as gate(tree=, dim=); the module scores every node for every token.
        selection: rule from scores to rows.
        eval_selection: rule outside training; None is the same rule.
        experts: called as experts(num_experts=, dim=); the module answers rows in expert order.
        shared: called as shared(tree=, dim=); the experts that all tokens of a unit meet.
        dim: width D of a token.

    Raises:
        ConfigError: a selection that cannot work on this tree, or leaves a gate that learns, or a
            level of it, without a gradient. It is tried on made-up tokens here, so that a mistake
            is told before any work starts.
    """

    gate: Gate
    shared: Shared
    # Added to the scores that choose, never to those that weigh; None without a bias controller.
    bias_N: Tensor | None

    def __init__(
        self,
        *,
        tree: Tree,
        gate: Callable[..., Gate],
        selection: Selection,
        eval_selection: Selection | None,
        experts: Callable[..., nn.Module],
        shared: Callable[..., Shared],
        dim: int,
    ) -> None:
        super().__init__()
        self.tree = tree
        with own_stream():  # another gate leaves the experts as they are
            self.gate = gate(tree=tree, dim=dim)
        self.selection = selection
        self.eval_selection = eval_selection or selection
        self.experts = experts(num_experts=tree.num_experts, dim=dim)
        self.shared = shared(tree=tree, dim=dim)
        self.register_buffer("bias_N", None)
        with torch.enable_grad():
            tried = self.try_out(1)
        weighs = tried.weight_R.requires_grad
        if not weighs and any(True for _ in self.gate.parameters()):
            raise ConfigError(
                "selection.weights: the weights do not depend on the gate, so it would never learn "
                "from the task. Use a gate that does not learn, such as gate.score=hash, or "
                "selection.weights=probs."
            )
        if weighs and isinstance(tried.scores, Scores):
            self._check_levels()

    def add_bias(self) -> None:
        """Make room for a bias controller: a float32 buffer, one number a node, at zero."""
        device = next(chain(self.parameters(), self.buffers())).device
        self.bias_N = torch.zeros(self.tree.num_nodes, dtype=torch.float32, device=device)

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> Self:
        """Moves and casts of the module: the bias moves, but stays float32.

        Its steps are small beside it, and a sum in bfloat16 stalls where they round to nothing.
        """
        bias_N = self.bias_N
        super()._apply(fn, recurse)  # type: ignore[no-untyped-call]
        if bias_N is not None and self.bias_N is not None and self.bias_N.dtype != torch.float32:
            self.bias_N = bias_N.to(self.bias_N.device)
        return self

    def forward(self, x: Tensor, key: Tensor | None = None) -> tuple[Tensor, Routing]:
        """(..., D) -> (..., D) and the routing of the T tokens in the leading axes.

        A gate whose heads are stacked gives (H, ..., D), and a routing of H T tokens.
        `key` (...) are the tokens' ids, for gates that look at ids; axis 0 of x counts sequences.
        """
        x_TD = x.reshape(-1, x.shape[-1])
        routing = self.route(x_TD, None if key is None else key.reshape(-1))
        order = expert_order(routing)
        y_RD = self.experts(permute(x_TD, order), routing.load_E)
        # Experts may multiply in another precision; their answers go on as the tokens came.
        y_TD = self._merged(combine(y_RD, routing.weight_R, order)).to(x.dtype)
        if self.shared.experts is not None:
            y_TD = y_TD + self.shared(x_TD, self.shared_weights(routing))
        if x.ndim > 2:
            num_sequences = self.gate.num_heads * x.shape[:-2].numel()
            routing = replace(routing, num_sequences=num_sequences)
        stack = [self.gate.num_heads] if self.gate.merge == "stack" else []
        return y_TD.reshape(*stack, *x.shape), routing

    def route(self, x_TD: Tensor, key_T: Tensor | None) -> Routing:
        """Who works on what: (T, D), ids (T,) or None -> Routing."""
        scores = self.gate(x_TD, key_T)
        choice = self.gate.choose(scores, self.bias_N)
        return (self.selection if self.training else self.eval_selection)(scores, choice)

    def try_out(self, num_tokens: int) -> Routing:
        """The routing of made-up tokens around the gate's start: costs and checks read it."""
        with torch.device("cpu"):
            generator = torch.Generator().manual_seed(0)
            scores = self.gate.random_scores(num_tokens, generator)
            choice = self.gate.choose(scores, None)
            check_seen(self.eval_selection(scores, choice), choice)
            routing = self.selection(scores, choice)
            check_seen(routing, choice)
            return routing

    def shared_weights(self, routing: Routing) -> Tensor:
        """What every shared expert weighs for every token: see `Shared.weights`."""
        return self.shared.weights(routing, self.gate.merge, self.gate.num_heads)

    def _check_levels(self) -> None:
        """Refuse weights that leave one level of a gate that learns without a gradient.

        Asked are made-up tokens, so many that their choices differ.

        Raises:
            ConfigError: there is such a level.
        """
        # Heads are alike, and each has its own scores.
        gate = self.gate.heads[0] if isinstance(self.gate, Heads) else self.gate
        if not isinstance(gate, TopDown):
            return  # one score an expert, for all levels
        with torch.device("cpu"), torch.enable_grad():
            scores = gate.random_scores(64, torch.Generator().manual_seed(0))
            weight_R = self.selection(scores, gate.choose(scores, None)).weight_R
            (grad_TN,) = torch.autograd.grad(weight_R.square().sum(), scores.logits_TN)
        rounding = 1e-6 * grad_TN.abs().max()  # what cancels out may leave a trace
        for level, here in enumerate(self.tree.level_slices):
            learns = gate.score_L[level] not in ("random", "hash")
            if learns and grad_TN[:, here].abs().max() <= rounding:
                raise ConfigError(
                    f"selection.weights: the weights do not depend on level {level} of the gate, "
                    "so that it would never learn from the task. Use a score that does not learn "
                    "there, such as gate.score=random, or selection.weights=probs."
                )

    def _merged(self, y_TD: Tensor) -> Tensor:
        """Answers to the tokens of all heads (H T, D), as they go on: (T, D), or all, stacked."""
        if self.gate.merge == "stack" or self.gate.num_heads == 1:
            return y_TD
        y_HTD: Tensor = y_TD.unflatten(0, (self.gate.num_heads, -1))
        return y_HTD.sum(0) if self.gate.merge == "sum" else y_HTD.mean(0)
