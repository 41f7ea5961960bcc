"""MBPO (Janner et al. 2019, algorithm 2): SAC on short imagined episodes that branch off from real states."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Any

import numpy as np
import torch
from pydantic import Field

from mbrl_control.agents.acting import PolicyActor, require_vectors, restored
from mbrl_control.agents.base import Saved, TaskSpec, Transition
from mbrl_control.agents.branches import Pool, Schedule, imagine
from mbrl_control.data.replay import Batch, Replay
from mbrl_control.errors import UserError
from mbrl_control.models.task_model import TaskModel
from mbrl_control.policies.sac import Sac, SacOptions

FIGURES_EVERY = 50

PUBLISHED: dict[str, dict[str, Any]] = {
    "InvertedPendulum-v5": {"updates": 10, "target_entropy": -0.05, "random_steps": 500, "hidden": [64, 64]},
    "InvertedDoublePendulum-v5": {"updates": 20, "random_steps": 500},
    "Hopper-v5": {"updates": 20, "target_entropy": -1.0, "last_steps": 15, "growth_begin": 20_000, "growth_end": 150_000, "retain": 4},
    "Walker2d-v5": {"updates": 20, "target_entropy": -3.0, "retain": 4},
    "HalfCheetah-v5": {"updates": 40, "target_entropy": -3.0, "retain": 4},
}
"""Settings by task, of the authors' own configurations (github.com/jannerm/mbpo, examples/config); the small networks are ours."""


@dataclass(frozen=True)
class Options(SacOptions):
    """Settings: those of `SacOptions`, and of the model and its use.

    Attributes:
        updates: gradient steps of SAC per decision.
        batch: transitions of each.
        real_share: of them, that really happened.
        random_steps: decisions at random before anything is learned.
        refit_every: decisions between refits of the model.
        model_updates: gradient steps of a refit; twice as many in the first.
        members: networks of the model.
        elites: of them, that predict.
        model_hidden: units of each of their hidden layers.
        holdout: share of the data by which their weights are chosen.
        branches: imagined episodes after each refit.
        first_steps: of a branch at first.
        last_steps: of a branch in the end.
        growth_begin: decisions after which branches grow.
        growth_end: decisions after which they have grown.
        retain: refits whose branches are kept.
        capacity: observations that the replay holds.
    """

    updates: Annotated[int, Field(ge=1, le=1000)] = 20
    batch: Annotated[int, Field(ge=2, le=100_000)] = 256
    real_share: Annotated[float, Field(ge=0, lt=1)] = 0.05
    random_steps: Annotated[int, Field(ge=100)] = 5000
    refit_every: Annotated[int, Field(ge=1)] = 250
    model_updates: Annotated[int, Field(ge=1)] = 250
    members: Annotated[int, Field(ge=1, le=20)] = 7
    elites: Annotated[int, Field(ge=1, le=20)] = 5
    model_hidden: tuple[Annotated[int, Field(ge=1, le=2048)], ...] = (128, 128)
    holdout: Annotated[float, Field(gt=0, lt=1)] = 0.2
    branches: Annotated[int, Field(ge=1, le=1_000_000)] = 100_000
    first_steps: Annotated[int, Field(ge=1, le=1000)] = 1
    last_steps: Annotated[int, Field(ge=1, le=1000)] = 1
    growth_begin: Annotated[int, Field(ge=0)] = 0
    growth_end: Annotated[int, Field(ge=0)] = 0
    retain: Annotated[int, Field(ge=1, le=100)] = 1
    capacity: Annotated[int, Field(ge=1000)] = 1_000_000


def presets(task: str) -> dict[str, Any]:
    """Options that were published for a task; empty for any other."""
    return dict(PUBLISHED.get(task, {}))


def build(task: TaskSpec, seed: int, options: Options) -> MbpoAgent:
    """An agent that has learned nothing yet.

    Raises:
        UserError: the task's observations are no vectors, or an option does not fit another.
    """
    require_vectors(task, "mbpo")
    return MbpoAgent(task, seed, options)


