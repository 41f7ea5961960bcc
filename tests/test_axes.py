"""What a command sets is found by joint and unit, or named; what cannot be kept is refused with its place."""

from __future__ import annotations

import pytest
from carts import CART

from mbrl_control import robot, strict_yaml
from mbrl_control.errors import SpecError, UserError
from mbrl_control.part_checks import check_parts

LIMITS = "{name: x, joint: slider, unit: m, limits: [-1, 1], margin: 0.1, max_deceleration: 2}"


def load(*changes):
    text = "name: cart\n" + CART
    for old, new in changes:
        assert text.count(old) == 1, old
        text = text.replace(old, new)
    return robot.validate(strict_yaml.parse(text, "cart.yaml"))


def command(unit="N", joint="slider", more=""):
    return ("{name: u, unit: N, limits: [-1, 1]}", "{" + f"name: u, unit: {unit}, limits: [-1, 1], {f'joint: {joint}, ' if joint else ''}"
            + more + "}")


@pytest.mark.parametrize(("change", "kind", "tracks", "position", "rate"), [
    (command("m"), "position", 0, 0, 1),
    (command("m/s"), "speed", 1, 0, 1),
    (command("N"), "effort", None, None, 1),
    (command("N", joint=""), "effort", None, None, 1),  # without a joint, braked by the rate of its place
    (command("rad"), "position", None, None, 1),
    (command("m", joint="other"), "position", None, None, None),
    (command("m", joint="", more="tracks: x"), "position", 0, 0, 1),
    (command("m/s", joint="", more="tracks: v"), "speed", 1, 0, 1),
    (command("m/s", joint="", more="tracks: x"), "speed", None, 0, 1),  # its speed is set but not measured under that name
])
def test_axes_by_joint_and_unit_or_by_name(change, kind, tracks, position, rate):
    (axis,) = load(change).axes
    assert (axis.kind, axis.tracks, axis.position, axis.rate) == (kind, tracks, position, rate)


def test_every_joint_of_the_arm_is_braked_by_its_own_rate_and_the_elbow_of_the_acrobot_by_the_elbow():
    assert [axis.rate for axis in robot.load("arm7").axes] == list(range(7, 14))
    assert [axis.rate for axis in robot.load("acrobot").axes] == [3]
    assert [axis.rate for axis in robot.load("double_pendulum_c1").axes] == [2, 3]
    assert [axis.kind for axis in robot.load("rc_car").axes] == ["speed", "position"]


def test_limits_with_their_margins_and_safe_actions_by_axis():
    spec = load(("{name: x, joint: slider, unit: m}", LIMITS), command("m/s", more="safe_action: ramp"))
    assert spec.limit_low.tolist() == [-0.9, -float("inf")]
    assert spec.limit_high.tolist() == [0.9, float("inf")]
    assert spec.safe_actions == ("ramp",)
    assert load().safe_actions == ("zero",)


X = "{name: x, joint: slider, unit: m}"
BACKUP = ("cost:", "safety: {backup: true, model: casadi}\ncost:")


@pytest.mark.parametrize(("changes", "named"), [
    ([(X, LIMITS)], "cart.yaml:6: state.0.limits = [-1.0, 1.0]: no command sets position or speed of 'x'"),
    ([(X, LIMITS.replace(", max_deceleration: 2", "")), command("m/s")],
     "cart.yaml:6: state.0.limits = [-1.0, 1.0]: command 'u' sets the speed of 'x'; give max_deceleration too"),
    ([(X, LIMITS.replace("0.1", "1.0"))], "cart.yaml:6: state.0.margin = 1.0: it leaves nothing of the limits [-1.0, 1.0]"),
    ([(X, LIMITS.replace("[-1, 1]", "[1, -1]"))], "cart.yaml:6: state.0.limits = [1, -1]: it is empty"),
    ([(X, "{name: x, joint: slider, unit: m, margin: 0.1}")], "state.0.margin = 0.1: it does nothing without `limits`"),
    ([(X, "{name: x, joint: slider, unit: m, max_deceleration: 1}")], "state.0.max_deceleration = 1: it does nothing without `limits`"),
    ([(X, LIMITS.replace("2}", "0}"))], "state.0.max_deceleration = 0: input should be greater than 0"),
    ([(X, LIMITS.replace("unit: m", "unit: rad, wraps: true"))], "state.0.wraps = True: an angle that wraps has no limits"),
    ([command("m", more="tracks: xx")], "command.0.tracks = 'xx': this is no signal that can stand here; nearest: 'x'"),
    ([command("N", more="tracks: x")], "command.0.tracks = 'x': a command in N sets neither position nor speed of a signal in m"),
    ([command("m", more="tracks: v")], "command.0.tracks = 'v': a command in m sets neither position nor speed of a signal in m/s"),
    ([command("N", more="safe_action: brak")], "command.0.safe_action = 'brak'"),
    ([BACKUP], "cart.yaml:10: safety.backup = True: no state signal has limits"),
    ([(X, LIMITS), (BACKUP[0], BACKUP[1].replace("casadi", "mujoco"))], "safety.backup = True: the robot has no key 'sim'"),
    ([(X, LIMITS), (BACKUP[0], BACKUP[1].replace("casadi", "mujoco, options: {a: 1}"))], "safety.options: model 'mujoco' has no options"),
    ([(X, LIMITS), (BACKUP[0], BACKUP[1].replace("casadi", "casadi, step_s: 0.01"))],
     "cart.yaml:10: safety.step_s = 0.01: it is shorter than a tick of 0.02 s"),
    ([(X, LIMITS), (BACKUP[0], BACKUP[1].replace("casadi", "casadi, horizon_s: 5, step_s: 0.02"))],
     "safety.horizon_s = 5.0: it is 250 steps of 0.02 s; 1 to 200 are possible"),
    ([(X, LIMITS), (BACKUP[0], BACKUP[1].replace("casadi", "casadi, step_s: 0.04")), command("N", more="delay_s: 0.03")],
     "safety.step_s = 0.04: commands have a delay_s, which needs steps of a tick"),
    ([(X, LIMITS), (BACKUP[0], BACKUP[1].replace("casadi", "casadi, horizon_s: 0"))], "safety.horizon_s = 0"),
    ([(X, LIMITS), (BACKUP[0], BACKUP[1].replace("backup", "back_up"))], "unknown key 'safety.back_up'; nearest: 'backup'"),
])
def test_what_cannot_be_kept_is_refused(changes, named):
    with pytest.raises(SpecError) as caught:
        load(*changes)
    assert any(named in fault for fault in caught.value.faults), caught.value.faults


@pytest.mark.parametrize(("options", "named"), [
    ("{system: cartpol}", "safety.options: system = 'cartpol' is not known; nearest: 'cartpole'"),
    ("{sistem: cartpole}", "safety.options: unknown option 'sistem'; nearest: 'system'"),
    ("{system: cartpole}", "safety.options: states of 'cartpole' are x, theta, x_dot, theta_dot"),
])
def test_equations_that_do_not_fit_are_refused_before_anything_starts(options, named):
    spec = load((X, LIMITS), (BACKUP[0], BACKUP[1].replace("casadi", "casadi, options: " + options)))
    with pytest.raises(UserError) as caught:
        check_parts(spec)
    assert named in str(caught.value)
