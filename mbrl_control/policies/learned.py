"""A policy that an agent has learned in simulation (`mbrl export`): proposals, and with its critic values, from a robot's first plan on."""

from __future__ import annotations

import hashlib
import itertools
import json
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Annotated, Any, Literal

import numpy as np
import torch
from pydantic import Field

from mbrl_control import parts
from mbrl_control.errors import SnapshotError, UserError
from mbrl_control.policies.actor import TanhGaussian
from mbrl_control.policies.critics import Critics
from mbrl_control.policies.dreamer import DreamerPolicy
from mbrl_control.policies.dreamer import Options as DreamerOptions
from mbrl_control.policies.flat import fitting
from mbrl_control.policies.mbpo import MbpoPolicy
from mbrl_control.policies.view import View, matters
from mbrl_control.robot import RobotSpec
from mbrl_control.store import snapshot

SAME_S = 1e-6
"""Times that differ by less are the same."""

KIND = "policy"
"""Of the snapshots that `write` makes."""


@dataclass
class Options:
    """Where the policy is.

    Attributes:
        path: the folder that `mbrl export` made; a relative one is looked up from where the program is started.
    """

    path: str = ""


@dataclass(frozen=True)
class Networks:
    """An exported policy's networks, as its manifest has them.

    Attributes:
        hidden: units of each hidden layer of actor and critics.
        critics: K.
        norm: whether the critics normalise their layers.
        discount: of what the critics expect, per second.
    """

    hidden: Annotated[tuple[Annotated[int, Field(ge=1, le=4096)], ...], Field(max_length=16)] = (256, 256)
    critics: Annotated[int, Field(ge=1, le=100)] = 2
    norm: bool = False
    discount: Annotated[float, Field(ge=0, lt=1)] = 0.5


@dataclass(frozen=True)
class Recurrent:
    """An exported Dreamer, as its manifest has it.

    Attributes:
        version: of Dreamer.
        size: of the networks.
        step_s: seconds between its decisions, and the step of its own model.
    """

    version: Literal["v1", "v2", "v3"] = "v3"
    size: Literal["small", "size1m"] = "small"
    step_s: Annotated[float, Field(gt=0, le=10)] = 0.05


SECTIONS: dict[type, str] = {Networks: "networks", Recurrent: "recurrent"}
"""Where a manifest has them."""


def fingerprint(spec: RobotSpec) -> str:
    """Hash of what a policy depends on: signals, limits and the cost. Not of the model nor of its step: the same policy serves all."""
    seen = [[s.name, s.unit, s.wraps, bool(m)] for s, m in zip(spec.state, matters(spec), strict=True)]
    keep = {"state": seen, "command": [[c.name, c.unit, list(c.limits)] for c in spec.command], "cost": spec.cost.model_dump()}
    return hashlib.sha256(json.dumps(keep, sort_keys=True).encode()).hexdigest()[:16]


def write(folder: Path, spec: RobotSpec, networks: Networks | Recurrent, arrays: dict[str, np.ndarray], steps: int,
          figures: dict[str, Any]) -> None:
    """Write a policy: safetensors and a manifest, whole or not at all.

    Args:
        folder: that is made.
        spec: the robot.
        networks: what the arrays are of.
        arrays: as the policy's `arrays` gives them; `unit` is that of a second: what the critics' 1 is in cost times seconds.
        steps: that it has learned from.
        figures: where it comes from, JSON values.

    Raises:
        SnapshotError: the folder is there already, or a number is not finite.
    """
    found = {**figures, SECTIONS[type(networks)]: json.loads(json.dumps(asdict(networks)))}
    snapshot.write(folder, snapshot.Snapshot(KIND, fingerprint(spec), steps, arrays, found))


