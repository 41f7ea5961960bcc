"""What a benchmark's tick drives: the robot's twin in MuJoCo, or a stand-in for robots without one; cheap, and at any rate."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Protocol

import numpy as np

from mbrl_control.data.episodes import Episode
from mbrl_control.errors import UserError
from mbrl_control.robot import RobotSpec
from mbrl_control.runtime.excitation import excitation
from mbrl_control.stack import plants

LAG_S = 0.3
PULL_S = 3.0
EPISODE_S = 5.0


class BenchPlant(Protocol):
    """A plant that may be stepped by any time."""

    def reset(self, rng: np.random.Generator) -> None:
        """To the start."""
        ...

    def state(self) -> np.ndarray:
        """[S] now."""
        ...

    def step(self, command: np.ndarray, dt: float) -> None:
        """Hold a command [A] for dt seconds."""
        ...


class Twin:
    """The robot's own MJCF; what a step leaves of a physics step is owed to the next one, so that a tick need not be a multiple.

    Args:
        spec: the robot, with a `sim` section.
        base: folder that its MJCF is relative to.
    """

    def __init__(self, spec: RobotSpec, base: Path | None) -> None:
        made: Any = plants.make("mujoco", spec, base)
        self._plant = made
        self._step = float(made.model.opt.timestep)
        self._owed, self._rng = 0.0, np.random.default_rng(0)

    def reset(self, rng: np.random.Generator) -> None:
        """See `BenchPlant.reset`."""
        self._rng, self._owed = rng, 0.0
        self._plant.reset(rng)

    def state(self) -> np.ndarray:
        """See `BenchPlant.state`."""
        return np.asarray(self._plant.state())

    def step(self, command: np.ndarray, dt: float) -> None:
        """See `BenchPlant.step`; a simulation that became unstable starts anew."""
        self._owed += dt
        steps = int(self._owed / self._step + 1e-6)
        if not steps:
            return
        self._owed -= steps * self._step
        try:
            self._plant.step(command, steps * self._step)
        except UserError:
            self._plant.reset(self._rng)


class StandIn:
    """Rates follow the commands with a lag, positions their rates and a weak pull to 0: it never diverges, and it can be learned.

    Args:
        spec: the robot.
    """

    def __init__(self, spec: RobotSpec) -> None:
        self._mid, self._half = (spec.action_high + spec.action_low) / 2, (spec.action_high - spec.action_low) / 2
        mix = np.random.default_rng(0).standard_normal((spec.state_dim, spec.action_dim))
        self._mix = mix / np.sqrt(spec.action_dim)
        self._position = np.array([i for i, _ in spec.rate_pairs], dtype=int)
        self._rate = np.array([j for _, j in spec.rate_pairs], dtype=int)
        self._state = np.zeros(spec.state_dim)

    def reset(self, rng: np.random.Generator) -> None:
        """See `BenchPlant.reset`."""
        self._state = 0.1 * rng.standard_normal(len(self._state))

    def state(self) -> np.ndarray:
        """See `BenchPlant.state`."""
        return self._state.copy()

    def step(self, command: np.ndarray, dt: float) -> None:
        """See `BenchPlant.step`."""
        change = (self._mix @ ((command - self._mid) / self._half) - self._state) / LAG_S
        change[self._position] = self._state[self._rate] - self._state[self._position] / PULL_S
        self._state = self._state + dt * change


def make(spec: RobotSpec, base: Path | None = None) -> BenchPlant:
    """The plant of a robot."""
    return Twin(spec, base) if spec.sim is not None else StandIn(spec)


def excited(spec: RobotSpec, plant: BenchPlant, seconds: float, seed: int) -> list[Episode]:
    """Episodes of smooth random commands, seeded."""
    rng, out = np.random.default_rng([seed, 0xE8C1]), list[Episode]()
    ticks = round(EPISODE_S * spec.rate_hz)
    while sum(e.duration for e in out) < seconds:
        commands, states = excitation(spec, ticks, rng), np.empty((ticks, spec.state_dim))
        plant.reset(rng)
        for k, command in enumerate(commands):
            states[k] = plant.state()
            plant.step(command, spec.tick_s)
        out.append(Episode(spec.tick_s * np.arange(ticks), states, commands, name=f"excitation {len(out)}"))
    return out
