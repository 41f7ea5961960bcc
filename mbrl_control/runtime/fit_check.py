"""Whether a planner can keep its rate on this machine, and what would fit if it cannot; asked before anything moves. No torch."""

from __future__ import annotations

import itertools
import json
import math
import subprocess
import sys
from collections.abc import Callable
from dataclasses import asdict, dataclass, field

from mbrl_control.errors import UserError
from mbrl_control.priority import cores_for
from mbrl_control.robot import RobotSpec
from mbrl_control.runtime.process_link import child_environment

BUDGET_SHARE = 0.8
"""Share of the plan period that a plan may take; the rest is for the way there and back. One iteration may take up to a whole period: that
is told, as such plans are late, but by less than a period, in which the one before is played."""

CHILD_S = 90.0
ERROR = "error: "
LEAST_CANDIDATES = 16
LEAST_HORIZON, USUAL_HORIZON = 2, 20
LARGE_CELLS = 100_000
LARGE_PRODUCTS = 20_000_000_000
HOPELESS = 5.0
ROUNDS = 6
CLOSE = 0.03

Measure = Callable[[RobotSpec, int], float]
"""Seconds that a plan of so many iterations takes: the median of a handful. Raises UserError for a planner that cannot be built."""


@dataclass(frozen=True)
class Fit:
    """What a planner takes on this machine, beside what it may take.

    Attributes:
        kind: the planner.
        plan_hz: plans per second that are asked for.
        iterations: of a whole plan.
        allowed_s: time that a plan may take, s.
        one_s: what a plan of one iteration takes, s.
        whole_s: what a plan of all iterations takes, s.
        most: settings, each with the greatest value at which a whole plan was measured to fit when nothing else is changed.
        scaled: the times are too long to be measured: they were measured with fewer candidates and scaled.
    """

    kind: str
    plan_hz: float
    iterations: int
    allowed_s: float
    one_s: float
    whole_s: float
    most: dict[str, float | list[int]] = field(default_factory=dict)
    scaled: bool = False

    @property
    def whole_fits(self) -> bool:
        """A plan can do all its iterations."""
        return self.whole_s <= self.allowed_s

    @property
    def one_fits(self) -> bool:
        """A plan can do one iteration: without that no plan is ever on time."""
        return self.one_s <= self.allowed_s

    @property
    def keeps_up(self) -> bool:
        """Plans of one iteration come as fast as they are asked for, on time or late by less than a period."""
        return self.one_s * self.plan_hz <= 1

    def sentence(self, anytime: bool = True) -> str:
        """The figures in words, with what would fit; `anytime`: see `demand`."""
        about = "about " if self.scaled else ""
        allowed = f"{_ms(self.allowed_s)} are allowed ({BUDGET_SHARE:g} of the period of {self.plan_hz:g} plans per second)"
        whole = f"a plan of {self.iterations} iterations takes {about}{_ms(self.whole_s)} on this machine"
        if self.whole_fits:
            return f"planner '{self.kind}': {whole}, {allowed}"
        if self.one_fits:
            return f"planner '{self.kind}': {whole}, {allowed}: plans will {'stop early' if anytime else 'be late'}; {self._remedy()}"
        one = f"one iteration takes {about}{_ms(self.one_s)} on this machine"
        if self.keeps_up and anytime:
            return f"planner '{self.kind}': {one}, {allowed}: plans will stop after it and many will be late; {self._remedy()}"
        return f"planner '{self.kind}' cannot keep its rate: {one}, {allowed}; {self._remedy()}"

    def _remedy(self) -> str:
        if not self.most:
            return "no smaller number of candidates, horizon, rate or network was found to fit"
        return "a whole plan fits with " + ", or with ".join(
            f"{name} = {value if isinstance(value, list) else format(value, 'g')}" for name, value in self.most.items())

    def demand(self, anytime: bool = True) -> str | None:
        """None when a whole plan fits, a sentence of warning when only a part of it does, or one iteration takes most of a period.

        Args:
            anytime: plans end early when their time is up; otherwise every one must do all its iterations.

        Raises:
            UserError: one iteration takes longer than a period, or not all of them fit when all must.
        """
        if not (self.keeps_up if anytime else self.whole_fits):
            raise UserError(self.sentence(anytime))
        return None if self.whole_fits else self.sentence()


