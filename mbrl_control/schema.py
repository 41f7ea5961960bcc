"""The sections of a robot YAML: signals, cost, model, planner, trainer, simulation. `robot.RobotSpec` puts them together."""

from __future__ import annotations

import itertools
import math
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, ValidationInfo, field_validator

Unit = Literal["1", "m", "rad", "m/s", "rad/s", "m/s^2", "rad/s^2", "N", "N*m", "V", "A", "s"]
Name = Annotated[str, Field(pattern=r"^[a-z][a-z0-9_]*$", max_length=40)]
GREATEST_OPTION = 1e30
Positive = Annotated[float, Field(gt=0)]
Extra = Literal["stribeck", "dead_band", "saturation", "gain", "offset"]
SafeAction = Literal["zero", "hold", "brake", "ramp"]
Range = Annotated[tuple[float, float], Field(strict=False)]


def _option(value: Any) -> Any:
    """A value that an option of a part may have; what it must be is known to the part."""
    inside = value if isinstance(value, list) else list(value.values()) if isinstance(value, dict) else [value]
    for item in inside:
        if not isinstance(item, (bool, int, float, str)) or (isinstance(item, float) and not math.isfinite(item)):
            raise ValueError("an option is a finite number, true or false, a text, a list of these or a mapping of names to them")
        if isinstance(item, (int, float)) and abs(item) > GREATEST_OPTION:
            raise ValueError(f"an option's number lies between -{GREATEST_OPTION:g} and {GREATEST_OPTION:g}: parts reckon in float32")
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
    limits: Range | None = Field(None, description="hard limits: commands that would lead beyond them are cut, or replaced by the safe "
                                 "action, see docs/safety.md")
    margin: float = Field(0.0, ge=0, description="distance from `limits` at which braking ends, for what lag, noise and model leave")
    max_deceleration: Positive | None = Field(None, description="braking that can be relied on near `limits`, in the unit per s^2")
    wraps: bool = Field(False, description="an angle that repeats every 2 pi")
    rate_of: str | None = Field(None, description="the signal whose time derivative this one is")

    @field_validator("bounds", "range", "limits")
    @classmethod
    def _bounds(cls, bounds: Range | None) -> Range | None:
        return None if bounds is None else _increasing(bounds)

    @field_validator("margin")
    @classmethod
    def _margin(cls, margin: float, info: ValidationInfo) -> float:
        limits = info.data.get("limits", (-math.inf, math.inf))
        if limits is None and margin:
            raise ValueError("it does nothing without `limits`; give them or leave it out")
        if limits is not None and not 2 * margin < limits[1] - limits[0]:
            raise ValueError(f"it leaves nothing of the limits {list(limits)}; use less than half of their width")
        return margin

    @field_validator("max_deceleration")
    @classmethod
    def _deceleration(cls, value: float | None, info: ValidationInfo) -> float | None:
        if value is not None and info.data.get("limits", ()) is None:
            raise ValueError("it does nothing without `limits`; give them or leave it out")
        return value

    @field_validator("wraps")
    @classmethod
    def _wraps(cls, wraps: bool, info: ValidationInfo) -> bool:
        unit = info.data.get("unit", "rad")
        if wraps and unit != "rad":
            raise ValueError(f"only a signal in rad can wrap, not one in {unit}")
        if wraps and info.data.get("limits") is not None:
            raise ValueError("an angle that wraps has no limits; leave out one of them")
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
    tracks: str | None = Field(None, description="state signal whose position or speed it sets; by default that of the same joint "
                               "in the same unit")
    safe_action: SafeAction | None = Field(None, description="of this axis; by default that of the robot")
    tracks_within: Positive | None = Field(None, description="the state keeps within so much of this command, `delay_s` later, or after "
                                           "10 ticks the robot brakes (`no_response`), and the second time within a minute latches "
                                           "(`no_response_again`); none: not watched")

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
    newton_rows: int = Field(0, ge=0, le=8, description="candidates from a Gauss-Newton step on the last plan, from bold to careful: they "
                             "hold still where samples jitter; with any, what to play is chosen in float32 whatever the dtype, and, while "
                             "a plan keeps clear of its limits, by the members' mean step unless risk or disagreement are to count")
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
    device: Literal["auto", "cpu", "cuda"] = Field("cpu", description="where candidates are rolled out; auto: on a GPU where there is one "
                                                   "and the model can")
    memory_mb: int = Field(8192, ge=512, le=1_048_576, description="main memory that the planner's process may hold; it is ended above, "
                           "and started again")
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
    noise_floor: float = Field(0.0, ge=0, le=0.2, description="least standard deviation of a plan's commands over the horizon, share of "
                               "the half range, made up for by noise: a robot that is held perfectly still teaches nothing about itself, "
                               "and a change of it is noticed late")
    updates: int = Field(300, ge=1, le=100_000, description="gradient steps per refit, at most: with refit_every_s, learning per data")
    budget_s: Positive = Field(3.0, description="time limit of a refit")
    window_s: Positive = Field(600.0, description="older data is forgotten, but for the seconds of `remember_s`")
    remember_s: float = Field(120.0, ge=0, le=3600, description="older data that is kept because nothing newer is like it, s; 0: none")
    forget_s: Positive | None = Field(None, description="age after which data counts 1/e, in the long run a tenth: for robots that change")
    memory_mb: int = Field(4096, ge=512, le=1_048_576, description="data that the trainer's process may ask the system for; it ends above, "
                           "and is started again")
    holdout: float = Field(0.1, ge=0.02, le=0.5, description="share of the data kept for the gate")
    gate_ratio: float = Field(1.1, ge=1, le=10, description="a snapshot may be worse by this factor on held-out and newest data together")


