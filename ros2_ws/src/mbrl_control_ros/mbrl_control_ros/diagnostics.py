"""The controller's /diagnostics: figures of the last second and of the last ticks, each with a level and a sentence (REP 107)."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
from diagnostic_msgs.msg import DiagnosticArray, DiagnosticStatus, KeyValue

from mbrl_control.refusal import Refusal
from mbrl_control.robot import RobotSpec
from mbrl_control.runtime.controller import Decision
from mbrl_control.runtime.faults import FAULTS, MEANINGS, Mode

LATE_SHARE = 0.1
"""A tick later than this share of the period is worth a warning."""

_LEVEL = {
    Mode.STANDBY: DiagnosticStatus.WARN,
    Mode.EXPLORE: DiagnosticStatus.OK,
    Mode.ACTIVE: DiagnosticStatus.OK,
    Mode.DEGRADED: DiagnosticStatus.WARN,
    Mode.BRAKE: DiagnosticStatus.ERROR,
    Mode.HOLD: DiagnosticStatus.ERROR,
    Mode.LATCHED: DiagnosticStatus.ERROR,
}


def explanation(decision: Decision) -> str:
    """What the mode means, and for each fault behind it what happened and what to do."""
    sentences = [f"{FAULTS[code].sentence}: {FAULTS[code].action}" for code in decision.reasons]
    return "; ".join([MEANINGS[decision.mode], *sentences])


class Figures:
    """Collects what the ticks did between two reports.

    Args:
        spec: the robot.
        name: the node's name, first part of every status name.
    """

    def __init__(self, spec: RobotSpec, name: str) -> None:
        self._spec, self._name = spec, name
        self.missed = 0
        self._reason = ""
        self._begin(0.0)

    def _begin(self, now: float) -> None:
        self._since = now
        self._missed_before = self.missed
        self._lateness: list[float] = []
        self._decisions: list[Decision] = []
        self._last: Decision | None = None
        self._rejected = 0

    def reject(self, reason: Refusal) -> None:
        """A state message was refused."""
        self._rejected += 1
        self._reason = reason.sentence

    def tick(self, decision: Decision, lateness_s: float, missed: int) -> None:
        """Take over a tick: what it decided, how late it was and how many before it were missed."""
        if self._last is None and not self._lateness:
            self._since = decision.time - self._spec.tick_s
        self._last = decision
        self._lateness.append(lateness_s)
        self._decisions.append(decision)
        self.missed += missed

    def report(self, now: float, stamp: Any, worker_running: bool, restarts: int) -> DiagnosticArray:
        """The message for the time since the last report.

        Args:
            now: on the clock of the decisions, s.
            stamp: for the header.
            worker_running: whether the planner's process is there.
            restarts: how often it had to be restarted.
        """
        statuses = [self._cadence(now), self._control(), self._planner(worker_running, restarts)] if self._last else [self._idle()]
        array = DiagnosticArray(status=statuses)
        array.header.stamp = stamp
        self._begin(now)
        return array

    def change(self, decision: Decision, stamp: Any) -> DiagnosticArray:
        """The message for a change of mode, to be sent in the tick in which it happened: each fault behind it, and what to do.

        Args:
            decision: of that tick.
            stamp: for the header.
        """
        array = DiagnosticArray(status=[self._status("mode", _LEVEL[decision.mode], explanation(decision), mode=decision.mode.name,
                                                     faults=" ".join(decision.reasons))])
        array.header.stamp = stamp
        return array

    def _status(self, task: str, level: bytes, sentence: str, **values: Any) -> DiagnosticStatus:
        pairs = [KeyValue(key=k, value=f"{v:.6g}" if isinstance(v, float) else str(v)) for k, v in values.items()]
        return DiagnosticStatus(level=level, name=f"{self._name}: {task}", message=sentence, hardware_id=self._spec.name, values=pairs)

    def _idle(self) -> DiagnosticStatus:
        return self._status("control", DiagnosticStatus.OK, "not active: nothing is sent")

    def _cadence(self, now: float) -> DiagnosticStatus:
        p50, p99 = np.percentile(self._lateness, [50, 99])
        worst, missed = max(self._lateness), self.missed - self._missed_before
        level, sentence = DiagnosticStatus.OK, "on time"
        if missed:
            level, sentence = DiagnosticStatus.ERROR, f"{missed} ticks missed since the last report: this machine is too busy"
        elif worst > LATE_SHARE * self._spec.tick_s:
            level, sentence = DiagnosticStatus.WARN, f"a tick was {1e3 * worst:.1f} ms late: something else ran in its place"
        rate = len(self._lateness) / max(now - self._since, 1e-3)
        return self._status("cadence", level, sentence, rate_hz=rate, lateness_p50_us=1e6 * float(p50), lateness_p99_us=1e6 * float(p99),
                            lateness_max_us=1e6 * worst, missed_ticks=self.missed)

    def _control(self) -> DiagnosticStatus:
        assert self._last is not None
        worst = max(self._decisions, key=lambda decision: decision.mode)
        level = max(_LEVEL[worst.mode], DiagnosticStatus.WARN if self._rejected else DiagnosticStatus.OK)
        return self._status("control", level, explanation(worst), mode=self._last.mode.name, worst_mode=worst.mode.name,
                            faults=" ".join(worst.reasons),
                            state_age_ms=1e3 * self._last.state_age, states_rejected=self._rejected, last_rejected=self._reason)

    def _planner(self, running: bool, restarts: int) -> DiagnosticStatus:
        assert self._last is not None
        level, sentence = DiagnosticStatus.OK, "planning"
        if not running:
            level, sentence = DiagnosticStatus.ERROR, "the planner's process has ended and is started anew; see the run's logs/planner.log"
        elif self._last.plan_seq < 0 or math.isnan(self._last.latency_s):
            sentence = "no plan is being followed: no model was published yet, or the state is not fresh"
        last = self._last
        return self._status("planner", level, sentence, plan_seq=last.plan_seq, plan_age_ms=1e3 * last.plan_age,
                            plan_latency_ms=1e3 * last.latency_s, model_version=last.model_version, cost=last.cost, restarts=restarts)
