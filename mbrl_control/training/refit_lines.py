"""A run's refits, one JSON line each: as the trainer notes them, and as others read them while they come."""

from __future__ import annotations

import contextlib
import json
import math
import os
from dataclasses import asdict
from pathlib import Path
from typing import Any

from mbrl_control.training.trainer import Refit

NAME = "refits.jsonl"


def append_line(folder: Path, refit: Refit, wall_s: float) -> None:
    """Note a refit, in one write, so that a reader never sees half of it.

    Args:
        folder: of the run.
        refit: what it came to.
        wall_s: when, on the system's clock, s.
    """
    row = {**asdict(refit), "wall_s": wall_s}
    # JSON knows no nan and no inf: null stands for a score that there is not.
    row |= {key: None for key in ("score", "incumbent") if not math.isfinite(row[key])}
    line = json.dumps(row, default=float) + "\n"
    handle = os.open(folder / NAME, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644)
    try:
        os.write(handle, line.encode())
    finally:
        os.close(handle)


class RefitLines:
    """Follows the refits of a run; what was read is not read again.

    Args:
        folder: of the run; nothing need be there yet.
    """

    def __init__(self, folder: Path) -> None:
        self._path, self._offset = folder / NAME, 0

    def read(self) -> list[dict[str, Any]]:
        """The refits noted since the last call; a line cut off by a full disk is left out."""
        try:
            with self._path.open("rb") as file:
                file.seek(self._offset)
                whole = file.read().split(b"\n")[:-1]
        except OSError:
            return []
        self._offset += sum(len(line) + 1 for line in whole)
        out = []
        for line in whole:
            with contextlib.suppress(ValueError):
                if isinstance(row := json.loads(line), dict):
                    out.append(row)
        return out
