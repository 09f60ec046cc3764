"""RobotArm: the forward dynamics of a simulated arm with four joints, made here from a seed.

One row is a state of the arm and what it does: 12 inputs (4 positions in radians, 4 velocities in
rad/s, 4 torques in N m) and 4 targets (accelerations in rad/s^2). The first, before standardising:

    q -0.70 -3.04 2.81 -1.01   v 0.85 1.34 1.35 0.40   torque 5.21 -5.89 3.56 -1.27
    acceleration 75.78 -37.47 23.72 -32.33

The task is that of Jordan & Jacobs (1994), section 4 (the arm of Fun & Jordan 1993): 15,000 rows
to train on, 5,000 to test on. Their simulator is not to be had, and this one is ours: a column, an
upper arm and a forearm of 0.4 m each and a hand that rolls; joints around z, y, y, x; 2, 1.5, 1 and
0.5 kg; rotors of 0.05 kg m^2; viscous friction of 0.1; g 9.81. The ranges and the place of the
masses on their links are calibrated: they were chosen so that the best linear map has about the
relative error that the paper reports, 0.31. So errors are comparable with the paper's in kind, not
digit by digit. The hand has no lever, so the fourth target is linear in its torque and velocity.
"""

from math import pi

import numpy as np

from hmoe.data.arm_dynamics import Arm, accelerations
from hmoe.data.checks import check_shares
from hmoe.data.loader import SPLITS, Split
from hmoe.data.rows import RowData
from hmoe.errors import ConfigError

ARM = Arm(
    axes=((0.0, 0.0, 1.0), (0.0, 1.0, 0.0), (0.0, 1.0, 0.0), (1.0, 0.0, 0.0)),
    links=((0.0, 0.0, 0.4), (0.4, 0.0, 0.0), (0.4, 0.0, 0.0), (0.0, 0.0, 0.0)),
    masses=(2.0, 1.5, 1.0, 0.5),
    center=0.4,
    rotor=0.05,
    viscous=0.1,
    gravity=9.81,
)
ARM_SEED = 1994
"""Seed of the rows. Never the seed of the run: all arms and seeds must share one set."""
NUM_TRAIN, NUM_TEST = 15_000, 5_000
_MAX_VELOCITY = 1.5
_MAX_TORQUE = (8.0, 8.0, 4.0, 2.0)


class RobotArm(RowData):
    """States of the arm: x float32 (B, 12), y float32 (B, 4).

    Inputs and targets are standardised with the means and deviations of the training split.

    Args:
        batch_size: rows a batch.
        seed: seed of the training stream; the rows do not depend on it.
        val_share: share of the 15,000 training rows for validation; the test rows are apart.

    Raises:
        ConfigError: batch_size below 1 or above the training rows, a share that does not fit.
    """

    task = "regression"
    in_dim = 12
    out_dim = 4

    def __init__(self, *, batch_size: int, seed: int, val_share: float) -> None:
        super().__init__(batch_size=batch_size, seed=seed)
        check_shares(val_share=val_share)
        self.val_share = val_share

    def _load(self) -> dict[Split, tuple[np.ndarray, np.ndarray]]:
        num_val = round(self.val_share * NUM_TRAIN)
        if not 0 < num_val < NUM_TRAIN:
            raise ConfigError(
                f"data.val_share={self.val_share}: leaves no row in the "
                f"{'train' if num_val else 'val'} split."
            )
        x, y = simulate(NUM_TRAIN + NUM_TEST)
        num_train = NUM_TRAIN - num_val
        x, y = (_standardised(values, values[:num_train]) for values in (x, y))
        ends = np.cumsum([num_train, num_val, NUM_TEST])
        return {
            split: (x[start:end], y[start:end])
            for split, start, end in zip(SPLITS, [0, *ends], ends, strict=False)
        }

    def _digested(self, values: np.ndarray) -> bytes:
        # Rounded, since another machine's sines and solvers differ in the last bits.
        return super()._digested(np.round(values, 4))


def simulate(num_rows: int) -> tuple[np.ndarray, np.ndarray]:
    """Inputs (rows, 12) and accelerations (rows, 4), SI units, float64; the same on every call."""
    draw = np.random.RandomState(ARM_SEED)  # its draws are the same under every numpy (NEP 19)
    unit = draw.uniform(-1, 1, (num_rows, 12))
    x = unit * np.array([pi] * 4 + [_MAX_VELOCITY] * 4 + list(_MAX_TORQUE))
    q, v, torque = np.split(x, 3, axis=1)
    return x, accelerations(ARM, q, v, torque)


def _standardised(values: np.ndarray, train: np.ndarray) -> np.ndarray:
    """Values as float32, with the mean of `train` at 0 and its standard deviation at 1."""
    result: np.ndarray = ((values - train.mean(0)) / train.std(0)).astype(np.float32)
    return result
