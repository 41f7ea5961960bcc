"""Options that several commands share."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console

Robot = Annotated[str, typer.Option("--robot", help="shipped robot or YAML file")]
Seed = Annotated[int, typer.Option(min=0, help="of everything random")]
Json = Annotated[Path | None, typer.Option("--json", help="also write the figures here")]
console = Console(width=None if sys.stdout.isatty() else 100)
