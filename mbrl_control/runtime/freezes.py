"""What the machine itself does to a real-time loop: a small process that watches for moments at which every core stood still.

The host of a virtual machine may stop the whole guest for some milliseconds, and nothing inside can prevent or see it, except that all
clocks have moved on. So a bare loop waits on every core, above the tick's priority, and notes when it was woken late. One late loop proves
little; a *freeze* is an interval in which the loops of all cores were late at the same time.

The loops are processes of their own, not threads: a thread that is late while it holds the interpreter's lock makes all others late as
well, and that would look like a freeze.
"""

from __future__ import annotations

import argparse
import contextlib
import heapq
import json
import os
import signal
import struct
import time
from collections import deque
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from mbrl_control.intervals import Interval, overlaps
from mbrl_control.priority import freeze_garbage, pin, real_time

RATE_HZ = 200.0
THRESHOLD_S = 2e-3
PRIORITY = 60
MOST_KEPT = 1000
MOST_CORES = 8
"""On machines with more, so many are watched, spread evenly: the loops of all would cost more than they tell."""
SAVE_S = 1.0
STOPS = {signal.SIGINT, signal.SIGTERM}
RECORD = struct.Struct("<idd")


@dataclass(frozen=True)
class Seen:
    """What was seen so far; the content of the file.

    Attributes:
        watched_s: seconds of watching.
        rate_hz: of the loops; a freeze may have begun up to a period of theirs before it was noticed.
        threshold_ms: shorter freezes are not noted.
        priority: whether the loops run at real-time priority; if not, other processes can make them late, and freezes are only hints.
        freezes: how many.
        max_ms: the longest.
        total_ms: all together.
        intervals: the (at most 1000) longest, in order of time.
    """

    watched_s: float
    rate_hz: float
    threshold_ms: float
    priority: bool
    freezes: int
    max_ms: float
    total_ms: float
    intervals: list[Interval]


def read(path: Path) -> Seen | None:
    """What a watcher has left in its file; None when there is nothing to read."""
    try:
        content = json.loads(path.read_text("utf-8"))
        return Seen(**{**content, "intervals": [(begin, end) for begin, end in content["intervals"]]})
    except (OSError, ValueError, TypeError, KeyError):
        return None


def save(seen: Seen, path: Path) -> None:
    """Write the file: whole or not at all."""
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    temporary.write_text(json.dumps(asdict(seen)) + "\n", "utf-8")
    temporary.replace(path)


def common(cores: Sequence[Sequence[Interval]]) -> list[Interval]:
    """Where the intervals of all cores overlap; each core's own are in order and do not overlap, and so are those returned."""
    found = list(cores[0])
    for other in cores[1:]:
        found = overlaps(found, other)
    return found


