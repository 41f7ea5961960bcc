"""SAC on a task (Haarnoja et al. 2018): the model-free baseline; with many updates per step REDQ or DroQ, see docs/agents.md."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated

import numpy as np
import torch
from pydantic import Field

from mbrl_control.agents.acting import PolicyActor, require_vectors, restored
from mbrl_control.agents.base import Saved, TaskSpec, Transition
from mbrl_control.data.replay import Replay
from mbrl_control.policies.flat import fitting
from mbrl_control.policies.sac import Sac, SacOptions

FIGURES_EVERY = 50


@dataclass(frozen=True)
class Options(SacOptions):
    """Settings: those of `SacOptions`, and how the data are used.

    Attributes:
        updates: gradient steps per decision.
        batch: transitions of each.
        random_steps: decisions at random before anything is learned.
        capacity: observations that the replay holds.
    """

    updates: Annotated[int, Field(ge=1, le=1000)] = 1
    batch: Annotated[int, Field(ge=1, le=100_000)] = 256
    random_steps: Annotated[int, Field(ge=1)] = 1000
    capacity: Annotated[int, Field(ge=1000)] = 1_000_000


def build(task: TaskSpec, seed: int, options: Options) -> SacAgent:
    """An agent that has learned nothing yet.

    Raises:
        UserError: the task's observations are no vectors, or an option does not fit another.
    """
    require_vectors(task, "sac")
    return SacAgent(task, seed, options)


class SacAgent:
    """See `mbrl_control.agents.base.Agent`.

    Args:
        task: what is known of the task.
        seed: of everything random.
        options: settings.
    """

    def __init__(self, task: TaskSpec, seed: int, options: Options) -> None:
        self.options, self.actions = options, task.actions
        self.learner = Sac(task.observation[0], task.actions, options, seed)
        self.replay = Replay(options.capacity, task.observation, task.actions)
        self.decisions = 0
        self._rng = np.random.default_rng((seed, 1))

    def actor(self, explore: bool) -> PolicyActor:
        """Behaviour: at random for the first `random_steps`, then drawn from the policy; without exploration the policy's mean."""
        return PolicyActor(self.learner, self._rng if explore else None, lambda: self.decisions < self.options.random_steps)

    def observe(self, transition: Transition) -> None:
        """Keep a decision."""
        self.replay.append(transition)
        self.decisions += 1

    def learn(self) -> dict[str, float]:
        """The updates of one decision."""
        o = self.options
        if self.decisions < o.random_steps:
            return {}
        drawn = self.replay.sample(o.updates * o.batch, self._rng)
        figures: dict[str, torch.Tensor] = {}
        for first in range(0, len(drawn), o.batch):
            figures |= self.learner.update(drawn.rows(slice(first, first + o.batch)))
        return {name: float(value) for name, value in figures.items()} if self.decisions % FIGURES_EVERY == 0 else {}

    def save(self) -> Saved:
        """Learner, replay and generators."""
        arrays = {f"sac.{name}": array for name, array in self.learner.save().items()}
        arrays |= {f"replay.{name}": array for name, array in self.replay.save().items()}
        return Saved(arrays, {"decisions": self.decisions, "rng": self._rng.bit_generator.state})

    def load(self, saved: Saved) -> None:
        """Go on from what was saved.

        Raises:
            SnapshotError: it does not fit; nothing is changed then.
        """
        parts = restored(saved, ("sac", "replay"), ("decisions", "rng"))
        fitting(parts["sac"], self.learner.save(), "soft actor-critic")
        self.replay.load(parts["replay"])
        self.learner.load(parts["sac"])
        self.decisions = int(saved.values["decisions"])
        self._rng.bit_generator.state = saved.values["rng"]
