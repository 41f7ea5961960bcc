"""Files made with ill intent: bombs, endless queries, pipes in place of files. Each is refused in a sentence, at once, in little memory."""

from __future__ import annotations

import bz2
import os
import sqlite3
import struct
import time
import tracemalloc

import lz4.frame
import numpy as np
import pytest
import yaml
import zstandard
from bag_tools import ARRAY, JOINTS, array, joint_state, run_of_arm, spec_of, write_ros1, write_rosbag2
from mcap.writer import CompressionType
from mcap.writer import Writer as McapWriter
from rosbags.rosbag1 import Writer as Ros1Writer
from rosbags.typesys import Stores, get_typestore

from mbrl_control import guarded, robot, strict_yaml
from mbrl_control.data.bags import read_bag
from mbrl_control.data.expansion import FREE_EXPANSION, MAX_EXPANSION, Expansion, ExpansionError
from mbrl_control.data.loading import load_episodes
from mbrl_control.data.mcap_records import MAGIC
from mbrl_control.data.message_types import TypeBook, decode, definition
from mbrl_control.data.tail import McapTail
from mbrl_control.errors import DataError, SpecError, UserError
from mbrl_control.files import TooLargeError, read_plain
from mbrl_control.models import mjcf, mjcf_trial

BOMB = 300 << 20


@pytest.fixture
def frugal():
    """The test ends within a second and takes less than 100 MiB on the way."""
    begin = time.process_time()
    tracemalloc.start()
    yield
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 100 << 20
    assert time.process_time() - begin < 5.0  # tracing slows it; without, each is far below 1 s


def zeros(compress):
    """`BOMB` zero bytes, compressed without ever being there."""
    return compress(np.zeros(BOMB, np.uint8).tobytes())


BOMBS = {"zstd": zeros(zstandard.ZstdCompressor().compress), "lz4": zeros(lz4.frame.compress),
         "bz2": bz2.compress(bytes(FREE_EXPANSION + 1))}


def test_expansion_allows_a_free_amount_and_then_a_hundred_times():
    count = Expansion()
    count.add(1, FREE_EXPANSION)
    with pytest.raises(ExpansionError, match=rf"unpack to more than {MAX_EXPANSION} times their size"):
        count.add(1, 1)
    count = Expansion()
    count.add(FREE_EXPANSION, MAX_EXPANSION * FREE_EXPANSION)
    with pytest.raises(ExpansionError):
        count.add(0, 1)


@pytest.mark.parametrize("known", [True, False])
def test_zstd_frames_unpack_to_what_they_were_also_of_unknown_size(known):
    data = np.random.default_rng(0).integers(0, 9, 5 << 20, np.uint8).tobytes()
    packed = zstandard.ZstdCompressor(write_content_size=known).compress(data)
    count = Expansion()
    assert count.unzstd(packed) == data
    assert (count.packed, count.unpacked) == (len(packed), len(data))
    with pytest.raises(ExpansionError):
        Expansion(unpacked=1 << 40).unzstd(packed)


@pytest.mark.fault(row=32)
@pytest.mark.parametrize("compression", ["zstd", "lz4"])
def test_a_chunk_that_unpacks_without_end_is_refused(tmp_path, frugal, record_property, compression):
    packed, name = BOMBS[compression], compression.encode()
    chunk = struct.pack("<QQQI", 0, 1, BOMB, 0) + struct.pack("<I", len(name)) + name + struct.pack("<Q", len(packed)) + packed
    (tmp_path / "bag.mcap").write_bytes(MAGIC + struct.pack("<BQ", 6, len(chunk)) + chunk)
    with pytest.raises(DataError, match=r"bag\.mcap: its data unpack to more than 100 times their size"):
        read_bag(tmp_path / "bag.mcap")
    with pytest.raises(DataError, match=r"bag\.mcap: its data unpack to more than 100 times their size"):
        McapTail(tmp_path / "bag.mcap").read()
    record_property("measured", f"{compression}: {len(packed)} bytes that would become {BOMB} refused within 100 MiB")


