"""Bags of every kind to numbers and episodes: real ones against their provenance, synthetic ones against what was written."""

from __future__ import annotations

import math
import shutil
import sqlite3

import numpy as np
import pytest
import yaml
from bag_tools import ARRAY, JOINTS, array, changed, joint_state, real, run_of_arm, spec_of, write_ros1, write_rosbag2
from hypothesis import given, settings
from hypothesis import strategies as st
from mcap.writer import CompressionType
from mcap.writer import Writer as McapWriter
from rosbags.rosbag2 import Reader
from rosbags.typesys import Stores, get_types_from_msg, get_typestore

from mbrl_control import robot
from mbrl_control.data.bag_episodes import episodes_from_bag
from mbrl_control.data.bags import match_topic, read_bag
from mbrl_control.data.loading import load_episodes
from mbrl_control.data.mcap_bag import McapBag
from mbrl_control.data.message_types import definition, encode
from mbrl_control.data.recover import recover
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


# ---- damaged and odd bags ----

def test_a_folder_without_metadata_reads_and_says_so(tmp_path):
    rows, _ = run_of_arm(20)
    folder = write_rosbag2(tmp_path / "run", rows)
    (folder / "metadata.yaml").unlink()
    recording = read_bag(folder)
    assert recording.kept == len(rows)
    assert "no metadata.yaml" in recording.notes[0]


@pytest.mark.parametrize("storage", ["mcap", "sqlite3"])
@pytest.mark.parametrize("metadata", [True, False])
def test_split_bags_are_one_recording(tmp_path, storage, metadata):
    rows, states = run_of_arm(120)
    end = {"mcap": "mcap", "sqlite3": "db3"}[storage]
    whole = tmp_path / "run"
    whole.mkdir()
    for i, start in {1: 0, 2: 60, 10: 120}.items():
        made = write_rosbag2(tmp_path / f"part{i}", rows[start:start + 60], storage)
        shutil.move(next(made.glob(f"*.{end}")), whole / f"run_{i}.{end}")
    if metadata:
        text = yaml.safe_load((tmp_path / "part1/metadata.yaml").read_text())
        info = text["rosbag2_bagfile_information"]
        info["relative_file_paths"] = [f"run_{i}.{end}" for i in (1, 2, 10)]
        info["message_count"] = len(rows)
        (whole / "metadata.yaml").write_text(yaml.safe_dump(text))
    recording = read_bag(whole)
    assert recording.kept == len(rows)
    np.testing.assert_array_equal(recording.topics["/joint_states"].numbers("position[0]"), states[:, 0])
    (episode,) = load_episodes(whole, spec_of())
    assert len(episode) == 60


def test_a_missing_split_is_told_and_counted(tmp_path):
    rows, _ = run_of_arm(20)
    folder = write_rosbag2(tmp_path / "run", rows)
    text = yaml.safe_load((folder / "metadata.yaml").read_text())
    text["rosbag2_bagfile_information"]["relative_file_paths"].append("run_1.mcap")
    text["rosbag2_bagfile_information"]["message_count"] += 7
    (folder / "metadata.yaml").write_text(yaml.safe_dump(text))
    recording = read_bag(folder)
    assert (recording.kept, recording.lost) == (len(rows), 7)
    assert "run_1.mcap" in recording.notes[0]


def small_chunks(path, rows):
    """An MCAP file of many chunks and its messages in order."""
    bag = McapBag(path, chunk_bytes=2000)
    for topic, kind, payload, at in rows:
        bag.write(topic, kind, payload, at, at)
    bag.close()
    return bag.path.read_bytes()


def test_a_file_cut_anywhere_gives_exactly_a_prefix(tmp_path):
    rows, _ = run_of_arm(100)
    whole = small_chunks(tmp_path / "whole", rows)
    everything = [(t, p) for t, _, p, _ in sorted(rows, key=lambda r: r[3])]
    cut, kept_before = tmp_path / "cut.mcap", 0
    for size in [*range(0, 40), *range(40, len(whole), 193), len(whole) - 1]:
        cut.write_bytes(whole[:size])
        if size < 8:
            with pytest.raises(DataError, match=r"cut\.mcap"):
                read_bag(cut)
            continue
        recording = read_bag(cut)
        found = sorted((int(at), t.name, p) for t in recording.topics.values() for at, p in zip(t.receive_ns, t.payloads, strict=True))
        assert [(name, p) for _, name, p in found] == everything[:len(found)]
        assert len(found) >= kept_before
        assert "before it was closed" in recording.notes[0]
        assert len(found) + recording.lost <= len(rows)
        kept_before = len(found)
    assert kept_before == len(rows)


