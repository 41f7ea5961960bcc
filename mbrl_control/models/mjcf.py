"""Between a robot's vectors and its MuJoCo model: which joint is which signal, which actuator which command."""

from __future__ import annotations

import contextlib
import functools
import importlib.util
import itertools
import re
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import mujoco
import numpy as np

from mbrl_control import guarded
from mbrl_control.errors import UserError, nearest
from mbrl_control.models import mjcf_trial
from mbrl_control.robot import RobotSpec
from mbrl_control.schema import SimSpec, StateSignal

CAPS = guarded.Caps(wall_s=10.0, memory_bytes=2 << 30)
WORK_S, WORK_S_PER_MB = 0.5, 1.0
"""Processor time that compiling may take: at least, and for each megabyte of meshes, textures and other files that are named."""

_NAMED = re.compile(rb"(?:file|filename)\s*=\s*[\"']([^\"']+)[\"']")
MOST_NAMED = 1000

URDF = ".urdf"
MEMORY_MB = int(SimSpec.model_fields["memory_mb"].default)
UNITS = {
    (mujoco.mjtJoint.mjJNT_HINGE, "position"): "rad",
    (mujoco.mjtJoint.mjJNT_HINGE, "velocity"): "rad/s",
    (mujoco.mjtJoint.mjJNT_SLIDE, "position"): "m",
    (mujoco.mjtJoint.mjJNT_SLIDE, "velocity"): "m/s",
}


def sim_of(spec: RobotSpec) -> SimSpec:
    """The robot's `sim` section.

    Raises:
        UserError: it has none.
    """
    if spec.sim is None:
        raise UserError(f"robot '{spec.name}' has no key 'sim'; give 'sim: {{mjcf: …, actuators: […]}}' to simulate it")
    return spec.sim


def memory_of(spec: RobotSpec) -> int:
    """What reading a robot's MJCF may take, MB."""
    return spec.sim.memory_mb if spec.sim else MEMORY_MB


def assets() -> Path | None:
    """Folder of the MJCF files that ship with `mbrl_sim`; None where that package is not installed."""
    found = importlib.util.find_spec("mbrl_sim")
    places = list(found.submodule_search_locations or ()) if found else []
    return Path(places[0]) / "assets" if places else None


def locate(mjcf: str, base: Path | None = None) -> Path:
    """Find an MJCF file: in `base` (the YAML's folder), else among the shipped assets, else as a path of its own.

    Raises:
        UserError: there is no such file.
    """
    shipped = assets()
    places = [folder / mjcf for folder in (base, shipped) if folder is not None] + [Path(mjcf)]
    for place in places:
        if place.is_file():
            return place
    names = sorted(p.name for p in shipped.glob("*.xml")) if shipped else []
    raise UserError(f"sim.mjcf = '{mjcf}' is no file (looked at {', '.join(map(str, places))}){nearest(mjcf, names)}")


def read(path: Path, memory_mb: int = MEMORY_MB) -> Any:
    """Compile an MJCF (or URDF, see `edited`) to an `mjModel`. One that does not ship with `mbrl_sim` is tried in a child process before.

    Args:
        path: of the file.
        memory_mb: that its compilation, or the model and its data, may take here; see `memory_of`.

    Raises:
        UserError: MuJoCo refuses the file (its own words are passed on), crashes on it, or takes too long or too much memory. This
            process has then taken none for it.
    """
    shipped = assets()
    if shipped is None or shipped.resolve() not in path.resolve().parents:
        try:
            changed = path.stat()
        except OSError as error:
            raise UserError(f"{path}: cannot be read: {error.strerror}") from error
        needs_mb = _try(path.resolve(), changed.st_mtime_ns, changed.st_size) / 2**20
        if needs_mb > memory_mb:
            raise UserError(f"{path}: this MJCF takes {needs_mb:.0f} MB of memory, more than the {memory_mb} MB that are allowed; use "
                            "smaller textures, height fields and meshes or a smaller <size memory>, or, if you trust where it comes from, "
                            "raise sim.memory_mb (at most 1024)")
    try:
        return edited(path).compile() if path.suffix.lower() == URDF else mujoco.MjModel.from_xml_path(str(path))
    except ValueError as error:
        raise UserError(f"{path}: MuJoCo cannot load this MJCF: {' '.join(str(error).split())}") from error


