"""What a process calls itself, where its command line does not say what it does by now: `ps -e` and `top` show it."""

from __future__ import annotations

import contextlib
from pathlib import Path

RECORDS, STANDS_BY = "mbrl-recorder", "mbrl-standby"


def call_process(name: str) -> None:
    """Name this process; without effect on a system without /proc.

    Args:
        name: at most 15 characters.
    """
    with contextlib.suppress(OSError):
        Path("/proc/self/comm").write_text(name)


def called(process: Path) -> str:
    """The name of a process.

    Args:
        process: its folder under /proc.

    Raises:
        OSError: it has ended.
    """
    return (process / "comm").read_text().strip()
