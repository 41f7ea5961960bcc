"""Controller node (lifecycle): states in, one command each period out. One thread; what to send is decided by the library."""

from __future__ import annotations

import gc
import json
import os
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import rclpy
from builtin_interfaces.msg import Time
from diagnostic_msgs.msg import DiagnosticArray
from rclpy.duration import Duration
from rclpy.executors import SingleThreadedExecutor
from rclpy.lifecycle import LifecycleNode, LifecycleState, TransitionCallbackReturn
from rclpy.publisher import Publisher
from sensor_msgs.msg import JointState
from std_msgs.msg import Float64MultiArray

from mbrl_control import robot
from mbrl_control.errors import UserError
from mbrl_control.messages import DECISION_TOPIC, STAMPED_COMMAND_TOPIC, CommandWriter, StateReader
from mbrl_control.priority import cores_for, freeze_garbage, pin, real_time
from mbrl_control.robot import RobotSpec
from mbrl_control.runtime.cadence import Cadence
from mbrl_control.runtime.controller import Controller, Decision
from mbrl_control.runtime.fit_check import assess_in_child
from mbrl_control.runtime.process_link import ProcessLink
from mbrl_control.runtime.wind_down import wind_down
from mbrl_control_ros import parameters, qos
from mbrl_control_ros.diagnostics import Figures
from mbrl_control_ros.interfaces import PLAN_TOPIC, message_class
from mbrl_control_ros.process import Stop, run

REPORT_S = 1.0
DECISION_NAMES = [*Decision.NAMES, "time_s", "lateness_us"]


class Loop:
    """What exists between configure and cleanup: the core, its planner's process, subscriptions and publishers.

    Args:
        node: that owns the topics.
        source: name or path of the robot's YAML.
        run_dir: folder of the run.
        store: folder of the model store.
    """

    def __init__(self, node: ControllerNode, source: str, run_dir: Path, store: Path) -> None:
        self.node = node
        self.spec: RobotSpec = robot.load(source)
        self._reader = StateReader(self.spec)
        self._writer = CommandWriter(self.spec, lambda kind: message_class(kind)())
        states = {topic: message_class(kind) for topic, kind in self._reader.topics().items()}
        self._received: dict[str, float] = {}
        self._sent_plan: Any = None
        self._run_dir = run_dir
        self.figures = Figures(self.spec, node.get_name())
        logs = run_dir / "logs"
        logs.mkdir(parents=True, exist_ok=True)
        self.link = ProcessLink(source, self.spec, store, node.seed, logs / "planner.log", iterations_fixed=not node.anytime)
        self.core = Controller(self.spec, self.link, node.seed)
        self.cadence = Cadence(self.spec.tick_s)
        self._subscriptions = [node.create_subscription(kind, topic, self._on_state(topic), qos.NEWEST) for topic, kind in states.items()]
        self._commands = {t: node.create_publisher(message_class(k), t, qos.COMMAND) for t, k in self._writer.topics().items()}
        self._stamped = node.create_publisher(JointState, STAMPED_COMMAND_TOPIC, qos.STREAM)
        self._decisions = node.create_publisher(JointState, DECISION_TOPIC, qos.STREAM)
        self._plans = node.create_publisher(Float64MultiArray, PLAN_TOPIC, qos.STREAM)
        self._command_names = list(self.spec.command_names)
        self.link.start()

    def begin(self) -> None:
        """Forget what is from before: a plan made then, states and commands; deadlines count from now."""
        self.link.receive(time.monotonic())
        self.core.new_episode()
        self.core.reused = 0
        self.cadence = Cadence(self.spec.tick_s)

    def save_figures(self) -> None:
        """Leave the figures since activation in `controller.json` of the run's folder."""
        late, cadence = self.cadence.lateness_us(), self.cadence
        figures = {"rate_hz": self.spec.rate_hz, "ticks": cadence.ticks, "missed": cadence.missed, "missed_at": cadence.missed_at,
                   "lateness_us": late}
        partial = self._run_dir / "controller.json.partial"
        more = {"planner_restarts": self.link.restarts, "plans_reused": self.core.reused}
        partial.write_text(json.dumps({"cadence": figures, **more}) + "\n", "utf-8")
        partial.replace(self._run_dir / "controller.json")

    def close(self) -> None:
        """End the planner's process and give up the topics."""
        self.link.stop()
        for subscription in self._subscriptions:
            self.node.destroy_subscription(subscription)
        for publisher in self._all_publishers():
            self.node.destroy_publisher(publisher)

    def _all_publishers(self) -> list[Publisher[Any]]:
        return [*self._commands.values(), self._stamped, self._decisions, self._plans]

    def _on_state(self, topic: str) -> Callable[[Any], None]:
        def callback(message: Any) -> None:
            ros_now = self.node.get_clock().now().nanoseconds
            fault = self._reader.update(topic, message, ros_now)
            if fault:
                self.figures.reject(fault)
                self.node.get_logger().warning(f"refused a state on '{topic}': {fault}", throttle_duration_sec=1.0)
                return
            now = time.monotonic()
            self._received[topic] = now
            if self._reader.complete():
                measured = now - max(0, ros_now - self._reader.oldest_ns()) * 1e-9 if self.node.use_stamps else min(self._received.values())
                self.core.on_state(measured, self._reader.values.copy())

        return callback

    def tick(self, idle: Callable[[float], None]) -> None:
        """Serve callbacks until the next deadline, then decide and send the command of the period that begins, and tell about it."""
        missed_before = self.cadence.missed
        lateness_s = -self.cadence.wait(idle) + time.monotonic()
        if not self.node.active:
            return
        # The newest deadline gone by, so that time stays on the grid that plans are made for.
        now = self.cadence.next - self.cadence.period
        decision = self.core.tick(now)
        stamp = self.send(decision.command)
        message = JointState(name=DECISION_NAMES, position=[*decision.numbers(), now, 1e6 * lateness_s])
        message.header.stamp = stamp
        self._decisions.publish(message)
        if self.link.last_vector is not self._sent_plan:
            self._sent_plan = self.link.last_vector
            self._plans.publish(Float64MultiArray(data=self._sent_plan.tolist()))
        self.figures.tick(decision, lateness_s, self.cadence.missed - missed_before)

    def send(self, command: np.ndarray) -> Time:
        """Publish a command [A] on the robot's topics, and its stamped twin. Returns the stamp."""
        now = self.node.get_clock().now()
        for topic, message in self._writer.messages(command, now.nanoseconds):
            self._commands[topic].publish(message)
        twin = JointState(name=self._command_names, position=command.tolist())
        twin.header.stamp = stamp = now.to_msg()
        self._stamped.publish(twin)
        return stamp

    def wind_down(self) -> None:
        """Bring the robot to rest, one command a period, and see that the last one has left."""
        for command in wind_down(self.spec, self.core.last):
            self.send(command)
            self.core.last = command  # what the next activation starts from
            time.sleep(self.spec.tick_s)
        for publisher in self._commands.values():
            publisher.wait_for_all_acked(Duration(seconds=0.2))


