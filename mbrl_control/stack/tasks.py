"""Tasks by name, from whatever packages are installed (entry-point group `mbrl_control.tasks`)."""

from __future__ import annotations

from importlib.metadata import entry_points
from typing import Any

from mbrl_control.agents.base import Task
from mbrl_control.errors import UserError

GROUP, USUAL = "mbrl_control.tasks", "gymnasium"


def make(name: str, repeat: int = 1) -> Task:
    """A task.

    Args:
        name: `Pendulum-v1` (gymnasium's), or with the family before a colon: `dmc:cartpole-swingup`, `dmc:cartpole-swingup@pixels`.
        repeat: environment steps that each decision lasts.

    Raises:
        UserError: no such family or task, or it cannot be had here.
    """
    found = {e.name: e for e in entry_points(group=GROUP)}
    family, colon, rest = name.partition(":")
    if not colon or family not in found:
        family, rest = USUAL, name
    if family not in found:
        raise UserError(f"task '{name}': no family of tasks '{family}' is installed (installed: {', '.join(sorted(found)) or 'none'}); "
                        "install the package that has it, or install this one again if it is newer than its installation")
    factory: Any = found[family].load()
    task: Task = factory(rest, name, repeat)
    return task
