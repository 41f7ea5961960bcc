"""A task and an agent whose every number can be told beforehand."""

from __future__ import annotations

import numpy as np

from mbrl_control.agents.base import Outcome, Saved, TaskSpec


class Line:
    """A point on a line that a decision moves; the reward is minus its distance from 0. Ends after `limit` decisions, or beyond 5."""

    def __init__(self, limit=10, repeat=1):
        self.spec = TaskSpec("line", (1,), 1, limit, repeat, lambda s: s[:, 0].abs() > 5)
        self.seeds, self.count, self.at, self.closed = [], 0, np.zeros(1, np.float32), False
        self.on_step = lambda: None

    def reset(self, seed=None):
        self.seeds.append(seed)
        self.count = 0
        self.at = np.random.default_rng(seed).uniform(-1, 1, 1).astype(np.float32)
        return self.at.copy()

    def step(self, action):
        self.on_step()
        self.at = (self.at + 0.5 * action).astype(np.float32)
        self.count += 1
        over = bool(abs(self.at[0]) > 5)
        return Outcome(self.at.copy(), -float(abs(self.at[0])), over, self.count >= self.spec.limit and not over)

    def close(self):
        self.closed = True


class Walk:
    """An agent that walks at random to explore and towards 0 otherwise; it keeps what it was told."""

    def __init__(self, seed=0):
        self.rng, self.told, self.learnt = np.random.default_rng(seed), [], 0

    def actor(self, explore):
        return WalkActor(self, explore)

    def observe(self, transition):
        self.told.append((float(transition.observation[0]), float(transition.action[0]), transition.reward))

    def learn(self):
        self.learnt += 1
        return {"loss": float(self.learnt)}

    def save(self):
        return Saved({"told": np.array(self.told)}, {"learnt": self.learnt, "rng": self.rng.bit_generator.state})

    def load(self, saved):
        self.told, self.learnt = [tuple(row) for row in saved.arrays["told"]], saved.values["learnt"]
        self.rng.bit_generator.state = saved.values["rng"]


class WalkActor:
    def __init__(self, agent, explore):
        self.agent, self.explore = agent, explore

    def reset(self):
        pass

    def act(self, observation):
        return self.agent.rng.uniform(-1, 1, 1) if self.explore else np.clip(-2 * observation, -1, 1)


class Points:
    """A writer that keeps what it is given."""

    def __init__(self):
        self.points = []

    def add_scalar(self, tag, scalar_value, global_step):
        self.points.append((tag, scalar_value, global_step))

    def close(self):
        pass
