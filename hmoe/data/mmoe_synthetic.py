"""MmoeSynthetic: two regression tasks whose relation is set, as Ma et al. (2018) make them.

    w_1 = c u_1,   w_2 = c (p u_1 + sqrt(1 - p^2) u_2)
    y_k = w_k . x + sum_m sin(a_m w_k . x + b_m) + noise,   x ~ N(0, I)

with u_1 and u_2 drawn unit vectors at right angles, so that p is the cosine of the angle between
the tasks' weights: with p = 1 the tasks differ in their noise alone. The first row of 100 features
with p = 0.5 (data.truth_seed=0, data.seed=0):

    x -1.36 0.81 1.50 0.66 0.73 ...    y -3.25 -2.01

The paper leaves c, the number of sines, their a and b, and the number of rows open; the values in
conf/data are ours. Every training step draws rows of its own; those of val and test are fixed.

Letters: B rows, D features, K = 2 tasks, M sines.
"""

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch

from hmoe.data.checks import check_at_least, check_seed
from hmoe.data.loader import SPLITS, Batch, Split, SplitLoader, StreamData, random_state
from hmoe.errors import ConfigError

Array = np.ndarray
# Numbers of random states beyond all steps, and so apart from the training stream of any seed.
_BEYOND = 2**32
_STATES = {"truth": _BEYOND, "val": _BEYOND + 1, "test": _BEYOND + 2}


@dataclass(frozen=True)
class TwoTasks:
    """What x says of the two tasks.

    Attributes:
        weight_KD: w_1 and w_2.
        frequency_M, phase_M: a and b of the sines, in radians.
    """

    weight_KD: Array
    frequency_M: Array
    phase_M: Array

    @classmethod
    def drawn(
        cls,
        truth_seed: int,
        *,
        in_dim: int,
        correlation: float,
        scale: float,
        frequencies: Sequence[float],
        phases: Sequence[float],
    ) -> "TwoTasks":
        """Tasks of drawn directions; phases are in units of pi. Whatever p is, u_1 and u_2 are."""
        u_1, u_2 = random_state(truth_seed, _STATES["truth"]).normal(size=(2, in_dim))
        u_1 = u_1 / np.linalg.norm(u_1)
        u_2 = u_2 - (u_1 @ u_2) * u_1
        u_2 = u_2 / np.linalg.norm(u_2)
        second = correlation * u_1 + np.sqrt(1 - correlation**2) * u_2
        weight_KD = scale * np.stack([u_1, second])
        return cls(weight_KD, np.array(frequencies, float), np.pi * np.array(phases, float))

    def answers(self, x_BD: Array) -> Array:
        """Targets without noise, (B, K)."""
        line_BK = x_BD @ self.weight_KD.T
        result: Array = line_BK + np.sin(line_BK[..., None] * self.frequency_M + self.phase_M).sum(
            -1
        )
        return result


def drawn_rows(draw: np.random.RandomState, num_rows: int, in_dim: int) -> tuple[Array, Array]:
    """Inputs (B, D) and noise of deviation 1 (B, K), the same whatever the tasks are."""
    return draw.standard_normal((num_rows, in_dim)), draw.standard_normal((num_rows, 2))


def step_rows(seed: int, step: int, num_rows: int, in_dim: int) -> tuple[Array, Array]:
    """`drawn_rows` of a training step."""
    return drawn_rows(random_state(seed, step), num_rows, in_dim)


def split_rows(truth_seed: int, split: Split, num_rows: int, in_dim: int) -> tuple[Array, Array]:
    """`drawn_rows` of "val" or "test"."""
    return drawn_rows(random_state(truth_seed, _STATES[split]), num_rows, in_dim)


