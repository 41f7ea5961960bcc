"""A robot's learned policies in its planner: their rows among the candidates, a critic at the end, weights with each snapshot."""

from __future__ import annotations

from mbrl_control import parts
from mbrl_control.costs.base import Cost
from mbrl_control.models.base import Model
from mbrl_control.planning.base import SamplingPlanner
from mbrl_control.policies.base import LatentPolicy, Policy
from mbrl_control.policies.proposals import PolicyRows, Valued
from mbrl_control.robot import RobotSpec
from mbrl_control.runtime.history import History
from mbrl_control.runtime.latent_rows import LatentRows
from mbrl_control.schema import PolicySpec
from mbrl_control.store.snapshot import Snapshot


class Behaviours:
    """The policies that a robot's YAML asks for. Until a snapshot brings weights they propose nothing, and no critic counts; but those
    that were learned elsewhere (`fixed`) do so from the first plan on.

    A critic is left out where the planner's iterations run on another device: its weights are not there.

    Args:
        spec: the robot.
        planner: gets further sources, and with a critic another cost.
        model: in use.
        history: what has happened, for policies that filter it.
    """

    def __init__(self, spec: RobotSpec, planner: SamplingPlanner, model: Model, history: History) -> None:
        self.planner, self.model, self._cost = planner, model, planner.cost
        self.specs = spec.policies
        self.policies: list[Policy | LatentPolicy] = [
            parts.find("policies", p.kind).build(spec, parts.options("policies", p.kind, p.options)) for p in spec.policies]
        self.rows = [self._source(p, policy, history) for p, policy in zip(spec.policies, self.policies, strict=True)]
        planner.sources = (*planner.sources, *self.rows)
        for rows in self.rows:
            rows.ready = rows.policy.fixed
        if model.version:  # else `use` does so, with the model's first weights
            self._count()

    def _source(self, policy_spec: PolicySpec, policy: Policy | LatentPolicy, history: History) -> PolicyRows | LatentRows:
        kind = policy_spec.kind
        if isinstance(policy, Policy):
            cost: Cost | None = self._cost if policy_spec.value else None
            return PolicyRows(kind, self.planner, policy, policy_spec.rows, cost)
        return LatentRows(kind, self.planner, policy, policy_spec.rows, history)

    def check(self, snapshot: Snapshot) -> None:
        """Refuse a snapshot with a policy that is not this robot's.

        Raises:
            SnapshotError: what does not fit.
        """
        for rows in self.rows:
            if (given := snapshot.behaviour_of(rows.name)) and not rows.policy.fixed:
                rows.policy.check(given)

    def use(self, snapshot: Snapshot) -> None:
        """Take over what a snapshot brings; the model has taken over its own part."""
        for rows in self.rows:
            if rows.policy.fixed:
                continue
            given = snapshot.behaviour_of(rows.name)
            if given:
                rows.policy.load(given)
            rows.ready = bool(given)
        self._count()

    def untrained(self) -> None:
        """Propose and value with what there is, to see what it takes."""
        for rows in self.rows:
            rows.ready = rows.unjudged = True
        self._count()

    def _count(self) -> None:
        planner = self.planner
        here = planner.engine is planner.direct
        valued = [Valued(self._cost, rows.policy, self.model.scale(), spec.trust, rows.believed)
                  for rows, spec in zip(self.rows, self.specs, strict=True)
                  if isinstance(rows, PolicyRows) and rows.ready and spec.value and here]
        planner.cost = valued[0] if valued else self._cost
