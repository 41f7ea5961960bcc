"""State topics to the state vector: read by name, judged by the input watch, and only then taken over."""

from __future__ import annotations

from typing import Any

import numpy as np

from mbrl_control.messages import StateReader, stamp_ns
from mbrl_control.refusal import Refusal
from mbrl_control.robot import RobotSpec
from mbrl_control.runtime.inputs import InputWatch


class StateInput:
    """The state as far as it can be believed.

    Args:
        spec: the robot.
        sim_time: ROS time is that of a simulator.
        use_stamps: age by header stamp too; false: by arrival alone.

    Attributes:
        watch: which faults there are.
    """

    def __init__(self, spec: RobotSpec, sim_time: bool = False, use_stamps: bool = True) -> None:
        self._reader = StateReader(spec)
        self._use_stamps = use_stamps
        self.watch = InputWatch(spec, sim_time)

    def topics(self) -> dict[str, str]:
        """Message type by topic, as the spec names them."""
        return self._reader.topics()

    @property
    def values(self) -> np.ndarray:
        """[S] the state; NaN until seen."""
        return self._reader.values

    def complete(self) -> bool:
        """Every signal was seen at least once."""
        return self._reader.complete()

    def take(self, topic: str, message: Any, ros_ns: int, now_s: float) -> Refusal | None:
        """Take over a message, whole or not at all.

        Args:
            topic: as the spec names it.
            message: with attribute access.
            ros_ns: ROS time of its receipt.
            now_s: the same instant on the monotonic clock.

        Returns:
            None, or why it was refused.
        """
        self.watch.clock(ros_ns, now_s)
        refusal = self._reader.read(topic, message)
        if refusal is not None:
            self.watch.refused(topic, refusal.code, now_s)
            return refusal
        stamp = stamp_ns(message) if self._use_stamps else None
        refusal = self.watch.took(topic, stamp, now_s, self._reader.read_values(topic))
        if refusal is None:
            self._reader.accept(topic, stamp or ros_ns)
        return refusal
