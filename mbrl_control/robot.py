"""RobotSpec: the one schema of a robot YAML. A robot is data: signals, limits, rates, and which parts drive it."""

from __future__ import annotations

import hashlib
import json
import math
import os
import re
from collections.abc import Iterator
from functools import cached_property
from importlib import resources
from pathlib import Path
from typing import Annotated, Any, Literal, cast

import numpy as np
from pydantic import (
    AfterValidator,
    BaseModel,
    ConfigDict,
    Field,
    ModelWrapValidatorHandler,
    ValidationError,
    ValidationInfo,
    field_validator,
    model_validator,
)
from pydantic_core import InitErrorDetails, PydanticCustomError

from mbrl_control import parts, strict_yaml
from mbrl_control.errors import SpecError, nearest

Unit = Literal["1", "m", "rad", "m/s", "rad/s", "m/s^2", "rad/s^2", "N", "N*m", "V", "A", "s"]
Name = Annotated[str, Field(pattern=r"^[a-z][a-z0-9_]*$", max_length=40)]
Positive = Annotated[float, Field(gt=0)]
Range = Annotated[tuple[float, float], Field(strict=False)]


def _option(value: Any) -> Any:
    """A value that an option of a part may have; what it must be is known to the part."""
    inside = value if isinstance(value, list) else list(value.values()) if isinstance(value, dict) else [value]
    for item in inside:
        if not isinstance(item, (bool, int, float, str)) or (isinstance(item, float) and not math.isfinite(item)):
            raise ValueError("an option is a finite number, true or false, a text, a list of these or a mapping of names to them")
    return value


Options = dict[str, Annotated[Any, AfterValidator(_option)]]


class Strict(BaseModel):
    """A frozen part of the schema that refuses unknown keys, numbers that are not finite, and one type in place of another."""

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True, allow_inf_nan=False)


def _increasing(pair: Range) -> Range:
    if not pair[0] < pair[1]:
        raise ValueError("it is empty: the first number must be below the second")
    return pair


class Signal(Strict):
    """What state and command signals share: where a number comes from or goes to.

    A number is found by topic, message type and field path. In a `sensor_msgs/msg/JointState` it is found by joint
    name instead, whatever the order in the message. A path ending in `yaw`, `pitch` or `roll` reads a quaternion.
    """

    name: Name = Field(description="name used everywhere else: costs, reports, plots")
    unit: Unit = Field(description="SI unit; angles in radians")
    joint: str | None = Field(None, description="joint name (JointState, JointTrajectory)")
    column: str | None = Field(None, description="column of CSV logs; by default the signal's name")


class StateSignal(Signal):
    """One number of the state vector."""

    topic: str = Field("joint_states", description="topic, relative names preferred")
    type: str = Field("sensor_msgs/msg/JointState", pattern=r"^\w+/msg/\w+$", description="message type")
    field: str = Field("position", description="path in the message, e.g. twist.twist.linear.x or data[2]")
    bounds: Range | None = Field(None, description="plausible values; others are rejected as sensor faults")
    range: Range | None = Field(None, description="where the robot may be: plans that leave it cost planner.range_weight, "
                                "and data from outside is not learned from")
    wraps: bool = Field(False, description="an angle that repeats every 2 pi")
    rate_of: str | None = Field(None, description="the signal whose time derivative this one is")

    @field_validator("bounds", "range")
    @classmethod
    def _bounds(cls, bounds: Range | None) -> Range | None:
        return None if bounds is None else _increasing(bounds)

    @field_validator("wraps")
    @classmethod
    def _wraps(cls, wraps: bool, info: ValidationInfo) -> bool:
        unit = info.data.get("unit", "rad")
        if wraps and unit != "rad":
            raise ValueError(f"only a signal in rad can wrap, not one in {unit}")
        return wraps


