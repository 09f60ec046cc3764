"""Gates: score every node of the tree for every token.

A gate compares the token with nodes (`scorers`), adds noise while it trains, and turns the raw
scores of siblings into factors of the path weights: by a softmax, a sigmoid or a smooth step.
Because siblings and levels are contiguous in node order, one product scores a whole run of levels;
the tree enters only through `tree_ops`. All of it is float32 whatever the autocast.

Options that may differ by level take one value for all, or a list, the root's children first.

Letters: T tokens, D width, N nodes, M nodes that are scored (places, where groups share them), E
experts, L levels.
"""

from collections.abc import Callable, Sequence
from itertools import groupby
from math import log
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from hmoe.errors import ConfigError, check_names
from hmoe.layer.checks import check_temperatures, per_level
from hmoe.layer.scorers import SCORERS, Score, check_scorers
from hmoe.layer.scores import Choice, Scores
from hmoe.layer.tree import Tree
from hmoe.layer.tree_ops import (
    among_siblings,
    joined,
    path_product,
    path_sum,
    sibling_log_softmax,
    sibling_shares,
    sibling_softmax,
    softmax,
)

Link = Literal["softmax", "sigmoid", "smooth_step"]
Merge = Literal["sum", "mean", "stack"]
Noise = Literal["none", "learned", "gumbel"]


def smooth_step(t: Tensor) -> Tensor:
    """0 below -1/2, 1 above 1/2, a cubic between (Hazimeh et al. 2020, with width 1)."""
    t = t.clamp(-0.5, 0.5)
    return -2 * t**3 + 1.5 * t + 0.5


# Raw scores of siblings (..., b) to the factors they have in path weights.
_LINKS: dict[str, Callable[[Tensor], Tensor]] = {
    "softmax": softmax,
    "sigmoid": lambda group: group.sigmoid(),
    # Of two children each gets the step of its lead over the other: S(t) + S(-t) = 1.
    "smooth_step": lambda group: smooth_step(group - group.flip(-1)),
}


class Gate(nn.Module):
    """What every gate does. The T tokens of a gate with H heads count H times, head by head.

    Attributes:
        num_heads: H.
        merge: whether the layer sums the answers of the heads, takes their mean, or stacks them.
    """

    num_heads: int = 1
    merge: Merge = "sum"

    def forward(self, x_TD: Tensor, key_T: Tensor | None = None) -> Scores:
        """(T, D) of any dtype, ids (T,) where the model reads ids -> Scores of T tokens."""
        raise NotImplementedError

    def choose(self, scores: Scores, bias_N: Tensor | None) -> Choice:
        """The numbers that decide, those of a bias controller included."""
        raise NotImplementedError

    def random_scores(self, num_tokens: int, generator: torch.Generator) -> Scores:
        """Scores of made-up tokens: standard normal raw scores around the gate's start."""
        raise NotImplementedError


