"""Mailbox: the newest vector of numbers, shared between two processes without locks.

One writer, one reader. The writer raises a counter to odd, writes, and raises it to even; the reader takes a copy and
keeps it only if the counter was even and the same before and after, and the checksum agrees (the checksum makes it safe
on machines that reorder stores). Either side may be killed at any instant: there is nothing to release.
"""

from __future__ import annotations

import contextlib
import mmap
import os
import tempfile
from pathlib import Path

import numpy as np

HEADER = 3


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
    """A vector of `size` doubles; `write` replaces it, `read` gives the newest or None.

    Args:
        path: file in a memory-backed folder; made and sized by the owner.
        size: numbers in the vector.
        create: whether this side makes the file.
    """

    def __init__(self, path: Path, size: int, create: bool = False) -> None:
        self.path, self.size = path, size
        count = (HEADER + size) * 8
        flags = os.O_RDWR | (os.O_CREAT | os.O_EXCL if create else 0)
        handle = os.open(path, flags, 0o600)
        try:
            if create:
                os.ftruncate(handle, count)
            self._map = mmap.mmap(handle, count)
        finally:
            os.close(handle)
        whole = np.frombuffer(self._map, np.int64)
        self._head, self._bits = whole[:HEADER], whole[HEADER:]
        self._values = self._bits.view(np.float64)
        self._seen = 0

    def write(self, values: np.ndarray) -> None:
        """Replace the content; [size] float64. Never blocks."""
        self._head[0] += 1 + (self._head[0] & 1)
        self._values[:] = values
        self._head[1] = np.bitwise_xor.reduce(self._bits)
        self._head[0] += 1

    def read(self) -> np.ndarray | None:
        """A copy of the newest content if it is whole and was not read before; otherwise None. Never blocks."""
        for _ in range(3):
            before = int(self._head[0])
            if before == self._seen or before & 1:
                return None
            copy = self._bits.copy()
            check = int(self._head[1])
            if int(self._head[0]) == before and int(np.bitwise_xor.reduce(copy)) == check:
                self._seen = before
                return copy.view(np.float64)
        return None

    def unlink(self) -> None:
        """Remove the file; both sides may go on using their mapping."""
        with contextlib.suppress(OSError):
            self.path.unlink()