class CommandSignal(Signal):
    """One number of the command vector, with its limits."""

    topic: str = Field("commands", description="topic, relative names preferred")
    type: str = Field("std_msgs/msg/Float64MultiArray", pattern=r"^\w+/msg/\w+$", description="message type")
    field: str = Field("data[0]", description="path in the message")
    limits: Range = Field(description="least and greatest command ever sent")
    max_rate: Positive | None = Field(None, description="greatest change per second")
    delay_s: float = Field(0.0, ge=0, le=2, description="time from command to effect")
    zero: float = Field(0.0, validate_default=True, description="the command that does nothing: `zero` sends it")

    @field_validator("limits")
    @classmethod
    def _limits(cls, limits: Range) -> Range:
        return _increasing(limits)

    @field_validator("zero")
    @classmethod
    def _zero(cls, zero: float, info: ValidationInfo) -> float:
        low, high = info.data.get("limits", (zero, zero))
        if not low <= zero <= high:
            raise ValueError(f"it lies outside the limits {[low, high]}; set `zero` to the command within them that does nothing")
        return zero


class Condition(Strict):
    """`|signal - target| < within` (angles compared around the circle)."""

    signal: Name = Field(description="state signal")
    target: float = Field(0.0, description="wanted value, in the signal's unit")
    within: Positive = Field(description="greatest distance from it, in the signal's unit")


class SuccessSpec(Strict):
    """When the task counts as solved: every condition holds for a time without a break."""

    conditions: list[Condition] = Field(min_length=1, description="all of them at once")
    hold_s: Positive = Field(3.0, description="for so long, s")


class CostSpec(Strict):
    """The cost to minimise; `options` are the fields of the module `mbrl_control.costs.<kind>`."""

    kind: Name = Field("quadratic", description="which cost, see below")
    options: Options = Field(default_factory=dict, description="its options")


class ModelSpec(Strict):
    """The learned model; `options` are the fields of the module `mbrl_control.models.<kind>`."""

    kind: Name = Field("ensemble", description="which model, see below")
    members: int = Field(5, ge=1, le=20, description="networks that vote")
    hidden: list[Annotated[int, Field(ge=1, le=2048)]] = Field([128, 128], min_length=1, max_length=6, description="units of each layer")
    ignore: list[str] = Field(default_factory=list, description="state signals that the dynamics do not depend on")
    mirror: list[str] = Field(default_factory=list, description="signals (state and command) whose signs may all be flipped together")
    options: Options = Field(default_factory=dict, description="its options")


class PlannerSpec(Strict):
    """The planner; `options` are the fields of the module `mbrl_control.planning.<kind>`."""

    kind: Name = Field("icem", description="which planner, see below")
    horizon: int = Field(20, ge=1, le=200, description="model steps")
    candidates: int = Field(128, ge=2, le=100_000, description="action sequences per iteration")
    iterations: int = Field(3, ge=1, le=50, description="rounds of sampling and refitting per plan")
    knots: int | None = Field(None, ge=2, le=200, description="spline knots over the horizon; none: one action per model step")
    spline: Literal["hold", "linear", "cubic"] = Field("cubic", description="between the knots")
    propagation: Literal["mean", "ts1", "tsinf"] = Field(
        "tsinf", description="through the members: each its own mean; another one at each step, sampled; each its own, sampled")
    risk: Literal["mean", "std", "cvar"] = Field("mean", description="how the members' costs of a candidate become one")
    risk_weight: float = Field(0.0, ge=0, le=100, description="k of mean + k std")
    cvar_alpha: float = Field(0.3, gt=0, le=1, description="share of the worst members that cvar averages")
    disagreement: float = Field(0.0, ge=-10, le=100, description="weight of the members' disagreement; negative seeks it")
    smoothness: float = Field(0.0, ge=0, le=1000, description="weight of squared changes from action to action, in half ranges")
    range_weight: float = Field(10.0, ge=0, le=1e6, description="cost per step of leaving a state's `range` by one half of its width")
    dtype: Literal["float32", "bfloat16"] = Field("float32", description="of the model's hidden layers; bfloat16 is fast where the "
                                                  "processor has it")
    options: Options = Field(default_factory=dict, description="its options")


