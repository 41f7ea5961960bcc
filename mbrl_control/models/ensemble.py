"""Probabilistic ensemble: E networks that predict a Gaussian over the next state, all in one batched product."""

from __future__ import annotations

import math
import time
from dataclasses import dataclass
from typing import Annotated, Any, NamedTuple

import numpy as np
import torch
from pydantic import Field
from torch.nn import functional

from mbrl_control.data.sequences import Sequences
from mbrl_control.errors import DataError, SnapshotError
from mbrl_control.models import network
from mbrl_control.models.base import Gaussian, Snapshot, Step, check_spec
from mbrl_control.models.encoding import Encoding, Normaliser
from mbrl_control.robot import RobotSpec

KIND = "ensemble"


@dataclass(frozen=True)
class Options:
    """Settings of the ensemble.

    Attributes:
        learning_rate: of Adam.
        batch: transitions per member and gradient step.
        weight_decay: decoupled, per gradient step times the learning rate.
        elites: how many of the members, best on held-out data first, are used to predict; 0 for all.
        integrate: positions follow from their rates by the trapezoid rule, plus a small learned correction.
        patience: epochs without an improvement of any member on held-out data that end a fit.
    """

    learning_rate: Annotated[float, Field(gt=0, le=1)] = 1e-3
    batch: Annotated[int, Field(ge=1, le=1_000_000)] = 256
    weight_decay: Annotated[float, Field(ge=0, le=1)] = 1e-5
    elites: Annotated[int, Field(ge=0, le=20)] = 0
    integrate: bool = True
    patience: Annotated[int, Field(ge=1, le=1000)] = 8


def build(spec: RobotSpec, options: Options | None = None) -> Ensemble:
    """An ensemble for a robot, not yet fitted (version 0)."""
    return Ensemble(spec, options or Options())


class _Folded(NamedTuple):
    """Weights for the planner's inner loop: normalisation, integration and the identity are folded into them.

    Attributes:
        first: ([E, I, h], [E, 1, h]) float32, since its inputs are not normalised.
        hidden: further layers in the chosen precision.
        last: [E, h, S] to the change of state.
        base: ([E, I, S], [E, 1, S]) carries the state over, float32.
        spread: ([E, h, S], [E, 1, S]) to the raw log-variance.
    """

    first: tuple[torch.Tensor, torch.Tensor]
    hidden: list[tuple[torch.Tensor, torch.Tensor]]
    last: torch.Tensor
    base: tuple[torch.Tensor, torch.Tensor]
    spread: tuple[torch.Tensor, torch.Tensor]


