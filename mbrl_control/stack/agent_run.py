"""The loop of an agent that learns by itself: decide, be told, learn; evaluate and save now and then; go on after an interruption."""

from __future__ import annotations

import contextlib
import signal
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import numpy as np

from mbrl_control.agents.base import Actor, Agent, Task, Transition
from mbrl_control.stack import agent_checkpoint
from mbrl_control.stack.agent_checkpoint import Progress

TRAINING, EVALUATION = 0, 1
FIGURES_EVERY = 500


@dataclass(frozen=True)
class RunSettings:
    """How an agent is run.

    Attributes:
        steps: environment steps to come to.
        seed: of everything random.
        run_dir: folder of the run.
        identity: what must be equal for a run to go on, JSON values.
        evaluate_every: environment steps between evaluations.
        episodes: of an evaluation.
        save_every: environment steps after which a checkpoint is written at the next end of an episode.
    """

    steps: int
    seed: int
    run_dir: Path
    identity: dict[str, Any]
    evaluate_every: int = 1000
    episodes: int = 10
    save_every: int = 5000


class Writer(Protocol):
    """Where curves go to, as TensorBoard's."""

    def add_scalar(self, tag: str, scalar_value: float, global_step: int) -> None:
        """Write a point."""
        ...


def seed_of(seed: int, purpose: int, number: int) -> int:
    """The seed of an episode: the same in every sitting, and different for every episode, purpose and run."""
    return int(np.random.SeedSequence((seed, purpose, number)).generate_state(1)[0])


def evaluate(agent: Agent, task: Task, episodes: int, seed: int, stopped: Callable[[], bool] = lambda: False) -> list[float] | None:
    """Returns of whole episodes with what the agent thinks best; the same starts each time.

    Args:
        agent: whose data and weights are left alone.
        task: an instance of its own.
        episodes: how many.
        seed: of the run.
        stopped: whether to give up.

    Returns:
        The returns; None if given up.
    """
    returns = []
    for number in range(episodes):
        actor, total = agent.actor(explore=False), 0.0
        actor.reset()
        observation, over = task.reset(seed_of(seed, EVALUATION, number)), False
        while not over:
            if stopped():
                return None
            observation, reward, terminated, truncated = task.step(actor.act(observation))
            total, over = total + reward, terminated or truncated
        returns.append(total)
    return returns


class AgentRun:
    """A run: from a beginning, or from where an earlier sitting of it ended.

    Args:
        settings: of the run.
        agent: as built.
        task: to learn in.
        trial: another instance of it, to evaluate in.
        writer: of curves.
        told: called after each step with how far the run is.
    """

    def __init__(self, settings: RunSettings, agent: Agent, task: Task, trial: Task, writer: Writer,
                 told: Callable[[Progress], None] = lambda _: None) -> None:
        self.settings, self.agent, self.task, self.trial, self.writer, self.told = settings, agent, task, trial, writer, told
        self.progress = Progress()
        self._stop, self._saved_at = False, 0
        self._figures: dict[str, list[float]] = {}

    def resume(self) -> None:
        """Go on from the newest checkpoint, at the beginning of an episode.

        Raises:
            UserError: none that fits.
        """
        self.progress, saved = agent_checkpoint.read(self.settings.run_dir, self.settings.identity)
        self.agent.load(saved)
        self._saved_at = self.progress.steps

    def stop(self, *_: object) -> None:
        """End after the step that is under way, with a checkpoint; also a signal's handler."""
        if self._stop:
            raise KeyboardInterrupt  # asked twice: somebody does not want to wait
        self._stop = True

    def run(self) -> bool:
        """Learn until the steps are done, or SIGINT or SIGTERM; a checkpoint is there in either case. Gives whether they are done."""
        begin, before = time.monotonic(), self.progress.wall_s
        actor = self.agent.actor(explore=True)
        with _handling(self.stop):
            while not self._stop and self.progress.steps < self.settings.steps:
                self._episode(actor, lambda: before + time.monotonic() - begin)
            self._save()
        return self.progress.steps >= self.settings.steps

    def _episode(self, actor: Actor, wall_s: Callable[[], float]) -> None:
        """One episode of learning; cut short where the run ends."""
        progress, total, over = self.progress, 0.0, False
        observation = self.task.reset(seed_of(self.settings.seed, TRAINING, progress.episodes))
        progress.episodes += 1
        actor.reset()
        while not (over or self._stop or progress.steps >= self.settings.steps):
            action = actor.act(observation)
            outcome = self.task.step(action)
            over = outcome.terminated or outcome.truncated
            self.agent.observe(Transition(observation, action, outcome.reward, outcome.observation, outcome.terminated, outcome.truncated))
            figures = self.agent.learn()
            observation, total = outcome.observation, total + outcome.reward
            progress.steps += self.task.spec.repeat
            progress.wall_s = wall_s()
            self._note(figures)
            if progress.steps // self.settings.evaluate_every > len(progress.rows):
                self._evaluate()
            self.told(progress)
        if over:
            self.writer.add_scalar("training/return", total, progress.steps)
            if progress.steps - self._saved_at >= self.settings.save_every:
                self._save()

    def _note(self, figures: dict[str, float]) -> None:
        """Gather figures of updates, and write their means now and then."""
        for name, value in figures.items():
            self._figures.setdefault(name, []).append(value)
        if self.progress.steps % FIGURES_EVERY < self.task.spec.repeat:
            for name, values in self._figures.items():
                self.writer.add_scalar(f"learning/{name}", float(np.mean(values)), self.progress.steps)
            self._figures = {}

    def _evaluate(self) -> None:
        returns = evaluate(self.agent, self.trial, self.settings.episodes, self.settings.seed, lambda: self._stop)
        if returns is not None:
            self.progress.rows.append((self.progress.steps, float(np.mean(returns)), float(np.std(returns))))
            self.writer.add_scalar("evaluation/return", float(np.mean(returns)), self.progress.steps)

    def _save(self) -> None:
        agent_checkpoint.write(self.settings.run_dir, self.settings.identity, self.progress, self.agent.save())
        self._saved_at = self.progress.steps


@contextlib.contextmanager
def _handling(stop: Callable[..., None]) -> Iterator[None]:
    """SIGINT and SIGTERM go to `stop`, where there are signals (in the main thread)."""
    before = {}
    with contextlib.suppress(ValueError):
        before = {number: signal.signal(number, stop) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
