"""Trainer: refit warm on all data so far, gate on held-out data, publish only what is not worse."""

from __future__ import annotations

import contextlib
import math
import time
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any

import numpy as np

from mbrl_control import parts
from mbrl_control.data.episodes import Episode
from mbrl_control.data.sequences import Sequences, sequences, within_range
from mbrl_control.errors import SnapshotError
from mbrl_control.heartbeat import nothing
from mbrl_control.models.base import LearnedModel, precision
from mbrl_control.models.warm_up import fit_to_noise
from mbrl_control.planning import limits
from mbrl_control.planning.limits import Limits, k_step_error
from mbrl_control.robot import RobotSpec
from mbrl_control.store import ModelStore
from mbrl_control.store.snapshot import Snapshot
from mbrl_control.training.beside import Beside
from mbrl_control.training.remembered import Remembered

GATE_STEPS = 10
GATE_BLOCKS = 3
HELD_BLOCK_S = 0.6
RECENT_S = 1.5
FLOOR = 0.1


@dataclass
class Refit:
    """What a refit came to.

    Attributes:
        version: of the published snapshot; 0 when the gate refused it.
        seconds: it took.
        transitions: it used.
        score: k-step error on held-out and on the newest data (geometric mean), in typical one-step changes.
        incumbent: the same of the model that was in use; nan for the first.
        experience_s: seconds of data at that time.
        figures: of the fit.
    """

    version: int
    seconds: float
    transitions: int
    score: float
    incumbent: float
    experience_s: float
    figures: dict[str, Any] = field(default_factory=dict)