class MmoeSynthetic(StreamData):
    """Rows of two related tasks: x float32 (B, in_dim), y float32 (B, 2).

    Args:
        batch_size: rows a batch, all of them new at every step of the training.
        seed: seed of the training stream; neither tasks nor val and test rows depend on it.
        truth_seed: seed of the tasks, and of val and test rows.
        in_dim: features D, at least 2.
        correlation: p, from -1 to 1.
        scale: c, above 0.
        frequencies: a, one a sine.
        phases: b, as many, in units of pi.
        noise: standard deviation.
        num_val, num_test: rows of each split.

    Raises:
        ConfigError: a size too small, a number out of its range, lists of different lengths.
    """

    input_kind = "vectors"
    task = "regression"
    out_dim = 2

    def __init__(
        self,
        *,
        batch_size: int,
        seed: int,
        truth_seed: int,
        in_dim: int,
        correlation: float,
        scale: float,
        frequencies: Sequence[float],
        phases: Sequence[float],
        noise: float,
        num_val: int,
        num_test: int,
    ) -> None:
        super().__init__()
        sizes = {"batch_size": batch_size, "num_val": num_val, "num_test": num_test}
        for name, size in sizes.items():
            check_at_least(name, size, 1)
        check_at_least("in_dim", in_dim, 2)
        check_at_least("truth_seed", truth_seed, 0)
        check_seed(seed)
        _check(correlation, scale, frequencies, phases, noise)
        self.batch_size, self.seed, self.truth_seed = batch_size, seed, truth_seed
        self.in_dim, self.noise = in_dim, noise
        self.num_rows = {"val": num_val, "test": num_test}
        self.tasks = TwoTasks.drawn(
            truth_seed,
            in_dim=in_dim,
            correlation=correlation,
            scale=scale,
            frequencies=frequencies,
            phases=phases,
        )
        self._splits: dict[Split, Batch] = {}

    @property
    def floor(self) -> dict[str, float]:  # type: ignore[override]
        """The scores of the best model that there can be: what noise leaves."""
        return {"loss": self.noise**2, "mse": self.noise**2}

    @property
    def digest(self) -> str:
        """SHA-256 of the first training batch of seed 0, of val and of test, in order."""
        self.setup()
        first = self._batch(*step_rows(0, 0, self.batch_size, self.in_dim))
        digest = hashlib.sha256()
        for batch in (first, *(self._splits[split] for split in SPLITS[1:])):
            for values in (batch["x"], batch["y"]):
                # Rounded, since another machine's sines differ in the last bits.
                digest.update((np.round(values.numpy(), 4) + 0.0).astype("<f4").tobytes())
        return digest.hexdigest()

    def setup(self, stage: str | None = None) -> None:
        """Make the rows of val and test, once."""
        if not self._splits:
            self._splits = {
                split: self._batch(*split_rows(self.truth_seed, split, rows, self.in_dim))
                for split, rows in self.num_rows.items()
            }

    def train_batch(self, step: int) -> Batch:
        """Return the batch of `step`, a pure function of (seed, step)."""
        return self._batch(*step_rows(self.seed, step, self.batch_size, self.in_dim))

    def pass_over(self, split: Split) -> SplitLoader:
        """Return one pass over an evaluation split."""
        self.setup()
        whole = self._splits[split]
        return SplitLoader(
            num_rows=self.num_rows[split],
            batch_size=self.batch_size,
            batch_of=lambda rows: {name: values[rows] for name, values in whole.items()},
        )

    def _batch(self, x_BD: Array, noise_BK: Array) -> Batch:
        y_BK = self.tasks.answers(x_BD) + self.noise * noise_BK
        return {name: torch.from_numpy(v).float() for name, v in (("x", x_BD), ("y", y_BK))}


def _check(
    correlation: float,
    scale: float,
    frequencies: Sequence[float],
    phases: Sequence[float],
    noise: float,
) -> None:
    if not -1 <= correlation <= 1:
        raise ConfigError(f"data.correlation={correlation}: must be from -1 to 1.")
    if not 0 < scale < float("inf"):
        raise ConfigError(f"data.scale={scale}: must be a finite number above 0.")
    if not 0 <= noise < float("inf"):
        raise ConfigError(f"data.noise={noise}: must be a finite number of at least 0.")
    if len(frequencies) != len(phases):
        raise ConfigError(
            f"data.phases={list(phases)}: must be {len(frequencies)} numbers, one for each of "
            f"data.frequencies={list(frequencies)}."
        )
