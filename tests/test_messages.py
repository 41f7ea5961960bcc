"""Messages to vectors and back."""

from __future__ import annotations

import math
import re
from types import SimpleNamespace

import numpy as np
import pytest
from bag_tools import JOINTS, changed, spec_of
from hypothesis import given
from hypothesis import strategies as st

from mbrl_control.data.message_types import decode, empty, encode
from mbrl_control.errors import DataError, SpecError
from mbrl_control.messages import CommandReader, CommandWriter, StateReader, parse_path, quaternion_angle, stamp_ns


def joints(names, position, velocity=(), effort=(), stamp=5 * 10**9 + 7):
    message = {"header": {"stamp": stamp}, "name": list(names), "position": list(position), "velocity": list(velocity),
               "effort": list(effort)}
    return decode(JOINTS, encode(JOINTS, message))


@given(st.permutations(["shoulder", "elbow", "wrist", "gripper"]))
def test_joints_are_found_by_name_in_any_order_and_extra_joints_ignored(names):
    value = {"shoulder": 0.1, "elbow": 0.2, "wrist": 0.3, "gripper": math.nan}
    reader = StateReader(spec_of())
    assert reader.update("joint_states", joints(names, [value[n] for n in names], [10 * value[n] for n in names])) is None
    np.testing.assert_array_equal(reader.values, [0.1, 0.2, 1.0, 2.0])


@given(st.lists(st.permutations(["shoulder", "elbow", "wrist"]), min_size=2, max_size=6))
def test_the_order_may_change_from_message_to_message(orders):
    reader = StateReader(spec_of())
    for k, names in enumerate(orders):
        value = {n: len(n) / 10 + k / 100 for n in names}
        assert reader.update("joint_states", joints(names, [value[n] for n in names], [value[n] for n in names])) is None
        np.testing.assert_array_equal(reader.values, [value["shoulder"], value["elbow"], value["shoulder"], value["elbow"]])


@pytest.mark.parametrize(("message", "reason"), [
    (joints(["shoulder"], [1], [1]), "joint 'elbow' is not in the message"),
    (joints(["shoulder", "elbow", "elbow"], [1, 1, 1], [1, 1, 1]), "joint 'elbow' stands 2 times"),
    (joints(["shoulder", "elbow"], [1, 1]), "0 values for 2 joints"),
    (joints(["shoulder", "elbow"], [1], [1, 1]), "1 values for 2 joints"),
    (joints(["shoulder", "elbow"], [1, math.nan], [1, 1]), "'q2' is not finite"),
    (joints(["shoulder", "elbow"], [1, math.inf], [1, 1]), "'q2' is not finite"),
    (joints(["shoulder", "elbow"], [1, 4], [1, 1]), r"'q2' = 4 is outside its bounds \[-3, 3\]"),
    (SimpleNamespace(data=[1]), "no usable"),
])
def test_a_bad_message_is_rejected_whole(message, reason):
    reader = StateReader(spec_of())
    assert reader.update("joint_states", joints(["shoulder", "elbow"], [0.5, 0.6], [0.7, 0.8])) is None
    fault = reader.update("joint_states", message)
    assert fault is not None
    assert re.search(reason, fault.sentence), fault
    np.testing.assert_array_equal(reader.values, [0.5, 0.6, 0.7, 0.8])
    assert reader.time_ns["joint_states"] == 5 * 10**9 + 7


def test_nan_in_an_unused_field_is_accepted():
    reader = StateReader(spec_of())
    message = joints(["shoulder", "elbow"], [1, 1], [1, 1], effort=[math.nan, math.nan])
    assert reader.update("joint_states", message) is None
    assert reader.complete()


def test_a_repeated_good_order_is_accepted_after_a_bad_one():
    reader = StateReader(spec_of())
    good, bad = joints(["shoulder", "elbow"], [1, 1], [1, 1]), joints(["shoulder"], [1], [1])
    assert [reader.update("joint_states", m) is None for m in (good, bad, good, bad, bad, good)] == [True, False, True, False, False, True]


def test_stamps():
    assert stamp_ns(joints([], [], stamp=3 * 10**9 + 5)) == 3 * 10**9 + 5
    assert stamp_ns(joints([], [], stamp=0)) is None
    assert stamp_ns(empty("std_msgs/msg/Float64MultiArray")) is None


def test_without_a_stamp_the_time_of_receipt_is_the_time():
    reader = StateReader(spec_of())
    reader.update("joint_states", joints(["shoulder", "elbow"], [1, 1], [1, 1], stamp=0), receive_ns=42)
    assert reader.time_ns == {"joint_states": 42}


def odometry_spec():
    where = {"topic": "odom", "type": "nav_msgs/msg/Odometry"}
    return changed(state=[
        {"name": "yaw", "field": "pose.pose.orientation.yaw", "unit": "rad", "wraps": True, **where},
        {"name": "pitch", "field": "pose.pose.orientation.pitch", "unit": "rad", **where},
        {"name": "roll", "field": "pose.pose.orientation.roll", "unit": "rad", **where},
        {"name": "v", "field": "twist.twist.linear.x", "unit": "m/s", **where},
        {"name": "c", "field": "pose.covariance[7]", "unit": "1", **where}])


