"""Native code that is compiled on the machine that runs it, once, and kept; None where that cannot be."""

from __future__ import annotations

import ctypes
import functools
import hashlib
import os
import platform
import shutil
import subprocess
import tempfile
import warnings
from pathlib import Path

FLAGS = ("-O3", "-march=native", "-ffp-contract=fast", "-fno-math-errno", "-fno-gcse", "-std=c++17", "-fPIC", "-shared")
COMPILERS = ("g++", "clang++", "c++")
SWITCH = "MBRL_NATIVE"
COMPILE_S = 120.0


@functools.cache
def loaded(source: Path) -> ctypes.CDLL | None:
    """What a C++ file compiles to, with the headers beside it; compiled first if need be (some seconds, once for a machine).

    A warning says why it cannot be had, once. `MBRL_NATIVE=0` in the environment switches native code off.

    Args:
        source: the file; everything else in its folder that ends with `.h` belongs to it.

    Returns:
        The loaded library, whose functions' types are still to be told; None where it cannot be had.
    """
    if os.environ.get(SWITCH) == "0":
        return None
    compiler = next(filter(None, map(shutil.which, COMPILERS)), None)
    parts = [source, *sorted(source.parent.glob("*.h"))]
    key = hashlib.sha256("\0".join([*(part.read_text() for part in parts), *FLAGS, str(compiler), _processor()]).encode()).hexdigest()[:16]
    target = _cache() / f"{source.stem}-{key}.so"
    try:
        found = _load(target) or _load(_compiled(compiler, source, target))
        if found is None:
            raise OSError(f"{target} cannot be loaded")
    except (OSError, subprocess.SubprocessError) as error:
        told = getattr(error, "stderr", None) or str(error)
        warnings.warn(f"plans are made without native code and take two to three times as long: {told.strip()[:300]}", stacklevel=2)
        return None
    return found


def _processor() -> str:
    """What the compiled code depends on besides its source: the instructions that this processor has."""
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        lines = []
    return next((line for line in lines if line.startswith(("flags", "Features"))), platform.processor())


def _cache() -> Path:
    base = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(base) / "mbrl_control"


def _load(target: Path) -> ctypes.CDLL | None:
    try:
        return ctypes.CDLL(str(target))
    except OSError:
        return None


def _compiled(compiler: str | None, source: Path, target: Path) -> Path:
    """Compile to a temporary name and rename, so that nobody ever loads half of a file."""
    if compiler is None:
        raise OSError("no C++ compiler is installed (g++ or clang++)")
    target.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
    with tempfile.TemporaryDirectory(dir=target.parent) as folder:
        made = Path(folder) / target.name
        subprocess.run([compiler, *FLAGS, "-o", str(made), str(source)], check=True, capture_output=True, text=True, timeout=COMPILE_S)
        made.replace(target)
    return target
