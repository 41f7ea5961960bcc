"""State vectors to JointState: the robot's side of its state topics, for a simulated robot."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
from sensor_msgs.msg import JointState

from mbrl_control.errors import UserError
from mbrl_control.messages import JOINT_STATE
from mbrl_control.robot import RobotSpec


class JointStates:
    """Composes one JointState per state topic.

    Args:
        spec: the robot; all its state signals must come from JointState messages.

    Raises:
        UserError: a signal comes from another type of message.
    """

    def __init__(self, spec: RobotSpec) -> None:
        other = [f"'{s.name}' ({s.type})" for s in spec.state if s.type != JOINT_STATE or s.joint is None]
        if other:
            raise UserError(f"sim_node publishes {JOINT_STATE} with joint names only; robot '{spec.name}' also has {', '.join(other)}")
        self.topics = tuple(dict.fromkeys(s.topic for s in spec.state))
        self._names = {t: list(dict.fromkeys(s.joint for s in spec.state if s.topic == t and s.joint)) for t in self.topics}
        self._fields = {t: sorted({s.field for s in spec.state if s.topic == t}) for t in self.topics}
        self._places = [(s.topic, s.field, self._names[s.topic].index(s.joint or "")) for s in spec.state]

    def compose(self, state: np.ndarray, stamp: Any) -> dict[str, JointState]:
        """Topic to message, from a state [S]; a joint's value that no signal carries is NaN."""
        values = {(t, f): [math.nan] * len(self._names[t]) for t in self.topics for f in self._fields[t]}
        for number, (topic, field, joint) in zip(state, self._places, strict=True):
            values[topic, field][joint] = float(number)
        messages = {}
        for topic in self.topics:
            messages[topic] = JointState(name=self._names[topic], **{f: values[topic, f] for f in self._fields[topic]})
            messages[topic].header.stamp = stamp
        return messages
