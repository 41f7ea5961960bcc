"""Files that somebody else put there: plain ones only, and never more bytes than expected."""

from __future__ import annotations

import errno
import os
import stat
from pathlib import Path


class TooLargeError(OSError):
    """The file holds more than it may."""


def read_plain(path: Path, most: int, what: str) -> bytes:
    """The bytes of a regular file. A pipe in its place would never end, and a device never be read to its end.

    Args:
        path: of the file; symbolic links are followed.
        most: bytes that it may hold.
        what: what it should be, for the message, e.g. `a robot file`.

    Raises:
        TooLargeError: it holds more.
        OSError: it cannot be read, or is no regular file.
    """
    handle = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
    with open(handle, "rb") as file:
        found = os.fstat(handle)
        if not stat.S_ISREG(found.st_mode):
            raise OSError(errno.EINVAL, "not a regular file", str(path))
        data = file.read(most + 1) if found.st_size <= most else b""
        if len(data) > most or found.st_size > most:
            raise TooLargeError(errno.EFBIG, f"{max(found.st_size, len(data))} bytes; {what} has at most {most}", str(path))
        return data