class TrainerSpec(Strict):
    """When and how the model is refitted while the robot runs."""

    first_fit_s: Positive = Field(3.0, description="seconds of data before the first fit")
    refit_every_s: Positive = Field(1.0, description="seconds of new data per refit")
    explore_s: float = Field(3.0, ge=0, description="seconds of smooth random excitation before planning may begin")
    explore_scale: float = Field(1.0, gt=0, le=1, description="amplitude of the excitation, as a share of the limits")
    explore_smoothness_s: Positive = Field(0.3, description="time constant of the excitation")
    noise: float = Field(0.0, ge=0, le=1, description="exploration noise added to plans at first, share of the half range")
    noise_fade_s: Positive = Field(10.0, description="experience after which that noise is down to 1/e")
    updates: int = Field(300, ge=1, le=100_000, description="gradient steps per refit, at most: with refit_every_s, the ratio of learning to data")
    budget_s: Positive = Field(3.0, description="time limit of a refit")
    window_s: Positive = Field(600.0, description="older data is forgotten")
    holdout: float = Field(0.1, ge=0.02, le=0.5, description="share of the data kept for the gate")
    gate_ratio: float = Field(1.1, ge=1, le=10, description="a snapshot may be at most this factor worse on held-out data")


class SimSpec(Strict):
    """The robot's twin in MuJoCo: every state signal with a joint is that joint's position or velocity."""

    mjcf: str = Field(description="MJCF file, relative to the YAML, or one that ships with mbrl_sim")
    actuators: list[str] = Field(min_length=1, description="actuator names in the order of `command`")
    start: dict[str, float] = Field(default_factory=dict, description="state signals at reset; others 0")
    start_noise: float = Field(0.01, ge=0, le=1, description="standard deviation added to the start")
    command_timeout_s: Positive = Field(0.1, description="without a command for so long the plant applies `zero`")
    state_hz: Positive = Field(100.0, description="rate of the published state")


class CsvSpec(Strict):
    """How logs in CSV map to signals: `column` of each signal, and the time column."""

    time: str = Field("time", description="column of the time, s")
    delimiter: str = Field(",", min_length=1, max_length=1, description="between columns")


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
    safe_action: Literal["zero", "hold", "brake"] = Field("zero", description="what to do when there is nothing better")
    brake_gain: float = Field(1.0, ge=0, description="`brake`: command per unit of the paired rate, against it")
    cost: CostSpec = Field(description="what is wanted")
    success: SuccessSpec | None = Field(None, description="when it counts as solved, for reports")
    model: ModelSpec = Field(ModelSpec(), description="what will happen")
    planner: PlannerSpec = Field(PlannerSpec(), description="what to do")
    trainer: TrainerSpec = Field(TrainerSpec(), description="when to learn")
    sim: SimSpec | None = Field(None, description="its twin in MuJoCo; needed only by `mbrl demo` and `mbrl sim`")
    csv: CsvSpec = Field(CsvSpec(), description="how its CSV logs look")

    @model_validator(mode="wrap")
    @classmethod
    def _check(cls, data: Any, handler: ModelWrapValidatorHandler[RobotSpec]) -> RobotSpec:
        """Faults of single keys and faults between keys, all at once."""
        faults = [InitErrorDetails(type=PydanticCustomError("between", "{text}", {"text": text}), loc=place, input=value)
                  for place, value, text in _between(data)]
        try:
            made = handler(data)
        except ValidationError as error:
            faults = [*cast("list[InitErrorDetails]", error.errors()), *faults]
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
    def rate_pairs(self) -> tuple[tuple[int, int], ...]:
        """(index of a signal, index of its time derivative) for every `rate_of`."""
        index = {n: i for i, n in enumerate(self.state_names)}
        return tuple((index[s.rate_of], i) for i, s in enumerate(self.state) if s.rate_of is not None)

    @cached_property
    def hash(self) -> str:
        """Hash of what a model depends on: signals, limits and the model step. Snapshots of another robot are refused by it."""
        keep = {
            "model_dt": self.model_dt,
            "state": [[s.name, s.unit, s.wraps, s.rate_of] for s in self.state],
            "command": [[c.name, c.unit, list(c.limits), c.delay_s] for c in self.command],
            "model": self.model.model_dump(),
        }
        return hashlib.sha256(json.dumps(keep, sort_keys=True).encode()).hexdigest()[:16]


