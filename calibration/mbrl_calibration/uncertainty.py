"""How far a model's predictions can be trusted: intervals that hold what they say, from errors on runs that the model has not seen."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from mbrl_control.data.sequences import Sequences
from mbrl_control.errors import DataError, UserError
from mbrl_control.models.base import LearnedModel
from mbrl_control.planning import coverage as intervals
from mbrl_control.planning.coverage import PARTICLES, TINY, along, normal_width, normalised
from mbrl_control.robot import RobotSpec

LEVELS = np.array([0.05, 0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.68, 0.75, 0.8, 0.85, 0.9, 0.925, 0.95, 0.97, 0.98, 0.99])
"""Shares that intervals are fitted for; between them widths are interpolated."""
FEWEST = 20
RATIO = 1.3
"""Of neighbouring horizons that are fitted."""
BANDWIDTH = 0.25
"""Of the smoothing over horizons, in the logarithm of k."""


@dataclass(frozen=True)
class Recalibration:
    """A monotone map from the share of outcomes that an interval is to hold to its half width, for each signal and horizon.

    Attributes:
        signals: [S] names.
        levels: [L] shares, rising.
        steps: [H] horizons k in model steps, rising; between them widths are interpolated.
        width: [L, H, S] half widths in predicted standard deviations; they do not fall along L.
        independent: [H, S] how many independent outcomes the runs were worth: stretches overlap and follow one another.
        runs: how many runs it was fitted to; with one, how runs differ is not known and not in the widths.
    """

    signals: tuple[str, ...]
    levels: np.ndarray
    steps: np.ndarray
    width: np.ndarray
    independent: np.ndarray
    runs: int

    def half_widths(self, level: float, k: int) -> np.ndarray:
        """[S] half widths in predicted standard deviations; nan where the runs were too short to tell (see `highest`).

        Args:
            level: share that the interval is to hold.
            k: model steps ahead.

        Raises:
            UserError: a level or a horizon out of range.
        """
        last = int(self.steps[-1])
        if not 0 < level <= self.levels[-1]:
            raise UserError(f"level = {level:g}: intervals can hold more than 0 and at most {self.levels[-1]:g} of what happens")
        if not 1 <= k <= last:
            raise UserError(f"k = {k}: this recalibration was fitted for 1 to {last} model steps; fit it again with longer stretches")
        # Along the normal distribution's quantiles a Gaussian is a straight line through 0.
        known, asked = np.append(0.0, normal_width(self.levels)), normal_width(level)
        ahead = np.array([[np.interp(asked, known, np.append(0.0, column)) for column in rows.T] for rows in self.width.transpose(1, 0, 2)])
        here = np.exp(along(np.log(np.maximum(ahead, TINY)), self.steps, k))
        return np.where(level <= self.highest(k), here, np.nan)

    def highest(self, k: int) -> np.ndarray:
        """[S] the greatest level that n independent outcomes can tell, n / (n + 1): the next one exceeds them all once in n + 1 times."""
        count = along(self.independent, self.steps, k)
        return np.asarray(count / (count + 1))

    def factor(self, level: float, k: int, dim: int) -> float:
        """Half width, in predicted standard deviations, of the interval about the prediction of signal `dim` that holds `level`.

        Raises:
            UserError: a level or a horizon out of range, or more than the runs can tell.
        """
        found = float(self.half_widths(level, k)[dim])
        if np.isnan(found):
            most = float(self.highest(k)[dim])
            raise UserError(f"level = {level:g}: {k} steps ahead the runs were worth {most / (1 - most):.1f} independent outcomes of "
                            f"'{self.signals[dim]}', which tell levels up to {most:.3f}; record longer runs or more of them")
        return found

    def section(self) -> dict[str, Any]:
        """A robot's key `intervals` (see `mbrl_control.schema.IntervalsSpec`): widths for `mbrl_control.planning.coverage.LEVELS`, for
        horizons at which the runs can tell both, from 1 on without a gap.

        Raises:
            DataError: one step ahead they cannot.
        """
        each = [[self.half_widths(level, int(k)) for level in intervals.LEVELS] for k in self.steps]
        told = int(np.cumprod([np.isfinite(width).all() for width in each]).sum())
        if not told:
            raise DataError(f"one step ahead the runs were worth {float(self.independent[0].min()):.1f} independent outcomes, too few to "
                            f"tell what holds {100 * intervals.LEVELS[-1]:g} % of them; record longer runs or more of them")
        tables = ({name: [float(f"{max(width[i][s], TINY):.4g}") for width in each[:told]] for s, name in enumerate(self.signals)}
                  for i in range(len(intervals.LEVELS)))
        return {"steps": [int(k) for k in self.steps[:told]], **dict(zip(("width_68", "width_95"), tables, strict=True))}

    def to_json(self) -> dict[str, Any]:
        """Plain lists and numbers; see `from_json`."""
        arrays = {name: getattr(self, name).tolist() for name in ("levels", "steps", "width", "independent")}
        return {"signals": list(self.signals), "runs": self.runs, **arrays}

    @staticmethod
    def from_json(data: dict[str, Any]) -> Recalibration:
        """Back from `to_json`.

        Raises:
            DataError: it is something else.
        """
        try:
            levels, steps, width, count = (np.asarray(data[n], float) for n in ("levels", "steps", "width", "independent"))
            made = Recalibration(tuple(map(str, data["signals"])), levels, steps, width, count, int(data["runs"]))
        except (KeyError, TypeError, ValueError) as error:
            raise DataError(f"this is no recalibration ({error}); make one with mbrl calibrate uncertainty") from error
        shape = (len(made.levels), len(made.steps), len(made.signals))
        if made.width.shape != shape or made.independent.shape != shape[1:] or not all(map(_rising, (made.levels, made.steps))):
            raise DataError(f"this is no recalibration: widths have shape {made.width.shape}, and there are {shape} levels, horizons "
                            "(both of which must rise) and signals; make one with mbrl calibrate uncertainty")
        if not (np.isfinite(made.width).all() and (made.width >= 0).all() and (made.independent > 0).all()):
            raise DataError("this is no recalibration: widths and counts must be finite and not negative; make one with mbrl calibrate "
                            "uncertainty")
        return made


@dataclass(frozen=True)
class Coverage:
    """How much of what happened lay in intervals.

    Attributes:
        levels: [L] that they were to hold.
        steps: [H] model steps ahead.
        signals: [S] names.
        share: [L, H, S] that they held, mean over runs; nan where there is no interval.
        independent: [H, S] how many independent outcomes the runs were worth.
    """

    levels: np.ndarray
    steps: np.ndarray
    signals: tuple[str, ...]
    share: np.ndarray
    independent: np.ndarray

    def rows(self) -> dict[str, dict[str, dict[str, float]]]:
        """{k: {signal: {level: share}}}."""
        return {str(int(k)): {signal: {f"{level:g}": float(self.share[i, h, s]) for i, level in enumerate(self.levels)}
                              for s, signal in enumerate(self.signals)} for h, k in enumerate(self.steps)}

    def off(self) -> float:
        """The greatest distance between a share and its level."""
        return float(np.nanmax(np.abs(self.share - self.levels[:, None, None])))


Models = LearnedModel | Sequence[LearnedModel]


def fit(models: Models, sequences: Sequence[Sequences], spec: RobotSpec, rng: np.random.Generator,
        particles: int = PARTICLES) -> Recalibration:
    """Fit to runs that the model has not seen.

    Args:
        models: one for all runs, or one for each, which was fitted without that run (cross-fitting).
        sequences: stretches of each run, in the order of time, all of the same K.
        spec: of the robot.
        rng: source of the particles' noise.
        particles: paths per member and stretch.

    Raises:
        DataError: too little data.
    """
    return of_errors([normalised(m, s, spec, rng, particles) for m, s in _paired(models, sequences)], spec.state_names)


def coverage(models: Models, sequences: Sequence[Sequences], spec: RobotSpec, rng: np.random.Generator,
             recalibration: Recalibration | None = None, levels: Sequence[float] = (0.68, 0.95), steps: Sequence[int] = (1, 10, 50),
             particles: int = PARTICLES) -> Coverage:
    """How much of what happened lies in the intervals that a model predicts.

    Args:
        models: as for `fit`.
        sequences: as for `fit`; horizons beyond them are left out.
        spec: of the robot.
        rng: source of the particles' noise.
        recalibration: None for intervals of Gaussians with the predicted spread.
        levels: shares that the intervals are to hold.
        steps: horizons.
        particles: paths per member and stretch.
    """
    errors = [normalised(m, s, spec, rng, particles) for m, s in _paired(models, sequences)]
    return covered(errors, spec.state_names, recalibration, levels, steps)


def of_errors(errors: Sequence[np.ndarray], signals: tuple[str, ...]) -> Recalibration:
    """The recalibration for normalised errors of runs.

    It is the quantile map of Kuleshov et al. (2018, section 3), for intervals about the prediction, from quantiles of the errors' sizes
    with three changes. Every run counts alike, however long it is. The level is raised as in split conformal prediction (Lei et al. 2018)
    by (n + 1) / n for n independent outcomes. And widths that hold a level of the runs that they are fitted to hold less of a new run,
    since runs differ: they are widened by the factor with which widths fitted without a run hold the level of it, on average over runs
    (one factor per level and horizon for all signals). Along the horizon all is smoothed.

    Args:
        errors: [M, K, S] of each run, see `normalised`.
        signals: [S] names.

    Raises:
        DataError: a run has too few stretches, or they are not of one length.
    """
    _check(errors, signals)
    steps = horizons(errors[0].shape[1])
    sizes = [np.abs(e[:, steps - 1]) for e in errors]
    count = np.exp(_smooth(np.log(sum(independent(np.log(s + TINY)) for s in sizes)), steps))
    raised = np.minimum(LEVELS[:, None, None] * (count + 1) / count, 1.0)
    if len(sizes) == 1:
        width = _quantiles(sizes, raised)
    else:
        width = _quantiles(sizes, np.broadcast_to(LEVELS[:, None, None], raised.shape)) * _widening(sizes, raised.max(2))[:, :, None]
    smooth = np.exp(_smooth(np.log(np.maximum(width, TINY)).transpose(1, 0, 2), steps)).transpose(1, 0, 2)
    return Recalibration(signals, LEVELS, steps, np.maximum.accumulate(smooth, axis=0), count, len(errors))


def covered(errors: Sequence[np.ndarray], signals: tuple[str, ...], recalibration: Recalibration | None = None,
            levels: Sequence[float] = (0.68, 0.95), steps: Sequence[int] = (1, 10, 50)) -> Coverage:
    """How much of normalised errors [M, K, S] of runs lies in intervals; see `coverage`."""
    _check(errors, signals)
    kept = np.array([k for k in steps if k <= errors[0].shape[1]])
    sizes = [np.abs(e[:, kept - 1]) for e in errors]
    width = np.array([[np.full(len(signals), normal_width(level)) if recalibration is None else recalibration.half_widths(level, int(k))
                       for k in kept] for level in levels])
    share = np.mean([(s <= width[:, None]).mean(1) for s in sizes], axis=0)
    count = sum(independent(np.log(s + TINY)) for s in sizes)
    return Coverage(np.array(levels), kept, signals, np.where(np.isnan(width), np.nan, share), np.asarray(count))


def left_out(errors: Sequence[np.ndarray], signals: tuple[str, ...], levels: Sequence[float] = (0.68, 0.95),
             steps: Sequence[int] = (1, 10, 50)) -> Coverage:
    """Coverage of each run by a recalibration fitted to the others, mean over runs: what a new run may expect.

    Raises:
        DataError: there are not two runs.
    """
    if len(errors) < 2:
        raise DataError(f"{len(errors)} run: how well a recalibration carries over to another run needs at least 2; give more logs")
    each = [covered([e], signals, of_errors([o for o in errors if o is not e], signals), levels, steps) for e in errors]
    return Coverage(each[0].levels, each[0].steps, signals, np.mean([c.share for c in each], axis=0),
                    np.sum([c.independent for c in each], axis=0))


def independent(series: np.ndarray) -> np.ndarray:
    """[...] how many independent values each series [M, ...] is worth: M / tau, tau the sum of its autocorrelations over all lags, by the
    initial positive sequence (Geyer 1992, section 3.3); 1 for a series that never changes.
    """
    count = len(series)
    centred = series - series.mean(0)
    power = np.abs(np.fft.rfft(centred, 2 * count, axis=0)) ** 2
    moments = np.fft.irfft(power, axis=0)[: count - count % 2]
    still = np.ptp(series, axis=0) < TINY
    pairs = (moments[0::2] + moments[1::2]) / np.where(still, 1.0, moments[0])
    positive = np.logical_and.accumulate(pairs > 0, axis=0)
    tau = np.maximum(2 * (pairs * positive).sum(0) - 1, 1.0)
    return np.where(still, 1.0, count / tau)


def horizons(steps: int) -> np.ndarray:
    """[H] whole numbers from 1 to `steps`, growing by `RATIO` or one."""
    found = [1]
    while found[-1] < steps:
        found.append(min(steps, max(found[-1] + 1, round(found[-1] * RATIO))))
    return np.array(found)


def picture(before: Coverage, after: Coverage, path: Path, title: str = "") -> None:
    """Reliability plot as PNG: for each horizon, what intervals held over what they were to hold, before and after recalibration.

    Args:
        before, after: of the same signals and horizons, at many levels (such as `LEVELS`).
        path: of the picture.
        title: over it.
    """
    import matplotlib as mpl  # noqa: PLC0415  (slow to import)

    mpl.use("Agg")
    from matplotlib import pyplot as plt  # noqa: PLC0415

    figure, axes = plt.subplots(2, len(before.steps), figsize=(3.6 * len(before.steps), 7.2), layout="constrained", squeeze=False,
                                sharex=True, sharey=True)
    for row, (what, found) in enumerate((("as predicted", before), ("recalibrated", after))):
        for panel, k, share in zip(axes[row], found.steps, found.share.transpose(1, 2, 0), strict=True):
            panel.fill_between([0, 1], [-0.05, 0.95], [0.05, 1.05], color="#bbbbbb", alpha=0.4, lw=0)
            for name, line in zip(found.signals, share, strict=True):
                panel.plot(found.levels, line, marker=".", lw=1.2, label=name)
            panel.set(xlim=(0, 1), ylim=(0, 1), title=f"{what}, {int(k)} steps ahead", xlabel="share that was to be held")
        axes[row, 0].set_ylabel("share that was held (band: ± 0.05)")
    axes[0, 0].legend(fontsize=8)
    figure.suptitle(title)
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=110)
    plt.close(figure)


def _paired(models: Models, sequences: Sequence[Sequences]) -> list[tuple[LearnedModel, Sequences]]:
    each = list(models) if isinstance(models, Sequence) else [models] * len(sequences)
    return list(zip(each, sequences, strict=True))


def _check(errors: Sequence[np.ndarray], signals: tuple[str, ...]) -> None:
    if not errors:
        raise DataError("there is no run to judge predictions by; give logs that the model was not fitted to")
    for i, error in enumerate(errors):
        if len(error) < FEWEST:
            raise DataError(f"run {i + 1}: {len(error)} stretches are too few to judge predictions by; at least {FEWEST} are needed: "
                            "record longer, or ask for shorter horizons")
        if error.shape[1:] != (errors[0].shape[1], len(signals)):
            raise DataError(f"run {i + 1}: errors of shape {error.shape}; all runs must have {errors[0].shape[1]} horizons and "
                            f"{len(signals)} signals")
        if not np.isfinite(error).all():
            raise DataError(f"run {i + 1}: predictions that are not finite; the model diverges, fit it again")


def _rising(values: np.ndarray) -> bool:
    return bool(len(values) and (np.diff(values) > 0).all())


def _smooth(rows: np.ndarray, steps: np.ndarray) -> np.ndarray:
    """[H, ...] means of rows over neighbouring horizons, about their straight line in log k: without it, ends would lean inwards."""
    at = np.log(steps) - np.log(steps).mean()
    line = np.multiply.outer(at, np.tensordot(at, rows, 1) / max(at @ at, TINY))
    weight = np.exp(-0.5 * ((at[:, None] - at[None]) / BANDWIDTH) ** 2)
    return np.asarray(line + np.tensordot(weight / weight.sum(1, keepdims=True), rows - line, 1))


def _quantile(values: np.ndarray, weight: np.ndarray, level: float | np.ndarray) -> np.ndarray:
    """Quantiles of weighted values [N] (weights sum to 1), linear between the middles of their steps."""
    order = np.argsort(values)
    share = np.cumsum(weight[order]) - 0.5 * weight[order]
    return np.asarray(np.interp(level, share, values[order]))


def _weights(sizes: Sequence[np.ndarray]) -> np.ndarray:
    """[N] one weight per value of all runs, each run's sum alike."""
    return np.concatenate([np.full(len(s), 1 / (len(s) * len(sizes))) for s in sizes])


