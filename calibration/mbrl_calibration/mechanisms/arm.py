"""Arm of hinge and slide joints from the robot's MJCF; base parameters and friction of every joint."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import casadi as ca
import numpy as np

from mbrl_calibration import base_parameters, inertials, kinematics, mjcf_inertials
from mbrl_calibration.base_parameters import BaseParameters
from mbrl_calibration.kinematics import Tree
from mbrl_calibration.mechanism import Mechanism, Symbols
from mbrl_control.errors import UserError, nearest
from mbrl_control.models import mjcf, mjcf_changes
from mbrl_control.models.expressions import smooth_sign
from mbrl_control.models.parameter import Parameter
from mbrl_control.robot import RobotSpec
from mbrl_control.schema import SimSpec

NEAR = 1e-3
POSTURES = 6
"""Positions at which the mass matrix must be positive definite."""
NEVER_NEGATIVE = ("Ixx", "Iyy", "Izz", "m", "armature")


@dataclass(frozen=True)
class Arm:
    """A robot's tree beside its signals.

    Attributes:
        path: of the MJCF.
        tree: links and joints; its values are those of the MJCF with all that `sim` changes in it, and `nominal.parameters`.
        base: its base parameters.
        inputs: [n, A] effort at each joint per unit of each command.
        positions, rates: [n] indices of the joints' positions and rates in the robot's state.
    """

    path: Path
    tree: Tree
    base: BaseParameters
    inputs: np.ndarray
    positions: np.ndarray
    rates: np.ndarray

    def physical(self, values: Mapping[str, float], information: np.ndarray | None = None) -> Tree:
        """The tree with identified parameters, its bodies such that they can be built.

        Args:
            values: of all parameters of the mechanism, by name.
            information: [P, P] inverse covariance of the base parameters; see `mbrl_calibration.inertials.consistent`.

        Raises:
            UserError: nothing that can be built has these parameters.
        """
        found = np.array([values[name] for name in self.base.names])
        standard = inertials.consistent(self.tree.standard, len(self.tree.carrying), self.base, found, information)
        joints = [link.joint for link in self.tree.links]
        return self.tree.with_values(standard, np.array([values[f"{joint}.damping"] for joint in joints]),
                                     np.array([values[f"{joint}.dry"] * np.pi / 2 for joint in joints]))

    def nearest(self, values: Mapping[str, float]) -> Tree:
        """As `physical`, but where noise made the values impossible, the tree that comes nearest, in shares of each parameter's size."""
        try:
            return self.physical(values)
        except UserError:
            size = NEAR * (np.abs(self.base.regroup) @ np.abs(self.tree.standard))
            return self.physical(values, np.diag(1 / np.maximum(size, NEAR * size.max()) ** 2))


def read(spec: RobotSpec, base: Path | None = None) -> Arm:
    """The arm of a robot.

    Args:
        spec: with a `sim` section; every joint's position and rate must be in its state.
        base: folder that `sim.mjcf` is looked up in first (that of the robot's YAML).

    Raises:
        UserError: no such file, or the robot is no arm that the equations know.
    """
    sim = mjcf.sim_of(spec)
    path = mjcf.locate(sim.mjcf, base)
    model = mjcf_changes.apply(mjcf.read(path, mjcf.memory_of(spec)), sim)
    tree = kinematics.read(model, str(path))
    signals = mjcf.whole_state(model, spec, path)
    place = {int(at): i for i, at in reversed(list(enumerate(signals.address)))}
    if spec.nominal is not None:
        if spec.nominal.extras:
            raise UserError("nominal.extras: an arm has none of these terms; leave this key out")
        if spec.nominal.states or spec.nominal.inputs:
            raise UserError("nominal.states and nominal.inputs: the joints of an arm are found by name; leave these keys out")
        tree = changed(tree, spec.nominal.parameters)
    found = base_parameters.find(tree, np.random.default_rng(0))
    return Arm(path, tree, found, kinematics.inputs(model, signals.actuator, str(path)),
               np.array([place[j] for j in range(model.njnt)]), np.array([place[model.nq + j] for j in range(model.njnt)]))


def twin(spec: RobotSpec, one: Arm, values: Mapping[str, float], out: Path, information: np.ndarray | None = None) -> SimSpec:
    """Write the robot's MJCF with identified parameters, and tell the `sim` section that goes with it: only gears are still changed there.

    Args:
        spec: the robot.
        one: its arm.
        values: of all parameters of the mechanism, by name.
        out: the new MJCF, in the folder where the robot's YAML will lie.
        information: see `Arm.physical`; without it, see `Arm.nearest`.

    Raises:
        UserError: a rotor inertia is negative, or the file exists.
    """
    mjcf_inertials.save(one.path, one.nearest(values) if information is None else one.physical(values, information), out)
    sim = mjcf.sim_of(spec)
    gears = {what: factor for what, factor in sim.changes.items() if what.startswith("gear:")}
    return sim.model_copy(update={"mjcf": out.name, "changes": gears, "values": {}})


