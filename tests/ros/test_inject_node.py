"""The injection node: false messages beside the true ones, made of these alone, and none where the robot does not allow it."""

from __future__ import annotations

import math
import re

import carts
import pytest
import rclpy
from sensor_msgs.msg import JointState

from mbrl_control_ros import qos
from mbrl_control_ros.inject_node import InjectNode


@pytest.fixture
def cart(tmp_path):
    path = tmp_path / "cart.yaml"
    path.write_text("name: cart\n" + carts.CART + "allow_injection: true\n")
    return path


class Source:
    """True states at 50 Hz, at positions 0, 1, 2, …"""

    def __init__(self, probe):
        self.publisher = probe.node.create_publisher(JointState, "joint_states", qos.STREAM)
        self.clock, self.sent = probe.node.get_clock(), 0
        probe.node.create_timer(0.02, self.publish)

    def publish(self):
        message = JointState(name=["slider"], position=[float(self.sent)], velocity=[0.0])
        message.header.stamp = self.clock.now().to_msg()
        self.publisher.publish(message)
        self.sent += 1


def heard(probe, start, cart, what, amount, seconds=1.5):
    Source(probe)
    messages = probe.listen(JointState, "joint_states", qos.EVERY_OWN)
    node = start("inject_node", f"robot:={cart}", f"what:={what}", "topic:=joint_states", f"amount:={amount}", f"seconds:={seconds}")
    probe.until(lambda: node.process.poll() is not None, "its end")
    assert node.process.returncode == 0, node.output
    return messages, node.output


def test_wrong_messages_are_newer_and_off_and_not_made_of_each_other(probe, start, cart):
    messages, output = heard(probe, start, cart, "wrong", 0.25)
    told = int(re.findall(r"sent (\d+) false messages", output)[0])
    probe.until(lambda: sum(m.position[0] % 1.0 > 0 for m in messages) >= told, "the last one, still on its way when the node ended")
    false = [m for m in messages if m.position[0] % 1.0]
    assert len(false) == told > 10
    assert {m.position[0] % 1.0 for m in false} == {0.25}
    true = {m.position[0]: m.header.stamp for m in messages if m.position[0] % 1.0 == 0.0}
    for message in false:
        before = true[message.position[0] - 0.25]
        assert (message.header.stamp.sec, message.header.stamp.nanosec) > (before.sec, before.nanosec)


def test_duplicates_have_the_stamps_of_the_true_ones(probe, start, cart):
    messages, _ = heard(probe, start, cart, "duplicate", 2.0)
    places = [m.position[0] for m in messages]
    counts = [places.count(p) for p in sorted(set(places))]
    assert set(counts) <= {1, 2, 3}
    assert counts.count(3) > 10
    assert len({(m.position[0], m.header.stamp.nanosec) for m in messages}) == len(counts)


def test_garbage_is_no_state(probe, start, cart):
    messages, _ = heard(probe, start, cart, "garbage", 1.0)

    def sound(m):
        return m.name == ["slider"] and len(m.position) == len(m.velocity) == 1 and all(
            math.isfinite(x) and (x == 0.0 or 1e-300 < abs(x) < 1e300) for x in (m.position[0], m.velocity[0]))

    assert sum(not sound(m) for m in messages) > 10


def test_without_leave_it_does_nothing(probe, start, cart):
    cart.write_text("name: cart\n" + carts.CART)
    node = start("inject_node", f"robot:={cart}", "what:=wrong", "topic:=joint_states")
    probe.until(lambda: node.process.poll() is not None, "its end")
    assert node.process.returncode == 2
    assert "does not allow faults to be injected" in node.output


def test_the_listeners_that_it_waits_for_are_those_of_the_topic_it_sends_on(cart, domain, monkeypatch):
    rclpy.init(args=["--ros-args", "-r", "joint_states:=/arm/states", "-p", f"robot:={cart}", "-p", "what:=wrong", "-p",
                     "topic:=joint_states"], domain_id=domain)
    try:
        node = InjectNode()
        asked = []
        monkeypatch.setattr(node, "count_subscribers", lambda topic: asked.append(topic) or 10)
        assert not node._everybody_listens()
        assert asked == ["/arm/states"]
        node.destroy_node()
    finally:
        rclpy.try_shutdown()
