"""Run a function in a child process that may crash, hang or eat memory without harm: for parsers of files that somebody else wrote."""

from __future__ import annotations

import contextlib
import importlib
import json
import math
import os
import resource
import signal
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from typing import IO, Any

from mbrl_control.errors import UserError

MOST_OUTPUT = 16 << 20
_MEMORY, _REFUSED = "memory", "refused"


@dataclass(frozen=True)
class Caps:
    """What the child may use.

    Attributes:
        wall_s: time until it is killed, s; the processor time is limited to the same.
        memory_bytes: address space. A child that has loaded MuJoCo and numpy maps 0.13 GiB before it reads anything.
        work_s: processor time of the function itself, s, its module's import not counted. Unlike `wall_s` it is the same on a machine
            that is busy with other things, so it can be short.
    """

    wall_s: float = 10.0
    memory_bytes: int = 2 << 30
    work_s: float = 10.0


def call(function: Callable[..., Any], *arguments: Any, what: str, caps: Caps | None = None) -> Any:
    """Call a function of a module in a child process.

    Args:
        function: at the top level of an importable module; its module is imported in the child, so it should import little.
        arguments: JSON values; paths must be absolute, as the child works in an empty folder.
        what: the file or thing that is read, the start of every message.
        caps: time and memory of the child.

    Returns:
        What the function returned, as JSON brings it back (never pickle: the child is not trusted).

    Raises:
        UserError: the function raised, the child crashed, or it ran into one of its caps. The caller always survives.
    """
    limits = caps or Caps()
    request = {"module": function.__module__, "function": function.__qualname__, "arguments": arguments, "caps": asdict(limits)}
    with tempfile.TemporaryDirectory(prefix="mbrl-guarded-") as folder, tempfile.TemporaryFile() as out, tempfile.TemporaryFile() as err:
        with _child(folder, out, err) as child:
            try:
                child.communicate(json.dumps(request).encode(), timeout=limits.wall_s)
            except subprocess.TimeoutExpired:
                raise UserError(_too_long(what, limits)) from None
        return _outcome(child.returncode, _read(out), _read(err), what, limits)


@contextlib.contextmanager
def _child(folder: str, out: IO[bytes], err: IO[bytes]) -> Iterator[subprocess.Popen[bytes]]:
    """A Python with this one's modules in a process group of its own, killed at the end if it still runs."""
    paths = os.pathsep.join(os.path.abspath(p) for p in sys.path)
    # One thread of linear algebra, no windows: nothing of it is needed, and it costs 0.1 s.
    env = os.environ | {"PYTHONPATH": paths, "OPENBLAS_NUM_THREADS": "1", "MUJOCO_GL": "disable"}
    child = subprocess.Popen([sys.executable, "-P", "-m", "mbrl_control.guarded"], stdin=subprocess.PIPE, stdout=out, stderr=err, env=env,
                             cwd=folder, start_new_session=True)
    try:
        yield child
    finally:
        if child.poll() is None:
            os.killpg(child.pid, signal.SIGKILL)
            child.wait()


def _read(file: IO[bytes]) -> bytes:
    file.seek(0)
    return file.read(MOST_OUTPUT)


def _too_long(what: str, caps: Caps) -> str:
    return f"{what}: reading it took longer than the {caps.wall_s:g} s that are allowed; simplify the file"


def _outcome(status: int, out: bytes, err: bytes, what: str, caps: Caps) -> Any:
    if status == -signal.SIGPROF:
        raise UserError(f"{what}: reading it took more than the {caps.work_s:.2g} s of processor time that are allowed; simplify the file")
    if status in (-signal.SIGXCPU, -signal.SIGALRM):
        raise UserError(_too_long(what, caps))
    if status < 0:
        raise UserError(f"{what}: its parser crashed ({signal.Signals(-status).name}); the file is damaged or malicious, do not use it")
    last_words = " ".join(err[-2000:].decode("utf-8", "replace").split())[-300:]
    try:
        answer = json.loads(out)
        if status == 0:
            return answer["value"]
        kind, text = str(answer["kind"]), str(answer["text"])
    except (ValueError, TypeError, LookupError, RecursionError):
        raise UserError(f"{what}: its parser ended with status {status} and no answer ({last_words or 'no words'}); "
                        "the file is damaged or malicious, do not use it") from None
    if kind == _MEMORY:
        raise UserError(f"{what}: reading it takes more than the {caps.memory_bytes / 2**30:g} GiB of memory that are allowed; "
                        "simplify the file")
    raise UserError(f"{what}: {text}")


def _limit(caps: Caps) -> None:
    seconds = math.ceil(caps.wall_s)
    resource.setrlimit(resource.RLIMIT_AS, (caps.memory_bytes, caps.memory_bytes))
    resource.setrlimit(resource.RLIMIT_CPU, (seconds, seconds + 1))
    resource.setrlimit(resource.RLIMIT_FSIZE, (MOST_OUTPUT, MOST_OUTPUT))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    signal.alarm(seconds + 1)  # also when the parent was killed, and whatever is being waited for


def _serve() -> int:
    """The child: limits first, then the function."""
    request = json.load(sys.stdin)
    caps = Caps(**request["caps"])
    _limit(caps)
    answer_to = os.dup(1)
    os.dup2(2, 1)  # what a parser prints must not end up in the answer
    status, answer = 0, {}
    try:
        function = getattr(importlib.import_module(request["module"]), request["function"])
        signal.setitimer(signal.ITIMER_PROF, caps.work_s)
        answer = {"value": function(*request["arguments"])}
    except MemoryError:
        status, answer = 1, {"kind": _MEMORY, "text": ""}
    except Exception as error:  # whatever a parser raises is told by the parent in one sentence
        status, answer = 1, {"kind": _REFUSED, "text": " ".join(str(error).split())[:2000] or type(error).__name__}
    with open(answer_to, "wb") as file:
        file.write(json.dumps(answer).encode())
    return status


if __name__ == "__main__":
    # Without the interpreter's own end: a parser may have left memory in a state in which tidying up crashes.
    code = _serve()
    os._exit(code)
