"""Whether positions and their rates belong together: units, signs, swapped columns, sensors that stand still or saturate."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np

from mbrl_calibration.findings import MISFIT, NEAR, SMOOTH, Finding, quantum, refuse, since, smoothness, stretches, warn
from mbrl_calibration.profile import joined
from mbrl_calibration.runs import Run
from mbrl_control.robot import RobotSpec

WINDOW_S = 0.1
"""Stretches over which positions are compared with the integrals of their rates."""

FIT = 0.9
"""Correlation from which on two signals belong together."""

BETTER = 0.2
"""Share of what its own rate leaves unexplained that another one must fall short of to be taken for it."""

STUCK_S = 0.25
SHORTEST_S = 0.02
STUCK_SHARE = 0.05
"""Share of its whole way that one signal moves while the other stands still, from which on that one is stuck."""

EXTREME_SHARE = 0.02
"""The same where it stands still at its extreme."""

SLOW_SHARE = 0.1
"""Mean rate, as a share of its root mean square, that is motion."""

SHORT_OF = 0.1
"""Share by which a rate may fall short of the motion at its extreme."""

FACTORS = ((180 / math.pi, "the position is in degrees"), (math.pi / 180, "the rate is in degrees per second"),
           (math.pi / 30, "the rate is in revolutions per minute"), (2 * math.pi, "the rate is in revolutions per second"),
           (1 / (2 * math.pi), "the position is in revolutions"), (1e3, "the position is in thousandths, such as mm"),
           (1e-3, "the rate is in thousandths, such as mm/s, or time in milliseconds"), (1e-6, "time is in microseconds"),
           (1e-9, "time is in nanoseconds"))
"""Position over integral of the rate, and what it tells."""


def pairs(run: Run, spec: RobotSpec) -> Iterator[Finding]:
    """Faults of each position and its rate."""
    for whole, rate in spec.rate_pairs:
        faults = list(_frozen(run, spec, whole, rate))
        yield from faults
        if not faults and smoothness(run.state[:, rate]) >= SMOOTH:
            yield from _belong(run, spec, whole, rate)


@dataclass(frozen=True)
class _Steps:
    """Changes [W] of a position and of a rate's integral over windows."""

    position: np.ndarray
    integral: np.ndarray

    @property
    def correlation(self) -> float:
        power = float(np.sqrt((self.position @ self.position) * (self.integral @ self.integral)))
        return float(self.position @ self.integral) / power if power > 0 else 0.0

    @property
    def ratio(self) -> float:
        """Position over integral: the median, weighted by the integral, of the faster half of the windows."""
        fast = np.argsort(np.abs(self.integral))[len(self.integral) // 2:]
        ratios, weights = self.position[fast] / self.integral[fast], np.abs(self.integral[fast])
        order = np.argsort(ratios)
        total = np.cumsum(weights[order])
        return float(ratios[order][np.searchsorted(total, 0.5 * total[-1])])


def _steps(run: Run, whole: int, rate: int, window_s: float = WINDOW_S) -> _Steps:
    rows = np.arange(0, len(run.time), max(1, round(window_s / run.period)))
    integral = joined(run.time, run.state[:, rate])(run.time[rows])
    return _Steps(np.diff(run.state[rows, whole]), np.diff(integral))


def _belong(run: Run, spec: RobotSpec, whole: int, rate: int) -> Iterator[Finding]:
    own, position, name = _steps(run, whole, rate), spec.state_names[whole], spec.state_names[rate]
    where = f"{run.name}: '{position}' and its rate '{name}'"
    others = [(abs(_steps(run, whole, r).correlation), spec.state_names[r]) for _, r in spec.rate_pairs if r != rate]
    best, other = max(others, default=(0.0, ""))
    if best >= FIT and 1 - best < BETTER * (1 - abs(own.correlation)):
        yield refuse("swapped", run.name, f"'{position}' moves as '{other}' says (correlation {best:.3f}), not as its own rate '{name}' "
                     f"({own.correlation:.3f})", "columns are swapped: correct `column` or `joint` in the robot's YAML")
    elif abs(own.correlation) >= FIT:
        yield from _factor(where, own.ratio)
    elif spec.wraps[whole] and _degrees_wrapped(_steps(run, whole, rate, 0.0)):
        yield refuse("units", where, "between samples the position moves 57.3 times as far as the rate says, and it was wrapped at 2 pi",
                     "it is in degrees: convert it to radians")
    elif abs(own.correlation) < MISFIT:
        yield refuse("mismatch", where, f"they do not move together (correlation {own.correlation:.2f})",
                     "correct `column`, `joint` or `rate_of` in the robot's YAML, or look at the sensors")


def _factor(where: str, ratio: float) -> Iterator[Finding]:
    what = f"the position moves {ratio:.4g} times as far as the rate says"
    why = next((why for factor, why in FACTORS if abs(ratio / factor - 1) < NEAR), "")
    if ratio < 0:
        yield refuse("sign", where, what, "flip the sign of one of them")
    elif why:
        yield refuse("units", where, what, f"{why}: convert to SI units")
    elif not 0.5 < ratio < 2:
        yield refuse("scale", where, what, "look at units and gear ratios of both")
    elif not 1 / (1 + 2 * NEAR) < ratio < 1 + 2 * NEAR:
        yield warn("scale", where, what, "look at units, gear ratios and filters of both")


def _degrees_wrapped(steps: _Steps) -> bool:
    """Whether small steps between samples, those that would stay within half a turn in degrees too, tell of degrees."""
    small = np.abs(steps.integral) < 0.9 * math.pi * math.pi / 180
    if small.sum() < 20:
        return False
    part = _Steps(steps.position[small], steps.integral[small])
    return part.correlation > MISFIT and abs(part.ratio * math.pi / 180 - 1) < NEAR


def _frozen(run: Run, spec: RobotSpec, whole: int, rate: int) -> Iterator[Finding]:
    q, v, t = run.state[:, whole], run.state[:, rate], run.time
    integral = joined(t, v)(t)
    gap = q - integral
    if smoothness(v) >= SMOOTH:
        says = f"by its rate '{spec.state_names[rate]}' it moves"
        yield from _standing(run, spec.state_names[whole], q, integral, float(np.ptp(integral)), says,
                             lambda a, b: 0.0 if _moves(v[a:b], v) else math.inf)
    if smoothness(q) >= SMOOTH:
        says = f"'{spec.state_names[whole]}' moves further than that"
        yield from _standing(run, spec.state_names[rate], v, gap, float(np.ptp(q)), says,
                             lambda a, b: SHORT_OF * abs(float(v[a] * (t[b - 1] - t[a]))))


def _moves(part: np.ndarray, rate: np.ndarray) -> bool:
    """Whether a part of a rate is motion, and not noise about what the sensor shows at rest."""
    return smoothness(part) >= SMOOTH or abs(float(part.mean())) > SLOW_SHARE * float(np.sqrt(np.mean(rate**2)))


def _standing(run: Run, name: str, values: np.ndarray, partner: np.ndarray, span: float, says: str,
              excused: Callable[[int, int], float]) -> Iterator[Finding]:
    """Stretches in which a signal keeps one value while its partner [T], which moves by `span` in all, moves."""
    fine = 10 * quantum(values)
    worst, count = (0.0, 0, 0), 0
    for a, b in stretches(values):
        lasts, moved = float(run.time[b - 1] - run.time[a]), float(np.ptp(partner[a:b]))
        extreme = np.ptp(values) > 0 and values[a] in (values.min(), values.max())
        share, shortest = (EXTREME_SHARE, SHORTEST_S) if extreme else (STUCK_SHARE, STUCK_S)
        if lasts >= shortest and moved > share * span + fine + excused(a, b):
            worst, count = max(worst, (moved, a, b)), count + 1
    if not count:
        return
    moved, a, b = worst
    what = (f"'{name}' keeps to {values[a]:.4g} for {run.time[b - 1] - run.time[a]:.3g} s from {since(run, a)}, while {says} by "
            f"{moved:.3g} ({count} such stretches)")
    if np.ptp(values) > 0 and values[a] in (values.min(), values.max()):
        yield refuse("saturated", run.name, what, "that is its extreme: the sensor saturates; cut these parts out, or widen its range")
    else:
        yield refuse("stuck", run.name, what, "the sensor was stuck; cut this part out")
