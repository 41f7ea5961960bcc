"""MBPO beside a robot's model: SAC on short imagined motions from where the robot has been (Janner et al. 2019, algorithm 2)."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import torch

from mbrl_control.agents.branches import Pool, imagine
from mbrl_control.costs import base as costs
from mbrl_control.data.replay import Batch
from mbrl_control.data.sequences import Sequences
from mbrl_control.models.base import Model
from mbrl_control.models.sampling import sampled_step
from mbrl_control.planning.actions import ActionSpace
from mbrl_control.policies.mbpo import MbpoPolicy, Options
from mbrl_control.policies.sac import Sac
from mbrl_control.policies.view import Units
from mbrl_control.robot import RobotSpec
from mbrl_control.training.beside import Stretches


def build(spec: RobotSpec, options: Options, seed: int) -> MbpoLearner:
    """A learner that has learned nothing yet."""
    return MbpoLearner(spec, options, seed)


class MbpoLearner:
    """See `mbrl_control.training.beside.Learner`.

    Args:
        spec: the robot.
        options: settings.
        seed: of everything random.
    """

    def __init__(self, spec: RobotSpec, options: Options, seed: int) -> None:
        self.options = options
        self.policy = MbpoPolicy(spec, options)
        self.sac = Sac(self.policy.view.size, spec.action_dim, options, seed)
        self.policy.actor, self.policy.critics = self.sac.actor, self.sac.critics
        self.cost, self.space = costs.build(spec), ActionSpace(spec)
        self.pool = Pool(options.retain)
        self.units = Units(self.policy.view, self.policy.unit)

    def improve(self, model: Model, stretches: Stretches, updates: int, progress: Callable[[], None]) -> dict[str, float]:
        """New branches on the newest model, then gradient steps. Figures of the last step.

        Args:
            model: just fitted.
            stretches: the data in stretches of so many model steps.
            updates: gradient steps.
            progress: called after each.
        """
        o = self.options
        real = self._real(stretches(1))
        self.units.settle(real.observation, real.reward)
        start = real.observation[torch.randint(len(real), (o.branches,), generator=self.sac.rng)]
        self.pool.add(self._seen(imagine(_Dream(self, model), _Eyes(self.policy), start, o.steps, None, self.sac.rng)))
        figures: dict[str, torch.Tensor] = {}
        happened = self._seen(real)
        for _ in range(updates if len(self.pool) else 0):
            share = round(o.real_share * o.batch)
            rows = torch.randint(len(happened), (share,), generator=self.sac.rng)
            figures = self.sac.update(Batch.join([happened.rows(rows), self.pool.sample(o.batch - share, self.sac.rng)]))
            progress()
        return {name: float(value) for name, value in figures.items()}

    def arrays(self) -> dict[str, np.ndarray]:
        """What a planner needs of it, and what `resume` goes on from."""
        return self.policy.arrays()

    def resume(self, arrays: dict[str, np.ndarray]) -> None:
        """Go on from published weights; the optimiser's moments begin anew.

        Raises:
            SnapshotError: they are not this robot's.
        """
        self.policy.load(arrays)
        self.sac.critics.target.take(arrays["critics"])
        self.units.settled = True

    def rewards(self, following: torch.Tensor, action: torch.Tensor) -> torch.Tensor:
        """[N] minus the cost of arriving in states [N, S] under commands [N, A] in half ranges, physical unit of the cost."""
        return -self.cost.stage(following, self.space.physical(action))

    def _real(self, data: Sequences) -> Batch:
        """What really happened, in physical states."""
        state, action = torch.as_tensor(data.state, dtype=torch.float32), torch.as_tensor(data.action, dtype=torch.float32)
        before, after = state[:, :-1].flatten(0, 1), state[:, 1:].flatten(0, 1)
        played = self.space.normal(action.flatten(0, 1)).clamp(-1.0, 1.0)
        return Batch(before, played, self.rewards(after, played), after, torch.zeros(len(before)))

    def _seen(self, made: Batch) -> Batch:
        """As the policy sees it, rewards in its unit."""
        view = self.policy.view
        return Batch(view(made.observation), made.action, made.reward / self.policy.unit, view(made.following), made.terminated)


class _Dream:
    """The robot's model as a task on physical states."""

    def __init__(self, learner: MbpoLearner, model: Model) -> None:
        self.learner, self.model = learner, model

    def step(self, state: torch.Tensor, action: torch.Tensor, rng: torch.Generator) -> tuple[torch.Tensor, torch.Tensor]:
        following = sampled_step(self.model, state, self.learner.space.physical(action), rng)
        return following, self.learner.rewards(following, action)


class _Eyes:
    """The actor on physical states."""

    def __init__(self, policy: MbpoPolicy) -> None:
        self.policy = policy

    def sample(self, state: torch.Tensor, rng: torch.Generator) -> tuple[torch.Tensor, Any]:
        return self.policy.actor.sample(self.policy.view(state), rng)
