"""What commands print at their end."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table


def _number(value: Any, unit: str = "", digits: int = 1) -> str:
    return "–" if value is None else f"{value:.{digits}f}{unit}"


def missed_sentence(cadence: dict[str, Any]) -> str | None:
    """Whether the machine itself missed the ticks that were missed; None when none were, or nothing is known of the machine."""
    missed, machine = cadence["missed"], cadence.get("machine")
    if not missed or machine is None or machine["missed_in_freezes"] is None:
        return None
    its = machine["missed_in_freezes"]
    longest = f"longest freeze {machine['max_ms']:.0f} ms" if machine["freezes"] else "it did not freeze"
    doubt = "" if machine["priority"] else "; a hint only: no real-time priority"
    return (f"{missed} missed tick{'s' * (missed > 1)}, {its or 'none'} of {'them' if missed > 1 else 'it'} "
            f"while the machine itself stood still ({longest}{doubt})")


def summary(report: dict[str, Any], run_dir: Path, console: Console) -> None:
    """Print the end of a run: solved or not, cadence, plans, refits, where things are. At most 100 columns."""
    table = Table(show_header=False, width=98)
    table.add_column(style="bold", width=14)
    table.add_column(overflow="fold")
    when = report["solved_at_experience_s"]
    table.add_row("solved", f"yes, held after {when:.1f} s" if report["solved"] else "no")
    cadence = report["cadence"]
    late = cadence.get("lateness_us")
    if late:
        table.add_row("ticks", f"{cadence['ticks']} at {cadence['rate_hz']:g} Hz, {cadence['missed']} missed; "
                               f"lateness p50 {late['p50']:.0f} µs, p99 {late['p99']:.0f} µs, max {late['max']:.0f} µs")
    else:
        table.add_row("ticks", f"{cadence['ticks']} on a virtual clock")
    planner, trainer = report["planner"], report["trainer"]
    reused = "unknown" if planner["reused"] is None else planner["reused"]
    latency = planner["latency_ms"]
    table.add_row("plans", f"{planner['plans']} by {planner['kind']}, latency p50 {latency['p50']:.1f} ms, p99 {latency['p99']:.1f} ms, "
                           f"max {latency['max']:.1f} ms; "
                           f"{planner['early_stop']} stopped early, {planner['fallback']} fell back, {reused} periods without a new one")
    table.add_row("refits", f"{trainer['refits']}, {trainer['published']} published, {trainer['rejected']} refused; "
                            f"p50 {trainer['refit_s']['p50']:.2f} s, max {trainer['refit_s']['max']:.2f} s")
    for fault in report["faults"]:
        table.add_row("fault", f"{fault['code']}: {fault['count']} times, first at {fault['first_s']:.1f} s ({fault['action']})")
    for name, words in (report.get("ended_early") or {}).items():
        table.add_row("ended early", f"{name}: {words}")
    table.add_row("wall time", _number(report["wall_s"], " s"))
    table.add_row("left in", str(run_dir))
    console.print(table)
    if (sentence := missed_sentence(cadence)) is not None:
        console.print(sentence, highlight=False, soft_wrap=True)
