"""Bags that are cut off, damaged, split or incomplete: exactly what is sound is read, and the rest is told."""

from __future__ import annotations

import shutil
import sqlite3

import numpy as np
import pytest
import yaml
import zstandard
from bag_tools import real, run_of_arm, spec_of, write_rosbag2
from hypothesis import given, settings
from hypothesis import strategies as st
from mcap.writer import CompressionType
from mcap.writer import Writer as McapWriter
from rosbags.rosbag2 import Reader

from mbrl_control import robot
from mbrl_control.data import mcap_records
from mbrl_control.data.bag_episodes import episodes_from_bag
from mbrl_control.data.bags import read_bag
from mbrl_control.data.loading import load_episodes
from mbrl_control.data.mcap_bag import McapBag
from mbrl_control.data.message_types import definition
from mbrl_control.data.recover import recover
from mbrl_control.data.sizes import Sizes
from mbrl_control.errors import DataError


@pytest.mark.fault(row=31)
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
    bag = McapBag(path, Sizes(chunk_bytes=2000))
    for topic, kind, payload, at in rows:
        bag.write(topic, kind, payload, at, at)
    bag.close()
    return bag.path.read_bytes()


@pytest.mark.fault(row=31)
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


@pytest.mark.fault(row=31)
def test_lost_messages_of_a_cut_chunk_are_counted(tmp_path):
    rows, _ = run_of_arm(100)
    whole = small_chunks(tmp_path / "whole", rows)
    cut = tmp_path / "cut.mcap"
    cut.write_bytes(whole[:whole.index(rows[70][2]) + 5])
    recording = read_bag(cut)
    assert recording.kept + recording.lost == 71


@given(st.integers(50, 15_000), st.integers(1, 255))
@settings(max_examples=60, deadline=None)
@pytest.mark.fault(row=31)
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


@pytest.mark.fault(row=31)
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


@pytest.mark.parametrize("error", [zstandard.ZstdError("damaged"), RuntimeError("LZ4F_decompress failed")])
def test_a_summary_that_cannot_be_unpacked_is_as_if_there_were_none(tmp_path, monkeypatch, error):
    """The reader of summaries looks through all chunks where the footer is damaged, and lets out what their decompressors raise."""
    rows, _ = run_of_arm(50)
    whole, path = small_chunks(tmp_path / "whole", rows), tmp_path / "cut.mcap"
    path.write_bytes(whole[: len(whole) // 2])

    class Summary:
        def get_summary(self):
            raise error

    monkeypatch.setattr(mcap_records, "make_reader", lambda _: Summary())
    content = mcap_records.read_mcap(path)
    assert not content.whole
    assert 0 < sum(content.scanner.counts.values()) < len(rows)
