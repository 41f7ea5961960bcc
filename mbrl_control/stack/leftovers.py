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


def dead_segments(folder: Path | None = None, older_s: float = OLD_S) -> list[Path]:
    """Lock files of participants that are gone: a living one holds a lock on the file `..._el` beside its segment.

    Args:
        folder: where they are; by default the system's.
        older_s: younger lock files are left alone: their makers may be about to lock them.
    """
    return [lock for lock in (folder or shared_folder()).iterdir() if _LOCK.fullmatch(lock.name) and _abandoned(lock, older_s)]


def sweep_dds(folder: Path | None = None, older_s: float = OLD_S) -> int:
    """Remove the segments of participants that are gone; each holds half a megabyte, and a small /dev/shm would be full one day.

    Ports (`fastdds_port...`) are shared by all processes of a domain; Fast DDS itself finds out about dead ones.

    Args:
        folder: see `dead_segments`.
        older_s: see there.

    Returns:
        How many segments were removed.
    """
    dead = dead_segments(folder, older_s)
    for lock in dead:
        for path in (lock.with_name(lock.name.removesuffix("_el")), lock):
            with contextlib.suppress(OSError):
                path.unlink()
    return len(dead)


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
