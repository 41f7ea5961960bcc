"""Replay: make the plans of a logged run again, from the log and the model store alone, and compare them bit for bit."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from mbrl_control import robot
from mbrl_control.errors import DataError, SnapshotError, UserError
from mbrl_control.planning.plan import Plan, PlanRequest
from mbrl_control.robot import RobotSpec
from mbrl_control.runtime.layout import Layout
from mbrl_control.runtime.planner_core import PlannerCore
from mbrl_control.stack.run_reader import RunReader
from mbrl_control.store import ModelStore


@dataclass(frozen=True)
class Record:
    """A logged plan: the request, the answer, and the number of the plan that it started from."""

    request: PlanRequest
    plan: Plan
    previous_seq: int


@dataclass(frozen=True)
class Outcome:
    """What a replay found.

    Attributes:
        plans: logged.
        replayed: made again.
        identical: of those, equal in every bit of the actions and of what the next plan starts from.
        skipped: not made again because the plan before or the model is not in the log or the store.
        worst: greatest difference of an action, in the command's units.
        first_different: number of the first plan that differs; None if none does.
    """

    plans: int
    replayed: int
    identical: int
    skipped: int
    worst: float
    first_different: int | None


def facts(run_dir: Path) -> dict[str, Any]:
    """What `run.json` says about a run.

    Raises:
        UserError: no run lies there.
    """
    try:
        return dict(json.loads((run_dir / "run.json").read_text("utf-8")))
    except (OSError, ValueError) as error:
        raise UserError(f"{run_dir} holds no run (run.json cannot be read: {error}); "
                        "give the folder that `mbrl demo` or `mbrl control` made") from error


def records(spec: RobotSpec, run_dir: Path) -> list[Record]:
    """The logged plans, in order."""
    reader, layout = RunReader(spec, run_dir, vectors=True), Layout.of(spec)
    reader.poll()
    out = []
    for vector in reader.vectors:
        if len(vector) != layout.answer_size:
            raise DataError(f"{run_dir}: a logged plan has {len(vector)} numbers where this version writes {layout.answer_size}; "
                            "it was made by another version or with another robot.yaml")
        plan, previous = layout.unpack_plan(vector[: layout.plan_size])
        out.append(Record(layout.unpack_request(vector[layout.plan_size :]), plan, previous))
    return out


def replay(run_dir: Path, limit: int | None = None) -> Outcome:
    """Make logged plans again.

    Args:
        run_dir: folder of a run.
        limit: at most so many plans, spread evenly; None for all.

    Raises:
        UserError: no run, or nothing in it that can be replayed.
    """
    torch.set_num_threads(1)
    torch.set_flush_denormal(True)
    known, spec = facts(run_dir), robot.load(run_dir / "robot.yaml")
    logged = records(spec, run_dir)
    if not logged:
        raise UserError(f"{run_dir}: no plan was logged, so there is nothing to replay")
    store = ModelStore(run_dir / "store" if (run_dir / "store").exists() else Path(known["store"]))
    core = PlannerCore(spec, store, int(known["seed"]))
    by_seq = {r.plan.seq: r for r in logged}
    chosen = logged if limit is None else [logged[i] for i in np.unique(np.linspace(0, len(logged) - 1, limit).astype(int))]
    identical = skipped = 0
    worst, first = 0.0, None
    wanted = {r.plan.seq for r in chosen}
    for record in sorted(logged, key=lambda r: r.plan.seq):
        if record.previous_seq < 0:  # a new planner, which had seen nothing
            core.forget()
        core.see(record.request)  # also of plans that are not made again: policies may look at what has happened
        if record.plan.seq not in wanted:
            continue
        again = _again(core, record, by_seq)
        if again is None:
            skipped += 1
            continue
        same = np.array_equal(again.actions, record.plan.actions) and np.array_equal(again.carry, record.plan.carry)
        identical += same
        worst = max(worst, float(np.abs(again.actions - record.plan.actions).max()))
        if not same and first is None:
            first = record.plan.seq
    return Outcome(len(logged), len(chosen) - skipped, identical, skipped, worst, first)


def _again(core: PlannerCore, record: Record, by_seq: dict[int, Record]) -> Plan | None:
    """The plan made again, or None when what it needs is not there."""
    if record.previous_seq >= 0 and record.previous_seq not in by_seq:
        return None
    if core.model.version != record.plan.model_version:
        try:
            core.load(record.plan.model_version)
        except SnapshotError:
            return None
    core.previous = by_seq[record.previous_seq].plan if record.previous_seq >= 0 else None
    again = core.planner.plan(record.request, core.previous, iterations=record.plan.iterations)
    return Plan(**{**vars(again), "carry": again.carry[: len(record.plan.carry)]})
