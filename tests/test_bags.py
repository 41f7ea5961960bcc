"""Bags of every kind to numbers and episodes: real ones against their provenance, synthetic ones against what was written."""

from __future__ import annotations

import math
import sqlite3

import numpy as np
import pytest
import yaml
from bag_tools import ARRAY, JOINTS, array, changed, joint_state, real, run_of_arm, spec_of, write_ros1, write_rosbag2
from hypothesis import given, settings
from hypothesis import strategies as st
from rosbags.typesys import Stores, get_types_from_msg, get_typestore

from mbrl_control import robot
from mbrl_control.data.bag_episodes import episodes_from_bag
from mbrl_control.data.bags import match_topic, read_bag
from mbrl_control.data.loading import load_episodes
from mbrl_control.data.message_types import encode
from mbrl_control.errors import DataError
from mbrl_control.messages import MessageReader


def expected_counts(folder):
    info = yaml.safe_load((folder / "metadata.yaml").read_text())["rosbag2_bagfile_information"]
    return {t["topic_metadata"]["name"]: t["message_count"] for t in info["topics_with_message_count"]}


# ---- real bags ----

@pytest.mark.data
@pytest.mark.parametrize("name", ["uf_gpsnav_ackermann_ros2_sqlite3/bag", *(f"crazyflie_vicon_ros2_mcap/{b}" for b in
                                  ("flybag", "pitch0bag", "pitch2bag", "roll2bag"))])
def test_counts_of_real_bags_are_those_of_their_metadata(name):
    folder = real(name)
    recording = read_bag(folder)
    assert {n: t.count for n, t in recording.topics.items()} == expected_counts(folder)
    assert recording.lost == 0
    assert recording.notes == []
    (file,) = (f for f in folder.iterdir() if f.suffix in (".db3", ".mcap"))
    alone = read_bag(file)
    assert {n: t.count for n, t in alone.topics.items() if t.count} == {n: c for n, c in expected_counts(folder).items() if c}


@pytest.mark.data
def test_the_ros1_bag_holds_what_its_provenance_says():
    recording = read_bag(real("husky_ros1_bag/test1.bag"))
    assert {n: t.count for n, t in recording.topics.items()} == {"/imu/data": 11865, "/husky_velocity_controller/odom": 3952, "/fix": 989}
    odom = recording.topics["/husky_velocity_controller/odom"]
    assert (odom.receive_ns[-1] - odom.receive_ns[0]) / 1e9 == pytest.approx(395.3, abs=0.5)
    first = next(odom.messages())
    assert odom.numbers("pose.pose.position.x")[0] == first.pose.pose.position.x
    assert odom.numbers("header.stamp.sec")[0] == first.header.stamp.sec


@pytest.mark.data
def test_the_car_becomes_an_episode_with_sensible_numbers():
    spec = robot.load("rc_car")
    (episode,) = episodes_from_bag(real("uf_gpsnav_ackermann_ros2_sqlite3/bag"), spec)
    x, y, yaw, speed = episode.state.T
    assert episode.duration == pytest.approx(101.7, abs=0.2)
    np.testing.assert_allclose(np.diff(episode.time), spec.tick_s, atol=1e-9)
    assert 3.69e5 < x.min() < x.max() < 3.70e5
    assert 3.280e6 < y.min() < y.max() < 3.281e6
    assert yaw.min() < -3
    assert yaw.max() > 3
    assert -math.pi <= yaw.min() <= yaw.max() <= math.pi
    assert 1.0 < np.percentile(speed, 95) < 1.3
    assert set(np.unique(episode.action[:, 0])) == {0.0, 2.0}
    # yaw rate follows v tan(steer) after 0.3 to 0.4 s, correlation about 0.6
    rate = np.gradient(np.unwrap(yaw), episode.time)
    turn = np.tan(np.clip(episode.action[:, 1], -0.5, 0.5))
    by_delay = {k: np.corrcoef(rate[k:], speed[k:] * turn[:len(x) - k])[0, 1] for k in (1, 6, 7, 20)}
    assert max(by_delay, key=by_delay.get) in (6, 7)
    assert by_delay[7] > 0.55
    notes = " ".join(episode.notes)
    assert "vehicle_pose: 2034 of 2034 messages have no header stamp" in notes
    assert "odometry: header stamps are 5.7" in notes


