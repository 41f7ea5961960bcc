"""The cart-pole with hard limits of its rail, as docs/safety.md tells how to write it."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

from mbrl_control import robot, strict_yaml
from mbrl_control.robot import RobotSpec

PAGE = Path(__file__).resolve().parents[2] / "docs" / "safety.md"


def guarded(*, command: dict[str, Any] | None = None, top: dict[str, Any] | None = None, **safety: Any) -> RobotSpec:
    """The page's cart-pole; `command` changes its command signal, `top` keys of the robot, others those of its `safety` section."""
    data = robot.load("cartpole").model_dump()
    block = re.search(r"```yaml\n(.*?)```", PAGE.read_text("utf-8"), re.S)
    assert block
    given = strict_yaml.parse(block[1], PAGE.name).data
    (x,) = given.pop("state")
    data["state"] = [s | x if s["name"] == x["name"] else s for s in data["state"]]
    data |= given
    data["command"][0] |= command or {}
    data |= top or {}
    data["safety"] |= safety
    return RobotSpec.model_validate(data)
