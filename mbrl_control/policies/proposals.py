"""What a learned policy would do, as candidates of a planner; and its critic, as the cost of what comes after the horizon."""

from __future__ import annotations

from collections.abc import Callable

import torch

from mbrl_control.costs.base import Cost
from mbrl_control.planning.base import SamplingPlanner
from mbrl_control.planning.plan import PlanRequest
from mbrl_control.policies.base import Policy

OF_COST, OF_VALUE = 0.7, 0.2
"""How far off a critic may be that is believed: as shares of what its policy's motion costs over the horizon, and of what it expects."""


class PolicyRows:
    """Candidates of a policy that is played through the members' mean step: the most likely commands, and drawn ones. None until the
    policy has learned something.

    Args:
        name: of the source, for counting what wins.
        planner: whose model and start it uses.
        policy: what to do.
        count: rows.
        cost: of the robot, to judge the policy's critic by; None where nobody asks it.

    Attributes:
        ready: whether the policy has learned something.
        unjudged: its critic is believed whatever it says, to see how long that takes.
    """

    def __init__(self, name: str, planner: SamplingPlanner, policy: Policy, count: int, cost: Cost | None = None) -> None:
        self.name, self.planner, self.policy, self.count, self.cost = name, planner, policy, count, cost
        self.ready, self.unjudged, self._right = False, False, False
        self._rng = torch.Generator()

    @torch.no_grad()  # a planner that follows gradients follows none into its proposals
    def rows(self, request: PlanRequest) -> torch.Tensor:
        """[R, H, A] physical units; see `planning.proposals.Proposal`."""
        planner = self.planner
        if not self.ready:
            return torch.zeros(0, planner.horizon, planner.spec.action_dim)
        self._rng.manual_seed((planner.seed * 1_000_003 + request.seq) % 2**63)
        state = planner.predict_start(request).expand(self.count, -1)
        found, passed = [], [state[:1]]
        for _ in range(planner.horizon):
            drawn = self.policy.act(state[1:], self._rng)
            found.append(torch.cat([self.policy.act(state[:1], None), drawn]))
            action = planner.space.physical(found[-1])
            state = planner.model.step(state.expand(planner.model.members, -1, -1), action).state.mean(0)
            passed.append(state[:1])
        if self.cost is not None:
            self._right = consistent(self.policy, self.cost, torch.cat(passed), planner.space.physical(torch.cat([a[:1] for a in found])))
        return planner.space.physical(torch.stack(found, 1))

    def pass_over(self) -> None:
        """See `planning.proposals.Proposal`: a critic that is not judged does not count."""
        self._right = False

    def useful(self) -> bool:
        """See `planning.proposals.Proposal`: its critic counts."""
        return self.cost is not None and self.believed()

    def believed(self) -> bool:
        """Whether the policy's critic was right about the last rows, see `consistent`."""
        return self._right or self.unjudged


def consistent(policy: Policy, cost: Cost, states: torch.Tensor, actions: torch.Tensor) -> bool:
    """Whether a critic is right about its own policy's motion: what it expects at the start is what the motion costs, and what it expects
    at the end (Bellman's equation; Sutton and Barto 2018, 3.14). An untrained critic expects nothing from what costs the most.

    Args:
        policy: with a critic.
        cost: of the robot.
        states: [H + 1, S] the motion of its most likely commands, the start included.
        actions: [H, A] these, physical units.
    """
    steps = len(actions)
    shares = policy.discount ** torch.arange(steps, dtype=torch.float32)
    paid = (shares * cost.stage(states[1:], actions)).sum()
    first, last = policy.to_go(states[[0, -1]]).unbind(0)
    return bool((first - paid - policy.discount**steps * last).abs() <= OF_COST * paid.abs() + OF_VALUE * first.abs())


class Valued:
    """A cost with what a policy's critic expects after the horizon added to its end.

    Where the members disagree on the end of a candidate, it counts as the worst end of all candidates: nothing is known about it. Where
    the critic is not to be believed, it is not asked at all.

    Args:
        cost: of the robot.
        policy: whose critic it is.
        scale: [S] typical one-step changes.
        trust: disagreement, in these, beyond which an end is unknown.
        believed: whether the critic counts in the present plan; by default it does.
    """

    def __init__(self, cost: Cost, policy: Policy, scale: torch.Tensor, trust: float, believed: Callable[[], bool] = lambda: True) -> None:
        self.cost, self.policy, self.scale, self.trust, self.believed = cost, policy, scale, trust, believed

    def stage(self, state: torch.Tensor, action: torch.Tensor) -> torch.Tensor:
        """See `Cost.stage`."""
        return self.cost.stage(state, action)

    def terminal(self, state: torch.Tensor) -> torch.Tensor:
        """See `Cost.terminal`; with [E, N, S], members first, the disagreement is looked at."""
        if not self.believed():
            return self.cost.terminal(state)
        to_go = self.policy.to_go(state)
        if state.ndim == 3 and len(state) > 1:
            unknown = (state.std(0, correction=0) / self.scale).mean(-1) > self.trust
            to_go = torch.where(unknown, to_go.amax(), to_go)
        return self.cost.terminal(state) + to_go
