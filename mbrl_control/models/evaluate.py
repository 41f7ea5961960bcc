"""How good a model is: open-loop error over k steps beside simple baselines, and whether its uncertainty is honest."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch

from mbrl_control.data.sequences import Sequences
from mbrl_control.models.base import LearnedModel, Model
from mbrl_control.robot import RobotSpec, wrap_angle


@torch.inference_mode()
def open_loop(model: Model, start: np.ndarray, action: np.ndarray) -> np.ndarray:
    """Predictions without correction: every member follows its own mean, and the members' states are averaged.

    Args:
        model: the model.
        start: [M, S] first states, SI units.
        action: [M, K, A] mean command in effect during each model step.

    Returns:
        [M, K, S] states after 1 … K steps.
    """
    state = torch.tensor(start, dtype=torch.float32).expand(model.members, *start.shape).contiguous()
    commands = torch.tensor(action, dtype=torch.float32)
    out = np.empty((*action.shape[:2], start.shape[1]))
    for k in range(action.shape[1]):
        state = model.step(state, commands[:, k]).state
        out[:, k] = state.mean(0).numpy()
    return out


def difference(actual: np.ndarray, predicted: np.ndarray, wraps: np.ndarray) -> np.ndarray:
    """actual - predicted, [..., S]; angles around the circle."""
    out: np.ndarray = actual - predicted
    out[..., wraps] = wrap_angle(out[..., wraps])
    return out


def k_step_rmse(predicted: np.ndarray, data: Sequences, spec: RobotSpec, steps: Sequence[int]) -> dict[str, dict[str, float]]:
    """Root mean square error after k steps, per signal.

    Args:
        predicted: [M, K, S].
        data: what happened, M stretches of at least K steps.
        spec: names the signals and says which wrap.
        steps: the k.

    Returns:
        {"k": {signal: rmse in its own unit}}.
    """
    out = {}
    for k in steps:
        error = difference(data.state[:, k], predicted[:, k - 1], spec.wraps)
        out[str(k)] = dict(zip(spec.state_names, np.sqrt(np.mean(error**2, axis=0)).tolist(), strict=True))
    return out


def persistence(data: Sequences) -> np.ndarray:
    """[M, K, S] the prediction that nothing changes."""
    return np.repeat(data.state[:, :1], data.action.shape[1], axis=1)


@torch.inference_mode()
def coverage(model: LearnedModel, data: Sequences, spec: RobotSpec, shares: Sequence[float] = (0.68, 0.95)) -> list[float]:
    """How often what happened one step ahead lies in the central interval of the members' mixture of Gaussians.

    Args:
        model: the model.
        data: stretches; the first step of each is used.
        spec: says which signals wrap.
        shares: nominal coverages; an honest model returns about the same numbers.

    Returns:
        Measured coverage for each share, mean over signals.
    """
    state = torch.tensor(data.state[:, 0], dtype=torch.float32).expand(model.members, len(data), -1).contiguous()
    mean, std = model.predict(state, torch.tensor(data.action[:, 0], dtype=torch.float32))
    error = difference(data.state[:, 1][None], mean.numpy(), spec.wraps) / std.numpy()
    below = torch.special.ndtr(torch.tensor(error, dtype=torch.float64)).mean(0)
    return [float(((below - 0.5).abs() < share / 2).double().mean()) for share in shares]


def report(model: LearnedModel, data: Sequences, spec: RobotSpec, linear: LearnedModel | None = None,
           steps: Sequence[int] = (1, 10, 50)) -> dict[str, Any]:
    """The `model` part of report.json.

    Args:
        model: a fitted model.
        data: held-out stretches; k beyond their length are left out.
        spec: the robot.
        linear: a `linear` model fitted to the same training data.
        steps: the k.

    Returns:
        `k_step_rmse`, `persistence`, `linear` (each {"k": {signal: rmse}}), `coverage_68`, `coverage_95`, `stretches`.
    """
    steps = [k for k in steps if k <= data.action.shape[1]]
    out: dict[str, Any] = {
        "k_step_rmse": k_step_rmse(open_loop(model, data.state[:, 0], data.action), data, spec, steps),
        "persistence": k_step_rmse(persistence(data), data, spec, steps),
    }
    if linear is not None:
        out["linear"] = k_step_rmse(open_loop(linear, data.state[:, 0], data.action), data, spec, steps)
    out["coverage_68"], out["coverage_95"] = coverage(model, data, spec)
    return out | {"stretches": len(data)}
