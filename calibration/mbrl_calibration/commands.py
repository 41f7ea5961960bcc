"""`mbrl calibrate`: delays, physics and trust from a robot's logs."""

from __future__ import annotations

import typer

from mbrl_calibration import command_dynamics


def add(app: typer.Typer) -> None:
    """Join the program."""
    inside = typer.Typer(help="Find from a robot's logs what its datasheet does not say; write it to a YAML that everything else reads.",
                         no_args_is_help=True)
    command_dynamics.add(inside)
    app.add_typer(inside, name="calibrate")
