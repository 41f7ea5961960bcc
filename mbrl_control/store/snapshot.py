"""Snapshot: a model frozen for another process, as safetensors with a JSON manifest. Never pickle."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import stat
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import safetensors.numpy
from safetensors import SafetensorError

from mbrl_control.errors import SnapshotError

MAX_BYTES = 256 * 2**20
MAX_MANIFEST = 2**20
DTYPES = {"float32", "float64", "int64", "int32", "uint8"}
WEIGHTS, MANIFEST = "weights.safetensors", "manifest.json"
BEHAVIOUR = "behaviour/"
"""How the names of arrays begin in a file that are no part of the model."""



@dataclass(frozen=True)
class Snapshot:
    """A model frozen for use by another process.

    Attributes:
        kind: name of the part that can load it (`ensemble`, …).
        spec_hash: hash of the robot it was fitted for.
        version: grows by one each publication.
        weights: named arrays: parameters, normaliser, elites; nothing else is needed to predict.
        figures: training and gate figures, JSON values.
        behaviour: named arrays of policies and critics that were trained on this model, `<kind>.<array>`; a model does without them.
    """

    kind: str
    spec_hash: str
    version: int
    weights: dict[str, np.ndarray]
    figures: dict[str, Any] = field(default_factory=dict)
    behaviour: dict[str, np.ndarray] = field(default_factory=dict)

    def behaviour_of(self, kind: str) -> dict[str, np.ndarray]:
        """The arrays of one kind of policy, by their own names; empty where the snapshot brings none."""
        return {name.removeprefix(f"{kind}."): array for name, array in self.behaviour.items() if name.startswith(f"{kind}.")}


def _sync(path: Path) -> None:
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def write(folder: Path, snapshot: Snapshot) -> None:
    """Write a snapshot as the folder `folder`: under a temporary name, synced, then renamed; a reader sees all of it or nothing.

    Raises:
        SnapshotError: a weight is not finite or of a type that is not allowed.
    """
    arrays = {**snapshot.weights, **{f"{BEHAVIOUR}{name}": array for name, array in snapshot.behaviour.items()}}
    for name, array in arrays.items():
        if array.dtype.name not in DTYPES:
            raise SnapshotError(f"weight '{name}' is {array.dtype.name}; allowed: {', '.join(sorted(DTYPES))}")
        if array.dtype.kind == "f" and not np.isfinite(array).all():
            raise SnapshotError(f"weight '{name}' holds numbers that are not finite; the fit diverged and is not published")
    data = safetensors.numpy.save({k: np.ascontiguousarray(v) for k, v in arrays.items()})
    manifest = {
        "schema": 1, "kind": snapshot.kind, "spec_hash": snapshot.spec_hash, "version": snapshot.version,
        "sha256": hashlib.sha256(data).hexdigest(), "bytes": len(data),
        "arrays": {k: {"shape": list(v.shape), "dtype": v.dtype.name} for k, v in arrays.items()},
        "figures": snapshot.figures,
    }
    temporary = folder.with_name(f".{folder.name}.{os.getpid()}.tmp")
    shutil.rmtree(temporary, ignore_errors=True)
    temporary.mkdir(parents=True)
    for name, content in ((WEIGHTS, data), (MANIFEST, json.dumps(manifest, indent=1).encode())):
        (temporary / name).write_bytes(content)
        _sync(temporary / name)
    try:
        temporary.rename(folder)
    except OSError as error:
        shutil.rmtree(temporary, ignore_errors=True)
        raise SnapshotError(f"{folder}: cannot be written: {error.strerror}; a snapshot is never overwritten") from error
    _sync(folder.parent)


def _plain(path: Path) -> None:
    """Refuse a link, which may lead anywhere, and a pipe, which may never end.

    Raises:
        SnapshotError: it is one.
        OSError: it is not there.
    """
    if not stat.S_ISREG(path.lstat().st_mode):
        raise SnapshotError(f"{path.parent}: no readable snapshot ({path.name} is not a plain file)")


def _manifest(folder: Path) -> dict[str, Any]:
    path = folder / MANIFEST
    try:
        _plain(path)
        if path.stat().st_size > MAX_MANIFEST:
            raise SnapshotError(f"{path}: {path.stat().st_size} bytes; a manifest has at most {MAX_MANIFEST}")
        manifest = json.loads(path.read_text("utf-8"))
        wanted = {"kind": str, "spec_hash": str, "version": int, "sha256": str, "bytes": int, "arrays": dict, "figures": dict}
        wrong = [k for k, t in wanted.items() if type(manifest.get(k)) is not t]
    except OSError as error:
        raise SnapshotError(f"{folder}: no readable snapshot ({error.strerror}: {error.filename})") from error
    except (ValueError, AttributeError, RecursionError) as error:
        raise SnapshotError(f"{path}: not a manifest: {error}") from error
    if wrong:
        raise SnapshotError(f"{path}: key '{wrong[0]}' is missing or of the wrong type")
    return dict(manifest)


def read(folder: Path, spec_hash: str | None = None, most: int = MAX_BYTES) -> Snapshot:
    """Read and verify a snapshot.

    Args:
        folder: as given to `write`.
        spec_hash: the robot's; None accepts any robot.
        most: bytes of arrays that are read.

    Raises:
        SnapshotError: missing, damaged (size, SHA-256, shapes, types, non-finite), or of another robot.
    """
    manifest = _manifest(folder)
    path = folder / WEIGHTS
    if spec_hash is not None and manifest["spec_hash"] != spec_hash:
        raise SnapshotError(f"{folder}: fitted for another robot or model (hash {manifest['spec_hash']}, this robot has {spec_hash}); "
                            "fit it again with this robot's YAML")
    try:
        _plain(path)
        size = path.stat().st_size
        if size != manifest["bytes"] or size > most:
            raise SnapshotError(f"{path}: {size} bytes where the manifest says {manifest['bytes']} (at most {most} allowed)")
        data = path.read_bytes()
    except OSError as error:
        raise SnapshotError(f"{path}: cannot be read: {error.strerror}") from error
    if hashlib.sha256(data).hexdigest() != manifest["sha256"]:
        raise SnapshotError(f"{path}: its SHA-256 is not the manifest's; the file is damaged")
    try:
        arrays = safetensors.numpy.load(data)
    except (SafetensorError, ValueError, KeyError) as error:
        raise SnapshotError(f"{path}: not a safetensors file: {error}") from error
    found = {k: {"shape": list(v.shape), "dtype": v.dtype.name} for k, v in arrays.items()}
    if found != manifest["arrays"] or not all(v["dtype"] in DTYPES for v in found.values()):
        raise SnapshotError(f"{path}: its arrays are not those that the manifest lists")
    bad = [k for k, v in arrays.items() if v.dtype.kind == "f" and not np.isfinite(v).all()]
    if bad:
        raise SnapshotError(f"{path}: array '{bad[0]}' holds numbers that are not finite")
    behaviour = {k.removeprefix(BEHAVIOUR): v for k, v in arrays.items() if k.startswith(BEHAVIOUR)}
    weights = {k: v for k, v in arrays.items() if not k.startswith(BEHAVIOUR)}
    return Snapshot(manifest["kind"], manifest["spec_hash"], manifest["version"], weights, manifest["figures"], behaviour)
