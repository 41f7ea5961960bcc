"""Leftovers of processes that were killed: shared memory of Fast DDS. Only what is provably dead, and this user's, is removed."""

from __future__ import annotations

import contextlib
import fcntl
import os
import re
import time
from pathlib import Path

from mbrl_control.runtime.mailbox import shared_folder

_LOCK = re.compile(r"fastdds_[0-9a-f]{16}_el")
OLD_S = 10.0


def sweep_dds(folder: Path | None = None, older_s: float = OLD_S) -> int:
    """Remove the segments of participants that are gone; each holds half a megabyte, and a small /dev/shm would be full one day.

    A living participant holds a lock on the file `..._el` beside its segment. Ports (`fastdds_port...`) are shared by all processes of
    a domain; Fast DDS itself finds out about dead ones.

    Args:
        folder: where they are; by default the system's.
        older_s: younger lock files are left alone: their makers may be about to lock them.

    Returns:
        How many segments were removed.
    """
    count = 0
    for lock in (folder or shared_folder()).iterdir():
        if _LOCK.fullmatch(lock.name) and _abandoned(lock, older_s):
            for path in (lock.with_name(lock.name.removesuffix("_el")), lock):
                with contextlib.suppress(OSError):
                    path.unlink()
            count += 1
    return count


def _abandoned(lock: Path, older_s: float) -> bool:
    try:
        facts = lock.stat()
        if facts.st_uid != os.getuid() or time.time() - facts.st_mtime < older_s:
            return False
        handle = os.open(lock, os.O_RDONLY)
    except OSError:
        return False
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        return False
    finally:
        os.close(handle)
    return True
