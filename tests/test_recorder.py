"""The recorder: readable by others, quick for its caller, little lost when killed, and it stops before the disk is full."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections import namedtuple
from pathlib import Path

import numpy as np
import pytest
from bag_tools import ARRAY, JOINTS, array, joint_state, run_of_arm, spec_of
from rosbags.highlevel import AnyReader
from rosbags.rosbag2 import Reader

from mbrl_control.data import recorder as module
from mbrl_control.data.bag_episodes import episodes_from_bag
from mbrl_control.data.bags import read_bag
from mbrl_control.data.message_types import encode
from mbrl_control.data.recorder import Recorder, RecorderOptions
from mbrl_control.data.recover import recover
from mbrl_control.errors import DataError

QUIET = RecorderOptions(min_free_bytes=0, sync_s=0)


def record(folder, rows, options=QUIET, **keys):
    with Recorder(folder, options, **keys) as recorder:
        for topic, kind, payload, at in rows:
            recorder.write(topic, kind, payload, at, max(at - 1000, 0))
    return recorder


def test_an_independent_reader_finds_every_message(tmp_path):
    rows, states = run_of_arm(200)
    recorder = record(tmp_path / "run", rows)
    assert recorder.counts == {"/joint_states": 200, "/commands": 100}
    assert (recorder.written, recorder.dropped, recorder.events) == (300, 0, [])
    for path in (tmp_path / "run", recorder.path):
        with Reader(path) as reader:
            assert reader.message_count == 300
            assert reader.start_time == rows[0][3]
            assert reader.duration == rows[-2][3] - rows[0][3] + 1 if rows[-2][3] > rows[-1][3] else True
            assert sorted((c.topic, at, bytes(d)) for c, at, d in reader.messages()) == sorted((t, at, p) for t, _, p, at in rows)
    with AnyReader([tmp_path / "run"]) as reader:  # types from the bag's own definitions, hashes checked
        (connection,) = (c for c in reader.connections if c.topic == "/joint_states")
        assert connection.ext.offered_qos_profiles
        found = [reader.deserialize(d, c.msgtype).position[0] for c, _, d in reader.messages([connection])]
    np.testing.assert_array_equal(found, states[:, 0])


def test_another_mcap_library_decodes_it(tmp_path):
    decoder = pytest.importorskip("mcap_ros2.decoder")
    from mcap.reader import make_reader
    rows, states = run_of_arm(50)
    recorder = record(tmp_path / "run", rows)
    with recorder.path.open("rb") as file:
        reader = make_reader(file, decoder_factories=[decoder.DecoderFactory()], validate_crcs=True)
        assert reader.get_header().profile == "ros2"
        decoded = list(reader.iter_decoded_messages(topics=["/joint_states"]))
    np.testing.assert_array_equal([m.position[1] for *_, m in decoded], states[:, 1])
    schema, channel, message, _ = decoded[0]
    assert (schema.encoding, channel.message_encoding, message.publish_time) == ("ros2msg", "cdr", rows[0][3] - 1000)
    assert "reliability: reliable" in channel.metadata["offered_qos_profiles"]


def test_a_recording_reads_back_as_an_episode(tmp_path):
    rows, _ = run_of_arm(100)
    record(tmp_path / "run", rows)
    (episode,) = episodes_from_bag(tmp_path / "run", spec_of())
    assert len(episode) == 50


def test_an_empty_recording_is_a_bag(tmp_path):
    record(tmp_path / "run", [])
    assert read_bag(tmp_path / "run").kept == 0
    with Reader(tmp_path / "run") as reader:
        assert reader.message_count == 0


def test_a_type_of_ones_own_needs_its_definition(tmp_path):
    payload = encode("std_msgs/msg/Float64", {"data": 2.0})
    recorder = record(tmp_path / "a", [("/x", "my_msgs/msg/Level", payload, 1), ("/x", "my_msgs/msg/Level", payload, 2), *run_of_arm(2)[0]])
    assert (recorder.written, recorder.dropped) == (3, 2)
    (event,) = recorder.events
    assert event.code == "bad_topic"
    assert "my_msgs/msg/Level is not standard" in event.text
    record(tmp_path / "b", [("/x", "my_msgs/msg/Level", payload, 1)], definitions={"my_msgs/msg/Level": "float64 value\n"})
    assert read_bag(tmp_path / "b").topics["/x"].numbers("value")[0] == 2.0


def test_a_topic_keeps_its_type(tmp_path):
    recorder = record(tmp_path / "run", [("/x", ARRAY, array(1.0), 1), ("/x", JOINTS, joint_state(1, [0, 0], [0, 0]), 2)])
    assert [e.code for e in recorder.events] == ["bad_topic"]
    assert recorder.counts == {"/x": 1}


def test_an_impossible_time_is_told_and_the_rest_goes_on(tmp_path):
    recorder = record(tmp_path / "run", [("/x", ARRAY, array(1.0), -5), ("/y", ARRAY, array(1.0), 1)])
    assert [e.code for e in recorder.events] == ["bad_topic"]
    assert recorder.counts == {"/y": 1}


def test_what_is_no_message_is_told_and_the_rest_goes_on(tmp_path):
    recorder = record(tmp_path / "run", [("/y", ARRAY, array(1.0), 1), ("/x", ARRAY, None, 1), ("/y", ARRAY, array(1.0), 2)])
    assert "NoneType, not CDR bytes" in recorder.events[0].text
    assert read_bag(tmp_path / "run").topics["/y"].count == 2


def test_anything_unforeseen_stops_the_recording_and_is_told(tmp_path, monkeypatch):
    recorder = Recorder(tmp_path / "run", QUIET)
    monkeypatch.setattr(recorder._bag, "write", lambda *row: 1 / 0)
    recorder.write("/y", ARRAY, array(1.0), 1)
    _until(lambda: not recorder.recording)
    recorder.close()
    assert [e.code for e in recorder.events] == ["write_failed"]
    assert "division by zero" in recorder.events[0].text


def test_recordings_are_never_overwritten(tmp_path):
    record(tmp_path / "run", [])
    with pytest.raises(DataError, match="never overwritten"):
        Recorder(tmp_path / "run", QUIET)


@pytest.mark.fault(row=22)
def test_it_does_not_start_on_a_full_disk(tmp_path, record_property):
    with pytest.raises(DataError, match="MB free on this disk, less than the limit"):
        Recorder(tmp_path / "run", RecorderOptions(min_free_bytes=1 << 60))
    assert not (tmp_path / "run").exists()
    record_property("measured", "below its limit of free space a recorder does not start")


@pytest.mark.fault(row=22)
def test_it_stops_and_tells_when_the_disk_fills(tmp_path, monkeypatch, record_property):
    usage = namedtuple("usage", "total used free")
    free = [10 << 20]
    monkeypatch.setattr(module.shutil, "disk_usage", lambda path: usage(0, 0, free[0]))
    told = []
    recorder = Recorder(tmp_path / "run", RecorderOptions(min_free_bytes=5 << 20, check_s=0.02, flush_s=0.02), told.append)
    assert recorder.write("/commands", ARRAY, array(1.0), 1)
    _until(lambda: recorder.written == 1)
    free[0] = 1 << 20
    _until(lambda: not recorder.recording)
    assert not recorder.write("/commands", ARRAY, array(2.0), 2)
    recorder.close()
    assert [e.code for e in told] == ["disk_full"]
    assert "1 MB free, the limit is 5 MB" in told[0].text
    assert recorder.dropped == 1
    assert read_bag(tmp_path / "run").kept == 1
    record_property("measured", "when free space falls below it the recorder tells so and stops, and what it wrote is read")


@pytest.mark.fault(row=22)
def test_a_failing_disk_stops_the_recording_not_the_caller(tmp_path, monkeypatch, record_property):
    recorder = Recorder(tmp_path / "run", RecorderOptions(min_free_bytes=0, flush_s=0.02, sync_s=0))

    def fail() -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(recorder._bag, "flush", fail)
    _until(lambda: not recorder.recording)
    assert not recorder.write("/commands", ARRAY, array(2.0), 2)
    recorder.close()
    assert recorder.events[0].code == "write_failed"
    assert "No space left" in recorder.events[0].text
    record_property("measured", "a write that fails ends the recording, not its caller")


@pytest.mark.fault(row=23)
def test_a_full_queue_drops_and_tells_instead_of_waiting(tmp_path, monkeypatch, record_property):
    recorder = Recorder(tmp_path / "run", RecorderOptions(min_free_bytes=0, queue=10, sync_s=0))
    real_write, go = recorder._bag.write, []

    def slow(*row):
        _until(lambda: go)
        real_write(*row)

    monkeypatch.setattr(recorder._bag, "write", slow)
    begun = time.monotonic()
    taken = sum(recorder.write("/commands", ARRAY, array(float(i)), i) for i in range(100))
    assert time.monotonic() - begun < 0.5
    assert 10 <= taken <= 11
    go.append(True)
    recorder.close()
    assert recorder.dropped == 100 - taken
    assert recorder.written == taken
    assert [e.code for e in recorder.events] == ["queue_full"]
    record_property("measured", f"the recorder beside a disk that takes nothing: {taken} of 100 messages wait for it, the others are "
                                "dropped and counted")


def test_closing_twice_is_closing_once(tmp_path):
    recorder = record(tmp_path / "run", [])
    recorder.close()
    assert not recorder.recording
    assert not recorder.write("/commands", ARRAY, array(1.0), 1)


WRITER = """
import sys, time
from mbrl_control.data.recorder import Recorder, RecorderOptions
from mbrl_control.data.message_types import encode
recorder = Recorder(sys.argv[1], RecorderOptions(min_free_bytes=0))
i = 0
while True:
    now = time.time_ns()
    recorder.write("/commands", "std_msgs/msg/Float64MultiArray", encode("std_msgs/msg/Float64MultiArray", {"data": [float(i)]}), now)
    i += 1
    if i % 5 == 0:
        print(now, flush=True)
    time.sleep(0.002)
