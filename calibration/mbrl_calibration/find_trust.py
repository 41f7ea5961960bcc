"""The step of a calibration that finds how wide a model's intervals must be to hold what they say."""

from __future__ import annotations

import base64
import json
import os
import tempfile
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch

from mbrl_calibration import uncertainty
from mbrl_calibration.page import Table
from mbrl_calibration.session import Session, progress
from mbrl_calibration.uncertainty import LEVELS, Coverage, Recalibration
from mbrl_control import parts
from mbrl_control.data.episodes import Episode
from mbrl_control.data.loading import load_episodes
from mbrl_control.data.sequences import Sequences, sequences
from mbrl_control.errors import DataError
from mbrl_control.models.base import LearnedModel
from mbrl_control.planning import coverage as intervals
from mbrl_control.robot import RobotSpec

TOLD, MOST_STEPS = (0.68, 0.95), 50
FILE = "recalibration.json"


def find_trust(session: Session, budget_s: float, seed: int) -> Recalibration:
    """Recalibrate the robot's own model, fitted anew without each run and judged on it.

    Args:
        session: the calibration.
        budget_s: for all fits together, s.
        seed: of the fits.

    Raises:
        DataError: fewer than two runs, or runs shorter than a few model steps.
    """
    torch.set_num_threads(1)
    spec, episodes = session.spec, load_episodes(session.files, session.spec)
    if len(episodes) < 2:
        raise DataError(f"{len(episodes)} run: a model must be judged on runs that it was not fitted to; give at least two logs")
    steps = min(MOST_STEPS, int(min(e.duration for e in episodes) / spec.model_dt) // 2)
    if steps < 1:
        raise DataError(f"the shortest run has {min(e.duration for e in episodes):.3g} s, less than two model steps; record longer")
    bar, tell = progress(session)
    errors = []
    with bar:
        for i, episode in enumerate(episodes):
            tell(f"fitting without run {i + 1}", i / len(episodes))
            model = _fitted(spec, [e for e in episodes if e is not episode], budget_s / len(episodes), seed + i)
            stretches = sequences(episode, spec, steps, spec.model_dt)
            errors.append(intervals.normalised(model, stretches, spec, np.random.default_rng([seed, i])))
    made = uncertainty.of_errors(errors, spec.state_names)
    _tell(session, errors, tuple(k for k in (1, 10, 50) if k <= steps))
    return made


def _fitted(spec: RobotSpec, runs: Sequence[Episode], budget_s: float, seed: int) -> LearnedModel:
    kind = spec.model.kind
    model: LearnedModel = parts.find("models", kind).build(spec, parts.options("models", kind, dict(spec.model.options)))
    model.fit(Sequences.join(sequences(e, spec, model.stretch) for e in runs), np.random.default_rng(seed), budget_s=budget_s)
    return model


def _tell(session: Session, errors: list[np.ndarray], steps: tuple[int, ...]) -> None:
    names = session.spec.state_names
    before, after = uncertainty.covered(errors, names, None, TOLD, steps), uncertainty.left_out(errors, names, TOLD, steps)
    rows = tuple((name, str(int(k)), *(f"{100 * table.share[level, h, s]:.1f}" for level in range(len(TOLD)) for table in (before, after)))
                 for h, k in enumerate(after.steps) for s, name in enumerate(names))
    heads = ("signal", "steps ahead", *(f"{100 * level:g} % {what}" for level in TOLD for what in ("as predicted", "recalibrated")))
    session.show(Table("Held by intervals of 68 and 95 %, in runs not seen", heads, rows))
    session.figures["coverage"] = {"before": before.rows(), "after": after.rows(), "off": after.off()}
    session.pictures["Reliability"] = _picture(uncertainty.covered(errors, names, None, LEVELS.tolist(), steps),
                                               uncertainty.left_out(errors, names, LEVELS.tolist(), steps))


def _picture(before: Coverage, after: Coverage) -> str:
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "reliability.png"
        uncertainty.picture(before, after, path)
        return "data:image/png;base64," + base64.b64encode(path.read_bytes()).decode()


def save(made: Recalibration, path: Path) -> None:
    """Write a recalibration with all its levels as JSON, whole or not at all.

    Raises:
        DataError: the file exists.
    """
    if path.exists():
        raise DataError(f"{path} exists already; name a new file")
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    temporary.write_text(json.dumps(made.to_json()) + "\n", "utf-8")
    temporary.replace(path)