def _ms(seconds: float) -> str:
    return f"{1e3 * seconds:.3g} ms" if seconds < 1 else f"{seconds:.3g} s"


def assess(spec: RobotSpec, measure: Measure) -> Fit:
    """Measure a robot's planner and, where it does not fit, look for the greatest settings that do.

    Args:
        spec: the robot.
        measure: see `Measure`.

    Raises:
        UserError: the planner cannot be built.
    """
    planner, allowed = spec.planner, BUDGET_SHARE / spec.plan_hz
    scaled, one, whole = _too_large(spec, measure, allowed), 0.0, 0.0
    if scaled:
        one, whole = scaled, planner.iterations * scaled
    else:
        whole = _calmly(measure, spec, planner.iterations, allowed)
        one = whole if planner.iterations == 1 else min(whole, _calmly(measure, spec, 1, allowed))
    most = {} if whole <= allowed else _most(spec, measure, allowed, one, whole, bool(scaled))
    return Fit(planner.kind, spec.plan_hz, planner.iterations, allowed, one, whole, most, bool(scaled))


def _calmly(measure: Measure, spec: RobotSpec, iterations: int, allowed: float) -> float:
    """A machine that is busy for a moment is no reason to refuse: what seems too slow is measured once more."""
    first = measure(spec, iterations)
    return first if first <= allowed else min(first, measure(spec, iterations))


