"""Compressed data of somebody else: unpacked piece by piece, and refused where it becomes far more than it is."""

from __future__ import annotations

import bz2
from collections.abc import Callable
from dataclasses import dataclass
from typing import BinaryIO

import lz4.frame
import zstandard

from mbrl_control.errors import DataError

MAX_EXPANSION, FREE_EXPANSION = 100, 64 << 20
_PIECE = 1 << 20


class ExpansionError(DataError):
    """Data that unpack to far more than they are."""


@dataclass
class Expansion:
    """Counts what was unpacked of a file: at most `MAX_EXPANSION` times its packed bytes, once that is over `FREE_EXPANSION` bytes.

    Attributes:
        packed: bytes taken in so far.
        unpacked: bytes that came of them.
    """

    packed: int = 0
    unpacked: int = 0

    def left(self) -> int:
        """Bytes that may still come."""
        return max(FREE_EXPANSION, MAX_EXPANSION * self.packed) - self.unpacked

    def add(self, packed: int, unpacked: int) -> None:
        """Count a piece, before it is unpacked or as it comes.

        Args:
            packed: bytes that it has, 0 for more of the same piece.
            unpacked: bytes that it becomes.

        Raises:
            ExpansionError: it is too much.
        """
        self.packed += packed
        if unpacked > self.left():
            raise ExpansionError(f"its data unpack to more than {MAX_EXPANSION} times their size ({self.packed} bytes to over "
                            f"{self.unpacked + self.left()}); if the file is sound, decompress it with the tool that wrote it")
        self.unpacked += unpacked

    def unzstd(self, packed: bytes) -> bytes:
        """One zstd frame.

        Raises:
            ExpansionError: it is too much.
            zstandard.ZstdError: it is no zstd frame.
        """
        size = zstandard.frame_content_size(packed)
        if size < 0:  # its writer did not know; nobody can tell before it is unpacked
            self.packed += len(packed)
            reader, pieces = zstandard.ZstdDecompressor().stream_reader(packed), []
            while piece := reader.read(_PIECE):
                self.add(0, len(piece))
                pieces.append(piece)
            return b"".join(pieces)
        self.add(len(packed), size)
        return zstandard.ZstdDecompressor().decompress(packed)

    def unzstd_file(self, source: BinaryIO, target: BinaryIO) -> None:
        """A whole zstd file; what came before an error is in `target`.

        Raises:
            ExpansionError: it is too much.
            zstandard.ZstdError: it is damaged.
        """
        reader = zstandard.ZstdDecompressor().stream_reader(source, read_across_frames=True)
        while piece := reader.read(_PIECE):
            self.add(source.tell() - self.packed, len(piece))
            target.write(piece)

    def bounded(self, compression: Callable[[bytes], bytes]) -> Callable[[bytes], bytes]:
        """A decompressor like `compression` (that of `bz2` or `lz4.frame`; others are returned as they are) that stops in time."""
        makers: dict[object, Callable[[], bz2.BZ2Decompressor | lz4.frame.LZ4FrameDecompressor]] = {
            bz2.decompress: bz2.BZ2Decompressor, lz4.frame.decompress: lz4.frame.LZ4FrameDecompressor}
        make = makers.get(compression)
        if make is None:
            return compression

        def unpack(packed: bytes) -> bytes:
            self.packed += len(packed)
            data = bytes(make().decompress(packed, self.left() + 1))
            self.add(0, len(data))
            return data

        return unpack
