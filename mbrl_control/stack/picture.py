"""The picture of a run: state and cost over time, model error over refits, plan latency."""

from __future__ import annotations

from pathlib import Path

import matplotlib as mpl

mpl.use("Agg")

import numpy as np
from matplotlib import pyplot as plt
from matplotlib.axes import Axes

from mbrl_control.robot import RobotSpec, wrap_angle
from mbrl_control.stack.run_log import RunLog
from mbrl_control.stack.success import holds

COLOURS = ("#1f6f8b", "#d1603d", "#6a8d3a", "#8a5a9e", "#b08900", "#4d4d4d", "#c0508f")
MOST_LINES = 3000


def _states(axes: Axes, spec: RobotSpec, log: RunLog, time: np.ndarray) -> None:
    state = np.array(log.state)
    shown = [i for i, s in enumerate(spec.state) if s.rate_of is None][:7]
    for n, i in enumerate(shown):
        values = wrap_angle(state[:, i]) if spec.wraps[i] else state[:, i].copy()
        if spec.wraps[i]:
            values[1:][np.abs(np.diff(values)) > np.pi] = np.nan
        axes.plot(time, values, color=COLOURS[n % len(COLOURS)], lw=1.2, label=f"{spec.state[i].name} [{spec.state[i].unit}]")
    good = holds(spec, state)
    axes.fill_between(time, 0, 1, where=list(good), transform=axes.get_xaxis_transform(), color="#6a8d3a", alpha=0.12, lw=0,
                      label="within the goal")
    axes.legend(loc="upper right", fontsize=8, ncols=min(4, len(shown) + 1))
    axes.set_ylabel("state")


def _commands(axes: Axes, spec: RobotSpec, log: RunLog, time: np.ndarray) -> None:
    command = np.array(log.command)
    for i, signal in enumerate(spec.command[:7]):
        axes.plot(time, command[:, i], color=COLOURS[i % len(COLOURS)], lw=0.8, drawstyle="steps-post",
                  label=f"{signal.name} [{signal.unit}]")
    axes.legend(loc="upper right", fontsize=8, ncols=4)
    axes.set_ylabel("command")


def moving_mean(values: np.ndarray, width: int) -> np.ndarray:
    """[T] mean over `width` of the values [T] around each, T not below it; at both ends over those that there are."""
    window = np.ones(width)
    return np.asarray(np.convolve(values, window, mode="same") / np.convolve(np.ones(len(values)), window, mode="same"))


def _cost(axes: Axes, spec: RobotSpec, log: RunLog, time: np.ndarray) -> None:
    cost = np.array(log.cost)
    width, thinned = max(1, round(0.5 * spec.rate_hz)), bool((np.array(log.ticks) > 1).any())
    smooth = moving_mean(cost, width) if len(cost) >= width else cost
    axes.plot(time, cost, color="#bbbbbb", lw=0.5)
    axes.plot(time, smooth, color=COLOURS[1], lw=1.4, label=f"stage cost (mean of {f'{width} rows' if thinned else '0.5 s'})")
    told = len(log.swaps) <= MOST_LINES
    for at, _ in log.swaps if told else ():
        axes.axvline(at, color=COLOURS[0], lw=0.4, alpha=0.5)
    axes.legend(loc="upper right", fontsize=8)
    axes.set_ylabel("cost")
    axes.set_xlabel("time [s]   (thin lines: a new model is used)" if told else "time [s]")


def _refits(axes: Axes, log: RunLog) -> None:
    for ok, colour, label in ((True, COLOURS[2], "published"), (False, COLOURS[1], "refused")):
        rows = [r for r in log.refits if bool(r.version) == ok and np.isfinite(r.score)]
        axes.plot([r.experience_s for r in rows], [r.score for r in rows], "o", ms=4, color=colour, label=label)
    axes.set_yscale("log")
    axes.set_xlabel("experience [s]")
    axes.set_ylabel("10-step error, held-out and newest data\n[typical one-step changes]")
    axes.set_title("model error over refits", fontsize=10)
    axes.legend(fontsize=8)


def _latency(axes: Axes, spec: RobotSpec, log: RunLog) -> None:
    latency = [1e3 * p.latency_s for p in log.plans]
    if latency:
        axes.hist(latency, bins=60, color=COLOURS[0])
        axes.axvline(1e3 / spec.plan_hz, color=COLOURS[1], lw=1.2, label="plan period")
        axes.legend(fontsize=8)
    axes.set_xlabel("plan latency [ms]")
    axes.set_ylabel("plans")
    axes.set_title(f"plan latency ({len(latency)} plans)", fontsize=10)


def draw(spec: RobotSpec, log: RunLog, path: Path, title: str) -> None:
    """Draw a run and write it as PNG.

    Args:
        spec: the robot.
        log: of the run.
        path: of the picture.
        title: over it.
    """
    time, planned = np.array(log.time), bool(log.plans or log.refits)  # nothing is planned where a course is played
    ratios = (1.5, 0.8, 0.9, 1.2)[: 3 + planned]
    figure = plt.figure(figsize=(12, 10 * sum(ratios) / 4.4), layout="constrained")
    grid = figure.add_gridspec(len(ratios), 2, height_ratios=ratios)
    top = figure.add_subplot(grid[0, :])
    middle, low = figure.add_subplot(grid[1, :], sharex=top), figure.add_subplot(grid[2, :], sharex=top)
    if len(time):
        _states(top, spec, log, time)
        _commands(middle, spec, log, time)
        _cost(low, spec, log, time)
    if planned:
        _refits(figure.add_subplot(grid[3, 0]), log)
        _latency(figure.add_subplot(grid[3, 1]), spec, log)
    figure.suptitle(title, fontsize=12)
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=110)
    plt.close(figure)
