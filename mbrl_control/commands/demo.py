"""`mbrl demo`: everything at once, from no data and no model to a report and a picture."""

from __future__ import annotations

import time
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from mbrl_control import robot, screen
from mbrl_control.commands.options import console
from mbrl_control.errors import UserError
from mbrl_control.part_checks import check_parts

if TYPE_CHECKING:  # these import torch and matplotlib, which --help must not wait for
    from mbrl_control.stack.live_run import LiveSettings, Prepared
    from mbrl_control.stack.lockstep import Settings
    from mbrl_control.stack.run_log import RunLog


def new_run_dir(name: str) -> Path:
    """A folder for a run, named by date and robot."""
    return Path("runs") / f"{datetime.now():%Y%m%d-%H%M%S}-{name}"


def demo(
    robot_name: Annotated[str, typer.Option("--robot", help="shipped robot or YAML file")] = "cartpole",
    duration: Annotated[float, typer.Option(min=1.0, help="seconds")] = 90.0,
    seed: Annotated[int, typer.Option(min=0, help="of everything random")] = 0,
    in_lockstep: Annotated[bool, typer.Option("--lockstep", help="one process on a virtual clock, as fast as it can; without ROS")] = False,
    plant: Annotated[str, typer.Option(help="what lockstep drives: mujoco, or suite (the control suite's own)")] = "mujoco",
    resets: Annotated[str, typer.Option(help="lockstep: times at which the robot goes back to its start, e.g. 20,30")] = "",
    change: Annotated[str, typer.Option(help="change the simulated robot in mid-run, e.g. mass:pole*2@60")] = "",
    out: Annotated[Path | None, typer.Option(help="new folder for bag, models, report and picture")] = None,
    json_path: Annotated[Path | None, typer.Option("--json", help="also write the report here")] = None,
) -> None:
    """Learn to control a robot from nothing, and show how it went; exit status 0 only if the task was solved."""
    from mbrl_control.commands.show import summary  # noqa: PLC0415
    from mbrl_control.stack import live_run, lockstep, report  # noqa: PLC0415

    run_dir = (out or new_run_dir(robot_name if robot_name in robot.shipped() else Path(robot_name).stem)).absolute()
    what = parse_change(change)
    command = f"mbrl demo --robot {robot_name} --duration {duration:g} --seed {seed}" + (" --lockstep" if in_lockstep else "")
    if in_lockstep:
        settings = lockstep.Settings(duration, seed, parse_times(resets), changes=lockstep_changes(what))
        result = run_lockstep(robot_name, run_dir, settings, plant, command)
    else:
        result = run_live(live_run.LiveSettings(robot_name, run_dir, duration, seed, sim_parameters=live_changes(what)), command)
    if json_path is not None:
        report.save(result, json_path)
    summary(result, run_dir, console)
    raise typer.Exit(0 if result["solved"] and not result.get("ended_early") else 1)


def parse_change(text: str) -> tuple[str, float, float] | None:
    """(what, factor, time) of `mass:pole*2@60`."""
    if not text:
        return None
    try:
        what, rest = text.split("*")
        factor, at = rest.split("@")
        return what, float(factor), float(at)
    except ValueError as error:
        raise UserError(f"--change '{text}' is not understood; write it as WHAT*FACTOR@SECONDS, e.g. mass:pole*2@60") from error


def parse_times(text: str) -> tuple[float, ...]:
    """(20, 30) of `20,30`."""
    try:
        return tuple(float(part) for part in text.split(",") if part)
    except ValueError as error:
        raise UserError(f"--resets '{text}' is not a list of seconds; write e.g. 20,30") from error


def lockstep_changes(what: tuple[str, float, float] | None) -> tuple[tuple[float, Any], ...]:
    """The change as a function of the plant."""
    if what is None:
        return ()
    name, factor, at = what

    def apply(plant: Any, by: float = factor) -> None:
        plant.change(name, by)

    return ((at, apply),)


def live_changes(what: tuple[str, float, float] | None) -> tuple[tuple[str, str], ...]:
    """The change as parameters of the simulator node."""
    if what is None:
        return ()
    name, factor, at = what
    return (("change", name), ("change_factor", str(factor)), ("change_at_s", str(at)))


def run_lockstep(robot_name: str, run_dir: Path, settings: Settings, plant: str, command: str) -> dict[str, Any]:
    """Run on the virtual clock; report and picture also after Ctrl-C."""
    import torch  # noqa: PLC0415
    from rich.live import Live  # noqa: PLC0415

    from mbrl_control.stack import live, live_run, lockstep, picture, plants, report  # noqa: PLC0415
    from mbrl_control.stack.interruption import Interruption  # noqa: PLC0415
    from mbrl_control.stack.model_report import model_part  # noqa: PLC0415

    torch.set_num_threads(1)
    torch.set_flush_denormal(True)
    spec = robot.load(robot_name)
    base = None if robot_name in robot.shipped() else Path(robot_name).parent
    check_parts(spec)
    made: Any = plants.make(plant, spec, base)
    for _, change in settings.changes:
        change(made, 1.0)  # a wrong name shows now, not in a minute
    live_run.require_empty(run_dir)
    run = lockstep.Lockstep(spec, made, run_dir / "store", settings)
    begin, interrupted, fault = time.monotonic(), False, None
    with Interruption() as end, Live(console=console, refresh_per_second=4, transient=True) as shown:

        def watch(log: RunLog) -> None:
            shown.update(live.table(spec, log, settings.duration_s))

        try:
            run.run(watch, end.point)
        except KeyboardInterrupt:
            interrupted = True
        except UserError as error:  # the simulation became unstable: what came before is still told
            fault = error
    log = run.log
    out = report.build(spec, log, command=command, seed=settings.seed, wall_s=time.monotonic() - begin,
                       cadence={"rate_hz": spec.rate_hz, "ticks": len(log.time), "missed": 0, "lateness_us": None, "clock": "virtual"},
                       model=model_part(spec, run_dir / "store", log.episodes()),
                       extra={"interrupted": interrupted, "run_dir": str(run_dir)})
    report.save(out, run_dir / "report.json")
    if log.time:
        picture.draw(spec, log, run_dir / "picture.png", f"{spec.title or spec.name}: {command}")
    if fault is not None:
        raise fault
    return out


def run_live(settings: LiveSettings, command: str, prepared: Prepared | None = None) -> dict[str, Any]:
    """Run as real processes, whoever reads what is said; `prepared` when the run's folder was made ready before.

    A planner that will stop early is told of.
    """
    from rich.live import Live  # noqa: PLC0415

    from mbrl_control.stack import live, live_run  # noqa: PLC0415

    screen.detach()
    ready = prepared or live_run.prepare(settings)
    if ready.fit is not None and (warning := ready.fit.demand()):
        console.print(f"warning: {warning}", highlight=False, markup=False)
    with Live(console=console, refresh_per_second=4, transient=True) as shown:

        def watch(log: RunLog) -> None:
            shown.update(live.table(ready.spec, log, settings.duration_s))

        def tell(sentence: str) -> None:
            console.print(f"warning: {sentence}", highlight=False, markup=False)

        return live_run.run(settings, command, watch, ready, tell)


def add(app: typer.Typer) -> None:
    """Join the program."""
    app.command()(demo)
