"""Injection node: a further publisher on a state topic, of false messages made of the true ones; only where the robot allows it."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Hashable
from typing import Any

import numpy as np
import rclpy
from rclpy.executors import SingleThreadedExecutor
from rclpy.node import Node

from mbrl_control import robot
from mbrl_control.errors import UserError
from mbrl_control.runtime.injection import Injector
from mbrl_control.runtime.message_editor import MessageEditor, restamp
from mbrl_control_ros import parameters, qos
from mbrl_control_ros.interfaces import message_class
from mbrl_control_ros.process import Stop, run

RESTAMPED = frozenset({"garbage", "wrong"})
"""With the stamp of the message that they are made of they would be duplicates, which is another fault."""
DISCOVERY_S = 10.0
MOST_ECHOES = 10_000
"""What this node sends it hears too, or not, when it sends much: so many messages are remembered in order to know them again."""


class InjectNode(Node):
    """For each message of the topic, what an `Injector` makes of it."""

    def __init__(self) -> None:
        super().__init__("inject")
        spec = robot.load(parameters.text(self, "robot", "path of the robot's YAML"))
        what = parameters.text(self, "what", "a word of mbrl_control.runtime.injection for messages")
        topic = parameters.text(self, "topic", "state topic, as the YAML names it")
        seed = parameters.integer(self, "seed", 0, "of what is random")
        amount = parameters.number(self, "amount", 1.0, "how much, see the word")
        self.seconds = parameters.number(self, "seconds", 5.0, "for so long", least=0.1)
        if not spec.allow_injection:
            raise UserError(f"robot '{spec.name}' does not allow faults to be injected (allow_injection: false in its YAML)")
        signals = [s for s in spec.state if s.topic == topic]
        if not signals:
            raise UserError(f"parameter 'topic' = '{topic}' is no state topic of robot '{spec.name}'")
        kind = message_class(signals[0].type)
        self._restamps = what in RESTAMPED
        self._editor = MessageEditor(list(signals))
        self._injector = Injector[Any](what, np.random.default_rng(seed), self._editor, amount)
        self._echoes: Counter[Hashable] = Counter()
        self.heard = self.sent = 0
        self._matched = False
        self._publisher = self.create_publisher(kind, topic, qos.STREAM)
        self.create_subscription(kind, topic, self._take, qos.EVERY)

    def _everybody_listens(self) -> bool:
        """Whether what is sent reaches every subscription that is known; before, nothing is sent, or what was done could not be told."""
        self._matched = self._matched or self._publisher.get_subscription_count() >= self.count_subscribers(self._publisher.topic_name)
        return self._matched

    def _take(self, message: Any) -> None:
        if not self._everybody_listens():
            return
        identity = self._editor.identity(message)
        if self._echoes[identity] > 0:
            self._echoes[identity] -= 1
            return
        self.heard += 1
        false = [out for _, out in self._injector.push(time.monotonic(), message)]
        # The true message is on the topic already; what the injector gives back first may be that one.
        for out in false[1:] if false and false[0] is message else false:
            if self._restamps:
                restamp(out, self.get_clock().now().nanoseconds)
            if len(self._echoes) > MOST_ECHOES:
                self._echoes.clear()
            self._echoes[self._editor.identity(out)] += 1
            self._publisher.publish(out)
            self.sent += 1


def _body(stop: Stop) -> None:
    node = InjectNode()
    executor = SingleThreadedExecutor()
    executor.add_node(node)
    end = time.monotonic() + DISCOVERY_S
    while not stop and rclpy.ok() and time.monotonic() < end:
        before = node.heard
        executor.spin_once(timeout_sec=0.05)
        if node.heard > before == 0:
            end = time.monotonic() + node.seconds
    node.get_logger().info(f"sent {node.sent} false messages")
    sent = node.sent
    node.destroy_node()
    if not sent:
        raise UserError(f"no message came on the topic within {DISCOVERY_S:g} s, so there was nothing to make false ones of")


def main(args: list[str] | None = None) -> None:
    """Entry point."""
    run(_body, args)


if __name__ == "__main__":
    main()
