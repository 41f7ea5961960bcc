"""What is wrong with logs, looked for before anything is fitted to them: each fault with its place, its value and what to do."""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator, Sequence

import numpy as np

from mbrl_calibration.axis_delay import STILL
from mbrl_calibration.car import speed_by_places
from mbrl_calibration.check_pairs import pairs
from mbrl_calibration.check_sensors import sensors
from mbrl_calibration.findings import SMOOTH, Finding, refuse, since, smoothness, warn
from mbrl_calibration.runs import Run
from mbrl_control.robot import RobotSpec

GAP_PERIODS = 5
LOST_SHARE = 0.1
"""Share of a run in gaps from which on it is refused."""

BEYOND = 0.01
"""Share of samples with a command beyond its limits that is told."""

FAST_RAD_S = 100.0
TIME_UNITS = ((1e3, "milliseconds"), (1e6, "microseconds"), (1e9, "nanoseconds"))


def look(runs: Sequence[Run], spec: RobotSpec) -> list[Finding]:
    """What is wrong with logs of a robot.

    Args:
        runs: logs as they were read.
        spec: the robot that they were read for.

    Returns:
        Faults, those that forbid a fit first; none for logs that are sound as far as can be seen.
    """
    if not runs:
        return []
    each = (fault for run in runs for check in CHECKS for fault in check(run, spec))
    found = [*_still(runs, spec), *_between(runs), *each, *_speed(runs, spec)]
    return sorted(found, key=lambda f: f.severity != "refuse")


def _still(runs: Sequence[Run], spec: RobotSpec) -> Iterator[Finding]:
    """Commands that hardly change, and robots that do not answer them."""
    where, width = ", ".join(r.name for r in runs), spec.action_high - spec.action_low
    moved = np.max([np.ptp(r.command, axis=0) for r in runs], axis=0)
    quiet = [a for a in range(spec.action_dim) if moved[a] <= STILL * width[a]]
    for a in quiet:
        yield (refuse if len(quiet) == spec.action_dim else warn)(
            "no_excitation", where, f"command '{spec.command_names[a]}' changes by {moved[a]:.3g} at most, of limits {width[a]:.3g} apart",
            "what it does cannot be found: record with excitation on it")
    rates = [rate for _, rate in spec.rate_pairs]
    if rates and len(quiet) < spec.action_dim and all(smoothness(r.state[:, i]) < SMOOTH for r in runs for i in rates):
        yield refuse("no_motion", where, f"commands change, but {', '.join(spec.state_names[i] for i in rates)} show noise only",
                     "are the drives on, and is it this robot's log?")


def _gaps(run: Run, spec: RobotSpec) -> Iterator[Finding]:
    steps = np.diff(run.time)
    long = np.flatnonzero(steps > GAP_PERIODS * run.period)
    if not len(long):
        return
    share, worst = float(steps[long].sum() / run.duration), int(long[np.argmax(steps[long])])
    what = (f"{len(long)} gaps of more than {GAP_PERIODS} periods, {share:.2%} of the run; the longest lasts {steps[worst]:.3g} s from "
            f"{since(run, worst)}")
    lossy = share > LOST_SHARE
    yield (refuse if lossy else warn)("gaps", run.name, what, "record again without losses" if lossy else "fits step over them")


def _between(runs: Sequence[Run]) -> Iterator[Finding]:
    """Gaps at which a log was cut into runs, which nothing bridges: told with their places."""
    logs: dict[str, list[Run]] = {}
    for run in runs:
        log, cut, _number = run.name.rpartition("#")
        if cut:
            logs.setdefault(log, []).append(run)
    for log, pieces in logs.items():
        gaps = [(b.time[0] - a.time[-1], a) for a, b in itertools.pairwise(pieces) if b.time[0] > a.time[-1]]
        if not gaps:
            continue
        begin, (longest, before) = pieces[0].time[0], max(gaps, key=lambda gap: gap[0])
        whole = pieces[-1].time[-1] - begin
        share = sum(gap for gap, _ in gaps) / whole
        yield warn("gaps", log, f"{len(gaps)} gaps, {share:.2%} of the log; the longest lasts {longest:.3g} s from "
                   f"{before.time[-1] - begin:.3g} s after the start", "what lies between them is fitted to by itself")


def _time_units(run: Run, spec: RobotSpec) -> Iterator[Finding]:
    for factor, unit in TIME_UNITS:
        if 1 / 3 < run.period / spec.tick_s / factor < 3:
            yield refuse("time_units", run.name, f"samples are {run.period:.4g} apart, {factor:.0e} times the robot's tick of "
                         f"{spec.tick_s:.3g} s", f"time is in {unit}: convert it to seconds")


def _duplicates(run: Run, spec: RobotSpec) -> Iterator[Finding]:
    for i in range(spec.state_dim):
        for j in range(i):
            if np.ptp(run.state[:, i]) > 0 and np.array_equal(run.state[:, i], run.state[:, j]):
                yield refuse("duplicate", run.name, f"'{spec.state_names[j]}' and '{spec.state_names[i]}' hold the same numbers",
                             "give each its own `column` or `joint` in the robot's YAML")


def _fast(run: Run, spec: RobotSpec) -> Iterator[Finding]:
    for i, s in enumerate(spec.state):
        top = float(np.quantile(np.abs(run.state[:, i]), 0.99)) if s.unit == "rad/s" else 0.0
        if top > FAST_RAD_S:
            yield warn("fast", run.name, f"'{s.name}' reaches {top:.4g} rad/s ({top * 30 / math.pi:.0f} revolutions per minute)",
                       "if that is too fast for this robot, angles and rates may both be in degrees")


def _limits(run: Run, spec: RobotSpec) -> Iterator[Finding]:
    for a, c in enumerate(spec.command):
        beyond = (run.command[:, a] < c.limits[0] - 1e-9) | (run.command[:, a] > c.limits[1] + 1e-9)
        if beyond.mean() > BEYOND:
            at = int(np.argmax(beyond))
            yield warn("beyond_limits", run.name, f"command '{c.name}' is beyond its limits {list(c.limits)} in {beyond.mean():.1%} of the "
                       f"samples, first {run.command[at, a]:.4g} {since(run, at)}",
                       "what it came to is not known there: correct the limits, or leave such runs out")


def _speed(runs: Sequence[Run], spec: RobotSpec) -> Iterator[Finding]:
    """A vehicle's speed sensor against its places."""
    if spec.nominal is None or spec.nominal.system != "car":
        return
    scale = speed_by_places(runs, spec)
    if scale is not None:
        yield warn("speed_sensor", ", ".join(r.name for r in runs), f"places change {scale.value:.3g} times ({scale.low:.3g} to "
                   f"{scale.high:.3g}) as fast as the measured speed tells", "look at the speed sensor")


CHECKS = (_gaps, _time_units, pairs, _duplicates, _fast, _limits, sensors)
"""What is looked at in each run by itself."""
