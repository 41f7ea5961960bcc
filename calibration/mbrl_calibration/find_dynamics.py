"""The step of a calibration that finds masses, inertias and friction; of a car, wheelbase and lags."""

from __future__ import annotations

from typing import Any

import numpy as np

from mbrl_calibration import car, dynamics, mechanism, pictures, twin
from mbrl_calibration.dynamics import Identification
from mbrl_calibration.mechanism import Mechanism
from mbrl_calibration.mechanisms import arm
from mbrl_calibration.page import Table
from mbrl_calibration.session import Session, progress
from mbrl_control.errors import UserError

CAR, ARM = "car", "arm"
MATCH = 0.05
"""Sensors of efforts that surely show more or less than is commanded by such a share are told of."""

TOLD = {"nominal": "before", "regression": "regression alone", "shooting": "calibrated"}


def find_dynamics(session: Session, delays: np.ndarray, measured: bool, find_delays: bool, zero: float = 0.0) -> None:
    """Find the parameters of the robot's nominal system.

    Args:
        session: the calibration.
        delays: [A] from command to effect, s.
        measured: drive the model with sensors' efforts where there are any.
        find_delays: whether delays are found with the parameters.
        zero: how far the positions' zeros may be off in each run, rad or m; 0: they are right.

    Raises:
        UserError: the robot is none that it is done for.
    """
    nominal = session.spec.nominal
    if nominal is not None and nominal.system == CAR:
        _without_zeros(zero, "a car")
        _car(session)
        return
    m = mechanism.build(session.spec, session.base)
    if m.count > dynamics.MOST_JOINTS:
        _without_zeros(zero, f"a robot of {m.count} joints")
    if measured and m.actuators and nominal is not None and nominal.measured:
        measured = False
        session.notes.append("nominal.extras asks for terms of the drives: the model is driven by commands, not by what sensors measured")
    bar, tell = progress(session)
    with bar:
        setting = dynamics.Settings(measured, find_delays=find_delays, zero=zero, known=_known(session, m), progress=tell)
        found = dynamics.identify(session.train, session.test, m, delays, setting)
    session.parameters = m.system(dict(zip(m.names, found.values.tolist(), strict=True)))
    if find_delays:
        session.delays = found.delays
    if m.name == ARM:
        session.arm = (arm.read(session.spec, session.base), dict(zip(m.names, found.values.tolist(), strict=True)))
    else:
        session.twin = twin.match(session.spec, m, found.values, session.rng, session.base)
    _tell(session, found)
    if zero > 0:
        _tell_zeros(session, found)


def _without_zeros(zero: float, what: str) -> None:
    if zero > 0:
        raise UserError(f"--zeros {zero:g}: {what} is calibrated without free runs, which alone tell zeros; leave the option out "
                        f"(it is for at most {dynamics.MOST_JOINTS} joints)")


def _tell_zeros(session: Session, found: Identification) -> None:
    """What was added to each run's positions, so that a log's user can correct the sensor."""
    signals = [session.spec.state[i] for i in found.mechanism.positions]
    rows = tuple((run.name, *(f"{value:+.4f}" for value in by)) for run, by in zip(session.train, found.zeros, strict=True))
    session.show(Table("Zeros", ("run", *(f"add to {s.name}, {s.unit}" for s in signals)), rows))
    session.figures["zeros"] = [{"run": run.name, **{s.name: float(value) for s, value in zip(signals, by, strict=True)}}
                                for run, by in zip(session.train, found.zeros, strict=True)]


def _known(session: Session, m: Mechanism) -> tuple[str, ...]:
    given = session.spec.nominal.known if session.spec.nominal else []
    for name in given:
        if name not in m.names:
            raise UserError(f"nominal.known: '{name}' is none of the lumped parameters {', '.join(m.names)}; correct it or leave it out")
    return tuple(given)


def _tell(session: Session, found: Identification) -> None:
    m, e, names = found.mechanism, found.estimate, list(session.spec.state_names)
    low, high = e.interval()
    rows = tuple((p.name, p.meaning, p.unit, f"{e.values[i]:.4g}", f"{max(low[i], p.low):.4g} … {high[i]:.4g}", f"{p.start:.4g}")
                 for i, p in enumerate(m.parameters))
    session.show(Table("Parameters", ("parameter", "which is", "unit", "value", "95 % interval", "before"), rows))
    late = tuple((session.spec.command_names[int(n.removeprefix("delay:"))], f"{1e3 * e.values[i]:.3g}",
                  f"{1e3 * max(low[i], 0):.3g} … {1e3 * high[i]:.3g}") for i, n in enumerate(e.names) if n.startswith("delay:"))
    if late:
        session.show(Table("Delays", ("command", "delay, ms", "95 % interval"), late))
    _tell_sensors(session, found)
    first = next(iter(found.scores.values()))["shooting"]
    horizons, shown = sorted(first.free_run_rmse), first.sensor_rmse is not None
    judged = tuple((TOLD[which], part, f"{s.torque_rmse:.4f}", *([f"{s.sensor_rmse:.4f}"] if shown else []),
                    *(f"{s.free_run_rmse[h]:.4f}" for h in horizons))
                   for part, scores in found.scores.items() for which, s in scores.items())
    session.show(Table("How good", ("parameters", "runs", "effort rmse", *(["sensors' rmse"] if shown else []),
                                    *(f"free run {h:g} s" for h in horizons)), judged))
    session.notes += found.notes
    match = session.twin
    if match is not None and not match.fits:
        session.notes.append(f"the MJCF cannot be made to behave like this by its masses and friction ({100 * match.error:.0f} % of the "
                             "efforts would be wrong): `sim` is left as it was")
    run = max(session.test or session.train, key=lambda r: min(r.duration, pictures.SHOWN_S))  # the first that shows most
    session.pictures |= pictures.of_dynamics(found, run, names)
    session.figures |= _figures(session, found)


