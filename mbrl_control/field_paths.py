"""Where a signal's number is in a message: field paths, joints by name, angles of quaternions."""

from __future__ import annotations

import math
import re
from collections.abc import Callable
from dataclasses import dataclass
from operator import attrgetter
from typing import Any

import numpy as np

from mbrl_control.errors import SpecError
from mbrl_control.schema import CommandSignal, StateSignal

JOINT_STATE = "sensor_msgs/msg/JointState"
JOINT_TRAJECTORY = "trajectory_msgs/msg/JointTrajectory"
JOINT_TRAJECTORY_POINT = "trajectory_msgs/msg/JointTrajectoryPoint"
EULER = ("roll", "pitch", "yaw")

# Types whose numbers are found by joint name: field of the names, where the arrays are, singular or plural -> array.
_NAMED: dict[str, tuple[str, str, dict[str, str]]] = {
    JOINT_STATE: ("name", "", {f: f for f in ("position", "velocity", "effort")}),
    JOINT_TRAJECTORY: ("joint_names", "points[0].", {
        "position": "positions", "velocity": "velocities", "acceleration": "accelerations", "effort": "effort",
        "positions": "positions", "velocities": "velocities", "accelerations": "accelerations"}),
}
_STEP = re.compile(r"([A-Za-z]\w*)((?:\[\d+\])*)$")

Signal = StateSignal | CommandSignal
Steps = tuple[str | int, ...]


def parse_path(path: str) -> Steps:
    """`points[0].positions[2]` as ("points", 0, "positions", 2).

    Raises:
        SpecError: not such a path.
    """
    steps: list[str | int] = []
    for part in path.split("."):
        match = _STEP.match(part)
        if not match:
            raise SpecError([f"field path '{path}' is not valid at '{part}'; write it like twist.twist.linear.x or data[2]"])
        steps.append(match[1])
        steps += [int(i) for i in re.findall(r"\[(\d+)\]", match[2])]
    return tuple(steps)


@dataclass(frozen=True)
class Place:
    """Where a signal's number is in a message.

    Attributes:
        array: path of the array that is indexed by joint name; empty when `steps` leads to the number itself.
        names: field that holds the joint names (with `array`).
        joint: the joint (with `array`).
        steps: path to the number (without `array`); a last step of yaw, pitch or roll may mean an angle of the quaternion before it.
    """

    steps: Steps
    array: Steps = ()
    names: str = ""
    joint: str = ""


def place(signal: Signal) -> Place:
    """Where to find a signal in its message.

    Raises:
        SpecError: the field path makes no sense for the type.
    """
    named = _NAMED.get(signal.type)
    field = signal.field
    if named and ("[" not in field and "." not in field):
        names, prefix, arrays = named
        if field not in arrays:
            known = ", ".join(dict.fromkeys(arrays.values()))
            raise SpecError([f"signal '{signal.name}': a {signal.type} has no field '{field}' (known: {known})"])
        if signal.joint is None:
            raise SpecError([f"signal '{signal.name}': `joint` is missing; numbers of a {signal.type} are found by joint name"])
        return Place((), parse_path(prefix + arrays[field]), names, signal.joint)
    return Place(parse_path(field))


def getter(steps: Steps) -> Callable[[Any], Any]:
    """A function that walks a path; plain attributes at the speed of C."""
    if all(isinstance(s, str) for s in steps):
        return attrgetter(".".join(str(s) for s in steps))
    walk = [attrgetter(s) if isinstance(s, str) else (lambda item, i=s: item[i]) for s in steps]

    def get(message: Any) -> Any:
        for step in walk:
            message = step(message)
        return message

    return get


def quaternion_angle(kind: str, x: Any, y: Any, z: Any, w: Any) -> Any:
    """Roll, pitch or yaw (about fixed x, y, z axes; rad) of a quaternion of any length but 0; numbers or equal arrays."""
    n = x * x + y * y + z * z + w * w
    if kind == "roll":
        return np.arctan2(2 * (w * x + y * z), n - 2 * (x * x + y * y))
    if kind == "pitch":
        with np.errstate(invalid="ignore", divide="ignore"):
            return np.arcsin(np.clip(2 * (w * y - z * x) / n, -1, 1))
    return np.arctan2(2 * (w * z + x * y), n - 2 * (y * y + z * z))


def euler_getter(steps: Steps, kind: str) -> Callable[[Any], Any]:
    """A function that gives an angle of the quaternion that a path leads to but for its last step, `kind`; or a field of that name."""
    parent, own = getter(steps[:-1]), getter(steps)

    def get(message: Any) -> float:
        q = parent(message)
        if not hasattr(q, "w"):
            return float(own(message))
        if q.x * q.x + q.y * q.y + q.z * q.z + q.w * q.w < 1e-6:
            return math.nan
        return float(quaternion_angle(kind, q.x, q.y, q.z, q.w))

    return get


def stamp_ns(message: Any) -> int | None:
    """Header stamp in ns; None when there is no header or its stamp is zero, which means that nobody filled it."""
    header = getattr(message, "header", None)
    if header is None:
        return None
    return (int(header.stamp.sec) * 10**9 + int(header.stamp.nanosec)) or None
