"""Probabilistic ensemble: E networks that predict a Gaussian over the next state, all in one batched product."""

from __future__ import annotations

import copy
import math
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Annotated, ClassVar

import numpy as np
import torch
from pydantic import Field
from torch.nn import functional

from mbrl_control.costs.base import Squares
from mbrl_control.data.sequences import Sequences
from mbrl_control.errors import DataError, SnapshotError
from mbrl_control.heartbeat import nothing
from mbrl_control.models import division, native, network, open_loop_loss
from mbrl_control.models.base import Gaussian, Step, check_arrays, check_spec
from mbrl_control.models.encoding import Encoding, Normaliser, Prior
from mbrl_control.models.folding import Folded, fold, renormalise, with_mirror_images
from mbrl_control.robot import RobotSpec
from mbrl_control.store.snapshot import Snapshot

KIND = "ensemble"
COLD_SHARE, COLD_UPDATES = 0.3, 300
SMALL_BATCH, SMALL_EPOCH = 32, 8
CLIP = 5.0
RIDGE = 1e-3


@dataclass(frozen=True)
class Options:
    """Settings of the ensemble.

    Attributes:
        stretch: model steps per stretch of training data; more than one trains on open-loop errors over that many steps,
            which costs a longer fit and pays where measurements are noisy.
        friction: rate (rad/s or m/s) at which dry friction is nearly saturated; 0 for a robot without.
        linear: a linear map of the features beside each network, which starts as their ridge regression, so that little data
            says more about where there is none yet.
        integrate: positions follow from their rates by the trapezoid rule, plus a small learned correction.
        learning_rate: of Adam at the beginning of a fit; it falls along a half cosine to a twentieth.
        batch: transitions per member and gradient step.
        weight_decay: decoupled, per gradient step times the learning rate.
        elites: how many of the members, best on held-out data first, are used to predict; 0 for all.
        patience: epochs without an improvement of any member on held-out data that end a fit.
        floor: mean square error, in squares of a signal's typical change, below which less is of no use: a signal that is as good as
            constant must not take the fit from the others.
    """

    stretch: Annotated[int, Field(ge=1, le=1000)] = 1
    friction: Annotated[float, Field(ge=0, le=100)] = 0.0
    linear: bool = False
    integrate: bool = True
    learning_rate: Annotated[float, Field(gt=0, le=1)] = 2e-3
    batch: Annotated[int, Field(ge=1, le=1_000_000)] = 256
    weight_decay: Annotated[float, Field(ge=0, le=1)] = 1e-5
    elites: Annotated[int, Field(ge=0, le=20)] = 0
    patience: Annotated[int, Field(ge=1, le=1000)] = 1000
    floor: Annotated[float, Field(gt=0, le=1)] = 1e-8


def build(spec: RobotSpec, options: Options | None = None) -> Ensemble:
    """An ensemble for a robot, not yet fitted (version 0)."""
    return Ensemble(spec, options or Options())


