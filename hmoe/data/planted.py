"""Planted: data made by a known mixture of experts, so that the truth about a gate is known.

A tree of centres is laid into space: the children of a unit lie at a given distance around it, in
drawn directions, far for departments and near for teams. A row is a cloud's draw around the centre
of an expert, each equally often. It belongs to the expert found by going down the tree to the
nearest centre on each level, which is what a tree of linear gates can say exactly; and that
expert's function of the row, seen from its centre, makes the target. The first row of a truth of
4 x 4 experts in 8 dimensions, with two targets and noise 0.1 (the expert is not shown):

    x 2.15 -1.16 -0.43 -0.81 0.01 1.56 0.62 0.36    y -1.02 0.94

Values: y = f_e(x) + noise N(0, 1), with f_e of variance 1 (linear) or less (a network); no model
has a mean squared error below noise^2. Classes: the largest of the f_e(x), but with probability
`noise` one of the others; no model has an error below `noise`. `floor` says so in numbers.

How much of an organisation there is to find is a dial: with `kinship` the functions of relatives
are alike, and a `twin` has the same functions without the same hierarchy in space. Neither changes
the noise, so the floor is the same.
"""

from collections.abc import Mapping
from math import log
from typing import Literal

import numpy as np
import torch
from torch import Tensor

from hmoe.data.checks import check_at_least
from hmoe.data.loader import SPLITS, Split
from hmoe.data.rows import RowData
from hmoe.data.truth import Truth
from hmoe.errors import ConfigError, check_names
from hmoe.layer import Tree
from hmoe.metrics import place_at_cut

Array = np.ndarray
_TASKS = ("regression", "classification")
_TWINS = ("none", "shuffled", "flat")


