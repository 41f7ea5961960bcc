"""`mbrl fit`: a model from bags and CSV logs."""

from __future__ import annotations

import shutil
import time
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import numpy as np
import typer
from rich.progress import Progress, SpinnerColumn, TextColumn, TimeElapsedColumn

from mbrl_control import parts, robot
from mbrl_control.commands.options import Json, Robot, Seed, console
from mbrl_control.errors import UserError
from mbrl_control.part_checks import check_parts
from mbrl_control.robot import RobotSpec

if TYPE_CHECKING:  # NumPy's safetensors are not what --help must wait for
    from mbrl_control.store.snapshot import Snapshot


def _build(spec: RobotSpec) -> Any:
    """The robot's model, not yet fitted.

    Raises:
        UserError: it is one that nothing can be fitted to.
    """
    made = parts.find("models", spec.model.kind).build(spec, parts.options("models", spec.model.kind, dict(spec.model.options)))
    if not hasattr(made, "fit"):
        raise UserError(f"model.kind = '{spec.model.kind}' of robot '{spec.name}' is known and has nothing to fit; find its parameters "
                        "with `mbrl calibrate dynamics`, or name a kind that learns, e.g. ensemble")
    return made


def fit(
    files: Annotated[list[Path], typer.Argument(help="bags (folder, .db3, .mcap, .bag), CSV logs, or folders of them")],
    robot_name: Robot,
    out: Annotated[Path, typer.Option("-o", "--out", help="new folder for the model")],
    epochs: Annotated[int, typer.Option(min=1, help="passes over the data, at most")] = 40,
    budget: Annotated[float, typer.Option(min=1.0, help="seconds, at most")] = 180.0,
    seed: Seed = 0,
    json_path: Json = None,
) -> None:
    """Fit the robot's model to logs, and the linear baseline beside it; `mbrl evaluate` and `mbrl control` use the folder."""
    import torch  # noqa: PLC0415  (slow to import; --help must not wait for it)

    from mbrl_control.data.loading import load_episodes  # noqa: PLC0415
    from mbrl_control.data.sequences import Sequences, sequences, within_range  # noqa: PLC0415
    from mbrl_control.planning.limits import FIGURE  # noqa: PLC0415
    from mbrl_control.stack.report import save  # noqa: PLC0415
    from mbrl_control.training.trust import limits_of  # noqa: PLC0415

    torch.set_num_threads(1)
    spec = robot.load(robot_name)
    check_parts(spec)
    if out.exists():
        raise UserError(f"{out} exists already; name a new folder with -o")
    begin, model = time.monotonic(), _build(spec)
    episodes = load_episodes(files, spec)
    for episode in episodes:
        for note in episode.notes:
            console.print(f"{episode.name}: {note}", markup=False, highlight=False)
    data = Sequences.join(within_range(sequences(e, spec, model.stretch), spec) for e in episodes)
    single = Sequences.join(within_range(sequences(e, spec, 1), spec) for e in episodes)
    linear = parts.find("models", "linear").build(spec, parts.options("models", "linear", {}))
    seconds = sum(e.duration for e in episodes)
    console.print(f"{len(episodes)} episodes, {seconds:.1f} s, {len(data)} stretches of {model.stretch} steps of {spec.model_dt:g} s",
                  highlight=False)
    with Progress(SpinnerColumn(), TextColumn("{task.description}"), TimeElapsedColumn(), console=console, transient=True) as bar:
        bar.add_task(f"fitting, at most {budget:g} s", total=None)
        figures = model.fit(data, np.random.default_rng(seed), epochs=epochs, budget_s=budget)
        linear.fit(single, np.random.default_rng(seed))
    figures = {**figures, "seconds_of_data": seconds, "episodes": len(episodes), "wall_s": time.monotonic() - begin}
    fitted = model.snapshot()
    trusted = limits_of(fitted, _build(spec), episodes, data, spec)
    _write(out, robot_name, {"model": replace(fitted, figures={FIGURE: trusted.figures()}), "linear": linear.snapshot()})
    if json_path is not None:
        save(figures, json_path)
    told = f"fitted in {figures['wall_s']:.1f} s"
    if "holdout_mse" in figures:
        told += f", {figures['epochs']:.0f} epochs, held-out error {figures['holdout_mse']:.4f} (mean square, normalised)"
    console.print(f"{told}: {out}", highlight=False)


def _write(out: Path, robot_name: str, snapshots: Mapping[str, Snapshot]) -> None:
    """The model's folder, whole or not at all: snapshots by name, and the robot's YAML."""
    from mbrl_control.store import snapshot  # noqa: PLC0415

    temporary = out.with_name(f".{out.name}.tmp")
    shutil.rmtree(temporary, ignore_errors=True)
    for name, one in snapshots.items():
        snapshot.write(temporary / name, one)
    shutil.copyfile(robot.shipped().get(robot_name, Path(robot_name)), temporary / "robot.yaml")
    temporary.rename(out)


def add(app: typer.Typer) -> None:
    """Join the program."""
    app.command()(fit)
