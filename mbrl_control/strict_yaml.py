"""YAML with positions and without traps: no aliases, no duplicate keys, bounded size and depth."""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml

from mbrl_control.errors import SpecError
from mbrl_control.files import TooLargeError, read_plain

MAX_DEPTH = 20
MAX_DIGITS = 64  # of a number; longer ones take long to read, and are no floats

Path_ = tuple[str | int, ...]


@dataclass(frozen=True)
class Limits:
    """How large a YAML may be, and what it is, for the messages.

    Attributes:
        what: e.g. `a robot file`.
        characters: of its text.
        nodes: keys and values in it.
    """

    what: str = "a robot file"
    characters: int = 1_000_000
    nodes: int = 20_000


ROBOT = Limits()


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


class _Loader(getattr(yaml, "CSafeLoader", yaml.SafeLoader)):  # type: ignore[misc]
    """Numbers as in YAML 1.2: PyYAML, by YAML 1.1, reads 1e-3 as text and 1:30 as 90, a long chain of which takes minutes.

    Where PyYAML comes with its C parser (all wheels), that reads ten times faster: a file of the greatest size in 0.1 s.
    """


_INT, _FLOAT = "tag:yaml.org,2002:int", "tag:yaml.org,2002:float"
_Loader.yaml_implicit_resolvers = {
    first: [(tag, found) for tag, found in pairs if tag not in (_INT, _FLOAT)] for first, pairs in _Loader.yaml_implicit_resolvers.items()
}
_Loader.add_implicit_resolver(_INT, re.compile(r"[-+]?(0|[1-9][0-9_]*|0b[01_]+|0[0-7_]+|0x[0-9a-fA-F_]+)$"), list("-+0123456789"))
_Loader.add_implicit_resolver(
    _FLOAT, re.compile(r"([-+]?([0-9][0-9_]*\.[0-9_]*|\.[0-9][0-9_]*)([eE][-+]?[0-9]+)?|[-+]?[0-9]+[eE][-+]?[0-9]+"
                        r"|[-+]?\.(inf|Inf|INF)|\.(nan|NaN|NAN))$"),
    list("-+.0123456789"))


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
        if node.tag in (_INT, _FLOAT) and len(node.value) > MAX_DIGITS:
            self.faults.append(f"{self.source.name}:{line}: a number of {len(node.value)} characters, {node.value[:20]!r}…; "
                               f"at most {MAX_DIGITS} are allowed")
            return None
        try:
            return self.scalars.construct_object(node)
        except (yaml.YAMLError, ValueError, LookupError, AttributeError, ArithmeticError) as error:
            self.faults.append(f"{self.source.name}:{line}: cannot read {str(node.value)[:80]!r}: {' '.join(str(error).split())[:300]}")
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


def _check_events(text: str, name: str, limits: Limits) -> None:
    """Refuse what would take long or for ever to build, before anything is built."""
    depth = count = 0
    for event in yaml.parse(text, Loader=_Loader):
        line = event.start_mark.line + 1 if event.start_mark else 1
        anchor = getattr(event, "anchor", None)
        if anchor:
            raise SpecError([f"{name}:{line}: anchors and aliases (&{anchor}, *{anchor}) are not allowed in {limits.what}; "
                             "write the values out"])
        depth += isinstance(event, yaml.CollectionStartEvent) - isinstance(event, yaml.CollectionEndEvent)
        count += isinstance(event, yaml.NodeEvent)
        if depth > MAX_DEPTH or count > limits.nodes:
            raise SpecError([f"{name}:{line}: nested deeper than {MAX_DEPTH} levels or more than {limits.nodes} values; {limits.what} "
                             "needs neither, so flatten it"])


def parse(text: str, name: str, limits: Limits = ROBOT) -> YamlSource:
    """Read YAML text.

    Args:
        text: the YAML.
        name: how errors name it.
        limits: how large it may be.

    Returns:
        The data and the line of each key.

    Raises:
        SpecError: not YAML, aliases or anchors, duplicate keys, too large or too deep.
    """
    if len(text.encode("utf-8", "replace")) > limits.characters:
        raise SpecError([f"{name}: {len(text)} characters; {limits.what} has at most {limits.characters}"])
    try:
        _check_events(text, name, limits)
        node = yaml.compose(text, Loader=_Loader)
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        last = len(text.splitlines())  # the C parser sees the end of a text behind its last line
        raise SpecError([f"{name}:{min(mark.line + 1, last) if mark else 1}: not valid YAML: {error.problem or error.context}"]) from error
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


def read(path: Path, limits: Limits = ROBOT) -> YamlSource:
    """Read a YAML file; see `parse`."""
    try:
        text = read_plain(path, limits.characters, limits.what).decode("utf-8")
    except TooLargeError as error:
        raise SpecError([f"{path}: {error.strerror}"]) from error
    except OSError as error:
        raise SpecError([f"{path}: cannot be read: {error.strerror}"]) from error
    except UnicodeDecodeError as error:
        raise SpecError([f"{path}: not UTF-8 text (byte {error.start})"]) from error
    return parse(text, str(path), limits)
