"""Model swaps of `mbrl bench cadence`: snapshots that are bad on purpose, and what became of all of them."""

from __future__ import annotations

import hashlib
import itertools
import json
import math
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import safetensors.numpy

from mbrl_control.stack import report
from mbrl_control.stack.cadence_tick import PlanNote
from mbrl_control.store import ModelStore
from mbrl_control.store import snapshot as snapshots
from mbrl_control.store.snapshot import MANIFEST, WEIGHTS, Snapshot
from mbrl_control.store.store import ROLLED_BACK

BIAS = "normaliser.target_mean"
WORSE = 0.005
"""Typical changes of one step by which a worse model is wrong each step. Little enough to be used: in ten steps it adds up to less than
the 0.1 that is always allowed; and several times the one-step error of a model that was fitted to a simulated robot."""


def _float_array(arrays: Mapping[str, np.ndarray]) -> str:
    """Name of the largest array of floats."""
    return max((k for k, v in arrays.items() if v.dtype.kind == "f"), key=lambda k: arrays[k].size)


def _with(snapshot: Snapshot, name: str, array: np.ndarray) -> Snapshot:
    return replace(snapshot, weights={**snapshot.weights, name: array})


def _shape(snapshot: Snapshot) -> Snapshot:
    name = _float_array(snapshot.weights)
    return _with(snapshot, name, snapshot.weights[name][..., None])


def _worse(snapshot: Snapshot) -> Snapshot:
    """Wrong by a little at every step, and beyond its limits by its own account; as it came where a model has no such array."""
    if BIAS not in snapshot.weights:
        return snapshot
    change = snapshot.weights["normaliser.change"]
    limits = snapshot.figures.get("limits")
    shifted = _with(snapshot, BIAS, snapshot.weights[BIAS] + WORSE * change)
    return replace(shifted, figures={**snapshot.figures, "limits": {**limits, "error": 0.0}}) if isinstance(limits, dict) else shifted


def _not_finite(folder: Path) -> None:
    """One NaN, and a manifest that vouches for it."""
    arrays = safetensors.numpy.load((folder / WEIGHTS).read_bytes())
    arrays[_float_array(arrays)].ravel()[0] = np.nan
    data = safetensors.numpy.save(arrays)
    (folder / WEIGHTS).write_bytes(data)
    manifest = json.loads((folder / MANIFEST).read_text("utf-8"))
    (folder / MANIFEST).write_text(json.dumps(manifest | {"sha256": hashlib.sha256(data).hexdigest(), "bytes": len(data)}), "utf-8")


def _truncated(folder: Path) -> None:
    data = (folder / WEIGHTS).read_bytes()
    (folder / WEIGHTS).write_bytes(data[: len(data) // 2])


def _another_hash(folder: Path) -> None:
    data = bytearray((folder / WEIGHTS).read_bytes())
    data[-1] ^= 1
    (folder / WEIGHTS).write_bytes(bytes(data))


@dataclass(frozen=True)
class Damage:
    """A way in which a snapshot is bad.

    Attributes:
        name: of it.
        change: to the snapshot, before it is written.
        spoil: what is done to its folder, before the planner can see it.
        known: it can be told from the snapshot alone, so it must never be used; otherwise it may be, and must be rolled back then.
    """

    name: str
    change: Callable[[Snapshot], Snapshot] = lambda snapshot: snapshot
    spoil: Callable[[Path], None] = lambda folder: None
    known: bool = True


DAMAGES = (
    Damage("not finite", spoil=_not_finite), Damage("shape", change=_shape), Damage("truncated", spoil=_truncated),
    Damage("hash", spoil=_another_hash), Damage("another robot", change=lambda s: replace(s, spec_hash="0" * len(s.spec_hash))),
    Damage("worse", change=_worse, known=False),
)


def offer(store: ModelStore, snapshot: Snapshot, damage: Damage) -> int:
    """Publish a bad snapshot as a trainer would publish a good one, all of it at once.

    Args:
        store: of the planner.
        snapshot: a good one.
        damage: what is wrong with it.

    Returns:
        Its version.
    """
    version = store.next_version()
    place = store.path(version)
    hidden = place.with_name(f".{place.name}.bad")
    snapshots.write(hidden, replace(damage.change(snapshot), version=version))
    damage.spoil(hidden)
    hidden.rename(place)
    return version


@dataclass(frozen=True)
class Offered:
    """Snapshots as they were published.

    Attributes:
        good: (time, version), in order; s.
        bad: (version, how it is bad), in order.
    """

    good: Sequence[tuple[float, int]]
    bad: Sequence[tuple[int, Damage]] = ()


def swap_part(offered: Offered, plans: Sequence[PlanNote], misses: Sequence[tuple[float, int]], refused: Mapping[int, str] | None = None,
              plan_hz: float = math.nan) -> dict[str, Any]:
    """The report's `swaps`.

    A swap lasts from the publishing of a snapshot to the first plan that was made with it or a newer one; the first snapshot is there
    before the ticks begin and is no swap. The planner goes back to an older model between a request and its plan, so a rollback lasts no
    longer than the first plan with the older model took.

    Args:
        offered: what was published.
        plans: as they came, in order.
        misses: (time, ticks missed).
        refused: the store's reasons by version.
        plan_hz: plans per second.
    """
    used = {plan.version for plan in plans}
    spans = [(at, next((plan.time for plan in plans if plan.version >= version), math.inf)) for at, version in offered.good[1:]]
    during = sum(count for when, count in misses if any(a <= when <= b for a, b in spans))
    back = [plan.latency_s * plan_hz for before, plan in itertools.pairwise(plans) if plan.version < before.version]
    known = {version for version, damage in offered.bad if damage.known}
    reasons = refused or {}
    return {"published": len(spans), "accepted": sum(version in used for _, version in offered.good[1:]),
            "rolled_back": sum(reason.startswith(ROLLED_BACK) for reason in reasons.values()),
            "offered_bad": len(known), "offered_worse": len(offered.bad) - len(known), "accepted_bad": len(known & used),
            "refused": _not_rolled_back(reasons), "refused_bad": _not_rolled_back(reasons, known),
            "missed_ticks_during": during, "swap_s": report.quantiles([b - a for a, b in spans]),
            "rollback_periods": report.quantiles(back)}


def _not_rolled_back(reasons: Mapping[int, str], among: Collection[int] | None = None) -> int:
    return sum(not reason.startswith(ROLLED_BACK) for version, reason in reasons.items() if among is None or version in among)