class Trainer:
    """Data, model and gate of one robot; the same object in lockstep and in the trainer process.

    Args:
        spec: the robot.
        store: where snapshots go.
        seed: of bootstrap sets, initial weights and hold-out choice.
        progress: called again and again while a refit goes on.

    Attributes:
        history: refits; whether there is one is all that the trainer itself asks.
    """

    def __init__(self, spec: RobotSpec, store: ModelStore, seed: int, progress: Callable[[], None] = nothing) -> None:
        self.spec, self.store, self._progress = spec, store, progress
        options = parts.options("models", spec.model.kind, dict(spec.model.options))
        self._build: Callable[[], LearnedModel] = partial(parts.find("models", spec.model.kind).build, spec, options)
        self.model, self._incumbent, self._measured = self._build(), self._build(), self._build()
        self.rng = np.random.default_rng([seed, 0x7EA1])
        self.episodes: list[Episode] = []
        self._remembered = Remembered(spec, self._block_s, spec.trainer.remember_s)
        self.history: list[Refit] = []
        self._seen_until = -math.inf
        self.beside = Beside(spec, seed)
        newest = store.newest()
        # A model that was here before (a trainer that died, `mbrl control --model`) is where training goes on from.
        self._given = newest > 0 and self._resume(newest)

    def _resume(self, version: int) -> bool:
        """Start from a published version; one that cannot be read is left to the planner to refuse."""
        try:
            snapshot = self.store.read(version, self.spec.hash)
            self.model.load(snapshot)
            self._incumbent.load(snapshot)
            self.beside.resume(snapshot)
        except SnapshotError:
            return False
        return True

    def warm_up(self) -> None:
        """Load now what the first fit would load otherwise; without effect on any refit."""
        if hasattr(self.model, "fit"):
            fit_to_noise(self._build(), self.spec)

    def _follow_planner(self) -> None:
        """What was refused since, or rolled back, is no longer what a refit must be as good as: that is the newest one left, if any."""
        left = self.store.versions()
        if not self._incumbent.version or self._incumbent.version in left:
            return
        self._incumbent = self._build()
        for version in reversed(left):
            with contextlib.suppress(SnapshotError):  # the planner will refuse that one too
                self._incumbent.load(self.store.read(version, self.spec.hash))
                return

    @property
    def experience_s(self) -> float:
        """Seconds of data held."""
        return sum(e.duration for e in self.episodes)

    def set_data(self, episodes: list[Episode]) -> None:
        """Replace the data: what the recorder has by now. Of what is older than the window, little is remembered."""
        begin = max((e.time[-1] for e in episodes if len(e)), default=0.0) - self.spec.trainer.window_s
        self._remembered.add(episodes, begin)
        recent = [e.cut(int(np.searchsorted(e.time, begin)), len(e)) for e in episodes]
        self.episodes = self._remembered.episodes + [e for e in recent if len(e) > 1]

    def due(self) -> bool:
        """Whether there is enough new data for a refit."""
        if not hasattr(self.model, "fit"):  # a known model: there is nothing to learn
            return False
        if not self.history:
            return self.experience_s >= self.spec.trainer.first_fit_s
        # By the clock of the data: its amount no longer grows once the window is full.
        fresh = sum(max(0.0, e.time[-1] - max(e.time[0], self._seen_until)) for e in self.episodes)
        return bool(fresh >= self.spec.trainer.refit_every_s - 1e-9)

    @property
    def _block_s(self) -> float:
        """Length of the blocks of time that are held out or trained on as a whole, s."""
        return float(max(HELD_BLOCK_S, 1.5 * max(GATE_STEPS, self.model.stretch) * self.spec.model_dt))

    def split(self, steps: int, every: int = 1) -> tuple[Sequences, Sequences]:
        """Training and held-out stretches; whole blocks of time are held out, the same ones at every refit.

        A block has room for stretches of the gate, and both kinds of stretches lie in blocks of their own kind from end to end.

        Args:
            steps: model steps of each stretch.
            every: see `sequences`.
        """
        train, held = [], []
        turn = max(2, round(1 / self.spec.trainer.holdout))
        width = self._block_s
        for episode in self.episodes:
            data = within_range(sequences(episode, self.spec, steps, every=every), self.spec)
            first = np.floor(data.start / width + 1e-9).astype(np.int64)
            last = np.floor((data.start + steps * self.spec.model_dt) / width - 1e-9).astype(np.int64)
            first_held, last_held = first % turn == turn // 2, last % turn == turn // 2
            train.append(data.select(~first_held & ~last_held))
            held.append(data.select(first_held & (first == last)))
        return Sequences.join(train), Sequences.join(held)

    def _stretches(self, steps: int) -> Sequences:
        """All the data in stretches of so many model steps: policies are not judged by data that is held out."""
        return Sequences.join(within_range(sequences(episode, self.spec, steps), self.spec) for episode in self.episodes)

    def _judges(self, train: Sequences, held: Sequences) -> float | list[Sequences]:
        """What a refit chooses its weights by: held-out data, and beside it the newest, although it trains on that.

        Held-out data is old and comes in few pieces. Alone it would keep the weights of before, which are good there, through every
        refit, however wrong they are where the robot is now.
        """
        if not self.history:
            return self.spec.trainer.holdout
        return [held, self._newest(train)]

    def _weights(self, data: Sequences) -> np.ndarray | None:
        """[M] how much each stretch counts: less with age, if the robot is one that changes, but never nothing."""
        forget = self.spec.trainer.forget_s
        if forget is None or not self.history:
            return None
        weights: np.ndarray = FLOOR + np.exp((data.start - self._seen_until) / forget)
        return weights

    def _newest(self, data: Sequences) -> Sequences:
        return data.select(data.start >= self._seen_until - RECENT_S)

    def _score(self, model: LearnedModel, sets: list[Sequences]) -> float:
        """Geometric mean of the k-step errors on each set that is not empty: a refit may be worse where the robot was by the factor that
        it is better where the robot is."""
        # In the same units for every model: its own scale is that of the data that it was fitted to.
        errors = [k_step_error(model, data, self.spec.wraps, self.model.scale()) for data in sets if len(data)]
        return math.exp(sum(math.log(max(error, 1e-12)) for error in errors) / len(errors))

    def refit(self) -> Refit:
        """Fit on all data, compare with the model in use, publish if not worse. Returns what it came to."""
        begin, trainer = time.perf_counter(), self.spec.trainer
        self._follow_planner()
        self._seen_until = max((e.time[-1] for e in self.episodes), default=-math.inf)
        train, validation = self.split(self.model.stretch)
        known, held = self.split(GATE_STEPS)
        # One or two blocks of overlapping stretches are one or two samples: too few to refuse a model by.
        judged = len(np.unique(np.floor(held.start / self._block_s))) >= GATE_BLOCKS
        figures = self.model.fit(train, self.rng, updates=trainer.updates, budget_s=trainer.budget_s,
                                 holdout=self._judges(train, validation), weights=self._weights(train), progress=self._progress)
        self._progress()
        score = incumbent = math.nan
        if judged:
            sets = [held, self._newest(known)]
            score = self._score(self.model, sets)
            if self._incumbent.version:
                incumbent = self._score(self._incumbent, sets)
        version = 0
        snapshot = self.model.snapshot()
        if math.isinf(score) or not all(np.isfinite(array).all() for array in snapshot.weights.values()):
            self._start_over()
        elif not score > trainer.gate_ratio * incumbent and (judged or not self._given):
            figures = {**figures, "gate_score": score, "gate_incumbent": incumbent, "transitions": len(train)}
            figures = {name: value for name, value in figures.items() if math.isfinite(value)}
            figures |= self.beside.improve(self.model, self._stretches, float(train.start.min()), self._seen_until, self._progress)
            figures |= {limits.FIGURE: self._limits(snapshot, Sequences.join([train, validation])).figures()}
            snapshot = self.store.publish(replace(snapshot, figures=figures, behaviour=self.beside.arrays()))
            self._incumbent.load(snapshot)
            version = snapshot.version
        result = Refit(version, time.perf_counter() - begin, len(train), score, incumbent, self.experience_s, dict(figures))
        self.history.append(result)
        return result

    def _limits(self, snapshot: Snapshot, seen: Sequences) -> Limits:
        """What the planner may trust a model with: measured as the planner will use it, in its precision and from states at its rate."""
        self._measured.load(snapshot)
        self._measured.prepare(precision(self.spec))
        every = max(1, round(self.spec.rate_hz / self.spec.plan_hz))
        held = self.split(min(GATE_STEPS, self.spec.planner.horizon), every)[1]
        return Limits.measure(self._measured, seen, held, self.spec)

    def _start_over(self) -> None:
        """Weights that are ruined would stay so in every warm refit: go back to the model in use, or to none."""
        self.model = self._build()
        if self._incumbent.version:
            self.model.load(self._incumbent.snapshot())
