"""A robot's twin in MuJoCo, driven by command vectors and read as state vectors."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Protocol

import mujoco
import numpy as np
from numpy.typing import NDArray

from mbrl_control.errors import UserError
from mbrl_control.models import mjcf, mjcf_changes
from mbrl_control.robot import RobotSpec

Array = NDArray[np.float64]

UNSTABLE = (mujoco.mjtWarning.mjWARN_BADQPOS, mujoco.mjtWarning.mjWARN_BADQVEL, mujoco.mjtWarning.mjWARN_BADQACC,
            mujoco.mjtWarning.mjWARN_BADCTRL)


class Plant(Protocol):
    """What the stack drives: a robot, real or simulated, in the vectors of its spec."""

    @property
    def time(self) -> float:
        """Seconds since the reset."""
        ...

    def reset(self, rng: np.random.Generator) -> Array:
        """To the start of the task, with noise from `rng`. Returns the state [S]."""
        ...

    def state(self) -> Array:
        """[S] the state now, SI units."""
        ...

    def step(self, command: Array, dt: float) -> Array:
        """Hold `command` [A] for `dt` seconds. Returns the state [S] after it."""
        ...


def check_command(command: Array, spec: RobotSpec) -> Array:
    """[A] float64 of a command.

    Raises:
        UserError: wrong shape or a number that is not finite.
    """
    given = np.asarray(command, dtype=np.float64)
    if given.shape != (spec.action_dim,) or not np.isfinite(given).all():
        raise UserError(f"plant '{spec.name}': command {np.array2string(given, threshold=10)} of shape {list(given.shape)}; "
                        f"wanted [{spec.action_dim}] finite numbers: {', '.join(spec.command_names)}")
    return given


class MujocoPlant:
    """A plant from the robot's MJCF; commands take effect `delay_s` later (rounded to whole physics steps).

    Args:
        spec: the robot; its `sim` names the MJCF, the actuators and the start.
        base: folder that `sim.mjcf` is relative to; without it, or without such a file there, the shipped MJCF of that name.
        longest_step_s: the MJCF's timestep is split evenly until it is no longer than this, s; by default it stays as it is.
    """

    def __init__(self, spec: RobotSpec, base: Path | None = None, longest_step_s: float = math.inf) -> None:
        self.spec = spec
        self.sim = mjcf.sim_of(spec)
        self.model = mjcf_changes.apply(mjcf.read(mjcf.locate(self.sim.mjcf, base), mjcf.memory_of(spec)), self.sim)
        self.model.opt.timestep /= max(1, math.ceil(self.model.opt.timestep / longest_step_s - 1e-9))
        self.data = mujoco.MjData(self.model)
        self.map = mjcf.SignalMap(self.model, spec)
        self.start = np.array([self.sim.start.get(name, 0.0) for name in spec.state_names])
        self.delay = np.round(spec.delays / self.model.opt.timestep).astype(int)
        self._drive = mjcf.drive(spec)
        self._renderer: mujoco.Renderer | None = None
        self._set(self.start)

    def _set(self, state: Array) -> None:
        mujoco.mj_resetData(self.model, self.data)
        full = np.concatenate((self.data.qpos, self.data.qvel))
        full[self.map.address] = state
        self.data.qpos[:], self.data.qvel[:] = full[: self.model.nq], full[self.model.nq :]
        # Row k of the queue is the command given k physics steps ago.
        self.queue = np.tile(self.spec.action_zero, (int(self.delay.max()) + 1, 1))
        mujoco.mj_forward(self.model, self.data)
        self.data.qacc_warmstart[:] = 0.0

    @property
    def time(self) -> float:
        """Seconds since the reset."""
        return float(self.data.time)

    def state(self) -> Array:
        """[S] the state now, SI units, angles not wrapped."""
        return np.asarray(np.concatenate((self.data.qpos, self.data.qvel))[self.map.address])

    def reset(self, rng: np.random.Generator) -> Array:
        """To `sim.start` plus Gaussian noise of `sim.start_noise`; forgets commands under way, keeps changes made by `change`.

        Args:
            rng: source of the noise.

        Returns:
            [S] the state.
        """
        self._set(self.start + self.sim.start_noise * rng.standard_normal(self.spec.state_dim))
        return self.state()

    def place(self, state: Array) -> Array:
        """To an exact state [S] at time 0; joints that no signal measures go to their MJCF position. Returns the state."""
        given = np.asarray(state, dtype=np.float64)
        if given.shape != self.start.shape or not np.isfinite(given).all():
            raise UserError(f"plant '{self.spec.name}': state of shape {list(given.shape)}; wanted [{self.spec.state_dim}] finite numbers")
        self._set(given)
        return self.state()

    def step(self, command: Array, dt: float) -> Array:
        """Hold a command.

        Args:
            command: [A] in the order of the spec; the MJCF's ctrlrange cuts it, as a motor driver would.
            dt: how long, s; a multiple of the MJCF's timestep.

        Returns:
            [S] the state after it.

        Raises:
            UserError: wrong shape, dt no multiple, or the simulation became unstable.
        """
        given = check_command(command, self.spec)
        steps = mjcf.whole_steps(dt, self.model.opt.timestep, "dt")
        if len(self.queue) == 1:
            self.data.ctrl[self.map.actuator] = given if self._drive is None else self._drive(given)
            mujoco.mj_step(self.model, self.data, steps)
        else:
            for _ in range(steps):
                self.queue = np.concatenate((given[None], self.queue[:-1]))
                acting = self.queue[self.delay, np.arange(len(given))]
                self.data.ctrl[self.map.actuator] = acting if self._drive is None else self._drive(acting)
                mujoco.mj_step(self.model, self.data)
        bad = [w.name.removeprefix("mjWARN_") for w in UNSTABLE if self.data.warning[w].number]
        if bad:
            raise UserError(f"plant '{self.spec.name}' became unstable ({', '.join(bad)}); use a smaller timestep in its MJCF "
                            "or smaller command limits")
        return self.state()

    def change(self, what: str, factor: float) -> None:
        """Change the robot while it runs, e.g. `mass:pole` by 2 (a load is picked up) or `gear:slide` by 0.5 (a weak motor).

        Args:
            what: `mass:<body>` (mass and inertia), `damping:<joint>`, `friction:<joint>` or `gear:<actuator>`.
            factor: what it is multiplied by, > 0.

        Raises:
            UserError: unknown quantity or name.
        """
        mjcf_changes.change(self.model, what, factor)

    def render(self, width: int = 480, height: int = 320) -> NDArray[np.uint8]:
        """[height, width, 3] picture from the MJCF's first camera; without a display set MUJOCO_GL=egl."""
        if self._renderer is None or (self._renderer.width, self._renderer.height) != (width, height):
            self.close()
            self._renderer = mujoco.Renderer(self.model, height, width)
        self._renderer.update_scene(self.data, camera=0 if self.model.ncam else -1)
        return np.asarray(self._renderer.render())

    def close(self) -> None:
        """Free the renderer."""
        if self._renderer is not None:
            self._renderer.close()
            self._renderer = None
