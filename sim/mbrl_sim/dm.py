"""The control suite's own cart-pole swing-up as a plant, so that its returns are the suite's."""

from __future__ import annotations

import importlib
import warnings
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mbrl_control.errors import UserError
from mbrl_control.models import mjcf
from mbrl_control.robot import RobotSpec
from mbrl_sim.plant import check_command

Array = NDArray[np.float64]


class DmPlant:
    """`cartpole swingup` of dm_control (Tassa et al. 2018) behind `mbrl_sim.plant.Plant`.

    State: x [m], theta [rad, 0 upright], x_dot [m/s], theta_dot [rad/s], as in cartpole.yaml.

    Attributes:
        reward: sum of the suite's rewards since the reset, one per 10 ms: after 1000 of them, the suite's episode return.
        rewards: the single rewards.
    """

    def __init__(self, spec: RobotSpec) -> None:
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")  # without a display glfw warns at import; nothing is drawn here
                suite: Any = importlib.import_module("dm_control.suite")
        except ImportError as error:
            raise UserError("this plant needs dm_control: pip install 'mbrl_control[bench]'") from error
        if (spec.state_dim, spec.action_dim) != (4, 1):
            raise UserError(f"the suite's cart-pole has 4 states and 1 command, robot '{spec.name}' has {spec.state_dim} and "
                            f"{spec.action_dim}; use the shipped robot 'cartpole'")
        self.spec = spec
        self.env = suite.load("cartpole", "swingup", task_kwargs={"random": 0})
        self.rewards: list[float] = []
        self.env.reset()

    @property
    def time(self) -> float:
        """Seconds since the reset."""
        return float(self.env.physics.time())

    @property
    def reward(self) -> float:
        """Sum of rewards since the reset."""
        return float(sum(self.rewards))

    def state(self) -> Array:
        """[4] the state now; angle not wrapped."""
        data = self.env.physics.data
        return np.concatenate((data.qpos, data.qvel))

    def reset(self, rng: np.random.Generator) -> Array:
        """The suite's own start (hanging, noise 0.01), seeded from `rng`. Returns the state [4]."""
        self.env.task.random.seed(int(rng.integers(2**32)))
        self.env.reset()
        self.rewards = []
        return self.state()

    def place(self, state: Array) -> Array:
        """To an exact state [4] at time 0. Returns the state."""
        with self.env.physics.reset_context():
            self.env.physics.data.qpos[:], self.env.physics.data.qvel[:] = state[:2], state[2:]
        self.rewards = []
        return self.state()

    def step(self, command: Array, dt: float) -> Array:
        """Hold `command` [1] for `dt` seconds, a multiple of 10 ms, past the suite's 10 s if asked. Returns the state [4]."""
        given = check_command(command, self.spec)
        for _ in range(mjcf.whole_steps(dt, self.env.control_timestep(), "dt")):
            self.env.task.before_step(given, self.env.physics)
            self.env.physics.step()
            self.rewards.append(float(self.env.task.get_reward(self.env.physics)))
        return self.state()
