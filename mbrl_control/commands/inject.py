"""`mbrl inject`: disturb a running stack on purpose, where the robot's YAML allows it."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console

from mbrl_control.commands.options import Json, Seed, console
from mbrl_control.errors import UserError
from mbrl_control.runtime.injection import PROCESS_WORDS, WORDS, schedule

BESIDE = ("duplicate", "garbage", "wrong", "flood")
"""What a further publisher can do to a topic; to take messages away needs a place between publisher and subscription."""
_HELP = "; ".join(f"{name}: {WORDS[name].sentence}" for name in (*BESIDE, *PROCESS_WORDS))


def inject(
    what: Annotated[str, typer.Argument(help=_HELP)],
    run_dir: Annotated[Path, typer.Option("--run", help="folder of the running stack")],
    topic: Annotated[str | None, typer.Option(help="state topic to disturb, as the YAML names it; by default the first")] = None,
    target: Annotated[str | None, typer.Option(help="controller, planner, trainer, recorder or sim")] = None,
    seconds: Annotated[float, typer.Option(min=0.1, max=3600.0, help="for so long")] = 5.0,
    amount: Annotated[float | None, typer.Option(min=0.0, max=10_000.0, help="how much; docs/faults.md says of what")] = None,
    seed: Seed = 0,
    json_path: Json = None,
) -> None:
    """Inject a fault into a running stack: false messages on a state topic, or signals to a process. Needs allow_injection in the YAML."""
    from mbrl_control.stack import inject as injections  # noqa: PLC0415
    from mbrl_control.stack.report import save  # noqa: PLC0415

    if what not in (*BESIDE, *PROCESS_WORDS):
        why = "takes messages away, which nobody can do from beside in a running graph" if what in WORDS else "is no fault"
        raise UserError(f"'{what}' {why}; inject one of {', '.join((*BESIDE, *PROCESS_WORDS))}")
    run_dir, begin = run_dir.absolute(), time.monotonic()
    try:
        spec = injections.allowed(run_dir)
        if what in PROCESS_WORDS:
            if topic is not None or target is None:
                raise UserError(f"'{what}' is done to a process; name it with --target ({', '.join(injections.NODES)})")
            found = injections.of_run(run_dir, injections.processes())
            if target not in found:
                raise UserError(f"no process '{target}' of {run_dir} runs on this machine (running: {', '.join(sorted(found)) or 'none'})")
            pid, on = found[target].pid, target
            complete = injections.carry_out(schedule(what, seconds, amount), pid)
        else:
            from mbrl_control.commands.live import foreground  # noqa: PLC0415

            topics = list(dict.fromkeys(s.topic for s in spec.state))
            if target is not None or (topic is not None and topic not in topics):
                raise UserError(f"'{what}' is done to a state topic; name it with --topic ({', '.join(topics)})")
            pid, on = 0, topic or topics[0]
            strength = WORDS[what].amount if amount is None else amount
            parameters = {"robot": str(run_dir / "robot.yaml"), "what": what, "topic": on, "seed": str(seed), "seconds": str(seconds),
                          "amount": str(strength)}
            complete = foreground("inject", "mbrl_control_ros.inject_node", parameters, 0.0) == 0
    except UserError as error:
        Console(stderr=True, soft_wrap=True).print(f"error: {error}", markup=False, highlight=False)
        raise typer.Exit(1) from error
    if json_path is not None:
        save({"schema": 1, "command": f"mbrl inject {what}", "robot": spec.name, "on": on, "pid": pid, "seconds": seconds, "seed": seed,
              "complete": complete, "wall_s": time.monotonic() - begin}, json_path)
    console.print(f"{what} on {on}: {'done' if complete else 'it ended before the time was up'}", highlight=False)
    raise typer.Exit(0 if complete else 1)


def add(app: typer.Typer) -> None:
    """Join the program."""
    app.command()(inject)