class ControllerNode(LifecycleNode):
    """Nothing is sent before activation; deactivation, shutdown and errors end with a command at rest."""

    def __init__(self) -> None:
        super().__init__("controller")
        self.source = parameters.text(self, "robot", "shipped robot or path of a robot YAML", default="")
        self.run_dir = parameters.text(self, "run_dir", "folder of this run", default="")
        self.store_dir = parameters.text(self, "store_dir", "folder of model snapshots; by default 'store' in run_dir", default="")
        self.seed = parameters.integer(self, "seed", 0, "seed of excitation and planner")
        self.anytime = parameters.flag(self, "anytime", True, "planner ends early when its time is up; false: always all iterations")
        self.check_fit = parameters.flag(self, "check_fit", True, "configure fails when the planner cannot keep its rate on this machine")
        self.use_stamps = parameters.flag(self, "use_stamps", True, "age of a state from its header stamp; false: from its receipt")
        self.autostart = parameters.flag(self, "autostart", False, "configure at once, and activate with the first state")
        self._priority = parameters.integer(self, "realtime_priority", 40, "SCHED_FIFO priority of the tick; 0: leave as it is")
        self._cores = sorted(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else []
        self._diagnostics = self.create_publisher(DiagnosticArray, "/diagnostics", qos.STREAM)
        self.loop: Loop | None = None
        self.active = False

    def on_configure(self, state: LifecycleState) -> TransitionCallbackReturn:
        """Read the robot, time its planner and start the planner's process; FAILURE with the reason in the log."""
        missing = [name for name, value in (("robot", self.source), ("run_dir", self.run_dir)) if not value]
        try:
            if missing:
                raise UserError(f"parameter '{missing[0]}' is not set; set it with -p {missing[0]}:=... or in a parameter file under "
                                "'/**/controller'")
            self._check_planner()
            run_dir = Path(self.run_dir)
            self.loop = Loop(self, self.source, run_dir, Path(self.store_dir) if self.store_dir else run_dir / "store")
        except (UserError, OSError) as error:
            self.get_logger().error(f"cannot configure: {error}")
            return TransitionCallbackReturn.FAILURE
        self.get_logger().info(f"configured for {self.loop.spec.name} at {self.loop.spec.rate_hz:g} Hz")
        return super().on_configure(state)

    def _check_planner(self) -> None:
        """What the planner cannot do on this machine is told now, not found out while active."""
        robot.load(self.source)
        if self.check_fit and (warning := assess_in_child(self.source).demand(self.anytime)):
            self.get_logger().warning(warning)

    def on_activate(self, state: LifecycleState) -> TransitionCallbackReturn:
        """Begin to send commands, from the next period on."""
        assert self.loop is not None
        freeze_garbage()  # before the priority is raised: it takes long enough to disturb another robot's tick
        refused = [pin(cores_for("tick")), *(real_time(self._priority) if self._priority else [])]
        for sentence in filter(None, refused):
            self.get_logger().warning(sentence)
        self.loop.begin()  # last: the steps before take tens of milliseconds
        self.active = True
        return super().on_activate(state)

    def on_deactivate(self, state: LifecycleState) -> TransitionCallbackReturn:
        """Bring the robot to rest and stop sending."""
        self.rest()
        return super().on_deactivate(state)

    def on_cleanup(self, state: LifecycleState) -> TransitionCallbackReturn:
        """End the planner's process."""
        self._close()
        return super().on_cleanup(state)

    def on_shutdown(self, state: LifecycleState) -> TransitionCallbackReturn:
        """Bring the robot to rest and end the planner's process."""
        self._close()
        return super().on_shutdown(state)

    def on_error(self, state: LifecycleState) -> TransitionCallbackReturn:
        """As shutdown; the node can be configured again."""
        self._close()
        return super().on_error(state)

    def rest(self) -> None:
        """If active, bring the robot to rest and stop sending."""
        if self.active and self.loop is not None:
            self.active = False
            self.loop.wind_down()
            self.loop.save_figures()
            gc.enable()
            gc.unfreeze()
            pin(self._cores)

    def _close(self) -> None:
        self.rest()
        if self.loop is not None:
            self.loop.close()
            self.loop = None

    def report(self) -> None:
        """What is done once a second: diagnostics, a look after the planner's process, and garbage in small portions."""
        if self.loop is not None:
            running = self.loop.link.check()
            stamp = self.get_clock().now().to_msg()
            self._diagnostics.publish(self.loop.figures.report(time.monotonic(), stamp, running, self.loop.link.restarts))
            if self.active:
                gc.collect()

    def finish(self) -> None:
        """Orderly end of the process, whatever state it is in."""
        self._close()
        self.destroy_node()


def _await_state(node: ControllerNode, executor: SingleThreadedExecutor, stop: Stop) -> None:
    """Wait for the robot's first state: until then there is nothing to decide, and a robot at rest teaches nothing."""
    while not stop and rclpy.ok() and node.loop is not None and node.loop.core.state is None:
        executor.spin_once(timeout_sec=0.05)
        node.get_logger().info("waiting for the robot's first state", throttle_duration_sec=5.0)


def _spin(node: ControllerNode, stop: Stop) -> None:
    executor = SingleThreadedExecutor()
    executor.add_node(node)
    if node.autostart and node.trigger_configure() == TransitionCallbackReturn.SUCCESS:
        _await_state(node, executor, stop)
        node.trigger_activate()
    report_at = time.monotonic()
    while not stop and rclpy.ok():
        if node.active and node.loop is not None:
            node.loop.tick(executor.spin_once)
        else:
            executor.spin_once(timeout_sec=0.05)
        if time.monotonic() >= report_at:
            report_at = max(report_at + REPORT_S, time.monotonic())
            node.report()


def _body(stop: Stop) -> None:
    node = ControllerNode()
    try:
        _spin(node, stop)
    finally:
        node.finish()


def main(args: list[str] | None = None) -> None:
    """Entry point."""
    run(_body, args)


if __name__ == "__main__":
    main()
