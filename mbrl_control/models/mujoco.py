"""The known model: the robot's own MJCF, rolled out for a batch of action sequences in one call."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import mujoco
import numpy as np
import torch
from mujoco import rollout as mujoco_rollout
from numpy.typing import NDArray

from mbrl_control.errors import UserError
from mbrl_control.models import mjcf
from mbrl_control.models.base import Step
from mbrl_control.robot import RobotSpec

Array = NDArray[np.float64]


@dataclass
class Options:
    """Which MJCF, and how many threads.

    Attributes:
        mjcf: MJCF file, a path or one that ships with mbrl_sim; empty for the robot's `sim.mjcf`.
        base: folder that a relative `mjcf` is looked up in first (that of the robot's YAML).
        threads: threads of the rollout; 0 runs it in the caller's thread.
    """

    mjcf: str = ""
    base: str = ""
    threads: int = 0


class MujocoModel:
    """`mbrl_control.models.base.Model` by simulation; one member, no doubt. Rows that become unstable are NaN, not frozen or reset.

    Attributes:
        members: 1.
        dt: the model step, s: a whole number of physics steps.
        version: 1; a known model is never refitted.
    """

    def __init__(self, spec: RobotSpec, options: Options) -> None:
        if options.threads < 0:
            raise UserError(f"models 'mujoco': threads = {options.threads} must be 0 or more")
        path = mjcf.locate(options.mjcf or mjcf.sim_of(spec).mjcf, Path(options.base) if options.base else None)
        self.mj = mjcf.read(path)
        self.members, self.dt, self.version = 1, spec.model_dt, 1
        self.substeps = mjcf.whole_steps(spec.model_dt, self.mj.opt.timestep, "model_dt")
        self.map = mjcf.SignalMap(self.mj, spec)
        if self.mj.na:
            raise UserError(f"{path}: its actuators have {self.mj.na} hidden states, which '{spec.name}' does not measure; "
                            "use actuators without dynamics")
        if unseen := self.map.missing(self.mj):
            raise UserError(f"models 'mujoco': '{spec.name}' does not measure position and velocity of joint {', '.join(unseen)}; "
                            "add them to `state` or use a learned model")
        self.data = [mujoco.MjData(self.mj) for _ in range(max(1, options.threads))]
        self.pool = mujoco_rollout.Rollout(nthread=options.threads)
        self.width = mujoco.mj_stateSize(self.mj, mujoco.mjtState.mjSTATE_FULLPHYSICS)
        self.dims = (spec.state_dim, spec.action_dim)

    def _simulate(self, start: Array, actions: Array) -> Array:
        """[N, S] and [N, H, A] to [N, H, S], the states after each model step."""
        count, horizon, _ = actions.shape
        control = np.zeros((count, horizon, self.mj.nu))
        control[..., self.map.actuator] = actions
        control = np.repeat(control, self.substeps, axis=1)
        # MuJoCo's full-physics state is time, qpos, qvel (no actuator states here), so a signal sits one behind its address.
        full = np.zeros((count, self.width))
        full[:, 1 : 1 + self.mj.nq] = self.mj.qpos0
        full[:, 1 + self.map.address] = start
        states, _ = self.pool.rollout(self.mj, self.data, full, control)
        states = np.asarray(states)[:, self.substeps - 1 :: self.substeps]
        # After a warning MuJoCo resets or freezes the row; its clock then stands still or starts anew, which gives it away.
        clock = self.mj.opt.timestep * self.substeps * np.arange(1, horizon + 1)
        fine = np.logical_and.accumulate(np.abs(states[..., 0] - clock) < 0.5 * self.mj.opt.timestep, axis=1)
        return np.where(fine[..., None], states[..., 1 + self.map.address], np.nan)

    def rollout(self, start: torch.Tensor, actions: torch.Tensor) -> torch.Tensor:
        """The whole horizon in one call.

        Args:
            start: [S] or [N, S] states, SI units.
            actions: [N, H, A] commands, each held for `dt`.

        Returns:
            [1, N, H + 1, S] states in the dtype of `start`, the first being `start`; angles are not wrapped.
        """
        wanted_state, wanted_action = self.dims
        if actions.ndim != 3 or actions.shape[-1] != wanted_action or start.shape not in (
                (wanted_state,), (actions.shape[0], wanted_state)):
            raise UserError(f"models 'mujoco': rollout of start {list(start.shape)} and actions {list(actions.shape)}; wanted "
                            f"[{wanted_state}] or [N, {wanted_state}] and [N, H, {wanted_action}]")
        first = start.expand(len(actions), wanted_state)
        after = self._simulate(first.numpy().astype(np.float64), actions.numpy().astype(np.float64))
        return torch.cat((first[:, None], torch.from_numpy(after).to(start.dtype)), dim=1)[None]

    def step(self, state: torch.Tensor, action: torch.Tensor, rng: torch.Generator | None = None) -> Step:
        """See `Model.step`; state [1, N, S], action [N, A] or [1, N, A]; deterministic, so `rng` has no effect."""
        if state.ndim != 3 or len(state) != 1 or action.shape[-2:] != (state.shape[1], self.dims[1]):
            raise UserError(f"models 'mujoco': step of state {list(state.shape)} and action {list(action.shape)}; wanted "
                            f"[1, N, {self.dims[0]}] and [N, {self.dims[1]}]")
        return Step(self.rollout(state[0], action.reshape(state.shape[1], 1, self.dims[1]))[:, :, 1])

    def scale(self) -> torch.Tensor:
        """[S] ones: a single member never disagrees."""
        return torch.ones(self.dims[0])


def build(spec: RobotSpec, options: Options) -> MujocoModel:
    """The known model of a robot."""
    return MujocoModel(spec, options)
