"""Episodes from files of any kind that a robot's data comes in."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path

from mbrl_control.data.bag_episodes import episodes_from_bag
from mbrl_control.data.bag_files import STORAGE
from mbrl_control.data.black_box import BOXES
from mbrl_control.data.csv_log import episodes_from_csv
from mbrl_control.data.episodes import Episode
from mbrl_control.errors import DataError
from mbrl_control.robot import RobotSpec


def load_episodes(paths: Iterable[str | Path] | str | Path, spec: RobotSpec, remap: Mapping[str, str] | None = None) -> list[Episode]:
    """Read logs as episodes of a robot.

    Args:
        paths: CSV files, bag folders, .db3, .mcap or .bag files, or folders of such files.
        spec: the robot.
        remap: recorded topic by the spec's topic, for bags.

    Raises:
        DataError: a file of an unknown kind, or one that cannot be read.
    """
    out: list[Episode] = []
    for path in [paths] if isinstance(paths, (str, Path)) else paths:
        out += _load(Path(path), spec, remap)
    if not out:
        raise DataError("no logs were given; give CSV files or bags")
    return out


def _load(path: Path, spec: RobotSpec, remap: Mapping[str, str] | None) -> list[Episode]:
    if not path.exists():
        raise DataError(f"{path}: there is no such file or folder")
    if path.is_dir():
        if (path / "metadata.yaml").exists() or _is_split_bag(path):
            return episodes_from_bag(path, spec, remap)
        inside = _logs(path)
        if not inside:
            raise DataError(f"{path}: no CSV file and no bag in this folder")
        return [e for p in inside for e in _load(p, spec, remap)]
    if _kind(path) == "csv":
        return episodes_from_csv(path, spec)
    if _kind(path):
        return episodes_from_bag(path, spec, remap)
    raise DataError(f"{path}: '{path.suffix or path.name}' is no kind of log; CSV (.csv), rosbag2 (a folder, .db3, .mcap) and "
                    "ROS 1 bags (.bag) are")


def _logs(folder: Path) -> list[Path]:
    """CSV files and bags in a folder and the folders inside it; what a run's black boxes hold is in its bag, and must not count twice."""
    out: list[Path] = []
    for path in sorted(folder.iterdir()):
        if path.name == BOXES and (folder / "bag").is_dir():
            continue
        if path.is_dir() and not ((path / "metadata.yaml").exists() or _is_split_bag(path)):
            out += _logs(path)
        elif path.is_dir() or _kind(path):
            out.append(path)
    return out


def _kind(path: Path) -> str:
    name = path.name.removesuffix(".zstd").removesuffix(".zst")
    suffix = Path(name).suffix.lower()
    return "csv" if suffix == ".csv" else STORAGE.get(suffix, "")


def _is_split_bag(folder: Path) -> bool:
    """Files named `<folder>_0.mcap`, `<folder>_1.mcap`: one bag whose metadata.yaml is missing, not several bags."""
    return any(p.name.startswith(f"{folder.name}_") and _kind(p) in ("mcap", "sqlite3") for p in folder.iterdir())
