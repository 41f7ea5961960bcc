"""`mbrl agent`: a learner by itself on a task, resumable, with curves."""

from __future__ import annotations

import importlib
import json
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, closing, contextmanager
from dataclasses import asdict, replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

from mbrl_control import parts
from mbrl_control.commands.options import Json, Seed, console
from mbrl_control.data.turn import Turn
from mbrl_control.errors import UserError

if TYPE_CHECKING:  # these import torch, which --help must not wait for
    from mbrl_control.stack import agent_run
    from mbrl_control.stack.agent_checkpoint import Progress as RunProgress


def parse_options(given: list[str]) -> dict[str, Any]:
    """{"gamma": 0.98, "hidden": [64, 64], "kind": "relu"} of `gamma=0.98`, `hidden=[64,64]`, `kind=relu`.

    Raises:
        UserError: one without `=`, or one given twice.
    """
    out: dict[str, Any] = {}
    for text in given:
        key, equals, value = text.partition("=")
        if not equals or not key or key in out:
            raise UserError(f"--option '{text}' is not understood; write each option once, as KEY=VALUE, e.g. --option gamma=0.98")
        try:
            out[key] = json.loads(value)
        except ValueError:
            out[key] = value
    return out


def agent(
    name: Annotated[str, typer.Argument(metavar="AGENT", help="sac, mbpo, dreamer, …: a file in mbrl_control/agents")],
    task: Annotated[str, typer.Option(help="gymnasium's name, or dmc:DOMAIN-TASK, or dmc:DOMAIN-TASK@pixels")],
    *,
    steps: Annotated[int, typer.Option(min=1, help="environment steps to come to; those of --repeat count")] = 20_000,
    seed: Seed = 0,
    option: Annotated[list[str] | None, typer.Option(help="KEY=VALUE, an option of the agent; may be given more than once")] = None,
    repeat: Annotated[int, typer.Option(min=1, max=100, help="environment steps of each decision")] = 1,
    evaluate_every: Annotated[int, typer.Option(min=1, help="environment steps between evaluations")] = 1000,
    episodes: Annotated[int, typer.Option(min=1, help="of each evaluation")] = 10,
    save_every: Annotated[int, typer.Option(min=1, help="environment steps between checkpoints")] = 5000,
    out: Annotated[Path | None, typer.Option(help="folder of the run; by default runs/AGENT-TASK-SEED")] = None,
    resume: Annotated[bool, typer.Option("--resume", help="go on from the run's last checkpoint")] = False,
    threads: Annotated[int, typer.Option(min=1, max=64, help="of torch; more than one changes the last bits")] = 1,
    json_path: Json = None,
) -> None:
    """Let an agent learn a task by itself. Ctrl-C ends in order, with a checkpoint; --resume goes on from it."""
    import torch  # noqa: PLC0415

    from mbrl_control.stack import agent_curve, agent_run, report  # noqa: PLC0415

    torch.set_num_threads(threads)
    torch.set_flush_denormal(True)
    presets: Callable[[str], dict[str, Any]] = getattr(parts.find("agents", name), "presets", lambda _: {})
    options = parts.options("agents", name, {**presets(task), **parse_options(option or [])})
    run_dir = (out or Path("runs") / f"{name}-{task.replace(':', '-').replace('/', '-')}-{seed}").absolute()
    identity = {"agent": name, "task": task, "seed": seed, "repeat": repeat, "options": json.loads(json.dumps(asdict(options)))}
    settings = agent_run.RunSettings(steps, seed, run_dir, identity, evaluate_every, episodes, save_every)
    with _run(settings, options, resume) as run:
        done = run.run()
        row = agent_curve.result(identity, run.progress, " ".join(["mbrl", *sys.argv[1:]]), threads)
        report.save(row, run_dir / "result.json")
        agent_curve.draw(row, run_dir / "curve.png")
    if json_path is not None:
        report.save(row, json_path)
    console.print(f"{row['steps']} steps in {row['wall_s']:.0f} s: {run_dir / 'curve.png'}", highlight=False)
    raise typer.Exit(0 if done else 130)


@contextmanager
def _run(settings: agent_run.RunSettings, options: Any, resume: bool) -> Iterator[agent_run.AgentRun]:
    """The run with all that it needs, given back at the end."""
    from mbrl_control.stack import agent_checkpoint, agent_run, tasks  # noqa: PLC0415

    who, folder = settings.identity, settings.run_dir
    with ExitStack() as held:
        learned, trial = (held.enter_context(closing(tasks.make(who["task"], who["repeat"]))) for _ in range(2))
        built = parts.find("agents", who["agent"]).build(learned.spec, settings.seed, options)
        _claim(held.enter_context(closing(Turn(folder))), resume)
        writer = held.enter_context(closing(_writer(folder)))
        bar = held.enter_context(Progress(TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn(),
                                          TimeRemainingColumn(), console=console, transient=True))
        if learned.spec.contents:
            settings = replace(settings, identity={**who, agent_checkpoint.CONTENTS: learned.spec.contents})
        run = agent_run.AgentRun(settings, built, learned, trial, writer, _Teller(bar, who, settings.steps))
        if resume:
            run.resume()
        yield run


def _claim(turn: Turn, resume: bool) -> None:
    """Take a run's folder for this process.

    Raises:
        UserError: another process learns there, or it holds a run that is not to be gone on with.
    """
    from mbrl_control.stack import agent_checkpoint  # noqa: PLC0415

    if not turn.take():
        raise UserError(f"{turn.folder}: another process is learning there; wait for its end, or name another folder with --out")
    if agent_checkpoint.exists(turn.folder) and not resume:
        raise UserError(f"{turn.folder} holds a run already; go on with it by --resume, or name another folder with --out")


def _writer(run_dir: Path) -> Any:
    try:
        return importlib.import_module("torch.utils.tensorboard").SummaryWriter(str(run_dir / "tensorboard"))
    except ImportError as error:
        raise UserError("curves need 'tensorboard', which is not installed: pip install mbrl_control[agents]") from error


class _Teller:
    """Tells how far a run is: a bar, and a line for each evaluation.

    Args:
        bar: to draw on.
        who: the run's identity.
        steps: to come to.
    """

    def __init__(self, bar: Progress, who: dict[str, Any], steps: int) -> None:
        self._bar, self._rows, self._next = bar, 0, 0.0
        self._line = bar.add_task(f"{who['agent']} on {who['task']}", total=steps)

    def __call__(self, progress: RunProgress) -> None:
        for step, mean, deviation in progress.rows[self._rows:]:
            self._bar.console.print(f"{step:>9} steps  {mean:10.2f} ± {deviation:.2f}  {progress.wall_s:8.0f} s", highlight=False)
        self._rows = len(progress.rows)
        if (now := time.monotonic()) > self._next:
            self._bar.update(self._line, completed=progress.steps)
            self._next = now + 0.5


def add(app: typer.Typer) -> None:
    """Join the program."""
    app.command()(agent)
