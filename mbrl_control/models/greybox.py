"""Grey-box ensemble: the robot's nominal physics predicts, and the networks learn only what it does not explain."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Annotated, Any, ClassVar

import casadi as ca
import numpy as np
import torch
from pydantic import Field

from mbrl_control.errors import SnapshotError, UserError
from mbrl_control.models import casadi_torch, chebyshev, ensemble, equations
from mbrl_control.models.encoding import Encoding
from mbrl_control.models.expressions import SYSTEMS
from mbrl_control.robot import RobotSpec
from mbrl_control.store.snapshot import Snapshot

KIND = "greybox"
WHO = "models 'greybox'"
NOMINAL = "nominal"
STAGES = 5


@dataclass(frozen=True)
class Options(ensemble.Options):
    """Settings of the grey-box ensemble: those of the ensemble, and one more.

    Attributes:
        substeps: integration steps of the physics per model step (of order 2, stable for rates that decay up to 15.7 times as fast as a
            substep). A fit and a plan take nearly so many times as long.
    """

    substeps: Annotated[int, Field(ge=1, le=50)] = 2


def rate_of(known: equations.Equations, commands: int) -> Any:
    """CasADi function (x [S], u [A]) to xdot [S], in the order of the robot's own signals."""
    x, u = ca.SX.sym("x", len(known.order)), ca.SX.sym("u", commands)
    inputs = [ca.SX(0) for _ in known.system.inputs]
    for place, command in zip(known.driven, known.command, strict=True):
        inputs[int(place)] = u[int(command)]
    rate = known.system.rate(x[known.order.tolist()], ca.vertcat(*inputs), known.parameters)
    return ca.Function("rate", [x, u], [ca.cse(ca.densify(rate)[np.argsort(known.order).tolist()])])


class Nominal:
    """A robot's nominal equations over one model step, as a prior for an ensemble.

    Args:
        spec: the robot.
        substeps: integration steps (see `chebyshev`), the command held.

    Attributes:
        parameters: of the equations, by name, SI units.

    Raises:
        UserError: the robot has no key `nominal`, or one that does not fit its signals.
    """

    def __init__(self, spec: RobotSpec, substeps: int) -> None:
        if spec.nominal is None:
            raise UserError(f"{WHO}: robot '{spec.name}' has no key 'nominal' with the equations that the networks correct; give it, e.g. "
                            f"nominal: {{system: {next(iter(SYSTEMS))}}} (known: {', '.join(SYSTEMS)}), or use model.kind: ensemble")
        known = equations.of(spec, equations.Options(), WHO)
        self.parameters: Mapping[str, float] = known.parameters
        self._rate = casadi_torch.translate(rate_of(known, spec.action_dim))
        self._scheme, self._h, self._substeps = chebyshev.scheme(STAGES), spec.model_dt / substeps, substeps

    def __call__(self, state: torch.Tensor, action: torch.Tensor) -> torch.Tensor:
        """[..., S] the state after a model step, of state [..., S] and action [..., A] (equal leading shapes)."""
        x, u = state.movedim(-1, 0).contiguous(), action.movedim(-1, 0)
        for _ in range(self._substeps):
            x = chebyshev.step(lambda y: self._rate(y, u), x, self._h, self._scheme)
        return x.movedim(0, -1)


def check_mirror(nominal: Nominal, encoding: Encoding, spec: RobotSpec) -> None:
    """Refuse equations that are not symmetric in the mirror that the robot is said to be symmetric in.

    Raises:
        UserError: they are not; somewhere the mirrored prediction is not the prediction of what is mirrored.
    """
    rng = np.random.default_rng(0)
    state = torch.as_tensor(rng.normal(size=(64, spec.state_dim)))
    action = torch.as_tensor(rng.uniform(spec.action_low, spec.action_high, (64, spec.action_dim)))
    signs, sign = torch.as_tensor(encoding.state_sign), torch.as_tensor(encoding.action_sign)
    gap = (nominal(state, action) - signs * nominal(signs * state, sign * action)).abs().amax(0)
    worst = int(gap.argmax())
    if gap[worst] > 1e-9:
        raise UserError(f"{WHO}: model.mirror = {spec.model.mirror} is no symmetry of the nominal equations: one step ahead "
                        f"'{spec.state_names[worst]}' differs by up to {float(gap[worst]):.3g}; leave model.mirror out, or the parameter "
                        f"of 'nominal' that breaks it (such as an offset)")


class GreyBox(ensemble.Ensemble):
    """An ensemble beside nominal equations: x' = physics(x, u) + what the networks have learned (residual physics: Zeng et al. 2020).

    Its snapshots hold the parameters of the equations as array `nominal`, in the order of the system; others are refused.
    """

    kind: ClassVar[str] = KIND

    def __init__(self, spec: RobotSpec, options: Options) -> None:
        self.nominal = Nominal(spec, options.substeps)
        super().__init__(spec, options, self.nominal)
        if self.encoding.mirrored:
            check_mirror(self.nominal, self.encoding, spec)

    def _arrays(self) -> dict[str, torch.Tensor]:
        return super()._arrays() | {NOMINAL: torch.tensor(list(self.nominal.parameters.values()), dtype=torch.float64)}

    def _check(self, snapshot: Snapshot) -> None:
        super()._check(snapshot)
        for (name, here), there in zip(self.nominal.parameters.items(), snapshot.weights[NOMINAL], strict=True):
            if here != there:
                raise SnapshotError(f"snapshot version {snapshot.version} was fitted beside equations with {name} = {there:g}, not "
                                    f"{here:g} as '{self.spec.name}' has now; fit it again with this robot's YAML")


def build(spec: RobotSpec, options: Options | None = None) -> GreyBox:
    """A grey-box ensemble for a robot, not yet fitted (version 0)."""
    return GreyBox(spec, options or Options())
