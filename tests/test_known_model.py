"""Planners with a model without error solve the shipped swing-ups, closed loop with the simulated plant."""

import importlib.util
import sys
from pathlib import Path

import pytest
import torch

spec = importlib.util.spec_from_file_location("known_model", Path(__file__).parents[1] / "benchmarks" / "known_model.py")
known_model = importlib.util.module_from_spec(spec)
sys.modules["known_model"] = known_model
spec.loader.exec_module(known_model)


@pytest.mark.slow
@pytest.mark.parametrize(("name", "case", "seconds", "dearest"), [
    ("cartpole", "icem_97", 6.0, 0.28), ("pendulum", "mppi", 8.0, 3.6)])
def test_swing_up(name, case, seconds, dearest):
    torch.set_num_threads(1)
    result = known_model.episode(name, case, known_model.CASES[case], 0, seconds)
    assert result.solved_s is not None
    assert result.cost < dearest
    assert result.rollouts < 300


@pytest.mark.slow
def test_known_models_agree_on_the_plan():
    """MuJoCo's own rollout and the same equations in CasADi lead to the same decision."""
    torch.set_num_threads(1)
    costs = [known_model.episode("cartpole", "icem_97", known_model.CASES["icem_97"], 0, 0.2, model).cost for model in ("mujoco", "casadi")]
    assert costs[0] == pytest.approx(costs[1], rel=1e-3)
