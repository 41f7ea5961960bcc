"""kill -9 of every process of a live run, at random instants: does the robot stop, does the cadence hold, is anything left or lost?

    python benchmarks/kills.py --kills 3 --json kills.json

Each run ends with a kill of controller, sim or mbrl, at any phase from its first instant on; before that, trainer, planner and recorder
are killed once each, in random order. An independent subscriber listens to the command topic all the time.
"""

from __future__ import annotations

import argparse
import os
import re
import shutil
import signal
import tempfile
import threading
import time
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import processes
import rclpy
from rclpy.context import Context
from rclpy.executors import SingleThreadedExecutor
from rclpy.node import Node

from mbrl_control import robot
from mbrl_control.data.mcap_bag import part_of
from mbrl_control.data.tail import McapTail
from mbrl_control.messages import STAMPED_COMMAND_TOPIC
from mbrl_control.robot import RobotSpec
from mbrl_control.runtime import mailbox
from mbrl_control.stack import report
from mbrl_control.stack.leftovers import dead_segments, sweep_dds
from mbrl_control_ros.interfaces import message_class
from mbrl_control_ros.qos import EVERY_OWN

FATAL, HELPERS = ("controller", "sim", "mbrl"), ("planner", "trainer", "recorder")
LOOK_S = 3.0
LATEST_S = 12.0
END_S = 30.0
SILENCE = re.compile(r"no command for ([0-9.]+) ms")


class Listener:
    """An independent subscriber of a robot's stamped and plain commands.

    Attributes:
        arrived: monotonic times at which commands of the robot's first command topic came, s.
        stamped: publication times of the stamped twins, ns of the system's clock.
    """

    def __init__(self, spec: RobotSpec, domain: int) -> None:
        self.arrived: list[float] = []
        self.stamped: list[int] = []
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

    def _plain(self, _: bytes) -> None:
        self.arrived.append(time.monotonic())

    def _stamp(self, _: bytes, info: Any) -> None:
        self.stamped.append(info["source_timestamp"])

    def close(self) -> None:
        """End it."""
        self._stop = True
        self._thread.join()
        self._executor.shutdown()
        self._node.destroy_node()
        self._context.try_shutdown()


