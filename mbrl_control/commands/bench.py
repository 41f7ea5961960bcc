"""`mbrl bench`: what this machine can keep: ticks on time by itself, ticks beside planner and trainer, and plans within their period."""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.table import Table

from mbrl_control import robot
from mbrl_control.commands.options import Json, Robot, Seed, console
from mbrl_control.errors import UserError

if TYPE_CHECKING:  # these import torch, which --help must not wait for
    from mbrl_control.runtime.fit_check import Fit
    from mbrl_control.runtime.freezes import Seen
    from mbrl_control.stack.cadence_bench import Progress
    from mbrl_control.stack.machine_bench import Held


def parse_rates(text: str) -> tuple[float, ...]:
    """(50, 100) of `50,100`."""
    try:
        rates = tuple(float(part) for part in text.split(","))
    except ValueError as error:
        raise UserError(f"--rates '{text}' is not a list of numbers; write e.g. 50,100,200") from error
    if not all(1 <= rate <= 1000 for rate in rates) or len(set(rates)) < len(rates):
        raise UserError(f"--rates '{text}': every rate must be from 1 to 1000 Hz, and stand there once")
    return rates


def cadence(
    *,
    minutes: Annotated[float, typer.Option(min=0.01, max=10_000, help="of ticks, for each rate and each way of binding")] = 10.0,
    rate: Annotated[float, typer.Option(min=1, max=1000, help="ticks per second")] = 50.0,
    rates: Annotated[str, typer.Option(help="several rates one after the other, e.g. 50,100,200; instead of --rate")] = "",
    robot_name: Robot = "cartpole",
    swap_every: Annotated[float, typer.Option(min=0.5, help="seconds from one model swap to the next")] = 5.0,
    bad_every: Annotated[int, typer.Option(min=0, help="every so many snapshots offered are bad on purpose; 0: none")] = 0,
    bound: Annotated[bool, typer.Option("--pin/--no-pin", help="bind planner, trainer and tick to cores, as the stack does")] = True,
    compare: Annotated[bool, typer.Option("--compare-pinning", help="measure every rate twice: bound to cores, and not")] = False,
    seed: Seed = 0,
    out: Annotated[Path | None, typer.Option(help="new folder that keeps logs and models; without it they are removed")] = None,
    json_path: Json = None,
) -> None:
    """Tick in real time beside a planner and a trainer at full load, with model swaps; exit status 0 only if no tick was missed.

    The tick, planner and trainer are those that drive a robot; the robot is simulated in the tick's process, and no ROS is needed. With
    --compare-pinning the ticks that count are those bound to cores. Ctrl-C ends with a report of what there is.
    """
    from rich.live import Live  # noqa: PLC0415

    from mbrl_control.stack import cadence_bench, report  # noqa: PLC0415
    from mbrl_control.stack.live_run import require_empty  # noqa: PLC0415

    chosen = parse_rates(rates) if rates else (rate,)
    robot.load(robot_name)
    if out is not None:
        require_empty(out)
    folder = out.absolute() if out else Path(tempfile.mkdtemp(prefix="mbrl-cadence-"))
    settings = cadence_bench.Settings(robot_name, folder, 60 * minutes, chosen, (True, False) if compare else (bound,), swap_every,
                                      bad_every, seed)
    command = (f"mbrl bench cadence --robot {robot_name} --minutes {minutes:g} --rates {','.join(f'{r:g}' for r in chosen)} "
               f"--swap-every {swap_every:g} --seed {seed}" + (f" --bad-every {bad_every}" if bad_every else "")
               + (" --compare-pinning" if compare else "" if bound else " --no-pin"))
    try:
        with Live(console=console, refresh_per_second=2, transient=True) as screen:
            result = cadence_bench.run(settings, command, lambda progress: screen.update(progress_table(progress, settings.seconds)))
    finally:
        if out is None:
            cadence_bench.tidy(settings)
    if json_path is not None:
        report.save(result, json_path)
    if result["runs"]:
        console.print(runs_table(result["runs"]))
    say(result)
    raise typer.Exit(0 if result["kept"] else 1)


def binding(pinned: bool) -> str:
    """How the cores are shared, in a word."""
    return "bound" if pinned else "free"