"""


def test_a_killed_recorder_loses_less_than_a_second(tmp_path):
    environment = {**os.environ, "PYTHONPATH": str(Path(__file__).resolve().parents[1])}
    process = subprocess.Popen([sys.executable, "-c", WRITER, str(tmp_path / "run")], stdout=subprocess.PIPE, text=True, env=environment)
    begun, last = None, 0
    for line in process.stdout:
        last = int(line)
        begun = begun or last
        if last - begun > 1.5e9:
            break
    process.send_signal(signal.SIGKILL)
    process.wait()
    last = max([last, *(int(line) for line in process.stdout.read().split("\n")[:-1])])
    recording = read_bag(tmp_path / "run")
    topic = recording.topics["/commands"]
    np.testing.assert_array_equal(topic.numbers("data[0]"), np.arange(topic.count))
    assert (last - topic.receive_ns[-1]) / 1e9 < 1.0
    assert any("no metadata.yaml" in n for n in recording.notes)
    kept, _ = recover(tmp_path / "run", tmp_path / "saved")
    assert kept == topic.count
    with Reader(tmp_path / "saved") as reader:
        assert reader.message_count == kept


def _until(condition, limit=5.0):
    end = time.monotonic() + limit
    while not condition():
        assert time.monotonic() < end, "waited too long"
        time.sleep(0.005)


def test_a_resumed_bag_is_read_as_one_and_the_parts_before_are_never_touched(tmp_path):
    rows, _ = run_of_arm(200)
    record(tmp_path / "run", rows[:100])
    first = (tmp_path / "run" / "run_0.mcap").read_bytes()
    resumed = RecorderOptions(min_free_bytes=0, sync_s=0, resume=True)
    (tmp_path / "run" / "run_1.mcap").touch()  # of a recorder that was killed as it began
    recorder = record(tmp_path / "run", rows[100:], resumed)
    assert recorder.path.name == "run_2.mcap"
    assert (tmp_path / "run" / "run_0.mcap").read_bytes() == first
    found = read_bag(tmp_path / "run")
    assert {name: t.count for name, t in found.topics.items()} == {"/joint_states": 200, "/commands": 100}
    assert any("run_1.mcap: the file is empty" in note for note in found.notes)
    assert recover(tmp_path / "run", tmp_path / "saved") == (300, 0)


def test_resuming_what_is_not_there_is_an_ordinary_bag(tmp_path):
    rows, _ = run_of_arm(20)
    record(tmp_path / "run", rows, RecorderOptions(min_free_bytes=0, sync_s=0, resume=True))
    with Reader(tmp_path / "run") as reader:
        assert reader.message_count == len(rows)
