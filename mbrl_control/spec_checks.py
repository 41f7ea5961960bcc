"""What must hold between the keys of a robot YAML: names that exist, periods in order, parts that are there."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

from mbrl_control import parts
from mbrl_control.axes import KINDS, axes_of
from mbrl_control.errors import nearest

if TYPE_CHECKING:
    from mbrl_control.robot import RobotSpec

MOST_STEPS = 200
# What takes less than 0.3 ms of a tick: a step of equations takes 0.5 us, one of a small MJCF 12 us.
FEW_STEPS = {"casadi": 50, "mujoco": 20}


Found = Iterator[tuple[tuple[str | int, ...], Any, str]]


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


def between(data: Any, defaults: dict[str, Any]) -> Found:
    """Faults between keys: place, value and sentence. Looks at raw data, so that faults of single keys do not hide them.

    Args:
        data: what the YAML says.
        defaults: of the top-level keys that it does not give.
    """
    signals = [[(*place, "name") for place, _ in _listed(data, *group)] for group in (("state",), ("command",), ("nominal", "measured"))]
    state, command, _ = ([name for place in places if isinstance(name := _get(data, *place), str)] for places in signals)
    seen: set[str] = set()
    for place in (p for places in signals for p in places):
        name = _get(data, *place)
        if isinstance(name, str) and name in seen:
            yield place, name, "this name stands here a second time; every signal has its own"
        seen.add(str(name))
    named = [((*place, "rate_of"), _get(item, "rate_of"), state) for place, item in _listed(data, "state")]
    named += [((*place, "tracks"), _get(item, "tracks"), state) for place, item in _listed(data, "command")]
    named += [(*found, state) for found in _listed(data, "model", "ignore")]
    named += [(*found, [*state, *command]) for found in _listed(data, "model", "mirror")]
    named += [((*place, "signal"), _get(item, "signal"), state) for place, item in _listed(data, "success", "conditions")]
    named += [(*found, state) for found in _listed(data, "sim", "start")]
    named += [(*found, state) for found in _listed(data, "nominal", "states")]
    named += [(*found, ["", *command]) for found in _listed(data, "nominal", "inputs")]
    named += [((*place, "of"), _get(item, "of"), command) for place, item in _listed(data, "nominal", "measured")]
    for table in ("width_68", "width_95"):
        named += [(*found, state) for found in _listed(data, "intervals", table)]
        given = _get(data, "intervals", table)
        if isinstance(given, dict) and (left := [name for name in state if name not in given]):
            yield ("intervals", table), given, f"it has no widths for '{left[0]}'; every state signal needs them"
    for place, name, known in named:
        if isinstance(name, str) and name not in known:
            yield place, name, f"this is no signal that can stand here{nearest(name, known)}"
    yield from _policies(data)
    actuators = _get(data, "sim", "actuators")
    if isinstance(actuators, list) and command and len(actuators) != len(_get(data, "command")):
        yield ("sim", "actuators"), actuators, f"{len(actuators)} names for {len(_get(data, 'command'))} commands; give one each"
    periods = [_get(data, key) if _get(data, key) is not None else defaults[key]
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


def _policies(data: Any) -> Found:
    """Several policies: each of a kind of its own, by which its weights are known, and one critic at most."""
    kinds, valued = set[str](), False
    for place, policy in _listed(data, "policies"):
        kind, value = _get(policy, "kind") or "mbpo", _get(policy, "value") is True
        if str(kind) in kinds:
            yield (*place, "kind"), kind, "this kind stands here a second time; every policy is of its own"
        if value and valued:
            yield (*place, "value"), True, "another policy's critic is asked already, and a plan ends with one only; leave it out here"
        kinds.add(str(kind))
        valued |= value


def safety(spec: RobotSpec) -> Found:
    """Faults between the keys that the safety filter reads, of a robot that is valid otherwise: place, value and sentence."""
    yield from _tracks(spec)
    yield from _limits(spec)
    if spec.safety.backup:
        yield from _look_ahead(spec)


def _tracks(spec: RobotSpec) -> Found:
    units = {s.name: s.unit for s in spec.state}
    for k, (command, axis) in enumerate(zip(spec.command, axes_of(spec.command, spec.state), strict=True)):
        if command.tracks_within is not None and axis.tracks is None:
            yield (("command", k, "tracks_within"), command.tracks_within,
                   f"no state signal in {command.unit} follows this command, by its joint or its key 'tracks'; name one, or leave it out")
        if command.tracks is None:
            continue
        unit = units[command.tracks]
        if command.unit not in KINDS or command.unit not in (unit, f"{unit}/s"):
            yield (("command", k, "tracks"), command.tracks,
                   f"a command in {command.unit} sets neither position nor speed of a signal in {unit}; leave it out")


def _limits(spec: RobotSpec) -> Found:
    axes = axes_of(spec.command, spec.state)
    for i, signal in enumerate(spec.state):
        if signal.limits is None:
            continue
        setting = [(c, a) for c, a in zip(spec.command, axes, strict=True) if a.position == i]
        place = ("state", i, "limits")
        if not setting and not spec.safety.backup:
            yield (place, list(signal.limits), f"no command sets position or speed of '{signal.name}' (by joint and unit, or by its key "
                   "'tracks'), so only a look ahead can keep them; set safety.backup, or use range")
        for command, axis in setting:
            if axis.kind == "speed" and signal.max_deceleration is None:
                yield (place, list(signal.limits), f"command '{command.name}' sets the speed of '{signal.name}'; give max_deceleration too")


def _look_ahead(spec: RobotSpec) -> Found:
    ahead = spec.safety
    if all(s.limits is None for s in spec.state):
        yield ("safety", "backup"), True, "no state signal has limits, so there is nothing to keep; give limits to one"
    if ahead.model == "mujoco" and spec.sim is None:
        yield ("safety", "backup"), True, "the robot has no key 'sim' with an MJCF to look ahead with; give it, or safety.model: casadi"
    if ahead.model == "mujoco" and ahead.options:
        yield ("safety", "options"), ahead.options, "model 'mujoco' has no options; leave them out"
    step = look_ahead_step(spec)
    if step < 0.999 * spec.tick_s:
        yield ("safety", "step_s"), step, f"it is shorter than a tick of {spec.tick_s:g} s; use at least one tick"
    elif step > 1.001 * spec.tick_s and any(c.delay_s > 0 for c in spec.command):
        yield ("safety", "step_s"), step, f"commands have a delay_s, which needs steps of a tick; leave it out or use {spec.tick_s:g}"
    elif not 1 <= ahead.horizon_s / step <= MOST_STEPS:
        yield (("safety", "horizon_s"), ahead.horizon_s, f"it is {ahead.horizon_s / step:g} steps of {step:g} s; 1 to {MOST_STEPS} are "
               "possible")


def look_ahead_step(spec: RobotSpec) -> float:
    """Step of the safety filter's look ahead, s; a tick where commands are delayed, so that delays are whole steps."""
    if spec.safety.step_s is not None:
        return spec.safety.step_s
    if any(c.delay_s > 0 for c in spec.command):
        return spec.tick_s
    return max(spec.tick_s, spec.safety.horizon_s / FEW_STEPS[spec.safety.model])
