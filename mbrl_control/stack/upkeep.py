"""Upkeep of a run's helpers: processes without which the robot goes on. They are started again, ended when silent, or given up."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from itertools import pairwise
from types import MappingProxyType
from typing import Any, Protocol

from mbrl_control import memory
from mbrl_control.heartbeat import Pulse
from mbrl_control.runtime.faults import FAULTS
from mbrl_control.runtime.restarts import HELPER, RECORDER, RestartPolicy, Restarts

START_S, SPARE_START_S = 60.0, 15.0


@dataclass(frozen=True)
class Care:
    """How a helper is looked after.

    Attributes:
        ended: fault code of an end.
        failing: fault code when it is given up.
        silent: fault code when it is ended for being silent.
        silent_s: longest time without a beat in which it could have worked, once there was one; before, `START_S`.
        memory: fault code of an end at its cap of memory.
        again: parameters that it is started again with.
        policy: of restarts; when its breaker trips the helper stays down.
        standby: others, of which the first takes its place by itself as soon as it has ended, and the next the first one's. One is ended
            when it is silent for `silent_s`, or for `SPARE_START_S` at its start; they are started one at a time.
    """

    ended: str
    failing: str
    silent: str = ""
    silent_s: float = math.inf
    memory: str = ""
    again: Mapping[str, str] = field(default_factory=lambda: MappingProxyType({}))
    policy: RestartPolicy = HELPER
    standby: tuple[str, ...] = ()


HELPERS: Mapping[str, Care] = MappingProxyType({
    "trainer": Care("trainer_ended", "trainer_failing", "trainer_silent", 10.0, "trainer_memory"),
    "recorder": Care("recorder_stopped", "recorder_stopped", "recorder_silent", 10.0, again=MappingProxyType({"resume": "true"}),
                     policy=RECORDER, standby=("standby", "reserve")),
})


class Group(Protocol):
    """What is asked of `stack.processes.Processes`."""

    def dead(self) -> dict[str, int]:
        """Nodes that have ended, with their exit status."""
        ...

    def restart(self, name: str, parameters: dict[str, str]) -> None:
        """Start a node that has ended, or was left for later."""
        ...

    def runs(self, name: str) -> bool:
        """Whether a node has been started and has not ended."""
        ...

    def succeed(self, name: str, by: str) -> bool:
        """Count the process of another node as that of one that has ended; False where that has ended too."""
        ...

    def kill(self, name: str) -> None:
        """End a node at once."""
        ...

    def pulse(self, name: str) -> Pulse | None:
        """Its heartbeat."""
        ...

    def waited(self, name: str) -> float:
        """Seconds for which it has not got the processor."""
        ...


@dataclass
class _Helper:
    restarts: Restarts
    starts: int = 0
    down: bool = False
    given_up: bool = False
    silent: bool = False
    killed: bool = False
    spare: Restarts = field(default_factory=lambda: Restarts(HELPER))
    there: set[str] = field(default_factory=set)


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
            self._move_up(name, care, helper, now)
            if name in dead:
                self._bury(name, care, helper, dead[name], now, run_s)
            else:
                self._listen(name, care, helper, now)
            self._move_up(name, care, helper, now)
            self._keep_standby(name, care, helper, now)
        standbys = {standby for care in self._care.values() for standby in care.standby}
        return {name: status for name, status in dead.items() if name not in self._care and name not in standbys}

    def restarts(self, name: str) -> int:
        """How often a helper was started again."""
        return self._helpers[name].starts

    def fault_parts(self) -> list[dict[str, Any]]:
        """Entries of the report's `faults`."""
        return [{"code": code, "count": len(at), "first_s": at[0], "action": FAULTS[code].action} for code, at in self._told.items()]

    def _listen(self, name: str, care: Care, helper: _Helper, now: float) -> None:
        if helper.silent:
            return
        silence = self._silence(name, now)
        if silence > (care.silent_s if self._heard(name) else max(care.silent_s, START_S)):
            helper.silent = True
            self._group.kill(name)

    def _bury(self, name: str, care: Care, helper: _Helper, status: int, now: float, run_s: float) -> None:
        if not helper.down:
            helper.down, helper.killed = True, status < 0
            helper.restarts.ended(now)
            helper.given_up = helper.restarts.tripped(now)
            code = care.silent if helper.silent else care.memory if care.memory and status == memory.EXHAUSTED else care.ended
            self._note(code, f" (exit status {status})", run_s)
            if helper.given_up:
                self._note(care.failing, ": it stays down", run_s)
            elif self._takes_over(name, care, now):
                helper.down = helper.silent = False
                helper.there.discard(care.standby[0])
                helper.starts += 1
        elif not helper.given_up and (self._at_once(care, helper) or helper.restarts.due(now)):
            helper.down = helper.silent = False
            helper.starts += 1
            self._group.restart(name, dict(care.again))

    @staticmethod
    def _at_once(care: Care, helper: _Helper) -> bool:
        """Whether successors come without pauses: one that ended by itself (a full disk) will do so again, one that was killed will not."""
        return bool(care.standby) and helper.killed

    def _stands_by(self, name: str, now: float) -> bool:
        """Whether a process that stands by has come so far: by now, as it may have since the last look."""
        if not self._group.runs(name):
            return False
        self._silence(name, now)
        return self._heard(name)

    def _silence(self, name: str, now: float) -> float:
        """Seconds without a beat in which it could have worked; beats that have come by now are heard. 0 for one without a heartbeat."""
        pulse = self._group.pulse(name)
        return 0.0 if pulse is None else pulse.silence(now, self._group.waited(name))

    def _heard(self, name: str) -> bool:
        """Whether it has shown that it works, or never does."""
        pulse = self._group.pulse(name)
        return pulse is None or pulse.heard

    def _move_up(self, name: str, care: Care, helper: _Helper, now: float) -> None:
        """Where the first that stood by is gone, the next is the first."""
        for first, following in pairwise(care.standby):
            if not self._group.runs(first) and self._stands_by(following, now):
                self._lost(name, first, helper, now)
                self._group.succeed(first, following)
                helper.there = helper.there - {following} | {first}

    def _lost(self, name: str, standby: str, helper: _Helper, now: float) -> None:
        """Count one that stood by and has ended, unless it has moved up."""
        if standby in helper.there:
            helper.there.discard(standby)
            helper.spare.ended(now)
            self._tell(f"a process that stands by for the {name} has ended; until another does, ends of the {name} may cost seconds of its "
                       "work")

    def _takes_over(self, name: str, care: Care, now: float) -> bool:
        """Whether one stands by and has been made the helper; one that has not come so far would only hold up the next start."""
        if not care.standby or not self._group.runs(care.standby[0]):
            return False
        if not self._stands_by(care.standby[0], now):
            self._group.kill(care.standby[0])
            return False
        return self._group.succeed(name, care.standby[0])

    def _keep_standby(self, name: str, care: Care, helper: _Helper, now: float) -> None:
        """Have processes stand by, but not where the helper is to stay down after its next end."""
        if not self._heard(name):
            return  # it has not begun its work, and whoever stands by would take that for the place being free
        last = helper.restarts.tripped(now, more=1)
        for standby in care.standby:
            if not self._group.runs(standby):
                self._lost(name, standby, helper, now)
                unfit = helper.spare.tripped(now) or not helper.spare.due(now)
                if not (helper.down or last or unfit) and (helper.killed or helper.restarts.due(now)):
                    helper.there.add(standby)
                    self._group.restart(standby, {})
                return
            if last:
                helper.there.discard(standby)
                self._group.kill(standby)
                continue
            if self._silence(standby, now) > (care.silent_s if self._heard(standby) else SPARE_START_S):
                self._group.kill(standby)
            if not self._stands_by(standby, now):
                return

    def _note(self, code: str, more: str, run_s: float) -> None:
        self._told.setdefault(code, []).append(run_s)
        self._tell(f"{FAULTS[code].sentence}{more}; {FAULTS[code].action}")
