"""RobotSpec: the one schema of a robot YAML. A robot is data: signals, limits, rates, and which parts drive it."""

from __future__ import annotations

import hashlib
import json
import math
import os
import re
from functools import cached_property
from importlib import resources
from pathlib import Path
from typing import Any, cast

import numpy as np
from pydantic import Field, ModelWrapValidatorHandler, ValidationError, model_validator
from pydantic_core import InitErrorDetails, PydanticCustomError

from mbrl_control import schema, spec_checks, strict_yaml
from mbrl_control.axes import Axis, axes_of
from mbrl_control.errors import MOST_FAULTS, SpecError, nearest
from mbrl_control.schema import (
    CommandSignal,
    CostSpec,
    CsvSpec,
    IntervalsSpec,
    ModelSpec,
    Name,
    NominalSpec,
    PlannerSpec,
    PolicySpec,
    Positive,
    SafeAction,
    SafetySpec,
    SimSpec,
    StateSignal,
    Strict,
    SuccessSpec,
    TrainerSpec,
)


def _fault(place: tuple[str | int, ...], value: Any, text: str) -> InitErrorDetails:
    return InitErrorDetails(type=PydanticCustomError("between", "{text}", {"text": text}), loc=place, input=value)


class RobotSpec(Strict):
    """A robot: everything that the stack must be told, and nothing else."""

    name: Name = Field(description="of the robot; part of file names")
    title: str = Field("", max_length=200, description="one line for people")
    rate_hz: float = Field(50.0, ge=1, le=1000, description="tick: commands per second")
    plan_hz: float = Field(25.0, gt=0, le=1000, description="plans per second")
    model_dt: float = Field(0.05, gt=0, le=1, description="model step: the grid of the horizon, s")
    state: list[StateSignal] = Field(min_length=1, max_length=200, description="what is measured, in the order of the state vector")
    command: list[CommandSignal] = Field(min_length=1, max_length=60, description="what is sent, in the order of the command vector")
    state_timeout_s: Positive = Field(0.1, description="a state older than this is not acted on")
    safe_action: SafeAction = Field("zero", description="what to do when there is nothing better, see docs/safety.md")
    brake_gain: float = Field(1.0, ge=0, description="`brake`: command per unit of the paired rate, against it")
    ramp_s: Positive = Field(1.0, description="`ramp`: time from a full command to `zero`, s")
    safety: SafetySpec = Field(SafetySpec(), description="whether commands are checked by looking ahead")
    cost: CostSpec = Field(description="what is wanted")
    success: SuccessSpec | None = Field(None, description="when it counts as solved, for reports")
    model: ModelSpec = Field(ModelSpec(), description="what will happen")
    planner: PlannerSpec = Field(PlannerSpec(), description="what to do")
    trainer: TrainerSpec = Field(TrainerSpec(), description="when to learn")
    policies: list[PolicySpec] = Field([], max_length=4, description="learned beside the model or before, for plans to start from, each of "
                                       "a kind of its own; by default none")
    nominal: NominalSpec | None = Field(None, description="what is known of its physics; calibration starts from it")
    intervals: IntervalsSpec | None = Field(None, description="how far the learned model's predictions can be trusted; found by "
                                             "calibration")
    sim: SimSpec | None = Field(None, description="its twin in MuJoCo; needed only by `mbrl demo` and `mbrl sim`")
    csv: CsvSpec = Field(CsvSpec(), description="how its CSV logs look")
    allow_injection: bool = Field(False, description="`mbrl inject` may disturb it on purpose: false messages, stopped and killed "
                                  "processes. Only for simulated robots, or where nobody is near")

    @model_validator(mode="wrap")
    @classmethod
    def _check(cls, data: Any, handler: ModelWrapValidatorHandler[RobotSpec]) -> RobotSpec:
        """Faults of single keys and faults between keys, all at once."""
        faults = [_fault(*found) for found in spec_checks.between(data, {k: f.default for k, f in cls.model_fields.items()})]
        try:
            made = handler(data)
        except ValidationError as error:
            faults = [*cast("list[InitErrorDetails]", error.errors()), *faults]
        if not faults:
            faults = [_fault(*found) for found in spec_checks.safety(made)]
        if faults:
            raise ValidationError.from_exception_data(cls.__name__, faults)
        return made

    @cached_property
    def state_names(self) -> tuple[str, ...]:
        """Names of the state signals, in vector order."""
        return tuple(s.name for s in self.state)

    @cached_property
    def command_names(self) -> tuple[str, ...]:
        """Names of the command signals, in vector order."""
        return tuple(c.name for c in self.command)

    @property
    def state_dim(self) -> int:
        """S."""
        return len(self.state)

    @property
    def action_dim(self) -> int:
        """A."""
        return len(self.command)

    @property
    def tick_s(self) -> float:
        """Period of the tick, s."""
        return 1.0 / self.rate_hz

    @cached_property
    def action_low(self) -> np.ndarray:
        """[A] least commands."""
        return np.array([c.limits[0] for c in self.command])

    @cached_property
    def action_high(self) -> np.ndarray:
        """[A] greatest commands."""
        return np.array([c.limits[1] for c in self.command])

    @cached_property
    def action_zero(self) -> np.ndarray:
        """[A] the commands that do nothing."""
        return np.array([c.zero for c in self.command])

    @cached_property
    def action_max_rate(self) -> np.ndarray:
        """[A] greatest change per second; inf where unlimited."""
        return np.array([c.max_rate if c.max_rate is not None else math.inf for c in self.command])

    @cached_property
    def command_timeout_s(self) -> float:
        """Time without a command after which the plant applies `zero`, s: that of `sim`, or three ticks and at most 0.1 s."""
        return (self.sim and self.sim.command_timeout_s) or min(3.0 / self.rate_hz, 0.1)

    @cached_property
    def delays(self) -> np.ndarray:
        """[A] time from command to effect, s."""
        return np.array([c.delay_s for c in self.command])

    @cached_property
    def wraps(self) -> np.ndarray:
        """[S] bool: angles that repeat every 2 pi."""
        return np.array([s.wraps for s in self.state])

    @cached_property
    def state_low(self) -> np.ndarray:
        """[S] least plausible values; -inf where unbounded."""
        return np.array([s.bounds[0] if s.bounds else -math.inf for s in self.state])

    @cached_property
    def state_high(self) -> np.ndarray:
        """[S] greatest plausible values; inf where unbounded."""
        return np.array([s.bounds[1] if s.bounds else math.inf for s in self.state])

    @cached_property
    def range_low(self) -> np.ndarray:
        """[S] lower ends of where the robot may be; -inf where it may be anywhere."""
        return np.array([s.range[0] if s.range else -math.inf for s in self.state])

    @cached_property
    def range_high(self) -> np.ndarray:
        """[S] upper ends of where the robot may be; inf where it may be anywhere."""
        return np.array([s.range[1] if s.range else math.inf for s in self.state])

    @cached_property
    def limit_low(self) -> np.ndarray:
        """[S] lower hard limits, margins taken off; -inf where there are none."""
        return np.array([s.limits[0] + s.margin if s.limits else -math.inf for s in self.state])

    @cached_property
    def limit_high(self) -> np.ndarray:
        """[S] upper hard limits, margins taken off; inf where there are none."""
        return np.array([s.limits[1] - s.margin if s.limits else math.inf for s in self.state])

    @cached_property
    def axes(self) -> tuple[Axis, ...]:
        """[A] what each command sets, and the state signal that tracks it."""
        return axes_of(self.command, self.state)

    @cached_property
    def safe_actions(self) -> tuple[SafeAction, ...]:
        """[A] the safe action of each axis."""
        return tuple(c.safe_action or self.safe_action for c in self.command)

    @cached_property
    def rate_pairs(self) -> tuple[tuple[int, int], ...]:
        """(index of a signal, index of its time derivative) for every `rate_of`."""
        index = {n: i for i, n in enumerate(self.state_names)}
        return tuple((index[s.rate_of], i) for i, s in enumerate(self.state) if s.rate_of is not None)

    @cached_property
    def tracked(self) -> tuple[tuple[int, int, float], ...]:
        """(index of a command, index of the state signal that follows it, greatest error) for every `tracks_within`."""
        return tuple((a, axis.tracks, command.tracks_within) for a, (command, axis) in enumerate(zip(self.command, self.axes, strict=True))
                     if command.tracks_within is not None and axis.tracks is not None)

    @cached_property
    def hash(self) -> str:
        """Hash of what a model depends on: signals, limits and the model step, and the equations where a model stands on them.

        Snapshots of another robot are refused by it.
        """
        keep = {
            "model_dt": self.model_dt,
            "state": [[s.name, s.unit, s.wraps, s.rate_of] for s in self.state],
            "command": [[c.name, c.unit, list(c.limits), c.delay_s] for c in self.command],
            "model": self.model.model_dump(),
        }
        if self.model.kind == "greybox" and self.nominal is not None:  # what it learns is right beside these equations only
            more = {"extras"} if self.nominal.extras else set()
            keep["nominal"] = self.nominal.model_dump(include={"system", "parameters", "states", "inputs"} | more)
        return hashlib.sha256(json.dumps(keep, sort_keys=True).encode()).hexdigest()[:16]


