"""`mbrl export`: the policy that `mbrl agent` learned on a robot, for the robot's planner to start from."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from mbrl_control.commands.options import Json, console


def export(
    run: Annotated[Path, typer.Argument(metavar="RUN", help="folder of `mbrl agent sac`, `mbpo` or `dreamer` on --task robot:NAME")],
    out: Annotated[Path, typer.Option("--out", "-o", help="folder to make")],
    json_path: Json = None,
) -> None:
    """Export the policy of an agent's run: safetensors and a manifest, for `policies` in the robot's YAML."""
    from mbrl_control.stack import policy_export, report  # noqa: PLC0415

    made = policy_export.export(run, out)
    if json_path is not None:
        report.save(made, json_path)
    console.print(f"policy of {made['agent']} after {made['steps']} steps on {made['task']}; in the robot's YAML:", highlight=False)
    value = ", value: true" if made["value"] else ""
    console.print(f"policies: [{{kind: learned, options: {{path: {out.absolute()}}}, rows: 2{value}}}]", highlight=False,
                  markup=False, soft_wrap=True)


def add(app: typer.Typer) -> None:
    """Join the program."""
    app.command()(export)