def _get(data: Any, *path: str | int) -> Any:
    """What raw data holds at a path; None where there is nothing."""
    for step in path:
        data = data.get(step) if isinstance(data, dict) else data[step] if isinstance(data, list) and isinstance(step, int) else None
    return data


def _listed(data: Any, *path: str | int) -> Iterator[tuple[tuple[str | int, ...], Any]]:
    """Place and value of each item of a list, or of each key of a mapping, in raw data."""
    found = _get(data, *path)
    keys = range(len(found)) if isinstance(found, list) else list(found) if isinstance(found, dict) else []
    for key in keys:
        yield (*path, key), key if isinstance(found, dict) else found[key]


def _between(data: Any) -> Iterator[tuple[tuple[str | int, ...], Any, str]]:
    """Faults between keys: place, value and sentence. Looks at raw data, so that faults of single keys do not hide them."""
    signals = [[(*place, "name") for place, _ in _listed(data, group)] for group in ("state", "command")]
    state, command = ([name for place in places if isinstance(name := _get(data, *place), str)] for places in signals)
    seen: set[str] = set()
    for place in (p for places in signals for p in places):
        name = _get(data, *place)
        if isinstance(name, str) and name in seen:
            yield place, name, "this name stands here a second time; every signal has its own"
        seen.add(str(name))
    named = [((*place, "rate_of"), _get(item, "rate_of"), state) for place, item in _listed(data, "state")]
    named += [(*found, state) for found in _listed(data, "model", "ignore")]
    named += [(*found, [*state, *command]) for found in _listed(data, "model", "mirror")]
    named += [((*place, "signal"), _get(item, "signal"), state) for place, item in _listed(data, "success", "conditions")]
    named += [(*found, state) for found in _listed(data, "sim", "start")]
    for place, name, known in named:
        if isinstance(name, str) and name not in known:
            yield place, name, f"this is no signal that can stand here{nearest(name, known)}"
    actuators = _get(data, "sim", "actuators")
    if isinstance(actuators, list) and command and len(actuators) != len(_get(data, "command")):
        yield ("sim", "actuators"), actuators, f"{len(actuators)} names for {len(_get(data, 'command'))} commands; give one each"
    periods = [_get(data, key) if _get(data, key) is not None else RobotSpec.model_fields[key].default
               for key in ("rate_hz", "plan_hz", "model_dt")]
    if all(isinstance(p, (int, float)) and p > 0 for p in periods):
        rate, plan, step = periods
        if plan > rate:
            yield ("plan_hz",), plan, f"it is above rate_hz = {rate:g}; at most one plan a tick"
        if step < 0.999 / rate:
            yield ("model_dt",), step, f"it is shorter than a tick of {1 / rate:g} s; use at least one tick"
    for package, default in (("costs", "quadratic"), ("models", "ensemble"), ("planning", "icem")):
        place = ({"costs": "cost", "models": "model", "planning": "planner"}[package], "kind")
        kind, known = _get(data, *place) or default, parts.kinds(package)
        if isinstance(kind, str) and kind not in known:
            yield place, kind, f"there is no such part{nearest(kind, known)}"


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
        found = re.findall(r"mbrl_control\.robot\.(\w+)", str(info.annotation))
        kind = next((globals()[n] for n in found if isinstance(globals().get(n), type) and issubclass(globals()[n], Strict)), None)
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
        raise SpecError([_sentence(source, e) for e in error.errors()]) from error
