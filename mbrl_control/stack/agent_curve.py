"""What a run of an agent leaves behind: its result row, and the picture of its curve."""

from __future__ import annotations

import platform
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import matplotlib as mpl

mpl.use("Agg")

import numpy as np
from matplotlib import pyplot as plt

from mbrl_control.stack.agent_checkpoint import Progress
from mbrl_control.stack.picture import COLOURS
from mbrl_control.stack.report import machine

PACKAGES = ("mbrl_control", "torch", "numpy", "gymnasium", "dm_control", "mujoco")


def versions() -> dict[str, str]:
    """Of Python and of the packages that decide about results, as far as they are installed."""
    found = {"python": platform.python_version()}
    for name in PACKAGES:
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            continue
    return found


def result(identity: dict[str, Any], progress: Progress, command: str, threads: int) -> dict[str, Any]:
    """The result row of a run: `agent`, `task`, `seed`, `steps`, `eval_returns` as [step, mean, standard deviation], `wall_s`; and how."""
    return {**{key: identity[key] for key in ("agent", "task", "seed")}, "steps": progress.steps,
            "eval_returns": [list(row) for row in progress.rows], "wall_s": progress.wall_s,
            "options": identity["options"], "repeat": identity["repeat"], "episodes": progress.episodes, "command": command,
            "machine": {**machine(), "threads": threads}, "versions": versions()}


def draw(row: dict[str, Any], path: Path) -> None:
    """Draw the curve of a result row and write it as PNG.

    Args:
        row: see `result`.
        path: of the picture.
    """
    figure, axes = plt.subplots(figsize=(8, 4.5), layout="constrained")
    if row["eval_returns"]:
        step, mean, deviation = np.array(row["eval_returns"], float).T
        axes.fill_between(step, mean - deviation, mean + deviation, color=COLOURS[0], alpha=0.2, lw=0)
        axes.plot(step, mean, "o-", ms=3, color=COLOURS[0], label="mean and standard deviation of the episodes")
        axes.legend(loc="lower right", fontsize=8)
    axes.set_xlabel("environment steps")
    axes.set_ylabel("evaluation return")
    axes.set_title(f"{row['agent']} on {row['task']}, seed {row['seed']}, {row['wall_s']:.0f} s", fontsize=10)
    axes.grid(alpha=0.3)
    figure.savefig(path, dpi=110)
    plt.close(figure)
