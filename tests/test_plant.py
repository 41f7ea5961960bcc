"""The simulated plants: same physics as the control suite, joints by name, exact delay, changes while running, clear errors."""

import re

import numpy as np
import pytest
import torch

from mbrl_control import robot
from mbrl_control.costs import base as costs
from mbrl_control.errors import UserError
from mbrl_control.models import mjcf
from mbrl_sim.dm import DmPlant
from mbrl_sim.plant import MujocoPlant


def variant(name="cartpole", **changes):
    """A shipped robot with top-level keys replaced (`sim=dict(...)` and `command=dict(...)` update theirs)."""
    data = robot.load(name).model_dump()
    for key, value in changes.items():
        if key == "command":
            data["command"] = [{**c, **value} for c in data["command"]]
        elif isinstance(value, dict):
            data[key] = {**data[key], **value}
        else:
            data[key] = value
    return robot.RobotSpec.model_validate(data)


def edited(tmp_path, replace, name="cartpole.xml"):
    text = (mjcf.assets() / name).read_text()
    for old, new in replace.items():
        assert old in text
        text = text.replace(old, new)
    (tmp_path / name).write_text(text)
    return tmp_path


def test_own_cartpole_moves_and_costs_as_the_control_suites():
    pytest.importorskip("dm_control")
    spec = robot.load("cartpole")
    ours, suite, cost = MujocoPlant(spec), DmPlant(spec), costs.build(spec)
    rng = np.random.default_rng(0)
    start = suite.reset(rng)
    np.testing.assert_array_less(np.abs(start - [0, np.pi, 0, 0]), 0.06)
    ours.place(start)
    for k in range(300):
        command = rng.uniform(-1, 1, 1) if k < 200 else np.ones(1)  # at the end against the rail
        a, b = ours.step(command, 0.01), suite.step(command, 0.01)
        np.testing.assert_allclose(a, b, atol=1e-9)
        assert 1 - cost.stage(torch.tensor(b), torch.tensor(command)).item() == pytest.approx(suite.rewards[-1], abs=1e-6)
    assert b[0] > 1.7
    assert suite.reward == pytest.approx(sum(suite.rewards))
    for _ in range(50):  # random states, also off the trajectory
        state = rng.normal(0, [1, 3, 3, 6])
        suite.place(state)
        suite.env.physics.set_control(command)
        expected = suite.env.task.get_reward(suite.env.physics)
        assert 1 - cost.stage(torch.tensor(state), torch.tensor(command)).item() == pytest.approx(expected, abs=1e-6)


def test_suite_plant_repeats_and_counts_one_reward_per_10_ms():
    pytest.importorskip("dm_control")
    plant = DmPlant(robot.load("cartpole"))
    runs = []
    for _ in range(2):
        plant.reset(np.random.default_rng(3))
        for _ in range(5):
            plant.step(np.array([0.5]), 0.02)
        assert len(plant.rewards) == 10
        assert plant.time == pytest.approx(0.1)
        runs.append(plant.state())
    np.testing.assert_array_equal(*runs)


def test_reset_is_the_start_with_noise_and_repeats():
    spec = robot.load("cartpole")
    plant = MujocoPlant(spec)
    np.testing.assert_allclose(plant.state(), [0, np.pi, 0, 0])
    starts = np.array([plant.reset(np.random.default_rng(s)) for s in range(400)])
    np.testing.assert_array_equal(starts[7], plant.reset(np.random.default_rng(7)))
    np.testing.assert_allclose(starts.mean(0), [0, np.pi, 0, 0], atol=0.003)
    np.testing.assert_allclose(starts.std(0), 0.01, rtol=0.15)


def test_joints_and_actuators_are_found_by_name_whatever_their_order(tmp_path):
    spec = robot.load("cartpole")
    # A second, unrelated mechanism comes first, so that every address and the actuator's index move.
    base = edited(tmp_path, {
        "<body name=\"cart\"": '<body name="fan" pos="3 0 1"><joint name="fan"/><geom size="0.1" mass="1"/></body><body name="cart"',
        "<motor name=\"slide\"": '<motor name="blow" joint="fan"/><motor name="slide"',
    })
    plain, moved = MujocoPlant(spec), MujocoPlant(spec, base)
    assert moved.map.address.tolist() == [1, 2, 4, 5]
    assert moved.map.actuator.tolist() == [1]
    reverse = spec.model_copy(update={"state": list(reversed(spec.state))})
    backwards = MujocoPlant(reverse)
    for p in (plain, moved):
        p.place(np.array([0.1, 1.0, -0.2, 0.3]))
    backwards.place(np.array([0.3, -0.2, 1.0, 0.1]))
    for u in np.linspace(-1, 1, 20):
        a, b, c = (p.step(np.array([u]), 0.02) for p in (plain, moved, backwards))
        np.testing.assert_allclose(a, b, atol=1e-12)
        np.testing.assert_array_equal(a, c[::-1])


