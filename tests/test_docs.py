"""What the pages say is so: keys, links, commands, the example robot."""

from __future__ import annotations

import importlib.util
import re
from pathlib import Path

import pytest
import typer

from mbrl_control import cli, robot, strict_yaml
from mbrl_control.part_checks import check_parts

ROOT = Path(__file__).resolve().parents[1]
PAGES = sorted([*ROOT.glob("*.md"), *(ROOT / "docs").glob("*.md"), ROOT / "ros2_ws/src/mbrl_control_ros/README.md"])


def test_the_page_of_keys_is_up_to_date():
    spec = importlib.util.spec_from_file_location("generate", ROOT / "docs" / "generate.py")
    generate = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(generate)
    assert (ROOT / "docs" / "robot_yaml.md").read_text() == generate.document(), "run: python docs/generate.py"
    assert (ROOT / "docs" / "modes.md").read_text() == generate.modes_document(), "run: python docs/generate.py"


@pytest.mark.parametrize("page", PAGES, ids=lambda p: str(p.relative_to(ROOT)))
def test_links_lead_somewhere(page):
    for target in re.findall(r"\]\(([^)#]+)\)", page.read_text("utf-8")):
        assert target.startswith("https://") or (page.parent / target).exists(), target


def test_the_example_robot_is_valid():
    blocks = re.findall(r"```yaml\n(.*?)```", (ROOT / "README.md").read_text("utf-8"), re.S)
    assert blocks
    for text in blocks:
        check_parts(robot.validate(strict_yaml.parse(text, "README.md")))


def test_commands_and_options_in_the_readme_exist():
    commands = typer.main.get_command(cli.application()).commands
    said = re.findall(r"^    (?:\.venv/bin/)?mbrl (\w+)(.*?)(?:#.*)?$", (ROOT / "README.md").read_text("utf-8"), re.M)
    assert {name for name, _ in said} >= {"demo", "fit", "evaluate", "control", "replay", "train"}
    for name, rest in said:
        command = commands[name]
        if hasattr(command, "commands"):
            command = command.commands[rest.split()[0]]
        known = {o for p in command.params for o in (*p.opts, *p.secondary_opts)}
        for option in re.findall(r"(?<!\S)(--?[a-z][a-z-]*)", rest):
            assert option in known, (name, option)


def test_targets_of_the_makefile_in_the_readme_exist():
    rules = (ROOT / "Makefile").read_text()
    for target in re.findall(r"make (\w+)", (ROOT / "README.md").read_text("utf-8")):
        assert re.search(rf"^{target}:", rules, re.M), target


def test_the_architecture_page_names_every_package():
    text = (ROOT / "docs" / "architecture.md").read_text("utf-8")
    for folder in (ROOT / "mbrl_control").iterdir():
        if (folder / "__init__.py").exists():
            assert folder.name in text, folder.name
