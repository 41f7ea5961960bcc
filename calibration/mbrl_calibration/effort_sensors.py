"""What sensors of efforts show of what is commanded, and how near known equations come to what they show."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import casadi as ca
import numpy as np

from mbrl_calibration import regression
from mbrl_calibration.estimate import Estimate
from mbrl_calibration.mechanism import Mechanism
from mbrl_calibration.regression import Rows
from mbrl_calibration.runs import Run

GAIN, OFFSET = "gain", "offset"
STILL = 1e-9
"""Commands whose root mean square about their mean is less, N or N m, tell nothing."""


@dataclass(frozen=True)
class EffortSensor:
    """A sensor shows gain * command + offset.

    Attributes:
        axis: index of the command.
        gain: as far as runs tell.
        low, high: ends of its 95 % interval.
        offset: N or N m.
    """

    axis: int
    gain: float
    low: float
    high: float
    offset: float


def relate(runs: Sequence[Run], m: Mechanism, delays: np.ndarray) -> tuple[EffortSensor, ...]:
    """What each sensor shows of its command, by least squares over all runs, both low-passed without phase.

    Args:
        runs: at least one.
        m: the mechanism.
        delays: [A] time from command to effect, s.

    Returns:
        Those sensors of which the runs tell it: not where the command stood still.

    Raises:
        DataError: a run is too short.
    """
    motions = [regression.motion(run, m, delays, False) for run in runs]
    found = []
    for axis in range(runs[0].command.shape[1]):
        if not all(np.isfinite(run.measured[:, axis]).all() for run in runs):
            continue
        rows = [Rows(run.name, np.stack([did.u[:, axis], np.ones(len(did.u))], axis=-1)[:, None], did.shown[:, axis, None], run.period)
                for run, did in zip(runs, motions, strict=True)]
        line = _line(rows)
        if line is not None:
            low, high = line.interval()
            found.append(EffortSensor(axis, float(line.values[0]), float(low[0]), float(high[0]), float(line.values[1])))
    return tuple(found)


def rmse(runs: Sequence[Run], m: Mechanism, values: np.ndarray, delays: np.ndarray, sensors: Sequence[EffortSensor]) -> float:
    """How far sensors are from what the motion should make them show: root mean square, all runs and sensors pooled, N or N m.

    Args:
        runs: at least one.
        m: the mechanism; its drives have no terms of their own.
        values: [P] its parameters.
        delays: [A] time from command to effect, s.
        sensors: at least one; what they show of a command.

    Raises:
        DataError: a run is too short.
    """
    gain, offset, axes = (np.array([getattr(s, key) for s in sensors]) for key in ("gain", "offset", "axis"))
    left, called_for = [], _called_for(m, runs[0].command.shape[1])
    for run in runs:
        did = regression.motion(run, m, delays, False)
        commands = np.asarray(called_for.map(len(did.q))(did.q.T, did.v.T, did.a.T, values)).T
        left.append(did.shown[:, axes] - gain * commands[:, axes] - offset)
    return float(np.sqrt(np.mean(np.concatenate(left) ** 2)))


def _called_for(m: Mechanism, commands: int) -> Any:
    """CasADi function (q, v, a, p) to the commands [A] that the motion calls for; of coordinates without one nothing is asked."""
    q, v, a = (ca.SX.sym(name, m.count) for name in "qva")
    p, u = ca.SX.sym("p", len(m.parameters)), ca.SX.sym("u", commands)
    brings = np.asarray(ca.DM(ca.jacobian(m.applied(u, m.named(p)), u)))
    efforts = m.effort(q, v, a, m.named(p)) - m.applied(ca.DM.zeros(commands), m.named(p))
    return ca.Function("called_for", [q, v, a, p], [ca.mtimes(ca.DM(np.linalg.pinv(brings)), efforts)])


def _line(rows: Sequence[Rows]) -> Estimate | None:
    """Gain and offset; None where they cannot be told."""
    matrix, target = (np.concatenate([part.reshape(-1, width) for part in parts])
                      for parts, width in (([r.matrix for r in rows], 2), ([r.target for r in rows], 1)))
    if matrix[:, 0].std() < STILL:
        return None
    values = np.linalg.lstsq(matrix, target[:, 0], rcond=None)[0]
    found = Estimate((GAIN, OFFSET), values, regression.sandwich(rows, values, np.ones(2, bool)))
    return None if GAIN in found.vague() else found
