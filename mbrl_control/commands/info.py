"""`mbrl info`: what is installed, what ships, what this machine allows."""

from __future__ import annotations

import importlib.util
import platform
from importlib.metadata import PackageNotFoundError, version
from typing import Any

import typer
from rich.table import Table

from mbrl_control import __version__, parts, robot
from mbrl_control.commands.options import Json, console

PACKAGES = ("torch", "numpy", "mujoco", "casadi", "rosbags", "mcap", "safetensors", "dm_control")


def _version(name: str) -> str:
    try:
        return version(name)
    except PackageNotFoundError:
        return "not installed"


def facts() -> dict[str, Any]:
    """Versions, parts, robots and machine."""
    from mbrl_control.stack.report import machine  # noqa: PLC0415

    ros = "available" if importlib.util.find_spec("rclpy") else "not installed"
    return {"mbrl_control": __version__, "python": platform.python_version(), "rclpy": ros,
            "packages": {name: _version(name) for name in PACKAGES},
            "parts": {package: parts.kinds(package) for package in ("costs", "models", "planning")},
            "robots": {name: robot.load(name).title for name in robot.shipped()}, "machine": machine()}


def info(json_path: Json = None) -> None:
    """Versions, robots, parts and machine."""
    from mbrl_control.stack.report import save  # noqa: PLC0415

    found = facts()
    if json_path is not None:
        save(found, json_path)
    table = Table(show_header=False, width=98)
    table.add_column(style="bold", width=14)
    table.add_column(overflow="fold")
    table.add_row("mbrl_control", f"{found['mbrl_control']}, Python {found['python']}, rclpy {found['rclpy']}")
    table.add_row("machine", f"{found['machine']['cpu']}, {found['machine']['cores']} cores")
    table.add_row("packages", ", ".join(f"{k} {v}" for k, v in found["packages"].items()))
    for package, kinds in found["parts"].items():
        table.add_row(package, ", ".join(kinds))
    for name, title in found["robots"].items():
        table.add_row(f"robot {name}"[:14] if len(name) < 9 else name[:14], f"{name}: {title}")
    console.print(table)


def add(app: typer.Typer) -> None:
    """Join the program."""
    app.command()(info)
