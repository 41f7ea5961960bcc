"""Whether the sensors of a robot's commands follow them: swapped, of the other sign, in another unit, clipped or stuck."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from mbrl_calibration.axis_delay import STILL
from mbrl_calibration.findings import MISFIT, NEAR, Finding, refuse, since, stretches, warn
from mbrl_calibration.profile import held
from mbrl_calibration.runs import Run
from mbrl_control.robot import RobotSpec

LONGEST_LAG_S = 0.1
CLIPPED = 0.01
"""Share of samples at the extreme from which on a sensor is said to clip."""

UNLIKE = 0.3
"""Correlation below which a sensor does not follow its command at all."""

FACTORS = ((1e3, "the sensor is in thousandths, such as mN m"), (1e-3, "the command is in thousandths, such as mN m"))


def sensors(run: Run, spec: RobotSpec) -> Iterator[Finding]:
    """Faults of the sensors of the commands."""
    width = spec.action_high - spec.action_low
    usable = [a for a in range(spec.action_dim) if np.isfinite(run.measured[:, a]).all()]
    moving = [a for a in usable if np.ptp(run.command[:, a]) > STILL * width[a]]
    for a in moving:
        if np.ptp(run.measured[:, a]) == 0:
            yield from _stuck(run, spec.command_names[a], a)
        else:
            yield from _follows(run, spec, a, moving)
            yield from _clipped(run, spec.command_names[a], a)


def _follows(run: Run, spec: RobotSpec, a: int, moving: list[int]) -> Iterator[Finding]:
    name, where = spec.command_names[a], f"{run.name}: the sensor of command '{spec.command_names[a]}'"
    own, gain = _fit(run, a, run.measured[:, a])
    others = [(abs(_fit(run, b, run.measured[:, a])[0]), spec.command_names[b]) for b in moving if b != a]
    best, other = max(others, default=(0.0, ""))
    if best > 0.8 and best > abs(own) + UNLIKE:
        yield refuse("measured_swapped", where, f"it follows '{other}' (correlation {best:.2f}), not '{name}' ({own:.2f})",
                     "columns are swapped: correct `of` or `column` in nominal.measured")
    elif own < -MISFIT:
        yield refuse("measured_sign", where, f"it goes against the command (correlation {own:.2f})", "flip the sign of one of them")
    elif own > 1 - UNLIKE:
        yield from _gain(where, gain)
    elif own < UNLIKE:
        yield warn("mismatch", where, f"it does not follow the command (correlation {own:.2f})",
                   "correct `column` in nominal.measured, or find out what limits the drive")


def _gain(where: str, gain: float) -> Iterator[Finding]:
    what = f"it shows {gain:.3g} times the command"
    why = next((why for factor, why in FACTORS if abs(gain / factor - 1) < 2 * NEAR), "")
    if why:
        yield refuse("measured_units", where, what, f"{why}: convert it")
    elif not 0.5 < gain < 2:
        yield warn("measured_gain", where, what, "look at gear ratios and units")


def _fit(run: Run, a: int, sensor: np.ndarray) -> tuple[float, float]:
    """Correlation and slope of a sensor [T] on a command, at the lag up to `LONGEST_LAG_S` where the correlation is greatest."""
    source, half = held(run.time, run.command[:, a]), 0.5 * run.period
    later = run.time >= run.time[0] + min(LONGEST_LAG_S, 0.25 * run.duration)
    time, y = run.time[later], sensor[later] - sensor[later].mean()
    best = (0.0, 0.0)
    for lag in np.arange(0.0, LONGEST_LAG_S, max(run.period, LONGEST_LAG_S / 25)):
        u = source(time - lag + half) - source(time - lag - half)
        u = (u - u.mean()) / (2 * half)
        power, cross = float(u @ u), float(u @ y)
        correlation = cross / float(np.sqrt(power * (y @ y))) if power > 0 and y @ y > 0 else 0.0
        if abs(correlation) > abs(best[0]):
            best = correlation, cross / power
    return best


def _stuck(run: Run, name: str, a: int) -> Iterator[Finding]:
    yield refuse("stuck", f"{run.name}: the sensor of command '{name}'", f"it shows {run.measured[0, a]:.4g} throughout, while the command "
                 f"changes by {np.ptp(run.command[:, a]):.3g}", "it is stuck: leave it out of nominal.measured")


def _clipped(run: Run, name: str, a: int) -> Iterator[Finding]:
    """A sensor that keeps exactly to its extreme although its command goes on."""
    values = run.measured[:, a]
    for end in (values.min(), values.max()):
        flat = [(i, j) for i, j in stretches(values) if values[i] == end and np.ptp(run.command[i:j, a]) > 0]
        share = sum(j - i for i, j in flat) / len(values)
        if share > CLIPPED:
            yield warn("saturated", f"{run.name}: the sensor of command '{name}'", f"it keeps to its extreme {end:.4g} in {share:.1%} of "
                       f"the samples, first {since(run, flat[0][0])}, while the command changes", "do not trust it there")