def changed(tree: Tree, parameters: Mapping[str, float]) -> Tree:
    """A tree with other values of standard parameters and friction, by name as `told` gives them.

    Raises:
        UserError: no such parameter.
    """
    all_ = told(tree)
    for name in parameters:
        if name not in all_:
            raise UserError(f"nominal.parameters: the arm has no parameter '{name}'{nearest(name, list(all_))}")
    numbers = np.array(list({**all_, **parameters}.values()))
    cut = len(tree.names)
    return tree.with_values(numbers[:cut], numbers[cut:cut + tree.count], numbers[cut + tree.count:])


def told(tree: Tree) -> dict[str, float]:
    """Standard parameters, viscous and Coulomb friction (`frictionloss`) by name: keys of `nominal.parameters`."""
    joints = [link.joint for link in tree.links]
    return {**dict(zip(tree.names, tree.standard.tolist(), strict=True)),
            **{f"{name}.damping": float(value) for name, value in zip(joints, tree.damping, strict=True)},
            **{f"{name}.frictionloss": float(value) for name, value in zip(joints, tree.dry, strict=True)}}


def _parameters(arm: Arm) -> tuple[Parameter, ...]:
    tree, base = arm.tree, arm.base
    out, starts = [], base.regroup @ tree.standard
    for row, (name, place) in enumerate(zip(base.names, base.chosen, strict=True)):
        parts = [tree.names[i].rpartition(".")[2] for i in np.flatnonzero(base.regroup[row])]
        positive = (base.regroup[row] >= 0).all() and set(parts) <= set(NEVER_NEGATIVE)
        out.append(Parameter(name, tree.units[place], base.meaning(row), float(starts[row]), 0.0 if positive else -np.inf, np.inf))
    for link, viscous, dry_ in zip(tree.links, tree.damping, tree.dry, strict=True):
        unit, rate, joint = ("N*m", "N*m*s/rad", link.joint) if link.hinge else ("N", "N*s/m", link.joint)
        out += [Parameter(f"{joint}.damping", rate, f"{joint}.damping", float(viscous), 0.0, np.inf),
                Parameter(f"{joint}.dry", unit, f"{joint}.frictionloss times 2/pi", float(dry_) * 2 / np.pi, 0.0, np.inf)]
    return tuple(out)


def _pivots(matrix: Any, count: int) -> list[Any]:
    """Of the LDL^T decomposition: all positive for a positive definite matrix."""
    rows = [[matrix[i, j] for j in range(count)] for i in range(count)]
    for k in range(count):
        for i in range(k + 1, count):
            share = rows[i][k] / rows[k][k]
            rows[i] = [rows[i][j] - share * rows[k][j] for j in range(count)]
    return [rows[k][k] for k in range(count)]


def build(spec: RobotSpec, base: Path | None = None) -> Mechanism:
    """The mechanism of a robot: base parameters of its tree, viscous and Coulomb friction of each joint; gears and gravity are known.

    Its `system` gives standard parameters that can be built (`Arm.nearest`), as keys of `nominal.parameters`; its `feasible` is necessary
    for them (mass matrix positive definite in some postures), and `Arm.physical` sufficient.

    Args:
        spec: the robot, see `read`.
        base: folder that `sim.mjcf` is looked up in first.
    """
    arm = read(spec, base)
    tree, chosen, parameters = arm.tree, arm.base.chosen, _parameters(arm)
    n, count = tree.count, len(parameters)
    q, v, a, p = ca.SX.sym("q", n), ca.SX.sym("v", n), ca.SX.sym("a", n), ca.SX.sym("p", count)
    standard = ca.SX.zeros(len(tree.names))
    for row, place in enumerate(chosen):
        standard[int(place)] = p[row]
    inertial = kinematics.efforts(tree, q, v, a, standard)
    viscous, coulomb = p[len(chosen)::2], p[len(chosen) + 1::2]
    need = ca.Function("effort", [q, v, a, p], [inertial + viscous * v + coulomb * smooth_sign(v)])
    mass = ca.Function("mass", [q, p], [ca.densify(ca.jacobian(inertial, a))])
    rng = np.random.default_rng(1)
    postures = [base_parameters.sample(tree, rng)[0] for _ in range(POSTURES)]
    names = tuple(one.name for one in parameters)

    def column(values: Symbols) -> Any:
        return ca.vertcat(*[values[name] for name in names])

    def effort(q: Any, v: Any, a: Any, p: Symbols) -> Any:
        return need(q, v, a, column(p))

    def applied(u: Any, p: Symbols) -> Any:
        return ca.mtimes(ca.DM(arm.inputs), u)

    def feasible(p: Symbols) -> list[Any]:
        return [pivot for posture in postures for pivot in _pivots(mass(posture, column(p)), n)]

    def system(values: Mapping[str, float]) -> dict[str, float]:
        return told(arm.nearest(values))

    return Mechanism("arm", arm.positions, arm.rates, effort, applied, parameters, feasible, system, (arm.inputs != 0).any(axis=1))
