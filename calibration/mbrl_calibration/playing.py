"""Plays designed commands on a plant through the real safety filter, and stops at once where the robot may not be."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np

from mbrl_control.robot import RobotSpec, wrap_angle
from mbrl_control.runtime.course import Course, Region
from mbrl_control.runtime.safety import SafetyFilter

STOPPING_S = 1.0
"""The safe action is played for so long after a stop, and recorded."""


class Plant(Protocol):
    """What is played on."""

    def place(self, state: np.ndarray) -> np.ndarray:
        """To an exact state [S]; gives it."""
        ...

    def state(self) -> np.ndarray:
        """[S] now."""
        ...

    def step(self, command: np.ndarray, dt: float) -> np.ndarray:
        """Hold a command [A] for dt seconds; gives the state [S]."""
        ...


def region(spec: RobotSpec, plant: Any = None) -> Region:
    """Where a robot may be: within `limits` less their margin, `range` and `bounds`, and short of the stops of its MJCF.

    Args:
        spec: the robot.
        plant: where it has a `model` and a `map` (as `mbrl_sim.plant.MujocoPlant`), the joints' ranges count too.
    """
    low = np.maximum.reduce([spec.limit_low, spec.range_low, spec.state_low])
    high = np.minimum.reduce([spec.limit_high, spec.range_high, spec.state_high])
    if (model := getattr(plant, "model", None)) is not None:
        for j in np.flatnonzero(model.jnt_limited):
            for i in np.flatnonzero(plant.map.address == model.jnt_qposadr[j]):
                low[i], high[i] = max(low[i], model.jnt_range[j, 0]), min(high[i], model.jnt_range[j, 1])
    return Region(low, high, spec.wraps)


@dataclass(frozen=True)
class Stop:
    """Why playing ended early: seconds from its start, the signal, its value and where it may be."""

    time: float
    signal: str
    value: float
    low: float
    high: float

    @property
    def sentence(self) -> str:
        """For people."""
        return f"stopped at {self.time:.2f} s: '{self.signal}' = {self.value:.4g} is outside [{self.low:.4g}, {self.high:.4g}]"


@dataclass(frozen=True)
class Played:
    """What was played.

    Attributes:
        time: [T] s.
        state: [T, S] at those times.
        command: [T, A] sent then, after the safety filter.
        wanted: [T, A] before it.
        replaced: ticks at which the filter's look ahead put the safe action in place of the command.
        stop: why it ended early; None: it did not.
    """

    time: np.ndarray
    state: np.ndarray
    command: np.ndarray
    wanted: np.ndarray
    replaced: int
    stop: Stop | None

    @property
    def limited(self) -> float:
        """Share of the ticks at which the filter changed a command."""
        return float((self.command != self.wanted).any(axis=1).mean()) if len(self.time) else 0.0


def _stop(spec: RobotSpec, time: float, state: np.ndarray, where: Region) -> Stop:
    worst = int(np.argmax(where.used(state)))
    value = wrap_angle(state[worst]) if spec.wraps[worst] else state[worst]
    return Stop(time, spec.state_names[worst], float(value), float(where.low[worst]), float(where.high[worst]))


def play(spec: RobotSpec, plant: Plant, course: Course, safety: SafetyFilter, where: Region,
         watch: Callable[[int], None] | None = None) -> Played:
    """Play a course from the plant's present state; after a stop, the safe action for `STOPPING_S`.

    Args:
        spec: the robot.
        plant: what it is played on.
        course: what is played.
        safety: the robot's filter; every command goes through it.
        where: the robot may be; else it is stopped.
        watch: called with the number of each tick.
    """
    rows: list[tuple[np.ndarray, np.ndarray, np.ndarray]] = []
    last, state, stop, replaced, end = spec.action_zero, plant.state(), None, 0, len(course.command)
    safety.begin(last)
    k = 0
    while k < end:
        if stop is None and (where.used(state) > 1).any():
            stop = _stop(spec, k * spec.tick_s, state, where)
            end = k + math.ceil(STOPPING_S * spec.rate_hz)
        wanted = course.wanted(k, state, spec.wraps) if stop is None else safety.policy.command(state, last, spec.tick_s)
        passed = safety.apply(wanted, last, state, spec.tick_s)
        replaced += bool(passed.faults)
        last = passed.command
        rows.append((state, last, wanted))
        state = plant.step(last, spec.tick_s)
        if watch is not None:
            watch(k)
        k += 1
    states, commands, asked = (np.array([row[i] for row in rows]) for i in range(3))
    return Played(spec.tick_s * np.arange(len(rows)), states, commands, asked, replaced, stop)