@pytest.mark.data
def test_utm_coordinates_lose_nothing():
    recording = read_bag(real("uf_gpsnav_ackermann_ros2_sqlite3/bag"), ["vehicle_pose"])
    pose = recording.topics["/vehicle_pose"]
    assert pose.table() is not None
    direct = np.array([m.pose.position.y for m in pose.messages()])
    np.testing.assert_array_equal(pose.numbers("pose.position.y"), direct)
    assert not np.array_equal(direct, direct.astype(np.float32))


# ---- synthetic bags, all formats ----

FORMATS = ["mcap", "mcap:storage", "mcap:message", "mcap:file", "sqlite3", "sqlite3:message", "sqlite3:file", "ros1"]


def make(folder, rows, kind):
    if kind == "ros1":
        return write_ros1(folder / "run.bag", rows)
    storage, _, compression = kind.partition(":")
    return write_rosbag2(folder / "run", rows, storage, compression)


@pytest.mark.parametrize("kind", FORMATS)
def test_numbers_come_back_as_they_were_written(tmp_path, kind):
    rows, states = run_of_arm(60)
    recording = read_bag(make(tmp_path, rows, kind))
    assert recording.kept == len(rows)
    joints = recording.topics["/joint_states"]
    assert (joints.type, joints.count, len(joints.payloads)) == (JOINTS, 60, 60)
    np.testing.assert_array_equal(joints.numbers("position[1]"), states[:, 1])
    np.testing.assert_array_equal(joints.numbers("velocity[0]"), states[:, 2])
    np.testing.assert_array_equal(joints.receive_ns, [at for topic, _, _, at in rows if topic == "/joint_states"])
    np.testing.assert_array_equal(recording.topics["/commands"].numbers("data[0]"), np.arange(0, 60, 2.0))


@pytest.mark.parametrize("kind", FORMATS)
def test_an_episode_is_interpolated_states_and_held_commands(tmp_path, kind):
    rows, states = run_of_arm(100)
    (episode,) = episodes_from_bag(make(tmp_path, rows, kind), spec_of())
    spec = spec_of()
    # grid: from the first command (0.3 ms after the first state), every 20 ms
    np.testing.assert_allclose(episode.time, 0.0003 + 0.02 * np.arange(len(episode)), atol=1e-9)
    source = 0.01 * np.arange(100)
    for i in range(spec.state_dim):
        np.testing.assert_allclose(episode.state[:, i], np.interp(episode.time, source, states[:, i]), atol=1e-9)
    np.testing.assert_array_equal(episode.action[:, 0], 2.0 * np.arange(len(episode)))
    np.testing.assert_array_equal(episode.action[:, 1], -episode.action[:, 0])
    assert len(episode) == 50


@given(st.lists(st.tuples(st.floats(-1e6, 1e6), st.floats(-3, 3)), min_size=1, max_size=20), st.booleans())
@settings(max_examples=25, deadline=None)
def test_the_array_reading_and_the_reading_message_by_message_agree(tmp_path_factory, numbers, shuffle):
    path = tmp_path_factory.mktemp("bag") / "run"
    names = [("shoulder", "elbow"), ("elbow", "shoulder")]
    rows = [("/joint_states", JOINTS, joint_state(10**9 + i, q, q, names[i % 2 if shuffle else 0]), 10**9 + i)
            for i, q in enumerate(numbers)]
    topic = read_bag(write_rosbag2(path, rows)).topics["/joint_states"]
    spec = spec_of()
    reader = MessageReader(spec.state, spec.state_low, spec.state_high)
    columns = topic.columns(reader)
    slow = topic._slow(reader)
    assert columns.vectorised == (not shuffle or len(numbers) == 1)
    np.testing.assert_array_equal(columns.values, slow.values)
    np.testing.assert_array_equal(columns.stamp_ns, slow.stamp_ns)
    assert columns.rejected == slow.rejected


def test_both_readings_reject_the_same_messages_for_the_same_reasons(tmp_path):
    bad = {3: (math.nan, 0.0), 5: (0.0, 4.0), 6: (0.0, -4.0)}
    rows = [("/joint_states", JOINTS, joint_state(10**9 + i, bad.get(i, (0.1, 0.2)), (0, 0)), 10**9 + i) for i in range(10)]
    topic = read_bag(write_rosbag2(tmp_path / "run", rows)).topics["/joint_states"]
    spec = spec_of()
    reader = MessageReader(spec.state, spec.state_low, spec.state_high)
    fast, slow = topic.columns(reader), topic._slow(reader)
    assert fast.vectorised
    assert fast.rejected == slow.rejected == {"signal 'q1' is not finite": 1, "signal 'q2' is outside its bounds": 2}
    assert len(fast.values) == len(slow.values) == 7


