"""The link to a planner worker in another process: two mailboxes and a wake-up pipe; a keeper process starts and restarts the worker."""

from __future__ import annotations

import contextlib
import os
import subprocess
import sys
import time
from collections import deque
from pathlib import Path

import numpy as np

from mbrl_control import lifeline
from mbrl_control.planning.plan import Plan, PlanRequest
from mbrl_control.priority import cores_for
from mbrl_control.robot import RobotSpec
from mbrl_control.runtime.layout import ANSWERS, Layout
from mbrl_control.runtime.mailbox import Mailbox, shared_folder, sweep
from mbrl_control.runtime.planner_events import EVENT, Event
from mbrl_control.runtime.planner_watch import PlannerWatch

ONE_THREAD = {name: "1" for name in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS")}
"""For the keeper: a process with threads of libraries cannot be forked safely."""


def child_environment() -> dict[str, str]:
    """The environment for a Python child of this process, which ends with it if it calls `lifeline.follow_parent`.

    Without the marker that would keep wheels of ROS from setting its library path.
    """
    env = lifeline.tell_child(dict(os.environ))
    if "LD_LIBRARY_PATH" not in env:
        env.pop("_ROS_WHEELS_BOOTSTRAP_COMPLETE", None)
    return env


class ProcessLink:
    """Owner's side of the link. Nothing but `start`, `stop` and, after the keeper's end, `check` takes longer than microseconds.

    Args:
        robot: name or path of the robot's YAML.
        spec: the same, read.
        store: folder of the model store that the worker watches.
        seed: of the planner's noise.
        log: file for the worker's output.
        iterations_fixed: ignore the time budget (reproducible).
        cores: that the worker is bound to; by default the planner's.

    Attributes:
        answers: the last plans received, each with the request that it answers, as `Layout` has them; for a log to take.
    """

    def __init__(self, robot: str, spec: RobotSpec, store: Path, seed: int, log: Path | None = None, iterations_fixed: bool = True,
                 cores: list[int] | None = None) -> None:
        self.layout = Layout.of(spec)
        sweep()
        base = shared_folder() / f"mbrl-{os.getpid()}-{spec.name}-{time.monotonic_ns()}"
        self._requests = Mailbox(base.with_name(base.name + "-req.box"), self.layout.request_size, create=True)
        self._plans = Mailbox(base.with_name(base.name + "-plan.box"), self.layout.answer_size, create=True, slots=ANSWERS)
        self._command = [sys.executable, "-m", "mbrl_control.runtime.planner_keeper", "--robot", robot, "--store", str(store), "--seed",
                         str(seed), "--requests", str(self._requests.path), "--plans", str(self._plans.path),
                         "--cores", *map(str, cores or cores_for("planner"))]
        if not iterations_fixed:
            self._command.append("--anytime")
        self._log = log
        self._keeper: subprocess.Popen[bytes] | None = None
        self._wake = self._orders = self._events = -1
        self._rest, self._buried = b"", False
        self._watch = PlannerWatch(1.0 / spec.plan_hz)
        self.answers: deque[np.ndarray] = deque(maxlen=ANSWERS)

    def start(self) -> None:
        """Start the keeper, and with it the worker; it plans once the store holds a model. Takes some milliseconds.

        Raises:
            OSError: there is no memory, process or file left for it.
        """
        theirs: list[int] = []
        try:
            wake, self._wake = os.pipe()
            theirs.append(wake)
            orders, self._orders = os.pipe()
            theirs.append(orders)
            self._events, events = os.pipe()
            theirs.append(events)
            for end in (self._wake, self._orders, self._events):
                os.set_blocking(end, False)
            pipes = ("--wake", str(wake), "--orders", str(orders), "--events", str(events))
            with open(self._log or os.devnull, "ab") as output:
                self._keeper = subprocess.Popen([*self._command, *pipes], pass_fds=(wake, orders, events), stdin=subprocess.DEVNULL,
                                                stdout=output, stderr=subprocess.STDOUT, env=child_environment() | ONE_THREAD,
                                                start_new_session=True)
        finally:
            for end in theirs:
                os.close(end)
        self._buried = False
        self._give_orders(time.monotonic())

    @property
    def pid(self) -> int:
        """Process id of the worker; 0 when there is none."""
        return self._watch.pid

    @property
    def restarts(self) -> int:
        """Workers started after the first."""
        return max(0, self._watch.starts - 1)

    def check(self) -> bool:
        """As `look`, and a keeper that ended is started again too, which takes milliseconds: call it about once a second.

        Where it cannot be started (no memory is left), that counts as another end of the worker, and is tried again later.
        """
        if self._keeper is None or self._keeper.poll() is None:
            return self.look()
        self._take_events()
        return self._keeper_died(time.monotonic())

    def look(self) -> bool:
        """Take in what happened to the worker and see to it; returns whether one is running. Made for each tick: two system calls.

        A worker that ended is started again by its keeper, at first at once, then with growing pauses; one that hangs is killed.
        """
        if self._keeper is None or self._keeper.poll() is not None:
            return False
        self._take_events()
        self._give_orders(time.monotonic())
        return self._watch.pid != 0

    def faults(self, now: float) -> frozenset[str]:
        """Codes of `faults.FAULTS` that are present by what `check` has found, at `now` s on the monotonic clock. Pure reading."""
        return self._watch.faults(now)

    def _take_events(self) -> None:
        with contextlib.suppress(OSError):  # nothing is there, or the pipe is gone with a keeper that could not be started
            self._rest += os.read(self._events, 4096)
        whole = len(self._rest) // EVENT.size * EVENT.size
        for kind, number, when in EVENT.iter_unpack(self._rest[:whole]):
            self._watch.event(Event(kind), number, when)
        self._rest = self._rest[whole:]

    def _give_orders(self, now: float) -> None:
        if (order := self._watch.order(now)) is not None:
            with contextlib.suppress(OSError):  # it has just died: the next check finds out
                os.write(self._orders, bytes([order]))

    def _keeper_died(self, now: float) -> bool:
        """The worker ended with it, or does so now; both are started again when it is time."""
        if not self._buried:
            self._buried = True
            self._watch.event(Event.ENDED, -1, now)
        if self._watch.due(now):
            self._close_pipes()
            try:
                self.start()
            except OSError:  # what calls this sends commands, and must go on without a planner
                self._watch.event(Event.ENDED, -1, now)
        return False

    def _close_pipes(self) -> None:
        """Once only: the numbers may belong to other files afterwards."""
        for end in (self._wake, self._orders, self._events):
            if end >= 0:
                os.close(end)
        self._wake = self._orders = self._events = -1
        self._rest = b""

    def send(self, request: PlanRequest) -> None:
        """See `Link.send`."""
        self._requests.write(self.layout.pack_request(request))
        self._watch.sent(time.monotonic())
        with contextlib.suppress(OSError):
            os.write(self._wake, b"!")

    def receive(self, now: float) -> Plan | None:
        """See `Link.receive`; the raw vector is added to `answers`."""
        vector = self._plans.read()
        if vector is None:
            return None
        try:
            plan = self.layout.unpack_plan(vector[: self.layout.plan_size])[0]
        except (ValueError, LookupError, OverflowError):  # numbers that are no plan: as if it had not come
            return None
        self.answers.append(vector)
        self._watch.answered()
        return plan

    def stop(self) -> None:
        """End worker and keeper and remove the mailboxes."""
        self._close_pipes()
        if self._keeper is not None:
            if not self._watch.starts:  # it is at its imports still, and deaf
                self._keeper.terminate()
            try:
                self._keeper.wait(2.0)
            except subprocess.TimeoutExpired:
                self._keeper.kill()
                self._keeper.wait()
            self._keeper = None
        self._requests.unlink()
        self._plans.unlink()
