"""Plans and requests as vectors of fixed layout: what goes through mailboxes, onto the topic `mbrl/plan` and into logs."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from mbrl_control.planning.plan import Plan, PlanRequest, Verdict
from mbrl_control.robot import RobotSpec
from mbrl_control.runtime.faults import codes, mask

HISTORY_S = 0.4
CARRY_ROWS = 9
ANSWERS = 4
"""Plans that wait for the controller, at most. Two may end between two ticks, and the second is no use to a log without the first, from
which it started."""

WINNERS = ("nominal", "explore", "mbpo", "dreamer", "hold", "newton", "learned")
REQUEST_HEAD = 5
PLAN_HEAD = 15
FAULTS_AT, IDLE_AT = 13, 14
"""Where a plan's faults are, as `faults.mask` makes a number of them, and `Plan.idle`, of each source in so many bits. Plans that were
logged before there were such lack them."""

IDLE_BITS, IDLE_MOST = 6, 8

MOST_BITS = 53
"""More faults would make numbers that a float does not hold exactly."""


@dataclass(frozen=True)
class Layout:
    """Sizes that both sides derive from the robot's YAML.

    Attributes:
        state: S.
        action: A.
        horizon: H.
        history: commands kept, newest last.
    """

    state: int
    action: int
    horizon: int
    history: int

    @staticmethod
    def of(spec: RobotSpec) -> Layout:
        """The layout of a robot's messages."""
        reach = float(spec.delays.max()) + HISTORY_S
        return Layout(spec.state_dim, spec.action_dim, spec.planner.horizon, max(4, int(np.ceil(reach * spec.rate_hz))))

    @property
    def request_size(self) -> int:
        """Numbers in a request."""
        return REQUEST_HEAD + self.state + self.history * (1 + self.action)

    @property
    def plan_size(self) -> int:
        """Numbers in a plan."""
        return PLAN_HEAD + (1 + CARRY_ROWS) * self.horizon * self.action

    @property
    def answer_size(self) -> int:
        """Numbers in what a planner answers: the plan, then the request that it answers, so that one record replays."""
        return self.plan_size + self.request_size

    def current(self, answer: np.ndarray) -> np.ndarray:
        """A logged answer as this version writes it: one of before there were faults or idle sources has none; others are given back as
        they are."""
        lacking = self.answer_size - len(answer)
        return np.insert(answer, (IDLE_AT + 1 - lacking) * np.ones(lacking, int), 0.0) if lacking in (1, 2) else answer

    def pack_request(self, request: PlanRequest) -> np.ndarray:
        """[request_size]; commands older than the history are left out."""
        out = np.zeros(self.request_size)
        kept = min(len(request.sent), self.history)
        out[:REQUEST_HEAD] = request.seq, request.state_time, request.apply_time, request.experience_s, kept
        body = out[REQUEST_HEAD:]
        body[: self.state] = request.state
        if kept:
            body[self.state : self.state + kept] = request.sent_time[-kept:]
            begin = self.state + self.history
            body[begin : begin + kept * self.action] = request.sent[-kept:].ravel()
        return out

    def unpack_request(self, vector: np.ndarray) -> PlanRequest:
        """The reverse of `pack_request`."""
        kept = int(vector[4])
        body = vector[REQUEST_HEAD:]
        begin = self.state + self.history
        return PlanRequest(int(vector[0]), body[: self.state].copy(), vector[1], vector[2], body[self.state : self.state + kept].copy(),
                           body[begin : begin + kept * self.action].reshape(kept, self.action).copy(), vector[3])

    def pack_plan(self, plan: Plan, previous_seq: int) -> np.ndarray:
        """[plan_size]."""
        out = np.zeros(self.plan_size)
        rows = min(len(plan.carry), CARRY_ROWS)
        out[:PLAN_HEAD] = (plan.seq, plan.start, plan.dt, plan.cost, plan.verdict, plan.model_version, plan.iterations, plan.latency_s,
                           WINNERS.index(plan.winner), rows, previous_seq, plan.stats.get("finite", 1.0), plan.stats.get("std", 0.0),
                           mask(plan.faults), sum(count << IDLE_BITS * n for n, count in enumerate(plan.idle[:IDLE_MOST])))
        cells = self.horizon * self.action
        out[PLAN_HEAD : PLAN_HEAD + cells] = plan.actions.ravel()
        out[PLAN_HEAD + cells : PLAN_HEAD + (1 + rows) * cells] = plan.carry[:rows].ravel()
        return out

    def unpack_plan(self, vector: np.ndarray) -> tuple[Plan, int]:
        """The plan, and the number of the plan that it started from (-1 for none).

        Raises:
            ValueError, LookupError, OverflowError: the numbers are no plan.
        """
        cells, rows = self.horizon * self.action, int(vector[9])
        actions = vector[PLAN_HEAD : PLAN_HEAD + cells].reshape(self.horizon, self.action).copy()
        carry = vector[PLAN_HEAD + cells : PLAN_HEAD + (1 + rows) * cells].reshape(rows, self.horizon, self.action).copy()
        bits, idle = int(vector[FAULTS_AT]), int(vector[IDLE_AT])
        for what, number in (("faults", bits), ("idle sources", idle)):
            if not 0 <= number < 1 << MOST_BITS:
                raise ValueError(f"{number} stands for no {what}")
        plan = Plan(int(vector[0]), vector[1], vector[2], actions, vector[3], Verdict(int(vector[4])), int(vector[5]), int(vector[6]),
                    vector[7], WINNERS[int(vector[8])], carry, {"finite": vector[11], "std": vector[12]}, codes(bits),
                    tuple(idle >> IDLE_BITS * n & (1 << IDLE_BITS) - 1 for n in range(IDLE_MOST)))
        return plan, int(vector[10])
