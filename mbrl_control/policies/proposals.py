"""What a learned policy would do, as candidates of a planner; and its critic, as the cost of what comes after the horizon."""

from __future__ import annotations

import torch

from mbrl_control.costs.base import Cost
from mbrl_control.planning.base import SamplingPlanner
from mbrl_control.planning.plan import PlanRequest
from mbrl_control.policies.base import Policy


class PolicyRows:
    """Candidates of a policy that is played through the members' mean step: the most likely commands, and drawn ones. None until the
    policy has learned something.

    Args:
        name: of the source, for counting what wins.
        planner: whose model and start it uses.
        policy: what to do.
        count: rows.
    """

    def __init__(self, name: str, planner: SamplingPlanner, policy: Policy, count: int) -> None:
        self.name, self.planner, self.policy, self.count = name, planner, policy, count
        self.ready = False
        self._rng = torch.Generator()

    def rows(self, request: PlanRequest) -> torch.Tensor:
        """[R, H, A] physical units; see `planning.proposals.Proposal`."""
        planner = self.planner
        if not self.ready:
            return torch.zeros(0, planner.horizon, planner.spec.action_dim)
        self._rng.manual_seed((planner.seed * 1_000_003 + request.seq) % 2**63)
        state = planner.predict_start(request).expand(self.count, -1)
        found = []
        for _ in range(planner.horizon):
            drawn = self.policy.act(state[1:], self._rng)
            found.append(torch.cat([self.policy.act(state[:1], None), drawn]))
            action = planner.space.physical(found[-1])
            state = planner.model.step(state.expand(planner.model.members, -1, -1), action).state.mean(0)
        return planner.space.physical(torch.stack(found, 1))


class Valued:
    """A cost with what a policy's critic expects after the horizon added to its end.

    Where the members disagree on the end of a candidate, it counts as the worst end of all candidates: nothing is known about it.

    Args:
        cost: of the robot.
        policy: whose critic it is.
        scale: [S] typical one-step changes.
        trust: disagreement, in these, beyond which an end is unknown.
    """

    def __init__(self, cost: Cost, policy: Policy, scale: torch.Tensor, trust: float) -> None:
        self.cost, self.policy, self.scale, self.trust = cost, policy, scale, trust

    def stage(self, state: torch.Tensor, action: torch.Tensor) -> torch.Tensor:
        """See `Cost.stage`."""
        return self.cost.stage(state, action)

    def terminal(self, state: torch.Tensor) -> torch.Tensor:
        """See `Cost.terminal`; with [E, N, S], members first, the disagreement is looked at."""
        to_go = self.policy.to_go(state)
        if state.ndim == 3 and len(state) > 1:
            unknown = (state.std(0, correction=0) / self.scale).mean(-1) > self.trust
            to_go = torch.where(unknown, to_go.amax(), to_go)
        return self.cost.terminal(state) + to_go
