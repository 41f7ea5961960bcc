"""`mbrl calibrate`: delays, physics and trust from a robot's logs."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from mbrl_control.commands.options import Json, Seed, console

# Every command imports what it does only when it runs: CasADi, SciPy and Matplotlib are slow to load, and --help must not wait for them.

RobotName = Annotated[str, typer.Argument(metavar="ROBOT", help="shipped robot or YAML file")]
Files = Annotated[list[Path], typer.Argument(help="logs to fit to: bags, CSV logs, or folders of them")]
Test = Annotated[list[Path] | None, typer.Option("--test", help="logs to judge by, not fitted to; may be given several times")]
Out = Annotated[Path | None, typer.Option("-o", "--out", help="new YAML of the robot with what was found")]
Html = Annotated[Path | None, typer.Option("--report", help="page with tables and pictures; by default beside the YAML")]
Commands = Annotated[bool, typer.Option("--commands", help="drive the model with commands even where sensors measured them")]


def delay(robot_name: RobotName, files: Files, out: Out = None, seed: Seed = 0, json_path: Json = None, html: Html = None) -> None:
    """Find how regularly samples come, how clocks differ, and the delay from each command to its effect."""
    from mbrl_calibration import find_delays, session  # noqa: PLC0415

    made = session.open_logs(robot_name, files, None, out, seed, console)
    find_delays.tell_times(made)
    made.delays = find_delays.find_delays(made)
    session.finish(made, "calibrate delay", seed, out, html, json_path)


def dynamics(
    robot_name: RobotName,
    files: Files,
    test: Test = None,
    out: Out = None,
    commands: Commands = False,
    with_delays: Annotated[bool, typer.Option("--find-delays", help="find the commands' delays with the parameters")] = False,
    zeros: Annotated[float, typer.Option(min=0.0, max=1.0, help="find where each run's zeros of the positions are, too: about so far off, "
                                         "rad or m; 0: they are right")] = 0.0,
    seed: Seed = 0,
    json_path: Json = None,
    html: Html = None,
) -> None:
    """Find masses, inertias and friction, with intervals, and how far free runs are from what was measured."""
    from mbrl_calibration import find_dynamics, session  # noqa: PLC0415

    made = session.open_logs(robot_name, files, test, out, seed, console)
    find_dynamics.find_dynamics(made, made.spec.delays, not commands, with_delays, zeros)
    session.finish(made, "calibrate dynamics", seed, out, html, json_path)


def uncertainty(
    robot_name: RobotName,
    files: Files,
    out: Annotated[Path, typer.Option("-o", "--out", help="new YAML of the robot with `intervals`; with the ending .json all "
                                             "levels as figures")],
    budget: Annotated[float, typer.Option(min=1.0, help="seconds for all fits together")] = 40.0,
    seed: Seed = 0,
    json_path: Json = None,
    html: Html = None,
) -> None:
    """Find how wide the learned model's intervals must be to hold what they say, on runs that it has not seen."""
    from mbrl_calibration import find_trust, session  # noqa: PLC0415

    made = session.open_logs(robot_name, files, None, out, seed, console)
    found = find_trust.find_trust(made, budget, seed)
    plain = out.suffix.lower() == ".json"
    if plain:
        find_trust.save(found, out)
        made.say(f"written: {out}")
    else:
        made.intervals = found.section()
    session.finish(made, "calibrate uncertainty", seed, None if plain else out, html or out.with_suffix(".html"), json_path)


def everything(robot_name: RobotName, files: Files, test: Test = None, out: Out = None, commands: Commands = False, seed: Seed = 0,
               json_path: Json = None, html: Html = None) -> None:
    """Find delays, then dynamics with these, and write both."""
    from mbrl_calibration import find_delays, find_dynamics, session  # noqa: PLC0415

    made = session.open_logs(robot_name, files, test, out, seed, console)
    find_delays.tell_times(made)
    made.delays = find_delays.find_delays(made)
    find_dynamics.find_dynamics(made, made.delays, not commands, False)
    session.finish(made, "calibrate all", seed, out, html, json_path)


def add(app: typer.Typer) -> None:
    """Join the program."""
    inside = typer.Typer(help="Find from a robot's logs what its datasheet does not say; write it to a YAML that everything else reads.",
                         no_args_is_help=True)
    inside.command("delay")(delay)
    inside.command("dynamics")(dynamics)
    inside.command("uncertainty")(uncertainty)
    inside.command("all")(everything)
    app.add_typer(inside, name="calibrate")
