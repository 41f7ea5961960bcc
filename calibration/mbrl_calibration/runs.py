"""Runs: logs of a robot as arrays, with what its sensors say the commands came to."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from mbrl_control.data.episodes import Episode
from mbrl_control.data.loading import load_episodes
from mbrl_control.data.sequences import unwrap
from mbrl_control.errors import DataError
from mbrl_control.robot import RobotSpec


@dataclass(frozen=True)
class Run:
    """A stretch of a log without a gap.

    Attributes:
        name: where it came from.
        time: [T] s, strictly increasing.
        state: [T, S] as measured, SI units, wrapping angles made continuous.
        command: [T, A] as sent, each in force from `time[t]` until `time[t + 1]` (delays not removed).
        measured: [T, A] what sensors say that the commands came to; nan where a command has none.
        notes: what was lost or rejected in reading.
    """

    name: str
    time: np.ndarray
    state: np.ndarray
    command: np.ndarray
    measured: np.ndarray
    notes: tuple[str, ...] = ()

    @property
    def duration(self) -> float:
        """Seconds from the first to the last sample."""
        return float(self.time[-1] - self.time[0])

    @property
    def period(self) -> float:
        """Median time between samples, s."""
        return float(np.median(np.diff(self.time)))

    def cut(self, begin_s: float, end_s: float) -> Run:
        """The samples from `begin_s` to `end_s` after the first one."""
        since = self.time - self.time[0]
        keep = (since >= begin_s) & (since <= end_s)
        return Run(self.name, self.time[keep], self.state[keep], self.command[keep], self.measured[keep], self.notes)


def with_sensors(spec: RobotSpec) -> RobotSpec:
    """The robot with the sensors of its commands (`nominal.measured`) at the end of its state."""
    sensors = spec.nominal.measured if spec.nominal else []
    if not sensors:
        return spec
    given = spec.model_dump(exclude_unset=True, exclude={"nominal"})
    extra = [s.model_dump(exclude_unset=True, exclude={"of"}) for s in sensors]
    return RobotSpec.model_validate({**given, "state": [*given["state"], *extra]})


def of_episode(episode: Episode, spec: RobotSpec) -> Run:
    """The run of an episode that was read with `with_sensors(spec)`."""
    measured = np.full(episode.action.shape, np.nan)
    for column, sensor in enumerate(spec.nominal.measured if spec.nominal else []):
        measured[:, spec.command_names.index(sensor.of)] = episode.state[:, spec.state_dim + column]
    return Run(episode.name, episode.time, unwrap(episode.state[:, : spec.state_dim], spec.wraps), episode.action, measured, episode.notes)


def within_range(run: Run, spec: RobotSpec) -> list[Run]:
    """The stretches of a run inside the states' ranges: what happens outside (a cart at its stop) follows other laws."""
    inside = ((run.state >= spec.range_low) & (run.state <= spec.range_high)).all(axis=1)
    if inside.all():
        return [run]
    edges = np.flatnonzero(np.diff(np.concatenate(([0], inside.astype(int), [0]))))
    pieces = [slice(a, b) for a, b in zip(edges[::2], edges[1::2], strict=True) if b - a > 1]
    return [replace(run, name=f"{run.name} [{i + 1}]", time=run.time[p], state=run.state[p], command=run.command[p],
                    measured=run.measured[p]) for i, p in enumerate(pieces)]


def load(paths: Sequence[str | Path], spec: RobotSpec, shortest_s: float = 1.0) -> list[Run]:
    """Read logs of a robot.

    Args:
        paths: CSV files, bags, or folders of them.
        spec: the robot; `nominal.measured` tells of sensors beyond its state.
        shortest_s: stretches between gaps that are shorter are left out.

    Returns:
        A run for each stretch without a gap, inside the states' ranges.

    Raises:
        DataError: a log cannot be read, or no stretch is long enough.
    """
    runs = [of_episode(e, spec) for e in load_episodes(paths, with_sensors(spec))]
    if len({r.name for r in runs}) < len(runs):
        runs = [replace(r, name=f"{r.name} ({i + 1})") for i, r in enumerate(runs)]
    pieces = [piece for r in runs for piece in within_range(r, spec)]
    long = [r for r in pieces if r.duration >= shortest_s]
    if not long and pieces != runs and runs:
        raise DataError(f"{', '.join(map(str, paths))}: no {shortest_s:g} s within the states' `range`; record there or widen it")
    if not long:
        raise DataError(f"{', '.join(map(str, paths))}: no stretch of {shortest_s:g} s without a gap (the longest has "
                        f"{max((r.duration for r in runs), default=0.0):.3g} s); record longer, or look at what the log is missing")
    return long
