"""The loop of the controller node: states in, one command each period out, and what is told about it."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from builtin_interfaces.msg import Time
from diagnostic_msgs.msg import DiagnosticArray
from rclpy.duration import Duration
from rclpy.event_handler import SubscriptionEventCallbacks
from rclpy.lifecycle import LifecycleNode
from rclpy.publisher import Publisher
from rclpy.qos import QoSProfile
from rclpy.subscription import Subscription
from rosgraph_msgs.msg import Clock
from sensor_msgs.msg import JointState
from std_msgs.msg import Bool, Empty, Float64MultiArray

from mbrl_control import robot
from mbrl_control.messages import DECISION_TOPIC, STAMPED_COMMAND_TOPIC, CommandWriter
from mbrl_control.robot import RobotSpec
from mbrl_control.runtime import second_core
from mbrl_control.runtime.cadence import Cadence
from mbrl_control.runtime.clock_check import ClockWatch
from mbrl_control.runtime.controller import Controller, Decision
from mbrl_control.runtime.course import Player, read
from mbrl_control.runtime.faults import Mode
from mbrl_control.runtime.no_planner import NoPlanner
from mbrl_control.runtime.operator import OperatorWatch
from mbrl_control.runtime.process_link import ProcessLink
from mbrl_control.runtime.response import ResponseWatch
from mbrl_control.runtime.state_input import StateInput
from mbrl_control.runtime.wind_down import wind_down
from mbrl_control_ros import qos
from mbrl_control_ros.diagnostics import Figures
from mbrl_control_ros.interfaces import PLAN_TOPIC, message_class

DECISION_NAMES = [*Decision.NAMES, "time_s", "lateness_us"]


@dataclass(frozen=True)
class Settings:
    """What the node's parameters say.

    Attributes:
        robot: name or path of the robot's YAML.
        run_dir: folder of the run.
        store: folder of the model store.
        seed: of excitation and planner.
        anytime: the planner ends early when its time is up.
        use_stamps: the age of a state from its header stamp, not from its receipt.
        heartbeat_s: the operator's heartbeat may be silent for so long; 0: none is expected.
        course: file of a course to play instead of plans; None for none.
    """

    robot: str
    run_dir: Path
    store: Path
    seed: int
    anytime: bool
    use_stamps: bool
    heartbeat_s: float
    course: Path | None = None


class Loop:
    """What exists between configure and cleanup: the core, its planner's process, subscriptions and publishers.

    Args:
        node: that owns the topics.
        settings: see there.
        tell: publishes diagnostics.

    Attributes:
        active: whether commands are sent.

    Raises:
        UserError: the robot's YAML or the course is wrong, or the nominal model of its safety filter does not fit.
        OSError: the run's folder or the planner's process cannot be made. Nothing is left behind in either case.
    """

    def __init__(self, node: LifecycleNode, settings: Settings, tell: Callable[[DiagnosticArray], None]) -> None:
        self.node, self._settings, self._tell = node, settings, tell
        self.active = self._has_sent = False
        self.spec: RobotSpec = robot.load(settings.robot)
        simulated = bool(node.get_parameter("use_sim_time").value)
        self._inputs = StateInput(self.spec, simulated, settings.use_stamps)
        self._response = ResponseWatch(self.spec)
        self.clock = ClockWatch(simulated, self.spec.sim is None, time.monotonic())
        self._operator = OperatorWatch(settings.heartbeat_s)
        self._writer = CommandWriter(self.spec, lambda kind: message_class(kind)())
        states = {topic: message_class(kind) for topic, kind in self._inputs.topics().items()}
        self._command_names = list(self.spec.command_names)
        self.figures = Figures(self.spec, node.get_name())
        logs = settings.run_dir / "logs"
        logs.mkdir(parents=True, exist_ok=True)
        player = Player(*read(settings.course, self.spec)) if settings.course is not None else None
        self.link = NoPlanner() if player is not None else ProcessLink(settings.robot, self.spec, settings.store, settings.seed,
                                                                       logs / "planner.log", iterations_fixed=not settings.anytime)
        self._subscriptions: list[Subscription[Any]] = []
        self._publishers: list[Publisher[Any]] = []
        self.cadence = Cadence(self.spec.tick_s)
        self._second: second_core.SecondCore | None = None
        own = Path(settings.robot)
        try:
            self.core = Controller(self.spec, self.link, settings.seed, base=own.parent if own.is_file() else None, player=player)
            self._open(states, simulated)
            self.link.start()
        except BaseException:  # or the next configure would find a second publisher: what is left of this one
            self.close()
            raise

    def _open(self, states: dict[str, type], simulated: bool) -> None:
        for topic, kind in states.items():
            self._subscribe(kind, topic, self._on_state(topic), qos.STATE)
        self._commands = {topic: self._publish(message_class(kind), topic, qos.COMMAND) for topic, kind in self._writer.topics().items()}
        self._stamped = self._publish(JointState, STAMPED_COMMAND_TOPIC, qos.STREAM)
        self._decisions = self._publish(JointState, DECISION_TOPIC, qos.STREAM)
        self._plans = self._publish(Float64MultiArray, PLAN_TOPIC, qos.STREAM)
        # Twice: best effort matches every publisher; reliable, a stop that was lost on the way is sent again by those that can. Of the
        # others rclpy would say that no message will come from them, which the first makes untrue.
        quiet = SubscriptionEventCallbacks(use_default_callbacks=False)
        for profile in (qos.OPERATOR, qos.STREAM):
            self._subscribe(Bool, "estop", lambda message: self._operator.stop(message.data), profile, quiet)
        self._subscribe(Empty, "heartbeat", lambda _: self._operator.beat(time.monotonic()), qos.OPERATOR)
        if simulated:
            self._subscribe(Clock, "/clock", self._on_clock, qos.NEWEST)

    def _subscribe(self, kind: type, topic: str, callback: Callable[[Any], None], profile: QoSProfile,
                   events: SubscriptionEventCallbacks | None = None) -> None:
        self._subscriptions.append(self.node.create_subscription(kind, topic, callback, profile, event_callbacks=events))

    def _publish(self, kind: type, topic: str, profile: QoSProfile) -> Publisher[Any]:
        self._publishers.append(self.node.create_publisher(kind, topic, profile))
        return self._publishers[-1]

    def begin(self, others: Sequence[int] = (), priority: int = 0) -> None:
        """Forget what is from before: a plan made then, states and commands; deadlines count from now.

        Args:
            others: cores for ticks that the caller's do not make in time.
            priority: SCHED_FIFO priority of what looks after that.
        """
        while self.link.receive(time.monotonic()) is not None:
            pass
        self.core.begin()
        self._operator.begin()
        self.cadence = Cadence(self.spec.tick_s)
        self._second = second_core.beside(self.cadence, others, priority)
        self.active, self._has_sent = True, False

    def rest(self) -> None:
        """Bring the robot to rest and stop sending; what was measured is saved. A robot that nothing was sent to is left alone."""
        self.active = False
        if self._second is not None:
            self._second.stop()  # deadlines end here, which is no fault of a core
        if self._has_sent:
            self._wind_down()
        try:
            self.save_figures()
        except OSError as error:  # a full disk must not keep the rest from being closed
            self.node.get_logger().error(f"the figures of this run are not saved: {error}")
        if self._second is not None:
            self._second.close()
            self._second = None

    def save_figures(self) -> None:
        """Leave the figures since activation in `controller.json` of the run's folder."""
        late, cadence = self.cadence.lateness_us(), self.cadence
        figures = {"rate_hz": self.spec.rate_hz, "ticks": cadence.ticks, "missed": cadence.missed, "missed_at": cadence.missed_at,
                   "lateness_us": late, "moved": self._second.moved if self._second is not None else 0}
        partial = self._settings.run_dir / "controller.json.partial"
        more = {"planner_restarts": self.link.restarts, "plans_reused": self.core.reused}
        partial.write_text(json.dumps({"cadence": figures, **more}) + "\n", "utf-8")
        partial.replace(self._settings.run_dir / "controller.json")

    def close(self) -> None:
        """End the planner's process and give up the topics."""
        self.link.stop()
        for subscription in self._subscriptions:
            self.node.destroy_subscription(subscription)
        for publisher in self._publishers:
            self.node.destroy_publisher(publisher)

    def _on_state(self, topic: str) -> Callable[[Any], None]:
        def callback(message: Any) -> None:
            ros_now, now = self.node.get_clock().now().nanoseconds, time.monotonic()
            refusal = self._inputs.take(topic, message, ros_now, now)
            if refusal is not None:
                self.figures.reject(refusal)
                self.node.get_logger().warning(f"refused a state on '{topic}': {refusal}", throttle_duration_sec=1.0)
            elif self._inputs.complete():
                self.core.on_state(self._inputs.watch.measured_s, self._inputs.values.copy())

        return callback

    def _on_clock(self, message: Clock) -> None:
        self.clock.heard(message.clock.sec + 1e-9 * message.clock.nanosec, time.monotonic())

    def tick(self, idle: Callable[[float], None]) -> None:
        """Serve callbacks until the next deadline, then decide and send the command of the period that begins, and tell about it."""
        missed_before = self.cadence.missed
        lateness_s = -self.cadence.wait(idle) + time.monotonic()
        if not self.active:
            return
        # The newest deadline gone by, so that time stays on the grid that plans are made for.
        now = self.cadence.next - self.cadence.period
        self.core.outside = self._faults()
        before, decision = self.core.supervision.mode, self.core.tick(now)
        # Before the first state nobody knows what the robot does: any command could be a bump, also the safe one of a fault.
        stamp = self.send(decision.command) if self.core.state is not None else self.node.get_clock().now().to_msg()
        known = self.core.state if decision.mode in (Mode.ACTIVE, Mode.DEGRADED, Mode.EXPLORE) else None
        self._response.tick(now, decision.command, known, self.core.state_time)
        message = JointState(name=DECISION_NAMES, position=[*decision.numbers(), now, 1e6 * lateness_s])
        message.header.stamp = stamp
        self._decisions.publish(message)
        self.link.look()
        while self.link.answers:
            self._plans.publish(Float64MultiArray(data=self.link.answers.popleft().tolist()))
        self.figures.tick(decision, lateness_s, self.cadence.missed - missed_before)
        if decision.mode != before and max(decision.mode, before) >= Mode.DEGRADED:
            self._tell(self.figures.change(decision, stamp))

    def _faults(self) -> frozenset[str]:
        """Codes of what is wrong outside of the tick's own sight."""
        now = time.monotonic()
        self._inputs.watch.clock(self.node.get_clock().now().nanoseconds, now)
        found = self._operator.faults(now) | self._inputs.watch.faults(now) | self._response.faults()
        found |= self.clock.faults(now) | self.link.faults(now)
        # By the publishers' own names: those in the robot's YAML may have been remapped.
        alone = all(self.node.count_publishers(publisher.topic_name) <= 1 for publisher in self._commands.values())
        return found if alone else found | {"second_publisher"}

    def send(self, command: np.ndarray) -> Time:
        """Publish a command [A] on the robot's topics, and its stamped twin. Returns the stamp."""
        self._has_sent = True
        now = self.node.get_clock().now()
        for topic, message in self._writer.messages(command, now.nanoseconds):
            self._commands[topic].publish(message)
        twin = JointState(name=self._command_names, position=command.tolist())
        twin.header.stamp = stamp = now.to_msg()
        self._stamped.publish(twin)
        return stamp

    def _wind_down(self) -> None:
        """Bring the robot to rest, one command a period, and see that the last one has left."""
        for command in wind_down(self.spec, self.core.last):
            self.send(command)
            self.core.last = command  # what the next activation starts from
            time.sleep(self.spec.tick_s)
        for publisher in self._commands.values():
            publisher.wait_for_all_acked(Duration(seconds=0.2))