@pytest.mark.parametrize("steps", [0, 1, 3, 7])
def test_commands_take_effect_exactly_so_many_steps_later(steps):
    late = MujocoPlant(variant(command={"delay_s": 0.01 * steps}))
    prompt = MujocoPlant(robot.load("cartpole"))
    rng = np.random.default_rng(1)
    commands = rng.uniform(-1, 1, (40, 1))
    delayed = np.concatenate((np.zeros((steps, 1)), commands))[:40]
    for p in (late, prompt):
        p.place(np.array([0, 3.0, 0, 0]))
    for given, effective in zip(commands, delayed, strict=True):
        np.testing.assert_array_equal(late.step(given, 0.01), prompt.step(effective, 0.01))
    late.place(np.zeros(4))  # what is under way is forgotten
    assert late.step(np.zeros(1), 0.01)[2] == 0.0


def test_delay_crosses_control_steps_of_several_physics_steps():
    late = MujocoPlant(variant(command={"delay_s": 0.03}))
    prompt = MujocoPlant(robot.load("cartpole"))
    late.step(np.ones(1), 0.02)
    assert abs(late.state()[2]) < 1e-15  # nothing yet but sin(pi) in floating point
    late.step(np.zeros(1), 0.04)
    for u in (0, 0, 0, 1, 1, 0):
        prompt.step(np.array([float(u)]), 0.01)
    np.testing.assert_array_equal(late.state(), prompt.state())


def test_doubling_the_poles_mass_halves_its_part_of_the_acceleration():
    plant = MujocoPlant(robot.load("cartpole"))
    plant.place(np.array([0, np.pi, 0, 0]))
    plant.change("mass:pole", 2.0)
    # Hanging at rest: M = [[mc + mp, mp l], [mp l, I]] with l = 0.5 m and theta measured so that the hanging coupling is -mp l.
    mass, inertia = 0.2, 2 * (plant.model.body_inertia[2][0] / 2 + 0.1 * 0.25)
    matrix = np.array([[1 + mass, -mass * 0.5], [-mass * 0.5, inertia]])
    expected = np.linalg.solve(matrix, [10.0, 0.0])
    moved = plant.step(np.ones(1), 0.01)
    np.testing.assert_allclose(moved[2:] / 0.01, expected, rtol=2e-3)
    assert plant.model.body_subtreemass[1] == pytest.approx(1.2)
    assert plant.model.body_mass[2] == pytest.approx(0.2)
    np.testing.assert_allclose(plant.reset(np.random.default_rng(0)), [0, np.pi, 0, 0], atol=0.05)
    assert plant.model.body_mass[2] == pytest.approx(0.2)  # a reset does not undo it


def test_change_leaves_the_state_alone_and_knows_gear_and_damping():
    plant = MujocoPlant(robot.load("cartpole"))
    plant.place(np.array([0.3, 2.0, -1.0, 4.0]))
    plant.change("gear:slide", 0.5)
    plant.change("damping:slider", 3.0)
    np.testing.assert_array_equal(plant.state(), [0.3, 2.0, -1.0, 4.0])
    assert plant.model.actuator_gear[0, 0] == pytest.approx(5)
    assert plant.model.dof_damping[0] == pytest.approx(1.5e-3)


@pytest.mark.parametrize(("what", "factor", "words"), [
    ("mass:pol", 2, "nearest: 'pole'"), ("mas:pole", 2, "nearest: 'mass'"), ("mass:pole", 0, "positive"), ("pole", 2, "cannot change"),
])
def test_impossible_changes_are_told_in_words(what, factor, words):
    with pytest.raises(UserError, match=words):
        MujocoPlant(robot.load("cartpole")).change(what, factor)


@pytest.mark.parametrize("command", [np.zeros(2), np.zeros((1, 1)), np.array(0.0), np.array([np.nan]), np.array([np.inf])])
def test_a_wrong_command_is_refused_and_moves_nothing(command):
    plant = MujocoPlant(robot.load("cartpole"))
    with pytest.raises(UserError, match=r"wanted \[1\] finite numbers: force"):
        plant.step(command, 0.02)
    assert plant.time == 0.0