class Ensemble:
    """A learned model (contract in `models/base.py`) made of E small networks (Chua et al. 2018, section 4).

    Each network maps normalised features to the mean and log-variance of the normalised output z of `Encoding`.

    Args:
        spec: the robot; `spec.model` gives members, hidden sizes, ignored and mirrored signals.
        options: training and structure.
        prior: what is known of a step; the networks then learn what it does not tell. None for nothing.

    Attributes:
        kind: name of the part, which its snapshots bear.
    """

    kind: ClassVar[str] = KIND

    def __init__(self, spec: RobotSpec, options: Options, prior: Prior | None = None) -> None:
        self.spec, self.options = spec, options
        self.dt, self.version = spec.model_dt, 0
        self.trained = spec.model.members
        self.members = min(options.elites or self.trained, self.trained)
        self.stretch = options.stretch
        self.encoding = Encoding(spec, options.integrate, options.friction, prior)
        self._sizes = [self.encoding.inputs, *spec.model.hidden, 2 * spec.state_dim]
        self._weights = self._initial(np.random.default_rng(0))
        self._elites = torch.arange(self.members)
        self._norm = Normaliser.neutral(self.encoding.inputs, spec.state_dim)
        self._adam: list[tuple[torch.Tensor, torch.Tensor, float]] = []
        self._dtype = torch.float32
        self._folded: Folded | None = None
        self._native: native.NativeRollout | None = None
        self._packed, self._native_can = False, prior is None  # native code knows no prior
        self._precise: Ensemble | None = None
        self._doubled = False

    def _initial(self, rng: np.random.Generator) -> list[torch.Tensor]:
        linear = self.spec.state_dim if self.options.linear else 0
        return network.initial(self.trained, self._sizes, rng, linear, self.encoding.prior is not None)

    # ---- prediction

    def step(self, state: torch.Tensor, action: torch.Tensor, rng: torch.Generator | None = None) -> Step:
        """Predict one model step ahead; see `models.base.Model.step`. state [E, N, S], action [N, A] or [E, N, A]."""
        hidden, following = self._forward(state, action)
        if rng is not None:
            deviation = self._deviation(self._ready(), hidden)
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
        hidden, mean = self._forward(state, action)
        return Gaussian(mean, self._deviation(self._ready(), hidden))

    def rollout(self, start: torch.Tensor, actions: torch.Tensor, propagation: str) -> torch.Tensor | None:
        """Whole rollouts in native code; None where that cannot be (see `planning.rollout.rollout` for shapes).

        What it gives is `step` again and again but for rounding. The first call after `prepare` packs the weights.
        """
        kernel = self._kernel_for(propagation)
        return kernel(start, actions, propagation == "mean") if kernel is not None else None

    def price(self, start: torch.Tensor, actions: torch.Tensor, propagation: str, squares: Squares) -> torch.Tensor | None:
        """What whole rollouts cost, [E or 1, N], in native code; None where that cannot be (see `planning.rollout.price`)."""
        kernel = self._kernel_for(propagation)
        return kernel.price(start, actions, propagation == "mean", squares) if kernel is not None else None

    def slopes(self, states: torch.Tensor, actions: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor] | None:
        """How the next states move with states and commands, in native code; None where that cannot be (see `models.slopes` for shapes)."""
        kernel = self._kernel_in_use()
        return kernel.slopes(states, actions) if kernel is not None else None

    def _kernel_for(self, propagation: str) -> native.NativeRollout | None:
        """Native code for rollouts; None where they take torch."""
        return None if propagation == "ts1" or torch.is_grad_enabled() else self._kernel_in_use()

    def _kernel_in_use(self) -> native.NativeRollout | None:
        """Native code with the present weights; None where it cannot be had."""
        folded = self._ready()
        if not self._native_can:
            return None
        if not self._packed:
            if self._native is None:
                self._native = native.rollout_of(self.encoding, folded)
            else:
                self._native.take(folded)
            self._packed = True
        return self._native

    def scale(self) -> torch.Tensor:
        """[S] root mean square one-step change in the training data."""
        self._ready()
        return self._norm.change.float()

    def prepare(self, dtype: torch.dtype = torch.float32) -> None:
        """Fold normalisation into the weights and choose the precision of hidden layers (float32 or bfloat16).

        The state stays float32 whatever is chosen, and so does the first layer, but for native rollouts in bfloat16: there it is given, in
        bfloat16, what its inputs have moved by since the rollout's start. Called by `fit` and `load`; call it again
        to change the precision.
        """
        self._dtype = dtype
        new = fold([w[self._elites] for w in self._weights], self._norm, self.encoding, dtype)
        new = with_mirror_images(new, self.encoding) if self._doubled else new
        if self._folded is not None and (not new.hidden or self._folded.hidden[0][0].dtype == dtype):
            self._folded.take(new)
        else:
            self._folded, self._native = new, None
        self._packed = False
        if self._precise is not None:
            self._precise._copy(self)

    def precise(self) -> Ensemble:
        """A twin that predicts (and only that) with hidden layers in float32, whatever is chosen here, and with the members' mirror images
        beside them for a robot that is symmetric; it follows from fit to fit and from load to load.

        Rounding, and what each member takes for its point of rest, are small enough to search with, but they move the optimum.
        """
        if self._precise is None:
            twin = copy.copy(self)
            twin._dtype, twin._folded, twin._native, twin._doubled = torch.float32, None, None, self.encoding.mirrored
            if self._folded is not None:
                twin._copy(self)
            self._precise = twin
        return self._precise

    def _copy(self, other: Ensemble) -> None:
        self._weights, self._norm, self._elites, self.version = other._weights, other._norm, other._elites, other.version
        self.members = other.members * (2 if self.encoding.mirrored else 1)
        self.prepare(torch.float32)

    def on(self, device: torch.device) -> Ensemble:
        """A twin that predicts (and only that) on another device, once it has been given weights by `follow`."""
        twin = copy.copy(self)
        twin.encoding = copy.copy(self.encoding)
        twin.encoding.angles, twin.encoding.rates = self.encoding.angles.to(device), self.encoding.rates.to(device)
        # A graph holds tensor operations only, whatever its device.
        twin.version, twin._folded, twin._native_can, twin._precise = 0, None, False, None
        return twin

    def follow(self, other: Ensemble) -> None:
        """Take over the weights of the model whose twin this is; every buffer keeps its address from the second time on."""
        if self._folded is None:
            self._folded = other._ready().to(self.encoding.angles.device)
        else:
            self._folded.take(other._ready())
        self.version = other.version

    def _ready(self) -> Folded:
        if self._folded is None:
            raise DataError(f"the model of '{self.spec.name}' has not been fitted (version 0); fit it or load a snapshot first")
        return self._folded

    def _forward(self, state: torch.Tensor, action: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """The last hidden layer [E, N, h] and the means of the next states [E, N, S]."""
        folded = self._ready()
        action = action if action.ndim == 3 else action.expand(len(state), -1, -1)
        features = self.encoding.features(state, action)
        hidden = self._hidden(folded, features)
        mean = torch.baddbmm(torch.baddbmm(folded.base[1], features, folded.base[0]), hidden, folded.last)
        return hidden, mean if self.encoding.prior is None else mean + self.encoding.prior(state, action)

    def _hidden(self, folded: Folded, features: torch.Tensor) -> torch.Tensor:
        hidden = functional.silu(torch.baddbmm(folded.first[1], features, folded.first[0]))
        for weight, bias in folded.hidden:
            # SiLU is faster in float32 than in bfloat16, conversions included.
            hidden = functional.silu(torch.baddbmm(bias, hidden.to(weight.dtype), weight).float())
        return hidden

    def _deviation(self, folded: Folded, hidden: torch.Tensor) -> torch.Tensor:
        raw = torch.baddbmm(folded.spread[1], hidden, folded.spread[0])
        return (0.5 * network.bounded_log_variance(raw)).exp() * folded.error_scale

    # ---- training

    def fit(self, data: Sequences, rng: np.random.Generator, *, epochs: int = 20, updates: int | None = None, budget_s: float = math.inf,
            holdout: float | Sequences | list[Sequences] = division.SHARE, weights: np.ndarray | None = None,
            progress: Callable[[], None] = nothing) -> dict[str, float]:
        """Fit to data, warm: from the present weights and optimiser state.

        Args:
            data: stretches of K >= 1 model steps.
            rng: every draw (weights, bootstrap sets, order) comes from it, so equal generators give equal bits.
            epochs: passes over the data at most.
            updates: gradient steps, instead of passes: what a refit costs then does not grow with the data.
            budget_s: seconds after which the fit ends with what it has (then bits depend on the machine).
            holdout: share of the data, or one or more sets of data, by which each member's best weights and the elites are
                chosen; sets count alike. A share is the same blocks of time in every refit, so that a warm start has not
                trained on them.
            weights: [M] how often each stretch of `data` is drawn, relative to the others; None for all alike. Not with a share
                as holdout.
            progress: called after each gradient step.

        Returns:
            Figures: `transitions`, `epochs`, `fit_s`, `loss` of the last epoch, `holdout_mse` (in units of the variance of
            one step; geometric mean over steps, signals and elites).
        """
        began = time.monotonic()
        train, held = self._divide(data, holdout)
        if not len(train) or not held:
            raise DataError(f"{len(data)} stretches of data are too few to fit '{self.spec.name}': record at least a second more")
        train = self.encoding.with_mirror_images(train)
        cold = not self.version
        blind = cold and self.encoding.prior is None
        self._renormalise(Normaliser.of(train, self.encoding), rng)
        norm = self._norm.cast(torch.float32)
        state, action = (torch.tensor(a, dtype=torch.float32) for a in (train.state, train.action))
        judged = [open_loop_loss.thinned(some, self.trained) for some in held]
        count, stretch = action.shape[:2]
        bootstrap = torch.as_tensor(division.bootstrap(rng, self.trained, count, weights))
        if cold:
            self._start_linear(self._norm, torch.as_tensor(train.state), torch.as_tensor(train.action), bootstrap)
        parameters = [w.requires_grad_() for w in self._weights]
        optimiser = torch.optim.AdamW(parameters, self.options.learning_rate, weight_decay=self.options.weight_decay, fused=True)
        self._resume(optimiser, parameters)
        best = [w.detach().clone() for w in parameters]
        best_error = torch.full((self.trained,), math.inf) if cold else self._error(norm, judged)
        if updates is not None:
            batch = self._batch(count, stretch)
            epochs = max(1, round(updates / (max(batch, count // stretch) // batch)))
        stale, epoch, done, loss_sum, loss_count = 0, 0, 0, 0.0, 1
        while epoch < epochs and stale < self.options.patience and time.monotonic() - began < budget_s:
            for group in optimiser.param_groups:
                group["lr"] = self.options.learning_rate * (0.525 + 0.475 * math.cos(math.pi * epoch / epochs))
            # A network that knows nothing yet diverges within a stretch: it learns single steps first. Not for long: from
            # noisy states it would learn the noise, to the cost of motions that it has not seen.
            steps = 1 if blind and epoch < COLD_SHARE * epochs and done < COLD_UPDATES else stretch
            rows = bootstrap.gather(1, torch.as_tensor(rng.permuted(np.tile(np.arange(count), (self.trained, 1)), axis=1)))
            batch = self._batch(count, steps)
            # Stretches overlap, so that an epoch of long ones holds each transition as often as an epoch of single steps.
            used = max(batch, count // steps)
            loss_sum, loss_count = 0.0, 0
            for first in range(0, used - batch + 1, batch):
                chosen, begin = rows[:, first:first + batch], int(rng.integers(stretch - steps + 1))
                loss_sum += self._descend(optimiser, norm, state[chosen, begin:begin + steps + 1], action[chosen, begin:begin + steps])
                loss_count += 1
                progress()
                if time.monotonic() - began > budget_s:
                    break
            epoch, done = epoch + 1, done + loss_count
            error = self._error(norm, judged)
            better = error < best_error
            stale = 0 if bool((error < best_error - 1e-3).any()) or steps < stretch else stale + 1
            best_error = torch.where(better, error, best_error)
            for kept, now in zip(best, parameters, strict=True):
                kept[better] = now.detach()[better]
        self._adam = [(s["exp_avg"], s["exp_avg_sq"], float(s["step"])) for s in (optimiser.state[w] for w in parameters) if s]
        self._weights = best
        self._elites = torch.sort(torch.argsort(best_error)[:self.members]).values
        self.version += 1
        self.prepare(self._dtype)
        return {"transitions": float(len(data) * stretch), "epochs": float(epoch), "fit_s": time.monotonic() - began,
                "loss": loss_sum / loss_count / self.trained, "holdout_mse": float(best_error[self._elites].mean().exp())}

    def _descend(self, optimiser: torch.optim.Optimizer, norm: Normaliser, state: torch.Tensor, action: torch.Tensor) -> float:
        """One gradient step on a batch ([E, B, K + 1, S], [E, B, K, A]); gives the loss before it."""
        loss = open_loop_loss.loss(self._weights, self.encoding, norm, state, action, self.options.floor)
        optimiser.zero_grad()
        torch.autograd.backward(loss)
        network.clip_per_member(self._weights, CLIP)
        optimiser.step()
        return float(loss.detach())

    def _batch(self, count: int, steps: int) -> int:
        """Stretches per gradient step: smaller while there is little data, so that a pass has enough steps."""
        return min(max(1, min(self.options.batch, max(SMALL_BATCH, count // SMALL_EPOCH)) // steps), count)

    def _divide(self, data: Sequences, holdout: float | Sequences | list[Sequences]) -> tuple[Sequences, list[Sequences]]:
        """What to learn from, and the sets to judge by (none that is empty)."""
        if isinstance(holdout, float):
            data, kept = division.split(data, self.dt, holdout)
            holdout = [kept]
        sets = [holdout] if isinstance(holdout, Sequences) else holdout
        return data, [some for some in sets if len(some)]

    def _error(self, norm: Normaliser, judged: list[tuple[torch.Tensor, torch.Tensor]]) -> torch.Tensor:
        return open_loop_loss.error(self._weights, self.encoding, norm, judged, self.options.floor)

    def _renormalise(self, new: Normaliser, rng: np.random.Generator) -> None:
        """Take over new statistics; fitted weights are rewritten so that the function stays what it was."""
        if self.version:
            renormalise(self._weights, self._norm, new)
        else:
            self._weights = self._initial(rng)
        self._norm = new

    def _start_linear(self, norm: Normaliser, state: torch.Tensor, action: torch.Tensor, bootstrap: torch.Tensor) -> None:
        """Put the linear map at each member's ridge regression on its own bootstrap set.

        Args:
            norm: statistics.
            state: [B, K + 1, S].
            action: [B, K, A].
            bootstrap: [E, B].
        """
        linear = network.parts(self._weights)[1]
        if linear is None:
            return
        features = self.encoding.features(state[:, 0], action[:, 0])
        inputs = (features - norm.input_mean) * norm.input_inverse
        outputs = (self.encoding.targets(state[:, 0], action[:, 0], state[:, 1]) - norm.target_mean) / norm.target_scale
        linear.copy_(network.ridge(inputs[bootstrap], outputs[bootstrap], RIDGE))

    def _resume(self, optimiser: torch.optim.Optimizer, weights: list[torch.Tensor]) -> None:
        for weight, (average, square, steps) in zip(weights, self._adam, strict=False):
            optimiser.state[weight] = {"step": torch.tensor(steps), "exp_avg": average, "exp_avg_sq": square}

    # ---- snapshots

    def _arrays(self) -> dict[str, torch.Tensor]:
        """Everything that predictions need, by name; weights first, in their order."""
        layers, linear = network.parts(self._weights)
        arrays = {f"layer{i // 2}.{'bias' if i % 2 else 'weight'}": w for i, w in enumerate(layers)}
        arrays |= {"linear": linear} if linear is not None else {}
        arrays |= {f"normaliser.{name}": value for name, value in vars(self._norm).items()}
        return arrays | {"elites": self._elites}

    def snapshot(self) -> Snapshot:
        """A frozen copy of all members, the normaliser and the elites."""
        self._ready()
        arrays = self._arrays()
        return Snapshot(self.kind, self.spec.hash, self.version, {n: a.detach().numpy().copy() for n, a in arrays.items()})

    def moments(self) -> dict[str, np.ndarray]:
        """The optimiser's averages: with them and a snapshot, fits go on with the same bits elsewhere. Empty before a fit."""
        out = {f"{i}.{name}": tensor.numpy().copy() for i, (average, square, _) in enumerate(self._adam)
               for name, tensor in (("average", average), ("square", square))}
        return out | ({"steps": np.array([steps for *_, steps in self._adam])} if out else {})

    def resume(self, moments: dict[str, np.ndarray]) -> None:
        """Take over `moments`, after the `load` of the snapshot that belongs to them.

        Raises:
            SnapshotError: they are not of this ensemble; nothing is changed then.
        """
        shapes = {f"{i}.{name}": tuple(w.shape) for i, w in enumerate(self._weights) for name in ("average", "square")}
        shapes = {**shapes, "steps": (len(self._weights),)} if moments else {}
        if {name: array.shape for name, array in moments.items()} != shapes:
            raise SnapshotError("saved optimiser: its arrays are not those of this ensemble; resume with the options it was saved with")
        steps = moments["steps"] if moments else ()
        self._adam = [(torch.tensor(moments[f"{i}.average"]), torch.tensor(moments[f"{i}.square"]), float(n)) for i, n in enumerate(steps)]

    def load(self, snapshot: Snapshot) -> None:
        """Take over a snapshot in place: the buffers of `step` keep their addresses while the precision stays the same.

        Raises:
            SnapshotError: another kind, another robot, or arrays of wrong names, shapes, types or members; the model is then unchanged.
        """
        self._check(snapshot)
        mine = self._arrays()
        arrays = {n: torch.tensor(snapshot.weights[n]) for n in mine}
        self._weights = [arrays[n] for n in list(mine)[:len(self._weights)]]
        self._norm = Normaliser(*(arrays[f"normaliser.{name}"] for name in vars(self._norm)))
        self._elites = arrays["elites"]
        self._adam = []
        self.version = snapshot.version
        self.prepare(self._dtype)

    def _check(self, snapshot: Snapshot) -> None:
        """Refuse what `load` must refuse."""
        if snapshot.kind != self.kind:
            raise SnapshotError(f"snapshot version {snapshot.version} is of kind '{snapshot.kind}', not '{self.kind}'")
        check_spec(snapshot, self.spec)
        check_arrays(snapshot, self._arrays(), self.kind)
        elites = snapshot.weights["elites"]
        if not ((elites >= 0) & (elites < self.trained)).all():
            raise SnapshotError(f"snapshot version {snapshot.version}: elites {elites.tolist()} are not among {self.trained} members")
