"""Designs motions that tell most about a robot and stay where it may be."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np

from mbrl_calibration import fourier
from mbrl_calibration import multisine as sines
from mbrl_calibration.information import Information, information
from mbrl_calibration.mechanism import Mechanism
from mbrl_calibration.nominal_plant import NominalPlant
from mbrl_calibration.playing import Plant, Played, play, region
from mbrl_control.errors import UserError
from mbrl_control.robot import RobotSpec, wrap_angle
from mbrl_control.runtime.course import Course, Region
from mbrl_control.runtime.safety import SafetyFilter

Kind = Literal["multisine", "fourier"]
SCALES = (1.0, 0.8, 0.64, 0.5, 0.4, 0.3, 0.2, 0.13, 0.08, 0.05)
SOFT_HZ = (0.0, 0.3, 0.8)
"""Stiffness of the feedback, tried in turn: what a joint with nothing but it would swing with."""
DAMPING = 0.7
MOST_LIMITED = 0.02
"""Share of the ticks at which the safety filter may cut a command: what is played is to be what was designed."""
SHARE = 0.9
"""Share of where the robot may be, and of its commands, that a design uses: the model is not the robot."""


@dataclass(frozen=True)
class Figures:
    """What is known of a design before it is played.

    Attributes:
        kind: multisine or fourier.
        scale: amplitude as a share of what the commands' limits allow.
        soft_hz: stiffness of the feedback; 0: open loop.
        band_hz: lowest and highest frequency of the commands, or of the reference.
        crest: [A] crest factor of each command, as played.
        limited: share of the ticks at which the safety filter changes a command.
        command_margin: [A] share of each command's half range that is never used.
        state_margin: [S] the same of where the state may be; nan without ends or prediction.
        information: of the predicted motion; None without a mechanism.
    """

    kind: Kind
    scale: float
    soft_hz: float
    band_hz: tuple[float, float]
    crest: np.ndarray
    limited: float
    command_margin: np.ndarray
    state_margin: np.ndarray
    information: Information | None


@dataclass(frozen=True)
class Excitation:
    """A design.

    Attributes:
        time: [T] s.
        course: commands and feedback, to be played by `mbrl_calibration.playing.play` from `start`.
        start: [S] state that it begins in.
        predicted: how the nominal model says that it goes; None where there is none.
        figures: what is known of it.
    """

    time: np.ndarray
    course: Course
    start: np.ndarray
    predicted: Played | None
    figures: Figures


def centre(spec: RobotSpec) -> tuple[np.ndarray, np.ndarray]:
    """[A] the command around which it is excited, and [A] the greatest amplitude: `zero`, or the middle where that lies at an end."""
    low, high, zero = spec.action_low, spec.action_high, spec.action_zero
    room = np.minimum(high - zero, zero - low)
    at_end = room < 0.25 * (high - low) / 2
    return np.where(at_end, (low + high) / 2, zero), np.where(at_end, (high - low) / 2, room)


def authority(spec: RobotSpec, plant: Plant, start: np.ndarray) -> np.ndarray:
    """[A] acceleration of the joint that each effort drives, per unit of command, at the start; nan where there is none."""
    ticks = 1 + math.ceil(float(spec.delays.max()) * spec.rate_hz - 1e-9)
    out = np.full(spec.action_dim, np.nan)

    def after(command: np.ndarray, count: int) -> np.ndarray:
        plant.place(start)
        state = start
        for _ in range(count):
            state = plant.step(command, spec.tick_s)
        return state

    for a, axis in enumerate(spec.axes):
        if axis.kind != "effort" or axis.rate is None:
            continue
        push = spec.action_zero.copy()
        push[a] += 0.1 * (spec.action_high[a] - spec.action_low[a]) * (1 if spec.action_high[a] > spec.action_zero[a] else -1)
        gained = after(push, ticks + 1)[axis.rate] - after(push, ticks)[axis.rate]
        lost = after(spec.action_zero, ticks + 1)[axis.rate] - after(spec.action_zero, ticks)[axis.rate]
        out[a] = (gained - lost) / spec.tick_s / (push[a] - spec.action_zero[a])
    return out


def soft_gain(spec: RobotSpec, power: np.ndarray, soft_hz: float) -> np.ndarray:
    """[A, S] feedback that makes each driven joint swing at `soft_hz`, damped; 0 for what is no effort or cannot be measured.

    Args:
        spec: the robot.
        power: [A] of `authority`.
        soft_hz: stiffness.
    """
    out, w = np.zeros((spec.action_dim, spec.state_dim)), 2 * np.pi * soft_hz
    place = {rate: position for position, rate in spec.rate_pairs}
    for a, axis in enumerate(spec.axes):
        if axis.rate in place and np.isfinite(power[a]) and abs(power[a]) > 1e-9:
            out[a, place[axis.rate]], out[a, axis.rate] = w**2 / power[a], 2 * DAMPING * w / power[a]
    return out


def slowed(spec: RobotSpec, command: np.ndarray, around: np.ndarray) -> np.ndarray:
    """[T, A] commands made smaller, each as a whole, until they keep the greatest rates."""
    fastest = np.abs(np.diff(command, axis=0)).max(axis=0) / spec.tick_s
    room = np.where(fastest > 0, SHARE * spec.action_max_rate / np.maximum(fastest, 1e-300), np.inf)
    return np.asarray(around + (command - around) * np.minimum(1.0, room))


def _tapered(spec: RobotSpec, time: np.ndarray, around: np.ndarray, swing: np.ndarray) -> np.ndarray:
    """[T, A] commands that begin and end at `zero`, and swing [T, A] around a command [A] between."""
    edge = sines.window(time)[:, None]
    return np.asarray(spec.action_zero + edge * (around - spec.action_zero) + edge * swing)


@dataclass(frozen=True)
class _Bench:
    """What a design is tried on."""

    spec: RobotSpec
    plant: Plant
    safety: SafetyFilter
    where: Region
    start: np.ndarray

    def try_(self, course: Course) -> Played:
        self.plant.place(self.start)
        return play(self.spec, self.plant, course, self.safety, self.where)


def _largest(bench: _Bench, make: Callable[[float, float], Course], stiffness: tuple[float, ...]) -> tuple[Course, Played, float, float]:
    """The largest course that keeps the robot where it may be, the softest of these; with its scale and stiffness."""
    why = ""
    for scale in SCALES:
        for soft in stiffness:
            course = make(scale, soft)
            played = bench.try_(course)
            if played.stop is None and not played.replaced and played.limited <= MOST_LIMITED:
                return course, played, scale, soft
            why = played.stop.sentence if played.stop else "the safety filter changes the commands"
    raise UserError(f"robot '{bench.spec.name}' cannot be excited from its start: even with {SCALES[-1]:.0%} of its commands: {why} (a "
                    "tenth is kept clear). Start it further inside (`sim.start`), widen `range` or `limits`, or excite it for less time")


def _shrunk(where: Region, start: np.ndarray) -> Region:
    """The share of a region that a design may use; the start is in it."""
    middle, half = where.box
    at = np.where(where.wraps, wrap_angle(start), start)
    return Region(np.minimum(middle - SHARE * half, at), np.maximum(middle + SHARE * half, at), where.wraps)


def _start(spec: RobotSpec, given: np.ndarray | None) -> np.ndarray:
    if given is not None:
        return np.asarray(given, dtype=float)
    asked = spec.sim.start if spec.sim is not None else {}
    return np.array([asked.get(name, 0.0) for name in spec.state_names])


def design(spec: RobotSpec, mechanism: Mechanism | None, seconds: float, rng: np.random.Generator, kind: Kind = "multisine", *,
           plant: Plant | None = None, start: np.ndarray | None = None, band_hz: tuple[float, float] | None = None,
           rounds: int = fourier.ROUNDS, base: Path | None = None) -> Excitation:
    """Design an excitation that keeps the commands' limits and rates and, by a nominal model, the state where it may be.

    A multisine is made as large as the nominal model says that it may be; where it would run away, a soft feedback holds the driven
    joints. `fourier` seeks the Fourier series of least volume of the parameters' confidence ellipsoid (D-optimal; Swevers et al.,
    "Optimal robot excitation and identification", IEEE Transactions on Robotics and Automation 1997): of the joints' positions where
    every joint is driven, played by inverse dynamics and soft feedback, or of the commands, whichever tells more.

    Args:
        spec: the robot.
        mechanism: its equations; None: no information is told and `fourier` cannot be had.
        seconds: length.
        rng: of phases and search.
        kind: see above.
        plant: nominal model to try it on, such as `mbrl_sim.plant.MujocoPlant`; by default the mechanism.
        start: [S] state that it begins in; by default `sim.start`.
        band_hz: lowest and highest frequency; by default from the model step.
        rounds: of the search for `fourier`.
        base: folder that `sim.mjcf` is looked up in first, for the safety filter.

    Raises:
        UserError: too short, no model to tell what would happen, or nothing keeps the robot where it may be.
    """
    if seconds < 1:
        raise UserError(f"seconds = {seconds:g} is too short; give 1 or more")
    begin = _start(spec, start)
    model = plant if plant is not None else NominalPlant(mechanism, spec, begin) if mechanism is not None else None
    whole = region(spec, model)
    if model is None and whole.bounded:
        raise UserError(f"robot '{spec.name}' has limits but neither `sim` nor equations in `nominal` that calibration knows: nobody can "
                        "say whether an excitation keeps them. Give one of the two")
    used = whole.used(begin)
    if used.max() > 1:
        raise UserError(f"robot '{spec.name}' starts outside of where it may be: '{spec.state_names[int(np.argmax(used))]}' = "
                        f"{begin[int(np.argmax(used))]:g}; correct `sim.start`")
    time = spec.tick_s * np.arange(round(seconds * spec.rate_hz))
    band = band_hz or sines.band_of(spec, seconds)
    where = _shrunk(whole, begin)
    bench = None if model is None else _Bench(spec, model, SafetyFilter(spec, base), where, begin)
    power = np.full(spec.action_dim, np.nan) if model is None else authority(spec, model, begin)
    stiffness = _stiffness(spec, power, whole)
    if kind == "multisine":
        tried = [(_multisine(spec, time, band, begin, power, rng), stiffness)]
    elif mechanism is None:
        raise UserError(f"robot '{spec.name}' has no equations that calibration knows; give `nominal`, or use a multisine")
    else:
        problems = [fourier.Problem(way, spec, mechanism, time, begin, band, where, SHARE) for way in fourier.ways(spec, mechanism)]
        tried = [(_fourier(problem, power, rng, rounds), SOFT_HZ[1:] if problem.joints else stiffness) for problem in problems]
    made = []
    for make, choices in tried:
        course, played, scale, soft = (make(1.0, 0.0), None, 1.0, 0.0) if bench is None else _largest(bench, make, choices)
        figures = _figures(spec, mechanism, kind, course, played, whole, (scale, soft, band))
        made.append(Excitation(time, course, begin, played, figures))
    return max(made, key=lambda one: one.figures.information.log_det if one.figures.information else 0.0)


def _stiffness(spec: RobotSpec, power: np.ndarray, where: Region) -> tuple[float, ...]:
    """What feedback to try: none last where a driven joint has ends, since without it any error of the model would carry it there."""
    if not np.isfinite(power).any():
        return (0.0,)
    place = {rate: position for position, rate in spec.rate_pairs}
    ends = [np.isfinite(where.low[place[axis.rate]]) for axis in spec.axes if axis.kind == "effort" and axis.rate in place]
    return (*SOFT_HZ[1:], 0.0) if any(ends) else SOFT_HZ


def _multisine(spec: RobotSpec, time: np.ndarray, band: tuple[float, float], start: np.ndarray, power: np.ndarray,
               rng: np.random.Generator) -> Callable[[float, float], Course]:
    seconds = len(time) * spec.tick_s
    found = sines.lines(seconds, (band[0], min(band[1], 0.4 * spec.rate_hz)), spec.action_dim)
    shape = np.stack([sines.multisine(time, own, rng) for own in found], axis=1)
    around, room = centre(spec)
    amplitude = SHARE * spec.trainer.explore_scale * room

    def make(scale: float, soft_hz: float) -> Course:
        command = slowed(spec, _tapered(spec, time, around, scale * amplitude * shape), spec.action_zero)
        return Course(command, np.tile(start, (len(time), 1)), soft_gain(spec, power, soft_hz))

    return make


def _fourier(problem: fourier.Problem, power: np.ndarray, rng: np.random.Generator, rounds: int) -> Callable[[float, float], Course]:
    spec = problem.spec
    held = soft_gain(spec, power, SOFT_HZ[1]) if problem.where.bounded else np.zeros((spec.action_dim, spec.state_dim))
    best = fourier.search(problem, held, rng, rounds)

    def make(scale: float, soft_hz: float) -> Course:
        command, reference = problem.course(scale * best)
        return Course(command, reference, soft_gain(spec, power, soft_hz))

    return make


def _figures(spec: RobotSpec, mechanism: Mechanism | None, kind: Kind, course: Course, played: Played | None, whole: Region,
             setting: tuple[float, float, tuple[float, float]]) -> Figures:
    scale, soft, band = setting
    sent = course.command if played is None else played.command
    middle, half = (spec.action_low + spec.action_high) / 2, (spec.action_high - spec.action_low) / 2
    margin = np.full(spec.state_dim, np.nan)
    if played is not None:
        margin = np.where(np.isfinite(whole.low), 1 - whole.used(played.state).max(axis=0), np.nan)
    known: Any = None if mechanism is None or played is None else information(spec, mechanism, played)
    return Figures(kind, scale, soft, band, np.array([sines.crest_factor(column) for column in sent.T]),
                   0.0 if played is None else played.limited, 1 - np.abs((sent - middle) / half).max(axis=0), margin, known)