def build(spec: RobotSpec, options: Options) -> LearnedPolicy | LearnedDreamer:
    """The policy in a folder.

    Raises:
        UserError: no folder is named, or it holds a Dreamer of another step than the robot's model.
        SnapshotError: it is not there, damaged, no policy, or of another robot.
    """
    if not options.path:
        raise UserError("policies 'learned': option path is missing; name the folder that `mbrl export RUN -o FOLDER` made")
    folder = Path(options.path)
    found = snapshot.read(folder)
    if found.kind != KIND:
        raise SnapshotError(f"{folder}: a snapshot of '{found.kind}', not a policy; name the folder that `mbrl export` made")
    if found.spec_hash != (mine := fingerprint(spec)):
        raise SnapshotError(f"{folder}: a policy for another robot or cost (hash {found.spec_hash}, '{spec.name}' has {mine}); "
                            "let it learn on this robot's YAML")
    if (given := found.figures.get(SECTIONS[Recurrent])) is not None:
        return _dreamer(spec, folder, given, found.weights)
    given = found.figures.get(SECTIONS[Networks])
    networks = parts.fill(Networks, f"{folder}: networks", given if isinstance(given, dict) else {"networks": given})
    made = LearnedPolicy(spec, networks, found.weights)
    made.load(found.weights)
    made.unit /= spec.model_dt
    return made


def _dreamer(spec: RobotSpec, folder: Path, given: Any, weights: dict[str, np.ndarray]) -> LearnedDreamer:
    who = f"{folder}: {SECTIONS[Recurrent]}"
    recurrent = parts.fill(Recurrent, who, given if isinstance(given, dict) else {SECTIONS[Recurrent]: given})
    if abs(recurrent.step_s - spec.model_dt) > SAME_S:
        raise UserError(f"{folder}: a Dreamer that decides each {recurrent.step_s:g} s imagines in such steps, and plans of '{spec.name}' "
                        f"have steps of {spec.model_dt:g} s; let it learn with --repeat {max(1, round(spec.model_dt / spec.tick_s))}")
    made = LearnedDreamer(spec, DreamerOptions(recurrent.version, recurrent.size))
    made.load(weights)
    return made


class LearnedDreamer(DreamerPolicy):
    """As `LearnedPolicy`, with a latent state: see `mbrl_control.policies.base.LatentPolicy`."""

    fixed, kind = True, "learned"


class LearnedPolicy(MbpoPolicy):
    """See `mbrl_control.policies.base.Policy`. It does not learn any more, and it is in use whatever snapshots of the model bring.

    Args:
        spec: the robot.
        networks: sizes and discount.
        given: the arrays that are to be loaded: nothing of other sizes is made.

    Raises:
        SnapshotError: the arrays are not of these sizes.
    """

    fixed = True

    def __init__(self, spec: RobotSpec, networks: Networks, given: dict[str, np.ndarray]) -> None:
        self.view = View(spec)
        n, o, a = networks, self.view.size, spec.action_dim
        wanted = {"actor": _parameters((o, *n.hidden, 2 * a)), "critics": n.critics * _parameters((o + a, *n.hidden, 1), n.norm)}
        for name, count in wanted.items():
            if name not in given or given[name].shape != (count,):
                raise SnapshotError(f"exported policy: array '{name}' is not of the {count} numbers that its networks have for robot "
                                    f"'{spec.name}'")
        weights = np.random.default_rng(0)  # only until weights are loaded
        self.actor = TanhGaussian(o, a, n.hidden, weights)
        self.critics = Critics(o, a, n.hidden, weights, count=n.critics, norm=n.norm)
        self.unit = torch.ones(1)
        self.discount = n.discount**spec.model_dt

    def check(self, arrays: dict[str, np.ndarray]) -> None:
        """Refuse arrays that are not this policy's.

        Raises:
            SnapshotError: other names, shapes or types.
        """
        fitting(arrays, self.arrays(), "policy 'learned'")


def _parameters(sizes: tuple[int, ...], norm: bool = False) -> int:
    """How many numbers a network of these layers has; see `networks.initial`."""
    return sum((a + 1) * b for a, b in itertools.pairwise(sizes)) + norm * 2 * sum(sizes[1:-1])
