"""`mbrl control`, `sim`, `record`, `train`: the processes of the stack, together or one by one."""

from __future__ import annotations

import signal
import subprocess
import time
from pathlib import Path
from typing import Annotated

import typer

from mbrl_control import robot
from mbrl_control.commands.options import Json, Robot, Seed, console
from mbrl_control.data.sizes import sizes
from mbrl_control.errors import UserError

Duration = Annotated[float, typer.Option(min=0.0, help="seconds; 0 until Ctrl-C")]
KeepMb = Annotated[int, typer.Option(min=0, help="drop the oldest files of the bag beyond so many MB, at least 256; 0 keeps everything")]
Out = Annotated[Path | None, typer.Option(help="folder of the run")]


def control(
    robot_name: Robot,
    duration: Duration = 0.0,
    model: Annotated[Path | None, typer.Option(help="start from a model folder that `mbrl fit` made")] = None,
    train: Annotated[bool, typer.Option(help="keep learning while it runs")] = True,
    seed: Seed = 0,
    keep_mb: KeepMb = 0,
    out: Annotated[Path | None, typer.Option(help="new folder for bag, models, report and picture")] = None,
    json_path: Json = None,
) -> None:
    """Control a real robot (or one that something else simulates) over its topics; report, picture and bag at the end."""
    from mbrl_control.commands.demo import new_run_dir, run_live  # noqa: PLC0415
    from mbrl_control.commands.show import summary  # noqa: PLC0415
    from mbrl_control.stack import live_run, report  # noqa: PLC0415
    from mbrl_control.store import ModelStore, snapshot  # noqa: PLC0415

    spec = robot.load(robot_name)
    sizes(keep_mb)
    run_dir = (out or new_run_dir(spec.name)).absolute()
    given = snapshot.read(model / "model", spec.hash) if model is not None else None
    settings = live_run.LiveSettings(robot_name, run_dir, duration or 1e9, seed, sim=False, train=train, keep_mb=keep_mb)
    prepared = live_run.prepare(settings)
    if given is not None:
        ModelStore(run_dir / "store").publish(given)
    result = run_live(settings, f"mbrl control --robot {robot_name}", prepared)
    if json_path is not None:
        report.save(result, json_path)
    summary(result, run_dir, console)
    raise typer.Exit(1 if result.get("ended_early") else 0)


def foreground(name: str, module: str, parameters: dict[str, str], duration: float) -> int:
    """Run one node until it ends, the time is up, or Ctrl-C. Gives its exit status."""
    from mbrl_control.runtime.process_link import child_environment  # noqa: PLC0415
    from mbrl_control.stack.interruption import Interruption  # noqa: PLC0415
    from mbrl_control.stack.network import stay_local  # noqa: PLC0415
    from mbrl_control.stack.processes import Node, require_ros  # noqa: PLC0415

    require_ros()
    begin = time.monotonic()
    with Interruption() as end:
        process = subprocess.Popen(Node(name, module, parameters).command(), env=stay_local(child_environment()), start_new_session=True)
        while process.poll() is None and not end.asked and (not duration or time.monotonic() - begin < duration):
            time.sleep(0.1)
    if process.poll() is None:
        process.send_signal(signal.SIGINT)
    return process.wait()


def finish(name: str, status: int, wall_s: float, json_path: Path | None) -> None:
    """Write `--json` and end with the node's status."""
    from mbrl_control.stack.report import machine, save  # noqa: PLC0415

    if json_path is not None:
        save({"schema": 1, "command": f"mbrl {name}", "wall_s": wall_s, "exit_status": status, "machine": machine()}, json_path)
    raise typer.Exit(status)


def sim(robot_name: Robot = "cartpole", duration: Duration = 0.0, seed: Seed = 0, json_path: Json = None) -> None:
    """Simulate a robot in MuJoCo behind its own topics."""
    spec, begin = robot.load(robot_name), time.monotonic()
    if spec.sim is None:
        raise UserError(f"robot '{spec.name}' has no `sim` section, so there is nothing to simulate")
    status = foreground("sim", "mbrl_control_ros.sim_node", {"robot": robot_name, "seed": str(seed)}, duration)
    finish("sim", status, time.monotonic() - begin, json_path)


def record(robot_name: Robot, out: Out = None, duration: Duration = 0.0, keep_mb: KeepMb = 0, json_path: Json = None) -> None:
    """Record a robot's states and commands as a rosbag2 in MCAP."""
    from mbrl_control.commands.demo import new_run_dir  # noqa: PLC0415

    spec, begin = robot.load(robot_name), time.monotonic()
    sizes(keep_mb)
    run_dir = (out or new_run_dir(spec.name)).absolute()
    if (run_dir / "bag").exists():
        raise UserError(f"{run_dir / 'bag'} exists already; recordings are never overwritten, name another folder with --out")
    given = {"robot": robot_name, "run_dir": str(run_dir), "keep_mb": str(keep_mb)}
    status = foreground("recorder", "mbrl_control_ros.recorder_node", given, duration)
    console.print(f"recorded to {run_dir / 'bag'}", highlight=False)
    finish("record", status, time.monotonic() - begin, json_path)


def train(
    run_dir: Annotated[Path, typer.Argument(metavar="RUN", help="folder with `bag/`; models go to its `store/`")],
    robot_name: Robot,
    once: Annotated[bool, typer.Option(help="one refit on what is recorded, then end")] = False,
    seed: Seed = 0,
    json_path: Json = None,
) -> None:
    """Follow a recording and publish models from it, as the trainer does beside a robot."""
    from dataclasses import asdict  # noqa: PLC0415

    from mbrl_control.data.episode_tail import EpisodeTail  # noqa: PLC0415
    from mbrl_control.stack.report import save  # noqa: PLC0415
    from mbrl_control.store import ModelStore  # noqa: PLC0415
    from mbrl_control.training import worker  # noqa: PLC0415
    from mbrl_control.training.trainer import Trainer  # noqa: PLC0415

    spec = robot.load(robot_name)
    if not (run_dir / "bag").exists():
        raise UserError(f"{run_dir} has no `bag` in it; record one with `mbrl record --out {run_dir}`")
    if not once:
        worker.run(spec, run_dir, run_dir / "store", seed)
        return
    trainer, tail = Trainer(spec, ModelStore(run_dir / "store"), seed), EpisodeTail(run_dir / "bag", spec)
    tail.poll()
    trainer.set_data(tail.episodes())
    if not trainer.due():
        raise UserError(f"{run_dir}: {trainer.experience_s:.1f} s of data; a first fit needs {spec.trainer.first_fit_s:g} s")
    refit = trainer.refit()
    if json_path is not None:
        save(asdict(refit), json_path)
    console.print(f"version {refit.version} from {refit.transitions} transitions in {refit.seconds:.2f} s", highlight=False)


def add(app: typer.Typer) -> None:
    """Join the program."""
    for command in (control, sim, record, train):
        app.command()(command)