class MbpoAgent:
    """See `mbrl_control.agents.base.Agent`.

    Args:
        task: what is known of the task.
        seed: of everything random.
        options: settings.
    """

    def __init__(self, task: TaskSpec, seed: int, options: Options) -> None:
        o = options
        self.options, self.task = o, task
        self.learner = Sac(task.observation[0], task.actions, o, seed)
        self.model, self.replay, self.pool = self._nothing_yet()
        self.schedule = Schedule(o.first_steps, o.last_steps, o.growth_begin, o.growth_end)
        self.decisions = 0
        self._rng = np.random.default_rng((seed, 1))

    def _nothing_yet(self) -> tuple[TaskModel, Replay, Pool]:
        o, task = self.options, self.task
        return (TaskModel(task.observation[0], task.actions, o.members, o.elites, o.model_hidden),
                Replay(o.capacity, task.observation, task.actions), Pool(o.retain))

    def actor(self, explore: bool) -> PolicyActor:
        """Behaviour: at random for the first `random_steps`, then drawn from the policy; without exploration the policy's mean."""
        return PolicyActor(self.learner, self._rng if explore else None, lambda: self.decisions < self.options.random_steps)

    def observe(self, transition: Transition) -> None:
        """Keep a decision.

        Raises:
            UserError: the task ended, and nobody knows where it would in imagination.
        """
        if transition.terminated and self.task.terminated is None:
            raise UserError(f"task '{self.task.name}' has ended, and agent 'mbpo' must know where it ends to imagine episodes: give its "
                            "TaskSpec a function `terminated` of the next observations (see docs/agents.md), or use agent 'sac'")
        self.replay.append(transition)
        self.decisions += 1

    def learn(self) -> dict[str, float]:
        """What is due after a decision: a refit and new branches, and the updates."""
        o, figures = self.options, {}
        if self.decisions < o.random_steps:
            return {}
        if not self.model.fitted or (self.decisions - o.random_steps) % o.refit_every == 0:
            figures = self._refit()
        found = self._improve()
        if self.decisions % FIGURES_EVERY == 0:
            figures |= {name: float(value) for name, value in found.items()}
        return figures

    def _refit(self) -> dict[str, float]:
        o = self.options
        fitted = self.model.fit(self.replay.all(), self._rng, o.model_updates * (1 if self.model.fitted else 2), o.holdout)
        start = self.replay.observations(o.branches, self._rng)
        made = imagine(self.model, self.learner.actor, start, self.schedule.at(self.decisions), self.task.terminated, self.learner.rng)
        self.pool.add(made)
        return {"model_error": fitted["holdout_mse"], "model_loss": fitted["loss"], "model_fit_s": fitted["fit_s"],
                "imagined": float(len(made)), "imagined_reward": float(made.reward.mean()), "imagined_ends": float(made.terminated.mean())}

    def _improve(self) -> dict[str, torch.Tensor]:
        """The updates of one decision, each on its own draw of real and imagined decisions."""
        o = self.options
        real = round(o.real_share * o.batch)
        parts = [self.pool.sample(o.updates * (o.batch - real), self.learner.rng)]
        if real:
            parts.append(self.replay.sample(o.updates * real, self._rng))
        split = [[value.unflatten(0, (o.updates, -1)) for value in vars(part).values()] for part in parts]
        whole = [torch.cat(values, 1) for values in zip(*split, strict=True)]
        figures: dict[str, torch.Tensor] = {}
        for n in range(o.updates):
            figures |= self.learner.update(Batch(*(value[n] for value in whole)))
        return figures

    def save(self) -> Saved:
        """Learner, model, replay, branches and generators."""
        parts = {"sac": self.learner.save(), "model": self.model.save(), "replay": self.replay.save(), "pool": self.pool.save()}
        arrays = {f"{part}.{name}": array for part, all_of_it in parts.items() for name, array in all_of_it.items()}
        return Saved(arrays, {"decisions": self.decisions, "rng": self._rng.bit_generator.state})

    def load(self, saved: Saved) -> None:
        """Go on from what was saved.

        Raises:
            SnapshotError: it does not fit; nothing is changed then.
        """
        parts = restored(saved, ("sac", "model", "replay", "pool"), ("decisions", "rng"))
        model, replay, pool = self._nothing_yet()
        model.load(parts["model"])
        replay.load(parts["replay"])
        pool.load(parts["pool"])
        self.learner.load(parts["sac"])
        self.model, self.replay, self.pool = model, replay, pool
        self.decisions = int(saved.values["decisions"])
        self._rng.bit_generator.state = saved.values["rng"]
