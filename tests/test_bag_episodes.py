"""From bags to episodes: clocks, gaps, held commands, angles, and what is told about them."""

from __future__ import annotations

import math

import numpy as np
import pytest
from bag_tools import ARRAY, JOINTS, array, changed, joint_state, run_of_arm, spec_of, write_rosbag2

from mbrl_control.data.bag_episodes import episodes_from_bag
from mbrl_control.data.mcap_bag import McapBag
from mbrl_control.data.message_types import encode
from mbrl_control.errors import DataError


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
