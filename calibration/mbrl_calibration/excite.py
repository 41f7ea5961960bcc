"""`mbrl excite`: designs a motion that tells most about a robot, tries it in simulation, plays it there or on the robot, and records it."""

from __future__ import annotations

import math
import pkgutil
import shutil
import time
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.progress import BarColumn, Progress, SpinnerColumn, TextColumn, TimeElapsedColumn
from rich.table import Table

from mbrl_control import robot
from mbrl_control.commands.options import Json, Seed, console
from mbrl_control.errors import UserError, nearest
from mbrl_control.robot import RobotSpec

if TYPE_CHECKING:  # these import CasADi and MuJoCo, which --help must not wait for
    from mbrl_calibration.excitation import Excitation
    from mbrl_calibration.mechanism import Mechanism
    from mbrl_calibration.playing import Played

KINDS = ("multisine", "fourier")
PLACES = ("simulation", "twin", "robot")
COURSE = "course.safetensors"


def excite(
    robot_name: Annotated[str, typer.Argument(metavar="ROBOT", help="shipped robot or YAML file")],
    out: Annotated[Path, typer.Option("-o", "--out", help="new folder for bag, figures and picture")],
    seconds: Annotated[float, typer.Option(min=1.0, max=3600.0, help="length")] = 30.0,
    kind: Annotated[str, typer.Option(help="multisine, or fourier: optimised for the robot's equations (`nominal`)")] = "multisine",
    band: Annotated[str, typer.Option(help="lowest and highest frequency, Hz, e.g. 0.2,4; by default from the model step")] = "",
    change: Annotated[list[str] | None, typer.Option(help="play on a robot that differs from what the design knows, e.g. "
                                                          "mass:pole*1.3; may be given again")] = None,
    on: Annotated[str, typer.Option("--on", help="where it is played: in simulation; or, after a trial there, over ROS 2 topics in real "
                                                 "time on the robot's simulated twin, or on the robot itself")] = "simulation",
    seed: Seed = 0,
    json_path: Json = None,
) -> None:
    """Design an excitation within limits, play it through the robot's safety filter, and record a bag for calibration.

    Exit status 1 when it had to be stopped because the robot left where it may be.
    """
    from mbrl_control.stack.report import save  # noqa: PLC0415

    begin = time.monotonic()
    spec = robot.load(robot_name)
    base = None if robot_name in robot.shipped() else Path(robot_name).parent
    if kind not in KINDS:
        raise UserError(f"--kind '{kind}' is not known{nearest(kind, list(KINDS))}")
    if on not in PLACES:
        raise UserError(f"--on '{on}' is not known{nearest(on, list(PLACES))}; it is one of {', '.join(PLACES)}")
    limits, changes = _band(band), dict(_change(text) for text in change or [])
    if changes and on != "simulation":
        raise UserError(f"--change changes the robot in simulation only, and --on is '{on}'; leave one of them out")
    if out.exists():
        raise UserError(f"{out} exists already; recordings are never overwritten, name a new folder with -o")
    partial = out.with_name(f".{out.name}.tmp")
    shutil.rmtree(partial, ignore_errors=True)
    partial.mkdir(parents=True)
    try:
        figures = _run(spec, base, (seconds, kind, limits, changes, seed), partial)
        if on != "simulation":
            _require_trial(figures)
            figures |= _live(robot_name, partial / COURSE, out, seed, on)
        figures |= {"command": f"mbrl excite {robot_name} --seconds {seconds:g} --kind {kind} --on {on} --seed {seed}", "on": on,
                    "wall_s": time.monotonic() - begin}
        save(figures, partial / "excitation.json")
        if on == "simulation":
            shutil.copyfile(robot.shipped().get(robot_name, Path(robot_name)), partial / "robot.yaml")
            partial.rename(out)
        else:
            for name in (COURSE, "excitation.json"):
                shutil.move(partial / name, out / name)
    finally:
        shutil.rmtree(partial, ignore_errors=True)
    if json_path is not None:
        save(figures, json_path)
    _tell(figures, out)
    raise typer.Exit(1 if figures["stopped"] else 0)


