"""How a model sees a robot: angles as sine and cosine, ignored signals left out, positions integrated from their rates."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch

from mbrl_control.data.sequences import Sequences
from mbrl_control.robot import RobotSpec

Prior = Callable[[torch.Tensor, torch.Tensor], torch.Tensor]
"""What is known of a step before anything is learned: state [..., S] and action [..., A] to the next state [..., S]."""


class Encoding:
    """Features of a state and a command, and how a prediction becomes the next state.

    The features are `[state (S), sin (W), cos (W), action (A), tanh(rate / friction) (R)]`, the first four in physical
    units. `visible` tells which of them the dynamics may depend on: a wrapping angle only through its sine and cosine, an
    ignored signal not at all. The raw state is kept among the features so that one matrix product carries it over to the
    next state (see `carry`). The last R are there for a robot with dry friction, whose jump at zero rate a smooth network
    learns only from much data; `friction` (rad/s or m/s) is the rate at which it is nearly saturated, 0 for none.

    With z [S] the model's output for a step, the next state is `state @ carry + z @ spread`. Without integration that is
    state + z. With it, a position q whose rate v is measured follows the trapezoid rule, q' = q + dt (v + v') / 2 + z_q,
    so that z_q is only the small part which the rates do not tell.

    With a prior the next state is `prior(state, action) + z @ spread`, and `carry` is 0: z is only what the prior does not tell.
    """

    def __init__(self, spec: RobotSpec, integrate: bool, friction: float = 0.0, prior: Prior | None = None) -> None:
        wraps = spec.wraps
        ignored = np.array([n in spec.model.ignore for n in spec.state_names])
        self.state_dim, self.action_dim = spec.state_dim, spec.action_dim
        self.angles = torch.tensor(np.flatnonzero(wraps & ~ignored))
        shown = len(self.angles)
        rates = [rate for _, rate in spec.rate_pairs if not ignored[rate]] if friction else []
        self.rates, self.friction = torch.tensor(rates, dtype=torch.long), friction
        self.inputs = spec.state_dim + 2 * shown + spec.action_dim + len(rates)
        self.visible = np.concatenate([~wraps & ~ignored, np.ones(2 * shown + spec.action_dim + len(rates), bool)])
        self.carry = torch.eye(spec.state_dim)
        self.spread = torch.eye(spec.state_dim)
        if integrate:
            for position, rate in spec.rate_pairs:
                self.carry[rate, position] = spec.model_dt
                self.spread[rate, position] = spec.model_dt / 2
        self.prior = prior
        if prior is not None:
            self.carry.zero_()
        flips = [n in spec.model.mirror for n in spec.state_names], [n in spec.model.mirror for n in spec.command_names]
        self.state_sign, self.action_sign = (np.where(f, -1.0, 1.0) for f in flips)
        self.mirrored = bool(spec.model.mirror)

    def features(self, state: torch.Tensor, action: torch.Tensor) -> torch.Tensor:
        """[..., I] features of state [..., S] and action [..., A] (equal leading shapes)."""
        parts = [state]
        if len(self.angles):
            angle = state[..., self.angles]
            parts += [angle.sin(), angle.cos()]
        parts.append(action)
        if len(self.rates):
            parts.append((state[..., self.rates] * (1 / self.friction)).tanh())
        return torch.cat(parts, -1)

    def base(self, state: torch.Tensor, action: torch.Tensor) -> torch.Tensor:
        """[..., S] the next state for z = 0, of state [..., S] and action [..., A] (equal leading shapes)."""
        return state @ self.carry.to(state) if self.prior is None else self.prior(state, action)

    def targets(self, state: torch.Tensor, action: torch.Tensor, following: torch.Tensor) -> torch.Tensor:
        """[..., S] the output z that leads from `state` under `action` to `following` exactly."""
        out: torch.Tensor = (following - self.base(state, action)) @ torch.linalg.inv(self.spread.to(state))
        return out

    def with_mirror_images(self, data: Sequences) -> Sequences:
        """The data and its mirror image (twice as many stretches), or the data alone for a robot without symmetry."""
        if not self.mirrored:
            return data
        return Sequences.join([data, Sequences(data.state * self.state_sign, data.action * self.action_sign, data.start)])


@dataclass(frozen=True)
class Normaliser:
    """Double-precision statistics that make inputs and outputs of order one.

    Attributes:
        input_mean: [I] subtracted from the features; 0 where invisible.
        input_inverse: [I] 1 / standard deviation; 0 where invisible, which is what hides a feature.
        target_mean: [S] mean of z.
        target_scale: [S] standard deviation of z.
        error_scale: [S] standard deviation of the next state about the mean change: the unit of errors and variances. For an
            integrated position it holds the share that comes through the rate.
        change: [S] root mean square one-step change of the state.
    """

    input_mean: torch.Tensor
    input_inverse: torch.Tensor
    target_mean: torch.Tensor
    target_scale: torch.Tensor
    error_scale: torch.Tensor
    change: torch.Tensor

    @staticmethod
    def of(data: Sequences, encoding: Encoding) -> Normaliser:
        """Statistics of training data."""
        state, action = torch.as_tensor(data.state), torch.as_tensor(data.action)
        features = encoding.features(state[:, :-1], action).flatten(0, 1)
        # Stretches overlap and hold each step many times over; once is enough where a step costs more than a product.
        every = action.shape[1] if encoding.prior is not None else 1
        z = encoding.targets(state[::every, :-1], action[::every], state[::every, 1:]).flatten(0, 1)
        visible = torch.as_tensor(encoding.visible).double()
        mean, deviation = features.mean(0), _floored_std(features)
        change = _alive((state[:, 1:] - state[:, :-1]).square().mean((0, 1)).sqrt())
        # Positions that their rates explain to rounding would otherwise make the scale, and the loss, meaningless.
        scale = torch.maximum(z.std(0, correction=0), 1e-3 * change)
        error = (scale.square() @ encoding.spread.double().square()).sqrt()
        return Normaliser(mean * visible, visible / deviation, z.mean(0), scale, error, change)

    @staticmethod
    def neutral(inputs: int, outputs: int) -> Normaliser:
        """Statistics before any data, of the right shapes."""
        zero, one = torch.zeros(inputs, dtype=torch.float64), torch.ones(outputs, dtype=torch.float64)
        return Normaliser(zero, zero.clone(), torch.zeros_like(one), one, one.clone(), one.clone())

    def cast(self, dtype: torch.dtype) -> Normaliser:
        """The same statistics in another precision."""
        return Normaliser(*(t.to(dtype) for t in vars(self).values()))


def _floored_std(values: torch.Tensor) -> torch.Tensor:
    """Standard deviation per column, 1 where a column is constant but for rounding."""
    deviation = values.std(0, correction=0)
    return torch.where(deviation > 1e-6 * values.abs().amax(0), deviation, torch.ones_like(deviation))


def _alive(change: torch.Tensor) -> torch.Tensor:
    """Sizes with 1 in the place of a signal that never changes."""
    return torch.where(change > 1e-9, change, torch.ones_like(change))
