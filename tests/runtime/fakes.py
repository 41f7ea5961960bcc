"""What the tests of the runtime share: robots of chosen limits, and a planner that does as it is told."""

from __future__ import annotations

import numpy as np

from mbrl_control import robot
from mbrl_control.planning.plan import Plan, Verdict


def spec_with(name="cartpole", *, trainer=None, planner=None, command=None, **top):
    """A shipped robot with rates and horizon that the tests count on, and other values: `command` for every command signal."""
    spec = robot.load(name)
    updates = {"rate_hz": 50.0, "plan_hz": 25.0, "model_dt": 0.04} | top
    if command:
        updates["command"] = [c.model_copy(update=command) for c in spec.command]
    if trainer:
        updates["trainer"] = spec.trainer.model_copy(update=trainer)
    updates["planner"] = spec.planner.model_copy(update={"horizon": 25} | (planner or {}))
    return spec.model_copy(update=updates)


def plan_of(spec, actions, start, seq=0, latency_s=0.01, dt=None, **other):
    actions = np.atleast_2d(np.asarray(actions, dtype=float))
    if actions.shape[1] != spec.action_dim:
        actions = actions.T
    values = {"cost": 1.0, "verdict": Verdict.MET, "model_version": 3, "iterations": 3, "winner": "explore",
              "carry": actions[None].copy(), "stats": {}} | other
    return Plan(seq=seq, start=start, dt=dt or spec.model_dt, actions=actions, latency_s=latency_s, **values)


class FakeLink:
    """A planner that answers with what `answer(request)` gives, `latency_s` after the request, in order."""

    def __init__(self, answer=None, latency_s=0.01):
        self.answer, self.latency_s = answer, latency_s
        self.requests, self.queue, self.now = [], [], 0.0

    def send(self, request):
        self.requests.append(request)
        if self.answer is not None:
            plan = self.answer(request)
            if plan is not None:
                self.queue.append((self.now + self.latency_s, plan))

    def receive(self, now):
        self.now = now
        if self.queue and self.queue[0][0] <= now + 1e-12:
            return self.queue.pop(0)[1]
        return None
