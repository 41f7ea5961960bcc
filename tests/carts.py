"""A small robot for tests that need any: the head of its YAML, and what a cart on a rail does."""

from __future__ import annotations

import numpy as np

from mbrl_control.data.episodes import Episode

CART = """
rate_hz: 50
model_dt: 0.04
state:
  - {name: x, joint: slider, unit: m}
  - {name: v, joint: slider, field: velocity, unit: m/s, rate_of: x}
command:
  - {name: u, unit: N, limits: [-1, 1]}
cost: {kind: quadratic, options: {weight: {x: 1.0}}}
"""


def cart(seconds, start=0.0, seed=0, noise=1e-3, gain=1.0, at=0.0):
    """A cart with friction, pushed at random: v' = gain u - 0.5 v."""
    rng = np.random.default_rng(seed)
    count, dt = round(seconds * 50) + 1, 0.02
    u = np.repeat(rng.uniform(-1, 1, count // 5 + 1), 5)[:count]
    state = np.full((count, 2), [at, 0.0])
    for k in range(count - 1):
        state[k + 1] = pushed(state[k], u[k], gain, dt)
    return Episode(start + dt * np.arange(count), state + noise * rng.standard_normal(state.shape), u[:, None])


def pushed(state, u, gain=1.0, dt=0.02):
    """The cart a tick later."""
    x, v = state
    return np.array([x + dt * v, v + dt * (gain * u - 0.5 * v)])
