"""ModelStore: a folder in which the trainer publishes snapshots and the planner finds the newest."""

from __future__ import annotations

import contextlib
import os
import re
import shutil
from collections.abc import Collection
from dataclasses import replace
from pathlib import Path

from mbrl_control.errors import SnapshotError
from mbrl_control.store import snapshot as snapshots
from mbrl_control.store.snapshot import Snapshot

ASIDE = "refused-"
REASON = "reason.txt"
ROLLED_BACK = "rolled back"
"""How the reason for refusing a snapshot begins that was in use."""

_PUBLISHED = re.compile("v([0-9]{6}|[1-9][0-9]{6,14})")


class ModelStore:
    """Numbered snapshots in a folder; refused ones are kept aside with the reason.

    Args:
        folder: made when missing.
        keep: newest snapshots kept, and as many refused ones; older ones are deleted at publication.
    """

    def __init__(self, folder: Path, keep: int = 1000) -> None:
        self.folder, self.keep = folder, keep
        folder.mkdir(parents=True, exist_ok=True)

    def path(self, version: int) -> Path:
        """Where a version lies."""
        return self.folder / f"v{version:06d}"

    def versions(self) -> list[int]:
        """Published versions, oldest first."""
        return self._numbers("")

    def _numbers(self, prefix: str) -> list[int]:
        # A planner asks before each plan: by `Path.glob` a thousand names took it 1.5 ms.
        names = (name.removeprefix(prefix) for name in os.listdir(self.folder) if name.startswith(prefix))
        return sorted(int(found[1]) for name in names if (found := _PUBLISHED.fullmatch(name)))

    def next_version(self) -> int:
        """The number of the next snapshot, never one that was refused before."""
        return max([*self.versions(), *self._numbers(ASIDE)], default=0) + 1

    def newest(self, without: Collection[int] = ()) -> int:
        """Newest version that is not one of `without`; 0 when there is none."""
        return max((version for version in self.versions() if version not in without), default=0)

    def refused(self) -> dict[int, str]:
        """The reason for each version that was refused; empty where it could not be written down."""
        out = {}
        for version in self._numbers(ASIDE):
            out[version] = ""
            with contextlib.suppress(OSError):
                out[version] = (self._aside(version) / REASON).read_text("utf-8", "replace").strip()
        return out

    def publish(self, snapshot: Snapshot) -> Snapshot:
        """Write a snapshot under the next number (never one that was refused before) and return it with that number."""
        numbered = replace(snapshot, version=self.next_version())
        snapshots.write(self.path(numbered.version), numbered)
        for old in self.versions()[: -self.keep]:
            with contextlib.suppress(FileNotFoundError):  # it was refused meanwhile
                self.path(old).rename(self.folder / f".v{old:06d}.old.tmp")  # so that nobody finds half of it
        for old in self._numbers(ASIDE)[: -self.keep]:
            shutil.rmtree(self._aside(old), ignore_errors=True)
        for leftover in self.folder.glob(".v*.tmp"):  # also of a publisher that was killed; there is never more than one
            shutil.rmtree(leftover, ignore_errors=True)
        return numbered

    def read(self, version: int, spec_hash: str | None = None, even_refused: bool = False) -> Snapshot:
        """A verified snapshot.

        Args:
            version: its number.
            spec_hash: the robot's; None accepts any robot.
            even_refused: also one that was refused since, to look at what it did.

        Raises:
            SnapshotError: see `mbrl_control.store.snapshot.read`; also when the number in the manifest is another.
        """
        path = self.path(version)
        if even_refused and not path.exists():
            path = self._aside(version)
        found = snapshots.read(path, spec_hash)
        if found.version != version:
            raise SnapshotError(f"{path}: the manifest says version {found.version}; the folder was renamed or copied")
        return found

    def refuse(self, version: int, reason: str) -> None:
        """Take a version out of use; kept as `refused-v…` with the reason. Where that cannot be (a disk that is full, a folder that is
        read-only) it stays: whoever refuses must remember it."""
        aside = self._aside(version)
        with contextlib.suppress(OSError):
            self.path(version).rename(aside)
            (aside / REASON).write_text(reason + "\n", "utf-8")

    def _aside(self, version: int) -> Path:
        return self.folder / f"{ASIDE}v{version:06d}"
