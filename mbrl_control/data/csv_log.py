"""Logs in CSV: columns found by name, faults told with their line."""

from __future__ import annotations

import csv
import difflib
from pathlib import Path

import numpy as np

from mbrl_control.data.align import gap_limit
from mbrl_control.data.episodes import Episode
from mbrl_control.errors import DataError
from mbrl_control.robot import RobotSpec


def episodes_from_csv(path: str | Path, spec: RobotSpec) -> list[Episode]:
    """Read a CSV log: a header line, then a row per sample. Rows out of a signal's bounds are left out, and told in `notes`.

    Args:
        path: the file.
        spec: gives the time column, the delimiter, and the column of each signal (by default the signal's name).

    Returns:
        Episodes with the times of the file, split at gaps; angles in rad, all in SI units, as the file has them.

    Raises:
        DataError: a column is missing (the nearest is named), a cell is no finite number, or time does not increase (with line).
    """
    path, delimiter = Path(path), spec.csv.delimiter
    names = [spec.csv.time, *(s.column or s.name for s in (*spec.state, *spec.command))]
    try:
        with path.open(encoding="utf-8-sig", newline="") as file:
            header = [cell.strip() for cell in next(csv.reader([file.readline()], delimiter=delimiter), [])]
            columns = [_find(path, name, header) for name in names]
            data = _numbers(path, file.read().splitlines(), columns, len(header), delimiter)
    except OSError as error:
        raise DataError(f"{path}: cannot be read: {error.strerror}") from error
    except UnicodeDecodeError as error:
        raise DataError(f"{path}: not UTF-8 text (byte {error.start}); is it a CSV file?") from error
    if len(data) < 2:
        raise DataError(f"{path}: {len(data)} rows; an episode needs at least 2")
    steps = np.diff(data[:, 0])
    if not (steps > 0).all():
        row = int(np.flatnonzero(~(steps > 0))[0])
        raise DataError(f"{path}:{_line(path, row + 1)}: time {data[row + 1, 0]:.9g} is not after {data[row, 0]:.9g} in the row before; "
                        "sort the rows and remove doubles")
    return _episodes(path, data, spec, float(np.median(steps)))


def _episodes(path: Path, data: np.ndarray, spec: RobotSpec, period: float) -> list[Episode]:
    count, notes = spec.state_dim, []
    good = ((data[:, 1:1 + count] >= spec.state_low) & (data[:, 1:1 + count] <= spec.state_high)).all(axis=1)
    if not good.all():
        bad = int(np.argmin(good))
        at = int(np.argmin((data[bad, 1:1 + count] >= spec.state_low) & (data[bad, 1:1 + count] <= spec.state_high)))
        notes.append(f"{path}: {int((~good).sum())} of {len(data)} rows left out: a signal is outside its bounds, first "
                     f"'{spec.state_names[at]}' = {data[bad, 1 + at]:g} in line {_line(path, bad)}")
        data = data[good]
    cuts = np.flatnonzero(np.diff(data[:, 0]) > gap_limit(spec, period)) + 1
    pieces = [p for p in np.split(data, cuts) if len(p) > 1]
    if not pieces:
        raise DataError(f"{path}: no two rows without a gap between them" + (f" ({notes[0]})" if notes else ""))
    if len(cuts):
        notes.append(f"{path}: {len(cuts)} gaps; {len(pieces)} episodes")
    names = [path.name] if len(pieces) == 1 else [f"{path.name}#{i}" for i in range(len(pieces))]
    return [Episode(p[:, 0].copy(), p[:, 1:1 + count].copy(), p[:, 1 + count:].copy(), name=n, notes=tuple(notes))
            for n, p in zip(names, pieces, strict=True)]


def _find(path: Path, name: str, header: list[str]) -> int:
    found = header.count(name)
    if found == 1:
        return header.index(name)
    if found:
        raise DataError(f"{path}:1: column '{name}' stands {found} times; a name must be its own")
    near = difflib.get_close_matches(name, header, n=1, cutoff=0.0)
    raise DataError(f"{path}:1: no column '{name}'; nearest: '{near[0] if near else ''}' (columns: {', '.join(header)}); set `column` "
                    "of the signal, or `csv.time`, in the robot's YAML")


def _numbers(path: Path, lines: list[str], columns: list[int], width: int, delimiter: str) -> np.ndarray:
    """[T, columns] numbers; the fast parser of numpy first, and only for a fault a look at each cell."""
    if not any(line.strip() for line in lines):
        return np.empty((0, len(columns)))
    try:
        data = np.loadtxt(lines, delimiter=delimiter, usecols=columns, ndmin=2, comments=None, quotechar='"', dtype=np.float64)
        if np.isfinite(data).all():
            return data
    except ValueError:
        pass
    for number, line in enumerate(lines, start=2):
        if not line.strip():
            continue
        cells = next(csv.reader([line], delimiter=delimiter))
        if len(cells) <= max(columns):
            raise DataError(f"{path}:{number}: {len(cells)} cells where the header has {width}; the line is cut off")
        for at in columns:
            try:
                good = bool(np.isfinite(float(cells[at])))
            except ValueError:
                good = False
            if not good:
                raise DataError(f"{path}:{number}: '{cells[at].strip()}' in column {at + 1} is no finite number")
    raise DataError(f"{path}: not a table of numbers")


def _line(path: Path, row: int) -> int:
    """1-based line of the data row `row`, with blank lines counted."""
    with path.open(encoding="utf-8-sig") as file:
        filled = [number for number, line in enumerate(file, start=1) if line.strip()]
    return filled[row + 1]