@dataclass
class Kill:
    """A kill and what followed.

    Attributes:
        what: the process.
        phase_s: since the start of its run.
        at: monotonic, s.
        wall_ns: on the system's clock.
        commanding: whether commands were being sent.
        gap_s: longest time between the arrivals of two commands from just before to `LOOK_S` after; nan when control ended with it.
        missed: ticks at which the controller published none in that time.
        before_gap_s: as `gap_s`, in the `LOOK_S` before: what the machine itself does.
        before_missed: as `missed`, in that time.
        silence_s: from the last command to `zero` in force, as the plant measured it.
        back_s: until its successor was there; nan for none.
        after: commands that came later than 50 ms after the death of the controller.
        lost_s: from the newest readable message to the kill (recorder, mbrl).
        readable: share of the messages older than one second at the kill that the bag holds.
        ended_s: until every process of the run was gone, for a kill that ends it.
        processes: processes left over.
        shared: files left in shared memory; `shared_after` of them after the next start's tidying up.
        temporary: half-written files left over in the run's folder.
    """

    what: str
    phase_s: float
    at: float
    wall_ns: int
    commanding: bool
    gap_s: float = float("nan")
    missed: int = 0
    before_gap_s: float = float("nan")
    before_missed: int = 0
    silence_s: float = float("nan")
    back_s: float = float("nan")
    after: int = 0
    lost_s: float = float("nan")
    readable: float = float("nan")
    ended_s: float = float("nan")
    processes: int = 0
    shared: int = 0
    shared_after: int = 0
    temporary: list[str] = field(default_factory=list)


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
        rng: when and in which order is killed.
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
        """Kill a process now."""
        pid = self.find(role)
        if not pid:
            return None
        arrived = self.listener.arrived
        commanding = bool(arrived) and time.monotonic() - arrived[-1] < 0.2
        made = Kill(role, time.monotonic() - self.begin, time.monotonic(), time.time_ns(), commanding)
        os.kill(pid, signal.SIGKILL)
        return made

    def kill_helper(self, role: str) -> Kill | None:
        """Kill a process without which the robot goes on, see it come back, and look at the commands meanwhile."""
        pid = self.find(role)
        made = self.kill(role)
        if made is None:
            return None
        processes.wait(lambda: self.find(role) not in (0, pid), 20.0)
        made.back_s = time.monotonic() - made.at if self.find(role) else float("nan")
        time.sleep(max(0.0, made.at + LOOK_S - time.monotonic()))
        self.cadence(made)
        return made

    def cadence(self, made: Kill) -> None:
        """The gaps between commands around a kill."""
        tick, arrived, sent = self.spec.tick_s, np.array(self.listener.arrived), 1e-9 * (np.array(self.listener.stamped) - made.wall_ns)
        for name, low, high in (("before_", -LOOK_S, 0.0), ("", -2 * tick, LOOK_S)):
            gaps = np.diff(arrived[(arrived >= made.at + low) & (arrived <= made.at + high)])
            setattr(made, f"{name}gap_s", float(gaps.max()) if len(gaps) else float("nan"))
            published = np.diff(sent[(sent >= low) & (sent <= high)])
            setattr(made, f"{name}missed", int(np.maximum(np.floor(published / tick + 0.25) - 1, 0).sum()))

    def kill_last(self, role: str) -> Kill | None:
        """Kill a process that the run ends with, and look at what is left."""
        members: list[int] = []
        made = self.kill(role)
        if made is None:
            return None
        self.find("mbrl")
        members = list(self.members)
        processes.wait(lambda: not any(map(processes.alive, members)), END_S)
        made.ended_s = time.monotonic() - made.at
        made.processes = sum(map(processes.alive, members))
        if role == "controller":
            made.after = int((np.array(self.listener.arrived) > made.at + 0.05).sum())
        silences = SILENCE.findall(self.log("sim"))
        if role == "controller" and made.commanding and silences:
            made.silence_s = float(silences[-1]) * 1e-3
        self.listener.close()  # its own shared memory is no leftover
        left = dead_files() - self.shared
        made.shared = len(left)
        mailbox.sweep()
        sweep_dds(older_s=1.0)
        made.shared_after = len(left & dead_files())
        made.temporary = [str(p.relative_to(self.folder)) for p in self.folder.rglob("*") if p.name.endswith((".tmp", ".partial"))]
        return made

    def log(self, name: str) -> str:
        """What a node printed."""
        path = self.folder / "logs" / f"{name}.log"
        return path.read_text("utf-8", "replace") if path.exists() else ""

    def read_bag(self, recorder_kills: list[Kill]) -> None:
        """What of the messages before each cut is in the bag: each recorder wrote a part of its own."""
        for number, made in enumerate(recorder_kills):
            path = part_of(self.folder / "bag", number)
            if not path.exists():
                continue
            found = [m.publish_ns for m in McapTail(path, [STAMPED_COMMAND_TOPIC]).read()]
            if not found:
                continue
            sent = [s for s in self.listener.stamped if found[0] <= s <= made.wall_ns]
            made.lost_s = max(0.0, (made.wall_ns - found[-1]) * 1e-9) if made.commanding else float("nan")
            old = [s for s in sent if s <= made.wall_ns - 1_000_000_000]
            made.readable = len(set(old) & set(found)) / len(old) if old else float("nan")

    def end(self) -> None:
        """Leave nothing running."""
        for pid in [*self.members, self.process.pid]:
            if processes.alive(pid):
                os.kill(pid, signal.SIGKILL)
        self.process.wait()


def one_run(name: str, fatal: str, helpers: list[str], seed: int, domain: int, rng: np.random.Generator) -> list[Kill]:
    """The kills of one run."""
    folder = Path(tempfile.mkdtemp(prefix="mbrl-kills-"))
    run = Run(name, folder, seed, domain, rng)
    kills: list[Kill] = []
    try:
        for role in rng.permutation(helpers).tolist():
            processes.wait(lambda: run.listener.arrived, END_S)
            processes.wait(lambda role=role: run.find(role), END_S)
            time.sleep(float(rng.uniform(0.0, 4.0)))
            if (made := run.kill_helper(role)) is not None:
                kills.append(made)
        processes.wait(lambda: run.find(fatal), END_S)
        time.sleep(float(rng.uniform(0.0, 4.0 if helpers else LATEST_S)))
        if (made := run.kill_last(fatal)) is not None:
            kills.append(made)
        run.read_bag([k for k in kills if k.what == "recorder"])
    finally:
        run.end()
        shutil.rmtree(folder, ignore_errors=True)
    return kills


