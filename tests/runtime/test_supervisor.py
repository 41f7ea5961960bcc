"""The supervisor on a virtual clock: what raises the mode, what lets it fall, and after how long."""

from __future__ import annotations

import itertools
import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mbrl_control.runtime import supervisor
from mbrl_control.runtime.faults import FAULTS, Mode
from mbrl_control.runtime.supervisor import Supervision, step

TICK = 0.02
CODES = sorted(FAULTS)


def run(script, state=None, base=Mode.ACTIVE):
    """Modes of ticks at 50 Hz; `script` gives the faults of each tick."""
    state, modes = state or Supervision(base, 0.0), []
    for k, codes in enumerate(script):
        state = step(state, base, frozenset(codes), k * TICK)
        modes.append(state.mode)
    return modes, state


def test_every_fault_has_a_sentence_and_something_to_do():
    for code, fault in FAULTS.items():
        assert code == fault.code
        assert len(fault.sentence) > 10
        assert len(fault.action) > 10
        assert fault.mode >= Mode.ACTIVE


@pytest.mark.parametrize("code", CODES)
def test_a_fault_raises_the_mode_in_its_own_tick(code):
    modes, state = run([[], [code]])
    assert modes[1] == FAULTS[code].mode
    assert state.reasons == ((code,) if FAULTS[code].mode >= Mode.DEGRADED else ())


def test_degraded_ends_with_its_fault():
    assert run([[], ["plan_late"], ["plan_late"], []])[0] == [Mode.ACTIVE, Mode.DEGRADED, Mode.DEGRADED, Mode.ACTIVE]


def test_from_brake_it_takes_one_second_without_a_severe_fault():
    modes, _ = run([["state_stale"]] * 3 + [[]] * 60)
    # Last fault in tick 2 at 0.04 s: 1 s later is tick 52.
    assert modes[:52] == [Mode.BRAKE] * 50 + [Mode.HOLD] * 2
    assert modes[52] == Mode.ACTIVE


def test_a_fault_that_returns_starts_the_second_anew():
    script = [["state_stale"]] + [[]] * 40 + [["state_stale"]] + [[]] * 60
    modes, _ = run(script)
    assert min(modes[: 41 + 50]) >= Mode.BRAKE
    assert modes[41 + 50] == Mode.ACTIVE


def test_a_slight_fault_does_not_keep_it_braking_but_counts_afterwards():
    modes, _ = run([["state_stale"]] + [["plan_late"]] * 60)
    assert modes[49] >= Mode.BRAKE
    assert modes[50] == Mode.DEGRADED


def test_braking_becomes_holding_after_a_second():
    modes, _ = run([["state_stale"]] * 60)
    assert modes[49:51] == [Mode.BRAKE, Mode.HOLD]


@pytest.mark.fault(row=34)
def test_latched_stays_until_an_operator_says_so_and_then_still_waits():
    modes, state = run([["estop"], *[[]] * 500])
    assert set(modes) == {Mode.LATCHED}
    assert state.reasons == ("estop",)
    now = 501 * TICK
    assert step(state, Mode.ACTIVE, frozenset({"estop"}), now, reset=True).mode == Mode.LATCHED
    state = step(state, Mode.ACTIVE, frozenset(), now, reset=True)
    assert state.mode == Mode.BRAKE
    assert step(state, Mode.ACTIVE, frozenset(), now + 0.98).mode >= Mode.BRAKE
    assert step(state, Mode.ACTIVE, frozenset(), now + 1.0).mode == Mode.ACTIVE


def test_a_fault_that_lasts_latches():
    modes, state = run([["joints_wrong"]] * 8)
    assert modes == [Mode.DEGRADED] * 5 + [Mode.LATCHED] * 3
    assert state.reasons == ("joints_wrong",)
    assert set(run([["joints_wrong"], []] * 20)[0]) == {Mode.DEGRADED, Mode.ACTIVE}


def test_nothing_matters_while_inactive_and_activation_starts_clean():
    state = step(Supervision(), Mode.INACTIVE, frozenset({"estop"}), 1.0)
    assert state.mode == Mode.INACTIVE
    assert step(state, Mode.STANDBY, frozenset(), 1.02).mode == Mode.STANDBY
    latched = run([["estop"]])[1]
    assert step(latched, Mode.INACTIVE, frozenset(), 2.0).mode == Mode.INACTIVE


def test_what_is_only_told_changes_no_mode():
    assert set(run([["recorder_stopped", "trainer_failing"]] * 5, base=Mode.EXPLORE)[0]) == {Mode.EXPLORE}


def test_the_worst_reason_comes_first():
    assert run([["plan_late", "state_stale", "model_doubtful"]])[1].reasons == ("state_stale", "model_doubtful", "plan_late")


@given(st.lists(st.tuples(st.sets(st.sampled_from(CODES), max_size=3), st.booleans()), max_size=120),
       st.sampled_from([Mode.STANDBY, Mode.EXPLORE, Mode.ACTIVE]))
def test_whatever_happens_it_is_never_milder_than_a_fault_that_is_present(script, base):
    state = Supervision(base, 0.0)
    severe = latched = -math.inf
    for k, (codes, reset) in enumerate(script):
        now = k * TICK
        before, state = state, step(state, base, frozenset(codes), now, reset)
        floor = max((supervisor.severity(c, now - state.present[c]) for c in codes), default=base)
        assert state.mode >= (floor if floor >= Mode.DEGRADED else base)
        severe = now if floor >= Mode.BRAKE else severe
        if state.mode < Mode.BRAKE:
            assert now - severe >= 1.0 - 1e-6
        if before.mode == Mode.LATCHED and state.mode != Mode.LATCHED:
            assert reset
            assert floor < Mode.LATCHED
            latched = now
        if state.mode < Mode.BRAKE:
            assert now - latched >= 1.0 - 1e-6
        assert set(state.reasons) <= set(CODES)


def test_the_same_history_gives_the_same_modes():
    script = list(itertools.islice(itertools.cycle([["state_old"], [], ["plan_over", "plan_late"], []]), 300))
    assert run(script) == run(script)
