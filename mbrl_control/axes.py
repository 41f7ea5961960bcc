"""What each command axis sets: the position or the speed of something measured, or an effort that only physics turns into motion."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from mbrl_control.schema import CommandSignal, StateSignal

Kind = Literal["position", "speed", "effort"]
KINDS: dict[str, Kind] = {"m": "position", "rad": "position", "m/s": "speed", "rad/s": "speed"}


@dataclass(frozen=True)
class Axis:
    """A command axis beside the state; indices are those of the state vector.

    Attributes:
        kind: by the command's unit; what is neither a position nor a speed is an effort.
        tracks: signal that the command sets a target for, in the same unit; None for efforts and where nothing measures it.
        position: signal whose position the command sets, or moves at the commanded speed; None where there is none.
        rate: speed that braking opposes; None where nothing measures it.
    """

    kind: Kind
    tracks: int | None
    position: int | None
    rate: int | None


def _first(found: list[int]) -> int | None:
    return found[0] if found else None


def axis_of(command: CommandSignal, number: int, state: Sequence[StateSignal]) -> Axis:
    """What a command sets: what its key `tracks` names, else the signals of its joint.

    Args:
        command: the command signal.
        number: its place among the commands; a command without a joint is braked by the rate of that place.
        state: all state signals.
    """
    kind = KINDS.get(command.unit, "effort")
    named = [i for i, s in enumerate(state) if s.name == command.tracks]
    same = named or [i for i, s in enumerate(state) if command.joint is not None and s.joint == command.joint]
    tracks = position = None
    if kind != "effort":
        tracks = _first([i for i in same if state[i].unit == command.unit])
        position = tracks
    if kind == "speed":
        whole = None if tracks is None else state[tracks].rate_of
        integral = [i for i in same if f"{state[i].unit}/s" == command.unit]
        position = _first([i for i, s in enumerate(state) if s.name == whole] or integral)
    rates = [i for i, s in enumerate(state) if s.rate_of is not None]
    rate = _first([i for i in rates if i in same] if command.joint is not None else rates[number : number + 1])
    return Axis(kind, tracks, position, rate)


def axes_of(commands: Sequence[CommandSignal], state: Sequence[StateSignal]) -> tuple[Axis, ...]:
    """The axis of every command, in their order."""
    return tuple(axis_of(command, number, state) for number, command in enumerate(commands))
