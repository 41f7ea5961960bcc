"""Recorder node: what was sensed, commanded and decided goes to a bag as it came; what came before a stop also to a black box."""

from __future__ import annotations

import contextlib
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import rclpy
from diagnostic_msgs.msg import DiagnosticArray
from rclpy.executors import SingleThreadedExecutor
from rclpy.node import Node
from rclpy.serialization import deserialize_message
from sensor_msgs.msg import JointState
from std_msgs.msg import Float64MultiArray

from mbrl_control import robot
from mbrl_control.data.black_box import BlackBox
from mbrl_control.data.recorder import Recorder, RecorderEvent, RecorderOptions
from mbrl_control.data.sizes import PART_MB, sizes
from mbrl_control.data.turn import Turn
from mbrl_control.errors import DataError
from mbrl_control.heartbeat import Heartbeat
from mbrl_control.lifeline import orphaned
from mbrl_control.messages import DECISION_TOPIC, STAMPED_COMMAND_TOPIC
from mbrl_control.robot import RobotSpec
from mbrl_control.runtime.faults import FAULTS, Mode, codes
from mbrl_control.runtime.logged_decision import LoggedDecision, parse
from mbrl_control_ros import parameters, qos
from mbrl_control_ros.interfaces import PLAN_TOPIC, message_class, type_name
from mbrl_control_ros.process import Stop, run

LINGER_S = 5.0
QUIET_S = 0.5

_OWN_TOPICS: dict[str, type[Any]] = {
    STAMPED_COMMAND_TOPIC: JointState,
    DECISION_TOPIC: JointState,
    PLAN_TOPIC: Float64MultiArray,
    "/diagnostics": DiagnosticArray,
}


def recorded_topics(spec: RobotSpec) -> dict[str, type[Any]]:
    """Topic to message class: the robot's states and commands, and what the controller says about them."""
    states, commands = {s.topic: s.type for s in spec.state}, {c.topic: c.type for c in spec.command}
    return {topic: message_class(kind) for topic, kind in (states | commands).items()} | _OWN_TOPICS


def recorded_name(topic: str, resolved: str, namespace: str) -> str:
    """Absolute name in the bag: as on the wire; where a remapping hides the YAML's name, that name, which readers look for."""
    if resolved.endswith("/" + topic.lstrip("/")):
        return resolved
    return topic if topic.startswith("/") else f"{namespace.rstrip('/')}/{topic}"


def read_decision(payload: bytes) -> LoggedDecision | None:
    """The decision in a serialized message; None where it holds none, for anybody may publish on the topic."""
    try:
        message = deserialize_message(payload, JointState)
    except RuntimeError:  # what rclpy raises for bytes that are no such message
        return None
    return parse(message.name, message.position)


def run_folder(node: Node) -> Path:
    """The parameter `run_dir` of a node."""
    return Path(parameters.text(node, "run_dir", "folder of this run; the bag is its subfolder 'bag'"))


class RecorderNode(Node):
    """Subscribes to the serialized form of every recorded topic.

    Args:
        turn: to record in this run, where this process has it already.
    """

    def __init__(self, turn: Turn | None = None) -> None:
        super().__init__("recorder")
        spec = robot.load(parameters.text(self, "robot", "shipped robot or path of a robot YAML"))
        run_dir = run_folder(self)
        folder = run_dir / "bag"
        if turn is None:
            with contextlib.suppress(DataError):  # where there are no locks nobody can stand by, but this one can record
                turn = Turn(run_dir)
                turn.take()
        self._turn = turn
        waiting = parameters.integer(self, "queue", 20_000, "messages that may wait for the disk", least=1)
        flush_s = parameters.number(self, "flush_s", 0.25, "longest time that a message stays in memory, s", least=0.01)
        resume = parameters.flag(self, "resume", False, "go on in the bag of a recorder that was killed, in a file of its own")
        keep_mb = parameters.integer(self, "keep_mb", 0, "the oldest files are dropped beyond it, MB; 0: none ever is")
        part_mb = parameters.integer(self, "part_mb", PART_MB, "size at which the next file of the bag is begun, MB", least=1)
        self.newest = time.monotonic()
        topics = recorded_topics(spec)
        options = RecorderOptions(flush_s=flush_s, queue=waiting, resume=resume, sizes=sizes(keep_mb, part_mb))
        self.bag = Recorder(folder, options, self._tell)
        self.black_box = BlackBox(run_dir, tell=self.get_logger().warning)
        self._mode = Mode.INACTIVE
        states = {s.topic for s in spec.state}
        for topic, kind in topics.items():
            profile = qos.EVERY if topic in states else qos.EVERY_OWN
            self.create_subscription(kind, topic, self._take(topic, type_name(kind)), profile, raw=True)
        self.get_logger().info(f"recording {spec.name} to {folder}")

    def _tell(self, event: RecorderEvent) -> None:
        self.get_logger().error(event.text)

    def _take(self, topic: str, kind: str) -> Callable[[bytes, Any], None]:
        name = recorded_name(topic, self.resolve_topic_name(topic), self.get_namespace())

        def callback(payload: bytes, info: Any) -> None:
            self.newest = time.monotonic()
            now, published = time.time_ns(), info["source_timestamp"]
            self.bag.write(name, kind, payload, now, published)
            self.black_box.keep(name, kind, payload, now, published)
            if topic == DECISION_TOPIC:
                self._watch(payload, now)

        return callback

    def _watch(self, payload: bytes, now_ns: int) -> None:
        """A black box begins when the robot is stopped."""
        decision = read_decision(payload)
        if decision is not None:
            if decision.mode >= Mode.BRAKE > self._mode:
                severe = [code for code in codes(decision.faults) if FAULTS[code].mode >= Mode.BRAKE]
                if not severe or any(FAULTS[code].incident for code in severe):
                    self.black_box.trigger(severe[0] if severe else decision.mode.name.lower(), now_ns)
            self._mode = decision.mode
        self.black_box.poll(now_ns)


def record(stop: Stop, node: RecorderNode, beat: Heartbeat) -> None:
    """Record until told to stop, or until the disk is full; beats meanwhile."""
    executor = SingleThreadedExecutor()
    executor.add_node(node)
    try:
        while not stop and node.bag.recording and rclpy.ok():
            executor.spin_once(timeout_sec=0.1)
            beat()
        end = time.monotonic() + LINGER_S
        # Nobody ends the processes in order then: the controller is bringing the robot to rest just now.
        while orphaned() and node.bag.recording and time.monotonic() < min(end, node.newest + QUIET_S):
            executor.spin_once(timeout_sec=0.1)
        cut_short = not node.bag.recording
    finally:
        node.bag.close()
        node.black_box.close(time.time_ns())
        node.get_logger().info(f"wrote {node.bag.written} messages, dropped {node.bag.dropped}")
        node.destroy_node()
    if cut_short:
        sys.exit(1)


def main(args: list[str] | None = None) -> None:
    """Entry point."""
    run(lambda stop: record(stop, RecorderNode(), Heartbeat()), args)


if __name__ == "__main__":
    main()
