"""The stack as real processes over ROS 2 topics: started, watched and ended in order."""

from __future__ import annotations

import contextlib
import importlib.util
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from mbrl_control.errors import UserError
from mbrl_control.heartbeat import VARIABLE as HEARTBEAT
from mbrl_control.heartbeat import Pulse
from mbrl_control.priority import cores_for, kept_waiting_s
from mbrl_control.runtime.process_link import child_environment
from mbrl_control.stack.network import stay_local

STOP_ORDER = ("controller", "sim", "trainer", "reserve", "standby", "recorder")
GRACE_S = 8.0


@dataclass(frozen=True)
class Node:
    """A process of the stack.

    Attributes:
        name: of the node.
        module: run with `python -m`.
        parameters: ROS parameters.
        heartbeat: it beats (`mbrl_control.heartbeat`) while its work goes on.
        later: it is not started with the others, but by `Processes.restart`.
        log: name of the node whose log it writes to; by default its own.
    """

    name: str
    module: str
    parameters: dict[str, str] = field(default_factory=dict)
    heartbeat: bool = False
    later: bool = False
    log: str = ""

    def command(self) -> list[str]:
        """The command line."""
        given = [part for key, value in self.parameters.items() for part in ("-p", f"{key}:={value}")]
        return [sys.executable, "-m", self.module, "--ros-args", *given]


def signals(handler: Any) -> None:
    """What happens on SIGTERM, SIGHUP (a closed terminal) and, where it is more than Ctrl-C's own, SIGINT.

    Without a handler they would end this process and leave those that it started, the controller among them, running.
    """
    with contextlib.suppress(ValueError):  # outside of the main thread there are none
        signal.signal(signal.SIGINT, signal.default_int_handler if handler is signal.SIG_DFL else handler)
        for number in (signal.SIGTERM, signal.SIGHUP):
            signal.signal(number, handler)


def require_ros() -> None:
    """Raise a sentence where the ROS side of the product cannot be imported."""
    for module, cure in (("rclpy", "pip install 'mbrl_control[ros]', or source a ROS 2 installation"),
                         ("mbrl_control_ros", "pip install ros2_ws/src/mbrl_control_ros")):
        if importlib.util.find_spec(module) is None:
            raise UserError(f"'{module}' is not installed, so nothing can run over ROS topics: {cure}; "
                            "or use --lockstep, which needs no ROS")


class Processes:
    """Nodes as child processes; each writes `<run_dir>/logs/<name>.log`.

    Args:
        nodes: what to start, in this order.
        run_dir: folder of the run.
    """

    def __init__(self, nodes: list[Node], run_dir: Path) -> None:
        self.nodes, self.run_dir = nodes, run_dir
        self._running: dict[str, subprocess.Popen[bytes]] = {}
        self._pulses: dict[str, Pulse] = {}

    def start(self) -> None:
        """Start every node that is not for later."""
        for node in self.nodes:
            if not node.later:
                self._start(node)

    def restart(self, name: str, parameters: dict[str, str] | None = None) -> None:
        """Start a node that has ended, or was left for later, with further parameters; its log goes on."""
        node = next(node for node in self.nodes if node.name == name)
        self._start(replace(node, parameters={**node.parameters, **(parameters or {})}))

    def _start(self, node: Node) -> None:
        env = stay_local(child_environment())
        env.setdefault("MUJOCO_GL", "egl")
        if node.name in self._pulses:
            self._pulses.pop(node.name).close()
        pulse = Pulse(time.monotonic()) if node.heartbeat else None
        if pulse is not None:
            self._pulses[node.name] = pulse
            env[HEARTBEAT] = str(pulse.handle)
        logs = self.run_dir / "logs"
        logs.mkdir(parents=True, exist_ok=True)
        with open(logs / f"{node.log or node.name}.log", "ab") as log:
            self._running[node.name] = subprocess.Popen(node.command(), stdin=subprocess.DEVNULL, stdout=log, stderr=subprocess.STDOUT,
                                                        env=env, start_new_session=True, pass_fds=[pulse.handle] if pulse else [])
        if pulse is not None:
            pulse.started()
        if node.name != "controller":  # whose child, the planner, needs the core that the others keep off
            with contextlib.suppress(OSError, AttributeError):
                os.sched_setaffinity(self._running[node.name].pid, cores_for(node.name))

    def kill(self, name: str) -> None:
        """End a node at once."""
        self._running[name].kill()

    def runs(self, name: str) -> bool:
        """Whether a node has been started and has not ended."""
        return name in self._running and self._running[name].poll() is None

    def succeed(self, name: str, by: str) -> bool:
        """Let the process of another node be that of one that has ended, from now on, with its heartbeat.

        Returns:
            False where the other one has ended too, or was never started; nothing is changed then.
        """
        if not self.runs(by):
            return False
        self._running[name] = self._running.pop(by)
        if name in self._pulses:
            self._pulses.pop(name).close()
        if by in self._pulses:
            self._pulses[name] = self._pulses.pop(by)
        return True

    def pulse(self, name: str) -> Pulse | None:
        """Its heartbeat; None for a node without."""
        return self._pulses.get(name)

    def waited(self, name: str) -> float:
        """Seconds for which a node has not got the processor since it was started."""
        return kept_waiting_s(self.pid(name))

    def pid(self, name: str) -> int:
        """Process id of a node."""
        return self._running[name].pid

    def dead(self) -> dict[str, int]:
        """Nodes that have ended, with their exit status."""
        return {n: p.returncode for n, p in self._running.items() if p.poll() is not None}

    def last_words(self, name: str, lines: int = 5) -> str:
        """The end of a node's log."""
        path = self.run_dir / "logs" / f"{name}.log"
        return "\n".join(path.read_text("utf-8", "replace").splitlines()[-lines:]) if path.exists() else ""

    def stop(self) -> dict[str, int]:
        """End all, the controller first (it sends its safe command) and the recorder last. Gives exit statuses."""
        for name in [n for n in STOP_ORDER if n in self._running] + [n for n in self._running if n not in STOP_ORDER]:
            end(self._running[name], GRACE_S)
        for pulse in self._pulses.values():
            pulse.close()
        self._pulses.clear()
        return {n: p.returncode for n, p in self._running.items()}


def end(process: subprocess.Popen[Any], grace_s: float) -> None:
    """Interrupt a process that leads a group of its own; kill the group when it has not ended within `grace_s`."""
    if process.poll() is not None:
        return
    process.send_signal(signal.SIGINT)
    try:
        process.wait(grace_s)
    except subprocess.TimeoutExpired:
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()


def wait_for(path: Path, processes: Processes, timeout_s: float, point: Callable[[], None]) -> None:
    """Wait until a file exists; a sentence when a process ends first or time is up. `point` is called where the wait may be left."""
    end = time.monotonic() + timeout_s
    while not path.exists():
        point()
        dead = processes.dead()
        if dead:
            name, status = next(iter(dead.items()))
            raise UserError(f"the {name} process ended with status {status} at the start:\n{processes.last_words(name)}")
        if time.monotonic() > end:
            raise UserError(f"{path} did not appear within {timeout_s:g} s; see the logs in {processes.run_dir / 'logs'}")
        time.sleep(0.05)
