"""What must hold between the keys of a robot YAML: names that exist, periods in order, parts that are there."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from mbrl_control import parts
from mbrl_control.errors import nearest


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


def between(data: Any, defaults: dict[str, Any]) -> Iterator[tuple[tuple[str | int, ...], Any, str]]:
    """Faults between keys: place, value and sentence. Looks at raw data, so that faults of single keys do not hide them.

    Args:
        data: what the YAML says.
        defaults: of the top-level keys that it does not give.
    """
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
