"""Plans as functions of time, and their layout as vectors."""

from __future__ import annotations

import math

import numpy as np
import pytest
from fakes import plan_of, spec_with
from hypothesis import given, settings
from hypothesis import strategies as st

from mbrl_control import robot
from mbrl_control.planning.plan import PlanRequest, Verdict, shift
from mbrl_control.runtime.faults import FAULTS
from mbrl_control.runtime.layout import CARRY_ROWS, HISTORY_S, WINNERS, Layout

SPEC = robot.load("rc_car")


@pytest.mark.parametrize(("time", "expected"), [
    (0.0, 1.0), (0.99, 1.0), (1.0, 1.0), (1.0999, 1.0), (1.1, 2.0), (1.2, 3.0), (1.2999, 3.0), (1.3, None), (9.0, None), (-1e308, 1.0),
    (math.inf, None), (-math.inf, 1.0), (math.nan, None),
])
def test_an_action_is_held_for_its_cell(time, expected):
    found = plan_of(spec_with(), [1.0, 2.0, 3.0], start=1.0, dt=0.1).at(time)
    assert found is expected is None or found == pytest.approx([expected])


def test_ticks_on_the_grid_fall_into_their_own_cells():
    plan = plan_of(spec_with(), np.arange(50.0), start=0.02 * 7, dt=0.04)
    assert [float(plan.at(0.02 * k)[0]) for k in range(7, 107)] == [n // 2 for n in range(100)]


def test_shift_by_whole_cells_holds_the_last_action():
    rows = np.arange(5.0).reshape(1, 5, 1)
    assert shift(rows, 0.1, 0.2)[0, :, 0] == pytest.approx([2, 3, 4, 4, 4])
    assert np.array_equal(shift(rows, 0.1, 0.0), rows)
    assert np.array_equal(shift(rows, 0.1, -1.0), rows)
    assert shift(rows, 0.1, 99.0)[0, :, 0] == pytest.approx([4] * 5)


@settings(deadline=None)
@given(st.lists(st.floats(-5, 5), min_size=2, max_size=8), st.floats(0, 1))
def test_shift_keeps_the_mean_over_each_new_cell(values, elapsed):
    dt, horizon = 0.1, len(values)
    moved = shift(np.array(values).reshape(1, -1, 1), dt, elapsed)[0, :, 0]
    fine = 2000
    for k in range(horizon):
        at = elapsed + (k + (np.arange(fine) + 0.5) / fine) * dt
        held = np.array(values)[np.minimum((at / dt).astype(int), horizon - 1)]
        assert moved[k] == pytest.approx(held.mean(), abs=10 / fine * 2)


def request_of(spec, count, seq=5):
    rng = np.random.default_rng(count)
    return PlanRequest(seq, rng.normal(size=spec.state_dim), 12.25, 12.5, np.sort(rng.uniform(0, 12, count)),
                       rng.normal(size=(count, spec.action_dim)), 3.5)


@pytest.mark.parametrize("count", [0, 1, 5, 500])
@pytest.mark.parametrize("name", ["rc_car", "arm7", "cartpole"])
def test_requests_go_through_a_vector(name, count):
    spec = robot.load(name)
    layout = Layout.of(spec)
    given_ = request_of(spec, count)
    vector = layout.pack_request(given_)
    assert vector.shape == (layout.request_size,)
    back = layout.unpack_request(vector)
    kept = min(count, layout.history)
    assert (back.seq, back.state_time, back.apply_time, back.experience_s) == (5, 12.25, 12.5, 3.5)
    assert np.array_equal(back.state, given_.state)
    assert np.array_equal(back.sent_time, given_.sent_time[count - kept:])
    assert np.array_equal(back.sent, given_.sent[count - kept:])


def test_the_history_reaches_back_beyond_the_longest_delay():
    assert Layout.of(SPEC).history / SPEC.rate_hz >= 0.35 + HISTORY_S - 1e-9


@pytest.mark.parametrize("rows", [0, 1, 4, CARRY_ROWS, CARRY_ROWS + 3])
@pytest.mark.parametrize("winner", WINNERS)
def test_plans_go_through_a_vector(rows, winner):
    layout = Layout.of(SPEC)
    rng = np.random.default_rng(rows)
    plan = plan_of(SPEC, rng.normal(size=(layout.horizon, 2)), 7.5, 9, 0.0125, winner=winner, verdict=Verdict.EARLY_STOP,
                   carry=rng.normal(size=(rows, layout.horizon, 2)), cost=math.inf, stats={"finite": 0.75, "std": 0.25, "ess": 3.0})
    vector = layout.pack_plan(plan, 8)
    assert vector.shape == (layout.plan_size,)
    back, previous = layout.unpack_plan(vector)
    assert previous == 8
    for name in ("seq", "start", "dt", "cost", "verdict", "model_version", "iterations", "latency_s", "winner"):
        assert getattr(back, name) == getattr(plan, name), name
    assert np.array_equal(back.actions, plan.actions)
    assert np.array_equal(back.carry, plan.carry[:CARRY_ROWS])
    assert back.stats == {"finite": 0.75, "std": 0.25}


@pytest.mark.parametrize("faults", [(), ("model_wrong",), ("plan_invalid", "model_doubtful", "model_wrong")])
def test_faults_go_through_a_vector(faults):
    layout = Layout.of(SPEC)
    plan = plan_of(SPEC, np.zeros((layout.horizon, 2)), 1.0, faults=faults)
    assert layout.unpack_plan(layout.pack_plan(plan, 0))[0].faults == faults


def test_every_fault_has_room_in_a_plan():
    layout = Layout.of(SPEC)
    everything = plan_of(SPEC, np.zeros((layout.horizon, 2)), 1.0, faults=tuple(FAULTS))
    assert layout.unpack_plan(layout.pack_plan(everything, 0))[0].faults == tuple(FAULTS)


@pytest.mark.parametrize("bits", [-1, 2.0**53, 1e300, math.inf, math.nan])
def test_bits_that_stand_for_nothing_are_no_plan(bits):
    layout = Layout.of(SPEC)
    vector = layout.pack_plan(plan_of(SPEC, np.zeros((layout.horizon, 2)), 1.0), 0)
    for place in (13, 14):
        wrong = vector.copy()
        wrong[place] = bits
        with pytest.raises((ValueError, OverflowError)):
            layout.unpack_plan(wrong)


@pytest.mark.parametrize("lacking", [(13, 14), (14,)], ids=["faults", "idle"])
def test_plans_logged_before_there_were_faults_or_idle_sources_are_read_as_plans_without(lacking):
    layout = Layout.of(SPEC)
    plan = plan_of(SPEC, np.random.default_rng(0).normal(size=(layout.horizon, 2)), 1.0, 7, faults=("model_wrong",), idle=(3, 63, 0, 25))
    now = np.concatenate([layout.pack_plan(plan, 6), layout.pack_request(request_of(SPEC, 5))])
    assert np.array_equal(layout.current(now), now)
    assert layout.unpack_plan(now)[0].idle == (3, 63, 0, 25, 0, 0, 0, 0)
    back = layout.current(np.delete(now, lacking))  # as it was laid out then
    assert len(back) == layout.answer_size
    again, before = layout.unpack_plan(back[: layout.plan_size])
    assert (again.seq, again.faults, before, again.idle) == (7, () if 13 in lacking else ("model_wrong",), 6, 8 * (0,))
    assert np.array_equal(again.actions, plan.actions)
    assert layout.unpack_request(back[layout.plan_size :]).seq == 5


def test_large_numbers_of_requests_survive():
    layout = Layout.of(SPEC)
    assert layout.unpack_request(layout.pack_request(request_of(SPEC, 2, seq=2**52 + 1))).seq == 2**52 + 1