@pytest.mark.parametrize("dt", [0.015, 0.0, -0.01, 0.004])
def test_a_period_that_is_no_multiple_of_the_timestep_is_refused(dt):
    with pytest.raises(UserError, match=r"no multiple of the MJCF's timestep 0\.01"):
        MujocoPlant(robot.load("cartpole")).step(np.zeros(1), dt)


@pytest.mark.parametrize(("changes", "words"), [
    ({"sim": {"mjcf": "cartpol.xml"}}, "nearest: 'cartpole.xml'"),
    ({"sim": {"actuators": ["slid"]}}, "no actuator 'slid'; nearest: 'slide'"),
    ({"command": {"limits": (-2, 2)}}, r"beyond actuator 'slide' of the MJCF, whose ctrlrange is \[-1, 1\]"),
    ({"sim": None}, "has no key 'sim'"),
])
def test_a_sim_that_does_not_fit_its_mjcf_is_one_clear_error(changes, words):
    with pytest.raises(UserError, match=words):
        MujocoPlant(variant(**changes))


@pytest.mark.parametrize(("update", "words"), [
    ({"joint": "hing"}, "state 'theta': the MJCF has no joint 'hing'; nearest: 'hinge'"),
    ({"joint": None}, "state 'theta' has no key 'joint'"),
    ({"field": "effort"}, "field 'effort' of joint 'hinge' cannot be simulated"),
    ({"joint": "slider"}, "is in rad, but the position of joint 'slider' is in m"),
])
def test_a_signal_that_does_not_fit_its_joint_is_one_clear_error(update, words):
    spec = robot.load("cartpole")
    state = [s.model_copy(update=update) if s.name == "theta" else s for s in spec.state]
    with pytest.raises(UserError, match=re.escape(words)):
        MujocoPlant(spec.model_copy(update={"state": state}))


def test_a_broken_mjcf_is_one_clear_error(tmp_path):
    base = edited(tmp_path, {"</mujoco>": ""})
    with pytest.raises(UserError, match=r"cartpole\.xml: MuJoCo cannot load this MJCF: .*") as caught:
        MujocoPlant(robot.load("cartpole"), base)
    assert "\n" not in str(caught.value)


@pytest.mark.fault(row=36)
def test_an_unstable_simulation_is_told_not_hidden(tmp_path):
    base = edited(tmp_path, {'integrator="RK4"': 'integrator="Euler"', 'gear="10"': 'gear="1e12"'})
    plant = MujocoPlant(robot.load("cartpole"), base)
    with pytest.raises(UserError, match="became unstable"):
        plant.step(np.ones(1), 20.0)


def test_suite_plant_refuses_another_robot():
    pytest.importorskip("dm_control")
    spec = robot.load("cartpole")
    with pytest.raises(UserError, match="4 states and 1 command"):
        DmPlant(spec.model_copy(update={"state": spec.state[:3]}))


def test_a_split_timestep_is_the_same_motion_and_lets_commands_act_in_between():
    spec = robot.load("cartpole")
    whole, split = MujocoPlant(spec), MujocoPlant(spec, longest_step_s=1e-3)
    assert split.model.opt.timestep == pytest.approx(1e-3)
    assert MujocoPlant(spec, longest_step_s=4e-3).model.opt.timestep == pytest.approx(0.01 / 3)
    start = np.array([0.1, 2.0, 0.3, -1.0])
    whole.place(start)
    split.place(start)
    for k in range(50):
        command = np.array([np.sin(k)])
        a, b = whole.step(command, 0.01), split.step(command, 0.01)
    np.testing.assert_allclose(a, b, atol=1e-5)  # Runge and Kutta's error is of the fifth order in the step
    with pytest.raises(UserError):
        whole.step(np.ones(1), 0.003)
    before = split.place(np.zeros(4))
    assert split.step(np.ones(1), 0.003)[2] == pytest.approx(before[2] + 0.003 * 9.7, abs=2e-3)


def test_a_split_timestep_leaves_the_delay_as_it_is():
    spec = variant(command={"delay_s": 0.025})
    plant = MujocoPlant(spec, longest_step_s=1e-3)
    plant.place(np.zeros(4))
    assert plant.step(np.ones(1), 0.025)[2] == 0.0
    assert plant.step(np.ones(1), 0.001)[2] > 0.005