def edited(path: Path) -> Any:
    """An MJCF or URDF as an `mujoco.MjSpec`. A URDF knows no actuators: each of its joints gets a motor of the joint's name.

    Args:
        path: of a file that `read` has found good.
    """
    made = mujoco.MjSpec.from_file(str(path))
    if path.suffix.lower() == URDF:
        for joint in made.joints:
            low, high = joint.actfrcrange
            limits = {"ctrllimited": mujoco.mjtLimited.mjLIMITED_TRUE, "ctrlrange": [low, high]} if low < high else {}
            made.add_actuator(name=joint.name, trntype=mujoco.mjtTrn.mjTRN_JOINT, target=joint.name, **limits)
    return made


def work_s(path: Path) -> float:
    """Processor time that compiling an MJCF may take, s, by the size of what it and the files that it includes name.

    Where they lie is not looked up as MuJoCo does: the greatest file of a name in the file's own folder and two levels below it counts.

    Args:
        path: of the file.
    """
    sizes: dict[str, int] = {}
    for place in itertools.islice(itertools.chain(*(path.parent.glob(pattern) for pattern in ("*", "*/*", "*/*/*"))), MOST_NAMED):
        if place.is_file():
            sizes[place.name] = max(place.stat().st_size, sizes.get(place.name, 0))
    seen, left = set[str](), [path]
    while left and len(seen) < MOST_NAMED:
        with contextlib.suppress(OSError):
            for name in {found.decode("utf-8", "replace").rpartition("/")[2] for found in _NAMED.findall(left.pop().read_bytes())} - seen:
                seen.add(name)
                left += [path.parent / name] if name.endswith(".xml") and (path.parent / name).is_file() else []
    return min(WORK_S + WORK_S_PER_MB * sum(sizes.get(name, 0) for name in seen) / 2**20, CAPS.wall_s)


@functools.lru_cache(maxsize=32)  # a plant and a known model of one run read the same file
def _try(path: Path, mtime_ns: int, size: int) -> int:
    """Bytes that a file takes."""
    caps = replace(CAPS, work_s=work_s(path))
    took = guarded.call(mjcf_trial.trial, str(path), what=f"{path}: MuJoCo cannot load this MJCF", caps=caps)
    # The compiler holds assets several times: with a height field that is a third of a gigabyte in the end it takes 1.3 GB for a moment.
    return max(int(took["peak"]), int(took["model"]) + int(took["data"]))


def find(model: Any, kind: mujoco.mjtObj, name: str, asked_by: str) -> int:
    """Index of a named object of an `mjModel`.

    Args:
        model: the `mjModel`.
        kind: what it is: joint, actuator, body, …
        name: its name in the MJCF.
        asked_by: start of the message, e.g. `state 'x'`.

    Raises:
        UserError: no such name; the sentence has the nearest.
    """
    index = int(mujoco.mj_name2id(model, kind, name))
    if index < 0:
        word = str(kind.name).removeprefix("mjOBJ_").lower()
        count = {"joint": model.njnt, "actuator": model.nu, "body": model.nbody}[word]
        known = [n for n in (mujoco.mj_id2name(model, kind, i) for i in range(count)) if n and n != "world"]
        raise UserError(f"{asked_by}: the MJCF has no {word} '{name}'{nearest(name, known)}")
    return index