class PolicySpec(Strict):
    """A policy that learns beside the model, or was learned before, and that plans start from; `options` are the fields of
    `mbrl_control.policies.<kind>`."""

    kind: Name = Field("mbpo", description="which policy")
    updates_per_s: float = Field(20.0, gt=0, le=10_000, description="gradient steps per second of new data, whatever the machine")
    rows: int = Field(2, ge=1, le=64, description="candidates in each plan: its most likely commands, and others drawn from it")
    value: bool = Field(False, description="whether its critic is the cost of what comes after the horizon: for policies that have learned "
                        "long enough")
    trust: Positive = Field(1.0, description="members' disagreement on the end of a candidate, in typical one-step changes, beyond which "
                            "the critic is not asked: such an end counts as the worst of all")
    options: Options = Field(default_factory=dict, description="of that policy")


class MeasuredInput(StateSignal):
    """What a sensor says that a command came to, such as a motor's torque by its current. Only calibration reads it."""

    of: Name = Field(description="the command that it measures")


class NominalSpec(Strict):
    """What is known of the robot's physics: equations with parameters, which `mbrl calibrate` finds from logs."""

    system: Name = Field(description="which equations: a key of `mbrl_control.models.expressions.SYSTEMS`")
    parameters: dict[str, float] = Field(default_factory=dict, description="that differ from those of the system, by name, SI units")
    extras: list[Extra] = Field(default_factory=list, description="terms of friction and drives that the equations have besides, with "
                                "parameters of their own (docs/calibration.md)")
    states: list[str] = Field(default_factory=list, description="the state signal for each state of the system, in its order; by default "
                              "those of the same names")
    inputs: list[str] = Field(default_factory=list, description="the command for each input of the system, '' for one that is not driven; "
                              "by default those of the same names")
    measured: list[MeasuredInput] = Field(default_factory=list, description="sensors of what the commands came to, where there are any")
    known: list[str] = Field(default_factory=list, description="lumped parameters (docs/calibration.md) that are right as they are and are "
                             "not fitted")


