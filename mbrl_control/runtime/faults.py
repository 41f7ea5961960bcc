"""What can go wrong: each fault has a code, a severity, a sentence for people, and what to do about it."""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass
from enum import IntEnum


class Mode(IntEnum):
    """What the tick acts on; severity grows with the number."""

    INACTIVE = -1
    STANDBY = 0
    EXPLORE = 1
    ACTIVE = 2
    DEGRADED = 3
    BRAKE = 4
    HOLD = 5
    LATCHED = 6


@dataclass(frozen=True)
class Fault:
    """A kind of fault.

    Attributes:
        code: its name for machines.
        mode: the least mode while it is present; below DEGRADED it is only told.
        sentence: what happened.
        action: what the operator should do.
        latch_s: after so long without a break it latches, s.
        incident: it is no part of what was asked for, so that a black box is kept of it.
    """

    code: str
    mode: Mode
    sentence: str
    action: str
    latch_s: float = math.inf
    incident: bool = True


_ALL = (
    # Inputs
    Fault("state_old", Mode.DEGRADED, "the state is older than two periods", "check the rate and the load of the state's source"),
    Fault("state_stale", Mode.BRAKE, "the state is too old to act on", "check that the state topics are published and arrive in time"),
    Fault("state_lost", Mode.LATCHED, "no state has come for five times the time-out", "repair the state's source, then call ~/reset"),
    Fault("state_refused", Mode.BRAKE, "three states in a row were refused",
          "look at the reason of the refusal in /diagnostics; check the sensor and the bounds in the robot's YAML"),
    Fault("joints_wrong", Mode.DEGRADED, "a used joint is missing from the state, is there twice or has no value",
          "compare the joint names of the message with the robot's YAML, then call ~/reset", latch_s=0.1),
    Fault("stamps_future", Mode.BRAKE, "stamps of the state lie in the future",
          "synchronise the clocks of the state's source and of this machine"),
    Fault("stamps_disordered", Mode.DEGRADED, "more than a tenth of the states came twice or out of order",
          "check the network and the state's source"),
    Fault("second_publisher", Mode.BRAKE, "somebody else publishes on a command topic", "end the other node; only one may command a robot"),
    Fault("clock_wrong", Mode.BRAKE, "simulated time with a real robot, or the simulated clock stands still",
          "set use_sim_time as the robot needs it, and check /clock"),
    Fault("estop", Mode.LATCHED, "the emergency stop was pressed", "release it, look after the robot, then call ~/reset"),
    Fault("heartbeat_lost", Mode.LATCHED, "the operator's heartbeat has stopped", "bring the operator's station back, then call ~/reset"),
    # Plans and models
    Fault("plan_late", Mode.DEGRADED, "the newest plan is older than three plan periods: the planner is late or gone",
          "see logs/planner.log; give the planner fewer candidates or another core"),
    Fault("plan_over", Mode.BRAKE, "the newest plan has run out", "see logs/planner.log"),
    Fault("plan_invalid", Mode.DEGRADED, "no candidate of the newest plan has a finite cost", "look at the model's figures in the store"),
    Fault("planner_failing", Mode.LATCHED, "the planner's process ended three times within ten seconds",
          "see logs/planner.log, then call ~/reset"),
    Fault("model_doubtful", Mode.DEGRADED, "the plan leaves the data that the model knows, or its members disagree",
          "let the robot return to where it has been, or give it time to learn"),
    Fault("model_wrong", Mode.DEGRADED, "the model's one-step error is far above that of its validation",
          "it has given way to the one before if that was better; look at the data, and at what has changed on the robot"),
    # Commands
    Fault("command_unsafe", Mode.DEGRADED, "the command would have led to where no braking keeps the limits; the braking command was sent",
          "look at the limits and at the model in the robot's YAML"),
    Fault("no_response", Mode.BRAKE, "the robot does not follow its commands", "check the drives and their limits"),
    # Only told
    Fault("trainer_failing", Mode.ACTIVE, "the trainer's process keeps ending; there are no new models", "see logs/trainer.log"),
    Fault("recorder_stopped", Mode.ACTIVE, "the recorder's process ended; until it is back nothing is recorded",
          "see logs/recorder.log; make room on the disk"),
    Fault("trainer_ended", Mode.ACTIVE, "the trainer's process ended and is started again", "see logs/trainer.log"),
    Fault("trainer_silent", Mode.ACTIVE, "the trainer gave no sign of life, was ended and is started again",
          "see logs/trainer.log; give it more of a core"),
    Fault("trainer_memory", Mode.ACTIVE, "the trainer reached its cap of memory, ended and is started again",
          "raise `trainer.memory_mb` or lower `trainer.window_s` in the robot's YAML"),
    # Commands
    Fault("no_response_again", Mode.LATCHED, "the robot does not follow its commands, for the second time within a minute",
          "see what holds it, check the drives and their limits, then call ~/reset"),
    # Only told
    Fault("recorder_silent", Mode.ACTIVE, "the recorder gave no sign of life, was ended, and another records in its place",
          "see logs/recorder.log; look at the disk"),
    # Courses
    Fault("course_over", Mode.BRAKE, "the course is over", "nothing: the recording is complete if nothing else is told",
          incident=False),
    Fault("course_left", Mode.BRAKE, "the robot left where it may be, so that its course was broken off",
          "look at the limits and ranges in the robot's YAML, and whether its sim or nominal model is like it"),
)

FAULTS: dict[str, Fault] = {fault.code: fault for fault in _ALL}
"""By code. Logs name faults by their place here: new ones go to the end."""

_BITS = {code: 1 << place for place, code in enumerate(FAULTS)}

MEANINGS = {
    Mode.INACTIVE: "not active: nothing is sent",
    Mode.STANDBY: "no state has arrived yet: check that the state topics are published and that their names match",
    Mode.EXPLORE: "a course, or smooth random excitation: there is no model yet, or plans failed to bring the robot back into its range",
    Mode.ACTIVE: "following the newest plan",
    Mode.DEGRADED: "following the newest plan, with a fault",
    Mode.BRAKE: "safe action",
    Mode.HOLD: "safe action, until everything has been sound for a second",
    Mode.LATCHED: "safe action, until an operator calls ~/reset",
}


def mask(codes: Iterable[str]) -> int:
    """Codes as a number for logs."""
    return sum(_BITS[code] for code in set(codes))


def codes(number: int) -> tuple[str, ...]:
    """The codes in such a number; bits that are not known are left out."""
    return tuple(code for code, bit in _BITS.items() if number & bit)
