"""ModelStore: a folder in which the trainer publishes snapshots and the planner finds the newest."""

from __future__ import annotations

import shutil
from dataclasses import replace
from pathlib import Path

from mbrl_control.errors import SnapshotError
from mbrl_control.store import snapshot as snapshots
from mbrl_control.store.snapshot import Snapshot


class ModelStore:
    """Numbered snapshots in a folder; refused ones are kept aside with the reason.

    Args:
        folder: made when missing.
        keep: newest snapshots kept; older ones are deleted at publication.
    """

    def __init__(self, folder: Path, keep: int = 1000) -> None:
        self.folder, self.keep = folder, keep
        folder.mkdir(parents=True, exist_ok=True)

    def path(self, version: int) -> Path:
        """Where a version lies."""
        return self.folder / f"v{version:06d}"

    def versions(self) -> list[int]:
        """Published versions, oldest first."""
        return sorted(int(p.name[1:]) for p in self.folder.glob("v[0-9]*") if p.name[1:].isdigit())

    def newest(self) -> int:
        """Newest version; 0 when there is none."""
        return max(self.versions(), default=0)

    def publish(self, snapshot: Snapshot) -> Snapshot:
        """Write a snapshot under the next number (never one that was refused before) and return it with that number."""
        used = [int(p.name.rsplit("v", 1)[1]) for p in self.folder.glob("*v[0-9]*") if p.name.rsplit("v", 1)[1].isdigit()]
        numbered = replace(snapshot, version=max(used, default=0) + 1)
        snapshots.write(self.path(numbered.version), numbered)
        for old in self.versions()[: -self.keep]:
            self.path(old).rename(self.folder / f".v{old:06d}.old.tmp")  # so that nobody finds half of it
        for leftover in self.folder.glob(".v*.tmp"):  # also of a publisher that was killed; there is never more than one
            shutil.rmtree(leftover, ignore_errors=True)
        return numbered

    def read(self, version: int, spec_hash: str | None = None) -> Snapshot:
        """A verified snapshot.

        Raises:
            SnapshotError: see `mbrl_control.store.snapshot.read`; also when the number in the manifest is another.
        """
        found = snapshots.read(self.path(version), spec_hash)
        if found.version != version:
            raise SnapshotError(f"{self.path(version)}: the manifest says version {found.version}; the folder was renamed or copied")
        return found

    def refuse(self, version: int, reason: str) -> None:
        """Take a version out of use; kept as `refused-v…` with the reason."""
        target = self.folder / f"refused-v{version:06d}"
        try:
            self.path(version).rename(target)
            (target / "reason.txt").write_text(reason + "\n", "utf-8")
        except FileNotFoundError:
            pass
