"""Grey-box identification of a robot's dynamics: regression for a start, shooting for the answer, figures on other runs."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace

import numpy as np

from mbrl_calibration import effort_sensors, free_run, regression, residuals, segments, shooting, zeros
from mbrl_calibration.effort_sensors import EffortSensor
from mbrl_calibration.estimate import Estimate
from mbrl_calibration.mechanism import Mechanism
from mbrl_calibration.runs import Run
from mbrl_calibration.signals import despike
from mbrl_control.errors import DataError

HORIZONS_S = (0.5, 2.0)
SEGMENTS_S = (0.5, 2.0)
"""Short segments find the way from a poor start, long ones tell masses from frictions."""

STEP_S = 0.01
"""About so long comparison steps are: a whole number of samples, so that nothing is read between them."""

NEAR, FROM_ZERO = 1e-3, 0.1

MOST_TOLD = 6
"""So many parameters that are not determined are told one by one."""

MOST_JOINTS = 3
"""With more of them free runs take too long to search through; inverse dynamics alone then gives the answer."""

Progress = Callable[[str, float], None]


def silent(_what: str, _share: float) -> None:
    """Nobody wants to know."""


@dataclass(frozen=True)
class Settings:
    """How to identify.

    Attributes:
        measured: drive the model with sensors' efforts where there are any, instead of commands.
        segments_s: lengths of segments, one fit after the other.
        horizons_s: lengths of the free runs that tell how good the result is.
        find_delays: whether the delays of commands are found with the parameters.
        known: names of lumped parameters that stay as they are.
        zero: how far the zeros of the positions may be from their true places in each run, one standard deviation, rad or m (see
            `segments.Settings`): a zero that is set where a joint comes to rest is off by as much as dry friction holds there. Runs to
            judge by then have zeros too: for efforts their motion alone tells them (`zeros.by_motion`), for free runs their first
            `zeros.FIRST_S`, and the rest is judged.
        substeps: integration steps in each comparison step, see `STEP_S`; half as many until the last length of segments. Where dry
            friction changes its sign within a step, a coarse one is off by more than the intervals of long, clean logs.
        progress: told what is done, and the share of the work before it.
    """

    measured: bool = True
    segments_s: tuple[float, ...] = SEGMENTS_S
    horizons_s: tuple[float, ...] = HORIZONS_S
    find_delays: bool = False
    known: tuple[str, ...] = ()
    zero: float = 0.0
    substeps: int = 8
    progress: Progress = silent


@dataclass(frozen=True)
class Score:
    """How good parameters are on some runs.

    Attributes:
        torque_rmse: of inverse dynamics, low-passed, coordinates pooled, N or N m.
        free_run_rmse: by horizon in s: positions in free runs, rad or m.
        runs: names of the runs.
        sensor_rmse: of what sensors of efforts show, of inverse dynamics too, where commands drive the model; N or N m.
    """

    torque_rmse: float
    free_run_rmse: dict[float, float]
    runs: tuple[str, ...]
    sensor_rmse: float | None = None


@dataclass(frozen=True)
class Identification:
    """What was found.

    Attributes:
        mechanism: whose parameters.
        estimate: by shooting, or with more than `MOST_JOINTS` joints by regression; delays that were found stand behind the parameters
            as `delay:<axis>`, s.
        regression: by least squares on inverse dynamics.
        delays: [A] time from command to effect, s; as given, or as found.
        zeros: [R, n] what was added to the positions of each run fitted to.
        measured: whether sensors' efforts drove the model.
        scores: on the runs fitted to (`fit`) and, where there are others, on these (`test`): by name of the parameters `nominal`
            (as they were), `regression` and `shooting`.
        whiteness: of the residuals of each coordinate, then of each rate; none without shooting.
        converged: whether the last search ended by itself.
        sensors: what the sensors of efforts show of the commands, as far as the runs fitted to tell.
        notes: what a user should know.
    """

    mechanism: Mechanism
    estimate: Estimate
    regression: Estimate
    delays: np.ndarray
    zeros: np.ndarray
    measured: bool
    scores: dict[str, dict[str, Score]]
    whiteness: tuple[residuals.Whiteness, ...]
    converged: bool
    sensors: tuple[EffortSensor, ...] = ()
    notes: tuple[str, ...] = field(default=())

    @property
    def values(self) -> np.ndarray:
        """[P] the mechanism's parameters."""
        return self.estimate.values[: len(self.mechanism.parameters)]


