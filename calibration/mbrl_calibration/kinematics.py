"""A tree of links and joints from an MJCF or URDF, and the efforts that its motion takes, as CasADi expressions."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import casadi as ca
import mujoco
import numpy as np

from mbrl_control.errors import UserError

INERTIAL = ("Ixx", "Ixy", "Ixz", "Iyy", "Iyz", "Izz", "mx", "my", "mz", "m")
"""Standard parameters of a link: its inertia about the origin of its frame, mass times centre of mass, and mass."""
UNITS = ("kg*m^2",) * 6 + ("kg*m",) * 3 + ("kg",)
WORLD = -1
_SINGLE = (int(mujoco.mjtJoint.mjJNT_HINGE), int(mujoco.mjtJoint.mjJNT_SLIDE))
_AT_JOINT = (int(mujoco.mjtTrn.mjTRN_JOINT), int(mujoco.mjtTrn.mjTRN_JOINTINPARENT))
_ROUND = 1e-15
"""Entries of rotations below it are 0: they come from cosines of 90 degrees."""


@dataclass(frozen=True)
class Link:
    """A joint and what it carries; its frame has its origin on the joint's axis and turns with the link.

    Attributes:
        body: name of the body; '' for one of several joints of a body but the last, which carries nothing.
        bodies: indices of this body and of those welded to it, in the `mjModel`.
        joint: name of the joint.
        parent: index of the link before; `WORLD` for none.
        hinge: it turns about the axis; else it slides along it.
        axis: [3] unit vector in the link's frame.
        rotation, place: [3, 3] and [3] m, pose of the link's frame in its parent's at `rest`.
        rest: position of the joint in the pose that the file describes, rad or m.
        origin: [3] m, origin of the link's frame in the frame of its body.
        gravity: share of its weight that is felt; 0 with full compensation (`gravcomp`).
    """

    body: str
    bodies: tuple[int, ...]
    joint: str
    parent: int
    hinge: bool
    axis: np.ndarray
    rotation: np.ndarray
    place: np.ndarray
    rest: float
    origin: np.ndarray
    gravity: float = 1.0


@dataclass(frozen=True)
class Tree:
    """Links and joints, and the values of their parameters in the file.

    Attributes:
        links: [n] a link per joint, parents before their children.
        gravity: [3] m/s^2 in the world.
        inertial: [L, 10] standard parameters (`INERTIAL`) of the links that carry a body, in the order of `carrying`.
        rotor: [n] reflected inertia of each joint's drive, kg*m^2 or kg.
        tendons: names of fixed tendons with a rotor on them.
        lengths: [K, n] their lengths per unit of each joint.
        tendon_rotor: [K] reflected inertia of a tendon's drive.
        damping: [n] viscous friction, N*m*s/rad or N*s/m.
        dry: [n] Coulomb friction, N*m or N.
    """

    links: tuple[Link, ...]
    gravity: np.ndarray
    inertial: np.ndarray
    rotor: np.ndarray
    tendons: tuple[str, ...]
    lengths: np.ndarray
    tendon_rotor: np.ndarray
    damping: np.ndarray
    dry: np.ndarray

    @property
    def count(self) -> int:
        """n."""
        return len(self.links)

    @property
    def carrying(self) -> tuple[int, ...]:
        """[L] indices of the links that carry a body."""
        return tuple(i for i, link in enumerate(self.links) if link.body)

    @property
    def names(self) -> tuple[str, ...]:
        """[N] of the standard parameters: ten per link, a rotor per joint, a rotor per tendon."""
        bodies = [f"{self.links[i].body}.{name}" for i in self.carrying for name in INERTIAL]
        return (*bodies, *(f"{link.joint}.armature" for link in self.links), *(f"{name}.armature" for name in self.tendons))

    @property
    def units(self) -> tuple[str, ...]:
        """[N] of the standard parameters."""
        rotors = tuple("kg*m^2" if link.hinge else "kg" for link in self.links)
        return (*(UNITS * len(self.carrying)), *rotors, *("kg*m^2" for _ in self.tendons))

    @property
    def standard(self) -> np.ndarray:
        """[N] standard parameters."""
        return np.concatenate((self.inertial.ravel(), self.rotor, self.tendon_rotor))

    def with_values(self, standard: np.ndarray, damping: np.ndarray, dry: np.ndarray) -> Tree:
        """The same tree with other parameters: [N], [n] and [n]."""
        cut, joints = self.inertial.size, self.inertial.size + self.count
        return replace(self, inertial=standard[:cut].reshape(-1, 10), rotor=standard[cut:joints], tendon_rotor=standard[joints:],
                       damping=damping, dry=dry)


def _matrix(quaternion: np.ndarray) -> np.ndarray:
    out = np.zeros(9)
    mujoco.mju_quat2Mat(out, quaternion)
    out[np.abs(out) < _ROUND] = 0.0
    return out.reshape(3, 3)


def _name(model: Any, kind: mujoco.mjtObj, index: int, word: str) -> str:
    return str(mujoco.mj_id2name(model, kind, index) or f"{word}{index}")


def shifted(inertia: np.ndarray, mass: float, centre: np.ndarray) -> np.ndarray:
    """[3, 3] inertia about the origin of a body whose inertia about its centre of mass [3] is given (parallel axes)."""
    moved: np.ndarray = inertia + mass * (centre @ centre * np.eye(3) - np.outer(centre, centre))
    return moved


def packed(mass: float, centre: np.ndarray, inertia: np.ndarray) -> np.ndarray:
    """[10] standard parameters of a mass, kg, its centre [3], m, and its inertia about the origin [3, 3], kg m^2."""
    return np.array([*inertia[np.triu_indices(3)], *(mass * centre), mass])


def _refuse(model: Any, name: str) -> None:
    """Whatever acts on the joints but inertia, weight, friction and drives."""
    gone = [
        (any(int(kind) not in _SINGLE for kind in model.jnt_type), "free or ball joints"),
        (bool(np.any(model.jnt_stiffness)), "springs at joints (`stiffness`)"),
        (bool(np.any(model.tendon_stiffness) or np.any(model.tendon_damping) or np.any(model.tendon_frictionloss)),
         "springs, damping or friction of tendons"),
        (any(np.any(getattr(model, key, 0.0)) for key in ("dof_dampingpoly", "jnt_stiffnesspoly")), "damping that is not linear"),
        (bool(np.any(model.eq_active0)), "equality constraints"),
        (bool(model.opt.density or model.opt.viscosity), "a fluid (`density`, `viscosity`)"),
        (bool(model.nflex), "flexible bodies"),
    ]
    if found := [what for there, what in gone if there]:
        raise UserError(f"{name}: it has {'; '.join(found)}, which the equations of an arm do not know; take them out of the file or use "
                        "a learned model")


def _lengths(model: Any, tendon: int) -> np.ndarray | None:
    """[n] length of a fixed tendon per unit of each joint; None for one that runs through space."""
    at = slice(int(model.tendon_adr[tendon]), int(model.tendon_adr[tendon] + model.tendon_num[tendon]))
    if (model.wrap_type[at] != mujoco.mjtWrap.mjWRAP_JOINT).any():
        return None
    row = np.zeros(model.njnt)
    row[model.wrap_objid[at]] = model.wrap_prm[at]
    return row


def _tendons(model: Any, name: str) -> tuple[tuple[str, ...], np.ndarray, np.ndarray]:
    names, lengths, rotors = [], [], []
    for t in np.flatnonzero(getattr(model, "tendon_armature", np.zeros(0))):
        title = _name(model, mujoco.mjtObj.mjOBJ_TENDON, int(t), "tendon")
        row = _lengths(model, int(t))
        if row is None:
            raise UserError(f"{name}: tendon '{title}' has an armature and runs through space; only fixed tendons may have one")
        names.append(title)
        lengths.append(row)
        rotors.append(float(model.tendon_armature[t]))
    return tuple(names), np.array(lengths).reshape(-1, model.njnt), np.array(rotors)


def read(model: Any, name: str = "the MJCF") -> Tree:
    """The tree of an `mjModel`; bodies without a joint belong to the link that they are welded to.

    Args:
        model: the `mjModel`, from an MJCF or a URDF, with hinge and slide joints only.
        name: of the file, for messages.

    Raises:
        UserError: it has no joint, or something acts in it that the equations do not know.
    """
    if not model.njnt:
        raise UserError(f"{name}: it has no joint; an arm has hinge and slide joints")
    _refuse(model, name)
    links: list[Link] = []
    inertial = np.zeros((model.njnt, 10))
    carrier: list[tuple[int, np.ndarray, np.ndarray]] = [(WORLD, np.eye(3), np.zeros(3))]
    for b in range(1, model.nbody):
        at, rotation, place = carrier[model.body_parentid[b]]
        rotation, place = rotation @ _matrix(model.body_quat[b]), place + rotation @ model.body_pos[b]
        joints = range(int(model.body_jntadr[b]), int(model.body_jntadr[b] + model.body_jntnum[b]))
        for j in joints:
            anchor = model.jnt_pos[j].copy()
            title = _name(model, mujoco.mjtObj.mjOBJ_BODY, b, "body") if j == joints[-1] else ""
            links.append(Link(title, (b,) if title else (), _name(model, mujoco.mjtObj.mjOBJ_JOINT, j, "joint"), at,
                              bool(model.jnt_type[j] == mujoco.mjtJoint.mjJNT_HINGE), model.jnt_axis[j].copy(), rotation,
                              place + rotation @ anchor, float(model.qpos0[j]), anchor, 1.0 - float(model.body_gravcomp[b])))
            at, rotation, place = j, np.eye(3), -anchor
        carrier.append((at, rotation, place))
        if at == WORLD:
            continue
        mass, turned = float(model.body_mass[b]), rotation @ _matrix(model.body_iquat[b])
        centre = place + rotation @ model.body_ipos[b]
        inertial[at] += packed(mass, centre, shifted(turned @ np.diag(model.body_inertia[b]) @ turned.T, mass, centre))
        if not joints:
            if mass and links[at].gravity != 1.0 - float(model.body_gravcomp[b]):
                raise UserError(f"{name}: bodies welded to '{links[at].body}' differ in `gravcomp`; give them the same")
            links[at] = replace(links[at], bodies=(*links[at].bodies, b))
    keep = [i for i, link in enumerate(links) if link.body]
    return Tree(tuple(links), model.opt.gravity.copy(), inertial[keep], model.dof_armature.copy(), *_tendons(model, name),
                model.dof_damping.copy(), model.dof_frictionloss.copy())


def inputs(model: Any, actuators: np.ndarray, name: str = "the MJCF") -> np.ndarray:
    """[n, A] effort at each joint per unit of each command.

    Args:
        model: the `mjModel`.
        actuators: [A] index of each command's actuator.
        name: of the file, for messages.

    Raises:
        UserError: an actuator that does more than push at a joint or along a fixed tendon with a constant gain.
    """
    out = np.zeros((model.njnt, len(actuators)))
    for column, i in enumerate(actuators):
        kind, target = int(model.actuator_trntype[i]), int(model.actuator_trnid[i, 0])
        plain = (model.actuator_gaintype[i] == mujoco.mjtGain.mjGAIN_FIXED and model.actuator_biastype[i] == mujoco.mjtBias.mjBIAS_NONE
                 and model.actuator_dyntype[i] == mujoco.mjtDyn.mjDYN_NONE)
        gain = float(model.actuator_gainprm[i, 0] * model.actuator_gear[i, 0])
        if plain and kind in _AT_JOINT:
            out[target, column] = gain
        elif plain and kind == int(mujoco.mjtTrn.mjTRN_TENDON) and (lengths := _lengths(model, target)) is not None:
            out[:, column] = gain * lengths
        else:
            title = _name(model, mujoco.mjtObj.mjOBJ_ACTUATOR, int(i), "actuator")
            raise UserError(f"{name}: actuator '{title}' is no plain motor at a joint or a fixed tendon, so that its command is no effort; "
                            "use <motor> to calibrate an arm")
    return out


def _skew(x: Any) -> Any:
    return ca.skew(ca.vertcat(x[0], x[1], x[2]))


def _turn(axis: np.ndarray, angle: Any) -> Any:
    """[3, 3] rotation about a unit axis (Rodrigues)."""
    outer = np.outer(axis, axis)
    return ca.cos(angle) * ca.DM(np.eye(3) - outer) + ca.sin(angle) * _skew(ca.DM(axis)) + ca.DM(outer)


def efforts(tree: Tree, q: Any, v: Any, a: Any, standard: Any) -> Any:
    """Efforts that the joints must bring up, friction apart: linear in the standard parameters.

    Recursive Newton-Euler in link coordinates (Luh, Walker and Paul 1980; Featherstone, Rigid Body Dynamics Algorithms, section 5.3),
    with weight as a force on each link, because each may feel a share of its own.

    Args:
        tree: the links; its own parameters are not used.
        q, v, a: [n] CasADi columns of positions, rates and accelerations.
        standard: [N] CasADi column of standard parameters, in the order of `Tree.names`.

    Returns:
        [n] CasADi column.
    """
    slot = {link: 10 * k for k, link in enumerate(tree.carrying)}
    still, wrenches, frames = ca.DM.zeros(3), [], []
    motion: list[tuple[Any, Any, Any, Any]] = []
    for i, link in enumerate(tree.links):
        axis, moved = ca.DM(link.axis), q[i] - link.rest
        rotation, place = (ca.DM(link.rotation), ca.DM(link.place))
        rotation, place = (ca.mtimes(rotation, _turn(link.axis, moved)), place) if link.hinge \
            else (rotation, place + ca.mtimes(rotation, axis) * moved)
        w, dw, acceleration, down = motion[link.parent] if link.parent != WORLD else (still, still, still, ca.DM(tree.gravity))
        back = rotation.T
        acceleration = ca.mtimes(back, acceleration + ca.cross(dw, place) + ca.cross(w, ca.cross(w, place)))
        w, dw, down = ca.mtimes(back, w), ca.mtimes(back, dw), ca.mtimes(back, down)
        if link.hinge:
            w, dw = w + axis * v[i], dw + axis * a[i] + ca.cross(w, axis * v[i])
        else:
            acceleration += axis * a[i] + 2 * ca.cross(w, axis * v[i])
        motion.append((w, dw, acceleration, down))
        frames.append((rotation, place))
        wrenches.append(_wrench(standard, slot[i], w, dw, acceleration - link.gravity * down) if i in slot else (still, still))
    out: list[Any] = [0.0] * tree.count
    for i in reversed(range(tree.count)):
        link, (force, moment), (rotation, place) = tree.links[i], wrenches[i], frames[i]
        out[i] = ca.dot(ca.DM(link.axis), moment if link.hinge else force)
        if link.parent != WORLD:
            force, moment = ca.mtimes(rotation, force), ca.mtimes(rotation, moment)
            before = wrenches[link.parent]
            wrenches[link.parent] = (before[0] + force, before[1] + moment + ca.cross(place, force))
    rotors = 10 * len(slot)
    need = [out[i] + standard[rotors + i] * a[i] for i in range(tree.count)]
    for k, lengths in enumerate(tree.lengths):
        pull = standard[rotors + tree.count + k] * sum(lengths[i] * a[i] for i in np.flatnonzero(lengths).tolist())
        for i in np.flatnonzero(lengths).tolist():
            need[i] += lengths[i] * pull
    return ca.vertcat(*need)


def _wrench(standard: Any, at: int, w: Any, dw: Any, acceleration: Any) -> tuple[Any, Any]:
    """Force and moment about the origin that move a link so."""
    p = [standard[at + k] for k in range(10)]
    inertia = ca.vertcat(ca.horzcat(p[0], p[1], p[2]), ca.horzcat(p[1], p[3], p[4]), ca.horzcat(p[2], p[4], p[5]))
    moment, mass = ca.vertcat(*p[6:9]), p[9]
    force = mass * acceleration + ca.cross(dw, moment) + ca.cross(w, ca.cross(w, moment))
    turning = ca.mtimes(inertia, dw) + ca.cross(w, ca.mtimes(inertia, w)) + ca.cross(moment, acceleration)
    return force, turning


def regressor(tree: Tree) -> Any:
    """CasADi function (q, v, a) to [n, N] with efforts = regressor times standard parameters."""
    q, v, a = (ca.SX.sym(name, tree.count) for name in "qva")
    p = ca.SX.sym("p", len(tree.names))
    return ca.Function("regressor", [q, v, a], [ca.densify(ca.jacobian(efforts(tree, q, v, a, p), p))])