@given(st.floats(-3.1, 3.1), st.floats(-1.5, 1.5), st.floats(-3.1, 3.1), st.floats(0.1, 3))
def test_quaternions_give_back_the_angles_they_are_made_of(yaw, pitch, roll, length):
    cy, sy, cp, sp, cr, sr = (f(a / 2) for a in (yaw, pitch, roll) for f in (math.cos, math.sin))
    q = {"w": cr * cp * cy + sr * sp * sy, "x": sr * cp * cy - cr * sp * sy,
         "y": cr * sp * cy + sr * cp * sy, "z": cr * cp * sy - sr * sp * cy}
    message = empty("nav_msgs/msg/Odometry")
    for axis, value in q.items():
        setattr(message.pose.pose.orientation, axis, value * length)
    message.twist.twist.linear.x, message.pose.covariance[7] = 1.5, 9.0
    reader = StateReader(odometry_spec())
    assert reader.update("odom", message) is None
    np.testing.assert_allclose(reader.values, [yaw, pitch, roll, 1.5, 9.0], atol=1e-6)


def test_a_zero_quaternion_is_a_fault():
    reader = StateReader(odometry_spec())
    assert reader.update("odom", empty("nav_msgs/msg/Odometry")).code == "not_finite"


def test_quaternion_angles_of_a_quarter_turn():
    h = math.sqrt(0.5)
    assert quaternion_angle("yaw", 0, 0, h, h) == pytest.approx(math.pi / 2)
    assert quaternion_angle("roll", h, 0, 0, h) == pytest.approx(math.pi / 2)
    assert quaternion_angle("pitch", 0, h, 0, h) == pytest.approx(math.pi / 2)


def test_complete_needs_every_topic_and_tells_the_oldest():
    spec = changed(state=[{"name": "a", "topic": "a", "type": "std_msgs/msg/Float64", "field": "data", "unit": "1"},
                          {"name": "b", "topic": "b", "type": "std_msgs/msg/Float64", "field": "data", "unit": "1"}])
    reader = StateReader(spec)
    assert reader.topics() == {"a": "std_msgs/msg/Float64", "b": "std_msgs/msg/Float64"}
    reader.update("a", SimpleNamespace(data=1.0), 10)
    assert not reader.complete()
    assert reader.oldest_ns() == 0
    reader.update("b", SimpleNamespace(data=2.0), 20)
    reader.update("b", SimpleNamespace(data=3.0), 30)
    assert reader.complete()
    assert reader.oldest_ns() == 10
    np.testing.assert_array_equal(reader.values, [1, 3])


@pytest.mark.parametrize("path", ["", "a..b", "a[", "a[x]", "a[-1]", "1a", "a b", "__import__('os')"])
def test_bad_paths_are_refused(path):
    with pytest.raises(SpecError, match="not valid"):
        parse_path(path)


def test_a_joint_state_without_a_joint_is_refused():
    with pytest.raises(SpecError, match="joint"):
        StateReader(changed(state=[{"name": "a", "field": "position", "unit": "rad"}]))


def test_a_topic_has_one_type():
    with pytest.raises(SpecError, match="two message types"):
        StateReader(changed(state=[{"name": "a", "topic": "t", "joint": "j", "unit": "rad"},
                                   {"name": "b", "topic": "t", "type": "std_msgs/msg/Float64", "field": "data", "unit": "1"}]))


def command(name, **keys):
    return {"name": name, "unit": "1", "limits": [-9, 9], **keys}


TRAJECTORY = {"topic": "jtc/joint_trajectory", "type": "trajectory_msgs/msg/JointTrajectory"}
ACKERMANN = {"topic": "drive", "type": "ackermann_msgs/msg/AckermannDriveStamped"}