def progress_table(progress: Progress, seconds: float) -> Table:
    """What to show while it runs; at most 100 columns."""
    table = Table(width=98, show_header=False, title=f"cadence at {progress.rate_hz:g} Hz, cores {binding(progress.pinned)}",
                  title_justify="left")
    table.add_column(style="bold", width=14)
    table.add_column()
    done = min(1.0, progress.done_s / seconds)
    table.add_row("time", f"{progress.done_s:6.0f} s of {seconds:.0f} s  [{'#' * round(30 * done):<30}]")
    table.add_row("time left", f"about {progress.left_s / 60:.1f} min in all")
    figures = progress.figures
    if figures:
        table.add_row("ticks", f"{figures['ticks']:.0f}, {figures['missed']:.0f} missed; "
                               f"latest {figures['worst_us']:.0f} µs late in the last second")
        table.add_row("plans", f"{figures['plans']:.0f}, {figures['reused']:.0f} periods without a new one; model {figures['version']:.0f}")
    else:
        table.add_row("starting", "first data, first model, planner")
    table.add_row("trainer", f"{progress.refits} refits, {progress.swaps} swaps")
    for run in progress.ended:
        late = run["cadence"]["lateness_us"]
        table.add_row(f"{run['rate_hz']:g} Hz {binding(run['pinned'])}",
                      f"{run['cadence']['missed']} of {run['cadence']['ticks']} ticks missed, lateness p99 {late['p99']:.0f} µs")
    return table


def runs_table(runs: list[dict[str, Any]]) -> Table:
    """The figures, a row for each rate and binding; at most 100 columns."""
    table = Table(width=100, title="ticks beside planner and trainer", title_justify="left", padding=(0, 0))
    for name, width in (("Hz", 4), ("cores", 5), ("ticks", 7), ("missed", 6), ("lateness µs\np50/p99/max", 15),
                        ("plan ms\np50/p99/max", 14), ("met/early/\nreused/fallback", 15), ("swaps\n(missed)", 8), ("refits\n(busy)", 10)):
        table.add_column(name, width=width, justify="right", overflow="fold")
    for run in runs:
        ticks, planner, swaps, trainer = (run[key] for key in ("cadence", "planner", "swaps", "trainer"))
        late, latency, busy = ticks["lateness_us"], planner["latency_ms"], trainer["busy"]
        table.add_row(f"{run['rate_hz']:g}", binding(run["pinned"]), str(ticks["ticks"]), str(ticks["missed"]),
                      f"{late['p50']:.0f}/{late['p99']:.0f}/{late['max']:.0f}",
                      f"{latency['p50']:.1f}/{latency['p99']:.1f}/{latency['max']:.1f}",
                      f"{planner['met']}/{planner['early_stop']}/{planner['reused']}/{planner['fallback']}",
                      f"{swaps['accepted']} ({swaps['missed_ticks_during']})",
                      f"{trainer['refits']}" + ("" if busy is None else f" ({100 * busy:.0f} %)"))
    return table


def swap_sentence(swaps: dict[str, Any]) -> str:
    """What became of snapshots that were bad on purpose."""
    back = (f"{swaps['rolled_back']} of {swaps['offered_worse']} worse ones were used and rolled back, in at most "
            f"{swaps['rollback_periods']['max']:.2f} plan periods")
    return f"of {swaps['offered_bad']} bad snapshots {swaps['refused_bad']} were refused, {swaps['accepted_bad']} used; {back}"


def say(result: dict[str, Any]) -> None:
    """What else must be known about a run."""
    from mbrl_control.commands.show import missed_sentence  # noqa: PLC0415

    for sentence in sorted({sentence for run in result["runs"] for sentence in run["refused"]}):
        console.print(f"note: {sentence}", highlight=False, markup=False)
    for run in result["runs"]:
        name = f"{run['rate_hz']:g} Hz, cores {binding(run['pinned'])}"
        if (sentence := missed_sentence(run["cadence"])) is not None:
            console.print(f"{name}: {sentence}", highlight=False)
        if not run["planner"]["plans"]:
            console.print(f"note: {name}: the planner made no plan", highlight=False)
        if (swaps := run["swaps"]).get("offered_bad"):
            console.print(f"{name}: {swap_sentence(swaps)}", highlight=False)
        if run["trainer"]["ended_early"]:
            console.print(f"note: {name}: the trainer ended before the ticks did", highlight=False)
    if result["interrupted"]:
        console.print("interrupted: the figures are of what there is", highlight=False)