def _quantiles(sizes: Sequence[np.ndarray], levels: np.ndarray) -> np.ndarray:
    """[L, H, S] quantiles of the runs' sizes [M, H, S] at levels [L, H, S], all runs alike."""
    weight, together = _weights(sizes), np.concatenate(sizes)
    out = np.empty(levels.shape)
    for h, s in np.ndindex(levels.shape[1:]):
        out[:, h, s] = _quantile(together[:, h, s], weight, levels[:, h, s])
    return out


def _widening(sizes: Sequence[np.ndarray], levels: np.ndarray) -> np.ndarray:
    """[L, H] factors by which widths fitted without a run must be widened to hold the (raised) levels [L, H] of it, on average."""
    plain = np.broadcast_to(LEVELS[:, None, None], (len(LEVELS), *sizes[0].shape[1:]))
    without = [np.maximum(_quantiles([o for o in sizes if o is not s], plain), TINY) for s in sizes]
    weight = np.concatenate([np.full(s[:, 0].size, 1 / (s[:, 0].size * len(sizes))) for s in sizes])
    out = np.empty(levels.shape)
    for i, h in np.ndindex(levels.shape):
        ratio = np.concatenate([(s[:, h] / w[i, h]).ravel() for s, w in zip(sizes, without, strict=True)])
        out[i, h] = _quantile(ratio, weight, levels[i, h])
    return out
