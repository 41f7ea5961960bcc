"""What is kept of old data: all of it while there is room, then what is rare; never what the window still holds, never twice."""

from __future__ import annotations

import numpy as np
import pytest

from mbrl_control import robot
from mbrl_control.data.episodes import Episode
from mbrl_control.training.remembered import Remembered

SPEC = robot.load("cartpole")
BLOCK = 0.5


def standing(begin, end, rng, swing=()):
    """A robot that stands still but for the seconds in `swing`, at 50 Hz."""
    time = np.arange(begin, end, 0.02)
    state, action = 0.01 * rng.standard_normal((len(time), 4)), 0.1 * rng.standard_normal((len(time), 1))
    for second in swing:
        moving = (time >= second) & (time < second + 1)
        state[moving] += np.stack([np.sin(5 * (time[moving] - second) + k) for k in range(4)], axis=1)
    return Episode(time, state, action)


def seconds(memory):
    return sorted({float(np.floor(t)) for e in memory.episodes for t in e.time})


def test_while_there_is_room_all_is_kept_in_blocks_and_once():
    memory, data = Remembered(SPEC, BLOCK, 100.0), standing(0.0, 30.0, np.random.default_rng(0))
    for until in (4.0, 4.2, 9.9, 20.0):
        memory.add([data], until)
    kept = np.concatenate([e.time for e in memory.episodes])
    np.testing.assert_array_equal(kept, data.time[data.time < 20.0])
    assert all(np.unique(np.floor(e.time / BLOCK + 1e-9)).size == 1 for e in memory.episodes)


def test_what_is_rare_stays_however_old_it_is():
    memory, data = Remembered(SPEC, BLOCK, 5.0), standing(0.0, 300.0, np.random.default_rng(1), swing=(3, 40))
    for until in range(0, 300, 7):
        memory.add([data], float(until))
    assert {3.0, 40.0} <= set(seconds(memory))
    assert sum(len(e) for e in memory.episodes) * 0.02 == pytest.approx(5.0, abs=0.05)


def test_of_what_is_alike_the_older_goes():
    rng = np.random.default_rng(2)
    one = standing(0.0, BLOCK, rng)
    parts = [Episode(one.time + k * BLOCK, one.state, one.action) for k in range(6)]
    memory = Remembered(SPEC, BLOCK, 2 * BLOCK)
    memory.add(parts, 100.0)
    assert [e.time[0] for e in memory.episodes] == pytest.approx([4 * BLOCK, 5 * BLOCK])


def test_nothing_is_kept_where_nothing_is_asked_for():
    memory = Remembered(SPEC, BLOCK, 0.0)
    memory.add([standing(0.0, 30.0, np.random.default_rng(3))], 20.0)
    assert memory.episodes == []


def test_a_block_does_not_keep_the_recording_that_it_was_cut_from():
    memory, data = Remembered(SPEC, BLOCK, 5.0), standing(0.0, 30.0, np.random.default_rng(4))
    versioned = Episode(data.time, data.state, data.action, np.zeros(len(data)), model_version=np.ones(len(data), int))
    memory.add([versioned], 20.0)
    for kept in memory.episodes:
        for array in (kept.time, kept.state, kept.action, kept.reward, kept.model_version):
            assert array.base is None
