"""Reads a run from its folder while it is made or afterwards: the bag, the trainer's refits, the controller's last figures."""

from __future__ import annotations

import contextlib
import json
import math
from itertools import chain
from pathlib import Path
from typing import Any

import numpy as np
import torch

from mbrl_control.costs import base as costs
from mbrl_control.data.message_types import decode
from mbrl_control.data.tail import McapTail, TailMessage
from mbrl_control.errors import DataError
from mbrl_control.messages import StateReader, stamp_ns
from mbrl_control.robot import RobotSpec
from mbrl_control.runtime.layout import Layout
from mbrl_control.runtime.logged_decision import LoggedDecision, parse
from mbrl_control.stack.run_log import PlanNotes, RunLog
from mbrl_control.training.refit_lines import RefitLines
from mbrl_control.training.trainer import Refit

OWN_TOPICS = ["mbrl/command", "mbrl/decision", "mbrl/plan"]

MOST_ROWS, GROWS = 1_000_000, 1.25
"""Rows of a log before it is thinned for the first time, and by how much it must have grown before it is thinned again."""


class RunReader:
    """Follows a run.

    Args:
        spec: the robot.
        run_dir: holds `bag/`, `refits.jsonl` and, at the end, `controller.json`.
        vectors: keep the plans as logged; not beside a robot, where they would fill the memory.
        most: the log is thinned when it has more rows.

    Attributes:
        log: what is known so far; time counts from the first command.
        vectors: every plan as logged, with the request that it answers; empty unless kept.
    """

    def __init__(self, spec: RobotSpec, run_dir: Path, vectors: bool = False, most: float = MOST_ROWS) -> None:
        self.spec, self.run_dir, self._keep, self._most = spec, run_dir, vectors, most
        self._plans = PlanNotes()
        self.log = RunLog(plans=self._plans)
        self.vectors: list[np.ndarray] = []
        self._layout = Layout.of(spec)
        self._states = StateReader(spec)
        self._cost = costs.build(spec)
        self._tail = McapTail(run_dir / "bag", [*self._states.topics(), *OWN_TOPICS])
        self._origin: int | None = None
        self._decision = (0, 0, 0)
        self._version = 0
        self._refits = RefitLines(run_dir)

    def poll(self) -> RunLog:
        """Take in what has come since the last call."""
        for message in chain.from_iterable(self._tail.pieces()):
            self._take(message)
        if len(self.log.time) > self._most:
            self.log.thin()
            self._most = max(self._most, GROWS * len(self.log.time))
        self._take_refits()
        return self.log

    def _take(self, message: TailMessage) -> None:
        """What is no message of its topic is as if it had not come: a run must not end by what others publish."""
        name = message.topic.lstrip("/")
        try:
            body = decode(message.type, message.payload)
        except DataError:
            return
        if name.endswith("mbrl/command"):
            self._take_command(stamp_ns(body) or message.log_time_ns, np.array(body.position, dtype=np.float64))
        elif name.endswith("mbrl/decision"):
            if (decision := parse(body.name, body.position)) is not None:
                self._take_decision(decision)
        elif name.endswith("mbrl/plan"):
            with contextlib.suppress(ValueError, LookupError, OverflowError):  # numbers that are no plan
                self._take_plan(self._layout.current(np.asarray(body.data)))
        else:
            topic = next(t for t in self._states.topics() if message.topic.endswith("/" + t.lstrip("/")))
            self._states.update(topic, body, message.log_time_ns)

    def _take_decision(self, decision: LoggedDecision) -> None:
        version = decision.model_version
        self._decision = (int(decision.mode), version, decision.faults)
        if self.log.mode:
            self.log.mode[-1], self.log.version[-1], self.log.faults[-1] = self._decision
        if version > self._version:
            self.log.swaps.append((self.log.time[-1] if self.log.time else 0.0, version))
        self.log.rolled_back += int(0 < version < self._version)
        self._version = version or self._version

    def _take_plan(self, vector: np.ndarray) -> None:
        plan = self._layout.unpack_plan(vector[: self._layout.plan_size])[0]
        self._plans.add(plan)
        if self._keep:
            self.vectors.append(vector)

    def _take_command(self, when: int, command: np.ndarray) -> None:
        if not self._states.complete() or command.shape != (self.spec.action_dim,) or not np.isfinite(command).all():
            return
        if self._origin is None:
            self._origin = when
            self.log.starts.append(0)
        state = self._states.values.copy()
        self.log.add((when - self._origin) * 1e-9, state, command, *self._decision)
        with torch.inference_mode():
            self.log.cost.append(float(self._cost.stage(torch.as_tensor(state), torch.as_tensor(command))))

    def _take_refits(self) -> None:
        for row in self._refits.read():
            with contextlib.suppress(LookupError, TypeError):  # no line of a trainer
                row |= {key: math.nan for key in ("score", "incumbent") if row[key] is None}
                row.pop("wall_s", None)
                self.log.refits.append(Refit(**{**row, "figures": {}}))  # a report needs none, and they are the most of it

    def controller(self) -> dict[str, Any]:
        """What the controller left at its end: cadence, planner restarts; empty when it could not."""
        try:
            return dict(json.loads((self.run_dir / "controller.json").read_text("utf-8")))
        except (OSError, ValueError):
            return {}
