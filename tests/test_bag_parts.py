"""Long recordings: files of a bounded size, read as one bag by others, followed while they grow, and the oldest dropped on request."""

from __future__ import annotations

import gc
from collections import namedtuple

import numpy as np
import pytest
from bag_tools import ARRAY, array, own_run, run_of_arm, spec_of
from rosbags.rosbag2 import Reader
from waiting import until

from mbrl_control.data import recorder as module
from mbrl_control.data.bag_episodes import episodes_from_bag
from mbrl_control.data.bags import read_bag
from mbrl_control.data.episode_tail import EpisodeTail
from mbrl_control.data.mcap_bag import McapBag, part_of, parts_in
from mbrl_control.data.recorder import Recorder, RecorderOptions
from mbrl_control.data.sizes import Sizes, sizes
from mbrl_control.data.tail import McapTail
from mbrl_control.errors import DataError, UserError

PART = 8_000


def numbered(count, size=40):
    return [("/x", ARRAY, array(*[float(i)] * size), i + 1) for i in range(count)]


def write(bag, rows, every=10):
    """Write messages with a flush now and then, as the recorder's thread does."""
    for i, row in enumerate(rows):
        bag.write(*row, row[3])
        if i % every == every - 1:
            bag.flush()


def written(folder, rows, keep=0, resume=False):
    bag = McapBag(folder, Sizes(part_bytes=PART, keep_bytes=keep), resume=resume)
    write(bag, rows)
    bag.close()
    return bag


def numbers(folder):
    return read_bag(folder).topics["/x"].numbers("data[0]")


def test_an_independent_reader_finds_the_parts_to_be_one_bag(tmp_path):
    rows, _ = run_of_arm(300)
    bag = written(tmp_path / "run", rows)
    assert len(parts_in(tmp_path / "run")) > 3
    assert (bag.count, bag.counts) == (450, {"/joint_states": 300, "/commands": 150})
    with Reader(tmp_path / "run") as reader:
        assert (reader.message_count, {c.topic: c.msgcount for c in reader.connections}) == (450, bag.counts)
        assert reader.start_time == min(row[3] for row in rows)
        assert reader.duration == max(row[3] for row in rows) - reader.start_time + 1
        assert sorted((c.topic, at, bytes(d)) for c, at, d in reader.messages()) == sorted((t, at, p) for t, _, p, at in rows)
    (episode,) = episodes_from_bag(tmp_path / "run", spec_of())
    assert len(episode) == 150


def test_each_part_stands_by_itself_and_is_about_as_large_as_told(tmp_path):
    written(tmp_path / "run", numbered(300))
    found, sizes_met = [], []
    for number in parts_in(tmp_path / "run"):
        path = part_of(tmp_path / "run", number)
        sizes_met.append(path.stat().st_size)
        with Reader(path) as reader:
            found += [at for _, at, _ in reader.messages()]
    assert found == [row[3] for row in numbered(300)]
    ten_messages, index = 10 * 400, 3_000
    assert all(PART <= size <= PART + ten_messages + index for size in sizes_met[:-1])


def test_what_is_held_in_memory_does_not_grow_with_the_recording(tmp_path):
    bag = McapBag(tmp_path / "run", Sizes(part_bytes=PART))
    write(bag, numbered(1000), every=1)

    def chunks_known():
        gc.collect()
        return sum(type(thing).__name__ == "ChunkIndex" for thing in gc.get_objects())

    held = chunks_known()
    assert 0 < held < 100
    write(bag, numbered(5000), every=1)
    assert chunks_known() < 100
    bag.close()


def test_the_oldest_parts_are_dropped_and_the_newest_messages_stay(tmp_path):
    keep = 4 * PART
    written(tmp_path / "run", numbered(1000), keep)
    left = parts_in(tmp_path / "run")
    assert left[0] > 0
    assert left == list(range(left[0], left[-1] + 1))
    total = sum(part_of(tmp_path / "run", number).stat().st_size for number in left)
    assert keep - 2 * PART < total < keep + 2 * PART
    found = numbers(tmp_path / "run")
    np.testing.assert_array_equal(found, np.arange(1000 - len(found), 1000))
    with Reader(tmp_path / "run") as reader:
        assert reader.message_count == len(found)