def _measurable(spec: RobotSpec) -> int:
    """Candidates with which an iteration is over soon and in little memory, whatever the robot's YAML asks for."""
    sizes = [spec.state_dim + spec.action_dim, *spec.model.hidden, 2 * spec.state_dim]
    products = spec.planner.horizon * spec.model.members * sum(a * b for a, b in itertools.pairwise(sizes))
    return max(2, min(spec.planner.candidates, LARGE_CELLS // spec.planner.horizon, LARGE_PRODUCTS // products))


def _too_large(spec: RobotSpec, measure: Measure, allowed: float) -> float:
    """Seconds of an iteration, scaled up, of a planner that is hopelessly too large to be tried as it is; 0 for one that is not."""
    few = _measurable(spec)
    if few == spec.planner.candidates:
        return 0.0
    seconds = measure(planner_with(spec, candidates=few), 1) * spec.planner.candidates / few
    return seconds if seconds > HOPELESS * allowed else 0.0


def planner_with(spec: RobotSpec, **settings: int) -> RobotSpec:
    """The robot with other settings of its planner."""
    return spec.model_copy(update={"planner": spec.planner.model_copy(update=settings)})


def _most(spec: RobotSpec, measure: Measure, allowed: float, one: float, whole: float, scaled: bool) -> dict[str, float | list[int]]:
    """See `Fit.most`. One setting at a time; where none of them is enough, the layers, then horizon and candidates together."""
    planner, out = spec.planner, dict[str, float | list[int]]()
    for setting, least in (("candidates", LEAST_CANDIDATES), ("horizon", max(LEAST_HORIZON, planner.knots or 0))):
        found = _least_changed(spec, measure, setting, least, whole, allowed, scaled)
        if found is not None:
            out[setting] = found
    if one <= allowed:
        out["iterations"] = greatest(lambda k: one if k == 1 else measure(spec, k), 1, planner.iterations, whole, allowed) or 1
    rate = None if scaled else _rate(spec, whole)
    if rate is not None:
        out["plan_hz"] = rate
    if not {"candidates", "horizon"} & set(out) and (hidden := _hidden(spec, measure, allowed, whole)):
        out["model.hidden"] = hidden
    if not out and planner.horizon > USUAL_HORIZON:
        nearer = planner_with(spec, horizon=max(USUAL_HORIZON, planner.knots or 0))
        found = _least_changed(nearer, measure, "candidates", LEAST_CANDIDATES, whole * USUAL_HORIZON / planner.horizon, allowed, scaled)
        if found is not None:
            out["[horizon, candidates]"] = [nearer.planner.horizon, found]
    return out


def _least_changed(spec: RobotSpec, measure: Measure, setting: str, least: int, whole: float, allowed: float, scaled: bool) -> int | None:
    """The greatest value of one of the planner's settings, none below `least`, at which a whole plan fits."""
    def at(value: int) -> float:
        smaller = planner_with(spec, **{setting: value})
        if scaled and _measurable(smaller) < smaller.planner.candidates:
            return math.inf
        try:
            return measure(smaller, spec.planner.iterations)
        except UserError:  # fewer than its options allow
            return math.inf

    return greatest(at, least, getattr(spec.planner, setting), whole, allowed)


def greatest(seconds_at: Callable[[int], float], low: int, high: int, high_s: float, allowed: float) -> int | None:
    """The greatest whole number, measured to fit, between one and another that is known not to.

    Goes by the straight line between what fits and what does not, as times are very nearly straight in all settings.

    Args:
        seconds_at: measures.
        low: the least to consider.
        high: does not fit.
        high_s: what it takes.
        allowed: what it may take.

    Returns:
        None when not even `low` fits.
    """
    if low >= high or (low_s := seconds_at(low)) > allowed:
        return None
    for _ in range(ROUNDS):
        gain = int((high - low) * (allowed - low_s) / (high_s - low_s) + 1e-9)
        if gain <= CLOSE * low:
            break
        guess = min(low + gain, high - 1)
        seconds = seconds_at(guess)
        if seconds <= allowed:
            low, low_s = guess, seconds
        else:
            high, high_s = guess, seconds
    return low


def _rate(spec: RobotSpec, whole: float) -> float | None:
    """The greatest plan_hz at which a whole plan fits; None when plans would be too old by then to be of use."""
    ticks = math.ceil(whole * spec.rate_hz / BUDGET_SHARE - 1e-9)
    if ticks * spec.tick_s > 0.5 * spec.planner.horizon * spec.model_dt:
        return None
    return math.floor(100 * spec.rate_hz / ticks + 1e-9) / 100


def _hidden(spec: RobotSpec, measure: Measure, allowed: float, whole: float) -> list[int]:
    """Layers, halved in width until a whole plan fits; empty when none does."""
    hidden, guess = list(spec.model.hidden), whole
    while max(hidden) > 1:
        hidden, guess = [max(1, h // 2) for h in hidden], guess / 4
        if guess > HOPELESS * allowed:  # not worth the time: the products are a quarter at each step
            continue
        smaller = spec.model_copy(update={"model": spec.model.model_copy(update={"hidden": hidden})})
        if _measurable(smaller) == spec.planner.candidates and measure(smaller, spec.planner.iterations) <= allowed:
            return hidden
    return []


def to_json(fit: Fit) -> str:
    """One line, for `from_json`."""
    return json.dumps(asdict(fit))


def from_json(line: str) -> Fit:
    """The reverse of `to_json`.

    Raises:
        ValueError: it is none.
    """
    try:
        return Fit(**json.loads(line))
    except TypeError as error:
        raise ValueError(str(error)) from error


def assess_in_child(robot: str) -> Fit:
    """`assess` in a process of its own, on the planner's core: for a tick, which must not import torch.

    Args:
        robot: name or path of the robot's YAML.

    Raises:
        UserError: the planner cannot be built or cannot be timed.
    """
    command = [sys.executable, "-m", "mbrl_control.runtime.plan_timer", "--robot", robot, "--cores", *map(str, cores_for("planner"))]
    try:
        done = subprocess.run(command, env=child_environment(), stdin=subprocess.DEVNULL, capture_output=True, text=True, check=False,
                              timeout=CHILD_S, start_new_session=True)
    except subprocess.TimeoutExpired as error:
        raise UserError(f"timing the planner of '{robot}' was not over after {CHILD_S:g} s: it is far too large for this machine; "
                        "take fewer candidates, a shorter horizon or a smaller model") from error
    if done.returncode == 0:
        return from_json(done.stdout.splitlines()[-1])
    if done.returncode < 0:
        raise UserError(f"timing the planner of '{robot}' was ended by signal {-done.returncode}: if that was for want of memory, "
                        "take fewer candidates, a shorter horizon or a smaller model")
    said = done.stderr.strip()
    raise UserError(said.split(ERROR)[-1] if ERROR in said else f"the planner of '{robot}' cannot be built: {said.splitlines()[-1:]}")
