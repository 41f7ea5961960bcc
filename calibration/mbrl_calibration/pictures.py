"""Pictures of a calibration: free runs beside the measured ones, efforts, parameters with intervals, what is left over."""

from __future__ import annotations

import base64
import io
from collections.abc import Mapping, Sequence

import numpy as np
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from mbrl_calibration import free_run, regression
from mbrl_calibration.dynamics import Identification
from mbrl_calibration.runs import Run

WINDOW_S = 2.0
SHOWN_S = 10.0
COLOURS = {"nominal": "#c44e52", "shooting": "#2a6fbb", "regression": "#8a8a8a"}
TITLES = {"nominal": "before", "shooting": "calibrated", "regression": "by regression alone"}


def png(figure: Figure) -> str:
    """A figure as text for a page's `src`."""
    buffer = io.BytesIO()
    FigureCanvasAgg(figure)
    figure.savefig(buffer, format="png")
    return "data:image/png;base64," + base64.b64encode(buffer.getvalue()).decode()


def free_runs(run: Run, found: Identification, names: Sequence[str]) -> Figure:
    """Positions measured, and simulated anew from the measured state every `WINDOW_S`."""
    m, figure = found.mechanism, Figure(figsize=(10, 2.4 * found.mechanism.count), layout="constrained")
    axes = figure.subplots(m.count, 1, squeeze=False, sharex=True)[:, 0]
    starts = np.arange(run.time[0] + 0.1, min(run.time[-1], run.time[0] + SHOWN_S) - WINDOW_S, WINDOW_S)
    steps = round(WINDOW_S / free_run.STEP_S)
    for label, values in (("nominal", m.start), ("shooting", found.values)):
        simulated, _ = free_run.simulate(run, m, values, found.delays, found.measured, starts, steps)
        for g, start in enumerate(starts):
            for i, axis in enumerate(axes):
                axis.plot(start - run.time[0] + free_run.STEP_S * np.arange(steps + 1), simulated[g, :, i], color=COLOURS[label], lw=1.2,
                          label=TITLES[label] if g == 0 else None)
    shown = run.time - run.time[0] <= SHOWN_S  # a joint may turn far from there later
    for i, axis in enumerate(axes):
        measured = run.state[shown, m.positions[i]]
        axis.plot(run.time[shown] - run.time[0], measured, "k--", lw=0.8, label="measured")
        reach = np.ptp(measured) or 1.0
        axis.set_ylim(measured.min() - 0.4 * reach, measured.max() + 0.4 * reach)
        axis.set_ylabel(names[m.positions[i]])
    axes[0].legend(loc="upper right", ncols=3, fontsize=8)
    axes[0].set_title(f"{run.name}: simulated anew every {WINDOW_S:g} s", fontsize=10)
    axes[-1].set_xlim(0, min(SHOWN_S, run.duration))
    axes[-1].set_xlabel("s")
    return figure


def efforts(run: Run, found: Identification, names: Sequence[str]) -> Figure:
    """Efforts by inverse dynamics beside those applied, low-passed."""
    m, figure = found.mechanism, Figure(figsize=(10, 2.2 * found.mechanism.count), layout="constrained")
    axes = figure.subplots(m.count, 1, squeeze=False, sharex=True)[:, 0]
    rows = regression.rows(run, m, found.delays, found.measured, at=found.values)
    time = regression.EDGE_S + rows.period * np.arange(len(rows.target))
    for i, axis in enumerate(axes):
        for label, values in (("nominal", m.start), ("shooting", found.values)):
            axis.plot(time, rows.matrix[:, i] @ values, color=COLOURS[label], lw=1.0, label=TITLES[label])
        axis.plot(time, rows.target[:, i], "k--", lw=0.8, label="applied")
        axis.set_ylabel(f"effort on {names[m.positions[i]]}")
        axis.set_xlim(time[0], min(time[-1], SHOWN_S))
    axes[0].legend(loc="upper right", ncols=3, fontsize=8)
    axes[-1].set_xlabel("s")
    return figure


def parameters(found: Identification) -> Figure:
    """Each parameter with its interval, over its value; what it was before."""
    e, count = found.estimate, len(found.mechanism.parameters)
    low, high = e.interval()
    figure = Figure(figsize=(10, 0.7 + 0.32 * count), layout="constrained")
    axis = figure.subplots()
    before = found.mechanism.start
    scale = np.where(np.abs(e.values[:count]) > 0, np.abs(e.values[:count]), 1.0)
    place = np.arange(count)
    axis.errorbar(e.values[:count] / scale, place, xerr=np.stack([e.values - low, high - e.values])[:, :count] / scale, fmt="o",
                  color=COLOURS["shooting"], capsize=3, label="found, 95 %")
    axis.plot(before / scale, place, "x", color=COLOURS["nominal"], label="before")
    axis.set_yticks(place, e.names[:count])
    axis.set_xlim(-1, 3)
    axis.invert_yaxis()
    axis.set_xlabel("over the value found")
    axis.legend(fontsize=8)
    return figure


def left_over(found: Identification, names: Sequence[str]) -> Figure:
    """How correlated the residuals of each signal are along time."""
    m, figure = found.mechanism, Figure(figsize=(10, 2.6), layout="constrained")
    axis = figure.subplots()
    for white, index in zip(found.whiteness, np.concatenate((m.positions, m.rates)), strict=True):
        axis.plot(10 * np.arange(1, len(white.correlation) + 1), white.correlation, label=names[index])
    axis.axhline(0, color="k", lw=0.6)
    axis.set_xlabel("lag, ms")
    axis.set_ylabel("correlation of residuals")
    axis.legend(fontsize=8)
    return figure


def of_dynamics(found: Identification, run: Run, names: Sequence[str]) -> Mapping[str, str]:
    """All pictures of an identification by title, as text for a page; without shooting there are no free runs."""
    always = {"Efforts": png(efforts(run, found, names)), "Parameters": png(parameters(found))}
    if not found.whiteness:
        return always
    if run.duration < WINDOW_S + 0.2:  # too short for a free run
        return {**always, "What is left over": png(left_over(found, names))}
    return {"Free runs": png(free_runs(run, found, names)), **always, "What is left over": png(left_over(found, names))}
