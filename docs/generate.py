"""Writes robot_yaml.md from the schema and modes.md from the table of faults: `python docs/generate.py`. Tests fail while they are old."""

from __future__ import annotations

import dataclasses
import math
import re
from pathlib import Path
from typing import Any, Literal, get_args, get_origin, get_type_hints

from pydantic.fields import FieldInfo

from mbrl_control import parts, robot, schema
from mbrl_control.runtime.controller import LOST, OLD
from mbrl_control.runtime.faults import FAULTS, MEANINGS, Mode
from mbrl_control.runtime.supervisor import BRAKE_S, HEALTHY_S

TARGET = Path(__file__).parent / "robot_yaml.md"
HEAD = """\
# The robot YAML: every key

Made from the schema by `python docs/generate.py`; do not edit. A complete example stands in the [README](../README.md); the robots that
ship with the library lie in `mbrl_control/robots/`.

All numbers are finite and in SI units, angles in radians. Unknown keys, a text where a number belongs, aliases, and names of signals that
do not exist are refused, all mistakes at once, each with file, line and the nearest valid key.

"""
MODES_TARGET = Path(__file__).parent / "modes.md"
MODES_HEAD = """\
# Modes and faults

Made from the code by `python docs/generate.py`; do not edit. The controller's tick is always in one of these modes; what changed it is
published on `/diagnostics` in the same tick, and recorded with every command.

| mode | what is sent |
|---|---|
{modes}

Severity rises at once. DEGRADED ends with its fault. BRAKE and HOLD end {healthy:g} s after the last fault that asks for them;
BRAKE becomes HOLD after {brake:g} s. LATCHED ends by the service `~/reset` (std_srvs/Trigger), which is refused while the fault is
still present; control then goes on {healthy:g} s later. It also ends with deactivation: the next activation starts clean, and control
begins with the first state, unless a fault is present then.

The state is old from {old:g} of `state_timeout_s` on (not before two ticks), stale from `state_timeout_s` on, and lost from {lost:g}
times that on.

An emergency stop is a `std_msgs/Bool` on the topic `estop`: true presses it, and counts in the next tick even when false has followed
by then. Publishers of any quality of service are heard. The button must repeat its position, at 10 Hz or more: a message can be lost,
and one from before the controller was configured is never delivered. A press that was released before activation does not count. With
the parameter `heartbeat_timeout_s` the silence of the topic `heartbeat` (`std_msgs/Empty`) counts as an emergency stop.

| fault | mode | what happened | what to do |
|---|---|---|---|
{faults}
"""
SECTIONS = [
    ("Top level", robot.RobotSpec), ("`state`: a list of", schema.StateSignal), ("`command`: a list of", schema.CommandSignal),
    ("`cost`", schema.CostSpec), ("`success`", schema.SuccessSpec), ("`success.conditions`: a list of", schema.Condition),
    ("`model`", schema.ModelSpec), ("`planner`", schema.PlannerSpec), ("`trainer`", schema.TrainerSpec),
    ("`policies`: a list of", schema.PolicySpec), ("`nominal`", schema.NominalSpec),
    ("`nominal.measured`: a list of", schema.MeasuredInput), ("`intervals`", schema.IntervalsSpec), ("`sim`", schema.SimSpec),
    ("`csv`", schema.CsvSpec), ("`safety`", schema.SafetySpec),
]
SYMBOLS = {"gt": "> {}", "ge": "≥ {}", "lt": "< {}", "le": "≤ {}", "min_length": "at least {} long", "max_length": "at most {} long"}


def kind_of(annotation: Any) -> tuple[str, list[str]]:
    """A type in words, and its limits."""
    origin, inside = get_origin(annotation), get_args(annotation)
    if hasattr(annotation, "__metadata__"):
        word, limits = kind_of(inside[0])
        return word, limits + limits_of(annotation.__metadata__)
    if origin is Literal:
        return " or ".join(f"`{value}`" for value in inside), []
    if origin in (list, tuple, dict) or annotation in (list, dict):
        word, limits = kind_of(inside[-1]) if inside else ("values", [])
        shown = {list: f"list of {word.removesuffix('s')}s", tuple: f"[{word}, {word}]", dict: f"names to {word}"}
        return shown[origin or annotation], limits
    if inside:  # X | None and other unions
        found = [kind_of(part) for part in inside if part is not type(None)]
        return " or ".join(word for word, _ in found), [limit for _, limits in found for limit in limits]
    words = {float: "number", int: "whole number", str: "text", bool: "true or false"}
    return words.get(annotation, "section" if isinstance(annotation, type) and issubclass(annotation, schema.Strict) else "value"), []