def _tell_sensors(session: Session, found: Identification) -> None:
    """What sensors of efforts show of the commands, and whether that is another thing than the command."""
    if not found.sensors:
        return
    signals = [session.spec.command[s.axis] for s in found.sensors]
    rows = tuple((c.name, f"{s.gain:.4g}", f"{s.low:.4g} … {s.high:.4g}", f"{s.offset:+.4f} {c.unit}")
                 for c, s in zip(signals, found.sensors, strict=True))
    session.show(Table("Sensors of efforts", ("command", "they show of it", "95 % interval", "and besides"), rows))
    session.figures["effort_sensors"] = {c.name: {"gain": s.gain, "low": s.low, "high": s.high, "offset": s.offset}
                                         for c, s in zip(signals, found.sensors, strict=True)}
    way = ("the model goes by the sensors, a planner by commands: with --commands both do" if found.measured
           else "the model goes by commands, as a planner does")
    session.notes += [f"the sensor of '{c.name}' shows {s.gain:.3g} times what is commanded ({s.low:.3g} to {s.high:.3g}); {way}"
                      for c, s in zip(signals, found.sensors, strict=True) if s.low > 1 + MATCH or s.high < 1 - MATCH]


def _figures(session: Session, found: Identification) -> dict[str, Any]:
    e, best = found.estimate, (found.scores.get("test") or found.scores["fit"])["shooting"]
    low, high = e.interval()
    scores = {part: {which: {"torque_rmse": s.torque_rmse, "sensor_rmse": s.sensor_rmse, "free_run_rmse": _by_horizon(s.free_run_rmse),
                             "runs": s.runs}
                     for which, s in of.items()} for part, of in found.scores.items()}
    out: dict[str, Any] = {"parameters": {n: {"value": e.values[i], "low": low[i], "high": high[i]} for i, n in enumerate(e.names)},
           "system": session.parameters, "torque_rmse": best.torque_rmse, "sensor_rmse": best.sensor_rmse,
           "free_run_rmse": _by_horizon(best.free_run_rmse), "scores": scores,
           "residual_correlation_s": [w.time_s for w in found.whiteness], "converged": found.converged}
    late = {session.spec.command_names[int(n.removeprefix("delay:"))]: {"value": e.values[i], "low": low[i], "high": high[i]}
            for i, n in enumerate(e.names) if n.startswith("delay:")}
    return out | ({"delay_s": late} if late else {})


def _by_horizon(rmse: dict[float, float]) -> dict[str, float]:
    return {f"{horizon:g}": value for horizon, value in rmse.items()}


def _car(session: Session) -> None:
    found = car.fit(session.train, session.spec)
    rows = tuple((p.name, p.unit, f"{p.value:.4g}", f"{p.low:.4g} … {p.high:.4g}") for p in found.parameters)
    session.show(Table("Parameters", ("parameter", "unit", "value", "95 % interval"), rows))
    axes = (found.speed, found.steering)
    told = tuple((a.name, f"{1e3 * a.delay_s:.3g}" if a.determined else "not determined", f"{1e3 * a.low_s:.3g} … {1e3 * a.high_s:.3g}")
                 for a in axes)
    if "delay_s" not in session.figures:
        session.show(Table("Delays", ("command", "delay, ms", "95 % interval"), told))
    late = [f"delay of '{a.name}': {a.reason}" for a in axes if not a.determined]
    session.notes += [note for note in (*found.notes, *late) if note not in session.notes]
    known = mechanism.equations_of(session.spec).parameters
    session.parameters = {p.name: p.value for p in found.parameters if p.name in known}
    if (together := found.get("L + K v^2")) is not None and known["K"] == 0:
        session.parameters["L"] = together.value
    by_name = {a.name: a.delay_s for a in axes if a.determined}
    session.delays = np.array([by_name.get(n, d) for n, d in zip(session.spec.command_names, session.spec.delays, strict=True)])
    session.figures |= {"parameters": {p.name: {"value": p.value, "low": p.low, "high": p.high} for p in found.parameters},
                        "delay_s": {a.name: {"value": a.delay_s, "low": a.low_s, "high": a.high_s, "determined": a.determined}
                                    for a in axes}}
