"""The known model: the robot's own MJCF, rolled out for a batch of action sequences in one call."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import mujoco
import numpy as np
from mujoco import rollout as mujoco_rollout

from mbrl_control.errors import UserError
from mbrl_control.models import mjcf, mjcf_changes
from mbrl_control.models.known import Array, KnownModel
from mbrl_control.robot import RobotSpec


@dataclass
class Options:
    """Which MJCF, and how many threads.

    Attributes:
        mjcf: MJCF file, a path or one that ships with mbrl_sim; empty for the robot's `sim.mjcf` with `sim.changes` and `sim.values`.
        base: folder that a relative `mjcf` is looked up in first (that of the robot's YAML).
        threads: threads of the rollout; 0 runs it in the caller's thread.
    """

    mjcf: str = ""
    base: str = ""
    threads: int = 0


class MujocoModel(KnownModel):
    """The MJCF as a model; the model step is a whole number of physics steps. Unstable rows are NaN, not frozen or reset."""

    def __init__(self, spec: RobotSpec, options: Options) -> None:
        super().__init__(spec)
        if options.threads < 0:
            raise UserError(f"models 'mujoco': threads = {options.threads} must be 0 or more")
        path = mjcf.locate(options.mjcf or mjcf.sim_of(spec).mjcf, Path(options.base) if options.base else None)
        self.mj = mjcf.read(path, mjcf.memory_of(spec))
        if not options.mjcf:
            mjcf_changes.apply(self.mj, mjcf.sim_of(spec))
        self.substeps = mjcf.whole_steps(spec.model_dt, self.mj.opt.timestep, "model_dt")
        self.map, self.drive = mjcf.whole_state(self.mj, spec, path), mjcf.drive(spec)
        self.data = [mujoco.MjData(self.mj) for _ in range(max(1, options.threads))]
        self.pool = mujoco_rollout.Rollout(nthread=options.threads)
        self.width = mujoco.mj_stateSize(self.mj, mujoco.mjtState.mjSTATE_FULLPHYSICS)

    def simulate(self, start: Array, actions: Array) -> Array:
        """See `KnownModel.simulate`."""
        count, horizon, _ = actions.shape
        control = np.zeros((count, horizon, self.mj.nu))
        acting = actions if self.drive is None else np.moveaxis(self.drive(np.moveaxis(actions, -1, 0)), 0, -1)
        control[..., self.map.actuator] = acting
        # MuJoCo's full-physics state is time, qpos, qvel (no actuator states here), so a signal sits one behind its address.
        full = np.zeros((count, self.width))
        full[:, 1 + self.map.address] = start
        states, _ = self.pool.rollout(self.mj, self.data, full, np.repeat(control, self.substeps, axis=1))
        states = np.asarray(states)[:, self.substeps - 1 :: self.substeps]
        # After a warning MuJoCo resets or freezes the row; its clock then starts anew or stands still, which gives it away.
        clock = self.dt * np.arange(1, horizon + 1)
        fine = np.logical_and.accumulate(np.abs(states[..., 0] - clock) < 0.5 * self.mj.opt.timestep, axis=1)
        return np.where(fine[..., None], states[..., 1 + self.map.address], np.nan)


def build(spec: RobotSpec, options: Options) -> MujocoModel:
    """The known model of a robot."""
    return MujocoModel(spec, options)
