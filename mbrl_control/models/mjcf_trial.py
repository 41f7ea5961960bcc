"""Try an MJCF: compile it and take one step. Meant for a child process, so it imports MuJoCo and nothing else."""

from __future__ import annotations

import contextlib
import re
from pathlib import Path

import mujoco


def peak_bytes() -> int:
    """The most memory that this process ever held; 0 on a system that does not tell.

    Not `resource.getrusage`: on Linux its figure begins with that of the process that started this one.
    """
    with contextlib.suppress(OSError):
        if found := re.search(r"VmHWM:\s*(\d+) kB", Path("/proc/self/status").read_text("utf-8")):
            return int(found[1]) << 10
    return 0


def trial(path: str) -> dict[str, int]:
    """Compile an MJCF (or URDF) file, lay out its data and take one step, which is where hostile models crash.

    Args:
        path: of the file, absolute.

    Returns:
        Bytes of the model (`model`) and of its data (`data`), and what compiling it took at its peak (`peak`; 0: not known).

    Raises:
        ValueError: MuJoCo refuses the file.
    """
    before = peak_bytes()
    model = mujoco.MjModel.from_xml_path(str(Path(path)))
    data = mujoco.MjData(model)
    mujoco.mj_step(model, data)
    return {"model": int(model.nbuffer), "data": int(model.narena), "peak": peak_bytes() - before}
