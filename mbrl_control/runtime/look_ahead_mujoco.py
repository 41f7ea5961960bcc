"""Look ahead with the robot's MJCF: MuJoCo's own steps, one call each."""

from __future__ import annotations

from pathlib import Path

import mujoco
import numpy as np
from numpy.typing import NDArray

from mbrl_control.models import mjcf, mjcf_changes
from mbrl_control.robot import RobotSpec
from mbrl_control.runtime.look_ahead import Setting

SANE = 1e6
"""No robot's state is beyond it in SI units, and the simulation of one that is ends at once."""


def _tell_nobody(warning: str) -> None:
    """The states tell that a simulation failed."""


class MujocoLookAhead:
    """See `mbrl_control.runtime.look_ahead.LookAhead`."""

    def __init__(self, spec: RobotSpec, base: Path | None = None) -> None:
        self._setting = Setting.of(spec)
        sim = mjcf.sim_of(spec)
        path = mjcf.locate(sim.mjcf, base)
        self._model = mjcf_changes.apply(mjcf.read(path, mjcf.memory_of(spec)), sim)
        # By default MuJoCo puts a robot whose simulation fails back to its start, where all is well.
        self._model.opt.disableflags |= mujoco.mjtDisableBit.mjDSBL_AUTORESET
        # By default it also tells each such failure in a file and on the terminal, and neither may hold a tick up.
        mujoco.set_mju_user_warning(_tell_nobody)
        self._map = mjcf.whole_state(self._model, spec, path)
        self._data = mujoco.MjData(self._model)
        # Views, because to ask MuJoCo for one takes as long as to fill it.
        self._qpos, self._qvel, self._ctrl = self._data.qpos, self._data.qvel, self._data.ctrl
        self._full = np.zeros(self._model.nq + self._model.nv)
        self._out = np.zeros((self._setting.steps + 1, spec.state_dim))
        self._reach = int(self._setting.delay.max())
        self._axes = np.arange(spec.action_dim)
        self._drive = mjcf.drive(spec)

    def __call__(self, state: np.ndarray, command: np.ndarray, sent: np.ndarray) -> np.ndarray:
        """See `LookAhead`."""
        if not (np.abs(state) <= SANE).all():
            self._out[:] = np.nan
            return self._out
        s, model, data, full, nq = self._setting, self._model, self._data, self._full, self._model.nq
        mujoco.mj_resetData(model, data)
        full[self._map.address] = state
        self._qpos[:], self._qvel[:] = full[:nq], full[nq:]
        line = np.concatenate((sent, command[None]))
        model.opt.timestep = s.tick_s / s.substeps
        x = self._after(command if not self._reach else line[self._reach - s.delay, self._axes], 0)
        model.opt.timestep = s.step_s / s.substeps
        for k in range(1, s.steps + 1):
            command = s.next_command(x, command)
            if self._reach:
                line = np.concatenate((line[1:], command[None]))
            x = self._after(command if not self._reach else line[self._reach - s.delay, self._axes], k)
        return self._out

    def _after(self, acting: np.ndarray, row: int) -> NDArray[np.float64]:
        self._ctrl[self._map.actuator] = acting if self._drive is None else self._drive(acting)
        mujoco.mj_step(self._model, self._data, self._setting.substeps)
        np.concatenate((self._qpos, self._qvel), out=self._full)
        out: NDArray[np.float64] = self._out[row]
        out[:] = self._full[self._map.address]
        return out