def explained(missed: Iterable[tuple[float, float]], freezes: Sequence[Interval], period_s: float) -> int:
    """How many missed ticks the machine's freezes account for.

    A tick that comes `lateness` after its deadline has taken the place of floor(lateness / period) others, which are missed. Take from its
    lateness the time within [deadline, deadline + lateness] in which the machine stood still: the ticks that so small a lateness would not
    have cost are the freezes'. So a single missed tick is explained exactly when its lateness less the freezes is below a period.

    Args:
        missed: (deadline, lateness) of late ticks, seconds on the monotonic clock; see `Cadence.missed_at`.
        freezes: in order of time.
        period_s: of the tick.
    """
    count = 0
    for deadline, lateness in missed:
        still = sum(end - begin for begin, end in common([[(deadline, deadline + lateness)], freezes]))
        count += int(lateness // period_s) - int(max(0.0, lateness - still) // period_s)
    return count


class Tally:
    """Freezes from the late wake-ups of loops, as they are told of; memory is bounded.

    Args:
        cores: how many loops there are.
        threshold_s: a shorter overlap is chance, as every lateness noted is longer than this.
    """

    def __init__(self, cores: int, threshold_s: float) -> None:
        self.threshold_s = threshold_s
        self.count, self.max_s, self.total_s = 0, 0.0, 0.0
        self._late: list[deque[Interval]] = [deque(maxlen=MOST_KEPT) for _ in range(cores)]
        self._longest: list[tuple[float, float, float]] = []

    def add(self, core: int, late: Interval) -> None:
        """Take in that a core's loop was late. Of a freeze, the core told of last completes it, so that each is counted once."""
        self._late[core].append(late)
        for begin, end in common([[late], *(self._since(late[0], n) for n in range(len(self._late)) if n != core)]):
            if (length := end - begin) > self.threshold_s:
                self.count += 1
                self.max_s = max(self.max_s, length)
                self.total_s += length
                (heapq.heappush if len(self._longest) < MOST_KEPT else heapq.heappushpop)(self._longest, (length, begin, end))

    def _since(self, begin: float, core: int) -> list[Interval]:
        """A core's intervals that end after a time: the newest few."""
        found: list[Interval] = []
        for late in reversed(self._late[core]):
            if late[1] <= begin:
                break
            found.append(late)
        return found[::-1]

    def longest(self) -> list[Interval]:
        """The longest freezes, in order of time."""
        return sorted((begin, end) for _, begin, end in self._longest)


def watched_cores(allowed: Iterable[int]) -> list[int]:
    """The cores to watch: all, or on large machines some of them."""
    cores = sorted(allowed)
    return cores[:: -(-len(cores) // MOST_CORES)]


def _loop(core: int, number: int, rate_hz: float, threshold_s: float, out: int, owner: int) -> None:
    """Wake up at whole periods of the clock, the same on all cores, and write down when it was late; ends with its owner."""
    pin([core])
    freeze_garbage()
    real_time(PRIORITY)
    period, woken = 1 / rate_hz, time.monotonic()
    while os.getppid() == owner:
        # From the wake-up, not from now: a freeze between the two must not go unnoticed.
        deadline = period * (woken // period + 1)
        time.sleep(max(0.0, deadline - time.monotonic()))
        woken = time.monotonic()
        if woken - deadline > threshold_s:
            with contextlib.suppress(OSError):  # a full pipe must not hold it up
                os.write(out, RECORD.pack(number, deadline, woken))


def _start(core: int, number: int, rate_hz: float, threshold_s: float, out: int) -> int:
    """Start a core's loop as a process. Gives its id."""
    owner, pid = os.getpid(), os.fork()
    if pid:
        return pid
    try:
        signal.pthread_sigmask(signal.SIG_SETMASK, ())
        _loop(core, number, rate_hz, threshold_s, out, owner)
    finally:
        os._exit(0)


def _at_priority(pid: int) -> bool:
    return os.sched_getscheduler(pid) & ~os.SCHED_RESET_ON_FORK == os.SCHED_FIFO


def _none_ended() -> bool:
    return os.waitid(os.P_ALL, 0, os.WEXITED | os.WNOHANG | os.WNOWAIT) is None


def watch(path: Path, rate_hz: float, threshold_s: float, owner: int) -> bool:
    """Watch until a signal of STOPS, or until the owner is gone; what is seen stands in the file. False when a core's loop failed.

    Args:
        path: of the file; renewed at most once a second, and at the end.
        rate_hz: of the loops.
        threshold_s: shorter freezes are not noted.
        owner: process id of the parent.
    """
    for number in STOPS:
        signal.signal(number, signal.SIG_DFL)  # for the loops; here they are waited for
    signal.pthread_sigmask(signal.SIG_BLOCK, STOPS)
    cores = watched_cores(os.sched_getaffinity(0))
    source, out = os.pipe()
    os.set_blocking(source, False)
    os.set_blocking(out, False)
    tally, began = Tally(len(cores), threshold_s), time.monotonic()
    pids = [_start(core, number, rate_hz, threshold_s, out) for number, core in enumerate(cores)]

    def seen() -> Seen:
        """What stands in the pipe included."""
        with contextlib.suppress(BlockingIOError):
            while records := os.read(source, 1000 * RECORD.size):
                for number, deadline, woken in RECORD.iter_unpack(records):
                    tally.add(number, (deadline, woken))
        return Seen(time.monotonic() - began, rate_hz, 1e3 * threshold_s, all(map(_at_priority, pids)), tally.count, 1e3 * tally.max_s,
                    1e3 * tally.total_s, tally.longest())

    told: tuple[int, bool] | None = None
    stop = None
    try:
        while stop is None and os.getppid() == owner and _none_ended():
            now = seen()
            if told != (now.freezes, now.priority):
                told = now.freezes, now.priority
                save(now, path)
            stop = signal.sigtimedwait(STOPS, SAVE_S)
        save(seen(), path)
        return _none_ended()
    finally:
        for pid in pids:
            os.kill(pid, signal.SIGKILL)
            os.waitpid(pid, 0)


def main() -> int:
    """Watch beside the process that started this one. Gives the exit status."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--file", type=Path, required=True, help="where to write what is seen (JSON)")
    parser.add_argument("--rate", type=float, default=RATE_HZ, help="wake-ups per second, on each core")
    parser.add_argument("--threshold", type=float, default=THRESHOLD_S, help="shorter freezes are not noted, s")
    parser.add_argument("--owner", type=int, default=os.getppid(), help="process with which it ends")
    args = parser.parse_args()
    return 0 if watch(args.file, args.rate, args.threshold, args.owner) else 1


if __name__ == "__main__":
    raise SystemExit(main())
