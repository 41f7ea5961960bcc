"""Writes identified inertias, rotors and friction into a robot's MJCF."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import mujoco
import numpy as np

from mbrl_calibration.kinematics import Tree, shifted
from mbrl_control.errors import DataError
from mbrl_control.models import mjcf


def _inertial(body: Any, standard: np.ndarray, origin: np.ndarray) -> None:
    """Give a body [10] standard parameters about `origin` [3] of its frame."""
    mass = float(standard[9])
    centre = standard[6:9] / mass
    about = np.zeros((3, 3))
    about[np.triu_indices(3)] = standard[:6]
    about = about + np.triu(about, 1).T
    moments, axes = np.linalg.eigh(about - shifted(np.zeros((3, 3)), mass, centre))
    axes[:, 2] *= np.sign(np.linalg.det(axes))
    quaternion = np.zeros(4)
    mujoco.mju_mat2Quat(quaternion, np.ascontiguousarray(axes).ravel())
    body.mass, body.ipos, body.inertia, body.iquat = mass, origin + centre, moments, quaternion
    body.fullinertia = [np.nan, 0, 0, 0, 0, 0]
    body.explicitinertial = True


def _nothing(body: Any) -> None:
    body.mass, body.ipos, body.inertia, body.iquat = 0.0, np.zeros(3), np.zeros(3), np.array([1.0, 0, 0, 0])
    body.fullinertia = [np.nan, 0, 0, 0, 0, 0]
    body.explicitinertial = True


def _first(value: Any, number: float) -> Any:
    """A property with its linear term set; newer versions of MuJoCo keep polynomials."""
    if not np.ndim(value):
        return number
    out = np.array(value)
    out[0] = number
    return out


def changed(path: Path, tree: Tree) -> Any:
    """An MJCF or URDF as an `mujoco.MjSpec` with the parameters of a tree that was read from it.

    What is welded to a body that a joint moves becomes a part of it, and weighs nothing itself. Factors of the robot's `sim.changes`
    are in the tree already, so they must not be applied to the result again.

    Args:
        path: of the file.
        tree: of `mbrl_calibration.kinematics.read`, with bodies that can be built.
    """
    model = mjcf.read(path)  # tried in a process of its own where it comes from elsewhere
    edited = mjcf.edited(path)
    edited.compiler.inertiafromgeom = mujoco.mjtInertiaFromGeom.mjINERTIAFROMGEOM_AUTO
    edited.meshdir, edited.texturedir = (str((path.parent / folder).resolve()) for folder in (edited.meshdir, edited.texturedir))
    edited.compile()  # gives bodies and joints the numbers that they have in the model
    bodies, joints = {body.id: body for body in edited.bodies}, {joint.id: joint for joint in edited.joints}
    for row, place in enumerate(tree.carrying):
        link = tree.links[place]
        _inertial(bodies[link.bodies[0]], tree.inertial[row], link.origin)
        for welded in link.bodies[1:]:
            _nothing(bodies[welded])
    for j in range(model.njnt):
        joints[j].armature, joints[j].frictionloss = float(tree.rotor[j]), float(tree.dry[j])
        joints[j].damping = _first(joints[j].damping, float(tree.damping[j]))
    for name, rotor in zip(tree.tendons, tree.tendon_rotor, strict=True):
        edited.tendon(name).armature = float(rotor)
    # A body on the edge of what can be built (a flat plate) is beyond it by a rounding error, which MuJoCo would refuse.
    edited.compiler.balanceinertia = True
    return edited


def compiled(path: Path, tree: Tree) -> Any:
    """The `mjModel` of `changed`."""
    return changed(path, tree).compile()


def save(path: Path, tree: Tree, out: Path) -> None:
    """Write `changed` as an MJCF file; MuJoCo writes numbers with six digits.

    Raises:
        DataError: the file exists, or cannot be written.
    """
    if out.exists():
        raise DataError(f"{out} exists already; name a new file")
    edited = changed(path, tree)
    edited.compile()
    try:
        out.write_text(edited.to_xml(), "utf-8")
    except OSError as error:
        raise DataError(f"{out}: cannot be written: {error.strerror}") from error
