"""Dreamer beside a robot's model: a world model of its own, and behaviour that is imagined in it (Hafner et al. 2020, 2021, 2023)."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import torch

from mbrl_control.agents.base import TaskSpec
from mbrl_control.agents.dreamer import Dreamer
from mbrl_control.agents.dreamer import Options as Settings
from mbrl_control.costs import base as costs
from mbrl_control.data.replay import SequenceBatch
from mbrl_control.data.sequences import Sequences
from mbrl_control.models.base import Model
from mbrl_control.planning.actions import ActionSpace
from mbrl_control.policies.dreamer import REST, DreamerPolicy, Options, flat, take
from mbrl_control.policies.flat import fitting
from mbrl_control.policies.view import Units
from mbrl_control.robot import RobotSpec
from mbrl_control.training.beside import Stretches

STEP_S = 0.01
"""What the published discounts count as a step."""

NO_REPLAY = 100
"""Rows of the agent's own memory, the fewest there can be: the robot's data lies elsewhere."""

NO_LIMIT = 1_000_000


def build(spec: RobotSpec, options: Options, seed: int) -> DreamerLearner:
    """A learner that has learned nothing yet."""
    return DreamerLearner(spec, options, seed)


class DreamerLearner:
    """See `mbrl_control.training.beside.Learner`.

    Args:
        spec: the robot.
        options: settings.
        seed: of everything random.
    """

    def __init__(self, spec: RobotSpec, options: Options, seed: int) -> None:
        o, self.options = options, options
        self.policy = DreamerPolicy(spec, options)
        task = TaskSpec(spec.name, (self.policy.view.size,), spec.action_dim, NO_LIMIT, max(1, round(spec.model_dt / STEP_S)))
        self.dreamer = Dreamer(task, seed, Settings(version=o.version, size=o.size, batch=o.batch, length=o.length, horizon=o.horizon,
                                                    starts=o.starts, capacity=NO_REPLAY))
        world, behaviour = self.dreamer.world, self.dreamer.behaviour
        self.policy.encoder, self.policy.rssm, self.policy.actor = world.encoder, world.rssm, behaviour.actor
        self._rest = torch.nn.ModuleList([world.decoder, world.reward_head, world.going_on, behaviour.critic])
        self.cost, self.space = costs.build(spec), ActionSpace(spec)
        self.units = Units(self.policy.view, self.policy.unit)

    def improve(self, model: Model, stretches: Stretches, updates: int, progress: Callable[[], None]) -> dict[str, float]:
        """Gradient steps on what really happened; the robot's model is not asked. Figures of the last step.

        Args:
            model: just fitted.
            stretches: the data in stretches of so many model steps.
            updates: gradient steps.
            progress: called after each.
        """
        data, figures = stretches(self.options.length), dict[str, torch.Tensor]()
        if not len(data):
            return {}
        seen = self._seen(data)
        for _ in range(updates):
            rows = torch.from_numpy(self.dreamer.drawing.integers(len(data), size=self.options.batch))
            figures = self.dreamer.update(SequenceBatch(*(part[rows] for part in vars(seen).values())))
            progress()
        return {name: float(value) for name, value in figures.items()}

    def _seen(self, data: Sequences) -> SequenceBatch:
        """All stretches as the policy sees them, rewards in its unit; each begins at the end of its first step, whose command is known."""
        state, action = torch.as_tensor(data.state[:, 1:], dtype=torch.float32), torch.as_tensor(data.action, dtype=torch.float32)
        reward = -self.cost.stage(state, action)
        self.units.settle(state.flatten(0, 1), reward)
        first = torch.zeros(reward.shape)
        first[:, 0] = 1.0
        return SequenceBatch(self.policy.view(state), self.space.normal(action).clamp(-1.0, 1.0), reward / self.policy.unit,
                             torch.zeros(reward.shape), first)

    def arrays(self) -> dict[str, np.ndarray]:
        """What a planner needs of it, and what `resume` goes on from."""
        return self.policy.arrays() | {REST: np.concatenate([flat(self._rest), self.dreamer.behaviour.scale.range.numpy()])}

    def resume(self, arrays: dict[str, np.ndarray]) -> None:
        """Go on from published weights; the optimisers' moments begin anew, and the critic's average where it is.

        Raises:
            SnapshotError: they are not this robot's.
        """
        mine = self.arrays()
        fitting(arrays, mine, "policy 'dreamer'")
        self.policy.load(arrays)
        behaviour, rest = self.dreamer.behaviour, arrays[REST]
        count = len(rest) - behaviour.scale.range.numel()
        take(self._rest, rest[:count])
        behaviour.scale.range.copy_(torch.from_numpy(rest[count:].copy()))
        take(behaviour.slow, flat(behaviour.critic))
        self.units.settled = True