@pytest.mark.fault(row=32)
def test_a_file_that_unpacks_without_end_is_refused(tmp_path, frugal):
    (tmp_path / "bag.mcap.zstd").write_bytes(BOMBS["zstd"])
    with pytest.raises(DataError, match=r"bag\.mcap\.zstd: its data unpack to more than 100 times"):
        read_bag(tmp_path / "bag.mcap.zstd")


@pytest.mark.fault(row=32)
def test_a_message_that_unpacks_without_end_is_refused(tmp_path, frugal):
    folder = write_rosbag2(tmp_path / "run", run_of_arm(4)[0], "sqlite3", "message")
    (file,) = folder.glob("*.db3")
    database = sqlite3.connect(file)
    database.execute("UPDATE messages SET data = ? WHERE id = 3", (BOMBS["zstd"],))
    database.commit()
    database.close()
    with pytest.raises(DataError, match="cannot be decompressed: its data unpack to more than 100 times"):
        read_bag(folder)


@pytest.mark.fault(row=32)
@pytest.mark.parametrize("compression", ["lz4", "bz2"])
def test_a_ros1_chunk_that_unpacks_without_end_is_refused(tmp_path, compression):
    store = get_typestore(Stores.ROS1_NOETIC)
    writer = Ros1Writer(tmp_path / "run.bag")
    writer.set_compression(Ros1Writer.CompressionFormat[compression.upper()])
    writer.compressor = lambda chunk: BOMBS[compression]
    with writer:
        connection = writer.add_connection("/commands", ARRAY, typestore=store)
        writer.write(connection, 1, bytes(12))
    tracemalloc.start()
    with pytest.raises(DataError, match=r"run\.bag: its data unpack to more than 100 times"):
        read_bag(tmp_path / "run.bag")
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 5 * FREE_EXPANSION  # the decompressor's own copies


def test_compressed_ros1_bags_read_as_before(tmp_path):
    rows, states = run_of_arm(60)
    for compression in ("BZ2", "LZ4"):
        path = write_ros1(tmp_path / f"{compression}.bag", rows, compression)
        np.testing.assert_array_equal(read_bag(path).topics["/joint_states"].numbers("position[0]"), states[:, 0])


@pytest.mark.fault(row=31)
def test_a_record_that_claims_any_length_takes_no_memory(tmp_path, frugal):
    (tmp_path / "bag.mcap").write_bytes(MAGIC + struct.pack("<BQ", 6, (1 << 30) - 1) + bytes(100))
    recording = read_bag(tmp_path / "bag.mcap")
    assert recording.kept == 0
    assert McapTail(tmp_path / "bag.mcap").read() == []


def sqlite_bag(path, messages):
    """An SQLite bag whose table (or view) of messages is made by the statement `messages`."""
    database = sqlite3.connect(path)
    database.execute("CREATE TABLE topics(id INTEGER PRIMARY KEY, name TEXT, type TEXT, serialization_format TEXT)")
    database.execute("INSERT INTO topics VALUES (1, '/commands', ?, 'cdr')", (ARRAY,))
    database.execute(messages)
    database.commit()
    return database


@pytest.mark.fault(row=31)
@pytest.mark.parametrize("messages", [
    "CREATE VIEW messages AS WITH RECURSIVE n(id) AS (SELECT 1 UNION ALL SELECT id + 1 FROM n) "
    "SELECT id, 1 AS topic_id, id AS timestamp, x'00010000' AS data FROM n",
    "CREATE TABLE messages(id INTEGER PRIMARY KEY, topic_id INTEGER, timestamp INTEGER, data BLOB AS (zeroblob(900000000)))",
    "CREATE VIRTUAL TABLE messages USING fts5(topic_id, timestamp, data)",
])
def test_messages_that_a_statement_makes_up_are_no_messages(tmp_path, frugal, messages):
    database = sqlite_bag(tmp_path / "bag.db3", messages)
    if "zeroblob" in messages:
        database.execute("INSERT INTO messages(topic_id, timestamp) VALUES (1, 1)")
        database.commit()
    database.close()
    with pytest.raises(DataError, match=r"bag\.db3: an SQLite file, but not a bag"):
        read_bag(tmp_path / "bag.db3")


