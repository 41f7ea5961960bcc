"""Every robot that ships: its YAML loads, its parts build, its simulation fits, and its costs want what its success asks for."""

import numpy as np
import pytest
import torch

from mbrl_control import parts, robot
from mbrl_control.costs import base as costs
from mbrl_control.errors import UserError
from mbrl_control.models import mjcf
from mbrl_sim.plant import MujocoPlant

ROBOTS = sorted(robot.shipped())
SIMULATED = [name for name in ROBOTS if robot.load(name).sim]
JUDGED = [name for name in SIMULATED if robot.load(name).success]


def goal(spec):
    """[S] a state in the middle of the success conditions, at rest."""
    state = np.zeros(spec.state_dim)
    for c in spec.success.conditions:
        state[spec.state_names.index(c.signal)] = c.target
    return state


def test_the_robots_that_the_stack_is_tried_on_ship():
    assert {"cartpole", "pendulum", "acrobot", "pendubot", "arm7"} <= set(SIMULATED)


@pytest.mark.parametrize("name", ROBOTS)
def test_yaml_loads_and_cost_builds_over_any_batch(name):
    spec = robot.load(name)
    assert spec.name == name
    cost = costs.build(spec)
    state, action = torch.randn(2, 3, 5, spec.state_dim), torch.zeros(3, 5, spec.action_dim)
    assert cost.stage(state, action).shape == (2, 3, 5)
    assert cost.terminal(state[:, :, -1]).shape == (2, 3)
    for group in (spec.model.mirror, spec.model.ignore):
        assert set(group) <= {*spec.state_names, *spec.command_names}


@pytest.mark.parametrize("name", SIMULATED)
def test_the_simulation_fits_and_starts_where_the_yaml_says(name):
    spec = robot.load(name)
    plant = MujocoPlant(spec)
    state = plant.reset(np.random.default_rng(0))
    np.testing.assert_allclose(state, plant.start, atol=5 * spec.sim.start_noise)
    for period in (spec.tick_s, spec.model_dt, 1 / spec.sim.state_hz):
        mjcf.whole_steps(period, plant.model.opt.timestep, "period")
    joints = {plant.model.joint(j).name for j in range(plant.model.njnt)}
    assert {s.joint for s in spec.state} == joints
    assert {c.joint for c in spec.command} <= joints
    for command in (spec.action_low, spec.action_high):
        plant.reset(np.random.default_rng(0))
        for _ in range(20):
            state = plant.step(command, spec.tick_s)
        assert ((state > spec.state_low) & (state < spec.state_high)).all()
    parts.find("models", "mujoco").build(spec, parts.options("models", "mujoco", {}))


@pytest.mark.parametrize("name", JUDGED)
def test_the_goal_is_cheapest_and_can_be_held(name):
    spec = robot.load(name)
    cost, plant, rest = costs.build(spec), MujocoPlant(spec), torch.as_tensor(spec.action_zero)
    best = cost.stage(torch.tensor(goal(spec)), rest).item()
    assert best == pytest.approx(0.0, abs=1e-6)
    others = torch.tensor(np.random.default_rng(0).normal(0, 2, (500, spec.state_dim)))
    assert (cost.stage(others, rest.expand(500, -1)) > best).all()
    assert cost.stage(torch.tensor(plant.start), rest).item() > 0.3
    np.testing.assert_allclose(plant.place(goal(spec)), plant.step(spec.action_zero, spec.tick_s), atol=1e-9)


def test_full_torque_alone_does_not_lift_the_pendulum():
    spec = robot.load("pendulum")
    plant = MujocoPlant(spec)
    angles = [plant.step(spec.action_high, spec.tick_s)[0] for _ in range(200)]
    assert np.cos(angles).max() < 0.0  # not even half the way


def test_tip_height_is_the_height_and_falls_with_rates_and_folding():
    spec = robot.load("acrobot")
    cost = parts.find("costs", "tip_height").build(
        spec, parts.options("costs", "tip_height", {"near_share": 0.0, "effort": 0.5, "straight": 0.0, "rate_margins": [8.0, 8.0]}))
    zero, full = torch.zeros(1), torch.full((1,), 6.0)

    def at(*state):
        return cost.stage(torch.tensor(state, dtype=torch.float64), zero).item()

    assert at(np.pi, 0, 0, 0) == pytest.approx(0, abs=1e-12)
    assert at(0, 0, 0, 0) == pytest.approx(1)
    assert at(np.pi / 2, 0, 0, 0) == pytest.approx(0.5)
    assert at(0, np.pi, 0, 0) == pytest.approx(1 - 0.6)  # link 2, 0.3 of 0.5 m, points up
    assert at(np.pi, 0, 8.0, 0) == pytest.approx(1 - 0.55)  # (1 + 0.1) / 2 at the margin
    assert cost.stage(torch.zeros(4), full).item() == pytest.approx(1.5)
    shipped = costs.build(spec)
    assert shipped.stage(torch.tensor([0.0, np.pi, 0, 0]), zero).item() == pytest.approx(1.0)  # folded is worth no more than hanging


@pytest.mark.parametrize(("options", "words"), [
    ({"angles": ["q1"]}, "angles = .* must be two"),
    ({"rates": ["q1_dot", "q2_dt"]}, "'q2_dt' is no state signal of 'acrobot'; nearest: 'q2_dot'"),
])
def test_tip_height_refuses_what_does_not_fit(options, words):
    with pytest.raises(UserError, match=words):
        parts.find("costs", "tip_height").build(robot.load("acrobot"), parts.options("costs", "tip_height", options))


def test_a_plant_stops_obeying_after_three_ticks_but_at_most_a_tenth_of_a_second():
    spec = robot.load("cartpole")
    assert spec.sim.command_timeout_s is None
    for rate, wanted in ((50.0, 0.06), (200.0, 0.015), (10.0, 0.1)):
        assert spec.model_copy(update={"rate_hz": rate}).command_timeout_s == pytest.approx(wanted)
    own = spec.model_copy(update={"sim": spec.sim.model_copy(update={"command_timeout_s": 0.2})})
    assert own.command_timeout_s == 0.2
