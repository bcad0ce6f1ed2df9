"""The results as an SVG of bars, readable on light and dark backgrounds."""

from collections.abc import Mapping, Sequence
from html import escape
from typing import Any

from tests.bench.figures import Row, amount

WIDTH, LABEL, BARS, LINE = 900, 330, 320, 24
# A bar ends at twice its goal; the number beside it is exact.
FARTHEST = 2.0

ENDS = ("median", "least", "most")

STYLE = """
svg { font: 13px system-ui, sans-serif; fill: #1f2328 }
.card { fill: #ffffff; stroke: #d1d9e0 } .title { font-weight: 600 } .faint { fill: #59636e }
.ours { fill: #0969da } .other { fill: #afb8c1 } .missed { fill: #bc4c00 }
.rule, .range { stroke: #1f2328; stroke-width: 1.5 }
@media (prefers-color-scheme: dark) {
  svg { fill: #f0f6fc }
  .card { fill: #0d1117; stroke: #3d444d } .faint { fill: #9198a1 }
  .ours { fill: #4493f8 } .other { fill: #656c76 } .missed { fill: #f0883e } .rule, .range { stroke: #f0f6fc }
}
"""


def picture(results: Mapping[str, Any]) -> str:
    """How far each goal is reached, then the rates of each benchmark."""
    drawing, benchmarks = _Drawing(), results["benchmarks"].values()
    goals = [row for benchmark in benchmarks for row in benchmark["figures"] if row.get("reached") is not None]
    if goals:
        drawing.heading("How far each figure gets; the line is its goal", "longer is better; ranges are of all rounds")
        top = drawing.y
        for row in goals:
            _goal(drawing, row)
        x = LABEL + BARS / FARTHEST
        drawing.add(f'<line class="rule" x1="{x}" x2="{x}" y1="{top - 4}" y2="{drawing.y - 4}"/>')
    for benchmark in benchmarks:
        rates = [row for row in benchmark["figures"] if row["unit"] == "/s"]
        if len(rates) > 1:
            drawing.heading(benchmark["title"], "a second; longer is better")
            most = max(row["most"] for row in rates)
            for row in rates:
                bounds = [row[name] / most for name in ENDS]
                drawing.bar(row["name"], "ours" if row["ours"] else "other", bounds, amount(row["median"], "/s"))
    return drawing.svg()


def _goal(drawing: "_Drawing", row: Row) -> None:
    judged, goal = row.get("ratio", row), row["goal"]
    # The bar's length is the share of the goal: the inverse of the value where less is better.
    shares = [goal["share"] * (judged[end] / judged["median"]) ** (-1 if "most" in goal else 1) for end in ENDS]
    bounds = [min(share, FARTHEST) / FARTHEST for share in shares]
    unit = "×" if "ratio" in row else row["unit"]
    bound = f"≤ {amount(goal['most'], unit)}" if "most" in goal else f"≥ {amount(goal['least'], unit)}"
    text = f"{amount(judged['median'], unit)}, goal {bound}{'' if row['reached'] else ': missed'}"
    drawing.bar(row["name"], "ours" if row["reached"] else "missed", bounds, text, LABEL + BARS)


class _Drawing:
    def __init__(self) -> None:
        self.y = 20.0
        self._elements: list[str] = []

    def add(self, element: str) -> None:
        self._elements.append(element)

    def heading(self, title: str, aside: str) -> None:
        self.y += 22
        self.add(f'<text class="title" x="20" y="{self.y}">{escape(title)}</text>')
        self.add(f'<text class="faint" x="{WIDTH - 20}" y="{self.y}" text-anchor="end">{escape(aside)}</text>')
        self.y += 16

    def bar(self, label: str, kind: str, bounds: Sequence[float], text: str, text_x: float = 0.0) -> None:
        """A bar to the first of `bounds` (shares of 1), a range from the second to the third, and text behind them."""
        end, low, high = (LABEL + bound * BARS for bound in bounds)
        middle = self.y + LINE / 2 - 4
        self.add(f'<text x="20" y="{middle + 4}">{escape(label)}</text>')
        self.add(
            f'<rect class="{kind}" x="{LABEL}" y="{self.y}" width="{end - LABEL:.1f}" height="{LINE - 8}" rx="2"/>'
        )
        self.add(f'<line class="range" x1="{low:.1f}" x2="{high:.1f}" y1="{middle}" y2="{middle}"/>')
        self.add(f'<text x="{max(end, low, high, text_x) + 8:.1f}" y="{middle + 4}">{escape(text)}</text>')
        self.y += LINE

    def svg(self) -> str:
        height = self.y + 16
        return (
            f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {height:g}" width="{WIDTH}" role="img">'
            f"<title>Results of make bench</title><style>{STYLE}</style>"
            f'<rect class="card" x="0.5" y="0.5" width="{WIDTH - 1}" height="{height - 1:g}" rx="8"/>'
            f"{''.join(self._elements)}</svg>\n"
        )
