"""Controller: the tick. One command each period from the newest plan, whatever happens to the planner. NumPy only."""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import numpy as np

from mbrl_control.planning.plan import Plan, PlanRequest
from mbrl_control.robot import RobotSpec
from mbrl_control.runtime import supervisor
from mbrl_control.runtime.course import Player
from mbrl_control.runtime.excitation import excitation
from mbrl_control.runtime.faults import Mode, mask
from mbrl_control.runtime.layout import ANSWERS, HISTORY_S
from mbrl_control.runtime.safe_policy import hold_command, start_command
from mbrl_control.runtime.safety import Filtered, SafetyFilter, safe_command
from mbrl_control.runtime.supervisor import Supervision

EXCITATION_TICKS = 4096
STRAYED_S = 1.0
OLD, LOST = 0.4, 5.0
"""Ages of the state, in time-outs, from which it is old (but not before two ticks) and lost."""
EPSILON = 1e-9
NO_FAULTS: frozenset[str] = frozenset()


@dataclass(frozen=True)
class Decision:
    """What a tick did.

    Attributes:
        time: s, on the controller's clock.
        command: [A] what to send, within limits and rates.
        mode: why.
        plan_seq: number of the plan that it follows; -1 for none.
        plan_age: seconds since that plan's request; nan for none.
        model_version: of that plan; 0 for none.
        cost: predicted cost of that plan; nan for none.
        latency_s: seconds that the plan took; nan for none.
        state_age: seconds since the state was measured; nan for none.
        limited: the safety stage changed the command.
        reasons: codes of the faults that brought the mode to where it is, the worst first.
    """

    time: float
    command: np.ndarray
    mode: Mode
    plan_seq: int
    plan_age: float
    model_version: int
    cost: float
    latency_s: float
    state_age: float
    limited: bool
    reasons: tuple[str, ...] = ()

    NAMES = ("mode", "plan_seq", "plan_age_s", "model_version", "cost", "latency_ms", "state_age_s", "limited", "faults")

    def numbers(self) -> list[float]:
        """The named numbers of the topic `mbrl/decision`, in the order of NAMES."""
        return [float(self.mode), float(self.plan_seq), self.plan_age, float(self.model_version), self.cost,
                1e3 * self.latency_s, self.state_age, float(self.limited), float(mask(self.reasons))]


class Link(Protocol):
    """The way to a planner and back; neither side waits for the other."""

    def send(self, request: PlanRequest) -> None:
        """Leave the newest request."""
        ...

    def receive(self, now: float) -> Plan | None:
        """The oldest plan that was not received before; None where there is no such."""
        ...


