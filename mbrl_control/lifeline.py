"""Lifeline: a child process ends by itself soon after the process that started it is gone, even by kill -9."""

from __future__ import annotations

import ctypes
import os
import signal
import sys
import threading
import time

PARENT = "MBRL_PARENT"
POLL_S = 0.5
_PR_SET_PDEATHSIG = 1


def tell_child(environment: dict[str, str]) -> dict[str, str]:
    """A child's environment with the line to this process in it: the child has to call `follow_parent`."""
    return environment | {PARENT: str(os.getpid())}


def orphaned() -> bool:
    """Whether the process that started this one is gone; False when it did not tell who it is."""
    told = os.environ.get(PARENT, "")
    return told.isdigit() and os.getppid() != int(told)


def follow_parent(number: int) -> None:
    """Have this process sent a signal when its parent ends; nothing when the parent did not ask for it with `tell_child`.

    Linux sends it when the *thread* that started this process ends: start children from a thread that lives as long as the process.

    Args:
        number: of the signal: SIGINT for an orderly end, SIGKILL where nothing is lost by it.
    """
    if PARENT not in os.environ:
        return
    if not _ask_kernel(number):
        threading.Thread(target=_watch, args=(number,), name="lifeline", daemon=True).start()
    elif orphaned():  # it ended before the kernel was asked
        os.kill(os.getpid(), number)


def _ask_kernel(number: int) -> bool:
    return sys.platform.startswith("linux") and bool(ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, number, 0, 0, 0) == 0)


def _watch(number: int) -> None:
    while not orphaned():
        time.sleep(POLL_S)
    os.kill(os.getpid(), signal.Signals(number))
