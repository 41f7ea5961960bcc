"""The page of faults says what tests measured, and nothing else."""

from __future__ import annotations

import importlib.util
import json
import re
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
pytest_plugins = ["pytester"]


@pytest.fixture(scope="module")
def faults():
    spec = importlib.util.spec_from_file_location("faults_page", ROOT / "docs" / "faults.py")
    module = importlib.util.module_from_spec(spec)
    sys.modules["faults_page"] = module
    spec.loader.exec_module(module)
    return module


def cells(text, row):
    line = next(line for line in text.splitlines() if line.startswith(f"| {row} |"))
    return [cell.strip() for cell in re.split(r"(?<!\\)\|", line)[1:-1]]


def test_the_table_has_every_row_once_and_its_layer(faults):
    assert [row.number for row in faults.ROWS] == list(range(1, 39))
    assert all(row.layer in faults.LAYERS and len(row.required) > 10 for row in faults.ROWS)
    text = faults.document([])
    assert "0 of 38 rows have a test" in text
    for row in faults.ROWS:
        assert cells(text, row.number)[3:] == ["not measured", "–"]


def test_a_row_tells_what_its_tests_measured_and_which_failed(faults):
    results = [faults.Result(3, "t.py::a[1]", "passed", "BRAKE at 5 | 6 ms"), faults.Result(3, "t.py::a[2]", "passed", "BRAKE at 5 | 6 ms"),
               faults.Result(3, "t.py::b", "failed", "all is well"), faults.Result(4, "t.py::c", "skipped"),
               faults.Result(5, "t.py::d", "passed")]
    text = faults.document(results)
    assert cells(text, 3)[3] == r"**1 of 3 tests failed**; BRAKE at 5 \| 6 ms"
    assert cells(text, 3)[4] == "`t.py::a` (2 of 2 passed)<br>`t.py::b` (0 of 1 passed)"
    assert cells(text, 4)[3] == "1 of 1 tests skipped"
    assert cells(text, 5)[3] == "as required"
    assert "3 of 38 rows have a test" in text
    with pytest.raises(ValueError, match=r"t\.py::x \(row 39\)"):
        faults.document([faults.Result(39, "t.py::x", "passed")])


def test_the_page_in_the_repository_is_of_this_table(faults):
    page = (ROOT / "docs" / "faults.md").read_text("utf-8")
    for row in faults.ROWS:
        assert cells(page, row.number)[:3] == cells(faults.document([]), row.number)[:3]
    assert "failed**" not in page
    for test in set(re.findall(r"`(tests/[^`]+)`", page)):
        path, name = test.split("::")
        assert f"def {name}(" in (ROOT / path).read_text("utf-8"), test


def test_results_are_collected_from_marks_and_properties(pytester, faults):
    pytester.makeconftest((ROOT / "tests" / "conftest.py").read_text("utf-8"))
    pytester.makeini("[pytest]\nmarkers = fault(row): of a row\n")
    pytester.makepyfile("""
        import pytest

        @pytest.mark.fault(row=1)
        @pytest.mark.fault(row=2)
        def test_good(record_property):
            record_property("measured", "5 ms")

        @pytest.mark.fault(row=3)
        def test_bad(record_property):
            record_property("measured", "5 ms")
            assert False

        @pytest.mark.fault(row=4)
        def test_skipped():
            pytest.skip("not here")

        @pytest.fixture
        def broken():
            raise RuntimeError

        @pytest.mark.fault(row=5)
        def test_broken(broken):
            pass

        def test_other():
            pass
    """)
    pytester.runpytest_inprocess("--faults-json", "out.json", "-p", "no:cacheprovider")
    found = {(r.row, r.outcome, r.measured) for r in faults.read([pytester.path / "out.json"])}
    assert found == {(1, "passed", "5 ms"), (2, "passed", "5 ms"), (3, "failed", "5 ms"), (4, "skipped", ""), (5, "failed", "")}
    assert len(json.loads((pytester.path / "out.json").read_text())) == 5
