"""The last commands before control ends: from the last one to rest, within the rates."""

from __future__ import annotations

import math
from collections.abc import Iterator

import numpy as np

from mbrl_control.robot import RobotSpec
from mbrl_control.runtime.safe_policy import SafePolicy
from mbrl_control.runtime.safety import safe_command


def wind_down(spec: RobotSpec, last: np.ndarray, most_s: float = 3.0) -> Iterator[np.ndarray]:
    """Commands to send one a tick before control ends, because many robots obey the last one for ever.

    Axes that `hold`, and positions that `brake`, rest at their last command; all others at `zero`: a brake or a policy needs states,
    and nobody will look at them any more.

    Args:
        spec: the robot.
        last: [A] the last command.
        most_s: after so long the resting command is sent at once: better a jump than a robot left moving.

    Yields:
        [A]; the last one is the resting command.
    """
    policy = SafePolicy.of(spec)
    rest = policy.rest + policy.keep * last
    for _ in range(math.ceil(most_s * spec.rate_hz) - 1):
        last, _ = safe_command(spec, policy.command(None, last, spec.tick_s), last, spec.tick_s)
        if np.allclose(last, rest, rtol=0.0, atol=1e-12):
            break
        yield last
    yield rest.copy()
