"""Seeded damage to files: what disks, networks and malice do to bytes, texts and trees of values."""

from __future__ import annotations

import math
import re
from typing import Any

import numpy as np

HUGE = (-1, 0, 1, 2**31 - 1, 2**31, 2**32 - 1, 2**63 - 1, 2**63, 2**64 - 1)
NUMBERS = ("0", "-1", "1e308", "1e309", "-1e309", ".inf", "-.inf", ".nan", "nan", "inf", "1e-320", "9" * 400, "0x" + "f" * 100, "1:2:3:4",
           "1_0", "08", "-0.0", "true", "null", "~", "''", "[]", "{}", "2147483648", "18446744073709551616", "1e", "+", "0b1", "4.9e-324")
VALUES: tuple[Any, ...] = (None, True, False, 0, -1, 10**6, 2**63, 10**40, 1e308, math.inf, -math.inf, math.nan, "", "x", "x" * 3000,
                           "\x00", "é\u202e", [], {}, [[]], [1, 2, 3], {"a": 1}, [None], "../../etc/passwd", "/dev/zero", "a\nb")
WORDS = ("file", "mesh", "joint", "body", "geom", "include", "default", "class", "name", "1e300", "-1", "nan", "0 0 0", "mesh.obj",
         "/dev/zero")

SIGNS = "\t\0\"&'*:<>[]{}!%@é\u202e"


def damage(data: bytes, rng: np.random.Generator, others: list[bytes]) -> bytes:
    """Bytes with one to four faults: flipped bits, bytes changed, cut off, cut out, repeated, numbers made huge, a piece of another file.

    Args:
        data: the file.
        rng: draws the faults.
        others: files to take pieces of.
    """
    out = bytearray(data)
    for _ in range(int(rng.integers(1, 5))):
        if not out:
            break
        at = int(rng.integers(len(out)))
        length = int(min(len(out) - at, 2 ** rng.integers(0, 12)))
        kind = int(rng.integers(8))
        if kind == 0:
            out[at] ^= 1 << int(rng.integers(8))
        elif kind == 1:
            out[at:at + length] = rng.bytes(length)
        elif kind == 2:
            del out[at:]
        elif kind == 3:
            del out[at:at + length]
        elif kind == 4:
            out[at:at] = out[at:at + length]
        elif kind == 5:
            size = int(rng.choice([1, 2, 4, 8]))
            value = int(HUGE[rng.integers(len(HUGE))]) % 2 ** (8 * size)
            out[at:at + size] = value.to_bytes(size, "little" if rng.random() < 0.7 else "big")
        elif kind == 6:
            other = others[rng.integers(len(others))]
            begin = int(rng.integers(max(1, len(other))))
            out[at:at + length] = other[begin:begin + length]
        else:
            out[at:at + length] = bytes(length)
    return bytes(out)


def damage_text(text: str, rng: np.random.Generator, others: list[str], words: tuple[str, ...] = NUMBERS) -> str:
    """A text with one to four faults: words or characters changed, lines removed, repeated, moved, indented or taken from another text."""
    for _ in range(int(rng.integers(1, 5))):
        lines = text.split("\n")
        at, kind = int(rng.integers(len(lines))), int(rng.integers(8))
        if kind == 0:
            del lines[at]
        elif kind == 1:
            lines.insert(int(rng.integers(len(lines) + 1)), lines[at])
        elif kind == 2:
            lines[at] = " " * int(rng.integers(1, 9)) + lines[at]
        elif kind == 3:
            lines[at] = lines[at].lstrip()
        elif kind == 4:
            other = others[rng.integers(len(others))].split("\n")
            lines.insert(at, other[rng.integers(len(other))])
        elif kind == 5:
            letters = list(lines[at])
            if letters:
                letters[rng.integers(len(letters))] = SIGNS[rng.integers(len(SIGNS))]
            lines[at] = "".join(letters)
        else:
            places = list(re.finditer(r"[\w.+-]+", lines[at]))
            if places:
                place = places[rng.integers(len(places))]
                pool = words if kind == 6 else NUMBERS
                lines[at] = lines[at][:place.start()] + pool[rng.integers(len(pool))] + lines[at][place.end():]
        text = "\n".join(lines)
    return text


def damage_tree(value: Any, rng: np.random.Generator) -> Any:
    """A tree of dicts, lists and scalars with one place changed: a key dropped, doubled or renamed, a value of another type or size."""
    if isinstance(value, dict) and value and rng.random() < 0.85:
        keys = list(value)
        key = keys[rng.integers(len(keys))]
        out, kind = dict(value), int(rng.integers(8))
        if kind == 0:
            del out[key]
        elif kind == 1:
            out[f"{key}x"] = out.pop(key)
        elif kind == 2:
            out[key] = out[keys[rng.integers(len(keys))]]
        else:
            out[key] = damage_tree(out[key], rng)
        return out
    if isinstance(value, list) and value and rng.random() < 0.85:
        at, out = int(rng.integers(len(value))), list(value)
        kind = int(rng.integers(6))
        if kind == 0:
            del out[at]
        elif kind == 1:
            out.insert(at, out[at])
        elif kind == 2:
            out *= int(rng.integers(2, 50))
        else:
            out[at] = damage_tree(out[at], rng)
        return out
    return nested(int(rng.integers(2, 60)), rng) if rng.random() < 0.05 else VALUES[rng.integers(len(VALUES))]


def nested(depth: int, rng: np.random.Generator) -> Any:
    """Lists and dicts inside each other."""
    out: Any = 1
    for _ in range(depth):
        out = [out] if rng.random() < 0.5 else {"a": out}
    return out
