"""What learns beside the model: policies, trained on it by so many gradient steps for each second of new data."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Protocol

import numpy as np

from mbrl_control import parts
from mbrl_control.data.sequences import Sequences
from mbrl_control.models.base import Model
from mbrl_control.robot import RobotSpec
from mbrl_control.schema import PolicySpec
from mbrl_control.store.snapshot import Snapshot

MOST_DUE_S = 10.0
"""Updates that a refit catches up with, in seconds of data: after refusals or a long pause the next must not take minutes."""


Stretches = Callable[[int], Sequences]
"""A robot's data in overlapping stretches of so many model steps."""


class Learner(Protocol):
    """A policy that learns beside a robot's model; built by `mbrl_control.training.learn_<kind>`."""

    def improve(self, model: Model, stretches: Stretches, updates: int, progress: Callable[[], None]) -> dict[str, float]:
        """So many gradient steps, on a model that was just fitted or on the data; figures."""
        ...

    def arrays(self) -> dict[str, np.ndarray]:
        """What the planner needs of it."""
        ...

    def resume(self, arrays: dict[str, np.ndarray]) -> None:
        """Go on from published arrays.

        Raises:
            SnapshotError: they are not this robot's.
        """
        ...


class Beside:
    """All that a robot's YAML wants to learn beside its model, with the ratio of each kept.

    Args:
        spec: the robot.
        seed: of everything random.
    """

    def __init__(self, spec: RobotSpec, seed: int) -> None:
        self.spec, self.seed = spec, seed
        # A policy without a learner was learned elsewhere.
        self.specs = [p for p in spec.policies if _learner(p) in parts.kinds("training")]
        self.learners = [self._build(p) for p in self.specs]
        self._until = [-math.inf] * len(self.learners)
        self._due = [0.0] * len(self.learners)

    def _build(self, policy: PolicySpec) -> Learner:
        options = parts.options("policies", policy.kind, policy.options)
        made: Learner = parts.find("training", _learner(policy)).build(self.spec, options, self.seed)
        return made

    def improve(self, model: Model, stretches: Stretches, since: float, until: float, progress: Callable[[], None]) -> dict[str, float]:
        """The updates that are due; what they ruined begins anew. Figures by `<kind>_<figure>`, finite ones.

        Args:
            model: just fitted.
            stretches: the data.
            since: time of the oldest of it, s.
            until: time of the newest of it, s.
            progress: called after each update.
        """
        figures: dict[str, float] = {}
        for n, (spec, learner) in enumerate(zip(self.specs, self.learners, strict=True)):
            begin = max(self._until[n], since, until - MOST_DUE_S)
            self._due[n] += spec.updates_per_s * max(0.0, until - begin)
            self._until[n] = until
            updates = int(self._due[n])
            self._due[n] -= updates
            found = {**learner.improve(model, stretches, updates, progress), "updates": float(updates)}
            if not all(np.isfinite(array).all() for array in learner.arrays().values()):
                self.learners[n] = self._build(spec)
            figures |= {f"{spec.kind}_{name}": value for name, value in found.items() if math.isfinite(value)}
        return figures

    def arrays(self) -> dict[str, np.ndarray]:
        """`<kind>.<array>` of all."""
        return {f"{spec.kind}.{name}": array for spec, learner in zip(self.specs, self.learners, strict=True)
                for name, array in learner.arrays().items()}

    def resume(self, snapshot: Snapshot) -> None:
        """Go on from what a snapshot brings, where it brings anything.

        Raises:
            SnapshotError: it is not this robot's.
        """
        for spec, learner in zip(self.specs, self.learners, strict=True):
            if mine := snapshot.behaviour_of(spec.kind):
                learner.resume(mine)


def _learner(policy: PolicySpec) -> str:
    """Name of the module that lets a kind of policy learn."""
    return f"learn_{policy.kind}"