def interior(data, page):
    """Places of the child pointers on an interior page of a table."""
    at, size = (page - 1) * 512, 512
    assert data[at] == 5
    assert len(data) % size == 0
    return [at + int.from_bytes(data[at + 12 + 2 * i:at + 14 + 2 * i], "big") for i in range(int.from_bytes(data[at + 3:at + 5], "big"))]


@pytest.mark.fault(row=31)
def test_a_tree_of_pages_that_repeats_itself_ends(tmp_path, frugal, record_property):
    """Interior pages may name one child many times: a small file then has more rows than could ever be read."""
    count, payload = 30_000, array(1.0)
    database = sqlite3.connect(tmp_path / "bag.db3")
    database.execute("PRAGMA page_size = 512")
    database.execute("CREATE TABLE topics(id INTEGER PRIMARY KEY, name TEXT, type TEXT, serialization_format TEXT)")
    database.execute("INSERT INTO topics VALUES (1, '/commands', ?, 'cdr')", (ARRAY,))
    database.execute("CREATE TABLE messages(id INTEGER PRIMARY KEY, topic_id INTEGER, timestamp INTEGER, data BLOB)")
    database.executemany("INSERT INTO messages VALUES (?, 1, ?, ?)", ((i, i, payload) for i in range(count)))
    database.commit()
    root = database.execute("SELECT rootpage FROM sqlite_master WHERE name = 'messages'").fetchone()[0]
    database.close()
    data = bytearray((tmp_path / "bag.db3").read_bytes())
    inner = [n for n in range(1, len(data) // 512 + 1) if data[(n - 1) * 512] == 5 and n != root]
    below, seeming = int.from_bytes(data[interior(data, inner[0])[0]:][:4], "big"), len(payload)
    for page in (*inner[:3], root):  # each names the one before, and the first a page of messages, in all its cells
        for cell in interior(data, page):
            data[cell:cell + 4] = below.to_bytes(4, "big")
        below, seeming = page, seeming * len(interior(data, page))
    (tmp_path / "bag.db3").write_bytes(bytes(data))
    assert seeming > 3 * len(data)  # it seems to hold so many bytes of messages, and more
    read = read_bag(tmp_path / "bag.db3", ["commands"])
    assert 0 < read.kept * len(payload) <= len(data)
    assert "more messages than the file has room for" in read.notes[0]
    counted = read_bag(tmp_path / "bag.db3", ["something_else"])
    assert counted.kept == 0
    assert "is damaged (interrupted)" in counted.notes[0]
    record_property("measured", f"pages that name one child many times: {read.kept} of {count} rows kept, then told as damaged")


def test_rows_that_are_no_messages_are_left_out_and_counted(tmp_path):
    folder = write_rosbag2(tmp_path / "run", run_of_arm(20)[0], "sqlite3")
    (file,) = folder.glob("*.db3")
    database = sqlite3.connect(file)
    for column, value in (("data", "text"), ("timestamp", "soon"), ("timestamp", 2**62), ("timestamp", -1)):
        database.execute(f"UPDATE messages SET {column} = ? WHERE id = (SELECT max(id) FROM messages WHERE topic_id = 1 AND "
                         "typeof(data) = 'blob' AND typeof(timestamp) = 'integer' AND timestamp BETWEEN 0 AND 1 << 61)", (value,))
    database.commit()
    database.close()
    recording = read_bag(folder)
    assert (recording.kept, recording.lost) == (26, 4)
    assert any("4 rows of topic /joint_states are no messages" in note for note in recording.notes)


@pytest.mark.fault(row=31)
def test_two_messages_a_century_apart_ask_for_no_grid_between_them(tmp_path, frugal):
    rows = [("/joint_states", JOINTS, joint_state(t, [0, 0], [0, 0]), t) for t in (1, 10**18, 2 * 10**18)]
    rows += [("/commands", ARRAY, array(0.0, 0.0), t) for t in (1, 2 * 10**18)]
    with pytest.raises(DataError, match="no stretch in which all topics of 'arm' have data at once"):
        load_episodes(write_rosbag2(tmp_path / "run", rows), spec_of())


def test_times_beyond_a_century_are_damage_and_not_an_overflow(tmp_path):
    with (tmp_path / "late.mcap").open("wb") as file:
        writer = McapWriter(file, compression=CompressionType.NONE)
        writer.start(profile="ros2")
        channel = writer.register_channel("/commands", "cdr", writer.register_schema(ARRAY, "ros2msg", definition(ARRAY).encode()))
        for at in (1, 2, 2**63 + 1, 3):
            writer.add_message(channel, at, array(1.0), at)
        writer.finish()
    recording = read_bag(tmp_path / "late.mcap")
    assert recording.topics["/commands"].receive_ns.tolist() == [1, 2]
    assert "is from beyond the year 2116" in recording.notes[0]


SEPARATOR = "\n" + "=" * 80 + "\n"


@pytest.mark.fault(row=31)
@pytest.mark.parametrize(("text", "said"), [
    ("Own a", "lies more than 30 messages deep, or inside itself"),
    ("Other a" + SEPARATOR + "MSG: my_msgs/Other\nOwn b", "inside itself"),
    ("A[1000] a" + SEPARATOR + "MSG: my_msgs/A\nB[1000] a" + SEPARATOR + "MSG: my_msgs/B\nuint8 a", "more than 100000 parts"),
    ("\n".join(f"uint8 a{i}" for i in range(5000)), "in 5000 statements; at most"),
    ("#" * (1 << 20) + "\nuint8 a", "at most 1048576"),
    ("Missing a", "Missing"),
    ("uint8 a\nuint8 a", "a"),
])
def test_definitions_that_would_never_end_are_refused(frugal, text, said):
    with pytest.raises(DataError, match="the definition of message type my_msgs/msg/Own in the bag cannot be understood") as caught:
        TypeBook({"my_msgs/msg/Own": (text, "ros2msg")}).store("my_msgs/msg/Own")
    assert said in str(caught.value)


def test_names_in_definitions_cannot_become_code():
    evil = "my_msgs/msg/Own:\n    import os\nclass X"
    with pytest.raises(DataError):
        TypeBook({evil: ("uint8 a", "ros2msg")}).store(evil)
    with pytest.raises(DataError):
        TypeBook({"my_msgs/msg/Own": ("uint8 a=__import__('os').getpid()\nuint8 b", "ros2msg")}).store("my_msgs/msg/Own")


def test_a_count_that_no_machine_holds_is_a_damaged_message():
    text = "Part[] parts" + SEPARATOR + "MSG: my_msgs/Part\nuint8 a"
    store = TypeBook({"my_msgs/msg/Own": (text, "ros2msg")}).store("my_msgs/msg/Own")
    for payload in (b"", b"\0", b"\0\1\0\0", b"\0\1\0\0\xff\xff\xff\xff", b"\0\1\0\0\xff\xff\xff\xff" + bytes(100)):
        with pytest.raises(DataError, match="no valid my_msgs/msg/Own"):
            decode("my_msgs/msg/Own", payload, store)


@pytest.mark.fault(row=31)
@pytest.mark.parametrize(("text", "said"), [
    ("a: &a [x, x]\nb: &b [*a, *a]\n", "anchors and aliases"), ("[" * 1000, "nested deeper than"), ("x" * 4_000_001, "has at most 4000000"),
    ("rosbag2_bagfile_information: {relative_file_paths: 7}", "not the metadata of a bag"), ("- 1\n", "not the metadata of a bag"),
    ("rosbag2_bagfile_information: []", "not the metadata of a bag"), ("a: 1\na: 2", "a second time"), ("\x00", "not valid YAML"),
])
def test_metadata_with_traps_is_refused(tmp_path, text, said):
    folder = write_rosbag2(tmp_path / "run", run_of_arm(4)[0])
    (folder / "metadata.yaml").write_text(text)
    with pytest.raises(DataError, match="delete it to read the files alone") as caught:
        read_bag(folder)
    assert said in str(caught.value)


def test_only_plain_files_of_the_expected_size_are_read(tmp_path):
    os.mkfifo(tmp_path / "pipe")
    for path, said in ((tmp_path / "pipe", "not a regular file"), (tmp_path, "directory"), (tmp_path / "none", "No such file")):
        with pytest.raises(OSError, match=said):
            read_plain(path, 10, "it")
    with pytest.raises(OSError, match="not a regular file"):
        read_plain("/dev/zero", 10, "it")
    (tmp_path / "file").write_bytes(bytes(11))
    assert read_plain(tmp_path / "file", 11, "it") == bytes(11)
    with pytest.raises(TooLargeError, match="11 bytes; it has at most 10"):
        read_plain(tmp_path / "file", 10, "it")


@pytest.mark.fault(row=29)
@pytest.mark.parametrize(("text", "said"), [
    ("a: !!int " + ":".join(["1"] * 300_000), "a number of 599999 characters"), ("a: " + "9" * 900_000, "a number of 900000 characters"),
    ("a: 0x" + "f" * 900_000, "a number of 900002 characters"), ("\n" * 999_000 + "a: 1", "unknown key 'a'"),
    ("a: |\n" + " x\n" * 300_000, "unknown key 'a'"), ("\n".join(f"k{i}: 1" for i in range(9000)), "more faults"),
    ("a: &x [x, x]\nb: [*x, *x]", "anchors and aliases"), ("a: " + "x" * 1_000_000, "a robot file has at most 1000000"),
])
def test_robot_files_made_to_be_slow_are_told_within_a_second(tmp_path, record_property, text, said):
    (tmp_path / "robot.yaml").write_text(text)
    begin = time.process_time()
    with pytest.raises(SpecError) as caught:
        robot.load(tmp_path / "robot.yaml")
    taken = time.process_time() - begin
    assert said in str(caught.value)
    assert "robot.yaml" in str(caught.value)
    assert len(str(caught.value)) < 100_000
    assert taken < 1.0
    record_property("measured", f"{len(text)} characters told within 1 s: {said}")


def test_a_robot_file_that_is_a_pipe_is_told(tmp_path):
    os.mkfifo(tmp_path / "robot.yaml")
    with pytest.raises(SpecError, match="cannot be read: not a regular file"):
        robot.load(tmp_path / "robot.yaml")


def test_numbers_mean_what_yaml_1_2_says():
    text = "a: [1, -7, 0x1F, 0b101, 1_000, 1.5, .5, -2., 1e3, 2E-2, 1.5e+3, .inf, 1:30, 08, 1.2.3, e5]"
    values = strict_yaml.parse(text, "x").data["a"]
    assert values == [1, -7, 31, 5, 1000, 1.5, 0.5, -2.0, 1000.0, 0.02, 1500.0, float("inf"), "1:30", "08", "1.2.3", "e5"]
    assert [type(v) for v in values[:5]] == [int] * 5


@pytest.mark.fault(row=30)
@pytest.mark.parametrize(("text", "said"), [
    ("<mujoco><include file='robot.xml'/></mujoco>", "already included"),
    ("<mujoco><worldbody>" + "<body>" * 50_000 + "</body>" * 50_000 + "</worldbody></mujoco>", "nesting is too deep"),
    ("<mujoco><size memory='100G'/><worldbody/></mujoco>", "Could not allocate memory"),
    ("<mujoco><worldbody><body><geom type='mesh' mesh='none'/></body></worldbody></mujoco>", "none"),
    ("<mujoco", "XML"), ("", "XML"),
])
def test_models_with_traps_are_told_in_a_sentence(tmp_path, record_property, text, said):
    (tmp_path / "robot.xml").write_text(text)
    with pytest.raises(UserError, match=r"robot\.xml: MuJoCo cannot load this MJCF") as caught:
        mjcf.read(tmp_path / "robot.xml")
    assert said in str(caught.value)
    record_property("measured", f"child tells: {said}")


@pytest.mark.fault(row=30)
@pytest.mark.parametrize(("text", "allowed_mb"), [
    # 28 MB when compiled, 65 MB before. A far larger one would take a busy machine longer than the processor time that is allowed.
    ("<mujoco><asset><hfield name='h' nrow='2000' ncol='2000' size='1 1 1 1'/></asset></mujoco>", 40),
    ("<mujoco><size memory='241M'/><worldbody/></mujoco>", 240),
])
def test_a_model_that_needs_much_memory_is_refused_and_takes_none_here(tmp_path, record_property, text, allowed_mb):
    (tmp_path / "robot.xml").write_text(text)
    before = mjcf_trial.peak_bytes()
    told = rf"robot\.xml: this MJCF takes [0-9]+ MB of memory, more than the {allowed_mb} MB that are allowed; use"
    with pytest.raises(UserError, match=told):
        mjcf.read(tmp_path / "robot.xml", memory_mb=allowed_mb)
    assert mjcf_trial.peak_bytes() - before < 10 << 20
    record_property("measured", f"a model that takes more than the {allowed_mb} MB allowed is refused before this process compiles it")


def test_a_robot_may_allow_its_model_more_memory(tmp_path):
    (tmp_path / "robot.xml").write_text("<mujoco><size memory='300M'/><worldbody/></mujoco>")
    assert mjcf.read(tmp_path / "robot.xml", memory_mb=301).narena == 300 << 20
    source = yaml.safe_load(robot.shipped()["pendulum"].read_text())
    spec = robot.validate(strict_yaml.parse(yaml.safe_dump(source | {"sim": source["sim"] | {"memory_mb": 301}}), "x.yaml"))
    assert (mjcf.memory_of(spec), mjcf.memory_of(robot.load("pendulum"))) == (301, 240)
    with pytest.raises(SpecError, match="memory_mb"):
        robot.validate(strict_yaml.parse(yaml.safe_dump(source | {"sim": source["sim"] | {"memory_mb": 8}}), "x.yaml"))


@pytest.mark.fault(row=30)
def test_what_a_trial_takes_is_told(tmp_path):
    (tmp_path / "robot.xml").write_text("<mujoco><asset><hfield name='h' nrow='2000' ncol='2000' size='1 1 1 1'/></asset></mujoco>")
    took = guarded.call(mjcf_trial.trial, str(tmp_path / "robot.xml"), what="it")
    assert took["model"] == pytest.approx(4 * 2000**2, rel=0.01)  # heights in single precision
    assert took["model"] < took["peak"] < 6 * took["model"] + (40 << 20)


@pytest.mark.fault(row=30)
def test_a_model_that_takes_for_ever_is_given_up(tmp_path, record_property):
    bodies = "<replicate count='1000000000'><body><geom size='1'/></body></replicate>"
    (tmp_path / "robot.xml").write_text(f"<mujoco><worldbody>{bodies}</worldbody></mujoco>")
    begin = time.monotonic()
    with pytest.raises(UserError, match=r"reading it took more than the 0\.5 s of processor time that are allowed"):
        mjcf.read(tmp_path / "robot.xml")
    took = time.monotonic() - begin
    assert took < 5.0
    record_property("measured", f"a model of 10^9 bodies given up after {took:.1f} s")


def test_shipped_models_need_no_child_and_others_one_only(tmp_path, monkeypatch):
    calls = []
    monkeypatch.setattr(mjcf.guarded, "call", lambda *given, **more: calls.append(more["what"]) or {"model": 1, "data": 1, "peak": 0})
    shipped = mjcf.assets() / "pendulum.xml"
    mjcf.read(shipped)
    assert calls == []
    own = tmp_path / "own.xml"
    own.write_text(shipped.read_text())
    mjcf.read(own)
    mjcf.read(own)
    assert len(calls) == 1
    own.write_text(shipped.read_text() + "\n")
    mjcf.read(own)
    assert len(calls) == 2