@pytest.mark.parametrize(("commands", "sent"), [
    ([command("a", field="data[0]"), command("b", field="data[1]")], lambda m: list(m["commands"].data)),
    ([command("a", field="data[2]"), command("b", field="data[0]")], lambda m: [m["commands"].data[2], m["commands"].data[0]]),
    ([command("a", joint="j1", field="positions", **TRAJECTORY), command("b", joint="j2", field="position", **TRAJECTORY)],
     lambda m: list(m["jtc/joint_trajectory"].points[0].positions)),
    ([command("a", joint="j1", field="velocity", **TRAJECTORY), command("b", joint="j2", field="velocities", **TRAJECTORY)],
     lambda m: list(m["jtc/joint_trajectory"].points[0].velocities)),
    ([command("a", joint="j1", field="effort", **TRAJECTORY), command("b", joint="j2", field="effort", **TRAJECTORY)],
     lambda m: list(m["jtc/joint_trajectory"].points[0].effort)),
    ([command("a", field="drive.steering_angle", **ACKERMANN), command("b", field="drive.speed", **ACKERMANN)],
     lambda m: [m["drive"].drive.steering_angle, m["drive"].drive.speed]),
    ([command("a", field="twist.linear.x", topic="cmd_vel", type="geometry_msgs/msg/TwistStamped"),
      command("b", field="data", topic="gripper", type="std_msgs/msg/Float64")],
     lambda m: [m["cmd_vel"].twist.linear.x, m["gripper"].data]),
    ([command("a", joint="j2", type=JOINTS, field="effort"), command("b", joint="j1", type=JOINTS, field="effort")],
     lambda m: list(m["commands"].effort)),
])
def test_commands_are_written_and_read_back(commands, sent):
    spec = changed(command=commands)
    writer, reader = CommandWriter(spec, empty), CommandReader(spec)
    assert writer.topics() == reader.topics()
    for action in (np.array([1.5, -2.5]), np.array([0.25, 8.0])):
        messages = dict(writer.messages(action, stamp=7 * 10**9 + 3))
        assert sent(messages) == action.tolist()
        for topic, message in messages.items():
            assert stamp_ns(message) in (None, 7 * 10**9 + 3)
            again = decode(writer.topics()[topic], encode(writer.topics()[topic], message))
            assert reader.update(topic, again) is None
        np.testing.assert_array_equal(reader.values, action)


def test_a_trajectory_point_lies_one_period_ahead():
    spec = changed(command=[command("a", joint="j1", field="positions", **TRAJECTORY)])
    ((_, message),) = CommandWriter(spec, empty).messages(np.array([1.0]))
    assert message.joint_names == ["j1"]
    assert (message.points[0].time_from_start.sec, message.points[0].time_from_start.nanosec) == (0, 20_000_000)


def test_integer_fields_are_rounded():
    spec = changed(command=[command("a", type="std_msgs/msg/Int32", field="data"),
                            command("b", type="std_msgs/msg/Int16MultiArray", topic="c")])
    messages = dict(CommandWriter(spec, empty).messages(np.array([2.6, -3.4])))
    assert messages["commands"].data == 3
    assert messages["c"].data[0] == -3


def test_commands_beyond_the_limits_are_read_as_they_were_sent():
    spec = changed(command=[command("a")])
    reader = CommandReader(spec)
    assert reader.update("commands", SimpleNamespace(data=[99.0])) is None
    assert reader.values[0] == 99.0


def test_a_command_field_that_does_not_exist_is_refused():
    with pytest.raises(SpecError, match=r"no number 'drive\.sped'"):
        CommandWriter(changed(command=[command("a", field="drive.sped", **ACKERMANN)]), empty)
    with pytest.raises(SpecError, match="all of them or none"):
        CommandWriter(changed(command=[command("a", joint="j1", field="positions", **TRAJECTORY),
                                       command("b", joint="j2", field="velocities", **TRAJECTORY)]), empty)


def test_encode_fills_what_is_left_out_and_refuses_what_is_unknown():
    message = decode("nav_msgs/msg/Odometry", encode("nav_msgs/msg/Odometry", {"twist": {"twist": {"linear": {"x": 2}}}}))
    assert message.twist.twist.linear.x == 2.0
    assert message.pose.covariance.shape == (36,)
    with pytest.raises(DataError, match="no field 'poze'"):
        encode("nav_msgs/msg/Odometry", {"poze": 1})
    with pytest.raises(DataError, match="not known"):
        encode("nowhere/msg/Nothing", {})
    with pytest.raises(DataError, match="no valid"):
        decode(JOINTS, b"\x00\x01\x00\x00\x01")


@pytest.mark.ros
def test_messages_of_rclpy_work_the_same():
    get = _rclpy_types()
    spec = changed(command=[command("a", joint="j1", field="positions", **TRAJECTORY), command("b", field="data[1]")])
    writer, reader = CommandWriter(spec, lambda kind: get[kind]()), CommandReader(spec)
    for topic, message in writer.messages(np.array([1.5, 2.5]), stamp=10**9):
        assert reader.update(topic, message) is None
    np.testing.assert_array_equal(reader.values, [1.5, 2.5])
    state = get[JOINTS]()
    state.name, state.position, state.velocity = ["elbow", "shoulder"], [0.2, 0.1], [2.0, 1.0]
    states = StateReader(spec)
    assert states.update("joint_states", state, 5) is None
    np.testing.assert_array_equal(states.values, [0.1, 0.2, 1.0, 2.0])


def _rclpy_types():
    sensor = pytest.importorskip("sensor_msgs.msg", reason="needs rclpy")
    std = pytest.importorskip("std_msgs.msg")
    trajectory = pytest.importorskip("trajectory_msgs.msg")
    return {JOINTS: sensor.JointState, "std_msgs/msg/Float64MultiArray": std.Float64MultiArray,
            "trajectory_msgs/msg/JointTrajectory": trajectory.JointTrajectory,
            "trajectory_msgs/msg/JointTrajectoryPoint": trajectory.JointTrajectoryPoint}
