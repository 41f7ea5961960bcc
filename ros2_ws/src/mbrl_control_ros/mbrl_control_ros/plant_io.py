"""The robot's side of its topics, for a simulated robot: state vectors to JointState, command messages to vectors."""

from __future__ import annotations

import math
import re
from collections.abc import Callable
from typing import Any

import numpy as np
from mbrl_control.errors import UserError
from mbrl_control.robot import CommandSignal, RobotSpec
from sensor_msgs.msg import JointState

_JOINT_STATE = "sensor_msgs/msg/JointState"
_STEP = re.compile(r"(\w+)(?:\[(\d+)\])?$")
_BY_JOINT = {"sensor_msgs/msg/JointState": "name", "trajectory_msgs/msg/JointTrajectory": "joint_names"}


class JointStates:
    """Composes one JointState per state topic.

    Args:
        spec: the robot; all its state signals must come from JointState messages.

    Raises:
        UserError: a signal comes from another type of message.
    """

    def __init__(self, spec: RobotSpec) -> None:
        other = [f"'{s.name}' ({s.type})" for s in spec.state if s.type != _JOINT_STATE or s.joint is None]
        if other:
            raise UserError(f"sim_node publishes {_JOINT_STATE} with joint names only; state signals of {spec.name} that are not: {', '.join(other)}")
        self.topics = tuple(dict.fromkeys(s.topic for s in spec.state))
        self._names = {t: tuple(dict.fromkeys(s.joint for s in spec.state if s.topic == t and s.joint)) for t in self.topics}
        self._places = [(i, s.topic, s.field, self._names[s.topic].index(s.joint or "")) for i, s in enumerate(spec.state)]

    def compose(self, state: np.ndarray, stamp: Any) -> dict[str, JointState]:
        """Topic to message, from a state [S]; a joint's value that no signal carries is NaN."""
        messages = {}
        for topic, names in self._names.items():
            messages[topic] = JointState(name=list(names))
            messages[topic].header.stamp = stamp
            for field in {f for _, t, f, _ in self._places if t == topic}:
                setattr(messages[topic], field, [math.nan] * len(names))
        for i, topic, field, joint in self._places:
            getattr(messages[topic], field)[joint] = float(state[i])
        return messages


class Commands:
    """Keeps the newest command vector out of messages of every command topic.

    Args:
        spec: the robot.
    """

    def __init__(self, spec: RobotSpec) -> None:
        self.topics = {c.topic: c.type for c in spec.command}
        self._signals = spec.command
        self._values = spec.action_zero.copy()

    def read(self, topic: str, message: Any) -> np.ndarray | None:
        """[A] command after this message; None when it is too short, lacks a joint or holds a value that is not finite."""
        values = self._values.copy()
        for i, signal in enumerate(self._signals):
            if signal.topic == topic:
                try:
                    values[i] = _getter(signal)(message)
                except (IndexError, ValueError):
                    return None
        if not np.isfinite(values).all():
            return None
        self._values = values
        return values


def _getter(signal: CommandSignal) -> Callable[[Any], float]:
    if signal.type not in _BY_JOINT:
        return lambda message: _follow(message, signal.field)
    names, field = _BY_JOINT[signal.type], signal.field.rsplit(".", 1)[-1].split("[")[0]

    def by_joint(message: Any) -> float:
        values = getattr(message.points[0] if names == "joint_names" else message, field)
        return float(values[list(getattr(message, names)).index(signal.joint)])

    return by_joint


def _follow(message: Any, path: str) -> float:
    for step in path.split("."):
        match = _STEP.match(step)
        if match is None:
            raise ValueError(f"'{path}' is no path of fields")
        message = getattr(message, match[1])
        if match[2] is not None:
            message = message[int(match[2])]
    return float(message)
