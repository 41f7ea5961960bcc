"""Robots and runs whose truth is known."""

from __future__ import annotations

import numpy as np

from mbrl_calibration import mechanism
from mbrl_calibration.mechanism import Mechanism
from mbrl_calibration.runs import Run
from mbrl_control import robot
from mbrl_control.data.sequences import effective_action
from mbrl_control.robot import RobotSpec


def pendulum_spec(**changes: object) -> RobotSpec:
    """The shipped pendulum with some damping to be found."""
    data = robot.load("pendulum").model_dump(exclude_unset=True)
    nominal = {"system": "pendulum", "parameters": {"b": 0.05, "cf": 0.02, "offset": 0.01}}
    return RobotSpec.model_validate({**data, "nominal": nominal, **changes})


def multisine(seconds: float, rate_hz: float, amplitudes: list[float], rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    """Times [T] and commands [T, A]: sums of ten sines of 0.2 to 2 Hz."""
    time = np.arange(round(seconds * rate_hz)) / rate_hz
    phases = rng.uniform(0, 2 * np.pi, (10, len(amplitudes)))
    waves = np.sin(2 * np.pi * 0.2 * np.arange(1, 11)[:, None] * time[:, None, None] + phases).sum(1)
    return time, waves / np.abs(waves).max(0) * np.array(amplitudes)


def simulate(m: Mechanism, values: np.ndarray, time: np.ndarray, command: np.ndarray, delays: np.ndarray, start: np.ndarray,
             fine: int = 8) -> np.ndarray:
    """[T, 2 n] states (q, v) by Runge-Kutta steps, each under the exact mean of the command in force."""
    period = float(time[1] - time[0])
    one = mechanism.step(m, command.shape[1], period / fine, 1)
    before = np.concatenate(([time[0] - 1.0], time)), np.vstack((np.zeros((1, command.shape[1])), command))
    given = effective_action(*before, time[0] + period / fine * np.arange(len(time) * fine), period / fine, delays)
    x, out = start, np.empty((len(time), len(start)))
    for k in range(len(time)):
        out[k] = x
        for j in range(fine):
            x = np.asarray(one(x, given[k * fine + j], values)).ravel()
    return out


def run_of(m: Mechanism, time: np.ndarray, states: np.ndarray, command: np.ndarray, noise: np.ndarray, rng: np.random.Generator,
           name: str = "synthetic") -> Run:
    """A run as sensors with white noise [2 n] would log it."""
    measured = np.empty_like(states)
    measured[:, np.concatenate((m.positions, m.rates))] = states + noise * rng.standard_normal(states.shape)
    return Run(name, time, measured, command, np.full(command.shape, np.nan))
