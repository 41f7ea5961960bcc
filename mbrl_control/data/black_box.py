"""Black box: the last seconds before something went wrong, as a small run of its own that can be replayed."""

from __future__ import annotations

import json
import shutil
import threading
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from mbrl_control.data.mcap_bag import McapBag
from mbrl_control.errors import DataError

BOXES = "blackbox"
"""Folder of them in a run's."""


@dataclass(frozen=True)
class BlackBoxOptions:
    """What a box holds.

    Attributes:
        before_s: kept from before the trigger.
        after_s: waited for after it.
        most_bytes: of messages in memory; the oldest go first.
        most_boxes: per run; a robot that brakes again and again must not fill the disk.
        min_free_bytes: no box is written when less is free.
    """

    before_s: float = 30.0
    after_s: float = 2.0
    most_bytes: int = 64 << 20
    most_boxes: int = 20
    min_free_bytes: int = 200 << 20


@dataclass(frozen=True)
class _Message:
    topic: str
    type: str
    payload: bytes
    receive_ns: int
    publish_ns: int


class BlackBox:
    """Keeps messages in memory, and writes `<run>/blackbox/<number>-<reason>/` when triggered: a bag, `run.json` and `robot.yaml`.

    One thread calls `keep`, `trigger` and `poll`; writing has a thread of its own.

    Args:
        run_dir: of the run.
        options: see there.
        tell: called with a sentence when a box was written or could not be; from the writing thread.
    """

    def __init__(self, run_dir: Path, options: BlackBoxOptions | None = None, tell: Callable[[str], object] | None = None) -> None:
        self.run_dir, self.options = run_dir, options or BlackBoxOptions()
        self._tell = tell or (lambda _: None)
        self._kept: deque[_Message] = deque()
        self._bytes = 0
        self._trigger: tuple[str, int] | None = None
        self._writer: threading.Thread | None = None
        self._count = len(list((run_dir / BOXES).glob("*"))) if (run_dir / BOXES).exists() else 0

    def keep(self, topic: str, kind: str, payload: bytes, receive_ns: int, publish_ns: int = 0) -> None:
        """Take a message into memory; never waits."""
        self._kept.append(_Message(topic, kind, payload, receive_ns, publish_ns or receive_ns))
        self._bytes += len(payload)
        oldest = receive_ns - round(1e9 * (self.options.before_s + self.options.after_s))
        while self._kept and (self._kept[0].receive_ns < oldest or self._bytes > self.options.most_bytes):
            self._bytes -= len(self._kept.popleft().payload)

    def trigger(self, reason: str, now_ns: int) -> None:
        """Something went wrong: a box is written a moment later. While one is waited for or written, further triggers belong to it."""
        if self._trigger is None and not self._writing and self._count < self.options.most_boxes:
            self._trigger = reason, now_ns

    @property
    def _writing(self) -> bool:
        return self._writer is not None and self._writer.is_alive()

    def poll(self, now_ns: int, at_once: bool = False) -> None:
        """Write the box that is due, in a thread of its own; `at_once` does not wait for the moment after the trigger."""
        if self._trigger is None or (now_ns - self._trigger[1] < 1e9 * self.options.after_s and not at_once):
            return
        reason, when = self._trigger
        self._trigger = None
        self._count += 1
        first = when - round(1e9 * self.options.before_s)
        messages = [message for message in self._kept if message.receive_ns >= first]
        self._writer = threading.Thread(target=self._write, args=(self._count, reason, messages), name="blackbox")
        self._writer.start()

    def close(self, now_ns: int) -> None:
        """Write what was triggered and wait for it."""
        self.poll(now_ns, at_once=True)
        if self._writer is not None:
            self._writer.join()

    def _write(self, number: int, reason: str, messages: list[_Message]) -> None:
        folder = self.run_dir / BOXES / f"{number:03d}-{reason}"
        partial = folder.with_name(f".{folder.name}.tmp")
        try:
            if (free := shutil.disk_usage(self.run_dir).free) < self.options.min_free_bytes:
                self._tell(f"{folder}: no black box was written, only {free >> 20} MB are free on this disk")
                return
            shutil.rmtree(partial, ignore_errors=True)
            partial.mkdir(parents=True)
            self._fill(partial, messages)
            partial.rename(folder)
            self._tell(f"{folder}: the last {self.options.before_s:g} s before '{reason}'; look at them with: mbrl replay {folder}")
        except (OSError, DataError) as error:
            shutil.rmtree(partial, ignore_errors=True)
            self._tell(f"{folder}: no black box was written: {error}")

    def _fill(self, folder: Path, messages: list[_Message]) -> None:
        bag = McapBag(folder / "bag")
        for message in messages:
            bag.write(message.topic, message.type, message.payload, message.receive_ns, message.publish_ns)
        bag.close()
        for name in ("robot.yaml", "run.json"):
            if (self.run_dir / name).exists():
                shutil.copyfile(self.run_dir / name, folder / name)
        if (folder / "run.json").exists():  # the models that the plans were made with stay where they are
            facts = json.loads((folder / "run.json").read_text("utf-8"))
            facts["store"] = str(Path(facts.get("store") or self.run_dir / "store").absolute())
            (folder / "run.json").write_text(json.dumps(facts) + "\n", "utf-8")
