"""What a motion tells about a mechanism's parameters."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import casadi as ca
import numpy as np

from mbrl_calibration import mechanism
from mbrl_calibration.mechanism import Mechanism
from mbrl_calibration.playing import Played
from mbrl_control.robot import RobotSpec

Array = np.ndarray
ROWS = 400
"""At most so many instants of a motion are looked at."""


@dataclass(frozen=True)
class Information:
    """Of a motion.

    Attributes:
        log_det: log-determinant of the information matrix of the parameters that are not known, for efforts measured with an error of
            a hundredth of what the drives can; with a part per billion of its trace added, so that it is finite.
        condition: condition number of the regressor with columns of equal length.
        weakest: the parameter that the direction told least about has most of.
    """

    log_det: float
    condition: float
    weakest: str


def log_det(rows: Array) -> float:
    """Log-determinant of the information of weighted regressor rows [M, P], kept finite."""
    whole = rows.T @ rows
    return float(np.linalg.slogdet(whole + 1e-9 * (np.trace(whole) / len(whole) + 1e-300) * np.eye(len(whole)))[1])


class Gauge:
    """Regressor rows of a mechanism, in hundredths of what the drives can, of the parameters that are to be found.

    Args:
        spec: the robot; `nominal.known` are left out.
        m: its equations.

    Attributes:
        table: CasADi function (q, v, a, u) to the rows [n, P'] of an instant.
        names: [P'] of what is to be found.
        strength: [n] greatest effort of each drive; for joints without one, the mean of the others.
    """

    def __init__(self, spec: RobotSpec, m: Mechanism) -> None:
        known = spec.nominal.known if spec.nominal is not None else []
        self._free = np.array([i for i, name in enumerate(m.names) if name not in (*known, *m.nonlinear)])
        self._m, self._idle = m, spec.action_zero
        self.names = tuple(m.names[i] for i in self._free)
        u = ca.SX.sym("u", spec.action_dim)
        slope: Any = ca.Function("slope", [u], [ca.jacobian(m.applied(u, m.named(m.start)), u)])
        inside = 0.5 * (spec.action_zero + spec.action_high)  # beyond a dead band, short of saturation
        able = np.abs(np.array(slope(inside))) @ np.maximum(np.abs(spec.action_low), np.abs(spec.action_high))
        self.strength = np.where(able > 0, able, able[able > 0].mean() if (able > 0).any() else 1.0)
        q, v, a = (ca.SX.sym(name, m.count) for name in "qva")
        y = ca.densify(mechanism.regressor(m, spec.action_dim)(q, v, a, u)[0])
        self.table = ca.Function("table", [q, v, a, u], [ca.mtimes(ca.DM(np.diag(1 / (0.01 * self.strength))), y[:, self._free.tolist()])])

    def rows(self, q: Array, v: Array, a: Array, u: Array | None = None) -> Array:
        """[T n, P'] along positions, rates and accelerations [T, n] under commands [T, A] (by default `zero`)."""
        given = np.tile(self._idle, (len(q), 1)) if u is None else u
        y = np.array(self.table.map(len(q))(q.T, v.T, a.T, given.T))
        return np.asarray(y.reshape(self._m.count, len(q), len(self.names)).reshape(-1, len(self.names)))


def information(spec: RobotSpec, m: Mechanism, played: Played) -> Information:
    """What a played motion tells; accelerations are those of the mechanism.

    Args:
        spec: the robot.
        m: its equations, at the parameters that the search begins with.
        played: states and commands.
    """
    late = np.round(spec.delays * spec.rate_hz).astype(int)
    acting = np.stack([np.concatenate((np.full(d, zero), column))[:len(column)]
                       for d, zero, column in zip(late, spec.action_zero, played.command.T, strict=True)], axis=1)
    every = max(1, len(played.time) // ROWS)
    x, u = played.state[::every][:, np.concatenate((m.positions, m.rates))], acting[::every]
    moving = mechanism.forward(m, spec.action_dim).map(len(x))
    a = np.array(moving(x.T, u.T, np.tile(m.start[:, None], len(x)))).T[:, m.count:]
    gauge = Gauge(spec, m)
    return of_rows(gauge.rows(x[:, :m.count], x[:, m.count:], a, u), gauge.names)


def of_rows(rows: Array, names: Sequence[str]) -> Information:
    """What weighted regressor rows [M, P] tell about parameters of these names."""
    size = np.linalg.norm(rows, axis=0)
    if not size.all():
        return Information(log_det(rows), np.inf, names[int(np.argmin(size))])
    values, directions = np.linalg.svd(rows / size, full_matrices=False)[1:]
    worst = names[int(np.argmax(np.abs(directions[-1])))]
    return Information(log_det(rows), float(values[0] / values[-1]) if values[-1] > 0 else np.inf, worst)