def without_spikes(run: Run) -> Run:
    """A run whose sensors' lone outliers are replaced by what is around them."""
    return replace(run, state=despike(run.state), measured=despike(run.measured))


def score(runs: Sequence[Run], m: Mechanism, values: np.ndarray, delays: np.ndarray, s: Settings,
          sensors: Sequence[EffortSensor] = ()) -> Score:
    """How good parameters [P] are on runs; sensors with what they show of the commands.

    Raises:
        DataError: the runs are too short.
    """
    return _score(runs, runs, m, values, delays, s, sensors)


def _score(runs: Sequence[Run], free: Sequence[Run], m: Mechanism, values: np.ndarray, delays: np.ndarray, s: Settings,
           sensors: Sequence[EffortSensor]) -> Score:
    """Efforts of some runs and free runs of others."""
    shown = effort_sensors.rmse(runs, m, values, delays, sensors) if sensors and not s.measured else None
    return Score(_torque(runs, m, values, delays, s), _free(free, m, values, delays, s), tuple(r.name for r in runs), shown)


def _torque(runs: Sequence[Run], m: Mechanism, values: np.ndarray, delays: np.ndarray, s: Settings) -> float:
    return regression.rmse([regression.rows(r, m, delays, s.measured, at=values) for r in runs], values)


def _free(runs: Sequence[Run], m: Mechanism, values: np.ndarray, delays: np.ndarray, s: Settings) -> dict[float, float]:
    if m.count > MOST_JOINTS:
        return {}
    longest = max(r.duration for r in runs)
    return {h: free_run.free_run(runs, m, values, delays, s.measured, h).rmse for h in s.horizons_s if h + 1.0 < longest}


def score_unseen(test: Sequence[Run], train: Sequence[Run], m: Mechanism, values: np.ndarray, delays: np.ndarray, s: Settings,
                 told: bool = True, sensors: Sequence[EffortSensor] = ()) -> Score:
    """How good parameters [P] are on runs that they were not fitted to; whatever the parameters, these have zeros of their own.

    Args:
        test: the runs.
        train: those fitted to, which tell what efforts' means are.
        m, values, delays, s: see `Score` and `Settings.zero`.
        told: whether the first seconds of a run tell its zeros for free runs; otherwise these start from positions as they are.
        sensors: what the sensors of efforts show of the commands.

    Raises:
        DataError: the runs are too short.
    """
    if s.zero == 0:
        return score(test, m, values, delays, s, sensors)
    mean = zeros.mean_efforts(train, m, values, delays, s.measured)
    moved = [zeros.moved(r, m, zeros.by_motion(r, m, values, s.zero, mean)) for r in test]
    later = [zeros.settled(r, m, values, delays, s.measured, s.zero) for r in test] if told else test
    return _score(moved, later, m, values, delays, s, sensors)


def identify(train: Sequence[Run], test: Sequence[Run], m: Mechanism, delays: np.ndarray, s: Settings) -> Identification:
    """Find a mechanism's parameters.

    Args:
        train: runs to fit to.
        test: runs to judge by; may be empty.
        m: the mechanism; its start values are judged too.
        delays: [A] time from command to effect, s.
        s: settings.

    Raises:
        DataError: the runs are too short.
    """
    s.progress("inverse dynamics", 0.0)
    train, test = ([without_spikes(r) for r in some] for some in (train, test))
    begun, unseen = regression.begin(train, m, delays, s.measured, s.known)
    first = regression.solve([regression.rows(r, begun, delays, s.measured) for r in train], begun, s.known)
    seen = replace(s, known=(*s.known, *unseen))
    found = _shoot(train, m, delays, first, seen) if m.count <= MOST_JOINTS else _Found(first, delays, np.zeros((0, m.count)), (), True)
    found = replace(found, estimate=_undetermined(found.estimate, m, unseen))
    s.progress("scores", 0.85)
    of = {"nominal": m.start, "regression": first.values, "shooting": found.estimate.values[: len(m.parameters)]}
    added = np.zeros((len(train), m.count))
    added[: len(found.zeros)] = found.zeros  # runs that are too short for a segment have none
    fitted = [zeros.moved(r, m, by) for r, by in zip(train, added, strict=True)]
    sensors = () if m.actuators else effort_sensors.relate(train, m, found.delays)
    scores = {"fit": {name: score(fitted, m, p, found.delays, s, sensors) for name, p in of.items()}}
    if test:
        scores["test"] = {name: score_unseen(test, train, m, p, found.delays, s, sensors=sensors) for name, p in of.items()}
    s.progress("done", 1.0)
    return Identification(m, found.estimate, first, found.delays, added, s.measured, scores, found.whiteness, found.converged,
                          sensors, _notes(found.estimate, found.whiteness))


