"""The link to a planner worker in another process: two mailboxes and a wake-up pipe; the worker is restarted when it dies."""

from __future__ import annotations

import contextlib
import os
import subprocess
import sys
import time
from pathlib import Path

import numpy as np

from mbrl_control.planning.plan import Plan, PlanRequest
from mbrl_control.priority import cores_for
from mbrl_control.robot import RobotSpec
from mbrl_control.runtime.layout import Layout
from mbrl_control.runtime.mailbox import Mailbox, shared_folder, sweep

RESTART_S = (0.2, 0.5, 1.0, 2.0, 5.0)


def child_environment() -> dict[str, str]:
    """The environment for a Python child; without the marker that would keep wheels of ROS from setting its library path."""
    env = dict(os.environ)
    if "LD_LIBRARY_PATH" not in env:
        env.pop("_ROS_WHEELS_BOOTSTRAP_COMPLETE", None)
    return env


class ProcessLink:
    """Owner's side of the link.

    Args:
        robot: name or path of the robot's YAML.
        spec: the same, read.
        store: folder of the model store that the worker watches.
        seed: of the planner's noise.
        log: file for the worker's output.
        iterations_fixed: ignore the time budget (reproducible).
        cores: that the worker is bound to; by default the planner's.
    """

    def __init__(self, robot: str, spec: RobotSpec, store: Path, seed: int, log: Path | None = None, iterations_fixed: bool = True,
                 cores: list[int] | None = None) -> None:
        self.layout = Layout.of(spec)
        sweep()
        base = shared_folder() / f"mbrl-{os.getpid()}-{spec.name}-{time.monotonic_ns()}"
        self._requests = Mailbox(base.with_name(base.name + "-req.box"), self.layout.request_size, create=True)
        self._plans = Mailbox(base.with_name(base.name + "-plan.box"), self.layout.answer_size, create=True)
        self._command = [sys.executable, "-m", "mbrl_control.runtime.planner_worker", "--robot", robot, "--store", str(store), "--seed",
                         str(seed), "--requests", str(self._requests.path), "--plans", str(self._plans.path),
                         "--cores", *map(str, cores or cores_for("planner"))]
        if not iterations_fixed:
            self._command.append("--anytime")
        self._log = log
        self._process: subprocess.Popen[bytes] | None = None
        self._wake = -1
        self.restarts = 0
        self._died_at = -1e9
        self.last_vector: np.ndarray | None = None

    def start(self) -> None:
        """Start the worker; it plans once the store holds a model."""
        read_end, self._wake = os.pipe()
        os.set_blocking(self._wake, False)
        try:
            with open(self._log or os.devnull, "ab") as output:
                self._process = subprocess.Popen([*self._command, "--wake", str(read_end)], pass_fds=(read_end,), stdin=subprocess.DEVNULL,
                                                 stdout=output, stderr=subprocess.STDOUT, env=child_environment(), start_new_session=True)
        finally:
            os.close(read_end)

    @property
    def pid(self) -> int:
        """Process id of the worker; 0 when there is none."""
        return self._process.pid if self._process else 0

    def check(self) -> bool:
        """Restart a dead worker, with growing pauses. Call it about once a second; returns whether one is running."""
        if self._process is None or self._process.poll() is None:
            return self._process is not None
        now = time.monotonic()
        if self._died_at < 0:
            self._died_at = now
        if now - self._died_at >= RESTART_S[min(self.restarts, len(RESTART_S) - 1)]:
            self._close_wake()
            self.restarts += 1
            self._died_at = -1e9
            self.start()
        return False

    def _close_wake(self) -> None:
        """Once only: the number may belong to another file afterwards."""
        if self._wake >= 0:
            os.close(self._wake)
            self._wake = -1

    def send(self, request: PlanRequest) -> None:
        """See `Link.send`."""
        self._requests.write(self.layout.pack_request(request))
        with contextlib.suppress(OSError):
            os.write(self._wake, b"!")

    def receive(self, now: float) -> Plan | None:
        """See `Link.receive`; the raw vector stays in `last_vector` for the log."""
        vector = self._plans.read()
        if vector is None:
            return None
        try:
            plan = self.layout.unpack_plan(vector[: self.layout.plan_size])[0]
        except (ValueError, LookupError, OverflowError):  # numbers that are no plan: as if it had not come
            return None
        self.last_vector = vector
        return plan

    def stop(self) -> None:
        """End the worker and remove the mailboxes."""
        self._close_wake()
        if self._process is not None:
            self._process.terminate()
            try:
                self._process.wait(2.0)
            except subprocess.TimeoutExpired:
                self._process.kill()
                self._process.wait()
            self._process = None
        self._requests.unlink()
        self._plans.unlink()
