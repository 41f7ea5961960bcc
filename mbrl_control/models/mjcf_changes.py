"""Physical quantities of a compiled MJCF multiplied by factors: what calibration found, or a robot that changes while it runs."""

from __future__ import annotations

import math
from typing import Any

import mujoco

from mbrl_control.errors import UserError, nearest
from mbrl_control.models import mjcf
from mbrl_control.schema import SimSpec

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


def put(model: Any, what: str, value: float) -> None:
    """Set a quantity of a joint of an `mjModel` in place.

    Args:
        model: the `mjModel`.
        what: `damping:<joint>`, `friction:<joint>` (dry) or `armature:<joint>`.
        value: SI units, at least 0.

    Raises:
        UserError: unknown quantity or name.
    """
    quantity, _, name = what.partition(":")
    arrays = {"damping": model.dof_damping, "friction": model.dof_frictionloss, "armature": model.dof_armature}
    if quantity not in arrays:
        raise UserError(f"sim.values '{what}': cannot set '{quantity}'{nearest(quantity, list(arrays))}")
    index = mjcf.find(model, mujoco.mjtObj.mjOBJ_JOINT, name, f"sim.values '{what}'")
    arrays[quantity][model.jnt_dofadr[index]] = value
    mujoco.mj_setConst(model, mujoco.MjData(model))


def apply(model: Any, sim: SimSpec) -> Any:
    """An `mjModel` with all that a robot's `sim` section changes; see `change` and `put`."""
    for what, factor in sim.changes.items():
        change(model, what, factor)
    for what, value in sim.values.items():
        put(model, what, value)
    return model
