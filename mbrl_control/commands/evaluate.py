"""`mbrl evaluate`: how well a fitted model predicts logs that it has not seen, beside two baselines."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer
from rich.table import Table

from mbrl_control import parts, robot
from mbrl_control.commands.options import Json, console
from mbrl_control.errors import DataError, UserError


def parse_horizons(text: str) -> list[int]:
    """[1, 10, 50] of `1,10,50`."""
    try:
        found = sorted({int(part) for part in text.split(",")})
    except ValueError as error:
        raise UserError(f"--horizons '{text}' is not a list of whole numbers; write e.g. 1,10,50") from error
    if not found or found[0] < 1 or found[-1] > 10_000:
        raise UserError(f"--horizons '{text}': every horizon must be from 1 to 10000 model steps")
    return found


def show(figures: dict[str, Any], signals: tuple[str, ...]) -> None:
    """Print the errors as a table of at most 100 columns."""
    table = Table(title="open-loop error (root mean square) after k model steps", width=98, title_justify="left")
    for column in ("k", "model", *signals[:8]):
        table.add_column(column, justify="right" if column not in ("k", "model") else "left")
    for k in figures["k_step_rmse"]:
        for name, key in (("learned", "k_step_rmse"), ("linear", "linear"), ("persistence", "persistence")):
            table.add_row(str(k), name, *(f"{figures[key][k][s]:.4g}" for s in signals[:8]))
    console.print(table)
    console.print(f"coverage: {100 * figures['coverage_68']:.1f} % within the 68 % interval, "
                  f"{100 * figures['coverage_95']:.1f} % within the 95 % interval",
                  highlight=False)


MOST_JUDGED = 500
"""Stretches, spread evenly over the logs, whose intervals are looked at: each takes many sampled paths."""


def intervals_of(model: Any, data: Any, spec: robot.RobotSpec, horizons: list[int]) -> dict[str, Any]:
    """What intervals held, as the model predicts them and with the widths of the robot's YAML: {"before": ..., "after": ...}."""
    import numpy as np  # noqa: PLC0415

    from mbrl_control.planning import coverage  # noqa: PLC0415

    some = data.select(np.unique(np.linspace(0, len(data) - 1, MOST_JUDGED).round().astype(int)))
    errors = coverage.normalised(model, some, spec, np.random.default_rng(0))
    return {name: coverage.held(errors, spec.state_names, horizons, widths)
            for name, widths in (("before", None), ("after", coverage.Widths.of(spec)))}


def show_intervals(found: dict[str, Any], signals: tuple[str, ...]) -> None:
    """Print what intervals held before and after recalibration as a table of at most 100 columns."""
    table = Table(title="held by intervals that were to hold 68 / 95 %, in per cent", width=98, title_justify="left")
    for column in ("k", "intervals", *signals[:8]):
        table.add_column(column, justify="right" if column not in ("k", "intervals") else "left")
    for k in found["before"]:
        for name, key in (("as predicted", "before"), ("recalibrated", "after")):
            shares = [found[key].get(k, {}).get(s) for s in signals[:8]]
            table.add_row(k, name, *("–" if of is None else " / ".join(f"{100 * share:.0f}" for share in of.values()) for of in shares))
    console.print(table)


def evaluate(
    model_dir: Annotated[Path, typer.Argument(metavar="MODEL", help="folder that `mbrl fit` made")],
    files: Annotated[list[Path], typer.Argument(help="bags, CSV logs, or folders of them")],
    horizons: Annotated[str, typer.Option(help="model steps ahead")] = "1,10,50",
    robot_name: Annotated[str, typer.Option("--robot", help="YAML whose `intervals` are judged; by default that of the model")] = "",
    json_path: Json = None,
) -> None:
    """Open-loop errors of a fitted model on logs, beside persistence and the linear baseline, and coverage of its intervals: as
    predicted, and with the widths that the robot's YAML holds (`mbrl calibrate uncertainty`)."""
    import torch  # noqa: PLC0415

    from mbrl_control.data.loading import load_episodes  # noqa: PLC0415
    from mbrl_control.data.sequences import Sequences, sequences, within_range  # noqa: PLC0415
    from mbrl_control.models.evaluate import report  # noqa: PLC0415
    from mbrl_control.stack.report import save  # noqa: PLC0415
    from mbrl_control.store import snapshot  # noqa: PLC0415

    torch.set_num_threads(1)
    wanted = parse_horizons(horizons)
    if not (model_dir / "robot.yaml").exists():
        raise UserError(f"{model_dir} is no model folder (it has no robot.yaml); make one with `mbrl fit`")
    spec = robot.load(robot_name or model_dir / "robot.yaml")
    models = []
    for name, kind in (("model", spec.model.kind), ("linear", "linear")):
        made = parts.find("models", kind).build(spec, parts.options("models", kind, dict(spec.model.options) if name == "model" else {}))
        made.load(snapshot.read(model_dir / name, spec.hash))
        models.append(made)
    episodes = load_episodes(files, spec)
    data = Sequences.join(sequences(e, spec, wanted[-1]) for e in episodes)
    if not len(data):
        longest = max(e.duration for e in episodes)
        raise DataError(f"the longest episode lasts {longest:.2f} s, less than the longest horizon of {wanted[-1]} steps = "
                        f"{wanted[-1] * spec.model_dt:.2f} s; ask for shorter --horizons")
    inside = within_range(data, spec)
    if not len(inside):
        raise DataError(f"no stretch of {wanted[-1]} steps stays within the `range` of the states of '{spec.name}', where alone the "
                        "model holds; ask for shorter --horizons, or give other logs")
    if len(inside) < len(data):
        console.print(f"{len(data) - len(inside)} of {len(data)} stretches leave the states' ranges and are not judged", highlight=False)
    figures = report(models[0], inside, spec, linear=models[1], steps=wanted)
    if spec.intervals is not None:
        figures["intervals"] = intervals_of(models[0], inside, spec, wanted)
    if json_path is not None:
        save(figures, json_path)
    show(figures, spec.state_names)
    if spec.intervals is not None:
        show_intervals(figures["intervals"], spec.state_names)


def add(app: typer.Typer) -> None:
    """Join the program."""
    app.command()(evaluate)
