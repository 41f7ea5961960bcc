"""What a policy with a latent state would do, as candidates of a planner: filtered anew from the last model steps in every plan."""

from __future__ import annotations

import torch

from mbrl_control.planning.base import SamplingPlanner
from mbrl_control.planning.plan import PlanRequest
from mbrl_control.policies.base import LatentPolicy
from mbrl_control.runtime.history import History


class LatentRows:
    """Candidates that a policy imagines by its own model, from where the plan begins. None until it has learned something.

    The latent state is a function of the last steps alone: nothing is left in it of what a planner that died had seen, or of other weights.

    Args:
        name: of the source, for counting what wins.
        planner: whose start and noise it uses.
        policy: what to do.
        count: rows.
        history: what has happened, as the requests tell; whoever plans keeps it.

    Attributes:
        ready: whether the policy has learned something.
        unjudged: filter a whole window even where less is known, to see how long that takes.
    """

    def __init__(self, name: str, planner: SamplingPlanner, policy: LatentPolicy, count: int, history: History) -> None:
        self.name, self.planner, self.policy, self.count, self.history = name, planner, policy, count, history
        self.ready, self.unjudged = False, False
        self._rng = torch.Generator()

    @torch.no_grad()  # a planner that follows gradients follows none into its proposals
    def rows(self, request: PlanRequest) -> torch.Tensor:
        """[R, H, A] physical units; see `planning.proposals.Proposal`."""
        planner, window = self.planner, self.policy.window
        none = torch.zeros(0, planner.horizon, planner.spec.action_dim)
        if not self.ready:
            return none
        begin = request.apply_time + planner.delays.common
        found = self.history.leading_to(begin, planner.predict_start(request).double().numpy(), window)
        if not len(found) and not self.unjudged:
            return none
        self._rng.manual_seed((planner.seed * 1_000_003 + request.seq) % 2**63)
        if len(found):
            state, action = (torch.as_tensor(part[0], dtype=torch.float32) for part in (found.state, found.action))
        else:
            state, action = torch.zeros(1, planner.spec.state_dim), planner.space.physical(planner.space.zero)[None]
        if self.unjudged:
            state, action = state[-1:].expand(window + 1, -1), action[-1:].expand(window, -1)
        return planner.space.physical(self.policy.rows(state, planner.space.normal(action), self.count, planner.horizon, self._rng))

    def pass_over(self) -> None:
        """See `planning.proposals.Proposal`: nothing is kept from plan to plan."""

    def useful(self) -> bool:
        """See `planning.proposals.Proposal`: there is nothing but its rows."""
        return False
