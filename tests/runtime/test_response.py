"""Whether the robot follows: row 37 of the fault table, on a joint that is driven by position and one by velocity."""

from __future__ import annotations

import itertools
import math

import numpy as np
import pytest

from mbrl_control import robot, strict_yaml
from mbrl_control.errors import SpecError
from mbrl_control.runtime.faults import Mode
from mbrl_control.runtime.response import AGAIN_S, ResponseWatch
from mbrl_control.runtime.supervisor import Supervision, step

TICK = 0.02
ARM = """
name: arm
rate_hz: 50
state:
  - {name: q, joint: elbow, unit: rad, wraps: true}
  - {name: w, joint: elbow, field: velocity, unit: rad/s, rate_of: q}
command:
  - {name: c, joint: elbow, unit: %s, limits: [-4, 4], delay_s: %g, tracks_within: 0.1}
cost: {kind: quadratic, options: {weight: {q: 1.0}}}
"""


def spec_of(unit="rad", delay_s=0.0, text=ARM):
    return robot.validate(strict_yaml.parse(text % (unit, delay_s), "arm.yaml"))


def modes(spec, commands, answer, reset_at=()):
    """Modes of ticks in which `commands` are sent and the state is `answer(k)`; measured at the tick.

    As the controller's node does it: a tick acts on what the ticks before have found, and while it brakes nothing is compared.
    """
    watch, state, out = ResponseWatch(spec), Supervision(Mode.ACTIVE, 0.0), []
    for k, command in enumerate(commands):
        now = k * TICK
        state = step(state, Mode.ACTIVE, watch.faults(), now, reset=k in reset_at)
        watch.tick(now, np.array([command]), answer(k) if state.mode < Mode.BRAKE else None, now)
        out.append(state.mode)
    return out


def spans(found):
    """(mode, number of ticks) of each stretch of one mode."""
    return [(mode, len(list(ticks))) for mode, ticks in itertools.groupby(found)]


@pytest.mark.fault(row=37)
@pytest.mark.parametrize(("unit", "place"), [("rad", 0), ("rad/s", 1)])
def test_a_joint_that_stands_still_brakes_after_ten_ticks(unit, place, record_property):
    commands = [math.sin(0.1 * k) for k in range(100)]

    def answer(k):
        state = np.full(2, 99.0)
        state[place] = commands[max(k - 1, 0)] if k < 50 else commands[49]
        return state

    found = modes(spec_of(unit), commands, answer)
    # The command before is what the state shows; with it 0.1 away from where the joint stands from some tick on.
    wrong = next(k for k in range(50, 100) if all(abs(commands[j - 1] - commands[49]) > 0.1 for j in range(k, k + 10)))
    assert found[:wrong + 10] == [Mode.ACTIVE] * (wrong + 10)
    assert found[wrong + 10] == Mode.BRAKE
    record_property("measured", f"command in {unit}, joint blocked: BRAKE in the tick after ten with an error above the bound")


@pytest.mark.fault(row=37)
def test_half_the_gain_brakes(record_property):
    commands = [0.5 * min(k / 21, 1.0) for k in range(60)]
    found = modes(spec_of(), commands, lambda k: np.array([0.5 * commands[k], 0.0]))
    assert found.index(Mode.BRAKE) == next(k for k in range(60) if commands[max(k - 1, 0)] - 0.5 * commands[k] > 0.1) + 10
    record_property("measured", "gain of 50 %: BRAKE in the tick after ten with an error above the bound")


def blocked(k):
    return np.array([1.0, 0.0])


@pytest.mark.fault(row=37)
def test_a_joint_that_stays_blocked_is_driven_into_the_block_twice_then_never(record_property):
    found = modes(spec_of(), [0.0] * 1000, blocked)
    # The first command has no effect before the tick after it, so the error shows in ticks 1 to 10.
    assert spans(found) == [(Mode.ACTIVE, 11), (Mode.BRAKE, 50), (Mode.ACTIVE, 10), (Mode.LATCHED, 929)]
    record_property("measured", "joint blocked for 20 s: driven for 0.22 s, and once more a second later; then LATCHED")


def test_a_reset_lets_it_try_once_and_after_a_minute_without_a_fault_the_count_begins_anew():
    found = modes(spec_of(), [0.0] * 1000, blocked, reset_at=(200,))
    assert spans(found)[3:] == [(Mode.LATCHED, 129), (Mode.BRAKE, 50), (Mode.ACTIVE, 10), (Mode.LATCHED, 740)]
    apart = round(AGAIN_S / TICK)
    for later, worst in ((apart - 20, Mode.LATCHED), (apart + 20, Mode.BRAKE)):
        found = modes(spec_of(), [0.0] * (later + 50), lambda k, later=later: blocked(k) if k < 20 or k >= later else np.zeros(2))
        assert max(found) == worst


@pytest.mark.parametrize("delay_s", [0.0, 0.1, 0.31])
def test_dead_time_is_no_error(delay_s):
    commands = [2.0 * math.sin(0.2 * k) for k in range(200)]
    late = math.floor(delay_s / TICK + 1e-9) + 1  # at its very instant a command has no effect yet
    found = modes(spec_of(delay_s=delay_s), commands, lambda k: np.array([commands[k - late] if k >= late else 0.0, 0.0]))
    assert set(found) == {Mode.ACTIVE}
    if delay_s:
        assert Mode.BRAKE in modes(spec_of(), commands, lambda k: np.array([commands[k - late] if k >= late else 0.0, 0.0]))


def test_angles_are_compared_around_the_circle_and_short_errors_forgiven():
    assert set(modes(spec_of(), [3.13] * 50, lambda k: np.array([-3.13, 0.0]))) == {Mode.ACTIVE}
    nine = modes(spec_of(), [0.0] * 100, lambda k: np.array([1.0 if k % 10 else 0.0, 0.0]))
    assert set(nine) == {Mode.ACTIVE}
    assert Mode.BRAKE in modes(spec_of(), [0.0] * 100, lambda k: np.array([1.0 if k % 12 else 0.0, 0.0]))


def test_without_a_state_the_count_begins_anew_and_without_the_option_nothing_is_watched():
    assert set(modes(spec_of(), [0.0] * 100, lambda k: np.array([1.0, 0.0]) if k % 10 else None)) == {Mode.ACTIVE}
    off = spec_of(text=ARM.replace(", tracks_within: 0.1", ""))
    assert set(modes(off, [0.0] * 100, lambda k: np.array([1.0, 0.0]))) == {Mode.ACTIVE}


@pytest.mark.parametrize(("unit", "extra", "named"), [
    ("V", "", "no state signal in V follows this command"),
    ("V", ", tracks: q", "a command in V sets neither position nor speed"),
    ("rad", ", tracks: qq", "nearest: 'q'"),
    ("rad", ", tracks: w", "no state signal in rad follows this command"),
])
def test_what_a_command_tracks_must_be_there(unit, extra, named):
    with pytest.raises(SpecError, match=named):
        spec_of(unit, text=ARM.replace("tracks_within: 0.1", "tracks_within: 0.1" + extra))


def test_a_signal_without_a_joint_may_be_named():
    text = ARM.replace("{name: c, joint: elbow,", "{name: c, tracks: w,")
    assert spec_of("rad/s", text=text).tracked == ((0, 1, 0.1),)
    assert spec_of("rad/s").tracked == ((0, 1, 0.1),)
    assert spec_of("rad").tracked == ((0, 0, 0.1),)
