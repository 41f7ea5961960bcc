"""A log that is thinned tells the same in its report: what is counted and summed stays to the tick, times of first faults too."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
from bag_tools import JOINTS
from hypothesis import given, settings
from hypothesis import strategies as st

from mbrl_control import robot
from mbrl_control.data.mcap_bag import McapBag
from mbrl_control.data.message_types import encode
from mbrl_control.runtime.faults import Mode, mask
from mbrl_control.stack import picture, report
from mbrl_control.stack.run_log import RunLog
from mbrl_control.stack.run_reader import RunReader

SPEC = robot.load("cartpole")
MODES = (Mode.EXPLORE, Mode.ACTIVE, Mode.DEGRADED, Mode.BRAKE)


def made(ticks, starts=(0,)):
    """A log of (mode, fault, version) per tick; costs, states and commands tell the ticks apart."""
    log, rng = RunLog(starts=list(starts)), np.random.default_rng(0)
    for k, (mode, faulty, version) in enumerate(ticks):
        log.add(0.02 * k, rng.normal(size=4), rng.normal(size=1), int(mode), version, mask(["plan_late"]) if faulty else 0)
        log.cost.append(float(rng.uniform()))
    return log


def told(log):
    return report.build(SPEC, log, command="", seed=0, wall_s=0.0, cadence={})


runs = st.lists(st.tuples(st.sampled_from(MODES), st.booleans(), st.integers(0, 2), st.integers(1, 40)), min_size=1, max_size=12)


@given(runs, st.integers(1, 6), st.integers(0, 1000))
@settings(max_examples=60, deadline=None)
def test_the_report_stays_as_it_was(stretches, times, start):
    ticks = [key[:3] for key in stretches for _ in range(key[3])]
    log = made(ticks, sorted({0, start % len(ticks)}))
    before, rows = told(log), len(log.time)
    for _ in range(times):
        log.thin()
    after = told(log)
    assert after["faults"] == before["faults"]
    for one, other in zip(after["episodes"], before["episodes"], strict=True):
        assert one["start_s"] == other["start_s"]
        assert one["experience_s"] == pytest.approx(other["experience_s"], abs=1e-9)
        assert one["return"] == pytest.approx(other["return"], rel=1e-12)
    assert sum(log.ticks) == rows
    changes = sum(a != b for a, b in itertools.pairwise(ticks))
    assert len(log.time) <= rows / 2**times + 2 * (changes + 3)


def test_rows_that_stay_are_those_that_were():
    log, same = made([(Mode.ACTIVE, False, 1)] * 100), made([(Mode.ACTIVE, False, 1)] * 100)
    log.thin()
    at = np.round(np.array(log.time) / 0.02).astype(int)
    assert list(at) == [*range(0, 100, 2), 99]
    np.testing.assert_array_equal(np.array(log.state), np.array(same.state)[at])
    np.testing.assert_array_equal(np.array(log.command), np.array(same.command)[at])
    assert log.cost[3] == pytest.approx((same.cost[6] + same.cost[7]) / 2)


def test_a_reader_thins_what_becomes_too_long_and_goes_on(tmp_path):
    bag, reader = McapBag(tmp_path / "bag"), RunReader(SPEC, tmp_path, most=400)
    for k in range(3000):
        at = 10**9 + 20_000_000 * k
        state = {"header": {"stamp": at}, "name": ["slider", "hinge"], "position": [0.0, 3.0], "velocity": [0.0, 0.0]}
        sent = {"header": {"stamp": at}, "name": ["force"], "position": [0.5]}
        chosen = {"header": {"stamp": at}, "name": ["mode", "model_version"], "position": [2.0, 1.0 + k // 500]}
        for topic, body in (("/joint_states", state), ("/mbrl/command", sent), ("/mbrl/decision", chosen)):
            bag.write(topic, JOINTS, encode(JOINTS, body), at, at)
        if k % 50 == 49:
            bag.flush()
            assert len(reader.poll().time) <= 550
    bag.close()
    log = reader.poll()
    assert sum(log.ticks) == 3000
    assert (log.time[0], log.time[-1]) == pytest.approx((0.0, 59.98))
    assert [version for _, version in log.swaps] == [1, 2, 3, 4, 5, 6]
    assert told(log)["episodes"][0]["experience_s"] == pytest.approx(60.0)
    picture.draw(SPEC, log, tmp_path / "picture.png", "a long run")
    assert (tmp_path / "picture.png").stat().st_size > 10_000