def test_one_that_goes_on_counts_and_drops_the_parts_of_those_before_it(tmp_path):
    for resume in (False, True, True):
        written(tmp_path / "run", numbered(300), 4 * PART, resume)
    left = parts_in(tmp_path / "run")
    assert left[0] > 3
    assert left[-1] >= 3 * (300 * 380 // (PART + 4_000))
    assert sum(path.stat().st_size for path in (tmp_path / "run").glob("*.mcap")) < 6 * PART


def test_a_topic_keeps_its_type_from_part_to_part(tmp_path):
    bag = McapBag(tmp_path / "run", Sizes(part_bytes=PART))
    write(bag, numbered(200))
    with pytest.raises(DataError, match="topic /x carries std_msgs/msg/Float64MultiArray, not std_msgs/msg/Float64"):
        bag.write("/x", "std_msgs/msg/Float64", b"", 1, 1)
    bag.close()


def test_a_follower_meets_every_message_once_from_part_to_part(tmp_path):
    tail, bag, found = McapTail(tmp_path / "run"), McapBag(tmp_path / "run", Sizes(part_bytes=PART)), []
    for i, row in enumerate(numbered(700)):
        bag.write(*row, row[3])
        if i % 7 == 0:
            bag.flush()
        if i % 90 == 0:  # more than a part now and then
            found += tail.read()
    bag.close()
    found += tail.read()
    assert [m.payload for m in found] == [row[2] for row in numbered(700)]
    assert tail.finished


def test_a_follower_passes_over_parts_that_were_dropped(tmp_path):
    slow, bag = McapTail(tmp_path / "run"), McapBag(tmp_path / "run", Sizes(part_bytes=PART, keep_bytes=3 * PART))
    write(bag, numbered(30))
    assert len(slow.read()) == 30
    write(bag, numbered(1000))
    bag.close()
    kept = [m.payload for m in McapTail(tmp_path / "run").read()]
    assert kept == [row[2] for row in numbered(1000)][-len(kept):]
    assert [m.payload for m in slow.read()] == kept


def test_episodes_go_on_from_part_to_part(tmp_path):
    rows = own_run(400)
    grown, bag = EpisodeTail(tmp_path / "run", spec_of()), McapBag(tmp_path / "run", Sizes(part_bytes=PART))
    for i, (topic, kind, payload, at) in enumerate(rows):
        bag.write(topic, kind, payload, at, at)
        if i % 10 == 0:
            bag.flush()
            grown.poll()
    bag.close()
    grown.poll()
    (episode,), (full,) = grown.episodes(), episodes_from_bag(tmp_path / "run", spec_of())
    np.testing.assert_array_equal(episode.state, full.state)
    assert len(full) > 100


@pytest.mark.fault(row=22)
def test_when_the_disk_fills_old_parts_go_first_where_that_is_allowed(tmp_path, monkeypatch, record_property):
    usage, taken = namedtuple("usage", "total used free"), [0]

    def held():
        return sum(path.stat().st_size for path in (tmp_path / "run").glob("*.mcap"))

    room = 6 * PART
    monkeypatch.setattr(module.shutil, "disk_usage", lambda path: usage(0, 0, room + (1 << 20) - held() - taken[0]))
    told = []
    options = RecorderOptions(min_free_bytes=1 << 20, check_s=0.0, flush_s=0.001, sync_s=0,
                              sizes=Sizes(part_bytes=PART, keep_bytes=1 << 40))
    recorder = Recorder(tmp_path / "run", options, told.append)
    for number, row in enumerate(numbered(1500)):
        assert recorder.write(*row)
        if number % 20 == 0:
            until(lambda written=number: recorder.written == written + 1)
    until(lambda: recorder.written == 1500)
    assert recorder.recording
    assert parts_in(tmp_path / "run")[0] > 0
    assert [e.code for e in told] == ["room_made"]
    taken[0] = 1 << 30  # somebody else fills the disk: to drop all would not help, so nothing is dropped
    until(lambda: not recorder.recording)
    recorder.close()
    assert told[-1].code == "disk_full"
    found = numbers(tmp_path / "run")
    np.testing.assert_array_equal(found, np.arange(1500 - len(found), 1500))
    record_property("measured", "where old files may be dropped, they go first and recording goes on")


@pytest.mark.parametrize(("keep_mb", "part_mb"), [(1, 128), (255, 128), (3, 2)])
def test_too_little_to_keep_is_refused_in_a_sentence(keep_mb, part_mb):
    with pytest.raises(UserError, match=f"keep_mb = {keep_mb} must be 0, which keeps everything, or at least {2 * part_mb}: files of"):
        sizes(keep_mb, part_mb)


def test_sizes_are_given_in_megabytes():
    assert sizes(256) == Sizes(part_bytes=134217728, keep_bytes=268435456)
    assert sizes(0, 1) == Sizes(part_bytes=1048576, keep_bytes=0)
