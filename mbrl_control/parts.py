"""Parts found by file name: planner `icem` is the module `mbrl_control.planning.icem`. A new part is a new file.

A part module has a dataclass `Options` (its settings, with defaults) and a function `build(spec, options)`.
"""

from __future__ import annotations

import functools
import importlib
from pathlib import Path
from types import ModuleType
from typing import Any, ClassVar, Protocol, TypeVar

from pydantic import TypeAdapter, ValidationError

from mbrl_control.errors import UserError, nearest


class Dataclass(Protocol):
    """Any dataclass."""

    __dataclass_fields__: ClassVar[dict[str, Any]]


Made = TypeVar("Made", bound=Dataclass)


@functools.cache
def kinds(package: str) -> list[str]:
    """Names of the parts in a package of mbrl_control: its modules that define `build` (nothing is imported).

    Args:
        package: `costs`, `models` or `planning`.
    """
    folder = Path(__file__).parent / package
    return sorted(p.stem for p in folder.glob("*.py") if p.stem not in ("__init__", "base") and "\ndef build(" in p.read_text("utf-8"))


def find(package: str, kind: str) -> ModuleType:
    """Import a part.

    Raises:
        UserError: no such part; the sentence names the nearest.
    """
    known = kinds(package)
    if kind not in known:
        raise UserError(f"{package}.kind = '{kind}' is not known{nearest(kind, known)}")
    return importlib.import_module(f"mbrl_control.{package}.{kind}")


def fill(kind: type[Made], who: str, given: dict[str, Any]) -> Made:
    """A validated dataclass of options.

    Args:
        kind: the dataclass.
        who: start of error messages.
        given: options by name.

    Raises:
        UserError: unknown option or a value of the wrong type or range; every fault in one sentence each.
    """
    known = list(kind.__dataclass_fields__)
    faults = [f"{who}: unknown option '{key}'{nearest(key, known) or '; it has none'}" for key in given if key not in known]
    try:
        made = TypeAdapter(kind).validate_python({key: value for key, value in given.items() if key in known})
    except ValidationError as error:
        faults += [f"{who}: option {'.'.join(map(str, e['loc']))} = {e['input']!r}: {e['msg']}" for e in error.errors()]
    if faults:
        raise UserError("\n".join(faults))
    return made


def options(package: str, kind: str, given: dict[str, Any]) -> Any:
    """The part's validated `Options`; see `fill`."""
    return fill(find(package, kind).Options, f"{package} '{kind}'", given)
