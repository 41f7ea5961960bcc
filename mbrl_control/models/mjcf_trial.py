"""Try an MJCF: compile it and take one step. Meant for a child process, so it imports MuJoCo and nothing else."""

from __future__ import annotations

from pathlib import Path

import mujoco


def trial(path: str) -> dict[str, int]:
    """Compile an MJCF (or URDF) file, lay out its data and take one step, which is where hostile models crash.

    Args:
        path: of the file, absolute.

    Returns:
        Bytes of the model (`model`) and of its data (`data`).

    Raises:
        ValueError: MuJoCo refuses the file.
    """
    model = mujoco.MjModel.from_xml_path(str(Path(path)))
    data = mujoco.MjData(model)
    mujoco.mj_step(model, data)
    return {"model": int(model.nbuffer), "data": int(model.narena)}
