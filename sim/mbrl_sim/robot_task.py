"""A robot's simulated twin as a task for agents, `robot:NAME`: its own stage cost, in the eyes of its policies."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from mbrl_control import robot
from mbrl_control.agents.base import Outcome, TaskSpec
from mbrl_control.costs import base as costs
from mbrl_control.planning.actions import ActionSpace
from mbrl_control.policies.learned import fingerprint
from mbrl_control.policies.view import View
from mbrl_sim.plant import MujocoPlant

EPISODE_S = 10.0
"""As long as an episode of the control suite; the robot itself never ends, so reaching it truncates."""


class RobotTask:
    """A robot to learn to drive, without the stack around it.

    An observation is the state as `mbrl_control.policies.view.View` shows it. A decision is a command in half ranges of the limits, held
    for `repeat` ticks, each of them within the command's greatest rate. The reward is minus the robot's stage cost, summed over the
    ticks. Episodes begin where the plant begins, with its noise, and last 10 s.

    Args:
        given: a shipped robot's name, or the path of a YAML.
        name: as on the command line.
        repeat: ticks of a decision.

    Raises:
        UserError: no such robot, or it has no simulated twin.
    """

    def __init__(self, given: str, name: str, repeat: int = 1) -> None:
        self.robot = robot.load(given)
        base = Path(given).parent if Path(given).is_file() else None
        self.plant = MujocoPlant(self.robot, base)
        self.cost, self._space, self._view = costs.build(self.robot), ActionSpace(self.robot), View(self.robot)
        self._limit = max(1, round(EPISODE_S * self.robot.rate_hz))
        self.spec = TaskSpec(name, (self._view.size,), self.robot.action_dim, -(-self._limit // repeat), repeat,
                             contents=fingerprint(self.robot))
        self._rng = np.random.default_rng(0)
        self._count, self._last = 0, self.robot.action_zero

    def reset(self, seed: int | None = None) -> NDArray[np.float32]:
        """Begin an episode; gives its first observation [O]. A seed starts the noise of the starts anew."""
        if seed is not None:
            self._rng = np.random.default_rng(seed)
        self._count, self._last = 0, self.robot.action_zero
        return self._observed(self.plant.reset(self._rng))

    def step(self, action: NDArray[np.floating]) -> Outcome:
        """Carry out a decision [A] in [-1, 1].

        Raises:
            UserError: the simulation became unstable.
        """
        wanted = self._space.physical(torch.as_tensor(np.clip(np.asarray(action, np.float64), -1.0, 1.0)))
        state, total, most = self.plant.state(), 0.0, self.robot.action_max_rate * self.robot.tick_s
        for _ in range(self.spec.repeat):
            self._last = np.clip(wanted.numpy(), self._last - most, self._last + most)
            state = self.plant.step(self._last, self.robot.tick_s)
            total -= self._stage(state, self._last)
            self._count += 1
            if self._count >= self._limit:
                break
        return Outcome(self._observed(state), total, terminated=False, truncated=self._count >= self._limit)

    def close(self) -> None:
        """Give back what it holds."""
        self.plant.close()

    def _stage(self, state: NDArray[np.float64], command: NDArray[np.float64]) -> float:
        with torch.inference_mode():
            return float(self.cost.stage(torch.as_tensor(state, dtype=torch.float32), torch.as_tensor(command, dtype=torch.float32)))

    def _observed(self, state: NDArray[np.float64]) -> NDArray[np.float32]:
        return np.asarray(self._view(torch.as_tensor(state, dtype=torch.float32)).numpy())


def robot_task(rest: str, name: str, repeat: int) -> RobotTask:
    """See `RobotTask`."""
    return RobotTask(rest, name, repeat)
