"""Tail: what was added to a bag that is still being written; and the episodes that grow from it."""

from __future__ import annotations

from pathlib import Path
from typing import NamedTuple

from mbrl_control.data.mcap_records import McapScanner
from mbrl_control.errors import DataError

_AT_ONCE = 64 << 20


class TailMessage(NamedTuple):
    """A message as recorded: topic, type, times in ns, CDR bytes."""

    topic: str
    type: str
    log_time_ns: int
    publish_ns: int
    payload: bytes


class McapTail:
    """Follows an MCAP file while a recorder writes it. Reads whole records only; a partly written last one is waited for.

    Args:
        path: the file, or the folder that the recorder makes; need not exist yet.
        topics: names to return (matched at the end of the recorded name); None: all.
    """

    def __init__(self, path: str | Path, topics: list[str] | None = None) -> None:
        self.path = Path(path)
        self.offset = 0
        ends = None if topics is None else tuple("/" + t.lstrip("/") for t in topics)
        self._scanner = McapScanner(lambda name: ends is None or ("/" + name.lstrip("/")).endswith(ends))

    @property
    def finished(self) -> bool:
        """The recorder closed the file and everything was read."""
        return self._scanner.finished

    def read(self) -> list[TailMessage]:
        """The messages that came since the last call, in file order; empty when nothing did.

        Raises:
            DataError: what is written there is not sound.
        """
        if self._scanner.finished:
            return []
        path = self.path
        if path.is_dir():
            path = path / f"{path.name}_0.mcap"
        try:
            with path.open("rb") as file:
                file.seek(self.offset)
                while True:
                    want = max(_AT_ONCE, self._scanner.missing)
                    data = file.read(want)
                    used = self._scanner.feed(data)
                    if self._scanner.fault:
                        if self._scanner.messages:  # hand over what is sound; the next call finds the fault again
                            break
                        raise DataError(f"{path}: damaged after byte {self.offset}: {self._scanner.fault}; stop and recover it")
                    self.offset += used
                    if len(data) < want or self._scanner.finished:
                        break
                    file.seek(self.offset)
        except FileNotFoundError:
            return []
        except OSError as error:
            raise DataError(f"{path}: cannot be read: {error.strerror}") from error
        channels, fresh = self._scanner.channels, self._scanner.messages
        self._scanner.messages = []
        return [TailMessage(channels[c].topic, channels[c].type, log, publish, payload) for c, log, publish, payload in fresh]
