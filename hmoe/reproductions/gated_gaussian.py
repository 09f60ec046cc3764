"""Gaussian mixtures with softmax or Laplace gates: drawn from, fitted, compared with the truth.

Letters: T rows, D features, C features with the constant, O targets, N nodes, E experts, G sibling
groups of b children.
"""

from dataclasses import dataclass, replace

import torch
from torch import Tensor

from hmoe.classics import EmOptions, Hme, em_step
from hmoe.classics.hme import sibling_log_softmax
from hmoe.layer.tree_ops import at_experts, path_sum

_NEAR = 0.1
_EM = EmOptions(
    epochs=2_000,
    newton_steps=2,
    curvature="exact",
    init_std=_NEAR,
    variance="expert",
    min_variance=1e-4,
)
_GAIN = 1e-6


@dataclass(frozen=True, eq=False)
class Gated(Hme):
    """The mixture of hmoe.classics, whose gates may compare by a Laplace score, level by level.

    A Laplace score is -|a - x| + b (Nguyen et al. 2024); `gate_NC` holds a, then b.
    """

    score_L: tuple[str, ...]

    def log_reach(self, x_TC: Tensor) -> Tensor:
        """log P(expert | x), (T, E)."""
        levels = []
        for score, nodes in zip(self.score_L, self.tree.level_slices, strict=True):
            own_NC = self.gate_NC[nodes]
            if score == "laplace":
                apart_TND = x_TC[:, None, :-1] - own_NC[:, :-1]
                levels.append(own_NC[:, -1] - apart_TND.norm(dim=-1))
            else:
                levels.append(x_TC @ own_NC.T)
        log_probs_TN = sibling_log_softmax(torch.cat(levels, -1), self.tree)
        return at_experts(path_sum(log_probs_TN, self.tree), self.tree)


def rows_of(truth: Gated, x_TD: Tensor, generator: torch.Generator) -> tuple[Tensor, Tensor]:
    """Features with the constant, and targets drawn from the truth."""
    x_TD = x_TD.double()
    x_TC = torch.cat([x_TD, torch.ones_like(x_TD[:, :1])], -1)
    expert_T1 = torch.multinomial(truth.log_reach(x_TC).exp(), 1, generator=generator)
    mean_TO = truth.answers(x_TC).gather(1, expert_T1[:, :, None]).squeeze(1)
    noise_TO = torch.randn(mean_TO.shape, dtype=torch.float64, generator=generator)
    return x_TC, mean_TO + noise_TO * truth.variance_EO[expert_T1[:, 0]].sqrt()


def near(truth: Gated, generator: torch.Generator) -> Gated:
    """The truth, every parameter moved a little; variances by a factor."""

    def moved(values: Tensor) -> Tensor:
        return _NEAR * torch.randn(values.shape, dtype=torch.float64, generator=generator)

    return replace(
        truth,
        gate_NC=truth.gate_NC + moved(truth.gate_NC),
        expert_ECO=truth.expert_ECO + moved(truth.expert_ECO),
        variance_EO=truth.variance_EO * moved(truth.variance_EO).exp(),
    )


def by_em(model: Gated, x_TC: Tensor, y_TO: Tensor) -> Gated:
    """EM until the log-likelihood of all rows together hardly gains."""
    before = model.log_likelihood(x_TC, y_TO)
    for _ in range(_EM.epochs):
        model = em_step(model, x_TC, y_TO, _EM)  # type: ignore[assignment]
        after = model.log_likelihood(x_TC, y_TO)
        if len(x_TC) * (after - before) < _GAIN:
            break
        before = after
    return model


def by_lbfgs(model: Gated, x_TC: Tensor, y_TO: Tensor) -> Gated:
    """L-BFGS on the log-likelihood, of all parameters at once; variances by their logarithms."""
    parts = [model.gate_NC, model.expert_ECO, model.variance_EO.log()]
    parts = [part.clone().requires_grad_() for part in parts]

    def current() -> Gated:
        gate_NC, expert_ECO, log_variance_EO = parts
        return replace(
            model, gate_NC=gate_NC, expert_ECO=expert_ECO, variance_EO=log_variance_EO.exp()
        )

    optimizer = torch.optim.LBFGS(
        parts,
        max_iter=200,
        history_size=20,
        tolerance_grad=1e-6,
        tolerance_change=1e-11,
        line_search_fn="strong_wolfe",
    )

    def closure() -> Tensor:
        optimizer.zero_grad()
        loss: Tensor = -current().log_joint(x_TC, y_TO).logsumexp(-1).mean()
        loss.backward()
        return loss

    optimizer.step(closure)  # type: ignore[no-untyped-call]
    parts = [part.detach() for part in parts]
    return current()


def flat_loss(model: Gated, truth: Gated) -> float:
    """D1 of the paper where both have as many experts, each fitted by its own.

    sum_i exp(b_i) (|gate weight| + |mean| + |slope| + |variance| apart) + |exp(b_i) - exp(b_i*)|
    """
    gate_NC, true_NC = (m.gate_NC - m.gate_NC[-1] for m in (model, truth))
    apart_E = (gate_NC[:, :-1] - true_NC[:, :-1]).abs().sum(1)
    apart_E = apart_E + (model.expert_ECO - truth.expert_ECO).abs().sum((1, 2))
    apart_E = apart_E + (model.variance_EO - truth.variance_EO).abs().sum(1)
    share_E, true_E = gate_NC[:, -1].exp(), true_NC[:, -1].exp()
    return float((share_E * apart_E + (share_E - true_E).abs()).sum())


def deep_loss(model: Gated, truth: Gated) -> float:
    """How far all parameters that can be known are apart, absolute values summed; ours.

    A softmax knows siblings' weights and intercepts up to a common vector, a Laplace gate its
    intercepts up to a common number.
    """
    pairs = (
        (known_gate(model), known_gate(truth)),
        (model.expert_ECO, truth.expert_ECO),
        (model.variance_EO, truth.variance_EO),
    )
    return sum(float((one - other).abs().sum()) for one, other in pairs)


def known_gate(model: Gated) -> Tensor:
    """Gate parameters less what siblings share without effect, (N, C)."""
    gate_NC = model.gate_NC.clone()
    for level, score in enumerate(model.score_L):
        for block in model.tree.blocks[level]:
            own_GbC = gate_NC[block.start : block.stop].view(block.num_groups, block.size, -1)
            first = -1 if score == "laplace" else 0
            own_GbC[..., first:] -= own_GbC[:, -1:, first:].clone()
    return gate_NC
