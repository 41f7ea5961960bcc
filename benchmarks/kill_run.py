"""One live run and the kill -9 of its processes, seen from outside by an independent subscriber."""

from __future__ import annotations

import os
import re
import shutil
import signal
import tempfile
import threading
import time
from pathlib import Path
from typing import Any

import numpy as np
import processes
import rclpy
from kill_figures import LOOK_S, Kill, Plan, cadence, recorded
from rclpy.context import Context
from rclpy.executors import SingleThreadedExecutor
from rclpy.node import Node

from mbrl_control import robot
from mbrl_control.data.tail import McapTail
from mbrl_control.messages import STAMPED_COMMAND_TOPIC
from mbrl_control.robot import RobotSpec
from mbrl_control.runtime import mailbox
from mbrl_control.runtime.freezes import read
from mbrl_control.stack.leftovers import dead_segments, sweep_dds
from mbrl_control.stack.network import stay_local
from mbrl_control_ros.interfaces import message_class
from mbrl_control_ros.qos import EVERY_OWN

START_S, EARLY, EARLY_S, LATE_S = 30.0, 0.3, 3.0, 2.0
"""A run that ends with a kill has it within `LATE_S` of its first command; a share `EARLY` of them within `EARLY_S` of its process."""

END_S = 30.0
BACK_S = 30.0
SPREAD_S = 1.0
PAUSE_S = 0.1
SILENCE = re.compile(r"no command for ([0-9.]+) ms")


class NothingToKill(Exception):
    """The process to kill was never there; says what the run last said."""


class Listener:
    """An independent subscriber of a robot's stamped and plain commands.

    Args:
        spec: the robot.
        domain: of ROS.

    Attributes:
        arrived: monotonic times at which commands of the robot's first command topic came, s; `published` when they were sent, ns of the
            system's clock.
        stamped: publication times of the stamped twins, ns of the system's clock.
    """

    def __init__(self, spec: RobotSpec, domain: int) -> None:
        self.arrived: list[float] = []
        self.published: list[int] = []
        self.stamped: list[int] = []
        os.environ.update(stay_local(dict(os.environ)))  # a killed process's locks must not stop the one that looks on
        self._context = Context()
        rclpy.init(context=self._context, domain_id=domain)
        self._node = Node("kill_listener", context=self._context)
        first = spec.command[0]
        self._node.create_subscription(message_class(first.type), first.topic, self._plain, EVERY_OWN, raw=True)
        kind = message_class("sensor_msgs/msg/JointState")
        self._node.create_subscription(kind, STAMPED_COMMAND_TOPIC, self._stamp, EVERY_OWN, raw=True)
        self._executor = SingleThreadedExecutor(context=self._context)
        self._executor.add_node(self._node)
        self._stop = False
        self._thread = threading.Thread(target=self._spin, name="listener")
        self._thread.start()

    def _spin(self) -> None:
        while not self._stop:
            self._executor.spin_once(timeout_sec=0.1)

    def _plain(self, _: bytes, info: Any) -> None:
        self.arrived.append(time.monotonic())
        self.published.append(info["source_timestamp"])

    def _stamp(self, _: bytes, info: Any) -> None:
        self.stamped.append(info["source_timestamp"])

    def close(self) -> None:
        """End it; may be called twice."""
        if self._stop:
            return
        self._stop = True
        self._thread.join()
        self._executor.shutdown()
        self._node.destroy_node()
        self._context.try_shutdown()


def dead_files() -> set[str]:
    """Files of dead processes in shared memory; what others on this machine use now is not among them."""
    folder = mailbox.shared_folder()
    boxes = {p.name for p in folder.glob("mbrl-*-*.box") if not processes.alive(int(p.name.split("-")[1]))}
    return boxes | {lock.name for lock in dead_segments(older_s=1.0)}


