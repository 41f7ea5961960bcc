"""`mbrl calibrate dynamics`: masses, inertias and friction from logs."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import typer
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

from mbrl_calibration import outputs
from mbrl_calibration.dynamics import Identification
from mbrl_calibration.page import Page, Table
from mbrl_control import robot, strict_yaml
from mbrl_control.commands.options import Json, Seed, console
from mbrl_control.errors import UserError

RobotName = Annotated[str, typer.Argument(metavar="ROBOT", help="shipped robot or YAML file with a key `nominal`")]
Files = Annotated[list[Path], typer.Argument(help="logs to fit to: bags, CSV logs, or folders of them")]
Test = Annotated[list[Path] | None, typer.Option("--test", help="logs to judge by, not fitted to; may be given several times")]
Out = Annotated[Path | None, typer.Option("-o", "--out", help="new YAML of the robot with what was found")]
Html = Annotated[Path | None, typer.Option("--report", help="page with tables and pictures; by default beside the YAML")]


def dynamics(
    robot_name: RobotName,
    files: Files,
    test: Test = None,
    out: Out = None,
    commands: Annotated[bool, typer.Option("--commands", help="drive the model with commands even where sensors measured them")] = False,
    find_delays: Annotated[bool, typer.Option("--find-delays", help="find the commands' delays with the parameters")] = False,
    seed: Seed = 0,
    json_path: Json = None,
    html: Html = None,
) -> None:
    """Find masses, inertias and friction, with intervals, and how far free runs are from what was measured."""
    from mbrl_calibration import dynamics, mechanism, runs, twin  # noqa: PLC0415  (slow to import; --help must not wait for them)
    from mbrl_control.stack import report  # noqa: PLC0415

    begin = time.monotonic()
    spec, source = robot.load(robot_name), strict_yaml.read(robot.shipped().get(robot_name, Path(robot_name))).data
    if out is not None and out.exists():
        raise UserError(f"{out} exists already; name a new file with -o")
    m = mechanism.build(spec)
    train, other = runs.load(files, spec), runs.load(test, spec) if test else []
    known = _known(spec.nominal.known if spec.nominal else [], m.names)
    with Progress(TextColumn("{task.description}"), BarColumn(), TimeElapsedColumn(), TimeRemainingColumn(), console=console,
                  transient=True) as bar:
        task = bar.add_task("reading", total=1.0)
        settings = dynamics.Settings(not commands, find_delays=find_delays, known=known,
                                     progress=lambda what, share: bar.update(task, description=what, completed=share))
        found = dynamics.identify(train, other, m, spec.delays, settings)
    parameters = m.system(dict(zip(m.names, found.values.tolist(), strict=True)))
    base = Path(robot_name).parent if robot_name not in robot.shipped() else None
    match = twin.match(spec, m, found.values, np.random.default_rng(seed), base)
    notes = [*found.notes, *(note for r in (*train, *other) for note in r.notes)]
    if match is not None and not match.fits:
        notes.append(f"the MJCF '{spec.sim.mjcf if spec.sim else ''}' cannot be made to behave like this by its masses and friction "
                     f"({100 * match.error:.0f} % of the efforts would be wrong): `sim` is left as it was")
    wall_s = time.monotonic() - begin
    page = _page(spec.name, found, train, notes, wall_s)
    for table in page.tables:
        _print(table)
    for note in notes:
        console.print(f"note: {note}", markup=False, highlight=False)
    if out is not None:
        data = outputs.calibrated(spec, source, parameters, found.delays if find_delays else None, match)
        outputs.write(out, data, f"Calibrated by `mbrl calibrate dynamics` from {len(train)} runs, {sum(r.duration for r in train):.0f} s")
        console.print(f"written: {out}", highlight=False)
    _save(out, html, page, found, (other or train)[0], list(spec.state_names))
    if json_path is not None:
        report.save(figures(spec.name, seed, found, parameters, wall_s), json_path)
    console.print(f"calibrated in {wall_s:.1f} s", highlight=False)


def _known(names: list[str], lumped: tuple[str, ...]) -> tuple[str, ...]:
    for name in names:
        if name not in lumped:
            raise UserError(f"nominal.known: '{name}' is none of the lumped parameters {', '.join(lumped)}; correct it or leave it out")
    return tuple(names)


def _save(out: Path | None, html: Path | None, page: Page, found: Identification, run: Any, names: list[str]) -> None:
    """The page with its pictures, where one is wanted."""
    from dataclasses import replace  # noqa: PLC0415

    from mbrl_calibration import page as pages  # noqa: PLC0415
    from mbrl_calibration import pictures  # noqa: PLC0415

    path = html or (out.with_suffix(".html") if out is not None else None)
    if path is None:
        return
    pages.write(replace(page, pictures=pictures.of_dynamics(found, run, names)), path)
    console.print(f"report: {path}", highlight=False)


def _page(name: str, found: Identification, train: list[Any], notes: list[str], wall_s: float) -> Page:
    m, e = found.mechanism, found.estimate
    low, high = e.interval()
    rows = tuple((p.name, p.meaning, p.unit, f"{e.values[i]:.4g}", f"{max(low[i], p.low):.4g} … {high[i]:.4g}", f"{p.start:.4g}")
                 for i, p in enumerate(m.parameters))
    heads = ("parameter", "which is", "unit", "value", "95 % interval", "before")
    horizons = sorted(next(iter(found.scores.values()))["shooting"].free_run_rmse)
    told = {"nominal": "before", "regression": "regression alone", "shooting": "calibrated"}
    judged = tuple((told[which], part, f"{s.torque_rmse:.4f}", *(f"{s.free_run_rmse[h]:.4f}" for h in horizons))
                   for part, scores in found.scores.items() for which, s in scores.items())
    tables = (Table("Parameters", heads, rows),
              Table("How good", ("parameters", "runs", "effort rmse", *(f"free run {h:g} s" for h in horizons)), judged))
    seconds = sum(r.duration for r in train)
    driven = "efforts that sensors measured" if found.measured and not np.isnan(train[0].measured).all() else "commands"
    return Page(name, f"{len(train)} runs of {seconds:.0f} s in all, driven by {driven}; {wall_s:.0f} s of work.", tables, tuple(notes))


def _print(table: Table) -> None:
    from rich.table import Table as Rich  # noqa: PLC0415

    drawn = Rich(title=table.title, title_justify="left", box=None, padding=(0, 2, 0, 0))
    for i, head in enumerate(table.heads):
        drawn.add_column(head, justify="left" if i == 0 else "right", overflow="fold")
    for row in table.rows:
        drawn.add_row(*row)
    console.print(drawn)


def _by_horizon(rmse: dict[float, float]) -> dict[str, float]:
    return {f"{horizon:g}": value for horizon, value in rmse.items()}


def figures(name: str, seed: int, found: Identification, parameters: dict[str, float], wall_s: float) -> dict[str, Any]:
    """What `--json` holds."""
    from mbrl_control.stack.report import machine  # noqa: PLC0415

    e, best = found.estimate, found.scores.get("test") or found.scores["fit"]
    low, high = e.interval()
    lumped = {n: {"value": e.values[i], "low": low[i], "high": high[i]} for i, n in enumerate(e.names)}
    scores = {part: {which: {"torque_rmse": s.torque_rmse, "free_run_rmse": _by_horizon(s.free_run_rmse), "runs": s.runs}
                     for which, s in of.items()} for part, of in found.scores.items()}
    chosen = best["shooting"]
    return {"schema": 1, "command": "calibrate dynamics", "robot": name, "seed": seed, "wall_s": wall_s, "machine": machine(),
            "parameters": lumped, "system": parameters, "torque_rmse": chosen.torque_rmse,
            "free_run_rmse": _by_horizon(chosen.free_run_rmse), "delay_s": found.delays.tolist(), "scores": scores,
            "residual_correlation_s": [w.time_s for w in found.whiteness], "converged": found.converged, "notes": list(found.notes)}


def add(app: typer.Typer) -> None:
    """Join `mbrl calibrate`."""
    app.command()(dynamics)
