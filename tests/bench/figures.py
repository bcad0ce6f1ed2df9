"""Figures and goals: the values of each round, and whether a goal is reached. Reads no clock and no files."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from math import ceil
from statistics import median
from typing import Any, TypeVar

T = TypeVar("T")
Row = dict[str, Any]

TABLE_START, TABLE_END = "<!-- bench -->", "<!-- /bench -->"


@dataclass(frozen=True, slots=True)
class Goal:
    """A bound on a figure, or on its ratio where it has a reference. `measure` and `words` are its text in the table.

    Without a bound the figure is only reported.
    """

    measure: str
    words: str
    least: float | None = None
    most: float | None = None

    def reached(self, value: float) -> bool:
        """Whether a value lies within the bound."""
        return (self.least is None or value >= self.least) and (self.most is None or value <= self.most)

    def share(self, value: float) -> float:
        """The value as a share of its bound: 1 at the bound, more than 1 when it is better."""
        if self.most is not None:
            return self.most / value
        return value / (self.least or value)

    @property
    def bound(self) -> bool:
        """Whether there is a bound."""
        return self.least is not None or self.most is not None


@dataclass(slots=True)
class Figure:
    """One value a round. `reference` names the figure of the same benchmark that it is divided by, round by round."""

    name: str
    unit: str
    rounds: Sequence[float]
    ours: bool = False
    reference: str = ""
    goal: Goal | None = None
    note: str = ""


@dataclass(slots=True)
class Measured:
    """The result of a benchmark: its figures, and details for a reader."""

    figures: list[Figure]
    details: dict[str, Any] = field(default_factory=dict)


def spread(values: Sequence[float]) -> dict[str, float]:
    """Median, smallest and largest."""
    return {"median": median(values), "least": min(values), "most": max(values)}


def pairs(values: Sequence[float], others: Sequence[float]) -> list[float]:
    """The ratio of each round: a machine that slows down for a while slows both values."""
    return [value / other for value, other in zip(values, others, strict=True)]


def rows(figures: Sequence[Figure]) -> list[Row]:
    """The figures as they are stored in results.json, with ratios and verdicts."""
    by_name = {figure.name: figure for figure in figures}
    result = []
    for figure in figures:
        row: Row = {"name": figure.name, "unit": figure.unit, "ours": figure.ours, **spread(figure.rounds)}
        row["rounds"] = list(figure.rounds)
        if figure.note:
            row["note"] = figure.note
        judged = row["median"]
        if figure.reference:
            ratio = spread(pairs(figure.rounds, by_name[figure.reference].rounds))
            row |= {"reference": figure.reference, "ratio": ratio}
            judged = row["ratio"]["median"]
        if goal := figure.goal:
            row["goal"] = {"measure": goal.measure, "words": goal.words, "share": goal.share(judged)}
            bounds = {"least": goal.least, "most": goal.most}
            row["goal"] |= {name: bound for name, bound in bounds.items() if bound is not None}
            row["reached"] = goal.reached(judged) if goal.bound else None
        result.append(row)
    return result


def alternately(rounds: int, targets: Mapping[str, Callable[[], T]]) -> dict[str, list[T]]:
    """Run each target once a round, forwards and backwards by turns, so that none has an advantage; all results."""
    results: dict[str, list[T]] = {name: [] for name in targets}
    for number in range(rounds):
        for name in list(targets)[:: -1 if number % 2 else 1]:
            results[name].append(targets[name]())
    return results


def percentile(values: Sequence[float], share: float) -> float:
    """The smallest value that at least this share of all values does not exceed."""
    ordered = sorted(values)
    return ordered[max(0, ceil(len(ordered) * share) - 1)]


def number(value: float) -> str:
    """A number with its significant digits."""
    if abs(value) >= 100 or value == round(value):
        return f"{value:,.0f}"
    return f"{value:.1f}" if abs(value) >= 10 else f"{value:.2f}"


def amount(value: float, unit: str) -> str:
    """A value with its unit."""
    return f"{number(value)}{'' if unit.startswith('/') else ' '}{unit}".strip()


def measured(row: Row) -> str:
    """A row's median and range, and the median and range of its ratio."""
    text = f"{amount(row['median'], row['unit'])} ({number(row['least'])} to {number(row['most'])})"
    if "ratio" in row:
        ratio = row["ratio"]
        text += f", {number(ratio['median'])} × {row['reference']}"
        text += f" ({number(ratio['least'])} to {number(ratio['most'])})"
    return text


def verdict(row: Row) -> str:
    """Whether a goal is reached; if not, how near it is."""
    if row["reached"] is None:
        return ""
    if row["reached"]:
        return "reached"
    return f"missed: {row['goal']['share'] * 100:.0f} % of the way"


def table(results: Mapping[str, Any]) -> str:
    """The table of docs/performance.md, with every goal that was measured."""
    lines = ["| measure | goal | measured: median (range) | |", "| --- | --- | --- | --- |"]
    for benchmark in results["benchmarks"].values():
        for row in benchmark["figures"]:
            if "goal" in row:
                goal = row["goal"]
                lines.append(f"| {goal['measure']} | {goal['words']} | {measured(row)} | {verdict(row)} |")
    return "\n".join(lines)


def document(text: str, results: Mapping[str, Any]) -> str:
    """The document with the text between its markers replaced. Raises ValueError unless each marker is there once."""
    if text.count(TABLE_START) != 1 or text.count(TABLE_END) != 1:
        raise ValueError(f"the document needs {TABLE_START} and {TABLE_END} once each")
    before, _, rest = text.partition(TABLE_START)
    after = rest.partition(TABLE_END)[2]
    machine = results["machine"]
    benchmarks = results["benchmarks"].values()
    commits = ", ".join(sorted({benchmark["commit"] for benchmark in benchmarks}))
    rounds = min(benchmark["rounds"] for benchmark in benchmarks)
    idle = min(benchmark["idle_before"] for benchmark in benchmarks)
    where = (
        f"{machine['cores']} cores ({machine['cpu']}), {machine['memory_gb']} GB, Python {machine['python']}, "
        f"PostgreSQL {machine['postgresql']}, everything on this one machine; at {commits}, "
        f"{rounds} rounds, the CPUs at least {idle:.0f} % idle before each benchmark."
    )
    section = f"\n{table(results)}\n\n![How far each figure gets](../tests/bench/results.svg)\n\n{where}\n"
    return f"{before}{TABLE_START}{section}{TABLE_END}{after}"
