"""A trainer that is started again goes through a long recording a piece at a time, and remembers what the one before it did."""

from __future__ import annotations

import math

import numpy as np
import pytest
from bag_tools import JOINTS, changed, joint_state

from mbrl_control.data import tail as module
from mbrl_control.data.episode_tail import EpisodeTail
from mbrl_control.data.mcap_bag import McapBag
from mbrl_control.data.message_types import encode
from mbrl_control.data.sizes import Sizes
from mbrl_control.data.tail import McapTail
from mbrl_control.errors import DataError
from mbrl_control.store import ModelStore
from mbrl_control.training import worker
from mbrl_control.training.trainer import Trainer
from mbrl_control.training.worker import CATCH_UP_S

SECONDS = 150
SWINGS = (3, 41, 70)


@pytest.fixture(scope="module")
def spec():
    return changed(trainer={"window_s": 20.0, "remember_s": 12.0, "first_fit_s": 2.0})


@pytest.fixture(scope="module")
def rows():
    """A robot that stands nearly still, driven by next to nothing, but for some seconds; as the stack records it."""
    out, rng = [], np.random.default_rng(0)
    for i in range(50 * SECONDS):
        second, at = i / 50, 10**9 + 20_000_000 * i
        moving = any(begin <= second < begin + 1 for begin in SWINGS)
        q, v = (np.sin(6 * second), 6 * np.cos(6 * second)) if moving else (0.01 * rng.standard_normal(), 0.0)
        sent = {"header": {"stamp": at + 3_000_000}, "name": ["u1", "u2"], "position": 0.01 * rng.standard_normal(2)}
        out += [("/joint_states", JOINTS, joint_state(at, (q, 0.0), (v, 0.0)), at + 100_000),
                ("/mbrl/command", JOINTS, encode(JOINTS, sent), at + 3_100_000)]
    return out


@pytest.fixture(scope="module")
def recorded(tmp_path_factory, rows):
    folder = tmp_path_factory.mktemp("long") / "bag"
    write(folder, rows)
    return folder


def write(folder, rows, bag=None):
    bag = bag or McapBag(folder, Sizes(part_bytes=500_000))
    for i, (topic, kind, payload, at) in enumerate(rows):
        bag.write(topic, kind, payload, at, at)
        if i % 25 == 24:
            bag.flush()
    bag.close()


def states(episodes):
    return {(float(t), *map(float, s)) for e in episodes for t, s in zip(e.time, e.state, strict=True)}


def remembered(trainer):
    return {math.floor(t + 0.02) for e in trainer._remembered.episodes for t in e.time}


def test_one_that_looks_after_each_piece_sees_every_row_that_one_who_forgets_nothing_sees(recorded, spec):
    everything = EpisodeTail(recorded, spec, window_s=1e6)
    everything.poll()
    piecewise, seen, looks = EpisodeTail(recorded, spec), set(), 0
    while not looks or piecewise.behind:
        assert piecewise.poll(CATCH_UP_S) > 0
        seen |= states(piecewise.episodes())
        looks += 1
        assert max(rows.count for rows in piecewise._rows.values()) < 100 * (20 + 30 + CATCH_UP_S)
    assert looks == math.ceil(SECONDS / CATCH_UP_S)
    assert seen == states(everything.episodes())


def test_a_trainer_that_is_started_again_remembers_what_the_one_before_it_did(tmp_path, rows, recorded, spec):
    live, tail = Trainer(spec, ModelStore(tmp_path / "a"), 0), EpisodeTail(tmp_path / "bag", spec)
    bag = McapBag(tmp_path / "bag", Sizes(part_bytes=500_000))
    for begin in range(0, len(rows), 500):
        for topic, kind, payload, at in rows[begin:begin + 500]:
            bag.write(topic, kind, payload, at, at)
        bag.flush()
        tail.poll()
        live.set_data(tail.episodes())
    again, tail = Trainer(spec, ModelStore(tmp_path / "b"), 0), EpisodeTail(recorded, spec)
    while tail.poll(CATCH_UP_S):
        again.set_data(tail.episodes())
    for trainer in (live, again):
        assert set(SWINGS) <= remembered(trainer)
        assert sum(len(e) for e in trainer._remembered.episodes) == pytest.approx(12.0 * 50, abs=50)


def test_the_process_catches_up_before_it_learns(tmp_path, recorded, spec, monkeypatch):
    made, stop = [], []

    class Asked(Trainer):
        def due(self):
            made.append(self)
            if len(made) > 20 or (self.episodes and self.episodes[-1].time[-1] > SECONDS - 0.1):
                stop.append(1)
            return False

    monkeypatch.setattr(worker, "Trainer", Asked)
    worker._follow(spec, recorded.parent, ModelStore(tmp_path / "store"), 0, stop)
    assert set(SWINGS) <= remembered(made[0])
    assert made[0].episodes[-1].time[-1] > SECONDS - CATCH_UP_S, "asked for the first time when it had gone through nearly all"


def test_pieces_together_are_all_messages(recorded, rows, monkeypatch):
    monkeypatch.setattr(module, "_AT_ONCE", 100_000)
    pieces = list(McapTail(recorded).pieces())
    assert len(pieces) > 20
    assert max(map(len, pieces)) < len(rows) / 15
    assert [m.payload for piece in pieces for m in piece] == [row[2] for row in rows]


def test_a_damaged_file_is_told_each_time_it_is_asked(tmp_path, rows, spec):
    write(tmp_path / "whole", rows[:2000])
    data = bytearray((tmp_path / "whole" / "whole_0.mcap").read_bytes())
    data[data.index(rows[1000][2]) + 20] ^= 0xFF
    (tmp_path / "bad.mcap").write_bytes(bytes(data))
    tail = EpisodeTail(tmp_path / "bad.mcap", spec)
    assert 0 < tail.poll() <= 1000
    for _ in range(2):
        with pytest.raises(DataError, match="does not match its checksum"):
            tail.poll()
    assert not tail.behind
    assert np.isfinite(tail.episodes()[0].state).all()
