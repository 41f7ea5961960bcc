"""Dreamer: learn a world model from what was done, and behaviour from what the model imagines (Hafner et al. 2020, 2021, 2023)."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from typing import Annotated, Any, Literal

import numpy as np
import torch
from pydantic import Field

from mbrl_control.agents.base import Actor, Saved, TaskSpec, Transition
from mbrl_control.agents.dreamer_behaviour import Behaviour
from mbrl_control.agents.dreamer_world import WorldModel
from mbrl_control.data.replay import Replay, SequenceBatch
from mbrl_control.errors import SnapshotError
from mbrl_control.models.optimiser import Optimiser
from mbrl_control.models.rssm import State
from mbrl_control.policies.dreamer_versions import SIZES, Version, chosen

REPLAY = "replay."
WARM_UP = 200


@dataclass(frozen=True)
class Options:
    """Settings of Dreamer; what makes a version a version is in `dreamer_versions`.

    Attributes:
        version: of Dreamer.
        size: of the networks, see `dreamer_versions.SIZES`.
        train_ratio: replayed steps per environment step. An update replays batch · length steps.
        batch: sequences of an update.
        length: steps of each; more for tasks that hide what matters for longer than that.
        horizon: imagined steps.
        starts: how many of the last steps of each sequence imagination starts from; 0: from all.
        gradient: the actor learns by the gradient of returns through the `model` or of its `likelihood`; else as the `version` does.
        precision: of vectors; 0: as the version has it.
        follow: how far v3's average of the critic goes towards it at each update; 0: as version and size have it.
        prefill: decisions at random before learning begins.
        capacity: decisions that are remembered.
        half: large products in bfloat16, as in the published v3; turn it off on a processor without.
        model_rate: learning rate of the model; 0: as version and size have it.
        actor_rate: of the actor, likewise.
        critic_rate: of the critic, likewise.
    """

    version: Literal["v1", "v2", "v3"] = "v3"
    size: Literal["small", "size1m"] = "small"
    train_ratio: Annotated[float, Field(gt=0, le=10_000)] = 64.0
    batch: Annotated[int, Field(ge=1, le=1024)] = 16
    length: Annotated[int, Field(ge=2, le=1024)] = 16
    horizon: Annotated[int, Field(ge=1, le=100)] = 10
    starts: Annotated[int, Field(ge=0, le=1024)] = 8
    gradient: Literal["version", "model", "likelihood"] = "version"
    precision: Annotated[float, Field(ge=0, le=1e6)] = 0.0
    follow: Annotated[float, Field(ge=0, le=1)] = 0.0
    prefill: Annotated[int, Field(ge=1, le=1_000_000)] = 500
    capacity: Annotated[int, Field(ge=100, le=10_000_000)] = 500_000
    half: bool = True
    model_rate: Annotated[float, Field(ge=0, le=1)] = 0.0
    actor_rate: Annotated[float, Field(ge=0, le=1)] = 0.0
    critic_rate: Annotated[float, Field(ge=0, le=1)] = 0.0


def build(task: TaskSpec, seed: int, options: Options) -> Dreamer:
    """An agent that has seen nothing yet."""
    return Dreamer(task, seed, options)


class Dreamer:
    """An agent (contract in `agents/base.py`).

    Args:
        task: what it is to learn.
        seed: of weights, draws and imagination.
        options: see `Options`.
    """

    def __init__(self, task: TaskSpec, seed: int, options: Options) -> None:
        self.task, self.options, self.seed = task, options, seed
        self.version, size = version_of(options), SIZES[options.size]
        weights, self.learning, self.acting = (torch.Generator().manual_seed(3 * seed + k) for k in range(3))
        self.drawing = np.random.default_rng(seed)
        self.world = WorldModel(task, self.version, size, weights)
        self.behaviour = Behaviour(self.world.rssm.features, task.actions, self.version, size, self.world.gamma, weights)
        image = len(task.observation) == 3
        self.replay = Replay(options.capacity, task.observation, task.actions, np.uint8 if image else np.float32)
        parts = {"model": self.world, "actor": self.behaviour.actor, "critic": self.behaviour.critic}
        warm_up = WARM_UP if self.version.optimiser == "laprop" else 0
        self.optimisers = {
            name: Optimiser(part.parameters(), rate, self.version.optimiser, warm_up)
            for (name, part), rate in zip(parts.items(), self.version.rates, strict=True)
        }
        self.updates, self.credit = 0, 0.0

    def actor(self, explore: bool) -> Actor:
        """See `Agent.actor`. One that does not explore has random numbers of its own, so that evaluation changes nothing."""
        return DreamerActor(self, explore)

    @property
    def ready(self) -> bool:
        """Whether enough has been seen to learn."""
        return self.replay.transitions >= self.options.prefill and len(self.replay) >= self.options.length

    def observe(self, transition: Transition) -> None:
        """See `Agent.observe`."""
        self.replay.append(transition)
        if self.ready:
            self.credit += self.options.train_ratio * self.task.repeat

    def learn(self) -> dict[str, float]:
        """See `Agent.learn`. Figures are those of the last update."""
        due, figures = self.options.batch * self.options.length, dict[str, torch.Tensor]()
        while self.credit >= due:
            self.credit -= due
            figures = self.update(self.replay.sequences(self.options.batch, self.options.length, self.drawing))
        return dict(zip(figures, torch.stack(list(figures.values())).tolist(), strict=True)) if figures else {}

    def update(self, batch: SequenceBatch) -> dict[str, torch.Tensor]:
        """One gradient step of model, actor and critic on `batch` sequences of `length` steps. Figures, [] each."""
        options, world, behaviour = self.options, self.world, self.behaviour
        for optimiser in self.optimisers.values():
            optimiser.clear()
        filtered = world.filter(batch, world.rssm.latent.noise((options.batch, options.length), self.learning))
        features = filtered.state.features()
        model = world.loss(batch, filtered, features)
        since = max(0, options.length - options.starts) if options.starts else 0
        start = State(*(part[:, since:].flatten(0, 1) for part in filtered.state))
        dream = behaviour.imagine(world, start, 1 - batch.terminated[:, since:].flatten(), options.horizon, self.learning)
        losses = behaviour.losses(dream)
        total = model.total + losses.critic
        if self.version.replay_value:
            settled = losses.returns[0].view(options.batch, -1)
            total = total + self.version.replay_value * behaviour.replay_loss(features[:, since:], tail(batch, since), settled)
        if self.version.reinforce:
            total = total + losses.actor
        else:  # apart, so that the model does not learn to please the actor
            actor = list(behaviour.actor.parameters())
            for parameter, gradient in zip(actor, torch.autograd.grad(losses.actor, actor), strict=True):
                assert parameter.grad is not None
                parameter.grad.copy_(gradient)
        total.backward()  # type: ignore[no-untyped-call]
        for optimiser in self.optimisers.values():
            optimiser.step()
        self.updates += 1
        behaviour.settle(self.updates)
        return {name: value.detach() for name, value in (model.figures | losses.figures).items()}

    def _arrays(self) -> dict[str, torch.Tensor]:
        """Tensors that `load` writes into, by name."""
        arrays = {f"{part}.{name}": array for part, optimiser in self.optimisers.items() for name, array in optimiser.arrays().items()}
        if self.behaviour.slow is not self.behaviour.critic:
            arrays |= {f"slow.{name}": value.detach() for name, value in self.behaviour.slow.named_parameters()}
        return arrays | {"return_range": self.behaviour.scale.range}

    def save(self) -> Saved:
        """See `Agent.save`."""
        arrays = {name: array.numpy().copy() for name, array in self._arrays().items()}
        arrays |= {f"generator.{name}": rng.get_state().numpy().copy() for name, rng in self._generators().items()}
        arrays |= {REPLAY + name: array for name, array in self.replay.save().items()}
        values = {"updates": self.updates, "credit": self.credit, "drawing": self.drawing.bit_generator.state}
        return Saved(arrays, values)

    def _generators(self) -> dict[str, torch.Generator]:
        return {"learning": self.learning, "acting": self.acting}

    def load(self, saved: Saved) -> None:
        """See `Agent.load`."""
        given = {name: array for name, array in saved.arrays.items() if not name.startswith(REPLAY)}
        mine = {name: array.numpy() for name, array in self._arrays().items()}
        mine |= {f"generator.{name}": rng.get_state().numpy() for name, rng in self._generators().items()}
        check(given, mine)
        self.replay.load({name.removeprefix(REPLAY): array for name, array in saved.arrays.items() if name.startswith(REPLAY)})
        with torch.no_grad():
            for name, array in self._arrays().items():
                array.copy_(torch.from_numpy(given[name]))
        for name, rng in self._generators().items():
            rng.set_state(torch.from_numpy(given[f"generator.{name}"].copy()))
        self.drawing.bit_generator.state = saved.values["drawing"]
        self.updates, self.credit = int(saved.values["updates"]), float(saved.values["credit"])
        for optimiser in self.optimisers.values():
            optimiser.steps = self.updates


def tail(batch: SequenceBatch, since: int) -> SequenceBatch:
    """Sequences [B, T - since] without their first steps."""
    return SequenceBatch(*(part[:, since:] for part in vars(batch).values()))


def version_of(options: Options) -> Version:
    """The version with what size and options change of it."""
    version = chosen(options.version, options.size)
    reinforce = {"model": False, "likelihood": True}.get(options.gradient, version.reinforce)
    mine = zip((options.model_rate, options.actor_rate, options.critic_rate), version.rates, strict=True)
    model, actor, critic = (rate or preset for rate, preset in mine)
    return dataclasses.replace(
        version, style=version.style._replace(half=options.half), reinforce=reinforce, follow=options.follow or version.follow,
        precision=options.precision or version.precision, rates=(model, actor, critic),
    )


def check(given: dict[str, np.ndarray], mine: dict[str, np.ndarray]) -> None:
    """That arrays can take each other's place.

    Raises:
        SnapshotError: other names, shapes or types.
    """
    wrong = sorted(set(given) ^ set(mine)) or [n for n, a in given.items() if a.shape != mine[n].shape or a.dtype != mine[n].dtype]
    if wrong:
        raise SnapshotError(f"saved Dreamer: array '{wrong[0]}' is missing, unknown, or of another shape or type than with these options; "
                            "go on with the options that it was saved with")


class DreamerActor:
    """Behaviour that filters what it sees into a latent state of its own.

    Args:
        agent: whose weights are used, as they are at each decision.
        explore: as in training.
    """

    def __init__(self, agent: Dreamer, explore: bool) -> None:
        self.agent, self.explore = agent, explore
        self.reset()

    def reset(self) -> None:
        """See `Actor.reset`."""
        self.rng = self.agent.acting if self.explore else torch.Generator().manual_seed(self.agent.seed)
        self.state = self.agent.world.rssm.initial(1)
        self.action, self.first = torch.zeros(1, 1, self.agent.task.actions), True

    @torch.no_grad()
    def act(self, observation: np.ndarray) -> np.ndarray:
        """See `Actor.act`."""
        agent, rssm = self.agent, self.agent.world.rssm
        seen = agent.world.encoder(torch.as_tensor(observation)[None, None])
        noise = rssm.latent.noise((1, 1), self.rng)
        filtered = rssm.observe(seen, self.action, torch.tensor([[self.first]]), noise, self.state)
        self.state, self.first = State(*(part[:, 0] for part in filtered.state)), False
        self.action = self._decide(self.state.features()).clamp(-1, 1)[None]
        action: np.ndarray[Any, np.dtype[np.float32]] = self.action[0, 0].numpy().copy()
        return action

    def _decide(self, features: torch.Tensor) -> torch.Tensor:
        """[1, A] from features [1, F]."""
        agent, behaviour, shape = self.agent, self.agent.behaviour, (1, self.agent.task.actions)
        if self.explore and not agent.ready:
            return 2 * torch.rand(shape, generator=self.rng) - 1
        raw = behaviour.actor(features)
        if not self.explore:
            return behaviour.actions.mode(raw)
        draw = behaviour.actions.sample(raw, torch.randn(shape, generator=self.rng))
        return draw.clamp(-1, 1) + agent.version.noise * torch.randn(shape, generator=self.rng)
