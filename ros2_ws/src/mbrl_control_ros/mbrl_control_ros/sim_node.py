"""Simulated robot node: MuJoCo in real time behind the robot's own topics."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import rclpy
from rclpy.executors import SingleThreadedExecutor
from rclpy.node import Node
from rosgraph_msgs.msg import Clock
from sensor_msgs.msg import JointState

from mbrl_control import robot
from mbrl_control.errors import UserError
from mbrl_control.messages import CommandReader
from mbrl_control.models import mjcf
from mbrl_control.priority import freeze_garbage
from mbrl_control.runtime.cadence import Cadence
from mbrl_control_ros import parameters, qos
from mbrl_control_ros.held_command import HeldCommand
from mbrl_control_ros.interfaces import message_class, to_stamp
from mbrl_control_ros.plant_io import JointStates
from mbrl_control_ros.process import Stop, run
from mbrl_sim.plant import MujocoPlant

_LONGEST_STEP_S = 1e-3
"""A motor obeys when a command comes, not at the next of its simulation's steps, which may be half a control period away."""
_MOST_PERIODS_AT_ONCE = 5
"""After a longer pause simulated time falls behind: catching up would show the controller a robot that leaps."""


class SimNode(Node):
    """The plant, its topics and its change of dynamics."""

    def __init__(self) -> None:
        super().__init__("sim")
        source = parameters.text(self, "robot", "shipped robot or path of a robot YAML")
        self.spec = robot.load(source)
        if self.spec.sim is None:
            raise UserError(f"robot '{self.spec.name}' has no `sim` section, so there is nothing to simulate")
        seed = parameters.integer(self, "seed", 0, "seed of the start state")
        self.duration_s = parameters.number(self, "duration_s", 0.0, "simulated seconds after which the node ends; 0: never")
        self._change = parameters.text(self, "change", "what changes: mass:<body>, damping:<joint> or gear:<actuator>", default="")
        self._change_at_s = parameters.number(self, "change_at_s", 0.0, "simulated time at which it changes; 0: never")
        self._change_factor = parameters.number(self, "change_factor", 2.0, "factor on it", least=1e-3)
        own_clock = parameters.flag(self, "publish_clock", True, "publish simulated time on /clock; one robot per ROS domain should")
        self._use_sim_time = bool(self.get_parameter("use_sim_time").value)
        self.period_s = 1.0 / self.spec.sim.state_hz
        self.sim_time = 0.0
        self.skipped_s = 0.0
        self._plant = MujocoPlant(self.spec, Path(source).parent, _LONGEST_STEP_S)
        step_s = float(self._plant.model.opt.timestep)
        self._steps = mjcf.whole_steps(self.period_s, step_s, "1 / sim.state_hz")
        self._step_s = step_s
        if self._change_at_s > 0.0:
            self._plant.change(self._change, 1.0)  # a wrong name shows now, not in a minute
        self._state = self._plant.reset(np.random.default_rng(seed))
        self._states = JointStates(self.spec)
        self._commands = CommandReader(self.spec)
        self.held = HeldCommand(self.spec.action_zero, self.spec.command_timeout_s, step_s)
        self._state_publishers = {t: self.create_publisher(JointState, t, qos.STREAM) for t in self._states.topics}
        self._clock_publisher = self.create_publisher(Clock, "/clock", qos.STREAM) if own_clock else None
        for topic, kind in self._commands.topics().items():
            self.create_subscription(message_class(kind), topic, self._on_command(topic), qos.NEWEST)

    def _on_command(self, topic: str) -> Callable[[Any], None]:
        def callback(message: Any) -> None:
            fault = self._commands.update(topic, message)
            if fault:
                self.get_logger().warning(f"refused a command on '{topic}': {fault}", throttle_duration_sec=1.0)
            elif self._commands.complete():
                self.held.arrive(time.monotonic(), np.clip(self._commands.values, self.spec.action_low, self.spec.action_high))

        return callback

    def advance(self, periods: int, end: float) -> None:
        """Simulate the periods that have just gone by, each command from when it arrived, and publish the state.

        Args:
            periods: how many.
            end: when the last of them ended, monotonic seconds.
        """
        due = min(periods, _MOST_PERIODS_AT_ONCE)
        self.skipped_s += (periods - due) * self.period_s
        if 0.0 < self._change_at_s <= self.sim_time:
            self._plant.change(self._change, self._change_factor)
            self.get_logger().info(f"{self._change} times {self._change_factor} at {self.sim_time:.2f} s")
            self._change_at_s = 0.0
        timeouts = self.held.timeouts
        for command, steps in self.held.pieces(end - due * self.period_s, due * self._steps):
            self._state = self._plant.step(command, steps * self._step_s)
        if self.held.timeouts > timeouts:
            self.get_logger().warning(f"no command for {1e3 * self.held.silence_s:.1f} ms: `zero` is applied", throttle_duration_sec=0.5)
        self.sim_time += due * self.period_s
        self.publish()

    def publish(self) -> None:
        """Send the present state, and the clock."""
        stamp = to_stamp(self.sim_time) if self._use_sim_time else self.get_clock().now().to_msg()
        for topic, message in self._states.compose(self._state, stamp).items():
            self._state_publishers[topic].publish(message)
        if self._clock_publisher is not None:
            self._clock_publisher.publish(Clock(clock=to_stamp(self.sim_time)))


def _body(stop: Stop) -> None:
    node = SimNode()
    executor = SingleThreadedExecutor()
    executor.add_node(node)
    freeze_garbage()
    cadence = Cadence(node.period_s)
    while not stop and rclpy.ok() and not 0.0 < node.duration_s <= node.sim_time:
        deadline = cadence.wait(executor.spin_once)
        newest = cadence.next - cadence.period
        node.advance(1 + round((newest - deadline) / cadence.period), newest)
    late = cadence.lateness_us()
    node.get_logger().info(
        f"simulated {node.sim_time:.1f} s; {node.held.received} commands, {node.held.timeouts} timeouts; lateness p50 {late['p50']:.0f} "
        f"p99 {late['p99']:.0f} max {late['max']:.0f} us; {cadence.missed} periods missed, {node.skipped_s:.2f} s skipped"
    )
    node.destroy_node()


def main(args: list[str] | None = None) -> None:
    """Entry point."""
    run(_body, args)


if __name__ == "__main__":
    main()
