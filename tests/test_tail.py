"""The tail: what it reads of a growing file is what a full read finds in the end."""

from __future__ import annotations

import math

import numpy as np
import pytest
from bag_tools import JOINTS, changed, joint_state, own_run, run_of_arm, spec_of
from hypothesis import given, settings
from hypothesis import strategies as st

from mbrl_control.data.bag_episodes import episodes_from_bag
from mbrl_control.data.episode_tail import EpisodeTail
from mbrl_control.data.mcap_bag import McapBag
from mbrl_control.data.message_types import encode
from mbrl_control.data.recorder import Recorder, RecorderOptions
from mbrl_control.data.sizes import Sizes
from mbrl_control.data.tail import McapTail
from mbrl_control.errors import DataError


def written(folder, rows, chunk_bytes=1500):
    bag = McapBag(folder, Sizes(chunk_bytes))
    for topic, kind, payload, at in rows:
        bag.write(topic, kind, payload, at, at - 5)
    bag.close()
    return bag.path.read_bytes()


@given(st.lists(st.integers(1, 4000), min_size=1, max_size=30))
@settings(max_examples=30, deadline=None)
def test_a_file_that_grows_in_any_pieces_gives_each_message_once(tmp_path_factory, pieces):
    folder = tmp_path_factory.mktemp("tail")
    rows, _ = run_of_arm(60)
    data = written(folder / "whole", rows)
    growing, at, got = folder / "growing.mcap", 0, []
    tail = McapTail(growing)
    assert tail.read() == []
    for size in [*pieces, len(data)]:
        at = min(at + size, len(data))
        growing.write_bytes(data[:at])
        got += tail.read()
        assert [(m.topic, m.payload) for m in got] == [(t, p) for t, _, p, _ in rows][:len(got)]
    assert [(m.topic, m.type, m.log_time_ns, m.publish_ns, m.payload) for m in got] == [(t, k, at, at - 5, p) for t, k, p, at in rows]
    assert tail.finished
    assert tail.read() == []


def test_only_the_topics_asked_for(tmp_path):
    rows, _ = run_of_arm(20)
    written(tmp_path / "run", rows)
    assert {m.topic for m in McapTail(tmp_path / "run", ["commands"]).read()} == {"/commands"}


def test_damage_is_told_after_what_is_sound_was_handed_over(tmp_path):
    rows, _ = run_of_arm(60)
    data = bytearray(written(tmp_path / "whole", rows))
    data[data.index(rows[60][2]) + 20] ^= 0xFF
    (tmp_path / "bad.mcap").write_bytes(bytes(data))
    tail = McapTail(tmp_path / "bad.mcap")
    sound = tail.read()
    assert [m.payload for m in sound] == [p for _, _, p, _ in rows][:len(sound)]
    assert 0 < len(sound) <= 60
    with pytest.raises(DataError, match="does not match its checksum"):
        tail.read()


def test_it_follows_a_recorder(tmp_path):
    rows, _ = run_of_arm(300)
    tail, got = McapTail(tmp_path / "run"), []
    with Recorder(tmp_path / "run", RecorderOptions(min_free_bytes=0, flush_s=0.01, sync_s=0)) as recorder:
        for i, (topic, kind, payload, at) in enumerate(rows):
            recorder.write(topic, kind, payload, at)
            if i % 50 == 0:
                got += tail.read()
    got += tail.read()
    assert [m.payload for m in got] == [p for _, _, p, _ in rows]