def test_euler_angles_read_as_arrays_equal_those_of_single_messages(tmp_path):
    rng = np.random.default_rng(0)
    pose = "geometry_msgs/msg/PoseStamped"
    rows = [("/pose", pose, encode(pose, {"pose": {"orientation": dict(zip("xyzw", q, strict=True))}}), 10**9 + i)
            for i, q in enumerate(rng.normal(size=(20, 4)))]
    where = {"topic": "pose", "type": pose, "unit": "rad"}
    spec = changed(state=[{"name": a, "field": f"pose.orientation.{a}", **where} for a in ("roll", "pitch", "yaw")])
    topic = read_bag(write_rosbag2(tmp_path / "run", rows)).topics["/pose"]
    reader = MessageReader(spec.state, spec.state_low, spec.state_high)
    fast = topic.columns(reader)
    assert fast.vectorised
    np.testing.assert_allclose(fast.values, topic._slow(reader).values, atol=1e-12)


# ---- types ----

def test_a_type_that_only_the_bag_knows(tmp_path):
    store = get_typestore(Stores.ROS2_HUMBLE)
    store.register(get_types_from_msg("std_msgs/Header header\nstring label\nfloat32 level\nWheel[2] wheels\n" + "=" * 80
                                      + "\nMSG: my_msgs/Wheel\nfloat64 speed\nuint8 state\n", "my_msgs/msg/Pump"))
    pump, wheel = store.types["my_msgs/msg/Pump"], store.types["my_msgs/msg/Wheel"]
    header = store.types["std_msgs/msg/Header"](store.types["builtin_interfaces/msg/Time"](1, 0), "")
    made = [pump(header, label, i / 4, [wheel(i, 1), wheel(-i, 2)]) for i, label in enumerate(["a", "a", "a", "long", "a"])]
    rows = [("/pump", "my_msgs/msg/Pump", bytes(store.serialize_cdr(m, "my_msgs/msg/Pump")), 10**9 + i) for i, m in enumerate(made)]
    for storage in ("mcap", "sqlite3"):
        topic = read_bag(write_rosbag2(tmp_path / storage, rows, storage, store=store)).topics["/pump"]
        assert topic.table() is None  # the label has no constant length
        np.testing.assert_array_equal(topic.numbers("wheels[1].speed"), [0, -1, -2, -3, -4])
        same = read_bag(write_rosbag2(tmp_path / f"{storage}-same", rows[:3], storage, store=store)).topics["/pump"]
        assert same.table() is not None
        np.testing.assert_array_equal(same.numbers("wheels[1].speed"), [0, -1, -2])
        np.testing.assert_array_equal(same.numbers("wheels[0].state"), [1, 1, 1])
        np.testing.assert_array_equal(same.numbers("level"), [0, 0.25, 0.5])


def test_a_standard_name_with_another_definition_is_read_as_the_bag_defines_it(tmp_path):
    store = get_typestore(Stores.EMPTY)
    store.register(get_types_from_msg("float32 extra\nfloat64 data\n", "std_msgs/msg/Float64"))
    message = store.types["std_msgs/msg/Float64"](1.5, 2.5)
    rows = [("/a", "std_msgs/msg/Float64", bytes(store.serialize_cdr(message, "std_msgs/msg/Float64")), 10**9)]
    topic = read_bag(write_rosbag2(tmp_path / "run", rows, store=store)).topics["/a"]
    assert topic.numbers("data")[0] == 2.5


def test_a_type_that_nobody_knows_is_an_error_only_when_it_is_used(tmp_path):
    rows, _ = run_of_arm(20)
    (file,) = write_rosbag2(tmp_path / "run", rows, "sqlite3").glob("*.db3")
    with sqlite3.connect(file) as database:
        database.execute("UPDATE topics SET type = 'my_msgs/msg/Secret' WHERE name = '/commands'")
    recording = read_bag(file)
    assert recording.topics["/commands"].count == 10
    with pytest.raises(DataError, match="neither a standard one nor defined in the bag"):
        next(recording.topics["/commands"].messages())


