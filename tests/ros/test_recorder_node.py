"""The recorder: what was sent is in the bag, byte for byte, also after it was killed."""

from __future__ import annotations

import signal
import time

import pytest
from diagnostic_msgs.msg import DiagnosticArray
from rclpy.serialization import serialize_message
from rosbags.highlevel import AnyReader
from sensor_msgs.msg import JointState
from std_msgs.msg import Float64MultiArray

from mbrl_control.data.tail import McapTail

STATE, COMMAND = "/arm/joint_states", "/arm/commands"


@pytest.fixture
def recorder(start, tmp_path):
    return start("recorder_node", "robot:=cartpole", f"run_dir:={tmp_path / 'run'}", ns="/arm")


def publishers(probe):
    made = {
        STATE: probe.node.create_publisher(JointState, STATE, 100),
        COMMAND: probe.node.create_publisher(Float64MultiArray, COMMAND, 100),
        "/arm/mbrl/decision": probe.node.create_publisher(JointState, "/arm/mbrl/decision", 100),
        "/diagnostics": probe.node.create_publisher(DiagnosticArray, "/diagnostics", 100),
    }
    probe.until(lambda: all(p.get_subscription_count() == 1 for p in made.values()), "a match of every topic")
    return made


def send(probe, made, count, begin=0):
    """Numbered messages at 100 Hz; gives their bytes by topic."""
    sent = {topic: [] for topic in made}
    for k in range(begin, begin + count):
        state = JointState(name=["slider", "hinge"], position=[float(k), 0.5], velocity=[0.0, 0.0])
        state.header.stamp.sec = k + 1
        for topic, message in ((STATE, state), (COMMAND, Float64MultiArray(data=[0.01 * k]))):
            made[topic].publish(message)
            sent[topic].append(serialize_message(message))
        time.sleep(0.01)
    return sent


def test_bag_holds_the_messages_sent(probe, recorder, tmp_path):
    made = publishers(probe)
    begin = time.time_ns()
    sent = send(probe, made, 100)
    made["/diagnostics"].publish(DiagnosticArray())
    time.sleep(0.3)
    assert recorder.end(signal.SIGTERM) == 0
    assert "wrote 201 messages, dropped 0" in recorder.output
    with AnyReader([tmp_path / "run" / "bag"]) as bag:
        found = {topic: [] for topic in sent}
        times = []
        for connection, receive_ns, payload in bag.messages():
            if connection.topic in found:
                found[connection.topic].append(payload)
                times.append(receive_ns)
        assert {c.topic: c.msgtype for c in bag.connections} == {
            STATE: "sensor_msgs/msg/JointState", COMMAND: "std_msgs/msg/Float64MultiArray", "/diagnostics": "diagnostic_msgs/msg/DiagnosticArray"}
    assert found == sent
    assert all(begin < t < time.time_ns() for t in times)


def test_after_a_kill_at_most_a_second_is_lost(probe, recorder, tmp_path):
    made = publishers(probe)
    send(probe, made, 200)
    recorder.end(signal.SIGKILL)
    read = McapTail(tmp_path / "run" / "bag").read()
    states = [m for m in read if m.topic == STATE]
    assert len(states) >= 100
    assert [m.payload for m in states] == send(probe, made, 200)[STATE][: len(states)]
    delays = [m.log_time_ns - m.publish_ns for m in states]
    assert all(0 <= d < 1e9 for d in delays)


def test_a_recording_is_never_overwritten(probe, recorder, start, tmp_path):
    publishers(probe)
    second = start("recorder_node", "robot:=cartpole", f"run_dir:={tmp_path / 'run'}")
    assert second.process.wait(20) == 2
    assert "exists already" in second.output


def test_remapped_topics_are_recorded_under_the_names_of_the_yaml():
    from mbrl_control_ros.recorder_node import recorded_name

    assert recorded_name("joint_states", "/arm/joint_states", "/arm") == "/arm/joint_states"
    assert recorded_name("joint_states", "/franka/joint_states", "/") == "/franka/joint_states"
    assert recorded_name("joint_states", "/franka/measured", "/") == "/joint_states"
    assert recorded_name("joint_states", "/franka/measured", "/arm") == "/arm/joint_states"
    assert recorded_name("/odom", "/car/pose", "/arm") == "/odom"
