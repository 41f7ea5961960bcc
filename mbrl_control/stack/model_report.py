"""How well a run's last model predicts what the run held out, beside nothing-changes and a linear model."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from mbrl_control import parts
from mbrl_control.data.episodes import Episode
from mbrl_control.errors import UserError
from mbrl_control.models import evaluate, linear
from mbrl_control.robot import RobotSpec
from mbrl_control.store import ModelStore
from mbrl_control.training.trainer import GATE_STEPS, Trainer

STEPS = (1, GATE_STEPS)


def model_part(spec: RobotSpec, store: Path, episodes: list[Episode]) -> dict[str, Any]:
    """The `model` of report.json.

    Args:
        spec: the robot.
        store: folder of the run's models.
        episodes: the data that the trainer saw, on its clock, so that its held-out blocks are found again.

    Returns:
        See `mbrl_control.models.evaluate.report`; empty when there is no model, or nothing was held out.
    """
    models = ModelStore(store)
    if not models.newest():
        return {}
    try:
        model = parts.find("models", spec.model.kind).build(spec, parts.options("models", spec.model.kind, dict(spec.model.options)))
        model.load(models.read(models.newest(), spec.hash))
        trainer = Trainer(spec, models, seed=0)
        trainer.set_data(episodes)
        single, (_, held) = trainer.split(1)[0], trainer.split(GATE_STEPS)
        if not len(held):
            return {}
        baseline = linear.build(spec)
        baseline.fit(single, np.random.default_rng(0))
        return {"version": model.version, **evaluate.report(model, held, spec, linear=baseline, steps=STEPS)}
    except UserError:  # too little data for a baseline, or a store that something else changed: the rest of the report still stands
        return {}