class Controller:
    """The tick's state: newest measurement, commands sent, plans held.

    Args:
        spec: the robot.
        link: to the planner.
        seed: of the excitation.
        lead_s: expected time from request to plan at first; later the measured one is used.
        base: folder of the robot's YAML, for the nominal model of its safety filter.
        player: of a course that is played instead of plans; then none are asked for.

    Attributes:
        reused: plan periods, since reset, in which no new plan arrived and the last one was used on.
        outside: codes of faults found outside of the tick; whoever finds them sets it, and takes them away when they are over.
        supervision: mode, reasons and what they follow from.

    Raises:
        UserError: the safety filter's nominal model does not fit the robot.
    """

    def __init__(self, spec: RobotSpec, link: Link, seed: int, lead_s: float = 0.02, base: Path | None = None,
                 player: Player | None = None) -> None:
        self.spec, self.link, self.player = spec, link, player
        self._noise = excitation(spec, EXCITATION_TICKS, np.random.default_rng([seed, 0xE8C1]))
        self._keep = max(4, math.ceil((HISTORY_S + float(spec.delays.max())) * spec.rate_hz))
        self._every = max(1, round(spec.rate_hz / spec.plan_hz))
        self._lead = lead_s
        self._most_lead = 0.5 * spec.planner.horizon * spec.model_dt
        self.safety = SafetyFilter(spec, base)
        self._old_s = max(2 * spec.tick_s, OLD * spec.state_timeout_s)
        self.reset()

    def reset(self) -> None:
        """Forget everything: as after configure."""
        self.outside = NO_FAULTS
        self.supervision = Supervision()
        self._released = False
        self._started = False
        self._unsafe = NO_FAULTS
        self._held: np.ndarray | None = None
        self._forget()

    def _forget(self) -> None:
        self.state: np.ndarray | None = None
        self.state_time = -math.inf
        self.last = self.spec.action_zero.copy()
        self._last_time: float | None = None
        self._sent_time: list[float] = []
        self._sent: list[np.ndarray] = []
        self._plan: Plan | None = None
        self._waiting: list[Plan] = []
        self._ticks = 0
        self._fresh_ticks = 0
        self._seq = self._first_seq = 0
        self._strayed = 0
        self.reused = 0
        self._arrived = False

    def new_episode(self) -> None:
        """The robot was put back to its start: forget state, plans and history, keep what was experienced and the last command."""
        ticks, seq, last, reused = self._fresh_ticks, self._seq, self.last, self.reused
        self._forget()
        self._fresh_ticks, self.last, self.reused = ticks, last, reused
        self._seq = self._first_seq = seq

    def begin(self) -> None:
        """Control begins (again): as a new episode, with nothing latched and nothing counted."""
        self.new_episode()
        self.supervision = Supervision()
        self._released = self._started = False
        self._unsafe, self._held = NO_FAULTS, None
        self.reused = 0
        if self.player is not None:
            self.player.begin()

    def release(self) -> None:
        """An operator asks to leave LATCHED; it is granted in the next tick if nothing asks for LATCHED any more."""
        self._released = True

    @property
    def experience_s(self) -> float:
        """Seconds of control with a fresh state, since reset."""
        return self._fresh_ticks * self.spec.tick_s

    def on_state(self, time: float, state: np.ndarray) -> None:
        """Take a measurement [S] made at `time` (s, the tick's clock); older ones than the newest are dropped."""
        if self.state_time <= time < math.inf and np.isfinite(state).all():
            self.state, self.state_time = state, time

    def tick(self, now: float) -> Decision:
        """Decide the command for the period that begins now. Never blocks, never raises on bad plans or states.

        Before the first state it is the last command still: nobody knows what the robot does, so nothing is to be sent.
        """
        self._take_plans(now)
        if self.state_time > now + self.spec.tick_s:  # or every sound state after it would count as older
            self.state_time = now - 2 * self.spec.state_timeout_s
        age = now - self.state_time
        fresh = self.state is not None and age <= self.spec.state_timeout_s + EPSILON
        if self.state is None:
            wanted, base, plan, faults = self.last, Mode.STANDBY, None, NO_FAULTS
        else:
            before = self.last
            self._start(self.state)
            wanted, base, plan, faults = (self._intended(now, self._fresh_ticks, before) if self.player is None
                                          else self._played(self.player, self.state))
        self._supervise(base, faults | self._age_faults(age) | self._unsafe | self.outside, now)
        mode, trusted = self.supervision.mode, self.state if fresh else None
        if self.state is None:  # nothing is sent, so what the robot obeys does not change, whatever is wrong
            filtered = Filtered(self.last, False, NO_FAULTS)
        else:
            if mode >= Mode.BRAKE:
                wanted = self._safe(mode, trusted)
                if self.player is not None:
                    self.player.stop()
            dt = now - self._last_time if self._last_time is not None else self.spec.tick_s
            filtered = self.safety.apply(wanted, self.last, trusted, min(dt, 2 * self.spec.tick_s))
        command, self._unsafe = filtered.command, filtered.faults
        self._remember(now, command)
        self._fresh_ticks += int(fresh)
        self._strayed = self._strayed + 1 if fresh and self._outside() else 0
        if fresh and self._ticks % self._every == 0:
            self.reused += int(not self._arrived and plan is not None and mode in (Mode.ACTIVE, Mode.DEGRADED))
            self._arrived = False
            if self.player is None and age <= self._old_s + EPSILON:  # no model is to be fed a state that was extrapolated far
                self._ask(now)
        self._ticks += 1
        nan = math.nan
        return Decision(now, command, mode, plan.seq if plan else -1, now - plan.start if plan else nan, plan.model_version if plan else 0,
                        plan.cost if plan else nan, plan.latency_s if plan else nan, age if self.state is not None else nan,
                        filtered.limited, self.supervision.reasons)

    def _start(self, state: np.ndarray) -> None:
        """Begin with what the robot does already."""
        if not self._started:
            self._started = True
            self.last = start_command(self.spec, state, self.last)
            self.safety.begin(self.last)

    def _safe(self, mode: Mode, state: np.ndarray | None) -> np.ndarray:
        """The command while something is wrong: the safe action; in HOLD what holds the robot where it was when HOLD began."""
        if mode != Mode.HOLD:
            self._held = None
            return self.safety.policy.command(state, self.last, self.spec.tick_s)
        if self._held is None:
            self._held = hold_command(self.spec, state, self.last)
        return self._held

    def _supervise(self, base: Mode, faults: frozenset[str], now: float) -> None:
        self.supervision = supervisor.step(self.supervision, base, faults, now, reset=self._released)
        self._released = False

    def _age_faults(self, age: float) -> frozenset[str]:
        timeout = self.spec.state_timeout_s
        if self.state is None or age <= self._old_s + EPSILON:
            return NO_FAULTS
        if age <= timeout + EPSILON:
            return frozenset({"state_old"})
        return frozenset({"state_stale", "state_lost"} if age > LOST * timeout + EPSILON else {"state_stale"})

    def _intended(self, at: float, ticks: int, last: np.ndarray) -> tuple[np.ndarray, Mode, Plan | None, frozenset[str]]:
        """What plans held now say for a time `at`, at which `ticks` ticks with a fresh state have gone by: command, mode, plan, faults."""
        plan = next((p for p in reversed(self._waiting) if at >= p.start - 1e-9), self._plan)
        lost = self._strayed * self.spec.tick_s > STRAYED_S
        if plan is None or lost or ticks * self.spec.tick_s < self.spec.trainer.explore_s:
            return self._noise[ticks % EXCITATION_TICKS], Mode.EXPLORE, None, NO_FAULTS
        action = plan.at(at)
        if action is None:
            return last, Mode.ACTIVE, plan, frozenset({"plan_over"})
        faults = NO_FAULTS
        if at - plan.start > 3 * self._every * self.spec.tick_s + self._lead:
            faults = frozenset({"plan_late"})
        if plan.faults:
            faults |= frozenset(plan.faults)
        return action, Mode.ACTIVE, plan, faults

    def _played(self, player: Player, state: np.ndarray) -> tuple[np.ndarray, Mode, Plan | None, frozenset[str]]:
        """As `_intended`, of a course."""
        wanted = player.next(state)
        return self.last if wanted is None else wanted, Mode.EXPLORE, None, player.faults

    def _outside(self) -> bool:
        """Whether the robot is where it should not be: plans failed to bring it back, so after a while excitation must."""
        return self.state is not None and bool(((self.state < self.spec.range_low) | (self.state > self.spec.range_high)).any())

    def _sound(self, plan: Plan) -> bool:
        """Whether a plan answers a request of this episode and can be followed at all; it comes from another process."""
        numbers = (plan.start, plan.dt, plan.latency_s)
        return (plan.seq >= self._first_seq and all(map(math.isfinite, numbers)) and plan.dt > 0
                and plan.actions.shape == (self.spec.planner.horizon, self.spec.action_dim) and bool(np.isfinite(plan.actions).all()))

    def _take_plans(self, now: float) -> None:
        for _ in range(ANSWERS):
            if (plan := self.link.receive(now)) is None:
                break
            if self._sound(plan):
                self._arrived = True
                self._lead = min(max(0.95 * self._lead, plan.latency_s), self._most_lead)
                # Others wait for their start still: each is the past of those after it. One that would start later is superseded.
                self._waiting = [p for p in self._waiting if p.start < plan.start - 1e-9] + [plan]
        while self._waiting and now >= self._waiting[0].start - 1e-9:
            self._plan = self._waiting.pop(0)

    def _remember(self, now: float, command: np.ndarray) -> None:
        self.last, self._last_time = command, now
        self._sent_time.append(now)
        self._sent.append(command)
        if len(self._sent) > self._keep:
            del self._sent_time[0], self._sent[0]

    def _ask(self, now: float) -> None:
        """Request a plan that starts when it can be there, telling the commands that will have been sent by then."""
        tick = self.spec.tick_s
        ahead = max(1, math.ceil((self._lead + 0.002) / tick))
        times, sent = list(self._sent_time), list(self._sent)
        for k in range(1, ahead):
            at = now + k * tick
            braking = self.supervision.mode >= Mode.BRAKE
            wanted = sent[-1] if braking else self._intended(at, self._fresh_ticks + k - 1, sent[-1])[0]
            times.append(at)
            sent.append(safe_command(self.spec, wanted, sent[-1], tick)[0])
        assert self.state is not None
        self.link.send(PlanRequest(self._seq, self.state.copy(), self.state_time, now + ahead * tick, np.array(times), np.array(sent),
                                   self.experience_s))
        self._seq += 1
