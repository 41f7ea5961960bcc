"""Dead time: which commands already sent are still to take effect, the state they lead to, and the later axes of a plan."""

from __future__ import annotations

import math

import numpy as np
import torch

from mbrl_control.models.base import Model
from mbrl_control.planning.plan import PlanRequest
from mbrl_control.planning.rollout import rollout
from mbrl_control.robot import RobotSpec


def commands_in_effect(request: PlanRequest, edges: np.ndarray, delays: np.ndarray, zero: np.ndarray,
                       until: float = math.inf) -> np.ndarray:
    """[K, A] exact mean, over each cell between two edges, of the sent commands that are in effect.

    Commands are held until the next one; the last one holds on; before the first one there is `zero`.

    Args:
        request: the commands sent and when.
        edges: [K + 1] increasing times, s.
        delays: [A] time from command to effect, s.
        zero: [A] command in effect before the first one sent.
        until: what would be sent from here on, s, counts as 0 (it is still to be planned).
    """
    out = np.empty((len(edges) - 1, len(delays)))
    width = np.diff(edges)
    for axis, delay in enumerate(delays):
        change = np.minimum(request.sent_time, until) + delay
        begin, end = np.concatenate([[-np.inf], change]), np.concatenate([change, [until + delay]])
        value = np.concatenate([[zero[axis]], request.sent[:, axis] if len(request.sent) else []])
        overlap = np.minimum(end, edges[1:, None]) - np.maximum(begin, edges[:-1, None])
        out[:, axis] = np.clip(overlap, 0.0, None) @ value / width
    return out


class Delays:
    """A robot's dead times. A plan is made from the moment when its first action takes effect on the *fastest* axis; actions of
    slower axes reach the rollout later, behind commands that are already on their way.

    Args:
        spec: the robot; `delay_s` of each command, and the model step.
    """

    def __init__(self, spec: RobotSpec) -> None:
        self.dt, self.horizon, self.axes, self.zero = spec.model_dt, spec.planner.horizon, spec.delays, spec.action_zero
        self.pairs = spec.rate_pairs
        self.common = float(spec.delays.min())
        cells = (spec.delays - self.common) / self.dt
        whole = np.floor(cells + 1e-9)
        self.uniform = not cells.any()
        self._part = torch.as_tensor(np.maximum(cells - whole, 0.0), dtype=torch.float32)
        # Plan cells that overlap cell k of the rollout: k - whole and the one before it; negative ones point at a row of zeros.
        source = np.arange(self.horizon)[:, None] - whole.astype(int)
        self._index = [torch.as_tensor(np.where(s < 0, self.horizon, s)) for s in (source, source - 1)]

    def start(self, model: Model, request: PlanRequest) -> torch.Tensor:
        """[S] the state when the plan's first action takes effect: the measured one rolled through the commands already sent.

        The model knows whole steps only; the last, partial one is interpolated: rates linearly, a position whose rate is also
        measured by the cubic through both positions and rates (exact for constant acceleration), others linearly.
        """
        lead = self.common + request.apply_time - request.state_time
        state = torch.as_tensor(request.state, dtype=torch.float32)
        steps = max(0, math.ceil(lead / model.dt - 1e-6))
        if not steps:
            return state
        edges = request.state_time + np.append(np.arange(steps) * model.dt, lead)
        actions = torch.as_tensor(commands_in_effect(request, edges, self.axes, self.zero), dtype=torch.float32)
        path = rollout(model, state, actions[None], "mean")[0, 0]
        return self._part_way(path[-2], path[-1], min(1.0, lead / model.dt - steps + 1), model.dt)

    def _part_way(self, state: torch.Tensor, ahead: torch.Tensor, part: float, dt: float) -> torch.Tensor:
        if part > 1 - 1e-6:
            return ahead
        between = state + part * (ahead - state)
        for position, rate in self.pairs:
            # Hermite basis (Fritsch and Carlson 1980, eq. 1).
            a, b, c = part**2 * (3 - 2 * part), part * (1 - part) ** 2, part**2 * (part - 1)
            between[position] = (state[position] + a * (ahead[position] - state[position])
                                 + dt * (b * state[rate] + c * ahead[rate]))
        return between

    def pending(self, request: PlanRequest) -> torch.Tensor | None:
        """[H, A] share of the commands already sent in each cell of the rollout, physical units; None when all axes are equally late."""
        if self.uniform:
            return None
        edges = request.apply_time + self.common + np.arange(self.horizon + 1) * self.dt
        return torch.as_tensor(commands_in_effect(request, edges, self.axes, self.zero, request.apply_time), dtype=torch.float32)

    def played(self, actions: torch.Tensor, pending: torch.Tensor | None) -> torch.Tensor:
        """[N, H, A] mean commands in effect in the cells of the rollout, from actions [N, H, A] sent and `pending` before them."""
        if pending is None:
            return actions
        padded = torch.cat([actions, torch.zeros_like(actions[:, :1])], 1)
        here, before = (padded.gather(1, index.expand(len(actions), -1, -1)) for index in self._index)
        return pending + (1 - self._part) * here + self._part * before