def test_messages_of_changing_length_are_read_one_by_one(tmp_path):
    rows = [("/commands", ARRAY, array(*range(n)), 10**9 + n) for n in (1, 2, 3, 4)]
    topic = read_bag(write_rosbag2(tmp_path / "run", rows)).topics["/commands"]
    assert topic.table() is None
    np.testing.assert_array_equal(topic.numbers("data[1]"), [np.nan, 1, 1, 1])


# ---- topics ----

def test_relative_names_match_the_end_of_recorded_ones():
    recorded = {"/robot1/joint_states": JOINTS, "/commands": ARRAY, "/a/my_commands": ARRAY}
    assert match_topic("joint_states", recorded, JOINTS, "bag") == "/robot1/joint_states"
    assert match_topic("commands", recorded, ARRAY, "bag") == "/commands"
    assert match_topic("/joint_states", recorded, JOINTS, "bag") is None
    assert match_topic("states", recorded, JOINTS, "bag") is None


def test_an_ambiguous_name_is_an_error_that_a_remapping_cures(tmp_path):
    a, _ = run_of_arm(20, prefix="/robot1")
    b, _ = run_of_arm(20, prefix="/robot2")
    path = write_rosbag2(tmp_path / "run", sorted([*a, *b], key=lambda r: r[3]))
    with pytest.raises(DataError, match=r"'joint_states' may be any of /robot1/joint_states, /robot2/joint_states; say which"):
        episodes_from_bag(path, spec_of())
    (episode,) = episodes_from_bag(path, spec_of(), {"joint_states": "/robot1/joint_states", "commands": "/robot2/commands"})
    assert len(episode) == 10
    assert match_topic("x", {"/x": "A", "/n/x": "B"}, "A", "bag") == "/x"
    assert match_topic("x", {"/x": "A", "/n/x": "B"}, "B", "bag") == "/n/x"


def test_a_missing_topic_names_the_nearest(tmp_path):
    rows, _ = run_of_arm(20)
    path = write_rosbag2(tmp_path / "run", [r for r in rows if r[0] == "/joint_states"])
    with pytest.raises(DataError, match=r"no topic 'commands' for 'u1', 'u2'; nearest: '/joint_states'"):
        episodes_from_bag(path, spec_of())


def test_another_type_than_the_yaml_says_is_an_error(tmp_path):
    rows = [("/joint_states", ARRAY, array(1.0), 10**9), ("/commands", ARRAY, array(1.0, 2.0), 10**9)]
    with pytest.raises(DataError, match="recorded as std_msgs/msg/Float64MultiArray, but the robot's YAML says sensor_msgs/msg/JointState"):
        episodes_from_bag(write_rosbag2(tmp_path / "run", rows), spec_of())


def test_only_the_topics_asked_for_are_kept_but_all_are_counted(tmp_path):
    rows, _ = run_of_arm(20)
    for storage in ("mcap", "sqlite3"):
        recording = read_bag(write_rosbag2(tmp_path / storage, rows, storage), ["commands"])
        assert {n: (t.count, len(t.payloads)) for n, t in recording.topics.items()} == {"/joint_states": (20, 0), "/commands": (10, 10)}


@pytest.mark.parametrize(("name", "content", "reason"), [
    ("a.mcap", b"", "empty"), ("a.mcap", b"not an mcap file", "does not begin as an MCAP"), ("a.db3", b"", "no table of topics"),
    ("a.db3", b"junk" * 1000, "not a database"), ("a.bag", b"junk" * 100, "ROS 1 bag"), ("a.txt", b"hello", "is no kind of log"),
    ("metadata.yaml", b"a: [", "no kind of log")])
def test_what_is_no_bag_is_refused_in_one_sentence(tmp_path, name, content, reason):
    (tmp_path / name).write_bytes(content)
    with pytest.raises(DataError, match=reason) as caught:
        load_episodes(tmp_path / name, spec_of())
    assert "\n" not in str(caught.value)
    assert name in str(caught.value)


def test_folders_without_bags_and_bad_metadata(tmp_path):
    with pytest.raises(DataError, match="there is no such"):
        load_episodes(tmp_path / "none", spec_of())
    with pytest.raises(DataError, match="no CSV file and no bag"):
        load_episodes(tmp_path, spec_of())
    (tmp_path / "metadata.yaml").write_text("rosbag2_bagfile_information: 3")
    with pytest.raises(DataError, match="not the metadata of a bag"):
        load_episodes(tmp_path, spec_of())
