"""How the benchmarks evaluate and report their measurements; `make bench` does the measuring."""

from typing import Any
from xml.etree import ElementTree

import orjson
import pytest

from tests.bench.__main__ import DOCUMENT, FOLDER
from tests.bench.benchmarks import BENCHMARKS
from tests.bench.benchmarks.reserve import one_statement
from tests.bench.figures import Figure, Goal, alternately, document, percentile, rows, table, verdict
from tests.bench.picture import picture

TWICE = Goal("pages & more", "at least 2 × the reference", least=2)
QUICK = Goal("a page's time", "under 5 ms", most=5)

FIGURES = [
    Figure("the reference", "/s", [1000, 500, 2000]),
    Figure("pages", "/s", [2500, 1250, 2000], True, "the reference", TWICE),
    Figure("time", "ms", [4, 10, 8], True, "", QUICK),
    Figure("without a bound", "/s", [1, 2, 3], True, "", Goal("without a bound", "reported")),
]


@pytest.fixture
def results() -> dict[str, Any]:
    benchmark = {"title": "Pages", "commit": "abc", "idle_before": 97.5, "rounds": 3, "figures": rows(FIGURES)}
    machine = {"cores": 2, "cpu": "a processor", "memory_gb": 24, "python": "3.11.7", "postgresql": "18.6"}
    return {"machine": machine, "benchmarks": {"pages": benchmark}}


def test_a_ratio_is_taken_in_pairs_of_the_same_round() -> None:
    _, pages, time, reported = rows(FIGURES)

    # The rounds were 2.5, 2.5 and 1 times the reference; the median is 2 times the reference's.
    assert pages["ratio"] == {"median": 2.5, "least": 1.0, "most": 2.5}
    assert (pages["median"], pages["least"], pages["most"]) == (2000, 1250, 2500)
    assert pages["reached"] is True
    assert verdict(pages) == "reached"
    assert time["reached"] is False
    assert verdict(time) == "missed: 62 % of the way"
    assert verdict(reported) == ""


def test_the_reference_must_have_as_many_rounds() -> None:
    with pytest.raises(ValueError, match="zip"):
        rows([Figure("a", "/s", [1, 2]), Figure("b", "/s", [1], reference="a")])


def test_a_percentile_is_a_value_that_occurred() -> None:
    assert percentile([5, 1, 4, 2, 3], 0.5) == 3
    assert percentile(range(1, 101), 0.99) == 99
    assert percentile([7], 0.99) == 7


def test_targets_take_turns() -> None:
    calls: list[str] = []
    targets = {"a": lambda: calls.append("a"), "b": lambda: calls.append("b")}

    assert alternately(3, targets) == {"a": [None] * 3, "b": [None] * 3}

    assert "".join(calls) == "abbaab"


def test_the_table_has_every_goal(results: dict[str, Any]) -> None:
    lines = table(results).splitlines()

    assert len(lines) == 2 + 3
    measured = "2,000/s (1,250 to 2,500), 2.50 × the reference (1 to 2.50)"
    assert lines[2] == f"| pages & more | at least 2 × the reference | {measured} | reached |"


def test_the_document_is_changed_between_its_markers_only(results: dict[str, Any]) -> None:
    changed = document("before <!-- bench --> former <!-- /bench --> after", results)

    assert changed.startswith("before <!-- bench -->\n| measure |")
    assert changed.endswith("<!-- /bench --> after")
    assert "former" not in changed
    assert "at abc, 3 rounds" in changed
    assert document(changed, results) == changed
    with pytest.raises(ValueError, match="once each"):
        document("no markers", results)


def test_the_document_shows_the_stored_results() -> None:
    text = DOCUMENT.read_text()
    assert document(text, orjson.loads((FOLDER / "results.json").read_bytes())) == text, "tests.bench --document"


def test_the_picture_shows_every_bound_goal_and_every_rate(results: dict[str, Any]) -> None:
    drawing = ElementTree.fromstring(picture(results))

    svg = "{http://www.w3.org/2000/svg}"
    texts = [element.text for element in drawing.iter(f"{svg}text")]
    assert "2.50 ×, goal ≥ 2 ×" in texts
    assert "8 ms, goal ≤ 5 ms: missed" in texts
    assert not [text for text in texts if text and "reported" in text]
    bars = [element.get("class") for element in drawing.iter(f"{svg}rect")]
    assert bars == ["card", "ours", "missed", "other", "ours", "ours"]


def test_parts_are_named_once() -> None:
    names = [benchmark.name for benchmark in BENCHMARKS]

    assert len(names) == len(set(names)) > 0


def test_the_reserve_statement_is_written_out_for_pgbench() -> None:
    script = one_statement()

    assert "$" not in script
    assert script.count("\\set") == 3