def machine(
    seconds: Annotated[float, typer.Option(min=1.0, help="of watching; Ctrl-C ends it with what was seen")] = 60.0,
    json_path: Json = None,
) -> None:
    """Watch how long this machine stands still by itself, with no stack running, and say which tick rates that leaves.

    A bare loop waits on every core; where all of them are late at once, the machine (its host, its firmware) stood still, and no program on
    it could have kept a tick. Run it while the machine does what it does beside the robot.
    """
    from dataclasses import asdict  # noqa: PLC0415

    from mbrl_control.stack import machine_bench, report  # noqa: PLC0415

    with console.status(f"watching for {seconds:g} s"):
        seen = machine_bench.measure(seconds)
    rates = machine_bench.rates(seen)
    if json_path is not None:
        report.save({"schema": 1, "command": f"mbrl bench machine --seconds {seconds:g}", "machine": report.machine(), **asdict(seen),
                     "rates": [{**asdict(rate), "held": rate.held} for rate in rates]}, json_path)
    console.print(machine_table(rates))
    console.print(machine_verdict(seen, rates), highlight=False, soft_wrap=True)


def machine_table(rates: list[Held]) -> Table:
    """Freezes against the period of ticks; at most 100 columns."""
    table = Table(width=78, title="the machine by itself: freezes against the period of ticks", title_justify="left")
    for name in ("Hz", "period ms", "longest freeze", "freezes that long", "held"):
        table.add_column(name, justify="right")
    for rate in rates:
        table.add_row(f"{rate.rate_hz:g}", f"{1e3 / rate.rate_hz:g}", f"{100 * rate.share:.0f} % of it", str(rate.freezes),
                      "yes" if rate.held else "no")
    return table


def machine_verdict(seen: Seen, rates: list[Held]) -> str:
    """What the table comes to, in a sentence or two."""
    stood = (f"stood still {seen.freezes} time{'s' * (seen.freezes > 1)}, {seen.max_ms:.1f} ms at the longest" if seen.freezes
             else f"never stood still for more than {seen.threshold_ms:g} ms")
    held = [f"{rate.rate_hz:g}" for rate in rates if rate.held]
    can = f"it held {', '.join(held)} Hz by itself" if held else f"it did not hold even {rates[0].rate_hz:g} Hz by itself"
    hint = "" if seen.priority else ("\nnote: these are hints only, as other processes may have caused them: allow real-time priority with "
                                     "'rtprio' in limits.conf")
    return f"in {seen.watched_s:.0f} s this machine {stood}: {can}{hint}"


def plan(robot_name: Robot = "cartpole", json_path: Json = None) -> None:
    """Time a robot's plans on this machine, by iterations; exit status 0 only if one iteration takes no longer than a period."""
    from dataclasses import asdict  # noqa: PLC0415

    from mbrl_control.part_checks import check_parts  # noqa: PLC0415
    from mbrl_control.runtime import plan_timer  # noqa: PLC0415
    from mbrl_control.stack import report  # noqa: PLC0415

    spec = robot.load(robot_name)
    check_parts(spec)
    fit = plan_timer.check(spec)
    rows = [] if fit.scaled else plan_timer.by_iterations(spec)
    if json_path is not None:
        times = [{"iterations": k, "plan_ms": report.quantiles(seconds, 1e3)} for k, seconds in rows]
        report.save({"schema": 1, "command": f"mbrl bench plan --robot {robot_name}", "robot": spec.name, "machine": report.machine(),
                     "fit": asdict(fit), "one_fits": fit.one_fits, "keeps_up": fit.keeps_up, "whole_fits": fit.whole_fits,
                     "plans": times}, json_path)
    if rows:
        console.print(plan_table(fit, rows))
    console.print(("" if fit.whole_fits else "warning: " if fit.keeps_up else "error: ") + fit.sentence(), highlight=False, markup=False)
    raise typer.Exit(0 if fit.keeps_up else 1)


def plan_table(fit: Fit, rows: list[tuple[int, list[float]]]) -> Table:
    """Times of plans by iterations."""
    from mbrl_control.stack.report import quantiles  # noqa: PLC0415

    table = Table(width=70, title=f"planner '{fit.kind}': plans of so many iterations", title_justify="left")
    for name in ("iterations", "median ms", "max ms", "of the time allowed"):
        table.add_column(name, justify="right")
    for iterations, seconds in rows:
        times = quantiles(seconds, 1e3)
        table.add_row(str(iterations), f"{times['p50']:.2f}", f"{times['max']:.2f}", f"{times['p50'] / fit.allowed_s / 10:.0f} %")
    return table


def add(app: typer.Typer) -> None:
    """Join the program."""
    bench = typer.Typer(help="What this machine can keep: ticks on time, plans within their period.", no_args_is_help=True,
                        rich_markup_mode=None)
    bench.command()(machine)
    bench.command()(cadence)
    bench.command()(plan)
    app.add_typer(bench, name="bench")
