"""The machine benchmark: which tick rates a machine can hold by itself, from what a watcher of its freezes sees while nothing is run."""

from __future__ import annotations

import tempfile
import time
from dataclasses import dataclass
from pathlib import Path

from mbrl_control.errors import UserError
from mbrl_control.runtime.freezes import Seen
from mbrl_control.stack.interruption import Interruption
from mbrl_control.stack.machine_watch import MachineWatch

RATES = (50.0, 100.0, 200.0, 500.0)
WATCH_HZ = 1000.0
THRESHOLD_S = 1e-3
POLL_S = 0.1


@dataclass(frozen=True)
class Held:
    """What freezes do to ticks at a rate.

    Attributes:
        rate_hz: of the tick.
        freezes: that may have lasted as long as a period, each of which can miss a tick.
        share: of a period, that the longest may have lasted.
    """

    rate_hz: float
    freezes: int
    share: float

    @property
    def held(self) -> bool:
        """Whether no freeze can have missed a tick."""
        return self.share <= 1.0


def measure(seconds: float) -> Seen:
    """Watch for a time, or to Ctrl-C.

    Raises:
        UserError: the machine cannot be watched.
    """
    with tempfile.TemporaryDirectory(prefix="mbrl-machine-") as folder:
        log = Path(folder) / "freezes.log"
        watch = MachineWatch(Path(folder) / "freezes.json", log, WATCH_HZ, THRESHOLD_S)
        until = time.monotonic() + seconds
        with Interruption() as end:
            try:
                watch.start()
                while watch.running and not end.asked and time.monotonic() < until:
                    time.sleep(POLL_S)
            finally:
                seen = watch.stop()
        if seen is None:
            said = log.read_text("utf-8", "replace").splitlines() if log.exists() else []
            raise UserError("the machine could not be watched" + (f": {said[-1]}" if said else ""))
    return seen


def rates(seen: Seen) -> list[Held]:
    """Each rate of RATES, with freezes taken to be as long as they can have been.

    A freeze begins up to a period of the watcher before it is noticed, and one below the threshold is not noted.
    """
    before_ms = 1e3 / seen.rate_hz
    longest_ms = max(seen.max_ms, seen.threshold_ms) + before_ms
    lengths_ms = [1e3 * (end - begin) + before_ms for begin, end in seen.intervals]
    return [Held(rate, sum(ms > 1e3 / rate for ms in lengths_ms), longest_ms * rate / 1e3) for rate in RATES]
