"""One calibration: what was read, what was found so far, and how it is told and written."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn
from rich.table import Table as RichTable

from mbrl_calibration import outputs, page, runs
from mbrl_calibration.checks import look
from mbrl_calibration.findings import Finding
from mbrl_calibration.mechanisms.arm import Arm
from mbrl_calibration.mechanisms.arm import twin as twin_of_arm
from mbrl_calibration.page import Page, Table
from mbrl_calibration.runs import Run
from mbrl_calibration.twin import Twin
from mbrl_control import robot, strict_yaml
from mbrl_control.errors import DataError, UserError
from mbrl_control.robot import RobotSpec
from mbrl_control.stack import report


@dataclass
class Session:
    """A calibration under way.

    Attributes:
        spec: the robot.
        source: its YAML as data.
        base: folder of the YAML; None for a shipped robot.
        files: the logs that `train` comes from.
        train: runs to fit to.
        test: runs to judge by; may be empty.
        rng: source of everything random.
        console: where to tell.
        findings: what is wrong with the logs.
        tables, notes, pictures, figures: what was found, for people and for `--json`.
        parameters: of the nominal system, to be written.
        intervals: of the learned model (the key `intervals`), to be written; None to leave them.
        delays: [A] to be written, s; None to leave them.
        twin: to be written; None to leave the simulation.
        arm: an arm and the values of its parameters, whose MJCF is to be written; None for other robots.
    """

    spec: RobotSpec
    source: dict[str, Any]
    base: Path | None
    files: list[Path]
    train: list[Run]
    test: list[Run]
    rng: np.random.Generator
    console: Console
    findings: list[Finding] = field(default_factory=list)
    tables: list[Table] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    pictures: dict[str, str] = field(default_factory=dict)
    figures: dict[str, Any] = field(default_factory=dict)
    parameters: dict[str, float] = field(default_factory=dict)
    intervals: dict[str, Any] | None = None
    delays: np.ndarray | None = None
    twin: Twin | None = None
    arm: tuple[Arm, dict[str, float]] | None = None
    begin: float = field(default_factory=time.monotonic)

    def say(self, text: str) -> None:
        """Tell a line as it is."""
        self.console.print(text, markup=False, highlight=False)

    def show(self, table: Table) -> None:
        """Tell a table, and keep it for the page."""
        self.tables.append(table)
        drawn = RichTable(title=table.title, title_justify="left", box=None, padding=(0, 2, 0, 0))
        for i, head in enumerate(table.heads):
            drawn.add_column(head, justify="left" if i == 0 else "right", overflow="fold")
        for row in table.rows:
            drawn.add_row(*row)
        self.console.print(drawn)


def open_logs(robot_name: str, files: Sequence[Path], test: Sequence[Path] | None, out: Path | None, seed: int,
              console: Console) -> Session:
    """Read a robot and its logs, and look at these before anything is fitted.

    Raises:
        UserError: the robot's file, or a file to be written that is there already.
        DataError: logs that cannot be read, or that would make a confident wrong number.
    """
    if out is not None and out.exists():
        raise UserError(f"{out} exists already; name a new file with -o")
    shipped = robot.shipped()
    spec, path = robot.load(robot_name), shipped.get(robot_name, Path(robot_name))
    train, other = runs.load(files, spec), runs.load(test, spec) if test else []
    made = Session(spec, strict_yaml.read(path).data, None if robot_name in shipped else path.parent, list(files), train, other,
                   np.random.default_rng(seed), console)
    made.findings = look([*train, *other], spec)
    made.notes += dict.fromkeys(note for r in (*train, *other) for note in r.notes)
    refused = [f.sentence for f in made.findings if f.severity == "refuse"]
    if refused:
        raise DataError("\n".join(refused))
    for finding in made.findings:
        made.say(f"warning: {finding.sentence}")
    return made


def progress(session: Session) -> tuple[Progress, Callable[[str, float], None]]:
    """A bar, to be entered, and what tells it what is done and which share of the work is behind."""
    bar = Progress(TextColumn("{task.description}"), BarColumn(), TimeElapsedColumn(), TimeRemainingColumn(), console=session.console,
                   transient=True)
    task = bar.add_task("reading", total=1.0)
    return bar, lambda what, share: bar.update(task, description=what, completed=share)


def finish(session: Session, command: str, seed: int, out: Path | None, html: Path | None, json_path: Path | None) -> None:
    """Tell what to read with care, and write YAML, page and figures, each whole or not at all."""
    s, seconds = session, sum(r.duration for r in session.train)
    wall_s = time.monotonic() - s.begin
    for note in s.notes:
        s.say(f"note: {note}")
    if out is not None:
        data = outputs.calibrated(s.spec, s.source, s.parameters, s.delays, s.twin)
        if s.intervals is not None:
            data["intervals"] = s.intervals
        if s.arm is not None:
            sim = twin_of_arm(s.spec, *s.arm, out.with_suffix(".xml"))
            data["sim"] = sim.model_dump(exclude_unset=True)
            s.say(f"written: {out.with_suffix('.xml')}")
        outputs.write(out, data, f"Calibrated by `mbrl {command}` from {len(s.train)} runs, {seconds:.0f} s")
        s.say(f"written: {out}")
    target = html or (out.with_suffix(".html") if out is not None else None)
    if target is not None:
        summary = f"mbrl {command}: {len(s.train)} runs of {seconds:.0f} s in all, {len(s.test)} more to judge by; {wall_s:.0f} s of work."
        page.write(Page(s.spec.name, summary, tuple(s.tables), tuple(s.notes), s.findings, s.pictures), target)
        s.say(f"report: {target}")
    if json_path is not None:
        report.save({"schema": 1, "command": command, "robot": s.spec.name, "seed": seed, "wall_s": wall_s, "machine": report.machine(),
                     "findings": [vars(f) for f in s.findings], **s.figures, "notes": s.notes}, json_path)
    s.say(f"calibrated in {wall_s:.1f} s")
