"""Upkeep of a run's helpers: processes without which the robot goes on. They are started again, ended when silent, or given up."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Any, Protocol

from mbrl_control import memory
from mbrl_control.heartbeat import Pulse
from mbrl_control.runtime.faults import FAULTS
from mbrl_control.runtime.restarts import HELPER, RECORDER, RestartPolicy, Restarts

START_S = 60.0


@dataclass(frozen=True)
class Care:
    """How a helper is looked after.

    Attributes:
        ended: fault code of an end.
        failing: fault code when it is given up.
        silent: fault code when it is ended for being silent.
        silent_s: longest time without a beat, once there was one; before, `START_S`.
        memory: fault code of an end at its cap of memory.
        again: parameters that it is started again with.
        policy: of restarts; when its breaker trips the helper stays down.
    """

    ended: str
    failing: str
    silent: str = ""
    silent_s: float = math.inf
    memory: str = ""
    again: Mapping[str, str] = field(default_factory=lambda: MappingProxyType({}))
    policy: RestartPolicy = HELPER


HELPERS: Mapping[str, Care] = MappingProxyType({
    "trainer": Care("trainer_ended", "trainer_failing", "trainer_silent", 10.0, "trainer_memory"),
    "recorder": Care("recorder_stopped", "recorder_stopped", again=MappingProxyType({"resume": "true"}), policy=RECORDER),
})


class Group(Protocol):
    """What is asked of `stack.processes.Processes`."""

    def dead(self) -> dict[str, int]:
        """Nodes that have ended, with their exit status."""
        ...

    def restart(self, name: str, parameters: dict[str, str]) -> None:
        """Start a node that has ended once more."""
        ...

    def kill(self, name: str) -> None:
        """End a node at once."""
        ...

    def pulse(self, name: str) -> Pulse | None:
        """Its heartbeat."""
        ...


@dataclass
class _Helper:
    restarts: Restarts
    starts: int = 0
    down: bool = False
    given_up: bool = False
    silent: bool = False


class Upkeep:
    """Looks after the helpers among a run's processes.

    Args:
        group: the processes.
        tell: called with a sentence for each thing that happens to a helper.
        helpers: how each is looked after, by name; every other process is one that the run ends with.
    """

    def __init__(self, group: Group, tell: Callable[[str], None], helpers: Mapping[str, Care] = HELPERS) -> None:
        self._group, self._tell, self._care = group, tell, helpers
        self._helpers = {name: _Helper(Restarts(care.policy)) for name, care in helpers.items()}
        self._told: dict[str, list[float]] = {}

    def look(self, now: float, run_s: float) -> dict[str, int]:
        """See to the helpers; call it a few times a second.

        Args:
            now: s, monotonic.
            run_s: s from the run's start, for the report.

        Returns:
            Exit statuses of processes that have ended and that the run cannot go on without.
        """
        dead = self._group.dead()
        for name, care in self._care.items():
            helper = self._helpers[name]
            if name in dead:
                self._bury(name, care, helper, dead[name], now, run_s)
            else:
                self._listen(name, care, helper, now)
        return {name: status for name, status in dead.items() if name not in self._care}

    def restarts(self, name: str) -> int:
        """How often a helper was started again."""
        return self._helpers[name].starts

    def fault_parts(self) -> list[dict[str, Any]]:
        """Entries of the report's `faults`."""
        return [{"code": code, "count": len(at), "first_s": at[0], "action": FAULTS[code].action} for code, at in self._told.items()]

    def _listen(self, name: str, care: Care, helper: _Helper, now: float) -> None:
        pulse = self._group.pulse(name)
        if pulse is None or helper.silent:
            return
        silence = pulse.silence(now)
        if silence > (care.silent_s if pulse.heard else max(care.silent_s, START_S)):
            helper.silent = True
            self._group.kill(name)

    def _bury(self, name: str, care: Care, helper: _Helper, status: int, now: float, run_s: float) -> None:
        if not helper.down:
            helper.down = True
            helper.restarts.ended(now)
            helper.given_up = helper.restarts.tripped(now)
            code = care.silent if helper.silent else care.memory if care.memory and status == memory.EXHAUSTED else care.ended
            self._note(code, f" (exit status {status})", run_s)
            if helper.given_up:
                self._note(care.failing, ": it stays down", run_s)
        elif not helper.given_up and helper.restarts.due(now):
            helper.down = helper.silent = False
            helper.starts += 1
            self._group.restart(name, dict(care.again))

    def _note(self, code: str, more: str, run_s: float) -> None:
        self._told.setdefault(code, []).append(run_s)
        self._tell(f"{FAULTS[code].sentence}{more}; {FAULTS[code].action}")
