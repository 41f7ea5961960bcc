"""Robots whose delays and parameters are known: mechanisms integrated finely under late commands, with noise on what is measured."""

from __future__ import annotations

import numpy as np

from mbrl_calibration import mechanism
from mbrl_calibration.profile import held
from mbrl_calibration.runs import Run

FINE = 5


def multisine(time, axes, amplitude, rng, low_hz=0.2, high_hz=4.0, tones=8):
    """[T, axes] sums of sines at random frequencies and phases, of at most `amplitude`."""
    hz, phase = rng.uniform(low_hz, high_hz, (axes, tones)), rng.uniform(0, 2 * np.pi, (axes, tones))
    waves = np.sin(2 * np.pi * hz * time[:, None, None] + phase).sum(axis=2)
    return amplitude * waves / np.abs(waves).max(axis=0)


def simulate(spec, values, command, period, delays, rng, noise=(1e-4, 0.02), x0=None, name="run"):
    """A run of the mechanism of a robot.

    Args:
        values: lumped parameters by name that differ from the mechanism's own.
        command: [T, A], each in force for a period.
        delays: [A] s.
        noise: standard deviations on positions and on rates.
    """
    m = mechanism.build(spec)
    p = np.array([values.get(n, s) for n, s in zip(m.names, m.start, strict=True)])
    time = period * np.arange(len(command))
    step = mechanism.step(m, command.shape[1], period / FINE, 1).mapaccum(len(time) * FINE)
    fine = period / FINE * np.arange(len(time) * FINE + 1)
    late = np.stack([np.diff(held(time, u)(np.maximum(fine - d, 0.0))) / (period / FINE) for u, d in zip(command.T, delays, strict=True)])
    for row, (u, d) in enumerate(zip(command.T, delays, strict=True)):
        late[row, fine[:-1] < d] = u[0]
    start = np.zeros(2 * m.count) if x0 is None else x0
    x = np.concatenate([start[None], np.array(step(start, late, p)).T])[:-1:FINE]
    state = np.empty((len(time), spec.state_dim))
    state[:, m.positions] = x[:, : m.count] + noise[0] * rng.standard_normal((len(time), m.count))
    state[:, m.rates] = x[:, m.count:] + noise[1] * rng.standard_normal((len(time), m.count))
    return Run(name, time, state, command, np.full(command.shape, np.nan))
