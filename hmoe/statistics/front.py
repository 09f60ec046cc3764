"""Two objectives at once: who is on the Pareto front, how surely, and how much it covers.

Smaller is better in both; turn an objective that is maximised before.
"""

import numpy as np
from numpy.typing import ArrayLike, NDArray

from hmoe.errors import ConfigError

Floats = NDArray[np.float64]


def hypervolume(point_MO: ArrayLike, reference_O: ArrayLike) -> float:
    """Area that two-dimensional points dominate, up to the reference point.

    A point that is not better than the reference in both objectives adds nothing.
    """
    points, (right, top) = _points(point_MO), np.asarray(reference_O, dtype=float)
    area = 0.0
    # From left to right every point lower than all before adds a strip out to the right edge.
    for x, y in sorted(points[(points < (right, top)).all(1)].tolist()):
        if y < top:
            area += (right - x) * (top - y)
            top = y
    return area


def hypervolume_history(point_MO: ArrayLike, reference_O: ArrayLike) -> Floats:
    """Hypervolume of the first 1, 2, ..., M points, (M,): how a search went on."""
    points = _points(point_MO)
    return np.array([hypervolume(points[: i + 1], reference_O) for i in range(len(points))])


def front_membership(value_ASO: ArrayLike, *, num_resamples: int, seed: int) -> Floats:
    """Share of bootstrap resamples in which no other arm's mean dominates that of an arm, (A,).

    Seeds are drawn for all arms together, since they are paired. With few seeds the resamples vary
    less than fresh seeds would (with 6, by a factor of 0.91), so shares lean to 0 and 1.
    """
    value = np.asarray(value_ASO, dtype=float)
    if value.ndim != 3 or value.shape[2] != 2 or value.shape[1] == 0:
        raise ConfigError(f"values of shape {value.shape}: (arms, seeds, 2) is expected.")
    num_seeds = value.shape[1]
    draw_BS = np.random.default_rng(seed).integers(num_seeds, size=(num_resamples, num_seeds))
    # How often each seed was drawn, so that a mean is a product.
    weight_BS = np.stack([(draw_BS == s).mean(1) for s in range(num_seeds)], axis=1)
    mean_BAO = np.einsum("bs,aso->bao", weight_BS, value)
    other, own = mean_BAO[:, None, :, :], mean_BAO[:, :, None, :]
    beaten_BA = ((other <= own).all(3) & (other < own).any(3)).any(2)
    return np.asarray(1 - beaten_BA.mean(0))


def _points(point_MO: ArrayLike) -> Floats:
    points = np.asarray(point_MO, dtype=float).reshape(-1, 2)
    if not np.isfinite(points).all():
        raise ConfigError("points: some are not finite numbers.")
    return points
