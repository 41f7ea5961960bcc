"""The whole stack in one process on a virtual clock: no ROS, no sleeping, seeded, as fast as it can."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Protocol

import numpy as np
import torch

from mbrl_control.costs import base as costs
from mbrl_control.errors import DataError
from mbrl_control.planning.plan import Plan, PlanRequest
from mbrl_control.robot import RobotSpec
from mbrl_control.runtime.controller import Controller
from mbrl_control.runtime.faults import mask
from mbrl_control.runtime.planner_core import PlannerCore
from mbrl_control.stack.run_log import RunLog
from mbrl_control.stack.success import solved_at
from mbrl_control.store import ModelStore
from mbrl_control.training.trainer import Trainer

Watch = Callable[[RunLog], None]


class Plant(Protocol):
    """What the stack drives."""

    def reset(self, rng: np.random.Generator) -> np.ndarray:
        """To the start; gives the state [S]."""
        ...

    def state(self) -> np.ndarray:
        """[S] now."""
        ...

    def step(self, command: np.ndarray, dt: float) -> np.ndarray:
        """Hold a command [A] for dt seconds; gives the state [S]."""
        ...


@dataclass(frozen=True)
class Settings:
    """How a lockstep run goes.

    Attributes:
        duration_s: virtual seconds, at most.
        seed: of everything random.
        resets_s: times at which the plant goes back to its start (a new episode).
        stop_when_solved: end the run then.
        plan_latency_s: virtual time from request to plan.
        refit_latency_s: virtual time from the start of a refit to its model being used.
        changes: (time, function of the plant) to apply in mid-run.
    """

    duration_s: float
    seed: int = 0
    resets_s: tuple[float, ...] = ()
    stop_when_solved: bool = False
    plan_latency_s: float = 0.015
    refit_latency_s: float = 0.5
    changes: tuple[tuple[float, Callable[..., None]], ...] = ()


class LockstepLink:
    """A planner that answers after a fixed virtual time; see `mbrl_control.runtime.controller.Link`.

    Args:
        core: the planner.
        latency_s: virtual time from request to plan.
    """

    def __init__(self, core: PlannerCore, latency_s: float) -> None:
        self.core, self.latency = core, latency_s
        self.now = 0.0
        self.waiting: tuple[float, Plan] | None = None
        self.plans: list[Plan] = []

    def send(self, request: PlanRequest) -> None:
        """Plan at once; the answer becomes visible later. Until then the planner is busy and requests pass it by."""
        if self.core.model.version and self.waiting is None:
            self.waiting = (self.now + self.latency, self.core.plan(request)[0])
            self.core.settle()

    def receive(self, now: float) -> Plan | None:
        """The plan, when its time has come."""
        self.now = now
        if self.waiting is None or now < self.waiting[0]:
            return None
        plan, self.waiting = self.waiting[1], None
        self.plans.append(plan)
        # What the machine took is for the report; the controller lives on the virtual clock.
        return replace(plan, latency_s=self.latency)


class Lockstep:
    """One run; `log` may be read where `run` calls something, and after it, however it ended.

    Args:
        spec: the robot.
        plant: what it drives.
        folder: for the model store.
        settings: see there.
    """

    def __init__(self, spec: RobotSpec, plant: Plant, folder: Path, settings: Settings) -> None:
        self.spec, self.plant, self.settings = spec, plant, settings
        store = ModelStore(folder)
        self.core = PlannerCore(spec, store, settings.seed)
        # Without a time limit: a fit that ends when its seconds are over depends on the machine.
        untimed = spec.trainer.model_copy(update={"budget_s": math.inf})
        self.trainer = Trainer(spec.model_copy(update={"trainer": untimed}), store, settings.seed)
        self.link = LockstepLink(self.core, settings.plan_latency_s)
        self.controller = Controller(spec, self.link, settings.seed, lead_s=settings.plan_latency_s)
        self.cost = costs.build(spec)
        self.rng = np.random.default_rng([settings.seed, 0x9147])
        self.log = RunLog(plans=self.link.plans, refits=self.trainer.history)
        self._visible: float = math.inf
        self._busy_until = 0.0
        self._changed = 0

    def _train(self, now: float) -> None:
        """Refit when there is enough new data and the last refit would be over; swap when its model would be there."""
        if now >= self._visible:
            self._visible = math.inf
            if self.core.swap():
                self.log.swaps.append((now, self.core.model.version))
        if now < self._busy_until:
            return
        self.trainer.set_data(self.log.episodes())
        if self.trainer.due():
            try:
                self.trainer.refit()
            except DataError:  # too little of it lies where the robot may be; a trainer beside a robot waits for more, too
                return
            self._busy_until = self._visible = now + self.settings.refit_latency_s

    def _stage_cost(self, state: np.ndarray, command: np.ndarray) -> float:
        with torch.inference_mode():
            return float(self.cost.stage(torch.as_tensor(state), torch.as_tensor(command)))

    def _solved(self) -> bool:
        if self.spec.success is None:
            return False
        first = max(self.log.starts[-1], len(self.log.time) - int(self.spec.success.hold_s * self.spec.rate_hz) - 2)
        return solved_at(self.spec, np.array(self.log.time[first:]), np.array(self.log.state[first:])) is not None

    def run(self, watch: Watch | None = None, point: Callable[[], None] = lambda: None) -> RunLog:
        """Run to the end; `watch` is called about every virtual second, `point` between ticks, where it may be left. Returns the log."""
        s, spec, log = self.settings, self.spec, self.log
        tick, ticks = spec.tick_s, round(s.duration_s * spec.rate_hz)
        resets = {round(t * spec.rate_hz) for t in s.resets_s}
        self.plant.reset(self.rng)
        log.starts.append(0)
        for k in range(ticks):
            point()
            now = k * tick
            if k in resets:
                self.plant.reset(self.rng)
                self.controller.new_episode()
                self.core.previous = None
                self.link.waiting = None
                log.starts.append(k)
            while self._changed < len(s.changes) and now >= s.changes[self._changed][0]:
                s.changes[self._changed][1](self.plant)
                self._changed += 1
            state = self.plant.state()
            self.controller.on_state(now, state)
            decision = self.controller.tick(now)
            log.add(now, state, decision.command, decision.mode, decision.model_version, mask(decision.reasons))
            log.reused = self.controller.reused
            log.refused, log.rolled_back = self.core.swaps.refused, self.core.swaps.rolled_back
            arrived = self.plant.step(decision.command, tick)
            log.cost.append(self._stage_cost(arrived, decision.command))
            if k % 5 == 4:
                self._train(now + tick)
            if watch is not None and k % round(spec.rate_hz) == 0:
                watch(log)
            if s.stop_when_solved and k % 10 == 0 and self._solved():
                break
        return log
