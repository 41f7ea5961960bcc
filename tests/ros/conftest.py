"""Real nodes in real processes, each test in a ROS domain of its own; without rclpy these tests are skipped."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Generator, Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from mbrl_control import robot
from mbrl_control.stack.network import stay_local

try:
    import rclpy  # noqa: F401
except ImportError:
    collect_ignore_glob = ["test_*.py"]

DISCOVERY_S = 20.0
LOGS = pytest.StashKey[list[Path]]()


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    here = Path(__file__).parent
    for item in items:
        if here in item.path.parents:
            item.add_marker(pytest.mark.ros)


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item: pytest.Item) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    """With a failure comes what the nodes said; an error in a fixture would not show what is printed after it."""
    report = yield
    if report.failed:
        report.sections += [(log.name, log.read_text(errors="replace")) for log in item.stash.get(LOGS, [])]
    return report


@pytest.fixture
def domain() -> Iterator[int]:
    """A ROS domain that no other test on this machine uses now: a bound port is the claim."""
    for number in range(1, 100):
        claim = socket.socket()
        try:
            claim.bind(("127.0.0.1", 28_500 + number))
        except OSError:
            claim.close()
            continue
        yield number
        claim.close()
        return
    pytest.fail("no free ROS domain")


class Probe:
    """A node in the test's own process, and the wait for what it should see."""

    def __init__(self, domain: int) -> None:
        from rclpy.context import Context
        from rclpy.executors import SingleThreadedExecutor
        from rclpy.node import Node

        self.context = Context()
        self.context.init(domain_id=domain)
        self.node = Node("probe", context=self.context)
        self.executor = SingleThreadedExecutor(context=self.context)
        self.executor.add_node(self.node)

    def until(self, condition: Callable[[], Any], what: str, timeout_s: float = DISCOVERY_S) -> None:
        end = time.monotonic() + timeout_s
        while not condition():
            assert time.monotonic() < end, f"waited {timeout_s} s in vain for {what}"
            self.executor.spin_once(timeout_sec=0.02)

    def spin(self, seconds: float) -> None:
        end = time.monotonic() + seconds
        while time.monotonic() < end:
            self.executor.spin_once(timeout_sec=0.01)

    def listen(self, kind: type, topic: str, qos: Any = 100) -> list[Any]:
        messages: list[Any] = []
        self.node.create_subscription(kind, topic, messages.append, qos)
        return messages

    def call(self, kind: type, name: str, request: Any) -> Any:
        client = self.node.create_client(kind, name)
        self.until(client.service_is_ready, f"service {name}")
        future = client.call_async(request)
        self.until(future.done, f"answer of {name}")
        self.node.destroy_client(client)
        return future.result()

    def close(self) -> None:
        self.executor.shutdown()
        self.node.destroy_node()
        self.context.try_shutdown()


@pytest.fixture
def probe(domain: int) -> Iterator[Probe]:
    made = Probe(domain)
    yield made
    made.close()


class Running:
    """A node's process."""

    def __init__(self, module: str, domain: int, log: Path, arguments: list[str], env: dict[str, str]) -> None:
        from mbrl_control.runtime.process_link import child_environment

        own = {"ROS_DOMAIN_ID": str(domain), "OMP_NUM_THREADS": "1"}
        environment = stay_local(child_environment() | own | env)
        self.log = log
        with log.open("w") as out:
            command = [sys.executable, "-m", f"mbrl_control_ros.{module}", "--ros-args", *arguments]
            self.process = subprocess.Popen(command, env=environment, stdout=out, stderr=subprocess.STDOUT, cwd=log.parent)

    def end(self, how: int = signal.SIGINT, timeout_s: float = 15.0) -> int:
        self.process.send_signal(how)
        return self.process.wait(timeout_s)

    @property
    def output(self) -> str:
        return self.log.read_text()


@pytest.fixture
def light(tmp_path: Path) -> Path:
    """The cart-pole with a planner that keeps its rate on a machine with other work, where the shipped one is rightly refused."""
    data = yaml.safe_load(robot.shipped()["cartpole"].read_text())
    data["planner"] |= {"candidates": 32, "newton_rows": 0}
    path = tmp_path / "light.yaml"
    path.write_text(yaml.safe_dump(data))
    return path


@pytest.fixture
def start(domain: int, tmp_path: Path, request: pytest.FixtureRequest) -> Iterator[Callable[..., Running]]:
    """Start a node: `start("sim_node", "robot:=cartpole", ns="/arm")`."""
    running: list[Running] = []
    logs = request.node.stash[LOGS] = []

    def begin(module: str, *parameters: str, ns: str = "", extra: tuple[str, ...] = (), env: dict[str, str] | None = None) -> Running:
        arguments = [a for p in parameters for a in ("-p", p)] + (["-r", f"__ns:={ns}"] if ns else []) + list(extra)
        log = tmp_path / f"{module}_{len(running)}.log"
        logs.append(log)
        running.append(Running(module, domain, log, arguments, env or {}))
        return running[-1]

    yield begin
    for node in running:
        if node.process.poll() is None:
            node.process.kill()
            node.process.wait()


os.environ.update(stay_local(dict(os.environ)))  # for nodes in the tests' own process
