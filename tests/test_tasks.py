"""Tasks of gymnasium and dm_control as agents see them, against the tasks themselves."""

from __future__ import annotations

import os
import sys

import numpy as np
import pytest
import torch

from mbrl_control.errors import UserError
from mbrl_control.stack import tasks as named
from mbrl_sim import tasks
from mbrl_sim.ends import ENDS

os.environ.setdefault("MUJOCO_GL", "egl")  # read once, when dm_control is imported
gymnasium = pytest.importorskip("gymnasium")


def test_actions_are_stretched_to_the_tasks_own():
    task, other = tasks.GymnasiumTask("Pendulum-v1", "Pendulum-v1"), gymnasium.make("Pendulum-v1")
    assert (task.spec.observation, task.spec.actions, task.spec.limit) == ((3,), 1, 200)
    begin = task.reset(3)
    np.testing.assert_array_equal(begin, other.reset(seed=3)[0])
    assert begin.dtype == np.float32
    for action in (-1.0, 0.25, 1.0):
        outcome = task.step(np.array([action], np.float32))
        seen, reward, *_ = other.step(np.array([2.0 * action], np.float32))
        np.testing.assert_array_equal(outcome.observation, seen)
        assert outcome.reward == pytest.approx(float(reward), abs=0)


def test_the_time_limit_truncates_and_repeats_count():
    task = tasks.GymnasiumTask("Pendulum-v1", "Pendulum-v1", repeat=3)
    assert (task.spec.limit, task.spec.repeat) == (67, 3)
    task.reset(0)
    outcomes = [task.step(np.zeros(1)) for _ in range(67)]
    assert [o.truncated for o in outcomes] == [False] * 66 + [True]
    assert not any(o.terminated for o in outcomes)
    single = tasks.GymnasiumTask("Pendulum-v1", "Pendulum-v1")
    single.reset(0)
    assert outcomes[0].reward == pytest.approx(sum(single.step(np.zeros(1)).reward for _ in range(3)), abs=1e-12)


@pytest.mark.parametrize("name", sorted(n for n in ENDS if n.endswith(("v5", "v1", "v0"))))
def test_known_ends_are_where_the_task_ends(name):
    task, ends = tasks.GymnasiumTask(name, name), 0
    known, draw = task.spec.terminated, np.random.default_rng(0)
    assert known is ENDS[name]
    task.reset(0)
    for _ in range(150):
        outcome = task.step(draw.uniform(-1, 1, task.spec.actions))
        assert bool(known(torch.as_tensor(outcome.observation)[None])) == outcome.terminated
        ends += outcome.terminated
        if outcome.terminated or outcome.truncated:
            task.reset()
    if name.startswith(("Inverted", "Hopper", "Walker")):
        assert ends > 1
    task.close()


def test_a_car_ends_at_its_goal():
    at = torch.tensor([[0.5, 0.01], [0.5, -0.01], [0.4, 0.01]])
    assert ENDS["MountainCarContinuous-v0"](at).tolist() == [True, False, False]


def test_the_suites_dictionary_becomes_a_vector():
    pytest.importorskip("dm_control")
    task = tasks.SuiteTask("cartpole-swingup", "dmc:cartpole-swingup", 8)
    assert (task.spec.observation, task.spec.actions, task.spec.limit, task.spec.repeat) == ((5,), 1, 125, 8)
    first, again = task.reset(4), task.reset(4)
    np.testing.assert_array_equal(first, again)
    assert not np.array_equal(first, task.reset(5))
    outcomes = [task.step(np.array([0.5])) for _ in range(125)]
    assert [o.truncated for o in outcomes] == [False] * 124 + [True]
    assert not any(o.terminated for o in outcomes)
    assert 0 < sum(o.reward for o in outcomes) < 1000
    assert outcomes[-1].observation.dtype == np.float32


def test_pictures_of_the_suite_or_one_sentence(monkeypatch):
    pytest.importorskip("dm_control")
    try:
        task = tasks.SuiteTask("cartpole-swingup@pixels", "dmc:cartpole-swingup@pixels", 8)
    except UserError as error:
        assert "MUJOCO_GL" in str(error)  # noqa: PT017
        return
    seen = task.reset(0)
    assert (task.spec.observation, seen.shape, seen.dtype) == ((3, 64, 64), (3, 64, 64), np.uint8)
    assert seen.std() > 5
    assert not np.array_equal(seen, task.step(np.ones(1)).observation)


def test_what_cannot_be_had_is_said(monkeypatch):
    for name, said in (("Pendulum-v7", "not known to gymnasium"), ("CartPole-v1", "vectors for both")):
        with pytest.raises(UserError, match=said):
            tasks.GymnasiumTask(name, name)
    with pytest.raises(UserError, match="nearest: 'cartpole-swingup'"):
        tasks.SuiteTask("cartpole-swungup", "dmc:cartpole-swungup")
    monkeypatch.setitem(sys.modules, "gymnasium", None)
    with pytest.raises(UserError, match=r"pip install mbrl_control\[agents\]"):
        tasks.GymnasiumTask("Pendulum-v1", "Pendulum-v1")


def test_families_are_found_by_what_is_before_the_colon(monkeypatch):
    class Entry:
        def __init__(self, name):
            self.name = name

        def load(self):
            return lambda rest, name, repeat: (self.name, rest, name, repeat)

    monkeypatch.setattr(named, "entry_points", lambda group: [Entry("gymnasium"), Entry("dmc")])
    assert named.make("dmc:walker-walk", 2) == ("dmc", "walker-walk", "dmc:walker-walk", 2)
    assert named.make("Pendulum-v1") == ("gymnasium", "Pendulum-v1", "Pendulum-v1", 1)
    assert named.make("my_package:Env-v0")[:2] == ("gymnasium", "my_package:Env-v0")
    monkeypatch.setattr(named, "entry_points", lambda group: [])
    with pytest.raises(UserError, match="no family of tasks 'gymnasium' is installed"):
        named.make("Pendulum-v1")
