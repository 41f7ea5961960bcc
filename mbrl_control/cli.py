"""`mbrl`: the command line. Every command is one module in `mbrl_control.commands`; other packages join by entry point."""

from __future__ import annotations

import sys
from importlib.metadata import entry_points

import typer
from rich.console import Console

from mbrl_control.commands import agent, bench, demo, evaluate, export, fit, info, inject, live, replay
from mbrl_control.errors import UserError

GROUP = "mbrl_control.commands"


def application() -> typer.Typer:
    """The program with its own commands and those of installed packages (an entry point is a function that takes the Typer)."""
    app = typer.Typer(help="Model-predictive control on a model that the robot learns while it runs.", no_args_is_help=True,
                      add_completion=True, pretty_exceptions_enable=False, rich_markup_mode=None)
    app.callback()(lambda: None)
    for command in (demo.add, live.add, fit.add, evaluate.add, replay.add, bench.add, info.add, inject.add, agent.add, export.add):
        command(app)
    for entry in entry_points(group=GROUP):
        entry.load()(app)
    return app


def main() -> None:
    """Entry point of the console script: errors that a user can mend are told in a sentence, with exit status 2."""
    try:
        application()()
    except (UserError, OSError) as error:
        Console(stderr=True, soft_wrap=True).print(f"error: {error}", markup=False, highlight=False)
        sys.exit(2)


if __name__ == "__main__":
    main()
