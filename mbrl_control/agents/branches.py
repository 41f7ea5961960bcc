"""Short imagined episodes that branch off from real states, and the pool that keeps them for a while (Janner et al. 2019, section 4)."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
import torch

from mbrl_control.data.replay import Batch
from mbrl_control.errors import SnapshotError

End = Callable[[torch.Tensor], torch.Tensor]


class Decides(Protocol):
    """An actor."""

    def sample(self, observation: torch.Tensor, rng: torch.Generator) -> tuple[torch.Tensor, Any]:
        """Decisions [N, A] drawn at observations [N, S], and something else."""
        ...


class Follows(Protocol):
    """A model of a task."""

    def step(self, observation: torch.Tensor, action: torch.Tensor, rng: torch.Generator) -> tuple[torch.Tensor, torch.Tensor]:
        """Next observations [N, S] and rewards [N] of decisions [N, A], drawn."""
        ...


@dataclass(frozen=True)
class Schedule:
    """Steps of a branch, growing along a line (Janner et al. 2019, appendix C: "x -> y over epochs a -> b").

    Attributes:
        first: x, up to decision `begin`.
        last: y, from decision `end` on.
        begin: a.
        end: b.
    """

    first: int
    last: int
    begin: int
    end: int

    def at(self, decisions: int) -> int:
        """Steps of a branch after so many decisions."""
        share = min(1.0, max(0.0, (decisions - self.begin) / max(1, self.end - self.begin)))
        return int(self.first + share * (self.last - self.first))


@torch.no_grad()
def imagine(model: Follows, actor: Decides, start: torch.Tensor, steps: int, terminated: End | None, rng: torch.Generator) -> Batch:
    """Decisions of the actor, and what the model samples that they come to.

    A branch ends where the task would; what is not finite is left out, and ends its branch too.

    Args:
        model: of the task.
        actor: who decides, at random by its density.
        start: [N, S] real observations.
        steps: of each branch, at most.
        terminated: where the task ends; None: nowhere.
        rng: generator.
    """
    made, now = [], start
    for _ in range(steps):
        action, _ = actor.sample(now, rng)
        following, reward = model.step(now, action, rng)
        sound = following.isfinite().all(-1) & reward.isfinite()
        over = torch.zeros(len(now), dtype=torch.bool) if terminated is None else terminated(following)
        made.append(Batch(now, action, reward, following, over.float()).rows(sound))
        now = following[sound & ~over]
        if not len(now):
            break
    return Batch.join(made)


class Pool:
    """Imagined decisions of the last few refits; older ones are of an older model and policy.

    Args:
        refits: how many are kept.
    """

    def __init__(self, refits: int) -> None:
        self._parts: deque[Batch] = deque(maxlen=refits)
        self._all: Batch | None = None

    def __len__(self) -> int:
        return 0 if self._all is None else len(self._all)

    def add(self, made: Batch) -> None:
        """What was imagined after a refit; the oldest part goes if there are too many."""
        self._parts.append(made)
        self._all = Batch.join(list(self._parts))

    def sample(self, count: int, rng: torch.Generator) -> Batch:
        """Draw decisions, with replacement, all equally likely."""
        assert self._all is not None
        return self._all.rows(torch.randint(len(self._all), (count,), generator=rng))

    def save(self) -> dict[str, np.ndarray]:
        """All parts."""
        return {f"{i}.{name}": value.numpy() for i, part in enumerate(self._parts) for name, value in vars(part).items()}

    def load(self, arrays: dict[str, np.ndarray]) -> None:
        """Take over what `save` gave.

        Raises:
            SnapshotError: it is no pool.
        """
        names = list(Batch.__dataclass_fields__)
        parts = len(arrays) // len(names)
        if set(arrays) != {f"{i}.{name}" for i in range(parts) for name in names}:
            raise SnapshotError("saved pool: arrays are missing or unknown; it is of another kind of agent or version")
        self._parts.clear()
        for i in range(parts):
            self.add(Batch(*(torch.from_numpy(arrays[f"{i}.{name}"].copy()) for name in names)))