class Ensemble:
    """A learned model (contract in `models/base.py`) made of E small networks (Chua et al. 2018, section 4).

    Each network maps normalised features to the mean and log-variance of the normalised output z of `Encoding`.

    Args:
        spec: the robot; `spec.model` gives members, hidden sizes, ignored and mirrored signals.
        options: training and structure.
    """

    def __init__(self, spec: RobotSpec, options: Options) -> None:
        self.spec, self.options = spec, options
        self.dt, self.version = spec.model_dt, 0
        self.trained = spec.model.members
        self.members = min(options.elites or self.trained, self.trained)
        self.encoding = Encoding(spec, options.integrate)
        self._sizes = [self.encoding.inputs, *spec.model.hidden, 2 * spec.state_dim]
        self._weights = network.initial(self.trained, self._sizes, np.random.default_rng(0))
        self._elites = torch.arange(self.members)
        inputs, outputs = torch.zeros(self.encoding.inputs), torch.ones(spec.state_dim)
        self._norm = Normaliser(inputs, inputs.clone(), torch.zeros_like(outputs), outputs, outputs.clone())
        self._adam: list[tuple[torch.Tensor, torch.Tensor, float]] = []
        self._dtype = torch.float32
        self._folded: _Folded | None = None

    # ---- prediction

    def step(self, state: torch.Tensor, action: torch.Tensor, rng: torch.Generator | None = None) -> Step:
        """Predict one model step ahead; see `models.base.Model.step`. state [E, N, S], action [N, A] or [E, N, A]."""
        folded = self._ready()
        features = self.encoding.features(state, action if action.ndim == 3 else action.expand(len(state), -1, -1))
        hidden = self._hidden(folded, features)
        following = torch.baddbmm(torch.baddbmm(folded.base[1], features, folded.base[0]), hidden, folded.last)
        if rng is not None:
            deviation = self._deviation(folded, hidden)
            following = following + deviation * torch.randn(deviation.shape, generator=rng, dtype=deviation.dtype)
        return Step(following)

    def predict(self, state: torch.Tensor, action: torch.Tensor) -> Gaussian:
        """Each member's distribution of the next state.

        Args:
            state: [E, N, S].
            action: [N, A] or [E, N, A].

        Returns:
            Mean and standard deviation, [E, N, S] each, physical units.
        """
        folded = self._ready()
        features = self.encoding.features(state, action if action.ndim == 3 else action.expand(len(state), -1, -1))
        hidden = self._hidden(folded, features)
        mean = torch.baddbmm(torch.baddbmm(folded.base[1], features, folded.base[0]), hidden, folded.last)
        return Gaussian(mean, self._deviation(folded, hidden))

    def scale(self) -> torch.Tensor:
        """[S] root mean square one-step change in the training data."""
        self._ready()
        return self._norm.change.float()

    def prepare(self, dtype: torch.dtype = torch.float32) -> None:
        """Fold normalisation into the weights and choose the precision of hidden layers (float32 or bfloat16).

        The state, the first and the last layer stay float32 whatever is chosen. Called by `fit` and `load`; call it again
        to change the precision.
        """
        self._dtype = dtype
        norm = Normaliser(*(t.double() for t in vars(self._norm).values()))
        carry, spread = self.encoding.carry.double(), self.encoding.spread.double()
        weights = [w[self._elites].double() for w in self._weights]
        size = self.spec.state_dim
        first = norm.input_inverse[:, None] * weights[0], weights[1] - _rows(norm.input_mean * norm.input_inverse, weights[0])
        last, bias = weights[-2], weights[-1]
        mean = (last[..., :size] * norm.target_scale) @ spread, (bias[..., :size] * norm.target_scale + norm.target_mean) @ spread
        base = torch.zeros(self.members, self.encoding.inputs, size, dtype=torch.float64)
        base[:, :size] = carry
        hidden = [(w.to(dtype), b.to(dtype)) for w, b in zip(weights[2:-2:2], weights[3:-2:2], strict=True)]
        new = _Folded(_float(first), hidden, mean[0].float(), _float((base, mean[1])), _float((last[..., size:], bias[..., size:])))
        if self._folded is not None and (not hidden or self._folded.hidden[0][0].dtype == dtype):
            _copy(self._folded, new)
        else:
            self._folded = new

    def _ready(self) -> _Folded:
        if self._folded is None:
            raise DataError(f"the model of '{self.spec.name}' has not been fitted (version 0); fit it or load a snapshot first")
        return self._folded

    def _hidden(self, folded: _Folded, features: torch.Tensor) -> torch.Tensor:
        hidden = functional.silu(torch.baddbmm(folded.first[1], features, folded.first[0]).to(self._dtype))
        for weight, bias in folded.hidden:
            hidden = functional.silu(torch.baddbmm(bias, hidden, weight))
        return hidden.float()

    def _deviation(self, folded: _Folded, hidden: torch.Tensor) -> torch.Tensor:
        raw = torch.baddbmm(folded.spread[1], hidden, folded.spread[0])
        return (0.5 * network.bounded_log_variance(raw)).exp() * self._norm.target_scale.float()

    # ---- training

    def fit(self, data: Sequences, rng: np.random.Generator, *, epochs: int = 20, budget_s: float = math.inf,
            holdout: float | Sequences = 0.1) -> dict[str, float]:
        """Fit to data, warm: from the present weights and optimiser state.

        Args:
            data: stretches of K >= 1 model steps.
            rng: every draw (weights, bootstrap sets, order) comes from it, so equal generators give equal bits.
            epochs: passes over the data at most.
            budget_s: seconds after which the fit ends with what it has (then bits depend on the machine).
            holdout: share of the data, or data, by which each member's best weights and the elites are chosen. A share is
                the same blocks of time in every refit, so that a warm start has not trained on them.

        Returns:
            Figures: `transitions`, `epochs`, `fit_s`, `nll` of the last epoch, `holdout_mse` (normalised, mean of elites).
        """
        began = time.monotonic()
        train, held = (data, holdout) if isinstance(holdout, Sequences) else split(data, self.dt, holdout)
        if not len(train) or not len(held):
            raise DataError(f"{len(data)} stretches of data are too few to fit '{self.spec.name}': record at least a second more")
        train = self.encoding.with_mirror_images(train)
        self._renormalise(Normaliser.of(train, self.encoding), rng)
        norm = Normaliser(*(t.float() for t in vars(self._norm).values()))
        state, action = (torch.tensor(a, dtype=torch.float32) for a in (train.state, train.action))
        held_data = tuple(torch.tensor(a, dtype=torch.float32).expand(self.trained, *a.shape) for a in (held.state, held.action))
        count, batch = len(state), min(self.options.batch, len(state))
        bootstrap = torch.as_tensor(rng.integers(0, count, (self.trained, count)))
        weights = [w.requires_grad_() for w in self._weights]
        optimiser = torch.optim.AdamW(weights, self.options.learning_rate, weight_decay=self.options.weight_decay, fused=True)
        self._resume(optimiser, weights)
        best = [w.detach().clone() for w in weights]
        best_error = self._error(norm, held_data) if self.version else torch.full((self.trained,), math.inf)
        stale, epoch, nll = 0, 0, math.nan
        while epoch < epochs and stale < self.options.patience and time.monotonic() - began < budget_s:
            epoch += 1
            order = torch.as_tensor(rng.permuted(np.tile(np.arange(count), (self.trained, 1)), axis=1))
            rows = bootstrap.gather(1, order)
            total, steps = 0.0, 0
            for first in range(0, count - batch + 1, batch):
                chosen = rows[:, first:first + batch]
                loss = self._loss(norm, state[chosen], action[chosen])
                optimiser.zero_grad()
                torch.autograd.backward(loss)
                optimiser.step()
                total, steps = total + float(loss.detach()), steps + 1
                if time.monotonic() - began > budget_s:
                    break
            nll = total / max(steps, 1) / self.trained
            error = self._error(norm, held_data)
            better = error < best_error
            stale = 0 if bool((error < 0.999 * best_error).any()) else stale + 1
            best_error = torch.where(better, error, best_error)
            for kept, now in zip(best, weights, strict=True):
                kept[better] = now.detach()[better]
        self._adam = [(s["exp_avg"], s["exp_avg_sq"], float(s["step"])) for s in (optimiser.state[w] for w in weights) if s]
        self._weights = best
        self._elites = torch.sort(torch.argsort(best_error)[:self.members]).values
        self.version += 1
        self.prepare(self._dtype)
        return {"transitions": float(len(data) * data.action.shape[1]), "epochs": float(epoch), "fit_s": time.monotonic() - began,
                "nll": nll, "holdout_mse": float(best_error[self._elites].mean())}

    def _unroll(self, norm: Normaliser, state: torch.Tensor, action: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Means from the first state on and log-variances, [E, B, K, S] each, for state [E, B, K+1, S], action [E, B, K, A]."""
        size, now, means, spreads = self.spec.state_dim, state[:, :, 0], [], []
        for k in range(action.shape[2]):
            features = self.encoding.features(now, action[:, :, k])
            out = network.forward(self._weights, (features - norm.input_mean) * norm.input_inverse)
            now = now @ self.encoding.carry + (out[..., :size] * norm.target_scale + norm.target_mean) @ self.encoding.spread
            means.append(now)
            spreads.append(network.bounded_log_variance(out[..., size:]))
        return torch.stack(means, 2), torch.stack(spreads, 2)

    def _loss(self, norm: Normaliser, state: torch.Tensor, action: torch.Tensor) -> torch.Tensor:
        mean, log_variance = self._unroll(norm, state, action)
        error = (state[:, :, 1:] - mean) / norm.target_scale
        return network.gaussian_nll(error, log_variance).mean((1, 2, 3)).sum()

    @torch.inference_mode()
    def _error(self, norm: Normaliser, held: tuple[torch.Tensor, ...]) -> torch.Tensor:
        """[E] mean squared open-loop error on held-out data, in units of the target scale."""
        state, action = held
        mean, _ = self._unroll(norm, state, action)
        return ((state[:, :, 1:] - mean) / norm.target_scale).square().mean((1, 2, 3)).clone()

    def _renormalise(self, new: Normaliser, rng: np.random.Generator) -> None:
        """Take over new statistics; fitted weights are rewritten so that the function stays what it was."""
        if not self.version:
            self._weights = network.initial(self.trained, self._sizes, rng)
        else:
            old, size = self._norm, self.spec.state_dim
            first, bias, last, last_bias = self._weights[0], self._weights[1], self._weights[-2], self._weights[-1]
            seen = new.input_inverse > 0
            ratio = torch.where(seen, old.input_inverse / torch.where(seen, new.input_inverse, 1.0), 0.0)
            bias += _rows((new.input_mean - old.input_mean) * old.input_inverse, first.double()).float()
            first *= ratio[:, None].float()
            out = old.target_scale / new.target_scale
            last[..., :size] *= out.float()
            last_bias[..., :size] *= out.float()
            last_bias[..., :size] += ((old.target_mean - new.target_mean) / new.target_scale).float()
            last_bias[..., size:] += 2 * out.log().float()
        self._norm = new

    def _resume(self, optimiser: torch.optim.Optimizer, weights: list[torch.Tensor]) -> None:
        for weight, (average, square, steps) in zip(weights, self._adam, strict=False):
            optimiser.state[weight] = {"step": torch.tensor(steps), "exp_avg": average, "exp_avg_sq": square}

    # ---- snapshots

    def snapshot(self) -> Snapshot:
        """A frozen copy of all members, the normaliser and the elites."""
        self._ready()
        arrays = {f"layer{i // 2}.{'bias' if i % 2 else 'weight'}": w for i, w in enumerate(self._weights)}
        arrays |= {f"normaliser.{name}": value for name, value in vars(self._norm).items()}
        arrays["elites"] = self._elites
        return Snapshot(KIND, self.spec.hash, self.version, {n: a.detach().numpy().copy() for n, a in arrays.items()})

    def load(self, snapshot: Snapshot) -> None:
        """Take over a snapshot in place: the buffers of `step` keep their addresses while the precision stays the same.

        Raises:
            SnapshotError: another kind, another robot, or arrays of the wrong names or shapes; the model is then unchanged.
        """
        if snapshot.kind != KIND:
            raise SnapshotError(f"snapshot version {snapshot.version} is of kind '{snapshot.kind}', not '{KIND}'")
        check_spec(snapshot, self.spec)
        mine: dict[str, torch.Tensor] = {f"layer{i // 2}.{'bias' if i % 2 else 'weight'}": w for i, w in enumerate(self._weights)}
        mine |= {f"normaliser.{name}": value for name, value in vars(self._norm).items()}
        mine["elites"] = self._elites
        for name, here in mine.items():
            given = snapshot.weights.get(name)
            if given is None or given.shape != tuple(here.shape):
                raise SnapshotError(f"snapshot version {snapshot.version}: array '{name}' must have shape {tuple(here.shape)}, "
                                    f"not {'none' if given is None else given.shape}")
        arrays = {n: torch.tensor(snapshot.weights[n]) for n in mine}
        self._weights = [arrays[n] for n in list(mine)[:len(self._weights)]]
        self._norm = Normaliser(*(arrays[f"normaliser.{name}"] for name in vars(self._norm)))
        self._elites = arrays["elites"]
        self._adam = []
        self.version = snapshot.version
        self.prepare(self._dtype)


def split(data: Sequences, dt: float, share: float) -> tuple[Sequences, Sequences]:
    """Training and held-out data by blocks of time (10 steps, or two stretches), spread evenly and always the same ones.

    Args:
        data: stretches of K steps.
        dt: the model step, s.
        share: of the blocks, held out.

    Returns:
        Training stretches, held-out stretches.
    """
    block = np.floor(data.start / (max(10, 2 * data.action.shape[1]) * dt) + 1e-9)
    held = (block * 0.6180339887498949 + 0.5) % 1.0 < share
    if len(data) and (not held.any() or held.all()):
        held = np.arange(len(data)) % max(2, round(1 / share)) == 1
    return tuple(Sequences(data.state[rows], data.action[rows], data.start[rows]) for rows in (~held, held))  # type: ignore[return-value]


def _rows(vector: torch.Tensor, matrix: torch.Tensor) -> torch.Tensor:
    """[E, 1, h] product of a row vector [I] and matrices [E, I, h]."""
    return vector[None, None] @ matrix


def _float(pair: tuple[torch.Tensor, torch.Tensor]) -> tuple[torch.Tensor, torch.Tensor]:
    return pair[0].float(), pair[1].float()


def _copy(old: Any, new: Any) -> None:
    if isinstance(old, torch.Tensor):
        old.copy_(new)
    else:
        for left, right in zip(old, new, strict=True):
            _copy(left, right)
