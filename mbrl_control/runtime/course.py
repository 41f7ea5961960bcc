"""A course: designed commands over time, played instead of plans, and where the robot may be meanwhile. NumPy only."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from safetensors import SafetensorError
from safetensors.numpy import load, save_file

from mbrl_control.errors import UserError
from mbrl_control.files import read_plain
from mbrl_control.robot import RobotSpec, wrap_angle

NO_FAULTS: frozenset[str] = frozenset()
OVER, LEFT = frozenset({"course_over"}), frozenset({"course_left"})
ENDS = ("low", "high")
"""Arrays that may be infinite."""

MAX_BYTES = 256 * 2**20


@dataclass(frozen=True)
class Course:
    """Commands over time, with feedback that keeps the robot near a reference: command + gain (reference - state).

    Attributes:
        command: [T, A] one a tick.
        reference: [T, S].
        gain: [A, S]; 0 in an open loop.
    """

    command: np.ndarray
    reference: np.ndarray
    gain: np.ndarray

    @property
    def closed(self) -> bool:
        """Whether there is feedback."""
        return bool(self.gain.any())

    def wanted(self, tick: int, state: np.ndarray, wraps: np.ndarray) -> np.ndarray:
        """[A] for a state [S]; angles that wrap [S] are compared around the circle."""
        gap = self.reference[tick] - state
        return np.asarray(self.command[tick] + self.gain @ np.where(wraps, wrap_angle(gap), gap))


@dataclass(frozen=True)
class Region:
    """Where the state may be: [S] lower and upper ends, infinite where there is none; angles that wrap within [-pi, pi)."""

    low: np.ndarray
    high: np.ndarray
    wraps: np.ndarray

    @property
    def bounded(self) -> bool:
        """Whether there is any end."""
        return bool(np.isfinite(self.low).any())

    @property
    def box(self) -> tuple[np.ndarray, np.ndarray]:
        """[S] middle and [S] half width; 0 and infinite where there is no end."""
        ends = np.isfinite(self.low)
        low, high = np.where(ends, self.low, 0.0), np.where(ends, self.high, 0.0)
        return (low + high) / 2, np.where(ends, (high - low) / 2, np.inf)

    def used(self, state: np.ndarray) -> np.ndarray:
        """[..., S] share of the way from the middle to the end that a state [..., S] is at; 0 where there is no end."""
        middle, half = self.box
        return np.asarray(np.abs(np.where(self.wraps, wrap_angle(state), state) - middle) / half)


def write(path: Path, spec: RobotSpec, course: Course, where: Region) -> None:
    """Write a course for another process.

    Args:
        path: of the file.
        spec: the robot that it was designed for.
        course: what is to be played.
        where: the robot may be meanwhile.
    """
    arrays = {"command": course.command, "reference": course.reference, "gain": course.gain, "low": where.low, "high": where.high}
    about = np.frombuffer(_about(spec), np.uint8)
    save_file({"about": about} | {name: np.ascontiguousarray(array, dtype=np.float64) for name, array in arrays.items()}, path)


def _about(spec: RobotSpec) -> bytes:
    """What a course depends on."""
    return json.dumps({"signals": [*spec.state_names, *spec.command_names], "rate_hz": spec.rate_hz}).encode()


def read(path: Path, spec: RobotSpec) -> tuple[Course, Region]:
    """A course and where the robot may be meanwhile.

    Raises:
        UserError: it cannot be read, or is of another robot or rate.
    """
    try:
        given = load(read_plain(path, MAX_BYTES, "course"))
    except (OSError, SafetensorError, ValueError) as error:
        raise UserError(f"{path}: cannot be read as a course ({error}); `mbrl excite` writes them") from error
    if "about" not in given or given["about"].tobytes() != _about(spec):
        raise UserError(f"{path}: was designed for other signals or another rate than those of '{spec.name}' at {spec.rate_hz:g} Hz; "
                        "design it anew with `mbrl excite`")
    ticks, s, a = len(given.get("command", ())), spec.state_dim, spec.action_dim
    shapes = {"command": (ticks, a), "reference": (ticks, s), "gain": (a, s), "low": (s,), "high": (s,)}
    wrong = [name for name, shape in shapes.items() if name not in given or given[name].shape != shape or given[name].dtype != np.float64
             or np.isnan(given[name]).any() or (name not in ENDS and np.isinf(given[name]).any())]
    if wrong or not ticks:
        raise UserError(f"{path}: array '{(wrong or ['command'])[0]}' is missing, of another shape or not finite; design it anew with "
                        "`mbrl excite`")
    return Course(given["command"], given["reference"], given["gain"]), Region(given["low"], given["high"], spec.wraps)


class Player:
    """Plays a course, a tick at a time. What ended it stays: nothing begins again in the middle of a motion.

    Args:
        course: what is played.
        where: the robot may be; when it leaves, the course is left.

    Attributes:
        faults: why it has ended; none while it goes on.
    """

    def __init__(self, course: Course, where: Region) -> None:
        self.course, self.where = course, where
        self.begin()

    def begin(self) -> None:
        """From the start."""
        self._tick, self.faults = 0, NO_FAULTS

    def next(self, state: np.ndarray) -> np.ndarray | None:
        """[A] the command of this tick in a state [S]; None from its end on."""
        if not self.faults and (self.where.used(state) > 1).any():
            self.faults = LEFT
        if not self.faults and self._tick >= len(self.course.command):
            self.faults = OVER
        if self.faults:
            return None
        self._tick += 1
        return self.course.wanted(self._tick - 1, state, self.where.wraps)

    def stop(self) -> None:
        """Something else went wrong: it is over."""
        self.faults = self.faults or OVER
