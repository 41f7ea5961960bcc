"""A robot's simulated twin as a task of agents, against the plant and the cost themselves."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from mbrl_control import robot
from mbrl_control.costs import base as costs
from mbrl_control.errors import UserError
from mbrl_control.policies.view import View, matters
from mbrl_control.robot import RobotSpec
from mbrl_sim.plant import MujocoPlant
from mbrl_sim.robot_task import robot_task


def test_the_reward_is_minus_the_stage_cost_of_every_tick():
    task, spec = robot_task("cartpole", "robot:cartpole", 3), robot.load("cartpole")
    plant, cost = MujocoPlant(spec), costs.build(spec)
    assert (task.spec.observation, task.spec.actions, task.spec.limit, task.spec.repeat) == ((5,), 1, 167, 3)
    plant.reset(np.random.default_rng(4))
    view = View(spec)
    np.testing.assert_array_equal(task.reset(4), view(torch.as_tensor(plant.state(), dtype=torch.float32)).numpy())
    for decision in (0.3, -1.0, 1.7):
        command, total = np.clip([decision], -1, 1), 0.0
        for _ in range(3):
            total -= float(cost.stage(torch.as_tensor(plant.step(command, 0.02), dtype=torch.float32), torch.as_tensor(command)))
        outcome = task.step(np.array([decision]))
        assert outcome.reward == pytest.approx(total, abs=1e-5)
        np.testing.assert_allclose(outcome.observation, view(torch.as_tensor(plant.state(), dtype=torch.float32)).numpy(), atol=1e-6)


def test_episodes_are_cut_at_ten_seconds_and_never_end():
    task = robot_task("pendulum", "robot:pendulum", 7)
    for _ in range(2):
        task.reset()
        outcomes = [task.step(np.zeros(task.spec.actions)) for _ in range(task.spec.limit)]
        assert [o.truncated for o in outcomes] == [False] * (len(outcomes) - 1) + [True]
        assert not any(o.terminated for o in outcomes)
        assert task.plant.time == pytest.approx(10.0)


def test_decisions_are_stretched_to_the_limits_and_change_no_faster_than_allowed(tmp_path):
    data = robot.load("acrobot").model_dump()
    data["command"][0]["max_rate"] = 100.0
    path = tmp_path / "slow.yaml"
    path.write_text(RobotSpec.model_validate(data).model_dump_json())
    task, sent = robot_task(str(path), "robot:slow", 3), []
    step = task.plant.step
    task.plant.step = lambda command, dt: sent.append(float(command[0])) or step(command, dt)
    task.reset(0)
    task.step(np.ones(1))
    task.step(np.full(1, 0.25))
    assert sent == pytest.approx([1.0, 2.0, 3.0, 2.0, 1.5, 1.5]), "6 N m at most, 1 N m a tick"


def test_a_policy_does_not_see_what_nobody_looks_at():
    runner, cart = robot.load("runner"), robot.load("cartpole")
    assert [name for name, m in zip(runner.state_names, matters(runner), strict=True) if not m] == ["x"]
    assert matters(cart).all(), "the model ignores x, but the cost does not"
    task = robot_task("runner", "robot:runner", 2)
    assert task.spec.observation == (18,), "16 signals and an angle's sine and cosine"
    before = task.reset(0)
    task.plant.place(task.plant.state() + 5.0 * np.eye(18)[0])
    np.testing.assert_allclose(task._observed(task.plant.state()), before, atol=1e-7)


def test_an_unknown_robot_and_one_without_a_twin_are_told():
    with pytest.raises(UserError, match=r"'cartpol' is neither.*cartpole"):
        robot_task("cartpol", "robot:cartpol", 1)
    with pytest.raises(UserError, match="has no key 'sim'"):
        robot_task("rc_car", "robot:rc_car", 1)
