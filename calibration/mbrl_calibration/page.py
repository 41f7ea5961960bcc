"""The report as a page that opens anywhere: one HTML file with its pictures inside."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from jinja2 import Environment, PackageLoader, select_autoescape


@dataclass(frozen=True)
class Table:
    """A table.

    Attributes:
        title: above it.
        heads: of its columns.
        rows: of texts; all but the first stand right.
    """

    title: str
    heads: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]


@dataclass(frozen=True)
class Page:
    """What the page shows.

    Attributes:
        robot: its name.
        summary: a sentence or two.
        tables: in their order.
        notes: what to read with care.
        findings: of the logs, each with `severity` and `sentence`.
        pictures: by title, as text for `src`.
    """

    robot: str
    summary: str
    tables: tuple[Table, ...] = ()
    notes: tuple[str, ...] = ()
    findings: Sequence[Any] = field(default=())
    pictures: Mapping[str, str] = field(default_factory=dict)


def write(page: Page, path: Path) -> None:
    """Write the page, whole or not at all."""
    environment = Environment(loader=PackageLoader("mbrl_calibration", ""), autoescape=select_autoescape(["html", "j2"]))
    text = environment.get_template("report.html.j2").render(**vars(page))
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    temporary.write_text(text, "utf-8")
    temporary.replace(path)
