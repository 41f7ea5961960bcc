"""Keeper of the planner's worker: a process that forks it, so that its start costs the controller's tick nothing and takes no import."""

from __future__ import annotations

import contextlib
import gc
import os
import select
import signal
import sys
import time
import traceback
from collections.abc import Callable

from mbrl_control import robot
from mbrl_control.lifeline import PARENT, follow_parent
from mbrl_control.priority import PLANNER, expendable
from mbrl_control.runtime import planner_worker
from mbrl_control.runtime.planner_events import EVENT, Event, Order

LOOK_S = 0.5
OVER_MEMORY = "planner: it holds {held:.0f} MB, more than planner.memory_mb of the robot's YAML allows ({allowed:.0f}); it is ended"


def resident_bytes(pid: int) -> int:
    """Memory that a process holds, bytes; 0 where the system does not tell."""
    try:
        with open(f"/proc/{pid}/statm", "rb") as file:
            return int(file.read().split()[1]) * os.sysconf("SC_PAGE_SIZE")
    except (OSError, IndexError, ValueError):
        return 0


class Keeper:
    """Does what it is ordered to through one pipe, and tells what happens through another.

    Args:
        orders: read end; bytes of `Order`. When it is closed the worker is killed and `run` returns.
        events: write end; `EVENT` records of (event, number, monotonic time).
        work: what a worker does, given how it tells an event.
        memory_bytes: a worker that holds more is killed.
    """

    def __init__(self, orders: int, events: int, work: Callable[[Callable[[Event], None]], None], memory_bytes: float) -> None:
        self._orders, self._events, self._work, self._most = orders, events, work, memory_bytes
        self._pid = 0

    def tell(self, event: Event, number: int = 0) -> None:
        """Tell an event; one write, so that those of keeper and worker do not mix."""
        with contextlib.suppress(OSError):  # nobody listens any more
            os.write(self._events, EVENT.pack(event, number, time.monotonic()))

    def run(self) -> None:
        """Until the orders are closed."""
        self._woken, wakeup = os.pipe()
        for end in (self._woken, wakeup):
            os.set_blocking(end, False)
        signal.signal(signal.SIGCHLD, lambda *_: None)
        signal.set_wakeup_fd(wakeup)
        while True:
            ready = select.select([self._orders, self._woken], [], [], LOOK_S)[0]
            if self._woken in ready:
                os.read(self._woken, 4096)
            if self._orders in ready:
                given = os.read(self._orders, 4096)
                if not given:
                    break
                for order in given:
                    self._obey(Order(order))
            self._look()
        self._kill()
        self._look(wait=True)

    def _obey(self, order: Order) -> None:
        if order == Order.KILL:
            self._kill()
        elif not self._pid:
            self._start()

    def _start(self) -> None:
        sys.stdout.flush()
        keeper = os.getpid()
        self._pid = os.fork()
        if self._pid:
            self.tell(Event.STARTED, self._pid)
            return
        status = 1
        try:
            signal.set_wakeup_fd(-1)
            signal.signal(signal.SIGCHLD, signal.SIG_DFL)
            os.close(self._orders)
            os.environ[PARENT] = str(keeper)
            follow_parent(signal.SIGKILL)
            expendable(PLANNER)
            self._work(self.tell)
            status = 0
        except SystemExit as end:
            status = int(end.code or 0)
        except BaseException:
            traceback.print_exc()
        finally:
            with contextlib.suppress(OSError, ValueError):
                sys.stdout.flush()
                sys.stderr.flush()
            os._exit(status)  # what stands above this in the keeper's stack is not the worker's business

    def _kill(self) -> None:
        if self._pid:
            os.kill(self._pid, signal.SIGKILL)

    def _look(self, wait: bool = False) -> None:
        if not self._pid:
            return
        pid, status = os.waitpid(self._pid, 0 if wait else os.WNOHANG)
        if pid:
            self._pid = 0
            self.tell(Event.ENDED, os.waitstatus_to_exitcode(status))
        elif (held := resident_bytes(self._pid)) > self._most:
            print(OVER_MEMORY.format(held=held / 2**20, allowed=self._most / 2**20), flush=True)
            self._kill()


def main() -> None:
    """Run until the controller closes its end of the pipe, or is gone."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    follow_parent(signal.SIGKILL)
    args = planner_worker.arguments()
    spec = robot.load(args.robot)
    gc.collect()
    gc.freeze()  # a worker that collected garbage would copy the memory that it shares with this process
    Keeper(args.orders, args.events, lambda tell: planner_worker.work(args, tell), spec.planner.memory_mb * 2**20).run()


if __name__ == "__main__":
    main()