class TopDown(Gate):
    """Every node has its own weights and competes with its siblings.

    Jordan & Jacobs (1994), eq. 2-3; Shazeer et al. (2017), appendix B; each level may compare,
    soften and perturb in its own way. We differ in the bias: under a softmax it starts at
    log(experts below the node), times the temperature, so that on a ragged tree every expert, not
    every unit, is equally likely at first. On a uniform tree this is a constant among siblings,
    that is, zero. A sigmoid starts at the same factor as a softmax, the node's share of its
    parent's experts: from 1/2 everywhere, experts on short paths would take all tokens for good.

    Args:
        tree: the organisation.
        dim: width D of a token.
        score: how a token is compared with a node; one, or one a level.
        width: width of the query that is compared (hidden width of `mlp`); None: the token itself.
        init_std: standard deviation of the initial weights.
        temperature: raw scores are divided by it; one, or one a level.
        noise: added to raw scores in training; one, or one a level. "learned" is N(0, 1) times
            softplus(x W_noise) + 0.01 with W_noise starting at zero: Shazeer et al. (2017), eq. 4,
            and a floor of 0.01, which is ours; "gumbel" is standard Gumbel noise, so that the best
            child is a sample of the softmax.
        link: from the raw scores of siblings to their factors; one, or one a level.

    Raises:
        ConfigError: an unknown name, a list of the wrong length, a smooth step among siblings
            that are not two.
    """

    def __init__(
        self,
        *,
        tree: Tree,
        dim: int,
        score: Score | Sequence[Score],
        width: int | None,
        init_std: float,
        temperature: float | Sequence[float],
        noise: Noise | Sequence[Noise],
        link: Link | Sequence[Link],
    ) -> None:
        super().__init__()
        self.tree = tree
        levels = tree.num_levels
        self.score_L: list[Score] = per_level("gate.score", score, levels)
        self.noise_L: list[Noise] = per_level("gate.noise", noise, levels)
        self.link_L: list[Link] = per_level("gate.link", link, levels)
        self.temperature_L: list[float] = per_level("gate.temperature", temperature, levels)
        check_scorers(self.score_L, width)
        check_names("gate.noise", self.noise_L, ("none", "learned", "gumbel"))
        check_names("gate.link", self.link_L, tuple(_LINKS))
        check_temperatures(self.temperature_L)
        self._check_steps()
        self.scorers = nn.ModuleList(
            SCORERS[kind](prior_M=prior_M, dim=dim, width=width, init_std=init_std)
            for kind, prior_M in self._runs()
        )
        # Weights for the levels that learn their noise, and for no others.
        learned = sum(self._learned_widths())
        self.noise_MD = nn.Parameter(torch.zeros(learned, dim)) if learned else None

    def forward(self, x_TD: Tensor, key_T: Tensor | None = None) -> Scores:
        raw_TM = joined([scorer(x_TD, key_T) for scorer in self.scorers])
        clean_TM = self._divided(raw_TM)
        if not self.training or set(self.noise_L) == {"none"}:
            return self.read(self._at_nodes(clean_TM))
        logits_TM, noise_TM = self._perturb(clean_TM, x_TD)
        noise_TN = None if noise_TM is None else self._at_nodes(noise_TM)
        return self.read(self._at_nodes(logits_TM), self._at_nodes(clean_TM), noise_TN)

    def read(
        self, logits_TN: Tensor, clean_TN: Tensor | None = None, noise_TN: Tensor | None = None
    ) -> Scores:
        """What raw scores mean; a layer's balance may ask for the noise."""
        factor_TN = self._factors(logits_TN)
        probs_TN = sibling_shares(factor_TN, self.tree) if "sigmoid" in self.link_L else factor_TN
        weight_TN = path_product(factor_TN, self.tree)
        return Scores(self.tree, logits_TN, probs_TN, factor_TN, weight_TN, clean_TN, noise_TN)

    def choose(self, scores: Scores, bias_N: Tensor | None) -> Choice:
        """The numbers that decide, with the bias of a controller added to the raw scores.

        Before the link, not after: a product of factors down a path must not turn negative. Where
        all links are a softmax these are the logs of factors and products: in float32 probabilities
        below 1e-45 are 0, all of them alike.
        """
        logits_TN = scores.logits_TN.detach()
        if bias_N is not None:
            logits_TN = logits_TN + bias_N
        if set(self.link_L) == {"softmax"}:
            log_TN = sibling_log_softmax(logits_TN, self.tree)
            return Choice(log_TN, path_sum(log_TN, self.tree))
        factor_TN = self._factors(logits_TN)
        return Choice(factor_TN, path_product(factor_TN, self.tree))

    def random_scores(self, num_tokens: int, generator: torch.Generator) -> Scores:
        noiseless_TN = torch.randn(num_tokens, self.tree.num_nodes, generator=generator)
        logits_TN = (noiseless_TN + self._prior()).requires_grad_()
        if "learned" not in self.noise_L:
            return self.read(logits_TN)
        # softplus(0) + 0.01: as strong as at the start of training, for every token.
        noise_L = [(log(2) + 0.01) * (noise == "learned") for noise in self.noise_L]
        return self.read(logits_TN, logits_TN, self._by_node(noise_L).expand_as(logits_TN))

    def _factors(self, logits_TN: Tensor) -> Tensor:
        if set(self.link_L) == {"softmax"}:
            return sibling_softmax(logits_TN, self.tree)
        return among_siblings([_LINKS[link] for link in self.link_L], logits_TN, self.tree)

    def _at_nodes(self, value_TM: Tensor) -> Tensor:
        """From what is scored to nodes, (T, M) -> (T, N): here they are the same."""
        return value_TM

    def _divided(self, raw_TM: Tensor) -> Tensor:
        """Raw scores over the temperatures of their levels."""
        if set(self.temperature_L) == {1.0}:
            return raw_TM
        if len(set(self.temperature_L)) == 1:
            return raw_TM / self.temperature_L[0]
        levels = raw_TM.split(self._widths(), -1)
        return torch.cat([s / t for s, t in zip(levels, self.temperature_L, strict=True)], -1)

    def _perturb(self, clean_TM: Tensor, x_TD: Tensor) -> tuple[Tensor, Tensor | None]:
        """Raw scores with the noise of every level, and the deviation of the learnt noise."""
        learned = iter(self._deviations(x_TD))
        logits, deviations = [], []
        for noise, clean in zip(self.noise_L, clean_TM.split(self._widths(), -1), strict=True):
            deviation = next(learned) if noise == "learned" else torch.zeros_like(clean)
            if noise == "learned":
                clean = clean + torch.randn_like(clean) * deviation
            elif noise == "gumbel":
                clean = clean - torch.empty_like(clean).exponential_().log()
            logits.append(clean)
            deviations.append(deviation)
        noise_TM = torch.cat(deviations, -1) if self.noise_MD is not None else None
        return torch.cat(logits, -1), noise_TM

    def _deviations(self, x_TD: Tensor) -> list[Tensor]:
        """Standard deviations of the noise of every level that learns it."""
        if self.noise_MD is None:
            return []
        with torch.autocast(x_TD.device.type, enabled=False):
            raw_TM = F.linear(x_TD.float(), self.noise_MD.float())  # of the learned levels
        return list((F.softplus(raw_TM) + 0.01).split(self._learned_widths(), -1))

    def _widths(self) -> list[int]:
        """How many nodes a level scores: those of M."""
        return [here.stop - here.start for here in self.tree.level_slices]

    def _learned_widths(self) -> list[int]:
        return [w for w, n in zip(self._widths(), self.noise_L, strict=True) if n == "learned"]

    def _runs(self) -> list[tuple[Score, Tensor]]:
        """Neighbouring levels of one score, scored as one: the score and its nodes' priors."""
        prior_N = self._prior()
        scaled_N = prior_N * self._by_node(self.temperature_L)
        runs, start = [], 0
        for kind, levels in groupby(range(self.tree.num_levels), lambda level: self.score_L[level]):
            stop = self.tree.level_slices[list(levels)[-1]].stop
            # Scores are divided by the temperature. Hashes have no small start: the best of them is
            # the same at any temperature, and each expert's equally often around the bare prior.
            runs.append((kind, (prior_N if kind == "hash" else scaled_N)[start:stop]))
            start = stop
        return runs

    def _prior(self) -> Tensor:
        """Where the scores of nodes start, once divided by the temperature.

        Under a softmax and under sigmoids a node's factor then is its share of its parent's
        experts, so that their product down a path is the same for every expert.
        """
        device = torch.zeros(()).device
        priors = {
            "softmax": self.tree.index("num_below_N", device).log(),
            "sigmoid": self.tree.index("share_N", device).logit(),
            "smooth_step": torch.zeros(self.tree.num_nodes),
        }
        parts = [
            priors[k][here] for k, here in zip(self.link_L, self.tree.level_slices, strict=True)
        ]
        return torch.cat(parts)

    def _by_node(self, value_L: Sequence[float]) -> Tensor:
        """One number a level as one a node."""
        value = torch.tensor(value_L)
        return value[self.tree.index("level_N", value.device)]

    def _check_steps(self) -> None:
        for level, link in enumerate(self.link_L):
            sizes = {block.size for block in self.tree.blocks[level]}
            if link == "smooth_step" and sizes != {2}:
                raise ConfigError(
                    f"gate.link = smooth_step: a smooth step decides between two, but tree "
                    f"{self.tree} has units of {max(sizes)} children on level {level}. Use a "
                    "binary tree such as tree.spec=[2,2,2,2], or gate.link=softmax."
                )


