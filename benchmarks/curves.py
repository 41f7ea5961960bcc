"""Scaling curves of `planning.py`: one size of the problem is changed at a time, the others stay."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from pathlib import Path
from typing import Any

import matplotlib as mpl
import matplotlib.ticker
from problems import Problem
from rich.console import Console

LABELS = {"N": "candidates N", "H": "horizon H", "E": "members E", "width": "units of a hidden layer"}
VALUES = {"N": [32, 64, 128, 256, 512, 1024], "H": [5, 10, 15, 20, 30, 40], "E": [1, 2, 3, 5, 7, 10], "width": [32, 64, 128, 256, 512]}
MORE_ON_GPU = [2048, 4096, 8192, 16384]
SERIES = (("ours_ms", "mbrl_control", "o-"), ("products_ms", "matrix products alone, bf16", "s--"))


def values(problem: str, device: str) -> dict[str, list[int]]:
    """Sizes to try; a GPU is not full at 1024 candidates."""
    if problem == "tiny":
        return {name: some[:2] for name, some in VALUES.items()}
    return VALUES | {"N": VALUES["N"] + MORE_ON_GPU} if device == "cuda" else VALUES


def changed(base: Problem, name: str, value: int) -> Problem:
    """The problem with one size changed."""
    change: dict[str, Any] = {"N": {"candidates": value}, "H": {"horizon": value}, "E": {"members": value},
                              "width": {"hidden": (value,) * len(base.hidden)}}
    return dataclasses.replace(base, **change[name])


def sweep(base: Problem, tried: dict[str, list[int]], time_one: Callable[[Problem], dict[str, float]],
          console: Console) -> dict[str, list[dict[str, float]]]:
    """Times over each size: rows of `value`, `gflop` and what `time_one` gives."""
    out: dict[str, list[dict[str, float]]] = {}
    for name, some in tried.items():
        out[name] = []
        for value in some:
            problem = changed(base, name, value)
            row = {"value": value, "gflop": problem.gflop, **time_one(problem)}
            out[name].append(row)
            console.print(f"{name:>5} = {value:5d}  {problem.gflop:8.3f} GFLOP  ours {row['ours_ms']:9.3f} ms  "
                          f"products {row['products_ms']:9.3f} ms  {row['ours_ms'] / row['products_ms']:5.2f} x")
    return out


def draw(found: dict[str, list[dict[str, float]]], file: Path, title: str) -> None:
    """A picture of the curves: one panel per size, logarithmic axes, the ratio of the two as numbers beside the points."""
    mpl.use("Agg")
    from matplotlib import pyplot as plt  # noqa: PLC0415 (after the choice of a backend without a screen)

    figure, axes = plt.subplots(2, 2, figsize=(11, 8), constrained_layout=True)
    for axis, (name, rows) in zip(axes.flat, found.items(), strict=True):
        sizes = [row["value"] for row in rows]
        for key, label, style in SERIES:
            axis.plot(sizes, [row[key] for row in rows], style, label=label)
        for row in rows:
            axis.annotate(f"{row['ours_ms'] / row['products_ms']:.2f}x", (row["value"], row["ours_ms"]), xytext=(0, 8),
                          textcoords="offset points", ha="center", fontsize=8)
        axis.set(xscale="log", yscale="log", xlabel=LABELS[name], ylabel="median time of a plan, ms")
        axis.set_xticks(sizes, [str(size) for size in sizes])
        axis.xaxis.set_minor_locator(mpl.ticker.NullLocator())
        axis.yaxis.set_major_locator(mpl.ticker.LogLocator(subs=(1, 2, 5)))
        axis.yaxis.set_minor_formatter(mpl.ticker.NullFormatter())
        axis.yaxis.set_major_formatter(mpl.ticker.FuncFormatter(lambda y, _: f"{y:g}"))
        axis.margins(y=0.15)
        axis.grid(visible=True, which="both", alpha=0.3)
    axes.flat[0].legend()
    figure.suptitle(f"{title}\nnumbers: ours over the products")
    file.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(file, dpi=120)
    plt.close(figure)
