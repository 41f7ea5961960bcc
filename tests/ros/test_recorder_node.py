"""The recorder: what was sent is in the bag, also after it was killed."""

from __future__ import annotations

import math
import signal
import time
from pathlib import Path

import pytest
from diagnostic_msgs.msg import DiagnosticArray
from rclpy.duration import Duration
from rclpy.serialization import deserialize_message, serialize_message
from rosbags.highlevel import AnyReader
from sensor_msgs.msg import JointState
from std_msgs.msg import Float64MultiArray
from waiting import until

from mbrl_control.data.mcap_bag import part_of, parts_in
from mbrl_control.data.tail import McapTail
from mbrl_control.process_name import RECORDS, STANDS_BY, called
from mbrl_control.runtime.faults import Mode, mask

STATE, COMMAND = "/arm/joint_states", "/arm/commands"


@pytest.fixture
def recorder(start, tmp_path):
    return start("recorder_node", "robot:=cartpole", f"run_dir:={tmp_path / 'run'}", ns="/arm")


def publishers(probe, tmp_path):
    """Publishers that the recorder is known to hear: something of each has reached the bag."""
    made = {
        STATE: probe.node.create_publisher(JointState, STATE, 100),
        COMMAND: probe.node.create_publisher(Float64MultiArray, COMMAND, 100),
        "/arm/mbrl/decision": probe.node.create_publisher(JointState, "/arm/mbrl/decision", 100),
        "/diagnostics": probe.node.create_publisher(DiagnosticArray, "/diagnostics", 100),
    }
    tail, heard = McapTail(tmp_path / "run" / "bag"), set()

    def all_heard():
        for publisher in made.values():
            publisher.publish(publisher.msg_type())
        time.sleep(0.05)
        heard.update(m.topic for m in tail.read())
        return heard == set(made)

    probe.until(all_heard, "something of every topic in the bag")
    return made


def send(probe, made, count, begin=0):
    """Numbered messages at 100 Hz; gives them by topic."""
    sent = {topic: [] for topic in made}
    for k in range(begin, begin + count):
        state = JointState(name=["slider", "hinge"], position=[float(k), 0.5], velocity=[0.0, 0.0])
        state.header.stamp.sec = k + 1
        for topic, message in ((STATE, state), (COMMAND, Float64MultiArray(data=[0.01 * k]))):
            made[topic].publish(message)
            sent[topic].append(message)
        time.sleep(0.01)
    return sent


def test_bag_holds_the_messages_sent(probe, recorder, tmp_path):
    begin = time.time_ns()
    made = publishers(probe, tmp_path)
    sent = send(probe, made, 100)
    made["/diagnostics"].publish(DiagnosticArray())
    sent["/diagnostics"].append(DiagnosticArray())
    assert all(p.wait_for_all_acked(Duration(seconds=5)) for p in made.values())
    time.sleep(0.3)  # states are best effort: nothing tells that they arrived
    assert recorder.end(signal.SIGTERM) == 0
    assert "dropped 0" in recorder.output
    found = {topic: [] for topic in sent}
    with AnyReader([tmp_path / "run" / "bag"]) as bag:
        for connection, receive_ns, payload in bag.messages():
            found[connection.topic].append(deserialize_message(payload, made[connection.topic].msg_type))
            assert begin < receive_ns < time.time_ns()
        assert {c.topic: c.msgtype for c in bag.connections} == {
            STATE: "sensor_msgs/msg/JointState", COMMAND: "std_msgs/msg/Float64MultiArray",
            "/arm/mbrl/decision": "sensor_msgs/msg/JointState", "/diagnostics": "diagnostic_msgs/msg/DiagnosticArray"}
    assert {topic: found[topic][-len(messages):] for topic, messages in sent.items() if messages} == {t: m for t, m in sent.items() if m}


def test_after_a_kill_at_most_a_second_is_lost(probe, recorder, tmp_path):
    made = publishers(probe, tmp_path)
    sent = send(probe, made, 200)[STATE]
    recorder.end(signal.SIGKILL)
    read = McapTail(tmp_path / "run" / "bag").read()
    states = [m for m in read if m.topic == STATE]
    recorded = [m for m in (deserialize_message(m.payload, JointState) for m in states) if m.name]
    assert len(recorded) >= 100
    assert recorded == sent[: len(recorded)]
    delays = [m.log_time_ns - m.publish_ns for m in states]
    assert all(0 <= d < 1e9 for d in delays)


@pytest.fixture
def standby(start, recorder, tmp_path):
    until((tmp_path / "run" / "bag" / "bag_0.mcap").exists, "one that records")
    made = start("recorder_standby", "robot:=cartpole", f"run_dir:={tmp_path / 'run'}", "resume:=true", ns="/arm")
    until(lambda: called(Path(f"/proc/{made.process.pid}")) == STANDS_BY, "one that stands by")
    return made


