"""How large the files of a recording become, and how much of it is kept."""

from __future__ import annotations

from dataclasses import dataclass

from mbrl_control.errors import UserError

PART_MB = 128


@dataclass(frozen=True)
class Sizes:
    """How large a bag's files become.

    Attributes:
        chunk_bytes: a chunk is closed when it reaches this size, or by a flush.
        part_bytes: about; the next file is begun then. A file's index is held in memory until it is finished.
        keep_bytes: the oldest files are dropped when all together have more; 0: none ever is.
    """

    chunk_bytes: int = 256 << 10
    part_bytes: int = PART_MB << 20
    keep_bytes: int = 0


def sizes(keep_mb: int, part_mb: int = PART_MB) -> Sizes:
    """Sizes as a person gives them.

    Args:
        keep_mb: the oldest files are dropped beyond it, MB; 0: none ever is.
        part_mb: size at which the next file is begun, MB.

    Raises:
        UserError: fewer than two files would be kept: who follows the bag could lose one that it has not read.
    """
    if 0 < keep_mb < 2 * part_mb:
        raise UserError(f"keep_mb = {keep_mb} must be 0, which keeps everything, or at least {2 * part_mb}: "
                        f"files of {part_mb} MB are dropped as a whole")
    return Sizes(part_bytes=part_mb << 20, keep_bytes=keep_mb << 20)
