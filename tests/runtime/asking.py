"""Requests as a controller makes them, from a cart that is pushed as a test says; and what a planner makes of them."""

from __future__ import annotations

import math

import carts
import numpy as np
import torch

from mbrl_control import robot, strict_yaml
from mbrl_control.planning.plan import PlanRequest
from mbrl_control.runtime.layout import HISTORY_S

torch.set_num_threads(1)  # small tensors: threads only wait for each other

YAML = carts.CART.replace("{", "{{").replace("}", "}}") + """
name: pushed
plan_hz: 50
model: {model}
planner: {{horizon: 6, candidates: 24, iterations: 2}}
trainer: {{first_fit_s: 2.0, refit_every_s: 1.0, explore_s: 2.0, budget_s: 60, updates: {updates}}}
"""


MODEL = "{kind: linear}"


def spec_of(model=MODEL, updates=300):
    return robot.validate(strict_yaml.parse(YAML.format(model=model, updates=updates), "cart.yaml"))


def to_and_fro(t):
    """A push that never rests for long and leads nowhere."""
    return math.cos(2.5 * t) + 0.5 * math.cos(7 * t)


class Cart:
    """A cart, and the requests that its controller sends: one a tick, with commands of before and one that is only expected.

    Args:
        push: command at a time, s.
        gain: of the cart.
    """

    def __init__(self, push=to_and_fro, gain=1.0):
        self.push, self.gain = push, gain
        self.seq, self.now, self.state = 0, 0.0, np.array([0.5, 0.0])
        self.sent_time, self.sent = [], []

    def restart(self):
        """Back to the start, with nothing remembered, as in `Controller.new_episode`."""
        self.state, self.sent_time, self.sent = np.array([0.5, 0.0]), [], []

    def request(self):
        """This tick's request; then the tick goes by."""
        keep, tick = round(HISTORY_S * 50), 0.02
        u = self.push(self.now)
        self.sent_time, self.sent = [*self.sent_time, self.now][-keep:], [*self.sent, u][-keep:]
        made = PlanRequest(self.seq, self.state.copy(), self.now, self.now + 2 * tick, np.array([*self.sent_time, self.now + tick]),
                           np.array([*self.sent, 9.0])[:, None], self.now)  # what is expected is not what will be sent
        self.state = carts.pushed(self.state, u, self.gain)
        self.seq, self.now = self.seq + 1, round(self.now + tick, 9)
        return made