class Tied(TopDown):
    """All units of a level share one gate, so a node's score is its place's, whoever the parent, in
    training too: noise is drawn once for a place.

    On `[sqrt E, sqrt E]` these are product keys (Lample et al. 2019, section 3.1; PEER, He 2024):
    the score of a path is a sum of one score a level, and a beam of k finds the exact top k of all
    E at the cost of 2 sqrt E comparisons. With a `width` each level has a query of its own; the
    papers halve one query, which is the same function. Binary levels under a smooth step are the
    selectors of DSelect-k (Hazimeh et al. 2021).

    Arguments and further errors are those of `TopDown`.

    Raises:
        ConfigError: units of one level that differ in size, or experts above the last level.
    """

    def _at_nodes(self, value_TM: Tensor) -> Tensor:
        levels = zip(value_TM.split(self._widths(), -1), self.tree.blocks, strict=True)
        return joined([value.repeat(1, blocks[0].num_groups) for value, blocks in levels])

    def _widths(self) -> list[int]:
        return [level[0].size for level in self.tree.blocks]

    def _runs(self) -> list[tuple[Score, Tensor]]:
        tree = self.tree
        if any(len(level) > 1 for level in tree.blocks) or tree.has_shallow_experts:
            raise ConfigError(
                f"gate: a gate tied per level needs units of equal size on each level, and tree "
                f"{tree} has not. Use a tree such as tree.spec=[4,4], or gate=top_down."
            )
        return [
            (kind, torch.zeros(level[0].size))
            for kind, level in zip(self.score_L, tree.blocks, strict=True)
        ]
