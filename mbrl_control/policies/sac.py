"""Soft actor-critic: one gradient step on a batch (Haarnoja et al. 2018), with the many-updates variants REDQ and DroQ as options."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated

import numpy as np
import torch
from pydantic import Field

from mbrl_control.data.replay import Batch
from mbrl_control.errors import UserError
from mbrl_control.policies.actor import TanhGaussian
from mbrl_control.policies.critics import Critics
from mbrl_control.policies.flat import Adam, Flat, fitting


@dataclass(frozen=True)
class SacOptions:
    """Settings of the learner.

    Attributes:
        hidden: units of each hidden layer of actor and critics.
        discount: per decision.
        learning_rate: of actor, critics and temperature.
        target_rate: by which the target critics follow, per update.
        critics: K.
        least_of: critics, drawn for each update, whose least value is the target.
        actor_mean: the actor climbs the mean of all critics (REDQ, DroQ) instead of the least.
        norm: layer normalisation in the critics (DroQ).
        dropout: of the critics' hidden units (DroQ).
        actor_every: updates of the critics for one of actor and temperature.
        target_entropy: of the actor, nats; None: minus the number of actions.
        temperature: at the beginning.
        half: hidden layers' products in bfloat16: about twice as fast on processors that have it, slower on others.
    """

    hidden: tuple[Annotated[int, Field(ge=1, le=4096)], ...] = (256, 256)
    discount: Annotated[float, Field(ge=0, lt=1)] = 0.99
    learning_rate: Annotated[float, Field(gt=0, le=1)] = 3e-4
    target_rate: Annotated[float, Field(gt=0, le=1)] = 0.005
    critics: Annotated[int, Field(ge=1, le=100)] = 2
    least_of: Annotated[int, Field(ge=1, le=100)] = 2
    actor_mean: bool = False
    norm: bool = False
    dropout: Annotated[float, Field(ge=0, lt=1)] = 0.0
    actor_every: Annotated[int, Field(ge=1, le=1000)] = 1
    target_entropy: float | None = None
    temperature: Annotated[float, Field(gt=0, le=100)] = 1.0
    half: bool = False


class Sac:
    """Actor, critics and temperature, and how they learn.

    Args:
        observation: S.
        actions: A.
        options: settings.
        seed: of everything random here.

    Raises:
        UserError: `least_of` is more than `critics`.

    Attributes:
        actor: the policy.
        critics: the values.
        updates: done so far.
    """

    def __init__(self, observation: int, actions: int, options: SacOptions, seed: int) -> None:
        o = options
        if o.least_of > o.critics:
            raise UserError(f"option least_of = {o.least_of} is more than critics = {o.critics}; make it at most that")
        weights = np.random.default_rng(seed)
        self.options, self.updates = o, 0
        self.actor = TanhGaussian(observation, actions, o.hidden, weights, o.half)
        self.critics = Critics(observation, actions, o.hidden, weights, count=o.critics, norm=o.norm, dropout=o.dropout, half=o.half)
        self.entropy = -float(actions) if o.target_entropy is None else o.target_entropy
        self._log_temperature = Flat([torch.tensor(o.temperature).log().reshape(1)])
        self._adam = {"actor": Adam(self.actor.flat, o.learning_rate), "critics": Adam(self.critics.flat, o.learning_rate),
                      "temperature": Adam(self._log_temperature, o.learning_rate)}
        self.rng = torch.Generator().manual_seed(seed)

    @property
    def temperature(self) -> torch.Tensor:
        """[1] what a nat of entropy is worth in reward."""
        return self._log_temperature.vector.exp()

    @torch.no_grad()
    def target(self, batch: Batch) -> torch.Tensor:
        """[B] r + discount (1 - terminated) (min Q'(s', a') - temperature log pi(a' | s')), a' drawn (Haarnoja et al. 2018b, eq. 6).

        An episode that was cut short (truncated) goes on in the target; one that ended is worth nothing any more.
        """
        action, log_density = self.actor.sample(batch.following, self.rng)
        value = self.critics.least(batch.following, action, self.options.least_of, self.rng) - self.temperature * log_density
        return batch.reward + self.options.discount * (1 - batch.terminated) * value

    def critic_loss(self, batch: Batch, target: torch.Tensor) -> torch.Tensor:
        """Sum over critics of half the mean square error (eq. 5)."""
        error = self.critics.values(batch.observation, batch.action, self.rng) - target
        return 0.5 * error.square().sum() / len(batch)

    def actor_loss(self, observation: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Mean of temperature log pi(a | s) - Q(s, a), a drawn (eq. 7); and the mean log density, for the temperature."""
        action, log_density = self.actor.sample(observation, self.rng)
        values = self.critics.values(observation, action, self.rng)
        value = values.mean(0) if self.options.actor_mean else values.amin(0)
        return (self.temperature * log_density - value).mean(), log_density.detach().mean()

    def temperature_loss(self, mean_log_density: torch.Tensor) -> torch.Tensor:
        """- log temperature (mean log pi + target entropy): it rises while the actor has less entropy than wanted (eq. 18, in its log)."""
        return -(self._log_temperature.parts[0] * (mean_log_density + self.entropy)).sum()

    def update(self, batch: Batch) -> dict[str, torch.Tensor]:
        """One gradient step of the critics, of actor and temperature where it is their turn, and of the target. Figures, as tensors."""
        target = self.target(batch)
        loss = self.critic_loss(batch, target)
        self._adam["critics"].descend(loss)
        self.critics.follow(self.options.target_rate)
        self.updates += 1
        figures = {"critic_loss": loss.detach(), "value": target.mean()}
        if self.updates % self.options.actor_every == 0:
            actor_loss, log_density = self.actor_loss(batch.observation)
            self._adam["actor"].descend(actor_loss)
            self._adam["temperature"].descend(self.temperature_loss(log_density))
            figures |= {"entropy": -log_density, "temperature": self.temperature}
        return figures

    def save(self) -> dict[str, np.ndarray]:
        """Everything that is learned, the moments, the generator and the count."""
        arrays = {f"{name}.{key}": array for name, adam in self._adam.items() for key, array in adam.save().items()}
        return arrays | {"target": self.critics.target.vector.numpy().copy(), "rng": self.rng.get_state().numpy().copy(),
                         "updates": np.array([self.updates], np.int64)}

    def load(self, arrays: dict[str, np.ndarray]) -> None:
        """Take over what `save` gave.

        Raises:
            SnapshotError: it does not fit; nothing is changed then.
        """
        fitting(arrays, self.save(), "soft actor-critic")
        for name, adam in self._adam.items():
            adam.load({key.split(".")[1]: array for key, array in arrays.items() if key.startswith(f"{name}.")})
        self.critics.target.take(arrays["target"])
        self.rng.set_state(torch.from_numpy(arrays["rng"].copy()))
        self.updates = int(arrays["updates"][0])
