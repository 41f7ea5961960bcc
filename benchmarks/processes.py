"""The processes of a running `mbrl demo`, as the system sees them: for the benchmarks that kill them and that watch them grow."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mbrl_control.process_name import RECORDS, STANDS_BY, called
from mbrl_control.runtime.process_link import child_environment
from mbrl_control.stack.network import stay_local

NODES = ("controller", "trainer", "recorder", "sim")


@dataclass(frozen=True)
class Seen:
    """A process: its id, its parent's, its role in the stack."""

    pid: int
    parent: int
    role: str


def _line(pid: int) -> tuple[int, str]:
    folder = Path(f"/proc/{pid}")
    state, parent = (folder / "stat").read_text().rsplit(")", 1)[1].split()[:2]
    words = (folder / "cmdline").read_text()
    if state == "Z" or not words:  # one that is just dying has no command line any more
        raise ProcessLookupError
    return int(parent), f"{words} {called(folder)}".replace("\0", " ")


def _role(words: str) -> str:
    if "planner_keeper" in words:
        return "keeper"
    if "recorder_standby" in words:
        return "recorder" if words.endswith(RECORDS) else "standby" if words.endswith(STANDS_BY) else "other"
    known = {**{f"{name}_node": name for name in NODES}, "runtime.freezes": "freezes"}
    return next((role for module, role in known.items() if module in words), "other")


def family(pid: int) -> list[Seen]:
    """A process that is `mbrl`, and all below it; a forked planner is told from its keeper by its parent."""
    seen: dict[int, tuple[int, str]] = {}
    for folder in Path("/proc").iterdir():
        if folder.name.isdigit():
            try:
                seen[int(folder.name)] = _line(int(folder.name))
            except (OSError, IndexError, ValueError):
                continue
    roles = {pid: "mbrl"} if pid in seen else {}
    for _ in range(4):
        for child, (parent, words) in seen.items():
            if parent in roles and child not in roles:
                role = _role(words)
                roles[child] = "planner" if role == "keeper" and roles[parent] == "keeper" else role
    return [Seen(child, seen[child][0], role) for child, role in roles.items()]


def alive(pid: int) -> bool:
    """Whether a process is there and no zombie."""
    try:
        return bool(_line(pid))
    except (OSError, IndexError, ValueError):
        return False


def wait(condition: Callable[[], Any], most_s: float, pause_s: float = 0.02) -> Any:
    """What a condition gives as soon as it is true, or at the end of the time."""
    end = time.monotonic() + most_s
    while not (found := condition()) and time.monotonic() < end:
        time.sleep(pause_s)
    return found


def start(robot: str, out: Path, duration_s: float, seed: int, domain: int) -> subprocess.Popen[bytes]:
    """`mbrl demo` in a ROS domain of its own; its output goes to `<out>.log`."""
    command = [sys.executable, "-m", "mbrl_control.cli", "demo", "--robot", robot, "--duration", f"{duration_s:g}", "--seed", str(seed),
               "--out", str(out)]
    environment = stay_local(child_environment()) | {"ROS_DOMAIN_ID": str(domain)}
    with open(f"{out}.log", "wb") as log:
        return subprocess.Popen(command, env=environment, stdin=subprocess.DEVNULL, stdout=log, stderr=subprocess.STDOUT,
                                start_new_session=True)


def signal_if_alive(process: subprocess.Popen[bytes], number: int) -> None:
    """A signal to a process that may have ended."""
    if process.poll() is None:
        os.kill(process.pid, number)
