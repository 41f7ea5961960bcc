"""Recover: rewrite what is sound of a damaged bag into one that every tool reads."""

from __future__ import annotations

import heapq
from pathlib import Path
from typing import NamedTuple

from mbrl_control.data.bag_files import read_raw
from mbrl_control.data.mcap_bag import McapBag
from mbrl_control.data.message_types import definition
from mbrl_control.errors import DataError


class Recovered(NamedTuple):
    """Messages written to the new bag, and messages known to be missing (at least so many)."""

    kept: int
    lost: int


def recover(src: str | Path, dst: str | Path) -> Recovered:
    """Rewrite a bag (cut off, without metadata.yaml, or of another format) as a rosbag2 folder in MCAP.

    Args:
        src: anything that `read_bag` reads; it is not changed.
        dst: the new folder; must not exist.

    Raises:
        DataError: nothing can be read, the folder exists, or the disk would not take it.
    """
    source, folder = Path(src), Path(dst)
    if folder.exists():
        raise DataError(f"{folder}: exists already; recordings are never overwritten, give another name")
    bag = read_raw(source)
    definitions = dict(bag.types.definitions)
    for topic in bag.topics.values():
        if topic.payloads and topic.type not in definitions:
            try:
                definitions[topic.type] = (definition(topic.type), "ros2msg")
            except DataError:
                definitions[topic.type] = ("", "")  # nobody knows the type; the bytes are kept all the same
    try:
        out = McapBag(folder, definitions=definitions)
        rows = [zip(t.receive_ns, [n] * len(t.payloads), t.publish_ns, t.payloads, strict=True) for n, t in bag.topics.items()]
        for receive_ns, name, publish_ns, payload in heapq.merge(*rows, key=lambda row: row[0]):
            out.write(name, bag.topics[name].type, payload, receive_ns, publish_ns or receive_ns)
        out.close()
    except OSError as error:
        raise DataError(f"{folder}: cannot be written: {error.strerror}") from error
    return Recovered(out.count, bag.lost)