def summary(spec: RobotSpec, kills: list[Kill]) -> dict[str, Any]:
    """Figures by process."""
    out: dict[str, Any] = {}
    for what in (*FATAL, *HELPERS):
        some = [k for k in kills if k.what == what]
        if not some:
            continue

        def worst(attribute: str, some: list[Kill] = some, pick: Any = np.max) -> float:
            values = [v for k in some if np.isfinite(v := getattr(k, attribute))]
            return float(pick(values)) if values else float("nan")

        out[what] = {"kills": len(some), "missed_ticks": sum(k.missed for k in some),
                     "missed_before": sum(k.before_missed for k in some), "gap_ms": 1e3 * worst("gap_s"),
                     "gap_before_ms": 1e3 * worst("before_gap_s"), "stop_ms": 1e3 * worst("silence_s"), "back_s": worst("back_s"),
                     "commands_after": sum(k.after for k in some), "lost_s": worst("lost_s"), "readable": worst("readable", pick=np.min),
                     "ended_s": worst("ended_s"), "processes_left": sum(k.processes for k in some),
                     "shared_left": sum(k.shared for k in some), "shared_left_after_next_start": sum(k.shared_after for k in some),
                     "temporary_left": sum(len(k.temporary) for k in some)}
    return out


def passed(spec: RobotSpec, by: dict[str, Any]) -> dict[str, bool]:
    """What the product promises, and whether it held."""
    allowed = 1e3 * spec.command_timeout_s + 5.0  # and half of the plant's own step
    values = by.values()
    return {"the receiver stops in time": not by.get("controller", {}).get("stop_ms", 0.0) > allowed,
            "no command after the controller's death": by.get("controller", {}).get("commands_after", 0) == 0,
            "no more ticks missed after a helper's death than before": all(by[h]["missed_ticks"] <= by[h]["missed_before"]
                                                                          for h in HELPERS if h in by),
            "no process left": all(v["processes_left"] == 0 for v in values),
            "nothing to clean by hand": all(v["shared_left_after_next_start"] == 0 for v in values),
            "at most a second lost": not by.get("recorder", {}).get("lost_s", 0.0) > 1.0,
            "99.9 % readable": not by.get("recorder", {}).get("readable", 1.0) < 0.999}


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--robot", default="cartpole")
    parser.add_argument("--kills", type=int, default=3, help="of each process")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--domain", type=int, default=77, help="of ROS")
    parser.add_argument("--json", type=Path)
    args = parser.parse_args()
    spec = robot.load(args.robot)
    kills: list[Kill] = []
    begin, total = time.monotonic(), args.kills * len(FATAL)
    for number in range(total):
        # Helpers in every third run, so that fatal kills also come at the first instants of a run.
        helpers = list(HELPERS) if number % len(FATAL) == 0 else []
        fatal = FATAL[(number + number // len(FATAL)) % len(FATAL)]
        kills += one_run(args.robot, fatal, helpers, args.seed + number, args.domain, np.random.default_rng([args.seed, number]))
        each = (time.monotonic() - begin) / (number + 1)
        print(f"run {number + 1} of {total}, {each:.0f} s each, {(total - number - 1) * each / 60:.0f} min left: "
              + ", ".join(f"{k.what} at {k.phase_s:.1f} s" for k in kills[-len(helpers) - 1:]), flush=True)
        by = summary(spec, kills)
        if args.json:
            report.save({"schema": 1, "robot": spec.name, "seed": args.seed, "tick_s": spec.tick_s, "machine": report.machine(),
                         "wall_s": time.monotonic() - begin, "passed": passed(spec, by), "by_process": by,
                         "kills": [asdict(k) for k in kills]}, args.json)
    for what, figures in by.items():
        print(f"{what:11}", "  ".join(f"{name} {value:.4g}" for name, value in figures.items() if np.isfinite(value)))
    for promise, held in passed(spec, by).items():
        print(f"{'holds' if held else 'FAILS':6} {promise}")
    raise SystemExit(0 if all(passed(spec, by).values()) else 1)


if __name__ == "__main__":
    main()