def _require_trial(figures: dict[str, Any]) -> None:
    """Refuse to move a robot as its simulation could not be moved.

    Raises:
        UserError: why.
    """
    if figures["stopped"]:
        raise UserError(f"not played on the robot, for in simulation it had to be broken off: {figures['stopped']}")


def _live(robot_name: str, course: Path, out: Path, seed: int, on: str) -> dict[str, Any]:
    from mbrl_calibration.excite_live import play_live  # noqa: PLC0415
    from mbrl_control import screen  # noqa: PLC0415
    from mbrl_control.stack.live_run import LiveSettings  # noqa: PLC0415

    screen.detach()
    settings = LiveSettings(robot_name, out.absolute(), 1e9, seed, sim=on == "twin", train=False, course=course.absolute())
    with Progress(SpinnerColumn(), TextColumn("{task.description}"), BarColumn(), TimeElapsedColumn(), console=console,
                  transient=True) as bar:
        task = bar.add_task(f"playing on the {on}", total=None)
        return play_live(settings, f"mbrl excite {robot_name} --on {on}",
                         lambda done, total: bar.update(task, completed=done, total=total),
                         lambda sentence: console.print(f"warning: {sentence}", highlight=False, markup=False))


def _band(text: str) -> tuple[float, float] | None:
    if not text:
        return None
    try:
        low, high = (float(part) for part in text.split(","))
    except ValueError as error:
        raise UserError(f"--band '{text}' is not understood; write two frequencies in Hz, e.g. 0.2,4") from error
    if not (0 < low < high < math.inf):
        raise UserError(f"--band '{text}': the first frequency must be above 0 and below the second")
    return low, high


def _change(text: str) -> tuple[str, float]:
    what, star, factor = text.partition("*")
    try:
        return what, float(factor if star else "")
    except ValueError as error:
        raise UserError(f"--change '{text}' is not understood; write it as WHAT*FACTOR, e.g. mass:pole*1.3") from error


def equations(spec: RobotSpec, base: Path | None) -> Mechanism | None:
    """The mechanism of a robot; None when it has none or one that is no rigid-body mechanism."""
    from mbrl_calibration import mechanism, mechanisms  # noqa: PLC0415
    from mbrl_calibration.mechanisms import arm  # noqa: PLC0415

    if spec.nominal is None or spec.nominal.system not in [module.name for module in pkgutil.iter_modules(mechanisms.__path__)]:
        return None
    return arm.build(spec, base) if spec.nominal.system == "arm" else mechanism.build(spec)


def plant_of(spec: RobotSpec, base: Path | None, known: Mechanism | None) -> Any:
    """What a robot is simulated with: its MJCF, else its equations.

    Raises:
        UserError: it has neither.
    """
    from mbrl_calibration.nominal_plant import NominalPlant  # noqa: PLC0415
    from mbrl_control.stack import plants  # noqa: PLC0415

    if spec.sim is not None:
        return plants.make("mujoco", spec, base)
    if known is None:
        raise UserError(f"robot '{spec.name}' cannot be simulated, so that nothing can be tried before: give it 'sim: {{mjcf: …, "
                        "actuators: […]}}', or 'nominal: {{system: …}}' with equations that calibration knows")
    import numpy as np  # noqa: PLC0415

    return NominalPlant(known, spec, np.zeros(spec.state_dim))


