"""A robot's twin in MuJoCo made to behave like identified equations: factors on its masses, values for its joints' friction."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import mujoco
import numpy as np
from scipy.optimize import lsq_linear

from mbrl_calibration.mechanism import Mechanism, effort_function
from mbrl_control.models import mjcf
from mbrl_control.robot import RobotSpec

SAMPLES = 400
FITS = 0.02
"""Share of the efforts that the twin may leave unexplained; a hundredth part of a mass is left to each body, which MuJoCo needs."""

LEAST_FACTOR, NOTHING, TIE, ARMATURE = 0.01, 1e-6, 1e-4, 30.0
KINDS = ("damping", "friction", "armature")
"""What is found of each joint: it goes with the rate, its sign, and the acceleration."""


@dataclass(frozen=True)
class Twin:
    """What to write under `sim`.

    Attributes:
        changes: factors, for `sim.changes`.
        values: in SI units, for `sim.values`.
        error: root mean square of the efforts that the twin does not have, as a share of all.
    """

    changes: dict[str, float]
    values: dict[str, float]
    error: float

    @property
    def fits(self) -> bool:
        """Whether the twin can behave like the equations."""
        return self.error < FITS


def _efforts(model: Any, data: Any, m: Mechanism, order: np.ndarray, motion: np.ndarray) -> np.ndarray:
    """[N * n] efforts of an `mjModel` for motions [N, 3, n] of the mechanism's coordinates."""
    out = []
    places = order - model.nq
    for q, v, a in motion:
        data.qpos[order[: m.count]], data.qvel[places[m.count:]], data.qacc[places[m.count:]] = q, v, a
        mujoco.mj_inverse(model, data)
        out.append(data.qfrc_inverse[places[m.count:]].copy())
    return np.concatenate(out)


def match(spec: RobotSpec, m: Mechanism, values: np.ndarray, rng: np.random.Generator, base: Path | None = None) -> Twin | None:
    """Find what makes the twin's inverse dynamics those of the mechanism: efforts are linear in masses and friction.

    Args:
        spec: the robot.
        m: the mechanism.
        values: [P] its parameters.
        rng: draws the motions to compare.
        base: folder that `sim.mjcf` is relative to.

    Returns:
        None where the robot has no `sim`.
    """
    if spec.sim is None:
        return None
    model = mjcf.read(mjcf.locate(spec.sim.mjcf, base), mjcf.memory_of(spec))
    model.dof_damping[:], model.dof_frictionloss[:], model.dof_armature[:] = 0.0, 0.0, 0.0
    model.opt.disableflags |= mujoco.mjtDisableBit.mjDSBL_CONSTRAINT
    order = mjcf.SignalMap(model, spec).address[np.concatenate((m.positions, m.rates))]
    motion = np.stack([rng.uniform(-np.pi, np.pi, (SAMPLES, m.count)), rng.normal(0, 3, (SAMPLES, m.count)),
                       rng.normal(0, 10, (SAMPLES, m.count))], axis=1)
    wanted = np.concatenate([np.asarray(effort_function(m)(q, v, a, values)).ravel() for q, v, a in motion])
    shares = {b: _share(model, m, order, motion, b) for b in range(1, model.nbody) if model.body_mass[b] > 0}
    bodies = [b for b in shares if model.body(b).name]
    # What has no name cannot be changed from a YAML: it stays.
    wanted = wanted - sum((shares[b] for b in shares if b not in bodies), np.zeros_like(wanted))
    one = np.eye(m.count)
    of_joints = [(part * one[i]).ravel() for i in range(m.count) for part in (motion[:, 1], np.sign(motion[:, 1]), motion[:, 2])]
    found, error = _solve(np.stack([*(shares[b] for b in bodies), *of_joints], axis=1), wanted, len(bodies), m.count)
    changes = {f"mass:{model.body(b).name}": float(f) for b, f in zip(bodies, found, strict=False)}
    names = [str(model.joint(int(model.dof_jntid[i])).name) for i in order[m.count:] - model.nq]
    rest = found[len(bodies):].reshape(m.count, len(KINDS))
    settings = {f"{kind}:{name}": float(rest[i, k]) for i, name in enumerate(names) for k, kind in enumerate(KINDS)}
    return Twin(changes, settings, error)


def _solve(matrix: np.ndarray, wanted: np.ndarray, bodies: int, joints: int) -> tuple[np.ndarray, float]:
    """Factors on the bodies and values of the joints, and the share of the efforts that they leave."""
    low = np.concatenate([np.full(bodies, LEAST_FACTOR), np.zeros(len(KINDS) * joints)])
    # What motions cannot tell apart (a cart's mass from its slider's armature) stays as near as possible to the MJCF.
    tie = TIE * np.sqrt((matrix**2).sum(0)) * np.concatenate([np.ones(bodies), np.tile([1.0, 1.0, ARMATURE], joints)])
    nearest = np.concatenate([np.ones(bodies), np.zeros(len(KINDS) * joints)])
    found = lsq_linear(np.vstack([matrix, np.diag(tie)]), np.concatenate([wanted, tie * nearest]), (low, np.inf), lsq_solver="exact").x
    error = float(np.sqrt(np.mean((matrix @ found - wanted) ** 2) / np.mean(wanted**2)))
    return np.where((np.arange(len(found)) >= bodies) & (found < NOTHING), 0.0, found), error


def _share(model: Any, m: Mechanism, order: np.ndarray, motion: np.ndarray, body: int) -> np.ndarray:
    """[N * n] what one body's mass has in the efforts: twice what they lose when it is halved."""
    data = mujoco.MjData(model)
    whole = _efforts(model, data, m, order, motion)
    mass, inertia = float(model.body_mass[body]), model.body_inertia[body].copy()
    model.body_mass[body], model.body_inertia[body] = 0.5 * mass, 0.5 * inertia
    half = _efforts(model, data, m, order, motion)
    model.body_mass[body], model.body_inertia[body] = mass, inertia
    return np.asarray(2 * (whole - half))
