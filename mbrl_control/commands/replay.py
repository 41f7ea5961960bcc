"""`mbrl replay`: make a run's plans again, bit for bit."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import Annotated

import typer

from mbrl_control.commands.options import Json, console


def replay(
    run_dir: Annotated[Path, typer.Argument(metavar="RUN", help="folder of a run")],
    limit: Annotated[int, typer.Option(min=0, help="at most so many plans, spread over the run; 0 for all")] = 0,
    json_path: Json = None,
) -> None:
    """Make the plans of a logged run again from its log and its models; exit status 0 only if every bit is the same."""
    from mbrl_control.stack import replay as replays  # noqa: PLC0415
    from mbrl_control.stack.report import save  # noqa: PLC0415

    outcome = replays.replay(run_dir, limit or None)
    if json_path is not None:
        save(asdict(outcome), json_path)
    console.print(f"{outcome.plans} plans logged, {outcome.replayed} replayed, {outcome.identical} identical in every bit, "
                  f"{outcome.skipped} skipped (what they started from is not in the log)", highlight=False)
    if outcome.identical < outcome.replayed:
        console.print(f"first difference in plan {outcome.first_different}, greatest {outcome.worst:.3g}", highlight=False)
    raise typer.Exit(0 if outcome.replayed and outcome.identical == outcome.replayed else 1)


def add(app: typer.Typer) -> None:
    """Join the program."""
    app.command()(replay)