def test_one_that_stands_by_writes_nothing_and_takes_over_at_once(probe, recorder, standby, tmp_path):
    made, bag = publishers(probe, tmp_path), tmp_path / "run" / "bag"
    send(probe, made, 50)
    assert [p.name for p in bag.iterdir()] == ["bag_0.mcap"]
    recorder.end(signal.SIGKILL)
    sent = send(probe, made, 150, begin=50)[COMMAND]
    assert called(Path(f"/proc/{standby.process.pid}")) == RECORDS
    tail, found = McapTail(part_of(bag, 1), [COMMAND]), []

    def newest():
        found.extend(deserialize_message(m.payload, Float64MultiArray) for m in tail.read())
        return found and found[-1] == sent[-1]

    until(newest, "the last command in the bag", 10.0)
    assert standby.end() == 0
    assert {p.name for p in bag.iterdir()} == {"bag_0.mcap", "bag_1.mcap"}
    assert found == sent[-len(found):]
    assert len(found) >= 50, "it recorded within a second"


def test_one_that_stands_by_ends_when_told_and_leaves_nothing(recorder, standby, tmp_path):
    assert standby.end(signal.SIGTERM) == 0
    assert [p.name for p in (tmp_path / "run" / "bag").iterdir()] == ["bag_0.mcap"]
    assert standby.output == ""


def test_a_recording_is_never_overwritten(probe, recorder, start, tmp_path):
    publishers(probe, tmp_path)
    second = start("recorder_node", "robot:=cartpole", f"run_dir:={tmp_path / 'run'}")
    assert second.process.wait(20) == 2
    assert "exists already" in second.output


def test_it_begins_the_next_file_and_drops_the_oldest_as_told(probe, start, tmp_path):
    wrong = start("recorder_node", "robot:=cartpole", f"run_dir:={tmp_path / 'wrong'}", "keep_mb:=3", "part_mb:=2", ns="/other")
    assert wrong.process.wait(20) == 2
    assert "keep_mb = 3 must be 0, which keeps everything, or at least 4" in wrong.output
    bag = tmp_path / "run" / "bag"
    made = start("recorder_node", "robot:=cartpole", f"run_dir:={tmp_path / 'run'}", "keep_mb:=2", "part_mb:=1", ns="/arm")
    publisher = publishers(probe, tmp_path)[COMMAND]
    large = Float64MultiArray(data=[1.0] * 10_000)

    def dropped():
        publisher.publish(large)
        return parts_in(bag) and parts_in(bag)[0] > 1

    until(dropped, "files to be dropped", 30.0)
    assert made.end() == 0
    assert sum(path.stat().st_size for path in bag.iterdir()) < 4 << 20
    with AnyReader([bag]) as found:
        assert found.message_count > 20


def test_remapped_topics_are_recorded_under_the_names_of_the_yaml():
    from mbrl_control_ros.recorder_node import recorded_name

    assert recorded_name("joint_states", "/arm/joint_states", "/arm") == "/arm/joint_states"
    assert recorded_name("joint_states", "/franka/joint_states", "/") == "/franka/joint_states"
    assert recorded_name("joint_states", "/franka/measured", "/") == "/joint_states"
    assert recorded_name("joint_states", "/franka/measured", "/arm") == "/arm/joint_states"
    assert recorded_name("/odom", "/car/pose", "/arm") == "/odom"


def test_what_is_no_decision_ends_no_recorder(probe, recorder, tmp_path):
    made = publishers(probe, tmp_path)
    decision = made["/arm/mbrl/decision"]
    for number in (9.0, -5.0, math.nan, math.inf, 1e300):
        decision.publish(JointState(name=["mode"], position=[number]))
        decision.publish(JointState(name=["mode", "faults"], position=[2.0, number]))
    decision.publish(JointState(name=["mode", "faults"], position=[4.0]))
    decision.publish(serialize_message(JointState(name=["mode"], position=[4.0]))[:30])
    sent = send(probe, made, 20)[COMMAND]
    assert all(p.wait_for_all_acked(Duration(seconds=5)) for p in made.values())
    assert recorder.end(signal.SIGTERM) == 0
    assert "Traceback" not in recorder.output
    found = [deserialize_message(m.payload, Float64MultiArray) for m in McapTail(tmp_path / "run" / "bag", [COMMAND]).read()]
    assert found[-20:] == sent
    assert not (tmp_path / "run" / "blackbox").exists(), "nothing said that the robot was stopped"


def test_a_stop_leaves_a_black_box_of_what_came_before_it(probe, recorder, tmp_path):
    made = publishers(probe, tmp_path)

    def decide(mode, faults):
        made["/arm/mbrl/decision"].publish(JointState(name=["mode", "faults"], position=[float(mode), float(faults)]))

    decide(Mode.ACTIVE, 0)
    sent = send(probe, made, 30)[STATE]
    decide(Mode.BRAKE, mask({"state_stale", "plan_late"}))
    send(probe, made, 5)
    assert recorder.end(signal.SIGTERM) == 0
    box = tmp_path / "run" / "blackbox" / "001-state_stale"
    found, bag = ([m.payload for m in McapTail(folder).read() if m.topic == STATE] for folder in (box / "bag", tmp_path / "run" / "bag"))
    assert found == bag
    assert len(found) > 0.5 * len(sent)  # states are best effort
    assert str(box) in recorder.output