@pytest.mark.parametrize("gap", [(), range(80, 130)])
def test_episodes_grow_into_those_of_a_full_read(tmp_path, gap):
    data = written(tmp_path / "whole", own_run(gap=gap))
    growing = tmp_path / "growing.mcap"
    tail, before = EpisodeTail(growing, spec_of()), []
    for end in range(0, len(data), 997):
        growing.write_bytes(data[:end])
        tail.poll()
        now = tail.episodes()
        assert len(now) >= len(before)
        for old, new in zip(before, now, strict=False):
            assert len(new) >= len(old)
            np.testing.assert_array_equal(new.action[:len(old)], old.action)
            np.testing.assert_allclose(new.state[:len(old)], old.state, atol=1e-12)
        before = now
    growing.write_bytes(data)
    tail.poll()
    grown, full = tail.episodes(), episodes_from_bag(tmp_path / "whole", spec_of())
    assert len(grown) == len(full) == (2 if gap else 1)
    for a, b in zip(grown, full, strict=True):
        np.testing.assert_array_equal(a.time, b.time)
        np.testing.assert_array_equal(a.state, b.state)
        np.testing.assert_array_equal(a.action, b.action)
        np.testing.assert_array_equal(a.model_version, b.model_version)
    assert full[0].model_version[-1] == (79 // 50 if gap else 199 // 50)


def test_bad_messages_are_counted_not_fatal(tmp_path):
    rows = own_run(40)
    rows[3] = ("/joint_states", JOINTS, joint_state(rows[3][3], (0,), (0,), ("shoulder",)), rows[3][3])
    written(tmp_path / "run", rows)
    tail = EpisodeTail(tmp_path / "run", spec_of())
    assert tail.poll() == len([r for r in rows if r[0] != "/mbrl/decision"]) - 1
    assert tail.rejected == {"joint_states: joint 'elbow' is not in the message": 1}


def test_decisions_that_tell_no_version_are_left_out(tmp_path):
    rows = own_run()
    for names, numbers in ((["model_version"], []), (["mode", "model_version"], [2.0]), (["model_version"], [math.nan])):
        at = rows[-1][3] + 1000
        rows.append(("/mbrl/decision", JOINTS, encode(JOINTS, {"header": {"stamp": at}, "name": names, "position": numbers}), at))
    written(tmp_path / "run", rows)
    tail = EpisodeTail(tmp_path / "run", spec_of())
    tail.poll()
    for episode in (tail.episodes()[0], episodes_from_bag(tmp_path / "run", spec_of())[0]):
        assert set(episode.model_version) == {0, 1, 2, 3}


def test_old_data_is_forgotten(tmp_path):
    written(tmp_path / "run", own_run(1000))
    tail = EpisodeTail(tmp_path / "run", spec_of(), window_s=2.0)
    tail.poll()
    (episode,) = tail.episodes()
    assert episode.duration == pytest.approx(2.0, abs=0.05)
    assert episode.action[-1, 0] == 999 or episode.action[-1, 0] == 997


def test_nothing_yet_is_no_episode(tmp_path):
    tail = EpisodeTail(tmp_path / "run", spec_of())
    assert tail.poll() == 0
    assert tail.episodes() == []


def test_another_type_than_the_yaml_says_is_an_error(tmp_path):
    written(tmp_path / "run", own_run(10))
    spec = changed(state=[{"name": "a", "topic": "joint_states", "type": "std_msgs/msg/Float64", "field": "data", "unit": "1"}])
    with pytest.raises(DataError, match="recorded as sensor_msgs/msg/JointState, but the robot's YAML says std_msgs/msg/Float64"):
        EpisodeTail(tmp_path / "run", spec).poll()


def test_two_robots_in_one_bag_are_refused(tmp_path):
    rows = [*run_of_arm(4, prefix="/a")[0], *run_of_arm(4, prefix="/b")[0]]
    written(tmp_path / "run", rows)
    with pytest.raises(DataError, match="may be /a/joint_states or /b/joint_states"):
        EpisodeTail(tmp_path / "run", spec_of()).poll()


def cut_short(folder, rows):
    """A bag whose recorder was killed: some of its last chunk is missing, and everything after it. Gives the messages that are whole."""
    written(folder, rows)
    path = folder / f"{folder.name}_0.mcap"
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    (folder / "metadata.yaml").unlink()
    return len(McapTail(path).read())


def test_after_a_killed_recorder_the_next_part_is_followed(tmp_path):
    rows = own_run()
    half = cut_short(tmp_path / "run", rows[:200])
    assert 0 < half < 200
    tail, grown = McapTail(tmp_path / "run"), EpisodeTail(tmp_path / "run", spec_of())
    assert len(tail.read()) == half
    assert tail.read() == []
    grown.poll()
    options = RecorderOptions(min_free_bytes=0, flush_s=0.01, sync_s=0, resume=True)
    for first in (200, 300):  # killed, as it were, and once more
        with Recorder(tmp_path / "run", options) as recorder:
            for topic, kind, payload, at in rows[first:first + 100]:
                recorder.write(topic, kind, payload, at)
        assert [m.payload for m in tail.read()] == [p for _, _, p, _ in rows[first:first + 100]]
    assert tail.part == 2
    assert [m.payload for m in McapTail(tmp_path / "run").read()] == [p for _, _, p, _ in rows[:half] + rows[200:]]
    grown.poll()
    full = episodes_from_bag(tmp_path / "run", spec_of())
    assert [len(e) for e in grown.episodes()] == [len(e) for e in full]
    assert len(full) == 2  # what is missing is a gap, never bridged


def test_much_to_take_in_is_reported_as_progress(tmp_path):
    written(tmp_path / "run", own_run(2000))
    beats = []
    EpisodeTail(tmp_path / "run", spec_of(), progress=lambda: beats.append(1)).poll()
    assert len(beats) == 4  # 2000 states, 1000 commands and 1000 decisions: one for each thousand
