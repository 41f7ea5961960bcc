"""The picture of an excitation: commands, states and where they may be, spectra."""

from __future__ import annotations

from pathlib import Path

import matplotlib as mpl

mpl.use("Agg")

import numpy as np
from matplotlib import pyplot as plt
from matplotlib.axes import Axes

from mbrl_calibration.playing import Played
from mbrl_control.robot import RobotSpec, wrap_angle
from mbrl_control.runtime.course import Region

COLOURS = ("#1f6f8b", "#d1603d", "#6a8d3a", "#8a5a9e", "#b08900", "#4d4d4d", "#c0508f")


def _states(axes: Axes, spec: RobotSpec, played: Played, where: Region, shown: list[int]) -> None:
    for n, i in enumerate(shown):
        values, colour = played.state[:, i], COLOURS[n % len(COLOURS)]
        if spec.wraps[i]:
            values = wrap_angle(values)
            values[1:][np.abs(np.diff(values)) > np.pi] = np.nan
        axes.plot(played.time, values, color=colour, lw=1.0, label=f"{spec.state[i].name} [{spec.state[i].unit}]")
        for end in (where.low[i], where.high[i]):
            # Ends far away would make the motion a line.
            if np.isfinite(end) and abs(end) < 3 * np.nanmax(np.abs(values)):
                axes.axhline(end, color=colour, lw=0.8, ls=":")
    axes.legend(loc="upper right", fontsize=8, ncols=4)


def draw(spec: RobotSpec, played: Played, where: Region, path: Path, title: str) -> None:
    """Draw what was played and write it as PNG.

    Args:
        spec: the robot.
        played: on it.
        where: it may be, dotted where the motion comes near.
        path: of the picture.
        title: over it.
    """
    rates = [r for _, r in spec.rate_pairs][:7]
    places = [i for i in range(spec.state_dim) if i not in {r for _, r in spec.rate_pairs}][:7]
    figure, axes = plt.subplots(4, 1, figsize=(12, 11), layout="constrained")
    for i, signal in enumerate(spec.command[:7]):
        axes[0].plot(played.time, played.command[:, i], color=COLOURS[i % len(COLOURS)], lw=0.8, drawstyle="steps-post",
                     label=f"{signal.name} [{signal.unit}]")
        spectrum = np.abs(np.fft.rfft(played.command[:, i] - played.command[:, i].mean())) / len(played.time)
        axes[3].plot(np.fft.rfftfreq(len(played.time), spec.tick_s)[1:], spectrum[1:], ".-", ms=3, lw=0.5, color=COLOURS[i % len(COLOURS)])
    axes[0].legend(loc="upper right", fontsize=8, ncols=4)
    axes[0].set_ylabel("command")
    for one, shown, label in ((axes[1], places, "position"), (axes[2], rates, "rate")):
        if shown:
            _states(one, spec, played, where, shown)
        one.set_ylabel(label)
        one.set_xlabel("time [s]")
    axes[3].set_xscale("log")
    axes[3].set_xlabel("frequency [Hz]")
    axes[3].set_ylabel("amplitude of the command / 2")
    if played.stop is not None:
        for one in axes[:3]:
            one.axvline(played.stop.time, color="#b00020", lw=1.2)
    figure.suptitle(title, fontsize=12)
    figure.savefig(path, dpi=110)
    plt.close(figure)