class IntervalsSpec(Strict):
    """How wide intervals about the learned model's predictions must be to hold what they say in runs that it has not seen: `mbrl
    calibrate uncertainty` finds them, `mbrl evaluate` and the watch over a model in use read them."""

    steps: list[Annotated[int, Field(ge=1, le=1000)]] = Field(min_length=1, max_length=100, description="model steps ahead, rising from 1; "
                                                              "between them widths are interpolated")
    width_68: dict[str, list[Positive]] = Field(description="for each state signal, at each of `steps`: half of the width that holds 68 %, "
                                                "in predicted standard deviations (an honest Gaussian has 0.994)")
    width_95: dict[str, list[Positive]] = Field(description="the same for 95 % (1.96)")

    @field_validator("steps")
    @classmethod
    def _steps(cls, steps: list[int]) -> list[int]:
        if steps[0] != 1 or any(b <= a for a, b in itertools.pairwise(steps)):
            raise ValueError("they must begin with 1 and rise")
        return steps

    @field_validator("width_68", "width_95")
    @classmethod
    def _widths(cls, widths: dict[str, list[float]], info: ValidationInfo) -> dict[str, list[float]]:
        count, narrow = len(info.data.get("steps", ())), info.data.get("width_68", {})
        for name, each in widths.items():
            if count and len(each) != count:
                raise ValueError(f"'{name}' has {len(each)} widths for {count} steps; give one for each step")
            if any(wide < less for wide, less in zip(each, narrow.get(name, ()), strict=False)):
                raise ValueError(f"'{name}': what holds 95 % cannot be narrower than what holds 68 %")
        return widths


class SimSpec(Strict):
    """The robot's twin in MuJoCo: every state signal with a joint is that joint's position or velocity."""

    mjcf: str = Field(description="MJCF file, relative to the YAML, or one that ships with mbrl_sim")
    actuators: list[str] = Field(min_length=1, description="actuator names in the order of `command`")
    start: dict[str, float] = Field(default_factory=dict, description="state signals at reset; others 0")
    start_noise: float = Field(0.01, ge=0, le=1, description="standard deviation added to the start")
    changes: dict[str, Positive] = Field(default_factory=dict, description="factors on what the MJCF says: `mass:<body>` (with inertia), "
                                         "`damping:<joint>`, `friction:<joint>` or `gear:<actuator>`")
    values: dict[str, Annotated[float, Field(ge=0)]] = Field(default_factory=dict, description="in place of what the MJCF says, SI units: "
                                                             "`damping:<joint>`, `friction:<joint>` or `armature:<joint>`")
    command_timeout_s: Positive | None = Field(None, description="without a command for so long the plant applies `zero`; by default three "
                                               "ticks, but at most 0.1 s")
    state_hz: Positive = Field(100.0, description="rate of the published state")
    memory_mb: int = Field(240, ge=16, le=1024, description="memory that reading the MJCF may take; one that takes more is refused. Models "
                           "with large meshes and textures need more")


class SafetySpec(Strict):
    """The look ahead of the safety filter: whether braking after a command would keep the `limits` of the state, see docs/safety.md."""

    backup: bool = Field(False, description="whether commands are checked; what fails is replaced by the safe action")
    model: Literal["mujoco", "casadi"] = Field("mujoco", description="the nominal model: the MJCF of `sim`, or equations")
    options: Options = Field(default_factory=dict, description="of `casadi`: those of `model.kind: casadi` but `substeps`")
    horizon_s: float = Field(1.0, gt=0, le=10, description="how far ahead braking is followed, s; long enough to come to rest")
    step_s: float | None = Field(None, gt=0, le=1, description="step of the look ahead, s; by default the tick, or where that is longer a "
                                 "fiftieth of the horizon (casadi), a twentieth (mujoco)")
    substeps: int = Field(1, ge=1, le=50, description="integration steps per step")


class CsvSpec(Strict):
    """How logs in CSV map to signals: `column` of each signal, and the time column."""

    time: str = Field("time", description="column of the time, s")
    delimiter: str = Field(",", min_length=1, max_length=1, description="between columns")