def test_lost_messages_of_a_cut_chunk_are_counted(tmp_path):
    rows, _ = run_of_arm(100)
    whole = small_chunks(tmp_path / "whole", rows)
    cut = tmp_path / "cut.mcap"
    cut.write_bytes(whole[:whole.index(rows[70][2]) + 5])
    recording = read_bag(cut)
    assert recording.kept + recording.lost == 71


@given(st.integers(50, 15_000), st.integers(1, 255))
@settings(max_examples=60, deadline=None)
def test_a_flipped_byte_never_yields_a_wrong_message(tmp_path_factory, at, change):
    folder = tmp_path_factory.mktemp("flip")
    rows, _ = run_of_arm(60)
    data = bytearray(small_chunks(folder / "whole", rows))
    data[at % len(data)] ^= change
    (folder / "flipped.mcap").write_bytes(bytes(data))
    written = {(t, p) for t, _, p, _ in rows}
    try:
        recording = read_bag(folder / "flipped.mcap")
    except DataError:
        return
    for topic in recording.topics.values():
        if topic.name in ("/joint_states", "/commands"):
            assert all((topic.name, p) in written for p in topic.payloads)


def test_recovering_makes_a_bag_that_others_read(tmp_path):
    rows, _ = run_of_arm(100)
    whole = small_chunks(tmp_path / "whole", rows)
    cut = tmp_path / "cut.mcap"
    cut.write_bytes(whole[:len(whole) // 2])
    before = read_bag(cut)
    kept, lost = recover(cut, tmp_path / "saved")
    assert (kept, lost) == (before.kept, before.lost)
    assert lost > 0
    with Reader(tmp_path / "saved") as reader:
        assert reader.message_count == kept
        raw = [(c.topic, at, bytes(data)) for c, at, data in reader.messages()]
    assert raw == [(t, at, p) for t, _, p, at in sorted(rows, key=lambda r: r[3])][:kept]
    with pytest.raises(DataError, match="exists already"):
        recover(cut, tmp_path / "saved")


@pytest.mark.parametrize("compression", [CompressionType.LZ4, CompressionType.ZSTD])
def test_compressed_chunks_of_another_writer_read_and_recover(tmp_path, compression):
    rows, states = run_of_arm(100)
    with (tmp_path / "other.mcap").open("wb") as file:
        writer = McapWriter(file, chunk_size=2000, compression=compression)
        writer.start(profile="ros2")
        channels = {}
        for topic, kind, payload, at in rows:
            if topic not in channels:
                channels[topic] = writer.register_channel(topic, "cdr", writer.register_schema(kind, "ros2msg", definition(kind).encode()))
            writer.add_message(channels[topic], at, payload, at)
        writer.finish()
    np.testing.assert_array_equal(read_bag(tmp_path / "other.mcap").topics["/joint_states"].numbers("position[0]"), states[:, 0])
    data = (tmp_path / "other.mcap").read_bytes()
    (tmp_path / "cut.mcap").write_bytes(data[:len(data) // 3])
    kept, lost = recover(tmp_path / "cut.mcap", tmp_path / "saved")
    assert 0 < kept < len(rows)
    assert lost >= 1
    found = read_bag(tmp_path / "saved").topics["/joint_states"].numbers("position[0]")
    np.testing.assert_array_equal(found, states[:len(found), 0])


@pytest.mark.data
def test_recovering_a_real_bag_of_another_format_keeps_every_message(tmp_path):
    kept, lost = recover(real("uf_gpsnav_ackermann_ros2_sqlite3/bag"), tmp_path / "car")
    assert (kept, lost) == (5348, 0)
    (episode,) = episodes_from_bag(tmp_path / "car", robot.load("rc_car"))
    (direct,) = episodes_from_bag(real("uf_gpsnav_ackermann_ros2_sqlite3/bag"), robot.load("rc_car"))
    np.testing.assert_array_equal(episode.state, direct.state)
    np.testing.assert_array_equal(episode.action, direct.action)


def test_a_truncated_sqlite_file_gives_what_is_sound(tmp_path):
    rows, states = run_of_arm(2000)
    (file,) = write_rosbag2(tmp_path / "run", rows, "sqlite3").glob("*.db3")
    data = file.read_bytes()
    best = 0
    for share in (0.0, 0.0001, 0.3, 0.7, 0.95, 1.0):
        cut = tmp_path / "cut.db3"
        cut.write_bytes(data[:int(len(data) * share)])
        if share < 0.01:  # not even the table of topics is there
            with pytest.raises(DataError, match=r"cut\.db3"):
                read_bag(cut)
            continue
        recording = read_bag(cut)
        topic = recording.topics["/joint_states"]
        found = topic.numbers("position[0]") if topic.payloads else np.empty(0)
        np.testing.assert_array_equal(found, states[:len(found), 0])
        assert len(found) == 2000 or "is damaged" in " ".join(recording.notes)
        assert len(found) >= best
        best = len(found)
    assert best == 2000


def test_messages_still_in_the_write_ahead_log_are_read(tmp_path):
    rows, _ = run_of_arm(20)
    (file,) = write_rosbag2(tmp_path / "run", rows, "sqlite3").glob("*.db3")
    database = sqlite3.connect(file)
    database.execute("PRAGMA journal_mode=WAL")
    database.execute("INSERT INTO messages(topic_id, timestamp, data) SELECT topic_id, timestamp + 1, data FROM messages WHERE id = 1")
    database.commit()
    assert read_bag(file).kept == len(rows) + 1
    database.close()


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


# ---- clocks and gaps ----

def arm_rows(times, stamps=None, commands=None, offset=200_000):
    stamps = times if stamps is None else stamps
    rows = [("/joint_states", JOINTS, joint_state(s, (0.01 * i, 0), (0, 0)), t + offset)
            for i, (t, s) in enumerate(zip(times, stamps, strict=True))]
    rows += [("/commands", ARRAY, array(float(k), 0.0), t) for k, t in enumerate(times if commands is None else commands)]
    return sorted(rows, key=lambda r: r[3])


def test_zero_stamps_fall_back_to_receipt_and_say_so(tmp_path):
    times = [10**9 + 20_000_000 * i for i in range(30)]
    (episode,) = episodes_from_bag(write_rosbag2(tmp_path / "run", arm_rows(times, [0] * 30)), spec_of())
    assert "joint_states: 30 of 30 messages have no header stamp; the time of receipt is used" in episode.notes
    (mixed,) = episodes_from_bag(write_rosbag2(tmp_path / "mixed", arm_rows(times, [0, *times[1:]])), spec_of())
    assert "joint_states: 1 of 30 messages have no header stamp; the time of receipt is used" in mixed.notes


def test_stamps_of_another_clock_are_not_mixed_with_receipt(tmp_path):
    times = [10**9 * 1000 + 20_000_000 * i for i in range(30)]
    (episode,) = episodes_from_bag(write_rosbag2(tmp_path / "run", arm_rows(times, [t - 900 * 10**9 for t in times])), spec_of())
    assert any("another clock" in n for n in episode.notes)
    np.testing.assert_allclose(episode.state[:, 0], 0.01 * (episode.time - 0.0002) / 0.02, atol=1e-9)


def test_stamps_of_the_simulation_are_used_when_everything_has_them(tmp_path):
    wall = [10**9 * 1000 + 40_000_000 * i for i in range(30)]  # simulated at half speed
    sim = [10**9 + 20_000_000 * i for i in range(30)]
    rows = []
    for i, (w, s) in enumerate(zip(wall, sim, strict=True)):
        rows.append(("/joint_states", JOINTS, joint_state(s, (0.01 * i, 0), (0, 0)), w))
        sent = {"header": {"stamp": s}, "name": ["u1", "u2"], "position": [i, -i]}
        rows.append(("/mbrl/command", JOINTS, encode(JOINTS, sent), w + 1000))
    (episode,) = episodes_from_bag(write_rosbag2(tmp_path / "run", rows), spec_of())
    np.testing.assert_allclose(episode.time, 0.02 * np.arange(30), atol=1e-9)
    np.testing.assert_array_equal(episode.action[:, 0], np.arange(30))


def test_a_gap_makes_a_new_episode(tmp_path):
    times = [10**9 + 20_000_000 * i for i in range(100) if not 40 <= i < 60]
    first, second = episodes_from_bag(write_rosbag2(tmp_path / "run", arm_rows(times, offset=0)), spec_of())
    assert first.time[-1] <= 0.8
    assert second.time[0] >= 1.19
    assert first.truncated
    assert not first.terminated
    assert np.diff(first.time).max() < 0.021
    assert np.diff(second.time).max() < 0.021


def test_a_command_that_stops_ends_the_episode_but_a_short_break_does_not(tmp_path):
    times = [10**9 + 20_000_000 * i for i in range(100)]
    stops = episodes_from_bag(write_rosbag2(tmp_path / "stops", arm_rows(times, commands=times[:50])), spec_of())
    assert [round(e.duration, 2) for e in stops] == [1.0]
    (holds,) = episodes_from_bag(write_rosbag2(tmp_path / "holds", arm_rows(times, commands=times[:50] + times[55:])), spec_of())
    assert holds.duration > 1.9
    assert (holds.action[51:54, 0] == 49).all()


def test_a_slow_topic_has_no_gaps_at_its_own_rate(tmp_path):
    rows = arm_rows([10**9 + 20_000_000 * i for i in range(200)])
    rows += [("/gps", "std_msgs/msg/Float64", encode("std_msgs/msg/Float64", {"data": float(i)}), 10**9 + 10**9 * i) for i in range(4)]
    state = [{"name": "q1", "joint": "shoulder", "unit": "rad"},
             {"name": "g", "topic": "gps", "type": "std_msgs/msg/Float64", "field": "data", "unit": "m"}]
    (episode,) = episodes_from_bag(write_rosbag2(tmp_path / "run", sorted(rows, key=lambda r: r[3])), changed(state=state))
    assert episode.duration == pytest.approx(3.0, abs=0.03)
    np.testing.assert_allclose(episode.state[:, 1], episode.time, atol=1e-9)


def test_a_single_command_is_held(tmp_path):
    times = [10**9 + 20_000_000 * i for i in range(50)]
    (episode,) = episodes_from_bag(write_rosbag2(tmp_path / "run", arm_rows(times, commands=times[10:11])), spec_of())
    assert (episode.action == 0).all()
    assert episode.duration == pytest.approx(39 * 0.02, abs=0.021)
    assert any("1 command messages only" in n for n in episode.notes)


def test_angles_are_interpolated_around_the_circle(tmp_path):
    times = [10**9 + 40_000_000 * i for i in range(20)]
    rows = []
    for i, t in enumerate(times):
        angle = math.pi - 0.1 if i % 2 == 0 else -math.pi + 0.1
        rows.append(("/joint_states", JOINTS, joint_state(t, (angle, 0), (0, 0)), t))
        rows.append(("/commands", ARRAY, array(0.0, 0.0), t))
    (episode,) = episodes_from_bag(write_rosbag2(tmp_path / "run", rows), spec_of())
    assert (np.abs(episode.state[:, 0]) >= math.pi - 0.1 - 1e-9).all()
    np.testing.assert_allclose(np.abs(episode.state[1::2, 0]), math.pi, atol=1e-6)


def test_doubled_times_are_left_out_and_told(tmp_path):
    times = [10**9 + 20_000_000 * (i // 2) for i in range(40)]
    (episode,) = episodes_from_bag(write_rosbag2(tmp_path / "run", arm_rows(times)), spec_of())
    assert any("joint_states: 20 messages bear the same time" in n for n in episode.notes)


def test_the_stamped_command_is_preferred_and_sets_the_rows(tmp_path):
    rows, _ = run_of_arm(60)
    for i in range(30):
        at = 1_000_000_000 + 20_000_000 * i + 3_000_000
        twin = encode(JOINTS, {"header": {"stamp": at}, "name": ["u2", "u1"], "position": [100.0 + i, 200.0 + i]})
        decision = encode(JOINTS, {"header": {"stamp": at}, "name": ["model_version"], "position": [float(i // 10)]})
        rows += [("/mbrl/command", JOINTS, twin, at + 1000), ("/mbrl/decision", JOINTS, decision, at + 2000)]
    (episode,) = episodes_from_bag(write_rosbag2(tmp_path / "run", sorted(rows, key=lambda r: r[3])), spec_of())
    np.testing.assert_allclose(episode.time, 0.003 + 0.02 * np.arange(30), atol=1e-9)
    np.testing.assert_array_equal(episode.action, np.column_stack([200 + np.arange(30), 100 + np.arange(30)]))
    np.testing.assert_array_equal(episode.model_version, np.arange(30) // 10)


def test_publish_times_of_headerless_commands_are_used(tmp_path):
    bag = McapBag(tmp_path / "run")
    for i in range(50):
        at = 10**9 + 20_000_000 * i
        bag.write("/joint_states", JOINTS, joint_state(at, (0, 0), (0, 0)), at, at)
        bag.write("/commands", ARRAY, array(float(i), 0.0), at + 15_000_000, at)
    bag.close()
    (episode,) = episodes_from_bag(tmp_path / "run", spec_of())
    np.testing.assert_array_equal(episode.action[:, 0], np.arange(len(episode)))
    assert episode.time[0] == 0


def test_rejected_messages_are_counted_in_the_notes(tmp_path):
    rows, _ = run_of_arm(60)
    rows[30] = ("/joint_states", JOINTS, joint_state(rows[30][3], (0, 9), (0, 0)), rows[30][3])
    (episode,) = episodes_from_bag(write_rosbag2(tmp_path / "run", rows), spec_of())
    assert any("1 of 60 messages rejected: 1 × signal 'q2' is outside its bounds" in n for n in episode.notes)


def test_nothing_at_once_is_an_error_that_tells_what_there_is(tmp_path):
    times = [10**9 + 20_000_000 * i for i in range(50)]
    rows = arm_rows(times, commands=[t + 10**11 for t in times])
    with pytest.raises(DataError, match="joint_states: 50 usable messages; commands: 50 usable"):
        episodes_from_bag(write_rosbag2(tmp_path / "run", rows), spec_of())
