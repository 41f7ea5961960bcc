"""Where the zeros of a run's positions are: what must be added to them for the known equations to hold.

A joint whose zero is set where it hangs at rest hangs anywhere that dry friction holds it against gravity.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import casadi as ca
import numpy as np

from mbrl_calibration import regression, segments, shooting
from mbrl_calibration.mechanism import Mechanism
from mbrl_calibration.runs import Run

STEP_S, SUBSTEPS, SEGMENT_S = 0.01, 8, 2.0
FIRST_S = 2.0
"""So much of a run that nothing was fitted to tells its zeros; the rest is judged."""

SEARCH_STEPS = 5
SURE = 0.01
"""Means of efforts are not known better than to this share of their root mean square."""


def moved(run: Run, m: Mechanism, by: np.ndarray) -> Run:
    """A run with [n] `by` added to its positions."""
    state = run.state.copy()
    state[:, m.positions] += by
    return replace(run, state=state)


def find(run: Run, m: Mechanism, values: np.ndarray, delays: np.ndarray, measured: bool, spread: float) -> np.ndarray:
    """[n] what must be added to the positions of a run, with the parameters as they are, rad or m.

    Args:
        run: the data; a second or two are enough where gravity is felt.
        m: the mechanism.
        values: [P] its parameters.
        delays: [A] time from command to effect, s.
        measured: drive with sensors' efforts where there are any.
        spread: how great it is thought to be, one standard deviation of a normal distribution.

    Raises:
        DataError: the run is too short.
    """
    step_s = run.period * max(1, round(STEP_S / run.period))
    length = min(SEGMENT_S, run.duration - float(np.max(delays, initial=0.0)) - 4 * step_s)
    setting = segments.Settings(length, 1, step_s, SUBSTEPS, known=m.names, zero=spread)
    found: np.ndarray = shooting.fit(segments.cut([run], m, delays, measured, setting), m, values, setting).zeros[0]
    return found


def settled(run: Run, m: Mechanism, values: np.ndarray, delays: np.ndarray, measured: bool, spread: float, first_s: float = FIRST_S) -> Run:
    """What follows the first seconds of a run, with its zeros as these tell them; see `find`. The whole run as it is where it is too short.

    Raises:
        DataError: the first seconds are too short.
    """
    if run.duration < 2 * first_s:
        return run
    by = find(run.cut(0.0, first_s), m, values, delays, measured, spread)
    return moved(run.cut(first_s, run.duration), m, by)


def mean_efforts(runs: Sequence[Run], m: Mechanism, values: np.ndarray, delays: np.ndarray, measured: bool) -> np.ndarray:
    """[n] how far from zero runs' mean efforts are: root mean square over runs, N or N m.

    Args:
        runs: at least one.
        m: the mechanism.
        values: [P] its parameters, of which those of the drives count.
        delays, measured: see `find`.

    Raises:
        DataError: a run is too short.
    """
    acting = _applied(m, values, runs[0].command.shape[1])
    efforts = [np.asarray(acting(regression.motion(run, m, delays, measured).u.T)) for run in runs]
    least = SURE * np.sqrt(np.mean(np.concatenate(efforts, axis=1) ** 2))
    return np.asarray(np.maximum(least, np.sqrt(np.mean([e.mean(1) ** 2 for e in efforts], axis=0))))


def by_motion(run: Run, m: Mechanism, values: np.ndarray, spread: float, mean: np.ndarray) -> np.ndarray:
    """[n] what must be added to the positions of a run, told by its motion alone, rad or m: nothing is asked about its efforts.

    An excitation about rest has no mean. With a wrong zero gravity seems to call for one.

    Args:
        run: the data.
        m: the mechanism.
        values: [P] its parameters.
        spread: how great it is thought to be, one standard deviation of a normal distribution.
        mean: [n] how far from zero the mean effort is thought to be, the same, N or N m.

    Raises:
        DataError: the run is too short.
    """
    did, needed = regression.motion(run, m, np.zeros(run.command.shape[1]), False), _needed(m, values, run.command.shape[1])
    found = np.zeros(m.count)
    for _ in range(SEARCH_STEPS):
        efforts, slopes = needed.map(len(did.q))((did.q + found).T, did.v.T, did.a.T)
        slope = np.asarray(slopes).reshape(m.count, -1, m.count).mean(1)
        weighed, left = slope.T / mean**2, np.asarray(efforts).mean(1)
        found = found - np.linalg.solve(weighed @ slope + np.eye(m.count) / spread**2, weighed @ left + found / spread**2)
    return found


def _applied(m: Mechanism, values: np.ndarray, commands: int) -> Any:
    """CasADi function of commands [A] to the efforts [n] that they bring beside what acts without them."""
    u, p = ca.SX.sym("u", commands), m.named(ca.DM(values))
    return ca.Function("applied", [u], [m.applied(u, p) - m.applied(ca.DM.zeros(commands), p)])


def _needed(m: Mechanism, values: np.ndarray, commands: int) -> Any:
    """CasADi function (q, v, a) to the efforts [n] that commands must bring, and their slope [n, n] in the positions."""
    q, v, a = (ca.SX.sym(name, m.count) for name in "qva")
    p = m.named(ca.DM(values))
    effort = m.effort(q, v, a, p) - m.applied(ca.DM.zeros(commands), p)
    return ca.Function("needed", [q, v, a], [effort, ca.jacobian(effort, q)])