class Run:
    """One live run and the kills in it.

    Args:
        name: of the robot.
        folder: for the run's files.
        seed: of the run.
        domain: of ROS.
        rng: when is killed.
    """

    def __init__(self, name: str, folder: Path, seed: int, domain: int, rng: np.random.Generator) -> None:
        self.spec, self.folder, self.rng = robot.load(name), folder / "run", rng
        self.shared = dead_files()
        self.listener = Listener(self.spec, domain)
        self.begin = time.monotonic()
        self.process = processes.start(name, self.folder, 600.0, seed, domain)
        self.members: dict[int, str] = {}

    def find(self, role: str) -> int:
        """Process id of a role; 0 for none."""
        seen = processes.family(self.process.pid)
        self.members |= {s.pid: s.role for s in seen}
        return next((s.pid for s in seen if s.role == role), 0)

    def kill(self, role: str) -> Kill | None:
        """Kill a process now; None where there is none."""
        pid = self.find(role)
        if not pid:
            return None
        arrived = self.listener.arrived
        commanding = bool(arrived) and time.monotonic() - arrived[-1] < 0.2
        made = Kill(role, time.monotonic() - self.begin, time.monotonic(), time.time_ns(), commanding)
        os.kill(pid, signal.SIGKILL)
        return made

    def kill_helpers(self, roles: tuple[str, ...]) -> list[Kill]:
        """Kill processes without which the robot goes on, one after the other, while the commands are looked at."""
        made: list[Kill] = []
        awaited: dict[str, tuple[int, Kill]] = {}
        processes.wait(lambda: self.listener.arrived, START_S, PAUSE_S)
        for role in roles:
            self._look_for(awaited, (made[-1].at if made else time.monotonic()) + 2 * LOOK_S + float(self.rng.uniform(0.0, SPREAD_S)))
            processes.wait(lambda role=role: role not in self._see(awaited) and self.find(role), BACK_S, PAUSE_S)
            before = self.find(role)
            if role not in awaited and (one := self.kill(role)) is not None:
                made.append(one)
                awaited[role] = (before, one)
        self._look_for(awaited, time.monotonic() + LOOK_S)
        processes.wait(lambda: not self._see(awaited), BACK_S, PAUSE_S)
        seen = read(self.folder / "freezes.json")
        # Without real-time priority other processes could have made the watcher late.
        freezes = seen.intervals if seen is not None and seen.priority else []
        for one in made:
            cadence(one, self.spec.tick_s, self.listener.arrived, self.listener.stamped, freezes)
        self._read_bag([one for one in made if one.what == "recorder"])
        return made

    def _see(self, awaited: dict[str, tuple[int, Kill]]) -> dict[str, tuple[int, Kill]]:
        """Note who is back; gives who is not."""
        for role, (before, made) in list(awaited.items()):
            if self.find(role) not in (0, before):
                made.back_s = time.monotonic() - made.at
                del awaited[role]
        return awaited

    def _look_for(self, awaited: dict[str, tuple[int, Kill]], until: float) -> None:
        while (left := until - time.monotonic()) > 0:
            self._see(awaited)
            time.sleep(min(PAUSE_S, max(0.0, left)))

    def kill_last(self, role: str, early: bool) -> list[Kill]:
        """Kill a process that the run ends with, and look at what is left; nothing where it was not there.

        Args:
            role: of the process.
            early: the kill may come at any phase, from the process's first instant on.
        """
        if early and float(self.rng.uniform()) < EARLY:
            processes.wait(lambda: self.find(role), START_S, PAUSE_S)
            time.sleep(float(self.rng.uniform(0.0, EARLY_S)))
        else:
            processes.wait(lambda: self.listener.arrived, START_S, PAUSE_S)
            time.sleep(float(self.rng.uniform(0.0, LATE_S)))
        self.find(role)
        made = self.kill(role)
        if made is None:
            return []
        self.find("mbrl")
        members = list(self.members)
        processes.wait(lambda: not any(map(processes.alive, members)), END_S)
        made.ended_s = time.monotonic() - made.at
        made.processes = sum(map(processes.alive, members))
        if role == "controller":
            made.after = int((np.array(self.listener.published) > made.wall_ns + 50_000_000).sum())
        silences = SILENCE.findall(self._log("sim"))
        if role == "controller" and made.commanding and silences:
            made.silence_s = float(silences[-1]) * 1e-3
        self.listener.close()  # its own shared memory is no leftover
        left = dead_files() - self.shared
        made.shared = len(left)
        mailbox.sweep()
        sweep_dds(older_s=1.0)
        made.shared_after = len(left & dead_files())
        made.temporary = [str(p.relative_to(self.folder)) for p in self.folder.rglob("*") if p.name.endswith((".tmp", ".partial"))]
        return [made]

    def _log(self, name: str) -> str:
        """What a node printed."""
        path = self.folder / "logs" / f"{name}.log"
        return path.read_text("utf-8", "replace") if path.exists() else ""

    def _read_bag(self, kills: list[Kill]) -> None:
        """What of the commands the bag's parts hold, after time for the last of them to be written."""
        held = [m.publish_ns for part in sorted((self.folder / "bag").glob("*.mcap"))
                for m in McapTail(part, [STAMPED_COMMAND_TOPIC]).read()]
        recorded(kills, self.listener.stamped, held)

    def end(self) -> None:
        """Leave nothing running."""
        self.listener.close()
        self.find("mbrl")
        for pid in [*self.members, self.process.pid]:
            if processes.alive(pid):
                os.kill(pid, signal.SIGKILL)
        self.process.wait()
        processes.wait(lambda: not any(map(processes.alive, self.members)), END_S)


def carry_out(plan: Plan, name: str, seed: int, domain: int, rng: np.random.Generator) -> list[Kill]:
    """The kills of one run.

    Args:
        plan: which.
        name: of the robot.
        seed: of the run.
        domain: of ROS.
        rng: when is killed.

    Raises:
        NothingToKill: the run did not come so far.
    """
    folder = Path(tempfile.mkdtemp(prefix="mbrl-kills-"))
    run = Run(name, folder, seed, domain, rng)
    try:
        made = run.kill_helpers(plan.helpers) if plan.helpers else []
        made += run.kill_last(plan.fatal, early=not plan.helpers) if plan.fatal else []
        if not made:
            said = Path(f"{run.folder}.log").read_text("utf-8", "replace").split("\n")
            first = plan.helpers[0] if plan.helpers else plan.fatal
            raise NothingToKill(f"there was no {first} to kill; the run said: {' '.join(said[-5:]).strip()}")
        return made
    finally:
        run.end()
        sweep_dds(older_s=1.0)
        shutil.rmtree(folder, ignore_errors=True)