@dataclass(frozen=True)
class _Found:
    """What the search came to; see `Identification`."""

    estimate: Estimate
    delays: np.ndarray
    zeros: np.ndarray
    whiteness: tuple[residuals.Whiteness, ...]
    converged: bool


def _shoot(train: Sequence[Run], m: Mechanism, delays: np.ndarray, first: Estimate, s: Settings) -> _Found:
    """Shooting with segments of each length, one after the other."""
    longest, period = max(r.duration for r in train), max(r.period for r in train)
    step_s = period * max(1, round(STEP_S / period))
    lengths = [g for g in s.segments_s if 2 * g <= longest]
    if not lengths:
        raise DataError(f"the longest run has {longest:.3g} s; at least {2 * min(s.segments_s):g} s are needed")
    values, late, estimate, shot = _away_from_bounds(first.values, m), delays.copy(), first, None
    for i, length in enumerate(lengths):
        s.progress(f"free runs of {length:g} s", 0.1 + 0.7 * i / len(lengths))
        last = i + 1 == len(lengths)  # those before it need only come near
        setting = segments.Settings(length, 1, step_s, s.substeps if last else max(1, s.substeps // 2), 2 if last else 1,
                                    delays=s.find_delays, known=s.known, zero=s.zero)
        shot = shooting.fit(segments.cut(train, m, late, s.measured, setting), m, values, setting)
        estimate, late = _with_delays(shot.estimate, late)
        values = _away_from_bounds(estimate.values[: len(m.parameters)], m)
    assert shot is not None
    white = tuple(residuals.whiteness(shot.residuals[..., i], step_s) for i in range(2 * m.count))
    return _Found(estimate, late, shot.zeros, white, shot.success)


def _with_delays(found: Estimate, given: np.ndarray) -> tuple[Estimate, np.ndarray]:
    """An estimate whose corrections to the delays are made delays, s, and [A] these; no delay is negative."""
    values, late = found.values.copy(), given.copy()
    for i, name in enumerate(found.names):
        if name.startswith("delay:"):
            axis = int(name.removeprefix("delay:"))
            values[i] = late[axis] = max(0.0, late[axis] + values[i])
    return replace(found, values=values), late


def _undetermined(found: Estimate, m: Mechanism, names: Sequence[str]) -> Estimate:
    """An estimate that says of these parameters, which were held, that it does not know them."""
    if not names:
        return found
    covariance, places = found.covariance.copy(), [found.names.index(name) for name in names]
    for place in places:
        covariance[place, place] = m.parameters[place].size ** 2
    return replace(found, covariance=covariance, held=tuple(i for i in found.held if i not in places))


def _away_from_bounds(values: np.ndarray, m: Mechanism) -> np.ndarray:
    """[P] values inside the bounds, where an interior-point search can begin: parameters of 0 by nature at a tenth of where they were."""
    low, high = m.bounds
    size = np.array([p.size for p in m.parameters])  # of terms that may be of quite another size than masses and friction
    inside = np.maximum(NEAR * np.abs(values[size == 0]).max(), np.where(low == 0, FROM_ZERO * np.abs(m.start), 0.0))
    inside = np.where(size > 0, FROM_ZERO * np.minimum(size, 0.5 * (high - low)), inside)
    return np.asarray(np.minimum(np.maximum(values, low + inside), high - inside))


def _notes(e: Estimate, white: Sequence[residuals.Whiteness]) -> tuple[str, ...]:
    """What a user should know, in sentences."""
    vague = e.vague()
    out = [f"'{name}' is not determined by these runs: {value:.3g} with a 95 % interval of ± {1.96 * std:.2g}"
           for name, value, std in zip(e.names, e.values, e.std, strict=True) if name in vague]
    if len(out) > MOST_TOLD:
        out = [f"{len(vague)} of {len(e.names)} parameters are not determined by these runs: {', '.join(vague)}"]
    out += [f"'{a}' and '{b}' are hardly told apart (correlation of the estimates {c:.3f}): take only their combination for known"
            for a, b, c in e.tied()]
    if not all(w.white for w in white):
        worst = max(white, key=lambda w: w.time_s)
        out.append(f"residuals are correlated over up to {worst.time_s:.2g} s: the equations leave something out, and the intervals count "
                   "correlated samples once")
    return tuple(out)
