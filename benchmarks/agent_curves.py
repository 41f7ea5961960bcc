"""Learning curves of runs of `mbrl agent` beside each other, as a table and a picture: a thin line for each seed, a thick one for the mean.

    python benchmarks/agent_curves.py runs/*/result.json --every 10000 --aim 50000 310 --aim 100000 516 --picture curves.png

Runs that differ in nothing but the seed are one kind. What they share with all others is left out of their names. Means go as far as all
seeds have come.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import matplotlib as mpl

mpl.use("Agg")

import numpy as np
from matplotlib import pyplot as plt

from mbrl_control.errors import UserError
from mbrl_control.stack.picture import COLOURS

KEYS = ("agent", "task", "repeat", "options")


@dataclass(frozen=True)
class Curve:
    """A run.

    Attributes:
        about: agent, task, repeat and each option, by name.
        seed: of it.
        step: [K] of the evaluations.
        mean: [K] returns.
    """

    about: Mapping[str, Any]
    seed: int
    step: np.ndarray
    mean: np.ndarray


def load(path: Path) -> Curve:
    """The curve of a result.json.

    Raises:
        UserError: it is none.
    """
    try:
        row = json.loads(path.read_text("utf-8"))
        agent, task, repeat, options = (row[key] for key in KEYS)
        rows = np.array(row["eval_returns"], float).reshape(-1, 3)
        return Curve({"agent": agent, "task": task, "repeat": repeat, **options}, int(row["seed"]), rows[:, 0], rows[:, 1])
    except (OSError, ValueError, TypeError, KeyError) as error:
        raise UserError(f"{path}: no result of `mbrl agent` ({error})") from error


def kinds(curves: Sequence[Curve]) -> dict[str, list[Curve]]:
    """Curves by the name of their kind: what of `about` is not the same in all of them; seeds in order."""
    names = list(dict.fromkeys(name for curve in curves for name in curve.about))
    differing = [n for n in names if len({json.dumps(c.about.get(n)) for c in curves}) > 1] or ["agent"]
    out: dict[str, list[Curve]] = {}
    for curve in sorted(curves, key=lambda c: c.seed):
        label = ", ".join(str(curve.about[n]) if n in KEYS[:2] else f"{n} {curve.about[n]}" for n in differing if n in curve.about)
        out.setdefault(label, []).append(curve)
    return out


def mean_of(curves: Sequence[Curve]) -> tuple[np.ndarray, np.ndarray]:
    """[K] steps at which every seed was evaluated, and [K] the mean of their returns there."""
    shared = sorted(set.intersection(*(set(curve.step.tolist()) for curve in curves)))
    rows = [dict(zip(curve.step.tolist(), curve.mean.tolist(), strict=True)) for curve in curves]
    return np.array(shared), np.array([np.mean([row[step] for row in rows]) for step in shared])


def table(found: Mapping[str, Sequence[Curve]], every: int) -> list[str]:
    """Lines of a table in Markdown: a row for each seed and for each mean of several, a column for each multiple of `every` steps."""
    last = max((int(c.step.max()) for some in found.values() for c in some if len(c.step)), default=0)
    columns = list(range(every, last + 1, every))
    rows = [[f"{label}, seed {c.seed}", c.step, c.mean] for label, some in found.items() for c in some]
    rows += [[f"{label}, mean of {len(some)}", *mean_of(some)] for label, some in found.items() if len(some) > 1]
    cells = [[label, *(at(step, mean, column) for column in columns)] for label, step, mean in rows]
    lines = [["steps", *map(str, columns)], ["---"] * (len(columns) + 1), *cells]
    return [f"| {' | '.join(line)} |" for line in lines]


def at(step: np.ndarray, mean: np.ndarray, column: int) -> str:
    """The return at the first evaluation from `column` steps on: decisions that last several steps may miss it by a few. Empty for none."""
    late = np.flatnonzero((step >= column) & (step < 1.01 * column))
    return f"{mean[late[0]]:.0f}" if len(late) else ""


def draw(found: Mapping[str, Sequence[Curve]], aims: Sequence[tuple[float, float]], title: str, path: Path) -> None:
    """Draw curves and write them as PNG.

    Args:
        found: by kind.
        aims: (steps, return) to mark.
        title: over it.
        path: of the picture.
    """
    figure, axes = plt.subplots(figsize=(8, 4.5), layout="constrained")
    for colour, (label, some) in zip(COLOURS * len(found), found.items(), strict=False):
        for curve in some:
            axes.plot(curve.step, curve.mean, color=colour, lw=0.7, alpha=0.6)
        seeds = f"{len(some)} seeds" if len(some) > 1 else f"seed {some[0].seed}"
        axes.plot(*mean_of(some), "o-", ms=3, color=colour, lw=1.8, label=f"{label} ({seeds})")
    if aims:
        axes.plot(*np.array(aims).T, "k*", ms=11, label="aim")
    axes.set_xlabel("environment steps")
    axes.set_ylabel("evaluation return")
    axes.set_title(title, fontsize=10)
    axes.grid(alpha=0.3)
    axes.legend(fontsize=8)
    figure.savefig(path, dpi=90)
    plt.close(figure)


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("results", type=Path, nargs="+", help="result.json of runs")
    parser.add_argument("--every", type=int, default=10_000, help="steps between the table's columns")
    parser.add_argument("--aim", type=float, nargs=2, action="append", default=[], metavar=("STEPS", "RETURN"), help="to be marked")
    parser.add_argument("--title", default="learning curves")
    parser.add_argument("--picture", type=Path)
    args = parser.parse_args()
    try:
        found = kinds([load(path) for path in args.results])
    except UserError as error:
        raise SystemExit(str(error)) from error
    print("\n".join(table(found, args.every)))
    if args.picture:
        draw(found, [tuple(aim) for aim in args.aim], args.title, args.picture)


if __name__ == "__main__":
    main()
