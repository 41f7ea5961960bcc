"""Clocks and rhythm: offset and drift against known ones, samples dropped and held up, clocks that were set on the way."""

from __future__ import annotations

import numpy as np
import pytest
from bag_tools import ARRAY, JOINTS, array, joint_state, real, spec_of, write_rosbag2

from mbrl_calibration import times
from mbrl_control import robot
from mbrl_control.data.bags import read_bag
from mbrl_control.errors import DataError


def clocks(rng, offset=0.0, ppm=0.0, count=2000, period=0.01, way=2e-4, held=2e-3):
    """Stamps and receipts of messages: sent every period, at least `way` under way, and held up at random on top."""
    sent = period * np.arange(count)
    receipt = sent + way + rng.exponential(held, count)
    return offset + sent * (1 + 1e-6 * ppm), np.maximum.accumulate(receipt)


@pytest.mark.parametrize(("offset", "ppm"), [(0.0, 0.0), (5.0, 120.0), (-3e6, -28.0), (0.25, 3000.0)])
def test_offset_and_drift_of_a_clock(offset, ppm):
    stamp, receipt = clocks(np.random.default_rng(1), offset, ppm)
    fit = times.compare("a", stamp, receipt)
    assert fit.offset_s == pytest.approx(offset, abs=5e-4)  # but for the least time under way and what the quickest were held up
    assert fit.low_ppm < ppm < fit.high_ppm
    assert fit.high_ppm - fit.low_ppm < 40.0
    assert fit.drifts == (abs(ppm) > 20)
    assert fit.delay_s == pytest.approx(2e-3 * np.log(2), rel=0.15)  # median of an exponential
    assert not fit.problem


def test_interval_of_the_drift_holds_the_true_one_as_often_as_it_says():
    inside = 0
    for seed in range(100):
        fit = times.compare("a", *clocks(np.random.default_rng(seed), ppm=50.0, count=600))
        inside += fit.low_ppm <= 50.0 <= fit.high_ppm
    assert inside >= 90


def test_one_message_in_ten_held_up_for_long_changes_nothing():
    rng = np.random.default_rng(3)
    stamp, receipt = clocks(rng, offset=1.0, ppm=40.0)
    late = receipt + np.where(rng.random(len(receipt)) < 0.1, 0.5, 0.0)
    fit = times.compare("a", stamp, late)
    assert fit.low_ppm < 40.0 < fit.high_ppm
    assert fit.offset_s == pytest.approx(1.0, abs=1e-3)
    assert fit.late_s > 0.4


def test_a_clock_set_on_the_way_is_told_with_its_step_and_time():
    stamp, receipt = clocks(np.random.default_rng(0))
    stamp = stamp + np.where(stamp > 12.0, 0.05, 0.0)
    fit = times.compare("imu", stamp, receipt)
    assert "+0.0" in fit.problem
    assert "12" in fit.problem.split("about")[1]
    assert not fit.drifts


def test_two_clocks_against_each_other_through_a_third():
    rng = np.random.default_rng(5)
    one = times.compare("a", *clocks(rng, offset=0.3, ppm=80.0))
    two = times.compare("b", *clocks(rng, offset=-0.2, ppm=-20.0))
    fit = times.between(one, two)
    assert fit.offset_s == pytest.approx(0.5, abs=5e-4)
    assert fit.low_ppm < 100.0 < fit.high_ppm
    with pytest.raises(DataError, match="same clock"):
        times.between(one, times.compare("b", *clocks(rng), against="sending"))


def test_rhythm_of_even_samples():
    made = times.rhythm("log.csv", 0.002 * np.arange(500))
    assert (made.count, made.dropped, made.backwards) == (500, 0, 0)
    assert made.period_s == pytest.approx(0.002)
    assert made.jitter_s < 1e-12


def test_jitter_is_the_standard_deviation_of_what_is_between_samples():
    rng = np.random.default_rng(0)
    steps = 0.01 + 1e-4 * rng.standard_normal(20000)
    assert times.rhythm("a", np.cumsum(steps)).jitter_s == pytest.approx(1e-4, rel=0.03)  # 68 % lie within one sigma


def test_dropped_samples_are_counted_and_late_ones_are_not():
    rng = np.random.default_rng(2)
    time = 0.01 * np.arange(3000) + 1e-4 * rng.standard_normal(3000)
    lost = np.array([200, 201, 202, 900, 1700])
    late = time.copy()
    late[500:504] = time[504] - np.array([4e-4, 3e-4, 2e-4, 1e-4])  # four messages held up and delivered at once
    made = times.rhythm("a", np.delete(late, lost))
    assert made.dropped == 5
    assert made.longest_s == pytest.approx(0.05, abs=1e-3)


def test_times_that_go_back_are_counted():
    time = np.array([0.0, 0.1, 0.2, 0.15, 0.3, 0.4])
    assert times.rhythm("a", time).backwards == 1
    with pytest.raises(DataError, match="do not advance"):
        times.rhythm("a", np.zeros(5))
    with pytest.raises(DataError, match="at least 3"):
        times.rhythm("a", np.array([0.0, 1.0]))


def test_times_of_a_bag_by_topic(tmp_path):
    rng, ms, base = np.random.default_rng(0), 10**6, 1_700_000_000 * 10**9
    rows = []
    for i in range(400):
        stamp = base + 10 * ms * i
        receipt = stamp + int(2e9) + int(1e5 + 1e5 * rng.random())  # the receiver's clock is 2 s ahead
        rows.append(("/joint_states", JOINTS, joint_state(stamp, (0.1, 0.2), (0.0, 0.0)), receipt))
        if i % 2 == 0 and not 100 <= i < 104:
            rows.append(("/commands", ARRAY, array(0.5, -0.5), receipt))
    write_rosbag2(tmp_path / "bag", rows)
    joints, commands = times.of_bag(read_bag(tmp_path / "bag"), spec_of())
    assert joints.clock is not None
    assert joints.clock.offset_s == pytest.approx(-2.0, abs=3e-4)
    assert joints.stamp is not None
    assert joints.stamp.period_s == pytest.approx(0.01)
    assert commands.clock is None
    assert commands.receipt.dropped == 2
    assert commands.receipt.period_s == pytest.approx(0.02, abs=2e-4)


@pytest.mark.data
def test_the_cars_odometry_runs_on_a_clock_of_its_own():
    found = {t.name: t for t in times.of_bag(read_bag(real("uf_gpsnav_ackermann_ros2_sqlite3") / "bag"), robot.load("rc_car"))}
    clock = found["/odometry"].clock
    assert clock is not None
    assert clock.offset_s == pytest.approx(-5.70075e6, rel=1e-6)
    assert clock.drifts
    assert abs(clock.drift_ppm) < 100  # two quartzes
    assert found["/vehicle_pose"].clock is None  # its stamps are zero
    assert found["/vehicle_command_ackermann"].receipt.period_s == pytest.approx(0.1, rel=1e-3)
