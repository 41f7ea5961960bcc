"""Waiting for something to become true, and failing with what it was when it does not."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import TypeVar

T = TypeVar("T")


def until(condition: Callable[[], T], what: str = "what was waited for", timeout_s: float = 60.0, pause_s: float = 0.01) -> T:
    """The condition's first value that is true."""
    end = time.monotonic() + timeout_s
    while not (found := condition()):
        assert time.monotonic() < end, f"waited in vain for {what}"
        time.sleep(pause_s)
    return found
