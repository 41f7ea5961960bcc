"""What a process may ask of the operating system for even ticks. All of it is best effort: refusals are told, not fatal."""

from __future__ import annotations

import ctypes
import gc
import os

_LOCK_CURRENT_AND_FUTURE = 3


def request(priority: int, lock_memory: bool, cpus: list[int]) -> list[str]:
    """Ask for SCHED_FIFO, locked memory and a set of cores.

    Args:
        priority: SCHED_FIFO priority; 0 asks for nothing.
        lock_memory: whether pages must stay in memory.
        cpus: cores to run on; empty leaves the choice to the scheduler.

    Returns:
        A sentence for each request that was refused.
    """
    refused: list[str] = []
    if priority > 0:
        try:
            os.sched_setscheduler(0, os.SCHED_FIFO, os.sched_param(priority))
        except OSError as error:
            refused.append(f"SCHED_FIFO priority {priority} refused ({error.strerror}); raise the limit 'rtprio' of this user")
    if lock_memory:
        libc = ctypes.CDLL(None, use_errno=True)
        if libc.mlockall(_LOCK_CURRENT_AND_FUTURE) != 0:
            refused.append(f"memory lock refused ({os.strerror(ctypes.get_errno())}); raise the limit 'memlock' of this user")
    if cpus:
        try:
            os.sched_setaffinity(0, cpus)
        except OSError as error:
            refused.append(f"cores {cpus} refused ({error.strerror}); this machine has {sorted(os.sched_getaffinity(0))}")
    return refused


def freeze_garbage() -> None:
    """Collect once, then exempt all that lives now and stop automatic collection: a full one takes tens of milliseconds."""
    gc.collect()
    gc.freeze()
    gc.disable()


def thaw_garbage() -> None:
    """Undo `freeze_garbage`."""
    gc.enable()
    gc.unfreeze()
