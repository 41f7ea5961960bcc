"""The live table of a run: state, cost, plan latency, model version, refits, missed ticks."""

from __future__ import annotations

import numpy as np
from rich.table import Table

from mbrl_control.robot import RobotSpec, wrap_angle
from mbrl_control.runtime import faults
from mbrl_control.runtime.faults import Mode
from mbrl_control.stack.run_log import RunLog
from mbrl_control.stack.success import holds


def table(spec: RobotSpec, log: RunLog, duration_s: float, missed: int | None = None) -> Table:
    """What to show now; at most 100 columns wide.

    Args:
        spec: the robot.
        log: so far.
        duration_s: of the whole run, for the progress.
        missed: missed ticks; None where there is no real time.
    """
    out = Table(title=f"{spec.name}: {spec.title}"[:96], width=98, show_header=False, title_justify="left")
    out.add_column(style="bold", width=14)
    out.add_column()
    if not log.time:
        out.add_row("waiting", "for the first tick")
        return out
    now = log.time[-1]
    done = min(1.0, now / duration_s) if duration_s else 0.0
    out.add_row("time", f"{now:6.1f} s of {duration_s:g} s  [{'#' * round(30 * done):<30}]")
    state = np.where(spec.wraps, wrap_angle(log.state[-1]), log.state[-1])
    out.add_row("state", "  ".join(f"{n} {v:+.2f}" for n, v in list(zip(spec.state_names, state, strict=True))[:6]))
    out.add_row("command", "  ".join(f"{n} {v:+.2f}" for n, v in list(zip(spec.command_names, log.command[-1], strict=True))[:6]))
    recent = log.cost[-max(1, round(spec.rate_hz)):]
    goal = "within the goal" if holds(spec, np.asarray(log.state[-1])) else ""
    out.add_row("cost", f"{np.mean(recent):.3f} (mean of the last second)  {goal}" if len(recent) else "")
    out.add_row("mode", "  ".join([Mode(log.mode[-1]).name, *faults.codes(log.faults[-1])]))
    latency = [1e3 * p.latency_s for p in log.plans[-100:]]
    out.add_row("plans", f"{len(log.plans)}, latency p50 {np.median(latency):.1f} ms, max {max(latency):.1f} ms" if latency else "none yet")
    published = sum(bool(r.version) for r in log.refits)
    last = f", last took {log.refits[-1].seconds:.2f} s" if log.refits else ""
    out.add_row("model", f"version {log.version[-1]}, {len(log.refits)} refits, {published} published{last}")
    if missed is not None:
        out.add_row("missed ticks", str(missed))
    return out
