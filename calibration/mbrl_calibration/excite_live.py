"""Plays a course on a robot, or on its simulated twin, over ROS 2 topics in real time, and records it."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from mbrl_calibration.playing import STOPPING_S
from mbrl_control import robot
from mbrl_control.errors import UserError
from mbrl_control.runtime import course
from mbrl_control.runtime.faults import FAULTS, Mode, codes
from mbrl_control.stack import live_run
from mbrl_control.stack.live_run import LiveSettings
from mbrl_control.stack.run_log import RunLog

ENDS = course.OVER | course.LEFT


def play_live(settings: LiveSettings, command: str, progress: Callable[[int, int], None], tell: Callable[[str], None]) -> dict[str, Any]:
    """Play a course to its end, or until it is broken off, and for a second more; a run's files are left as by any other run.

    Args:
        settings: with the course.
        command: how the report names the run.
        progress: called with the ticks recorded and those there will be.
        tell: called with a sentence for each thing that happens to a helper.

    Returns:
        Of what was played: `ticks`, `missed`, and `stopped`: why it was broken off, None when it was not.

    Raises:
        UserError: something is missing, or a process ended by itself.
    """
    assert settings.course is not None
    prepared = live_run.prepare(settings)
    spec = robot.load(settings.robot)
    total, after = len(course.read(settings.course, spec)[0].command), round(STOPPING_S * spec.rate_hz)

    def watch(log: RunLog) -> bool:
        progress(len(log.time), total + after)
        return len(log.faults) > after and bool(ENDS & set(codes(log.faults[-after - 1])))

    said = live_run.run(settings, command, watch, prepared, tell)
    if said.get("ended_early"):
        raise UserError(f"a process of the run ended by itself: {said['ended_early']}; what was recorded is in {settings.run_dir}")
    return {"ticks": said["cadence"]["ticks"], "missed": said["cadence"]["missed"], "stopped": _stopped(said)}


def _stopped(said: dict[str, Any]) -> str | None:
    """Why a course was broken off, of a run's report; None where it was played to its end."""
    severe = [fault for fault in said["faults"] if fault["code"] in FAULTS and FAULTS[fault["code"]].mode >= Mode.BRAKE]
    others = sorted((fault for fault in severe if fault["code"] != "course_over"), key=lambda fault: fault["first_s"])
    if others:
        first = others[0]
        return f"broken off at {first['first_s']:.2f} s: {FAULTS[first['code']].sentence} ({first['code']})"
    return None if severe else "ended before the course was over"