def _run(spec: RobotSpec, base: Path | None, asked: tuple[float, str, tuple[float, float] | None, dict[str, float], int],
         folder: Path) -> dict[str, Any]:
    import numpy as np  # noqa: PLC0415

    from mbrl_calibration import excitation, excite_bag, excite_picture  # noqa: PLC0415
    from mbrl_calibration.playing import play, region  # noqa: PLC0415
    from mbrl_control.runtime.course import write  # noqa: PLC0415
    from mbrl_control.runtime.safety import SafetyFilter  # noqa: PLC0415

    seconds, kind, band, changes, seed = asked
    known = equations(spec, base)
    plant = plant_of(spec, base, known)
    if changes and spec.sim is None:
        raise UserError(f"--change needs an MJCF to change, and robot '{spec.name}' has no `sim`")
    with Progress(SpinnerColumn(), TextColumn("{task.description}"), BarColumn(), TimeElapsedColumn(), console=console,
                  transient=True) as bar:
        task = bar.add_task(f"designing a {kind}", total=None)
        found = excitation.design(spec, known, seconds, np.random.default_rng(seed), kind,  # type: ignore[arg-type]
                                  plant=plant, band_hz=band, base=base)
        for what, factor in changes.items():
            plant.change(what, factor)
        plant.place(found.start)
        bar.update(task, description="playing", total=len(found.time))
        played = play(spec, plant, found.course, SafetyFilter(spec, base), region(spec, plant),
                      lambda k: bar.update(task, completed=k + 1))
        bar.update(task, description="recording", total=None)
        write(folder / COURSE, spec, found.course, region(spec, plant))
        excite_bag.write(spec, played, excite_bag.efforts(spec, known, played), folder / "bag")
        excite_picture.draw(spec, played, region(spec, plant), folder / "picture.png",
                            f"{spec.title or spec.name}: {kind}, {seconds:g} s, seed {seed}")
    return {"schema": 1, "robot": spec.name, "seed": seed, "changes": changes, **_figures(spec, found, played)}


def _figures(spec: RobotSpec, found: Excitation, played: Played) -> dict[str, Any]:
    figures = found.figures
    told = figures.information
    state = dict(zip(spec.state_names, figures.state_margin.tolist(), strict=True))
    return {
        "kind": figures.kind, "seconds": float(len(played.time) * spec.tick_s), "ticks": len(played.time), "scale": figures.scale,
        "feedback_hz": figures.soft_hz, "band_hz": list(figures.band_hz), "limited": played.limited, "replaced": played.replaced,
        "crest_factor": dict(zip(spec.command_names, figures.crest.tolist(), strict=True)),
        "command_margin": dict(zip(spec.command_names, figures.command_margin.tolist(), strict=True)),
        "state_margin": {name: value for name, value in state.items() if math.isfinite(value)},
        "condition": None if told is None else told.condition, "log_det": None if told is None else told.log_det,
        "weakest": None if told is None else told.weakest, "stopped": None if played.stop is None else played.stop.sentence,
    }


def _tell(figures: dict[str, Any], out: Path) -> None:
    table = Table(box=None, show_header=False)
    low, high = figures["band_hz"]
    feedback = f"soft feedback ({figures['feedback_hz']:g} Hz)" if figures["feedback_hz"] else "open loop"
    table.add_row("motion", f"{figures['kind']}, {low:.3g} to {high:.3g} Hz, {figures['scale']:.0%} of the commands, {feedback}")
    table.add_row("crest factor", ", ".join(f"{name} {value:.2f}" for name, value in figures["crest_factor"].items()))
    if figures["state_margin"]:
        table.add_row("kept clear", ", ".join(f"{name} {value:.0%}" for name, value in figures["state_margin"].items()))
    if figures["condition"] is not None:
        table.add_row("information", f"condition number {figures['condition']:.3g}, log det {figures['log_det']:.4g}, least about "
                      f"{figures['weakest']}")
    console.print(table)
    if figures["stopped"]:
        console.print(figures["stopped"], highlight=False, markup=False)
    console.print(f"{figures['ticks']} ticks recorded: {out}", highlight=False, markup=False)


def add(app: typer.Typer) -> None:
    """Join the program."""
    app.command()(excite)
