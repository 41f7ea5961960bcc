"""Command-line options of benchmarks that learn from a real robot's logs."""

from __future__ import annotations

import argparse
from pathlib import Path


def parser(doc: str | None) -> argparse.ArgumentParser:
    """With the logs, their robot, a seed and how long is learned.

    Args:
        doc: of the program.
    """
    made = argparse.ArgumentParser(description=doc, formatter_class=argparse.RawDescriptionHelpFormatter)
    made.add_argument("--data", type=Path, required=True, help="folder with one CSV log a run")
    made.add_argument("--robot", default="double_pendulum_c1", help="shipped robot or YAML (default: %(default)s)")
    made.add_argument("--seed", type=int, default=0)
    made.add_argument("--epochs", type=int, default=40, help="passes over the data (default: %(default)s)")
    return made
