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
from mbrl_control.models.base import Gaussian, Step, check_spec
from mbrl_control.models.encoding import Encoding, Normaliser
from mbrl_control.robot import RobotSpec
from mbrl_control.store.snapshot import Snapshot

KIND = "ensemble"
COLD_SHARE, COLD_UPDATES = 0.3, 300
SMALL_BATCH, SMALL_EPOCH = 32, 8
CLIP = 5.0
MEAN_SQUARE_FLOOR = 1e-8
HELD_TRANSITIONS = 10_000


@dataclass(frozen=True)
class Options:
    """Settings of the ensemble.

    Attributes:
        stretch: model steps per stretch of training data; more than one trains on open-loop errors over that many steps,
            which costs a longer fit and pays where measurements are noisy.
        friction: rate (rad/s or m/s) at which dry friction is nearly saturated; 0 for a robot without.
        integrate: positions follow from their rates by the trapezoid rule, plus a small learned correction.
        learning_rate: of Adam at the beginning of a fit; it falls along a half cosine to a twentieth.
        batch: transitions per member and gradient step.
        weight_decay: decoupled, per gradient step times the learning rate.
        elites: how many of the members, best on held-out data first, are used to predict; 0 for all.
        patience: epochs without an improvement of any member on held-out data that end a fit.
    """

    stretch: Annotated[int, Field(ge=1, le=1000)] = 1
    friction: Annotated[float, Field(ge=0, le=100)] = 0.0
    integrate: bool = True
    learning_rate: Annotated[float, Field(gt=0, le=1)] = 2e-3
    batch: Annotated[int, Field(ge=1, le=1_000_000)] = 256
    weight_decay: Annotated[float, Field(ge=0, le=1)] = 1e-5
    elites: Annotated[int, Field(ge=0, le=20)] = 0
    patience: Annotated[int, Field(ge=1, le=1000)] = 1000


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
        error_scale: [S] unit of the standard deviation.
    """

    first: tuple[torch.Tensor, torch.Tensor]
    hidden: list[tuple[torch.Tensor, torch.Tensor]]
    last: torch.Tensor
    base: tuple[torch.Tensor, torch.Tensor]
    spread: tuple[torch.Tensor, torch.Tensor]
    error_scale: torch.Tensor


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
        self.stretch = options.stretch
        self.encoding = Encoding(spec, options.integrate, options.friction)
        self._sizes = [self.encoding.inputs, *spec.model.hidden, 2 * spec.state_dim]
        self._weights = network.initial(self.trained, self._sizes, np.random.default_rng(0))
        self._elites = torch.arange(self.members)
        self._norm = Normaliser.neutral(self.encoding.inputs, spec.state_dim)
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
        norm = self._norm
        carry, spread = self.encoding.carry.double(), self.encoding.spread.double()
        weights = [w[self._elites].double() for w in self._weights]
        size = self.spec.state_dim
        first = norm.input_inverse[:, None] * weights[0], weights[1] - _rows(norm.input_mean * norm.input_inverse, weights[0])
        last, bias = weights[-2], weights[-1]
        mean = (last[..., :size] * norm.target_scale) @ spread, (bias[..., :size] * norm.target_scale + norm.target_mean) @ spread
        base = torch.zeros(self.members, self.encoding.inputs, size, dtype=torch.float64)
        base[:, :size] = carry
        hidden = [(w.to(dtype), b.to(dtype)) for w, b in zip(weights[2:-2:2], weights[3:-2:2], strict=True)]
        # A product with so few columns is three times as fast when they lie contiguous in memory.
        narrow = mean[0].float().mT.contiguous().mT
        new = _Folded(_float(first), hidden, narrow, _float((base, mean[1])), _float((last[..., size:], bias[..., size:])),
                      norm.error_scale.float())
        if self._folded is not None and (not hidden or self._folded.hidden[0][0].dtype == dtype):
            _copy(self._folded, new)
        else:
            self._folded = new

    def _ready(self) -> _Folded:
        if self._folded is None:
            raise DataError(f"the model of '{self.spec.name}' has not been fitted (version 0); fit it or load a snapshot first")
        return self._folded

    def _hidden(self, folded: _Folded, features: torch.Tensor) -> torch.Tensor:
        hidden = functional.silu(torch.baddbmm(folded.first[1], features, folded.first[0]))
        for weight, bias in folded.hidden:
            # SiLU is faster in float32 than in bfloat16, conversions included.
            hidden = functional.silu(torch.baddbmm(bias, hidden.to(weight.dtype), weight).float())
        return hidden

    def _deviation(self, folded: _Folded, hidden: torch.Tensor) -> torch.Tensor:
        raw = torch.baddbmm(folded.spread[1], hidden, folded.spread[0])
        return (0.5 * network.bounded_log_variance(raw)).exp() * folded.error_scale

    # ---- training

    def fit(self, data: Sequences, rng: np.random.Generator, *, epochs: int = 20, updates: int | None = None, budget_s: float = math.inf,
            holdout: float | Sequences = 0.1) -> dict[str, float]:
        """Fit to data, warm: from the present weights and optimiser state.

        Args:
            data: stretches of K >= 1 model steps.
            rng: every draw (weights, bootstrap sets, order) comes from it, so equal generators give equal bits.
            epochs: passes over the data at most.
            updates: gradient steps, instead of passes: what a refit costs then does not grow with the data.
            budget_s: seconds after which the fit ends with what it has (then bits depend on the machine).
            holdout: share of the data, or data, by which each member's best weights and the elites are chosen. A share is
                the same blocks of time in every refit, so that a warm start has not trained on them.

        Returns:
            Figures: `transitions`, `epochs`, `fit_s`, `loss` of the last epoch, `holdout_mse` (in units of the variance of
            one step; geometric mean over steps, signals and elites).
        """
        began = time.monotonic()
        train, held = (data, holdout) if isinstance(holdout, Sequences) else split(data, self.dt, holdout)
        if not len(train) or not len(held):
            raise DataError(f"{len(data)} stretches of data are too few to fit '{self.spec.name}': record at least a second more")
        train = self.encoding.with_mirror_images(train)
        cold = not self.version
        self._renormalise(Normaliser.of(train, self.encoding), rng)
        norm = self._norm.cast(torch.float32)
        state, action = (torch.tensor(a, dtype=torch.float32) for a in (train.state, train.action))
        held_data = self._held(held)
        count, stretch = action.shape[:2]
        bootstrap = torch.as_tensor(rng.integers(0, count, (self.trained, count)))
        weights = [w.requires_grad_() for w in self._weights]
        optimiser = torch.optim.AdamW(weights, self.options.learning_rate, weight_decay=self.options.weight_decay, fused=True)
        self._resume(optimiser, weights)
        best = [w.detach().clone() for w in weights]
        best_error = torch.full((self.trained,), math.inf) if cold else self._error(norm, held_data)
        if updates is not None:
            batch = self._batch(count, stretch)
            epochs = max(1, round(updates / (max(batch, count // stretch) // batch)))
        stale, epoch, done, loss_sum, loss_count = 0, 0, 0, 0.0, 1
        while epoch < epochs and stale < self.options.patience and time.monotonic() - began < budget_s:
            for group in optimiser.param_groups:
                group["lr"] = self.options.learning_rate * (0.525 + 0.475 * math.cos(math.pi * epoch / epochs))
            # A network that knows nothing yet diverges within a stretch: it learns single steps first. Not for long: from
            # noisy states it would learn the noise, to the cost of motions that it has not seen.
            steps = 1 if cold and epoch < COLD_SHARE * epochs and done < COLD_UPDATES else stretch
            rows = bootstrap.gather(1, torch.as_tensor(rng.permuted(np.tile(np.arange(count), (self.trained, 1)), axis=1)))
            batch = self._batch(count, steps)
            # Stretches overlap, so that an epoch of long ones holds each transition as often as an epoch of single steps.
            used = max(batch, count // steps)
            loss_sum, loss_count = 0.0, 0
            for first in range(0, used - batch + 1, batch):
                chosen = rows[:, first:first + batch]
                begin = int(rng.integers(stretch - steps + 1))
                loss = self._loss(norm, state[chosen, begin:begin + steps + 1], action[chosen, begin:begin + steps])
                optimiser.zero_grad()
                torch.autograd.backward(loss)
                network.clip_per_member(weights, CLIP)
                optimiser.step()
                loss_sum, loss_count = loss_sum + float(loss.detach()), loss_count + 1
                if time.monotonic() - began > budget_s:
                    break
            epoch, done = epoch + 1, done + loss_count
            error = self._error(norm, held_data)
            better = error < best_error
            stale = 0 if bool((error < best_error - 1e-3).any()) or steps < stretch else stale + 1
            best_error = torch.where(better, error, best_error)
            for kept, now in zip(best, weights, strict=True):
                kept[better] = now.detach()[better]
        self._adam = [(s["exp_avg"], s["exp_avg_sq"], float(s["step"])) for s in (optimiser.state[w] for w in weights) if s]
        self._weights = best
        self._elites = torch.sort(torch.argsort(best_error)[:self.members]).values
        self.version += 1
        self.prepare(self._dtype)
        return {"transitions": float(len(data) * stretch), "epochs": float(epoch), "fit_s": time.monotonic() - began,
                "loss": loss_sum / loss_count / self.trained, "holdout_mse": float(best_error[self._elites].mean().exp())}

    def _batch(self, count: int, steps: int) -> int:
        """Stretches per gradient step: smaller while there is little data, so that a pass has enough steps."""
        return min(max(1, min(self.options.batch, max(SMALL_BATCH, count // SMALL_EPOCH)) // steps), count)

    def _unroll(self, norm: Normaliser, state: torch.Tensor, action: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Normalised open-loop errors [E, B, K, S] and the first step's log-variance [E, B, S].

        Args:
            norm: float32 statistics.
            state: [E, B, K + 1, S].
            action: [E, B, K, A].
        """
        size, now, means, raw = self.spec.state_dim, state[:, :, 0], [], torch.empty(0)
        for k in range(action.shape[2]):
            features = self.encoding.features(now, action[:, :, k])
            out = network.forward(self._weights, (features - norm.input_mean) * norm.input_inverse)
            raw = out[..., size:] if k == 0 else raw
            now = now @ self.encoding.carry + (out[..., :size] * norm.target_scale + norm.target_mean) @ self.encoding.spread
            means.append(now)
        return (state[:, :, 1:] - torch.stack(means, 2)) / norm.error_scale, network.bounded_log_variance(raw)

    def _loss(self, norm: Normaliser, state: torch.Tensor, action: torch.Tensor) -> torch.Tensor:
        """Likelihood of the means with one unknown variance per step and signal, plus that of the variances given the means.

        With the variance put at its best value, the Gaussian likelihood of a batch of errors is log(mean square) / 2, which
        weighs all steps and signals alike whatever their size. The variance head learns from the errors as they are: it must
        not buy likelihood by giving up the mean where it is hard (Seitzer et al. 2022).
        """
        error, log_variance = self._unroll(norm, state, action)
        means = 0.5 * (error.square().mean(1) + MEAN_SQUARE_FLOOR).log().mean((1, 2))
        variances = network.gaussian_nll(error[:, :, 0].detach(), log_variance).mean((1, 2))
        return (means + variances).sum()

    def _held(self, held: Sequences) -> tuple[torch.Tensor, torch.Tensor]:
        """Held-out state [E, B, K+1, S] and action [E, B, K, A], thinned so that choosing weights costs little."""
        rows = np.unique(np.linspace(0, len(held) - 1, max(50, HELD_TRANSITIONS // held.action.shape[1])).round().astype(int))
        state, action = (torch.tensor(a[rows], dtype=torch.float32) for a in (held.state, held.action))
        return state.expand(self.trained, *state.shape), action.expand(self.trained, *action.shape)

    @torch.no_grad()
    def _error(self, norm: Normaliser, held: tuple[torch.Tensor, torch.Tensor]) -> torch.Tensor:
        """[E] log of the mean square open-loop error on held-out data, mean over steps and signals."""
        return (self._unroll(norm, *held)[0].square().mean(1) + MEAN_SQUARE_FLOOR).log().mean((1, 2))

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
            last_bias[..., size:] += 2 * (old.error_scale / new.error_scale).log().float()
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
            SnapshotError: another kind, another robot, or arrays of wrong names, shapes, types or members; the model is then unchanged.
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
            if (given.dtype.kind == "f") != here.is_floating_point():
                raise SnapshotError(f"snapshot version {snapshot.version}: array '{name}' must not be of type {given.dtype}")
        elites = snapshot.weights["elites"]
        if not ((elites >= 0) & (elites < self.trained)).all():
            raise SnapshotError(f"snapshot version {snapshot.version}: elites {elites.tolist()} are not among {self.trained} members")
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
