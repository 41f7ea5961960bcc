"""report.json: what a run came to, in keys that never change their meaning."""

from __future__ import annotations

import contextlib
import json
import math
import os
import platform
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from mbrl_control.planning.plan import Verdict
from mbrl_control.robot import RobotSpec
from mbrl_control.runtime import faults
from mbrl_control.runtime.faults import FAULTS, MEANINGS, Mode
from mbrl_control.runtime.layout import WINNERS
from mbrl_control.stack.run_log import PlanFigures, RunLog
from mbrl_control.stack.success import solved_at


def cpu_name() -> str:
    """The processor's name, as the system tells it, with family and model: virtual machines call processors of unlike speed by one name."""
    try:
        lines = Path("/proc/cpuinfo").read_text("utf-8").splitlines()
    except OSError:
        return platform.processor() or platform.machine()
    told = {key.strip(): value.strip() for key, _, value in (line.partition(":") for line in lines)}
    name = told.get("model name", platform.machine())
    return f"{name} (family {told['cpu family']}, model {told['model']})" if {"cpu family", "model"} <= told.keys() else name


def gpu_name() -> str | None:
    """The first NVIDIA GPU's name, as its driver tells it; None without one."""
    for file in sorted(Path("/proc/driver/nvidia/gpus").glob("*/information")):
        with contextlib.suppress(OSError):
            return next((line.split(":", 1)[1].strip() for line in file.read_text().splitlines() if line.startswith("Model:")), "NVIDIA")
    return None


def machine() -> dict[str, Any]:
    """Cores, processor and GPU."""
    return {"cores": os.cpu_count(), "cpu": cpu_name(), "gpu": gpu_name()}


def quantiles(values: list[float], scale: float = 1.0) -> dict[str, float]:
    """p50, p99 and max of some numbers; zeros for none."""
    array = scale * np.asarray([v for v in values if math.isfinite(v)], dtype=float)
    if not len(array):
        return {"p50": 0.0, "p99": 0.0, "max": 0.0}
    return {"p50": float(np.percentile(array, 50)), "p99": float(np.percentile(array, 99)), "max": float(array.max())}


def planner_part(spec: RobotSpec, plans: Sequence[PlanFigures], late: int, reused: int | None) -> dict[str, Any]:
    """The report's `planner`: `met`, `early_stop` and `fallback` count plans, `reused` plan periods without a new one (None: not known)."""
    p = spec.planner
    device = p.device if p.device != "auto" else "cuda" if gpu_name() else "cpu"
    wins, verdicts = Counter(plan.winner for plan in plans), Counter(plan.verdict for plan in plans)
    return {"kind": p.kind, "candidates": p.candidates, "horizon": p.horizon, "iterations": p.iterations, "device": device,
            "dtype": p.dtype, "plans": len(plans), "late": late, "met": verdicts[Verdict.MET],
            "early_stop": verdicts[Verdict.EARLY_STOP], "reused": reused, "fallback": verdicts[Verdict.FALLBACK],
            "latency_ms": quantiles([plan.latency_s for plan in plans], 1e3), "winners": {w: wins.get(w, 0) for w in WINNERS}}


def episode_parts(spec: RobotSpec, log: RunLog) -> list[dict[str, Any]]:
    """The report's `episodes`; a return is minus the sum of stage costs."""
    out = []
    for a, b in log.bounds():
        when = solved_at(spec, np.array(log.time[a:b]), np.array(log.state[a:b]))
        ticks = np.array(log.ticks[a:b])
        out.append({"start_s": log.time[a] if a < len(log.time) else 0.0, "experience_s": float(ticks.sum()) * spec.tick_s,
                    "return": -float(ticks @ np.array(log.cost[a:b])), "solved": when is not None, "solved_at_s": when})
    return out


def fault_parts(log: RunLog) -> list[dict[str, Any]]:
    """The report's `faults`: degraded and worse modes, then the faults behind them, each with its count of ticks and first time."""
    mode, number, ticks = np.array(log.mode), np.array(log.faults, np.int64), np.array(log.ticks)
    modes = ((m.name, MEANINGS[m], mode == m) for m in Mode if m >= Mode.DEGRADED)
    reasons = ((code, fault.action, (number & faults.mask([code])) > 0) for code, fault in FAULTS.items())
    return [{"code": code, "count": int(ticks[there].sum()), "first_s": log.time[int(there.argmax())], "action": action}
            for code, action, there in (*modes, *reasons) if there.any()]


def build(spec: RobotSpec, log: RunLog, *, command: str, seed: int, wall_s: float, cadence: dict[str, Any], late: int = 0,
          model: dict[str, Any] | None = None, extra: dict[str, Any] | None = None) -> dict[str, Any]:
    """The whole report of a run (schema 1)."""
    episodes = episode_parts(spec, log)
    first = next((e["solved_at_s"] for e in episodes if e["solved"]), None)
    published = [r for r in log.refits if r.version]
    return {
        "schema": 1, "command": command, "robot": spec.name, "seed": seed, "wall_s": wall_s, "machine": machine(), "cadence": cadence,
        "planner": planner_part(spec, log.plans, late, log.reused),
        "trainer": {"refits": len(log.refits), "published": len(published), "rejected": len(log.refits) - len(published),
                    "refit_s": quantiles([r.seconds for r in log.refits]), "transitions": log.refits[-1].transitions if log.refits else 0,
                    "gate": [[r.experience_s, r.score, r.version] for r in log.refits]},
        "swaps": {"accepted": len(log.swaps), "refused": log.refused, "rolled_back": log.rolled_back, "missed_ticks_during": 0},
        "episodes": episodes, "model": model or {}, "faults": fault_parts(log), "solved": first is not None,
        "solved_at_experience_s": first, **(extra or {}),
    }


def _plain(value: Any) -> Any:
    if isinstance(value, dict):
        return {str(k): _plain(v) for k, v in value.items()}
    if isinstance(value, (list, tuple)):
        return [_plain(v) for v in value]
    if isinstance(value, np.generic):
        value = value.item()
    return None if isinstance(value, float) and not math.isfinite(value) else value


def save(report: dict[str, Any], path: Path) -> None:
    """Write a report: whole or not at all; numbers that are not finite become null."""
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    temporary.write_text(json.dumps(_plain(report), indent=1) + "\n", "utf-8")
    temporary.replace(path)
