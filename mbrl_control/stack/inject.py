"""Disturb a running stack on purpose: find the processes of its nodes, and do to one of them what a schedule says."""

from __future__ import annotations

import contextlib
import itertools
import os
import resource
import signal
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

from mbrl_control import robot
from mbrl_control.errors import UserError
from mbrl_control.process_name import RECORDS, called
from mbrl_control.robot import RobotSpec
from mbrl_control.runtime.injection import Step

KEEPER = "keeper"
NODES = ("controller", "planner", "trainer", "recorder", "sim")
STANDBY = "standby"
_MODULES = {f"mbrl_control_ros.{name}_node": name for name in NODES} | {
    "mbrl_control.runtime.planner_keeper": KEEPER, "mbrl_control_ros.recorder_standby": STANDBY}


@dataclass(frozen=True)
class Running:
    """A process of a stack.

    Attributes:
        pid: its id.
        parent: that of its parent; of the planner, that of its keeper's.
        name: of the node.
        arguments: its command line.
    """

    pid: int
    parent: int
    name: str
    arguments: tuple[str, ...]


def processes(proc: Path = Path("/proc")) -> list[Running]:
    """The nodes that run on this machine and whose command lines can be read."""
    found = []
    for folder in proc.iterdir():
        with contextlib.suppress(OSError, ValueError, IndexError):  # it has ended meanwhile, or is no process
            arguments = tuple((folder / "cmdline").read_bytes().decode("utf-8", "replace").rstrip("\0").split("\0"))
            name = next((_MODULES[word] for flag, word in itertools.pairwise(arguments)
                         if flag == "-m" and word in _MODULES), None)
            if name == STANDBY and called(folder) == RECORDS:
                name = "recorder"
            if name is not None:
                parent = int((folder / "stat").read_text().rpartition(")")[2].split()[1])
                found.append(Running(int(folder.name), parent, name, arguments))
    return _targets(found)


def _targets(found: list[Running]) -> list[Running]:
    """A planner is forked by its keeper, which has the same command line. That and what stands by are nobody's target."""
    keepers = {p.pid: p for p in found if p.name == KEEPER}
    planners = [replace(p, name="planner", parent=keepers[p.parent].parent) for p in keepers.values() if p.parent in keepers]
    return [p for p in found if p.name not in (KEEPER, STANDBY)] + planners


def of_run(run_dir: Path, everything: list[Running]) -> dict[str, Running]:
    """The processes of one run by node name: those that name its folder, their siblings (the simulator) and children (the planner)."""
    named = [p for p in everything if any(a in (f"run_dir:={run_dir}", f"run_dir:={run_dir}/") for a in p.arguments)]
    parents, own = {p.parent for p in named}, {p.pid for p in named}
    family = [p for p in everything if p.parent in own or (p.name == "sim" and p.parent in parents - {0, 1})]
    return {p.name: p for p in [*family, *named]}


def allowed(run_dir: Path) -> RobotSpec:
    """The robot of a run, if its YAML lets it be disturbed.

    Raises:
        UserError: the folder is of no run, or the robot does not allow it.
    """
    path = run_dir / "robot.yaml"
    if not path.exists():
        raise UserError(f"{run_dir} holds no run: {path} is missing; name the folder of a running stack with --run")
    spec = robot.load(path)
    if not spec.allow_injection:
        raise UserError(f"robot '{spec.name}' does not allow faults to be injected (allow_injection: false in {path}); if nobody can be "
                        "hurt, start the stack with a YAML that says allow_injection: true")
    return spec


def carry_out(steps: list[Step], pid: int, sleep: Callable[[float], None] = time.sleep) -> bool:
    """Do what a schedule says to a process; in the end, and on Ctrl-C, it may go on as before.

    Args:
        steps: in the order of time.
        pid: the process.
        sleep: waits for so many seconds.

    Returns:
        Whether it was there all the time, but for being killed by the schedule.
    """
    begin = time.monotonic()
    try:
        limits = resource.prlimit(pid, resource.RLIMIT_FSIZE)
        try:
            for step in steps:
                sleep(max(0.0, begin + step.time_s - time.monotonic()))
                if step.signal is not None:
                    os.kill(pid, step.signal)
                else:
                    resource.prlimit(pid, resource.RLIMIT_FSIZE, (0, limits[1]) if step.limited else limits)
        finally:
            if not any(s.signal == signal.SIGKILL for s in steps):
                resource.prlimit(pid, resource.RLIMIT_FSIZE, limits)
                os.kill(pid, signal.SIGCONT)
    except ProcessLookupError:
        return False
    except PermissionError as error:
        raise UserError(f"process {pid} belongs to another user; run the command as that user") from error
    return True
