"""Plants by name, from whatever packages are installed (entry-point group `mbrl_control.plants`)."""

from __future__ import annotations

from importlib.metadata import entry_points
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mbrl_control.errors import UserError
from mbrl_control.robot import RobotSpec

if TYPE_CHECKING:  # it imports torch, which a tick that drives a plant must not
    from mbrl_control.stack.lockstep import Plant

GROUP = "mbrl_control.plants"


def make(name: str, spec: RobotSpec, base: Path | None = None) -> Plant:
    """A plant.

    Args:
        name: as registered, e.g. `mujoco` (the robot's own MJCF) or `suite` (the control suite's).
        spec: the robot.
        base: folder that the robot's files are relative to.

    Raises:
        UserError: no such plant, or it cannot serve this robot.
    """
    found = {e.name: e for e in entry_points(group=GROUP)}
    if name not in found:
        raise UserError(f"plant '{name}' is not installed (installed: {', '.join(sorted(found)) or 'none'}); "
                        "install the package that has it")
    factory: Any = found[name].load()
    plant: Plant = factory(spec, base)
    return plant