def whole_steps(seconds: float, timestep: float, what: str) -> int:
    """How many physics steps make up `seconds`.

    Raises:
        UserError: not a whole number of at least 1.
    """
    count = round(seconds / timestep)
    if count < 1 or abs(count * timestep - seconds) > 1e-9:
        raise UserError(f"{what} = {seconds:g} s is no multiple of the MJCF's timestep {timestep:g} s; change one of them")
    return count


class SignalMap:
    """Addresses of a robot's signals in an `mjModel`, by joint and actuator name, whatever their order in the MJCF.

    Attributes:
        address: [S] index of each state signal in (qpos, qvel) put end to end.
        actuator: [A] index of each command in ctrl.
    """

    def __init__(self, model: Any, spec: RobotSpec) -> None:
        self.address = np.array([self._address(model, signal) for signal in spec.state])
        names = sim_of(spec).actuators
        self.actuator = np.array([find(model, mujoco.mjtObj.mjOBJ_ACTUATOR, name, f"sim.actuators of '{spec.name}'") for name in names])
        for signal, name, i in zip(spec.command, names, self.actuator, strict=True):
            low, high = model.actuator_ctrlrange[i]
            if model.actuator_ctrllimited[i] and (signal.limits[0] < low - 1e-9 or signal.limits[1] > high + 1e-9):
                raise UserError(f"command '{signal.name}': limits {list(signal.limits)} go beyond actuator '{name}' of the MJCF, "
                                f"whose ctrlrange is [{low:g}, {high:g}]")

    @staticmethod
    def _address(model: Any, signal: StateSignal) -> int:
        who = f"state '{signal.name}'"
        if signal.joint is None:
            raise UserError(f"{who} has no key 'joint'; in simulation every state signal is a joint's position or velocity")
        joint = find(model, mujoco.mjtObj.mjOBJ_JOINT, signal.joint, who)
        unit = UNITS.get((mujoco.mjtJoint(model.jnt_type[joint]), signal.field))
        if unit is None:
            raise UserError(f"{who}: field '{signal.field}' of joint '{signal.joint}' cannot be simulated; "
                            "use 'position' or 'velocity' of a hinge or slide joint")
        if unit != signal.unit:
            raise UserError(f"{who} is in {signal.unit}, but the {signal.field} of joint '{signal.joint}' is in {unit} in the MJCF")
        return int(model.jnt_qposadr[joint] if signal.field == "position" else model.nq + model.jnt_dofadr[joint])

    def missing(self, model: Any) -> list[str]:
        """Joints of which no signal gives the position or the velocity: with any, the state does not determine the future."""
        seen = set(self.address.tolist())
        return [str(model.joint(j).name) for j in range(model.njnt)
                if not {int(model.jnt_qposadr[j]), int(model.nq + model.jnt_dofadr[j])} <= seen]


def whole_state(model: Any, spec: RobotSpec, path: Path) -> SignalMap:
    """The signals of a robot whose state vector is all that the model's future depends on.

    Args:
        model: the `mjModel`.
        spec: the robot.
        path: of the MJCF, for messages.

    Raises:
        UserError: actuators with hidden states, joints that are not measured, or names that do not fit.
    """
    found = SignalMap(model, spec)
    if model.na:
        raise UserError(f"{path}: its actuators have {model.na} hidden states, which '{spec.name}' does not measure; "
                        "use actuators without dynamics")
    if unseen := found.missing(model):
        raise UserError(f"models 'mujoco': '{spec.name}' does not measure position and velocity of joint {', '.join(unseen)}; "
                        "add them to `state` or use a learned model")
    return found


def drive(spec: RobotSpec) -> Callable[[np.ndarray], np.ndarray] | None:
    """What the robot's drives make of commands [A] before they reach the MJCF's actuators; see `equations.drive`."""
    if spec.nominal is None or not spec.nominal.extras:
        return None
    from mbrl_control.models import equations  # noqa: PLC0415  (CasADi: only for robots that say so)

    return equations.drive(spec)
