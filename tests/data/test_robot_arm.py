"""The arm: its physics by hand, against textbooks and by the power balance; then the data set."""

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from hmoe.data import RobotArm, SplitLoader
from hmoe.data.arm_dynamics import Arm, accelerations, equation_of_motion
from hmoe.data.robot_arm import ARM, simulate
from hmoe.errors import ConfigError

Y_AXIS = (0.0, 1.0, 0.0)


def states(num_rows: int, num_joints: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    draw = np.random.RandomState(0)
    q, v, torque = draw.normal(size=(3, num_rows, num_joints)) * [[[1.5]], [[2.0]], [[3.0]]]
    return q, v, torque


# ------------------------------------------------------------------ the physics


def test_one_joint_by_hand() -> None:
    """A mass of 2 kg at 0.5 m, standing up: inertia 2 * 0.25 + 0.1, gravity pulls it over.

    At 30 degrees gravity's torque is 2 * 10 * 0.5 * sin 30 = 5; friction takes 0.2 * 3.
    """
    arm = Arm((Y_AXIS,), ((0.0, 0.0, 1.0),), (2.0,), 0.5, rotor=0.1, viscous=0.2, gravity=10.0)
    q, v, torque = (np.array([[value]]) for value in (np.pi / 6, 3.0, 1.6))
    mass, bias = equation_of_motion(arm, q, v)
    assert mass[0, 0, 0] == pytest.approx(0.6)
    assert bias[0, 0] == pytest.approx(0.6 - 5.0)
    assert accelerations(arm, q, v, torque)[0, 0] == pytest.approx((1.6 + 5.0 - 0.6) / 0.6)


def test_two_joints_in_a_plane_are_those_of_the_textbook() -> None:
    """Two links around y (Craig, Introduction to Robotics, ch. 6; angles from the vertical)."""
    (m1, m2), (l1, l2), g = (1.5, 0.8), (0.6, 0.5), 9.81
    links = ((0.0, 0.0, l1), (0.0, 0.0, l2))
    arm = Arm((Y_AXIS, Y_AXIS), links, (m1, m2), center=0.3, rotor=0.0, viscous=0.0, gravity=g)
    q, v, _ = states(50, 2)
    r1, r2 = 0.3 * l1, 0.3 * l2
    c2, s2 = np.cos(q[:, 1]), np.sin(q[:, 1])
    m11 = m1 * r1**2 + m2 * (l1**2 + r2**2 + 2 * l1 * r2 * c2)
    m12 = m2 * (r2**2 + l1 * r2 * c2)
    h = m2 * l1 * r2 * s2
    over = np.sin(q[:, 0] + q[:, 1])
    bias1 = -h * (2 * v[:, 0] * v[:, 1] + v[:, 1] ** 2)
    bias1 -= g * ((m1 * r1 + m2 * l1) * np.sin(q[:, 0]) + m2 * r2 * over)
    bias2 = h * v[:, 0] ** 2 - g * m2 * r2 * over
    mass, bias = equation_of_motion(arm, q, v)
    expected = np.array([[m11, m12], [m12, np.full(50, m2 * r2**2)]]).transpose(2, 0, 1)
    np.testing.assert_allclose(mass, expected, atol=1e-12)
    np.testing.assert_allclose(bias, np.stack([bias1, bias2], 1), atol=1e-12)


def test_the_mass_matrix_is_symmetric_and_positive_definite() -> None:
    q, v, _ = states(200, 4)
    mass, _ = equation_of_motion(ARM, q, v)
    np.testing.assert_allclose(mass, mass.swapaxes(1, 2), atol=1e-12)
    # The rotors alone are worth 0.05 around every joint.
    assert np.linalg.eigvalsh(mass).min() >= ARM.rotor - 1e-12


def test_energy_grows_by_the_work_done_and_by_nothing_else() -> None:
    """d/dt (1/2 v M v) = v torque without friction and gravity; friction takes viscous v^2."""
    q, v, torque = states(200, 4)
    links = (*ARM.links[:3], (0.1, 0.2, 0.3))  # a lever for the hand, so that all joints interact
    free = replace(ARM, links=links, gravity=0.0, viscous=0.0)
    for arm in (free, replace(free, viscous=0.1)):
        acceleration = accelerations(arm, q, v, torque)
        energies = []
        for step in (1e-5, -1e-5):
            v_then = v + step * acceleration
            mass, _ = equation_of_motion(arm, q + step * v + step**2 / 2 * acceleration, v_then)
            energies.append(np.einsum("ri,rij,rj->r", v_then, mass, v_then) / 2)
        power = (v * torque).sum(1) - arm.viscous * (v * v).sum(1)
        np.testing.assert_allclose((energies[0] - energies[1]) / 2e-5, power, rtol=1e-5, atol=1e-5)


def heights(q: np.ndarray) -> np.ndarray:
    """Height of each mass: upper arm and forearm sink with the sine of their angle, (R, 4)."""
    upper, fore = -0.4 * np.sin(q[:, 1]), -0.4 * np.sin(q[:, 1] + q[:, 2])
    column = np.full(len(q), 0.4)
    heights = [0.4 * column, column + 0.4 * upper, column + upper + 0.4 * fore]
    return np.stack([*heights, column + upper + fore], 1)


def test_an_arm_at_rest_is_held_by_the_slope_of_its_potential_energy() -> None:
    q, _, _ = states(50, 4)
    _, bias = equation_of_motion(ARM, q, np.zeros_like(q))
    for joint in range(4):
        step = 1e-6 * np.eye(4)[joint]
        slope = (heights(q + step) - heights(q - step)) @ np.array(ARM.masses) * 9.81 / 2e-6
        np.testing.assert_allclose(bias[:, joint], slope, atol=1e-6)


# ------------------------------------------------------------------ the set


def make(**changes: Any) -> RobotArm:
    return RobotArm(**({"batch_size": 100, "seed": 0, "val_share": 0.1} | changes))


def whole(loader: SplitLoader) -> tuple[Tensor, Tensor]:
    batches = list(loader)
    return torch.cat([b["x"] for b in batches]), torch.cat([b["y"] for b in batches])


@pytest.fixture(scope="module")
def data() -> RobotArm:
    data = make()
    data.setup()
    return data


def test_the_hand_has_no_lever() -> None:
    """Its acceleration is (torque - 0.1 velocity) / 0.05, whatever the rest of the arm does."""
    x, y = simulate(100)
    np.testing.assert_allclose(y[:, 3], (x[:, 11] - 0.1 * x[:, 7]) / 0.05, atol=1e-9)


def test_rows_are_in_their_ranges_and_obey_the_equation_of_motion() -> None:
    x, y = simulate(500)
    limits = np.array([np.pi] * 4 + [1.5] * 4 + [8.0, 8.0, 4.0, 2.0])
    assert (np.abs(x) <= limits).all()
    assert (np.abs(x).max(0) > 0.95 * limits).all()
    mass, bias = equation_of_motion(ARM, x[:, :4], x[:, 4:8])
    np.testing.assert_allclose((mass @ y[:, :, None])[:, :, 0] + bias, x[:, 8:], atol=1e-9)


def test_the_splits_are_standardised_on_train(data: RobotArm) -> None:
    sizes = {}
    for split in ("train", "val", "test"):
        x, y = whole(data.pass_over(split))
        sizes[split] = len(x)
        assert (x.shape[1:], y.shape[1:]) == ((12,), (4,))
        assert (x.dtype, y.dtype) == (torch.float32, torch.float32)
        for values in (x, y):
            tolerance = 1e-5 if split == "train" else 0.1
            assert values.mean(0).abs().max() < tolerance
            assert (values.std(0, correction=0) - 1).abs().max() < tolerance
    assert sizes == {"train": 13_500, "val": 1_500, "test": 5_000}
    assert len(torch.cat([whole(data.pass_over(s))[0] for s in sizes]).unique(dim=0)) == 20_000


def test_the_linear_baseline_is_that_of_the_paper(data: RobotArm) -> None:
    """Jordan & Jacobs (1994), table 1: relative error .31 (batch)."""
    (x, y), (x_test, y_test) = whole(data.pass_over("train")), whole(data.pass_over("test"))
    design, design_test = (torch.cat([x, torch.ones(len(x), 1)], 1) for x in (x, x_test))
    weights = torch.linalg.lstsq(design, y).solution
    error = (design_test @ weights - y_test).square().sum() / (y_test - y.mean(0)).square().sum()
    assert error.item() == pytest.approx(0.31, abs=0.02)


def test_seeds_share_rows_and_digest_but_not_the_training_stream(data: RobotArm) -> None:
    other = make(seed=1)
    assert other.digest == data.digest
    assert torch.equal(whole(other.val_dataloader())[0], whole(data.val_dataloader())[0])
    assert not torch.equal(other.train_batch(0)["x"], data.train_batch(0)["x"])
    assert torch.equal(make().train_batch(200)["x"], data.train_batch(200)["x"])
    assert make(val_share=0.2).digest != data.digest


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"batch_size": 0}, r"data\.batch_size=0: must be at least 1"),
        ({"batch_size": 13_501}, r"data\.batch_size=13501: must be at most 13500"),
        ({"seed": -1}, r"data\.seed=-1: must be from 0"),
        ({"val_share": 1.0}, r"data\.val_share=1\.0: must be more than 0 and less than 1"),
        ({"val_share": 1e-5}, r"data\.val_share=1e-05: leaves no row in the val split"),
        ({"val_share": 0.99999}, r"data\.val_share=0\.99999: leaves no row in the train split"),
    ],
)
def test_settings_that_cannot_work_are_refused(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        make(**changes).setup()