def wrap_angle(angle: np.ndarray) -> np.ndarray:
    """Angle to [-pi, pi), rad."""
    return (angle + math.pi) % (2 * math.pi) - math.pi


def shipped() -> dict[str, Path]:
    """The robots that ship with the product: name to YAML path."""
    folder = Path(str(resources.files("mbrl_control"))) / "robots"
    return {p.stem: p for p in sorted(folder.glob("*.yaml"))}


def _known_keys(path: tuple[str | int, ...]) -> list[str]:
    """Valid keys of the mapping that `path` leads to."""
    kind: Any = RobotSpec
    for step in path:
        if isinstance(step, int):
            continue
        info = kind.model_fields.get(step) if isinstance(kind, type) and issubclass(kind, Strict) else None
        if info is None:
            return []
        found = re.findall(r"mbrl_control\.schema\.(\w+)", str(info.annotation))
        kind = next((k for n in found if isinstance(k := getattr(schema, n, None), type) and issubclass(k, Strict)), None)
    return list(kind.model_fields) if isinstance(kind, type) and issubclass(kind, Strict) else []


def _sentence(source: strict_yaml.YamlSource, error: Any) -> str:
    path = error["loc"]
    key = ".".join(str(p) for p in path) or "the file"
    where = source.place(path)
    kind, text = error["type"], error["msg"].removeprefix("Value error, ")
    if kind == "extra_forbidden":
        return f"{where}: unknown key '{key}'{nearest(str(path[-1]), _known_keys(path[:-1]))}"
    if kind == "missing":
        return f"{where}: key '{key}' is missing; it is required"
    value = "" if isinstance(error["input"], dict) else f" = {error['input']!r:.80}"
    if kind == "literal_error":
        allowed = re.findall(r"'([^']*)'", str(error["ctx"]["expected"]))
        text += nearest(str(error["input"]), allowed)
    return f"{where}: {key}{value}: {text[0].lower()}{text[1:]}"


def load(robot: str | Path) -> RobotSpec:
    """Read a robot by shipped name or by the path of a YAML file.

    Args:
        robot: `cartpole`, … (see `shipped`) or a path.

    Returns:
        The validated spec.

    Raises:
        SpecError: all faults at once, each with file, line, key, value, allowed values and nearest key.
    """
    known = shipped()
    path = known.get(str(robot), Path(robot))
    if str(robot) not in known and not os.path.exists(path):
        raise SpecError([f"robot '{robot}' is neither a shipped robot nor a file{nearest(str(robot), list(known))}"])
    return validate(strict_yaml.read(path))


def validate(source: strict_yaml.YamlSource) -> RobotSpec:
    """A spec from parsed YAML; see `load`."""
    if not isinstance(source.data, dict):
        raise SpecError([f"{source.name}:1: a robot file is a mapping of keys, not {type(source.data).__name__}"])
    try:
        return RobotSpec.model_validate(source.data)
    except ValidationError as error:
        found = error.errors()  # sentences, which look for the nearest key, only for those that are told
        raise SpecError([_sentence(source, e) for e in found[:MOST_FAULTS]] + [e["msg"] for e in found[MOST_FAULTS:]]) from error
