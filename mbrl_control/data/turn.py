"""Whose turn it is to record or learn in a run's folder: one process at a time, the next once that is gone, by kill -9 too."""

from __future__ import annotations

import fcntl
import os
from pathlib import Path

from mbrl_control.errors import DataError


class Turn:
    """A lock on the folder itself: the system gives it up with the process that holds it, and leaves no file behind.

    Args:
        folder: of the run; made when missing.

    Raises:
        DataError: the folder cannot be made or opened.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        try:
            folder.mkdir(parents=True, exist_ok=True)
            self._handle = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
        except OSError as error:
            raise DataError(f"{folder}: cannot be made or opened: {error.strerror}; give a folder that can be written to") from error

    def take(self) -> bool:
        """Take the turn if nobody has it; it is then kept until `close`, or to the end of this process. Never waits.

        Returns:
            Whether it is this process's turn.

        Raises:
            DataError: the folder's file system has no locks.
        """
        try:
            fcntl.flock(self._handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return False
        except OSError as error:
            raise DataError(f"{self.folder}: cannot be locked: {error.strerror}; without locks two processes could write there at once, "
                            "name a folder on a disk of this machine") from error
        return True

    def close(self) -> None:
        """Leave the turn to others."""
        os.close(self._handle)
