"""What this package offers to the stack under the entry-point group `mbrl_control.plants`."""

from __future__ import annotations

from pathlib import Path

from mbrl_control.robot import RobotSpec
from mbrl_sim.dm import DmPlant
from mbrl_sim.plant import MujocoPlant


def mujoco(spec: RobotSpec, base: Path | None = None) -> MujocoPlant:
    """The robot's own MJCF."""
    return MujocoPlant(spec, base)


def suite(spec: RobotSpec, base: Path | None = None) -> DmPlant:
    """The control suite's cart-pole."""
    return DmPlant(spec)
