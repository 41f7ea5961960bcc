"""Mailbox: the newest vectors of numbers, shared between two processes without locks.

One writer, one reader, a few slots used in turn. The writer raises a slot's counter to odd, writes, and raises it to even; the reader
takes a copy and keeps it only if the counter was even and the same before and after, and the checksum agrees (the checksum makes it
safe on machines that reorder stores). Either side may be killed at any instant: there is nothing to release.
"""

from __future__ import annotations

import contextlib
import mmap
import os
import tempfile
from pathlib import Path

import numpy as np

HEADER = 2


def shared_folder() -> Path:
    """Memory-backed folder where there is one."""
    return Path("/dev/shm") if os.access("/dev/shm", os.W_OK) else Path(tempfile.gettempdir())


def _alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return True


def sweep() -> int:
    """Remove mailboxes whose maker is dead (killed before it could tidy up). Returns how many."""
    count = 0
    for path in shared_folder().glob("mbrl-*-*.box"):
        pid = path.name.split("-")[1]
        if pid.isdigit() and not _alive(int(pid)):
            with contextlib.suppress(OSError):
                path.unlink()
                count += 1
    return count


class Mailbox:
    """Vectors of `size` doubles; `write` leaves one in place of the oldest, `read` gives the oldest that was not read, or None.

    Args:
        path: file in a memory-backed folder; made and sized by the owner.
        size: numbers in a vector.
        create: whether this side makes the file.
        slots: vectors that wait, at most, the same on both sides; with one, that is the newest.
    """

    def __init__(self, path: Path, size: int, create: bool = False, slots: int = 1) -> None:
        self.path, self.size = path, size
        count = slots * (HEADER + size) * 8
        flags = os.O_RDWR | (os.O_CREAT | os.O_EXCL if create else 0)
        handle = os.open(path, flags, 0o600)
        try:
            if create:
                os.ftruncate(handle, count)
            self._map = mmap.mmap(handle, count)
        finally:
            os.close(handle)
        whole: np.ndarray = np.frombuffer(self._map, np.int64).reshape(slots, HEADER + size)
        self._counters, self._checks, self._bits = whole[:, 0], whole[:, 1], whole[:, HEADER:]
        self._values = self._bits.view(np.float64)
        self._seen = 0

    def write(self, values: np.ndarray) -> None:
        """Leave a vector [size] float64. Never blocks."""
        number = (max(self._counters.tolist()) + 1) // 2 + 1  # a writer that was killed may have left the newest odd
        slot = number % len(self._counters)
        self._counters[slot] = 2 * number - 1
        self._values[slot] = values
        self._checks[slot] = np.bitwise_xor.reduce(self._bits[slot])
        self._counters[slot] = 2 * number

    def read(self) -> np.ndarray | None:
        """A copy of the oldest vector that is whole and came after the one read last; otherwise None. Never blocks."""
        for _ in range(3):
            for count in sorted(count for count in self._counters.tolist() if count > self._seen and not count & 1):
                slot = count // 2 % len(self._counters)
                copy: np.ndarray = self._bits[slot].copy()
                check = int(self._checks[slot])
                if int(self._counters[slot]) == count and int(np.bitwise_xor.reduce(copy)) == check:
                    self._seen = count
                    return copy.view(np.float64)
        return None

    def unlink(self) -> None:
        """Remove the file; both sides may go on using their mapping."""
        with contextlib.suppress(OSError):
            self.path.unlink()
