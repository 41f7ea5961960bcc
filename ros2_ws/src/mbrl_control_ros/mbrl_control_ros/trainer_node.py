"""Trainer node: reads its parameters like any node, then leaves ROS and runs the trainer, so that no DDS thread runs beside it."""

from __future__ import annotations

import signal
from dataclasses import dataclass
from pathlib import Path

from rclpy.node import Node

from mbrl_control import robot
from mbrl_control.lifeline import follow_parent
from mbrl_control.robot import RobotSpec
from mbrl_control_ros import parameters
from mbrl_control_ros.process import Stop, run


@dataclass(frozen=True)
class Job:
    """What the trainer is told."""

    spec: RobotSpec
    run_dir: Path
    store_dir: Path
    seed: int


def read_job() -> Job:
    """The job, from this node's parameters."""
    node = Node("trainer")
    try:
        spec = robot.load(parameters.text(node, "robot", "shipped robot or path of a robot YAML"))
        run_dir = Path(parameters.text(node, "run_dir", "folder of this run"))
        store = parameters.text(node, "store_dir", "folder of model snapshots; by default 'store' in run_dir", default="")
        return Job(spec, run_dir, Path(store) if store else run_dir / "store", parameters.integer(node, "seed", 0, "seed of the fits"))
    finally:
        node.destroy_node()


def main(args: list[str] | None = None) -> None:
    """Entry point."""
    jobs: list[Job] = []

    def body(_: Stop) -> None:
        jobs.append(read_job())

    run(body, args)
    from mbrl_control.training import worker  # noqa: PLC0415  (torch is loaded only once ROS is left)

    follow_parent(signal.SIGKILL)  # a fit is not waited for when nobody is left to use it
    job = jobs[0]
    worker.run(job.spec, job.run_dir, job.store_dir, seed=job.seed)


if __name__ == "__main__":
    main()