class Planted(RowData):
    """Rows of a known mixture: x float32 (B, in_dim), y float32 (B, out_dim) or int64 (B,).

    Domains are where the truth has the row: its node on every level, or its expert where that sits
    above.

    Args:
        batch_size: rows a batch.
        seed: seed of the training stream; neither truth nor rows depend on it.
        truth: the tree of the experts that make the data.
        truth_seed: seed of the truth and of the rows.
        distance: of children from their parent, one number a level, in deviations of a cloud.
        hidden_dim: hidden tanh units of an expert's function; None makes it linear.
        target: "regression" or "classification".
        kinship: share of a function's variance that it has from its parent's, in [0, 1): functions
            of siblings correlate by it, of cousins by its square. 0: nothing in common.
        twin: "none"; "shuffled", functions dealt out at random over the places, so that neighbours
            are no relatives; or "flat", experts straight around the root, as far as in the tree.
            Of a flat twin the upper levels of the domains are those of its functions.
        noise: deviation of the values' noise, or the share of classes that are wrong.
        in_dim: features.
        out_dim: values, or classes.
        num_train, num_val, num_test: rows of each split.

    Raises:
        ConfigError: a size below 1, a list of the wrong length, noise or kinship out of its range,
            or an unknown target or twin.
    """

    def __init__(
        self,
        *,
        batch_size: int,
        seed: int,
        truth: Tree,
        truth_seed: int,
        distance: list[float],
        hidden_dim: int | None,
        target: Literal["regression", "classification"],
        kinship: float,
        twin: Literal["none", "shuffled", "flat"],
        noise: float,
        in_dim: int,
        out_dim: int,
        num_train: int,
        num_val: int,
        num_test: int,
    ) -> None:
        super().__init__(batch_size=batch_size, seed=seed)
        sizes = {"num_train": num_train, "num_val": num_val, "num_test": num_test}
        least = 1 if target == "regression" else 2
        if hidden_dim is not None:
            sizes["hidden_dim"] = hidden_dim
        for name, value in {**sizes, "in_dim": in_dim}.items():
            check_at_least(name, value, 1)
        check_at_least("out_dim", out_dim, least)
        check_at_least("truth_seed", truth_seed, 0)
        _check(truth, distance, target, noise, out_dim)
        _check_kin(kinship, twin)
        self.task, self.in_dim, self.out_dim = target, in_dim, out_dim
        self.truth, self.truth_seed, self.distance = truth, truth_seed, distance
        self.hidden_dim, self.noise = hidden_dim, noise
        self.kinship, self.twin = kinship, twin
        self.num_rows = (num_train, num_val, num_test)

    @property
    def domain_labels(self) -> tuple[str, ...]:  # type: ignore[override]
        """What the levels of the truth are called; the last is "expert"."""
        levels = self.truth.num_levels
        named = ("department", "team", *(f"level_{level}" for level in range(2, levels)))
        return (*named[: levels - 1], "expert")

    @property
    def domain_names(self) -> tuple[tuple[str, ...], ...]:  # type: ignore[override]
        """The nodes of the truth, a level with the experts above it."""
        tree = self.truth
        cuts = [tree.cut(level) for level in range(tree.num_levels)]
        return tuple(tuple(tree.path_N[node] for node in cut) for cut in cuts)

    @property
    def floor(self) -> dict[str, float]:
        """The scores of the best model that there can be, which knows the truth."""
        if self.task == "regression":
            return {"loss": self.noise**2, "mse": self.noise**2}
        shares = [1 - self.noise, *[self.noise / (self.out_dim - 1)] * (self.out_dim - 1)]
        return {"loss": -sum(p * log(p) for p in shares if p), "accuracy": 1 - self.noise}

    def known(self, draw: np.random.RandomState) -> Truth:
        """The truth; what is drawn after it makes the rows.

        Kinship and deal have streams of their own, so that they leave the rest as it is.
        """
        truth = Truth.drawn(
            self.truth,
            draw,
            in_dim=self.in_dim,
            out_dim=self.out_dim,
            distance=self.distance,
            hidden_dim=self.hidden_dim,
        ).related(self.kinship, np.random.RandomState([self.truth_seed, 1]))
        if self.twin == "shuffled":
            return truth.shuffled(np.random.RandomState([self.truth_seed, 2]))
        return truth.flattened() if self.twin == "flat" else truth

    def _load(self) -> Mapping[Split, tuple[Array, Array]]:
        draw = np.random.RandomState(self.truth_seed)  # frozen under every numpy (NEP 19)
        truth = self.known(draw)
        expert_R = draw.randint(truth.tree.num_experts, size=sum(self.num_rows))
        node_R = np.array(truth.tree.node_E)[expert_R]
        x_RD = truth.center_ND[node_R] + draw.normal(size=(len(node_R), self.in_dim))
        y_R = self._targets(truth.answers(x_RD), draw)
        domain_RL = _domains(self.truth, truth.expert_of(x_RD))
        # One scale for all features: what is near stays near.
        x_RD = (x_RD / np.sqrt(np.square(x_RD).mean())).astype(np.float32)
        ends = np.cumsum(self.num_rows)
        parts = [slice(start, end) for start, end in zip([0, *ends], ends, strict=False)]
        self._domains = {split: domain_RL[part] for split, part in zip(SPLITS, parts, strict=True)}
        return {split: (x_RD[part], y_R[part]) for split, part in zip(SPLITS, parts, strict=True)}

    def _targets(self, answer_RO: Array, draw: np.random.RandomState) -> Array:
        noise: Array
        if self.task == "regression":
            noise = self.noise * draw.normal(size=answer_RO.shape)
            return (answer_RO + noise).astype(np.float32)
        # A step of 1 to O - 1 from the right class, around: each other class equally often.
        wrong_R = draw.uniform(size=len(answer_RO)) < self.noise
        noise = wrong_R * draw.randint(1, self.out_dim, size=len(answer_RO))
        return (answer_RO.argmax(1) + noise) % self.out_dim

    def _digested(self, values: Array) -> bytes:
        # Rounded, since another machine's products differ in the last bits.
        return super()._digested(np.round(values, 4) + 0.0)


def _domains(tree: Tree, expert_R: Array) -> Tensor:
    """For every row the place of its node among those of every level's cut, int64 (R, L)."""
    cpu = torch.device("cpu")
    places = [place_at_cut(tree, level, cpu) for level in range(tree.num_levels)]
    return torch.stack(places, -1)[torch.from_numpy(expert_R)]


def _check(truth: Tree, distance: list[float], target: str, noise: float, out_dim: int) -> None:
    if len(distance) != truth.num_levels or not all(d > 0 for d in distance):
        raise ConfigError(
            f"data.distance={distance}: must be {truth.num_levels} numbers above 0, one a level of "
            f"tree {truth}."
        )
    check_names("data.target", [target], _TASKS)
    most = float("inf") if target == "regression" else 1 - 1 / out_dim
    if not 0 <= noise < most:
        raise ConfigError(
            f"data.noise={noise}: must be at least 0 and less than {most:g}: a share of wrong "
            "classes beyond it would make the right one the rarest."
            if target == "classification"
            else f"data.noise={noise}: must be a finite number of at least 0."
        )


def _check_kin(kinship: float, twin: str) -> None:
    if not 0 <= kinship < 1:
        raise ConfigError(f"data.kinship={kinship}: must be at least 0 and less than 1.")
    check_names("data.twin", [twin], _TWINS)
