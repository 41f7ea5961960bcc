"""Planning problems of a fixed size with seeded weights: what every planner of `planning.py` is timed on."""

from __future__ import annotations

import dataclasses
import itertools
from dataclasses import dataclass
from typing import Any

import numpy as np

from mbrl_control.models import network
from mbrl_control.models.ensemble import Ensemble
from mbrl_control.robot import RobotSpec
from mbrl_control.store.snapshot import Snapshot

MODEL_DT = 0.05
TARGET = 0.3
"""Wanted value of the first third of the signals; that of the others is 0."""


@dataclass(frozen=True)
class Problem:
    """Sizes of a planning problem (DESIGN section 5).

    Attributes:
        members: E; every candidate is scored by every member.
        candidates: N, in each iteration.
        horizon: H model steps.
        iterations: rounds of sampling and refitting.
        states: S.
        actions: A.
        hidden: units of each hidden layer.
    """

    members: int = 5
    candidates: int = 128
    horizon: int = 15
    iterations: int = 3
    states: int = 18
    actions: int = 6
    hidden: tuple[int, ...] = (128, 128)

    @property
    def sizes(self) -> list[int]:
        """Units of all layers: states and actions in, mean and log-variance out."""
        return [self.states + self.actions, *self.hidden, 2 * self.states]

    @property
    def steps(self) -> int:
        """Model steps of all candidates of a plan, one after the other."""
        return self.horizon * self.iterations

    @property
    def gflop(self) -> float:
        """Billions of operations of the matrix products of a plan."""
        per_row = sum(2 * a * b for a, b in itertools.pairwise(self.sizes))
        return 1e-9 * per_row * self.members * self.candidates * self.steps


PROBLEMS = {
    "P1": Problem(),
    "P2": Problem(candidates=512, hidden=(200, 200, 200, 200)),
    "tiny": Problem(members=2, candidates=16, horizon=4, iterations=2, states=4, actions=2, hidden=(16, 16)),
}


@dataclass(frozen=True)
class Weights:
    """One network and one cost, for all competitors; plain arrays.

    Attributes:
        layers: (weight [E, in, out], bias [E, 1, out]) of each layer, SiLU between them.
        input_mean: [S + A] subtracted from state and action.
        input_inverse: [S + A] what the difference is multiplied with.
        target_mean: [S] mean change of state.
        target_scale: [S] what the network's mean is multiplied with to give the change of state, before the mean is added.
        goal: [S] wanted state.
        state_cost: [S] cost per squared distance from it.
        effort: [A] cost per squared action.
    """

    layers: list[tuple[np.ndarray, np.ndarray]]
    input_mean: np.ndarray
    input_inverse: np.ndarray
    target_mean: np.ndarray
    target_scale: np.ndarray
    goal: np.ndarray
    state_cost: np.ndarray
    effort: np.ndarray

    @staticmethod
    def make(problem: Problem, seed: int) -> Weights:
        """Random weights as before a fit, and statistics as a robot's might be: changes of a tenth of what the state varies by."""
        rng = np.random.default_rng(seed)
        arrays = [w.numpy() for w in network.initial(problem.members, problem.sizes, rng)]
        # Biases that are 0 would hide a competitor that forgets them.
        layers = [(w, (0.1 * rng.standard_normal(b.shape)).astype(np.float32)) for w, b in zip(arrays[::2], arrays[1::2], strict=True)]
        count, inputs = problem.states, problem.states + problem.actions
        spread = rng.uniform(0.5, 2.0, inputs)
        given = {"input_mean": 0.1 * rng.standard_normal(inputs), "input_inverse": 1 / spread,
                 "target_mean": 0.01 * rng.standard_normal(count), "target_scale": 0.1 * spread[:count],
                 "goal": np.where(np.arange(count) < count // 3, TARGET, 0.0), "state_cost": rng.uniform(0.1, 1.0, count),
                 "effort": rng.uniform(0.01, 0.1, problem.actions)}
        return Weights(layers, **{name: array.astype(np.float32) for name, array in given.items()})

    def folded(self) -> list[tuple[np.ndarray, np.ndarray]]:
        """The layers with the scale and the mean of the change of state in the last one, for a library that does not know them."""
        weight, bias = self.layers[-1]
        one = np.ones_like(self.target_scale)
        scale = np.concatenate([self.target_scale, one])
        offset = np.concatenate([self.target_mean, 2 * np.log(self.target_scale)])
        return [*self.layers[:-1], ((weight * scale).astype(np.float32), (bias * scale + offset).astype(np.float32))]


def spec(problem: Problem, weights: Weights, dtype: str, planner: str, candidates: int) -> RobotSpec:
    """The robot that the problem is, so that our planner is asked as it always is.

    Args:
        problem: sizes.
        weights: for the cost.
        dtype: `float32` or `bfloat16`.
        planner: `icem` or `cem`; the population is the same in all iterations.
        candidates: fresh samples in each.
    """
    states, actions = ([f"{letter}{i}" for i in range(count)] for letter, count in (("x", problem.states), ("u", problem.actions)))
    data: dict[str, Any] = {
        "name": "benchmark", "rate_hz": 1 / MODEL_DT, "plan_hz": 1 / MODEL_DT, "model_dt": MODEL_DT,
        "state": [{"name": name, "joint": name, "field": "position", "unit": "1"} for name in states],
        "command": [{"name": name, "joint": name, "field": f"data[{i}]", "unit": "1", "limits": [-1, 1]} for i, name in enumerate(actions)],
        "cost": {"kind": "quadratic", "options": {
            "target": dict(zip(states, weights.goal.tolist(), strict=True)),
            "weight": dict(zip(states, weights.state_cost.tolist(), strict=True)),
            "effort": dict(zip(actions, weights.effort.tolist(), strict=True))}},
        "model": {"kind": "ensemble", "members": problem.members, "hidden": list(problem.hidden)},
        "planner": {"kind": planner, "horizon": problem.horizon, "candidates": candidates, "iterations": problem.iterations,
                    "dtype": dtype, "options": {"decay": 1.0, "elites": elites(problem)} if planner == "icem" else {}},
    }
    return RobotSpec.model_validate(data)


def elites(problem: Problem) -> int:
    """Candidates that a refit uses: a tenth, and two at least."""
    return max(2, round(0.1 * problem.candidates))


def snapshot(model: Ensemble, weights: Weights) -> Snapshot:
    """The weights as a snapshot that a fresh model of the robot loads."""
    model.prepare()
    empty = model.snapshot()
    change = np.hypot(weights.target_mean, weights.target_scale)
    given = {"input_mean": weights.input_mean, "input_inverse": weights.input_inverse, "target_mean": weights.target_mean,
             "target_scale": weights.target_scale, "error_scale": weights.target_scale, "change": change}
    arrays = {f"normaliser.{name}": array for name, array in given.items()}
    for i, (weight, bias) in enumerate(weights.layers):
        arrays |= {f"layer{i}.weight": weight, f"layer{i}.bias": bias}
    unknown = set(arrays) - set(empty.weights)
    if unknown:
        raise SystemExit(f"snapshots of the ensemble no longer hold {', '.join(sorted(unknown))}; adapt benchmarks/problems.py")
    cast = {name: array.astype(empty.weights[name].dtype) for name, array in arrays.items()}
    return dataclasses.replace(empty, version=1, weights=empty.weights | cast)


def starts(problem: Problem, count: int = 64) -> np.ndarray:
    """[count, S] states to plan from."""
    return 0.5 * np.random.default_rng(11).standard_normal((count, problem.states))
