"""Where a process runs and how urgently: cores, priorities, memory, garbage collection. Best effort, told when not permitted."""

from __future__ import annotations

import contextlib
import ctypes
import gc
import os
import sys
import threading
from pathlib import Path

PLANNER, TRAINER = 300, 600


def freeze_garbage() -> None:
    """Collect once, then keep the collector from ever stopping the tick (a full collection takes up to 0.1 s)."""
    gc.collect()
    gc.freeze()
    gc.disable()


def pin(cores: list[int]) -> str | None:
    """Bind this process to cores; a sentence when it is not permitted."""
    try:
        os.sched_setaffinity(0, cores)
    except (OSError, AttributeError) as error:
        return f"not bound to cores {cores}: {error}"
    return None


def real_time(priority: int = 40) -> list[str]:
    """Best effort: SCHED_FIFO and locked memory. Returns a sentence for each that is not permitted."""
    notes = []
    if sys.platform.startswith("linux"):
        libc = ctypes.CDLL(None, use_errno=True)
        if libc.mlockall(3) != 0:
            notes.append(f"memory is not locked ({os.strerror(ctypes.get_errno())}): allow it with 'memlock' in limits.conf")
    if sentence := urgent(priority):
        notes.append(sentence)
    return notes


def urgent(priority: int) -> str | None:
    """SCHED_FIFO for this thread; a sentence when it is not permitted."""
    try:
        # Reset on fork: a planner worker that inherited the priority would compete with the tick.
        os.sched_setscheduler(0, os.SCHED_FIFO | os.SCHED_RESET_ON_FORK, os.sched_param(priority))
    except (OSError, AttributeError) as error:
        return f"no real-time priority ({error}); lateness may grow under load: allow it with 'rtprio' in limits.conf"
    return None


def cores_for(role: str) -> list[int]:
    """Cores by role: the planner has the last one to itself; the trainer shares the others with the tick, sim and recorder."""
    cores = sorted(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else [0]
    if len(cores) == 1:
        return cores
    return cores[-1:] if role == "planner" else cores[:-1]


def kept_waiting_s(pid: int) -> float:
    """Seconds, since it began, in which a process's main thread could have run and others had the core; 0 where no one tells."""
    try:
        return 1e-9 * int(Path(f"/proc/{pid}/schedstat").read_text("ascii").split()[1])
    except (OSError, ValueError, IndexError):
        return 0.0


def expendable(score: int) -> None:
    """When memory is short the system ends this process before those of a lower score; the controller's is 0.

    Args:
        score: 0 to 1000: `PLANNER` or `TRAINER`.
    """
    with contextlib.suppress(OSError):
        Path("/proc/self/oom_score_adj").write_text(str(score))


def reluctant_thread() -> None:
    """Let this thread alone give way to everything else. Where threads have no priorities of their own, nothing is changed."""
    if sys.platform.startswith("linux"):
        with contextlib.suppress(OSError):
            os.setpriority(os.PRIO_PROCESS, threading.get_native_id(), 19)


def background() -> None:
    """Give way to everything else: lowest priority, no core that the planner has to itself, first to go when memory is short."""
    expendable(TRAINER)
    pin(cores_for("trainer"))
    with contextlib.suppress(OSError):
        os.nice(19)
    if sys.platform.startswith("linux") and os.getsid(0) == os.getpid():
        # Linux shares the processor among sessions alike, and a process gives way only to others of its own: the whole session has to.
        with contextlib.suppress(OSError):
            Path("/proc/self/autogroup").write_text("19")
