"""What the planner's keeper is told, what it tells, and how that goes through a pipe."""

from __future__ import annotations

import struct
from enum import IntEnum

EVENT = struct.Struct("=iid")
"""(event, its number, monotonic time in s)."""


class Event(IntEnum):
    """What the keeper and the worker tell about the worker."""

    STARTED = 1
    """With its process id."""
    RUNNING = 2
    """It looks for models and requests."""
    PREPARING = 3
    """It found its first model."""
    READY = 4
    """It answers requests from now on."""
    ENDED = 5
    """With its exit status."""


class Order(IntEnum):
    """What the keeper is told to do."""

    START = 1
    KILL = 2
