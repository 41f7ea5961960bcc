"""Terms that equations of motion may have besides: Stribeck friction; dead band, saturation, gain and offset of the drives. All smooth."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import casadi as ca

from mbrl_control.errors import UserError
from mbrl_control.models.expressions import STIFF, STRIBECK, System
from mbrl_control.models.parameter import Parameter
from mbrl_control.robot import RobotSpec

STRIBECK_TERM, ACTUATOR = "stribeck", ("dead_band", "saturation", "gain", "offset")

SOFT = 0.01
"""Half ranges of a command over which corners of dead band and saturation are rounded, so that a search can find them."""

SLOWEST, FASTEST, TYPICAL = 0.02, 20.0, 0.2
"""Stribeck speeds, rad/s or m/s: below the first, dry friction itself is not at its full height."""

TRIES = (1.0, 0.8, 0.6, 0.45, 0.3)
BANDS = (0.0, 0.05, 0.15)
SPEEDS = (0.05, 0.2, 1.0)


@dataclass(frozen=True)
class Extras:
    """The terms that a robot's `nominal.extras` switches on.

    Attributes:
        kinds: of them.
        terms: their parameters; each starts where it does nothing, but Stribeck's speed.
        inputs: name of the system's input for each command [A].
        soft: [A] rounding of corners, in each command's unit.
    """

    kinds: tuple[str, ...] = ()
    terms: tuple[Parameter, ...] = ()
    inputs: tuple[str, ...] = ()
    soft: tuple[float, ...] = ()

    @property
    def actuators(self) -> bool:
        """Whether any term is one of the drives."""
        return any(kind in ACTUATOR for kind in self.kinds)

    def acting(self, u: Any, p: Mapping[str, Any]) -> list[Any]:
        """What the drives make of commands u [A], in the commands' units: gain sat(u beyond the dead band) + offset.

        Numbers, arrays or CasADi expressions; p holds parameters by name.
        """
        return [self._one(u[i], name, soft, p) for i, (name, soft) in enumerate(zip(self.inputs, self.soft, strict=True))]

    def _one(self, u: Any, name: str, soft: float, p: Mapping[str, Any]) -> Any:
        if "dead_band" in self.kinds:
            u = u - limited(u, p[f"dead_band_{name}"], soft)
        if "saturation" in self.kinds:
            u = limited(u, p[f"saturation_{name}"], soft)
        if "gain" in self.kinds:
            u = p[f"gain_{name}"] * u
        return u + p[f"offset_{name}"] if "offset" in self.kinds else u


def limited(u: Any, level: Any, soft: float) -> Any:
    """u between -level and level, corners rounded over about `soft`; 0 for a level of 0."""
    return 0.5 * (((u + level) ** 2 + soft**2) ** 0.5 - ((u - level) ** 2 + soft**2) ** 0.5)


def _of_drive(kinds: Sequence[str], name: str, unit: str, most: float) -> Iterator[Parameter]:
    if "dead_band" in kinds:
        yield Parameter(f"dead_band_{name}", unit, "commands up to it do nothing", 0.0, 0.0, most, 0.1 * most, False,
                        tuple(most * share for share in BANDS))
    if "saturation" in kinds:
        yield Parameter(f"saturation_{name}", unit, "beyond it commands do no more", most, SOFT * most, 2 * most, most, False,
                        tuple(most * share for share in TRIES), most)
    if "gain" in kinds:
        yield Parameter(f"gain_{name}", "1", "what comes of a command, as a share", 1.0, 0.0, 10.0, 1.0, False)
    if "offset" in kinds:
        yield Parameter(f"offset_{name}", unit, "what acts without a command", 0.0, -most, most, 0.1 * most)


def of(spec: RobotSpec, kinds: Sequence[str], system: System, inputs: Sequence[str], rates: Sequence[str], who: str) -> Extras:
    """The terms of a robot.

    Args:
        spec: the robot.
        kinds: its `nominal.extras`.
        system: its equations.
        inputs: name of the system's input for each command [A].
        rates: unit of each rate of the system (see `System.rates`).
        who: start of error messages.

    Raises:
        UserError: the equations cannot have these terms.
    """
    if not kinds:
        return Extras()
    if not system.rates:
        raise UserError(f"{who}: these equations know no nominal.extras; leave that key out")
    if "offset" in kinds and "offset" in system.parameters:
        raise UserError(f"{who}: these equations have a parameter 'offset' of their own; leave it out of nominal.extras")
    found: list[Parameter] = []
    if STRIBECK_TERM in kinds:
        for name, unit in zip(system.rates, rates, strict=True):
            effort = "N*m" if unit == "rad/s" else "N"
            found += [Parameter(f"{STIFF}{name}", effort, "dry friction at rest beyond cf (times pi/2)", 0.0, 0.0, math.inf, 0.05),
                      Parameter(f"{STRIBECK}{name}", unit, "speed at which that has fallen to 1/e", TYPICAL, SLOWEST, FASTEST, TYPICAL,
                                False, SPEEDS)]
    half = [(c.limits[1] - c.limits[0]) / 2 for c in spec.command]
    for command, name, size in zip(spec.command, inputs, half, strict=True):
        most = max(abs(limit) for limit in command.limits)
        found += _of_drive(kinds, name, command.unit, most if most > 0 else size)
    return Extras(tuple(kinds), tuple(found), tuple(inputs), tuple(SOFT * size for size in half))


def added(system: System, extras: Extras) -> System:
    """The system with the terms of its drives; friction is the system's own, and finds its parameters by name."""
    if not extras.terms:
        return system
    places = [system.inputs.index(name) for name in extras.inputs]

    def rate(x: Any, u: Any, p: dict[str, float]) -> Any:
        inputs = [u[i] for i in range(len(system.inputs))]
        for place, value in zip(places, extras.acting([inputs[i] for i in places], p), strict=True):
            inputs[place] = value
        return system.rate(x, ca.vertcat(*inputs), p)

    return replace(system, rate=rate, parameters={**system.parameters, **{t.name: t.start for t in extras.terms}})
