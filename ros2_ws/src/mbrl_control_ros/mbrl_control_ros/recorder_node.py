"""Recorder node: what was sensed, commanded and decided goes to a bag as it came, bytes unread."""

from __future__ import annotations

import queue
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import rclpy
from diagnostic_msgs.msg import DiagnosticArray
from mbrl_control import robot
from mbrl_control.data.recorder import Recorder
from mbrl_control.messages import DECISION_TOPIC, STAMPED_COMMAND_TOPIC
from mbrl_control.robot import RobotSpec
from rclpy.executors import SingleThreadedExecutor
from rclpy.node import Node
from sensor_msgs.msg import JointState
from std_msgs.msg import Float64MultiArray

from mbrl_control_ros import parameters, qos
from mbrl_control_ros.interfaces import PLAN_TOPIC, message_class, type_name
from mbrl_control_ros.process import Stop, run

_OWN_TOPICS: dict[str, type[Any]] = {
    STAMPED_COMMAND_TOPIC: JointState,
    DECISION_TOPIC: JointState,
    PLAN_TOPIC: Float64MultiArray,
    "/diagnostics": DiagnosticArray,
}
_Entry = tuple[str, str, bytes, int, int]


def recorded_topics(spec: RobotSpec) -> dict[str, type[Any]]:
    """Topic to message class: the robot's states and commands, and what the controller says about them."""
    signals = {s.topic: message_class(s.type) for s in (*spec.state, *spec.command)}
    return signals | _OWN_TOPICS


class Writer:
    """A thread between the callbacks and the disk: the queue is bounded, and a full one drops and counts.

    Args:
        folder: where the bag is written.
        capacity: messages that may wait.
        flush_s: longest time between two flushes to the disk.
    """

    def __init__(self, folder: Path, capacity: int, flush_s: float) -> None:
        self.written = 0
        self.dropped = 0
        self.failure: Exception | None = None
        self._recorder = Recorder(folder)
        self._flush_s = flush_s
        self._queue: queue.Queue[_Entry | None] = queue.Queue(capacity)
        self._thread = threading.Thread(target=self._write, name="bag writer")
        self._thread.start()

    def put(self, entry: _Entry) -> None:
        """Hand over a message; never waits."""
        try:
            self._queue.put_nowait(entry)
        except queue.Full:
            self.dropped += 1

    def close(self) -> None:
        """Write what waits, and close the bag."""
        self._queue.put(None)
        self._thread.join()

    def _write(self) -> None:
        try:
            flushed = time.monotonic()
            while True:
                try:
                    entry = self._queue.get(timeout=self._flush_s)
                    if entry is None:
                        break
                    self._recorder.write(*entry)
                    self.written += 1
                except queue.Empty:
                    pass
                if time.monotonic() - flushed >= self._flush_s:
                    self._recorder.flush()
                    flushed = time.monotonic()
            self._recorder.close()
        except Exception as error:
            self.failure = error


class RecorderNode(Node):
    """Subscribes to the serialized form of every recorded topic."""

    def __init__(self) -> None:
        super().__init__("recorder")
        spec = robot.load(parameters.text(self, "robot", "shipped robot or path of a robot YAML"))
        folder = Path(parameters.text(self, "run_dir", "folder of this run; the bag is its subfolder 'bag'")) / "bag"
        capacity = parameters.integer(self, "queue", 20_000, "messages that may wait for the disk", least=1)
        flush_s = parameters.number(self, "flush_s", 0.25, "longest time that a message stays in memory, s", least=0.01)
        self.writer = Writer(folder, capacity, flush_s)
        for topic, kind in recorded_topics(spec).items():
            self.create_subscription(kind, topic, self._take(topic, kind), qos.EVERY, raw=True)
        self.get_logger().info(f"recording {spec.name} to {folder}")

    def _take(self, topic: str, kind: type[Any]) -> Callable[[bytes, Any], None]:
        name = self.resolve_topic_name(topic)
        full = type_name(kind)

        def callback(data: bytes, info: Any) -> None:
            self.writer.put((name, full, data, time.time_ns(), info["source_timestamp"]))

        return callback


def _body(stop: Stop) -> None:
    node = RecorderNode()
    executor = SingleThreadedExecutor()
    executor.add_node(node)
    told = 0
    try:
        while not stop and node.writer.failure is None and rclpy.ok():
            executor.spin_once(timeout_sec=0.1)
            if node.writer.dropped > told:
                told = node.writer.dropped
                node.get_logger().warning(f"{told} messages dropped so far: the disk is too slow", throttle_duration_sec=5.0)
    finally:
        node.writer.close()
        node.get_logger().info(f"wrote {node.writer.written} messages, dropped {node.writer.dropped}")
        node.destroy_node()
    if node.writer.failure is not None:
        raise node.writer.failure


def main(args: list[str] | None = None) -> None:
    """Entry point."""
    run(_body, args)


if __name__ == "__main__":
    main()
