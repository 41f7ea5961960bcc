"""YAML with positions and without traps: no aliases, no duplicate keys, bounded size and depth."""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml

from mbrl_control.errors import SpecError

MAX_BYTES = 1_000_000
MAX_DEPTH = 20
MAX_NODES = 20_000

Path_ = tuple[str | int, ...]


@dataclass
class YamlSource:
    """Plain data of a YAML text and the line that each key stands on.

    Attributes:
        name: how messages name the text (a file path).
        data: dicts, lists and scalars.
        lines: 1-based line of every node, by its path of keys and indices.
    """

    name: str
    data: Any
    lines: dict[Path_, int] = field(default_factory=dict)

    def place(self, path: Path_) -> str:
        """`file:line` of the nearest node at or above `path`."""
        for end in range(len(path), -1, -1):
            if path[:end] in self.lines:
                return f"{self.name}:{self.lines[path[:end]]}"
        return self.name


class _Loader(yaml.SafeLoader):
    """PyYAML reads 1e-3 as text, as YAML 1.1 says; everybody means the number, as YAML 1.2 says."""


_Loader.yaml_implicit_resolvers = dict(yaml.SafeLoader.yaml_implicit_resolvers)
_Loader.add_implicit_resolver("tag:yaml.org,2002:float", re.compile(r"[-+]?(\d+\.?\d*|\.\d+)[eE][-+]?\d+$"), list("-+.0123456789"))


class _Builder:
    def __init__(self, source: YamlSource) -> None:
        self.source = source
        self.faults: list[str] = []
        self.scalars = _Loader("")

    def build(self, node: yaml.Node, path: Path_) -> Any:
        line = node.start_mark.line + 1
        self.source.lines.setdefault(path, line)
        if isinstance(node, yaml.MappingNode):
            return self._mapping(node, path)
        if isinstance(node, yaml.SequenceNode):
            return [self.build(child, (*path, i)) for i, child in enumerate(node.value)]
        try:
            return self.scalars.construct_object(node)
        except (yaml.YAMLError, ValueError, LookupError, AttributeError, ArithmeticError) as error:
            self.faults.append(f"{self.source.name}:{line}: cannot read {str(node.value)[:80]!r}: {' '.join(str(error).split())}")
            return None

    def _mapping(self, node: yaml.MappingNode, path: Path_) -> dict[str, Any]:
        out: dict[str, Any] = {}
        for key_node, value_node in node.value:
            line = key_node.start_mark.line + 1
            if not isinstance(key_node, yaml.ScalarNode):
                self.faults.append(f"{self.source.name}:{line}: a key must be a word")
                continue
            key = str(key_node.value)
            if key in out:
                self.faults.append(f"{self.source.name}:{line}: key '{key}' stands here a second time; keep one")
            self.source.lines[(*path, key)] = line
            out[key] = self.build(value_node, (*path, key))
        return out


def _check_events(text: str, name: str) -> None:
    """Refuse what would take long or for ever to build, before anything is built."""
    depth = count = 0
    for event in yaml.parse(text, Loader=_Loader):
        line = event.start_mark.line + 1 if event.start_mark else 1
        anchor = getattr(event, "anchor", None)
        if anchor:
            raise SpecError([f"{name}:{line}: anchors and aliases (&{anchor}, *{anchor}) are not allowed in a robot file; "
                             "write the values out"])
        depth += isinstance(event, yaml.CollectionStartEvent) - isinstance(event, yaml.CollectionEndEvent)
        count += isinstance(event, yaml.NodeEvent)
        if depth > MAX_DEPTH or count > MAX_NODES:
            raise SpecError([f"{name}:{line}: nested deeper than {MAX_DEPTH} levels or more than {MAX_NODES} values; a robot file needs "
                             "neither, so flatten it"])


def parse(text: str, name: str) -> YamlSource:
    """Read YAML text.

    Args:
        text: the YAML.
        name: how errors name it.

    Returns:
        The data and the line of each key.

    Raises:
        SpecError: not YAML, aliases or anchors, duplicate keys, too large or too deep.
    """
    if len(text.encode("utf-8", "replace")) > MAX_BYTES:
        raise SpecError([f"{name}: {len(text)} characters; a robot file has at most {MAX_BYTES}"])
    try:
        _check_events(text, name)
        node = yaml.compose(text, Loader=_Loader)
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        raise SpecError([f"{name}:{mark.line + 1 if mark else 1}: not valid YAML: {error.problem or error.context}"]) from error
    except yaml.YAMLError as error:
        raise SpecError([f"{name}: not valid YAML: {' '.join(str(error).split())}"]) from error
    source = YamlSource(name, None)
    if node is None:
        raise SpecError([f"{name}: the file is empty"])
    builder = _Builder(source)
    source.data = builder.build(node, ())
    if builder.faults:
        raise SpecError(builder.faults)
    return source


def read(path: Path) -> YamlSource:
    """Read a YAML file; see `parse`."""
    try:
        if path.stat().st_size > MAX_BYTES:
            raise SpecError([f"{path}: {path.stat().st_size} bytes; a robot file has at most {MAX_BYTES}"])
        text = path.read_text("utf-8")
    except OSError as error:
        raise SpecError([f"{path}: cannot be read: {error.strerror}"]) from error
    except UnicodeDecodeError as error:
        raise SpecError([f"{path}: not UTF-8 text (byte {error.start})"]) from error
    return parse(text, str(path))
