"""Dynamics of an arm of turning joints in a row: from torques to accelerations.

A link is a point mass on a massless rod. With the Jacobian J of each mass (its velocity is J v),

    M(q) a + bias(q, v) = torque
    M = rotor + sum m J^T J        bias = viscous v + sum m J^T (c - g)

where c is the acceleration that a mass has while no joint accelerates (centripetal and Coriolis)
and g that of gravity, pointing down. One pass along the arm gives all three (Featherstone, "Rigid
Body Dynamics Algorithms", 2008, chapter 2). Units are SI: radians, seconds, newton metres.

Letters: R rows (states of the arm), J joints, 3 the axes x, y, z of space.
"""

from dataclasses import dataclass

import numpy as np

Array = np.ndarray


@dataclass(frozen=True)
class Arm:
    """What an arm is made of. In its zero position all frames are those of space.

    Attributes:
        axes: unit vector around which each joint turns.
        links: from each joint to the next, or to the tip, in metres.
        masses: of each link, kilograms.
        center: where on its link a mass sits, from 0 (its joint) to 1 (the next).
        rotor: inertia of each joint's motor, kg m^2; it keeps M positive definite.
        viscous: friction of each joint, newton metres per radian per second.
        gravity: m / s^2, pulling along -z.
    """

    axes: tuple[tuple[float, float, float], ...]
    links: tuple[tuple[float, float, float], ...]
    masses: tuple[float, ...]
    center: float
    rotor: float
    viscous: float
    gravity: float


def equation_of_motion(arm: Arm, q_RJ: Array, v_RJ: Array) -> tuple[Array, Array]:
    """The mass matrix M (R, J, J) and the bias (R, J) at positions q and velocities v."""
    num_rows, num_joints = q_RJ.shape
    frame_R33 = np.broadcast_to(np.eye(3), (num_rows, 3, 3))
    # Of the joint at hand: its place, what turns (w, and dw without accelerations), what moves.
    joint_R3 = w_R3 = dw_R3 = np.zeros((num_rows, 3))
    # A mass at rest in a field of gravity is as one that accelerates upward without it.
    acc_R3 = np.broadcast_to([0.0, 0.0, arm.gravity], (num_rows, 3))
    axes: list[Array] = []
    joints: list[Array] = []
    mass_RJJ = np.broadcast_to(arm.rotor * np.eye(num_joints), (num_rows, num_joints, num_joints))
    bias_RJ = arm.viscous * v_RJ
    for i, (axis, link, mass) in enumerate(zip(arm.axes, arm.links, arm.masses, strict=True)):
        axis_R3 = frame_R33 @ np.array(axis)
        turn_R3 = axis_R3 * v_RJ[:, i : i + 1]
        dw_R3 = dw_R3 + np.cross(w_R3, turn_R3)
        w_R3 = w_R3 + turn_R3
        frame_R33 = frame_R33 @ _rotation(axis, q_RJ[:, i])
        axes.append(axis_R3)
        joints.append(joint_R3)
        link_R3 = frame_R33 @ np.array(link)
        jacobian_R3J = np.zeros((num_rows, 3, num_joints))
        for j in range(i + 1):
            jacobian_R3J[:, :, j] = np.cross(axes[j], joint_R3 + arm.center * link_R3 - joints[j])
        # What turning adds to the acceleration grows in proportion along the link.
        more_R3 = np.cross(dw_R3, link_R3) + np.cross(w_R3, np.cross(w_R3, link_R3))
        center_R31 = (acc_R3 + arm.center * more_R3)[:, :, None]
        transposed_RJ3 = jacobian_R3J.swapaxes(1, 2)
        mass_RJJ = mass_RJJ + mass * transposed_RJ3 @ jacobian_R3J
        bias_RJ = bias_RJ + mass * (transposed_RJ3 @ center_R31)[:, :, 0]
        joint_R3, acc_R3 = joint_R3 + link_R3, acc_R3 + more_R3
    return mass_RJJ, bias_RJ


def accelerations(arm: Arm, q_RJ: Array, v_RJ: Array, torque_RJ: Array) -> Array:
    """Forward dynamics: the acceleration of every joint, (R, J)."""
    mass_RJJ, bias_RJ = equation_of_motion(arm, q_RJ, v_RJ)
    result: Array = np.linalg.solve(mass_RJJ, (torque_RJ - bias_RJ)[:, :, None])[:, :, 0]
    return result


def _rotation(axis: tuple[float, float, float], angle_R: Array) -> Array:
    """Rodrigues' formula: the rotation matrices (R, 3, 3) around a unit vector."""
    x, y, z = axis
    cross_33 = np.array([[0.0, -z, y], [z, 0.0, -x], [-y, x, 0.0]])
    angle_R11 = angle_R[:, None, None]
    return (
        np.eye(3) + np.sin(angle_R11) * cross_33 + (1 - np.cos(angle_R11)) * (cross_33 @ cross_33)
    )
