"""The watcher of the machine's freezes beside a run: started, ended, and what a report says of it. A run does without when it fails."""

from __future__ import annotations

import contextlib
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

from mbrl_control.runtime import freezes
from mbrl_control.runtime.freezes import Seen
from mbrl_control.runtime.process_link import child_environment
from mbrl_control.stack.processes import end

GRACE_S = 2.0


class MachineWatch:
    """A watcher as a child process, on all cores that this process may use at its start.

    Args:
        path: of the file that it leaves, in a folder that exists.
        log: file for its output.
        rate_hz: of its loops.
        threshold_s: shorter freezes are not noted.
    """

    def __init__(self, path: Path, log: Path, rate_hz: float, threshold_s: float = freezes.THRESHOLD_S) -> None:
        self.path, self.log = path, log
        self._command = [sys.executable, "-m", freezes.__name__, "--file", str(path), "--rate", str(rate_hz),
                         "--threshold", str(threshold_s), "--owner", str(os.getpid())]
        self._process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        """Start it; when that is not possible the run goes on without."""
        with contextlib.suppress(OSError):
            self.log.parent.mkdir(parents=True, exist_ok=True)
            with open(self.log, "ab") as log:
                self._process = subprocess.Popen(self._command, stdin=subprocess.DEVNULL, stdout=log, stderr=subprocess.STDOUT,
                                                 env=child_environment(), start_new_session=True)

    @property
    def running(self) -> bool:
        """Whether it was started and has not ended."""
        return self._process is not None and self._process.poll() is None

    def stop(self) -> Seen | None:
        """End it. Gives what it saw; None when it did not watch to the end."""
        if self._process is None or not self.running:
            return None
        end(self._process, GRACE_S)
        return freezes.read(self.path) if self._process.returncode == 0 else None


def beside_ticks(folder: Path, logs: Path, rate_hz: float) -> MachineWatch:
    """A watcher beside a tick: no slower, so that of a freeze which costs ticks less than a period goes unseen.

    Args:
        folder: for `freezes.json`.
        logs: folder for `freezes.log`.
        rate_hz: of the tick.
    """
    return MachineWatch(folder / "freezes.json", logs / "freezes.log", max(freezes.RATE_HZ, rate_hz))


def freeze_part(seen: Seen | None, cadence: dict[str, Any]) -> dict[str, Any] | None:
    """The report's `cadence.machine`; None when nothing was watched.

    `missed_in_freezes` counts missed ticks that `explained` finds, of the first 1000 late ones; None when the tick left no figures.

    Args:
        seen: by the watcher.
        cadence: the report's other figures of the tick.
    """
    if seen is None:
        return None
    missed = cadence.get("missed_at")
    return {"freezes": seen.freezes, "max_ms": seen.max_ms, "total_ms": seen.total_ms,
            "missed_in_freezes": None if missed is None else freezes.explained(missed, seen.intervals, 1 / cadence["rate_hz"]),
            "priority": seen.priority, "watched_s": seen.watched_s}