def limits_of(metadata: Any) -> list[str]:
    """Limits as pydantic keeps them, in words."""
    out = []
    for item in metadata:
        if isinstance(item, FieldInfo):
            out += limits_of(item.metadata)
        for name, words in SYMBOLS.items():
            if getattr(item, name, None) is not None:
                out.append(words.format(f"{getattr(item, name):g}"))
        if getattr(item, "pattern", None):
            out.append(f"matches `{item.pattern}`")
    return out


def shown(value: Any) -> str:
    """A default as YAML would have it."""
    if value is None or isinstance(value, schema.Strict):
        return "–"
    if value in ("", [], {}):
        return "empty"
    return f"`{str(value).lower() if isinstance(value, bool) else f'{value:g}' if isinstance(value, float) else value}`"


def row(key: str, annotation: Any, metadata: Any, default: str, text: str) -> str:
    """A line of a table."""
    word, limits = kind_of(annotation)
    cells = (f"`{key}`", word, default, ", ".join(dict.fromkeys([*limits, *limits_of(metadata)])) or "–", text)
    return "| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |"


def table(rows: list[str]) -> str:
    """A table of keys."""
    return "\n".join(["| key | type | default | allowed | meaning |", "|---|---|---|---|---|", *rows]) + "\n\n"


def section(title: str, spec: type[schema.Strict]) -> str:
    """A part of the schema."""
    rows = []
    for key, info in spec.model_fields.items():
        if not info.description:
            raise SystemExit(f"{spec.__name__}.{key} has no description")
        default = "required" if info.is_required() else shown(info.get_default(call_default_factory=True))
        rows.append(row(key, info.annotation, info.metadata, default, info.description))
    text = " ".join((spec.__doc__ or "").split())
    return f"## {title}\n\n{text}\n\n{table(rows)}"


def attributes(options: type) -> dict[str, str]:
    """Meaning of each option, from its class' docstring, and from those of the classes that it extends."""
    texts = [(kind.__doc__ or "").partition("Attributes:")[2] for kind in reversed(options.__mro__)]
    return {name: " ".join(words.split()) for text in texts
            for name, words in re.findall(r"^\s{8}(\w+): (.*?)(?=^\s{8}\w+: |\Z)", text, re.M | re.S)}


def options_of(package: str, key: str) -> str:
    """The options of every part of a package."""
    out = []
    for kind in parts.kinds(package):
        module = parts.find(package, kind)
        hints, meaning = get_type_hints(module.Options, include_extras=True), attributes(module.Options)
        rows = []
        for item in dataclasses.fields(module.Options):
            value = item.default_factory() if item.default_factory is not dataclasses.MISSING else item.default
            default = "required" if value is dataclasses.MISSING else shown(value)
            if item.name not in meaning:
                raise SystemExit(f"{package} '{kind}': option {item.name} is not told in the docstring of its Options")
            rows.append(row(item.name, hints[item.name], (), default, meaning[item.name]))
        first = (module.__doc__ or "").strip().splitlines()[0]
        out.append(f"### `{key}.kind: {kind}`\n\n{first}\n\n" + (table(rows) if rows else "It has no options.\n\n"))
    return f"## Options of `{key}`\n\n" + "".join(out)


def document() -> str:
    """The whole page."""
    body = "".join(section(title, spec) for title, spec in SECTIONS)
    body += "".join(options_of(package, key) for package, key in (("costs", "cost"), ("models", "model"), ("planning", "planner")))
    return HEAD + body.rstrip() + "\n"


def modes_document() -> str:
    """The page of modes and faults."""
    modes = [f"| {mode.name} | {MEANINGS[mode]} |" for mode in Mode]
    rows = []
    for fault in FAULTS.values():
        mode = fault.mode.name if fault.mode >= Mode.DEGRADED else "only told"
        latch = f", LATCHED after {fault.latch_s:g} s" if math.isfinite(fault.latch_s) else ""
        rows.append(f"| `{fault.code}` | {mode}{latch} | {fault.sentence} | {fault.action} |")
    return MODES_HEAD.format(modes="\n".join(modes), faults="\n".join(rows), healthy=HEALTHY_S, brake=BRAKE_S, old=OLD, lost=LOST)


if __name__ == "__main__":
    TARGET.write_text(document(), "utf-8")
    MODES_TARGET.write_text(modes_document(), "utf-8")
