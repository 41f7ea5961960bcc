"""Whether the clock that the stamps are of fits the robot: simulated time for a simulated robot, and at the speed of real time."""

from __future__ import annotations

from collections import deque

MOST_AGE_S = 0.5
LEAST_FACTOR = 0.9
SPAN_S = 1.0


def clock_fault(use_sim_time: bool, real: bool, clock_age_s: float, factor: float | None) -> str | None:
    """What is wrong with the clock in a sentence, or None.

    Args:
        use_sim_time: ROS time is that of `/clock`.
        real: the robot is a real one: its YAML has no `sim` section, or somebody said so.
        clock_age_s: since the last message on `/clock`.
        factor: seconds of simulated per second of real time over the last second; None while that is not known.
    """
    if not use_sim_time:
        return None
    if real:
        return "use_sim_time is set, but the robot is a real one; set use_sim_time:=false"
    if clock_age_s > MOST_AGE_S:
        return f"/clock has been silent for {clock_age_s:.2f} s, at most {MOST_AGE_S:g} s are allowed; look after the simulator"
    if factor is not None and factor < LEAST_FACTOR:
        return (f"simulated time passes at {factor:.2f} of real time, at least {LEAST_FACTOR:g} is needed; "
                "give the simulator more processor or a longer step")
    return None


class ClockWatch:
    """Feeds `clock_fault` from what arrives on `/clock`.

    Args:
        use_sim_time: ROS time is that of `/clock`.
        real: the robot is a real one.
        begin_s: from when silence counts, monotonic.
    """

    def __init__(self, use_sim_time: bool, real: bool, begin_s: float) -> None:
        self._use, self._real = use_sim_time, real
        self._heard_s = begin_s
        self._past: deque[tuple[float, float]] = deque(maxlen=4096)

    def heard(self, sim_s: float, now_s: float) -> None:
        """A message on `/clock`.

        Args:
            sim_s: its time, s.
            now_s: of its arrival, monotonic.
        """
        self._heard_s = now_s
        if self._past and sim_s < self._past[-1][1]:  # the simulation was set back: what was before says nothing
            self._past.clear()
        self._past.append((now_s, sim_s))
        while len(self._past) > 2 and now_s - self._past[1][0] >= SPAN_S:
            self._past.popleft()

    @property
    def factor(self) -> float | None:
        """Simulated per real time over the last second; None until there is one."""
        if not self._past or (span := self._past[-1][0] - self._past[0][0]) < SPAN_S:
            return None
        return (self._past[-1][1] - self._past[0][1]) / span

    def sentence(self, now_s: float) -> str | None:
        """See `clock_fault`."""
        return clock_fault(self._use, self._real, now_s - self._heard_s, self.factor)

    def faults(self, now_s: float) -> frozenset[str]:
        """`clock_wrong`, or none."""
        return frozenset({"clock_wrong"}) if self.sentence(now_s) else frozenset()
