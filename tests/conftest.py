"""What holds for all tests, and the collection of what they say about faults."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest


@pytest.fixture(autouse=True)
def denormal_numbers() -> Iterator[None]:
    """Commands switch small numbers off for their process; tests after them need them back."""
    yield
    if "torch" in sys.modules:
        sys.modules["torch"].set_flush_denormal(False)


@pytest.fixture
def one_thread() -> Iterator[None]:
    """Torch on one thread, for tests whose bits or small tensors several would change or slow down."""
    import torch  # most tests do without

    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--faults-json", type=Path, help="write what tests marked `fault` measured, for docs/faults.py")


class FaultCollector:
    """Gathers row, test, outcome and measurement; also of tests in other processes (xdist), whose properties travel with their reports."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.results: dict[tuple[int, str], dict[str, object]] = {}

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        if report.when != "call" and report.passed:
            return
        said = [str(value) for name, value in report.user_properties if name == "measured"]
        for name, row in report.user_properties:
            if name == "fault_row":
                self.results[int(str(row)), report.nodeid] = {"row": row, "test": report.nodeid, "outcome": report.outcome,
                                                              "measured": "; ".join(said)}

    def pytest_sessionfinish(self) -> None:
        self.path.write_text(json.dumps([self.results[key] for key in sorted(self.results)], indent=1) + "\n", "utf-8")


def pytest_configure(config: pytest.Config) -> None:
    path = config.getoption("--faults-json")
    if path is not None and not hasattr(config, "workerinput"):
        config.pluginmanager.register(FaultCollector(path))


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        item.user_properties += [("fault_row", mark.kwargs["row"]) for mark in item.iter_markers("fault")]
