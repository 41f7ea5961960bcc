"""Whether the parts that a robot names can be built from what it says, asked before anything is started or written."""

from __future__ import annotations

from typing import Any

from mbrl_control import parts
from mbrl_control.errors import UserError
from mbrl_control.robot import RobotSpec
from mbrl_control.schema import CostSpec, ModelSpec, PlannerSpec, PolicySpec


def check_parts(spec: RobotSpec) -> None:
    """Try the options of all of a robot's parts, before anything is started or written.

    Raises:
        UserError: every fault in one sentence each.
    """
    faults = []
    chosen: list[tuple[str, CostSpec | ModelSpec | PlannerSpec | PolicySpec]] = [
        ("costs", spec.cost), ("models", spec.model), ("planning", spec.planner), *(("policies", policy) for policy in spec.policies)]
    for package, part in chosen:
        try:
            made = parts.options(package, part.kind, part.options)
            if package == "costs" or (package, part.kind) in (("models", "greybox"), ("policies", "learned")):
                parts.find(package, part.kind).build(spec, made)
            if isinstance(part, PolicySpec) and part.value:
                _check_value(spec, part, made)
        except UserError as error:
            faults.append(str(error))
    if spec.safety.backup and spec.safety.model == "casadi":
        from mbrl_control.models import equations  # noqa: PLC0415  (only robots that use CasADi wait for it)

        try:
            equations.of(spec, parts.fill(equations.Options, "safety.options", spec.safety.options), "safety.options")
        except UserError as error:
            faults.append(str(error))
    if faults:
        raise UserError("\n".join(faults))


def _check_value(spec: RobotSpec, policy: PolicySpec, made: Any) -> None:
    """Refuse to end plans with a critic that does not judge the states in which candidates end.

    Raises:
        UserError: it is such a one.
    """
    from mbrl_control.policies.base import Policy  # noqa: PLC0415  (needs torch, which few robots wait for here)

    if not isinstance(parts.find("policies", policy.kind).build(spec, made), Policy):
        raise UserError(f"policies '{policy.kind}': value = true, but its critic judges latent states, not the states in which candidates "
                        "end; leave `value` out")
