"""Checkpoints of a run of an agent: everything that it needs to go on, whole or not at all; the newest one is kept."""

from __future__ import annotations

import shutil
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from mbrl_control.agents.base import Saved
from mbrl_control.errors import SnapshotError, UserError
from mbrl_control.store import snapshot

KIND, FOLDER, CONTENTS = "agent_run", "checkpoints", "contents"
"""The last is the key of an identity that holds what `TaskSpec.contents` was."""

MOST_BYTES = 16 * 2**30


@dataclass
class Progress:
    """How far a run has come.

    Attributes:
        steps: environment steps.
        episodes: that were begun.
        rows: [step, mean, standard deviation] of each evaluation.
        wall_s: time spent so far, in all sittings.
    """

    steps: int = 0
    episodes: int = 0
    rows: list[tuple[int, float, float]] = field(default_factory=list)
    wall_s: float = 0.0


def _folders(run_dir: Path) -> list[Path]:
    """Checkpoints, oldest first."""
    return sorted((run_dir / FOLDER).glob("[0-9]" * 12))


def exists(run_dir: Path) -> bool:
    """Whether there is something to go on from."""
    return bool(_folders(run_dir))


def write(run_dir: Path, identity: dict[str, Any], progress: Progress, saved: Saved) -> None:
    """Write a checkpoint, then remove those before it.

    Args:
        run_dir: of the run.
        identity: what must be equal for a run to go on: agent, task, seed, options, contents of the task.
        progress: of the run.
        saved: of the agent.

    Raises:
        SnapshotError: a weight is not finite.
    """
    folder = run_dir / FOLDER / f"{progress.steps:012d}"
    earlier = _folders(run_dir)
    if folder not in earlier:
        figures = {"identity": identity, "progress": vars(progress), "agent": saved.values}
        snapshot.write(folder, snapshot.Snapshot(KIND, "", progress.steps, saved.arrays, figures))
        for old in earlier:
            shutil.rmtree(old, ignore_errors=True)


def newest(run_dir: Path) -> tuple[dict[str, Any], Progress, Saved]:
    """The newest checkpoint: what it is of, how far that had come, and the agent.

    Raises:
        UserError: there is none.
        SnapshotError: it is damaged.
    """
    folders = _folders(run_dir)
    if not folders:
        raise UserError(f"{run_dir} holds no checkpoint of an agent")
    found = snapshot.read(folders[-1], most=MOST_BYTES)
    try:
        given, progress, values = (found.figures[key] for key in ("identity", "progress", "agent"))
        rows = [(int(step), float(mean), float(deviation)) for step, mean, deviation in progress["rows"]]
        done = Progress(int(progress["steps"]), int(progress["episodes"]), rows, float(progress["wall_s"]))
        return dict(given), done, Saved(found.weights, dict(values))
    except (KeyError, TypeError, ValueError) as error:
        raise SnapshotError(f"{folders[-1]}: no checkpoint of an agent ({error})") from error


def read(run_dir: Path, identity: dict[str, Any]) -> tuple[Progress, Saved]:
    """The newest checkpoint of the run that is to go on.

    Raises:
        UserError: there is none, or it is of another agent, task, seed or other options, or the task has changed since.
        SnapshotError: it is damaged.
    """
    if not exists(run_dir):
        raise UserError(f"{run_dir} holds no checkpoint to go on from; leave out --resume to begin")
    given, done, saved = newest(run_dir)
    if not same_contents(given, identity.get(CONTENTS, "")):
        raise UserError(f"{run_dir}: signals, limits or cost of '{given.get('task')}' are others than when the run was begun; undo that, "
                        "or begin anew in another folder with --out")
    for key, wanted in identity.items():
        if key != CONTENTS and given.get(key) != wanted:
            raise UserError(f"{run_dir} was begun with {key} = {given.get(key)!r}, not {wanted!r}; resume it with the same, "
                            "or name another folder with --out")
    return done, saved


def same_contents(identity: dict[str, Any], contents: str) -> bool:
    """Whether a run's task is still what it was.

    Args:
        identity: of the run. One from before contents were noted is taken for the same.
        contents: of the task now.
    """
    return bool(identity.get(CONTENTS, contents) == contents)
