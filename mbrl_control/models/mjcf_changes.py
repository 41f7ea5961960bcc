"""Physical quantities of a compiled MJCF multiplied by factors: what calibration found, or a robot that changes while it runs."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import mujoco

from mbrl_control.errors import UserError, nearest
from mbrl_control.models import mjcf

KINDS = {"mass": mujoco.mjtObj.mjOBJ_BODY, "damping": mujoco.mjtObj.mjOBJ_JOINT, "friction": mujoco.mjtObj.mjOBJ_JOINT,
         "gear": mujoco.mjtObj.mjOBJ_ACTUATOR}


def change(model: Any, what: str, factor: float) -> None:
    """Multiply a quantity of an `mjModel` in place.

    Args:
        model: the `mjModel`.
        what: `mass:<body>` (mass and inertia), `damping:<joint>`, `friction:<joint>` or `gear:<actuator>`.
        factor: what it is multiplied by, > 0.

    Raises:
        UserError: unknown quantity or name, or a factor that is not positive.
    """
    quantity, _, name = what.partition(":")
    if quantity not in KINDS:
        raise UserError(f"change '{what}': cannot change '{quantity}'{nearest(quantity, list(KINDS))}")
    if not (factor > 0 and math.isfinite(factor)):
        raise UserError(f"change '{what}': factor = {factor} must be a positive number")
    index = mjcf.find(model, KINDS[quantity], name, f"change '{what}'")
    if quantity == "mass":
        model.body_mass[index] *= factor
        model.body_inertia[index] *= factor
    elif quantity == "gear":
        model.actuator_gear[index] *= factor
    else:
        values = model.dof_damping if quantity == "damping" else model.dof_frictionloss
        values[model.jnt_dofadr[index]] *= factor
    # Derived constants (subtree masses, inverse weights) are recomputed on scratch data: mj_setConst moves the state it is given.
    mujoco.mj_setConst(model, mujoco.MjData(model))


def apply(model: Any, changes: Mapping[str, float]) -> Any:
    """An `mjModel` with all of these changes made in it; see `change`."""
    for what, factor in changes.items():
        change(model, what, factor)
    return model
