"""The picture of an order's states in README.md, drawn from the steps that the searches have made."""

import re
from collections import defaultdict
from collections.abc import Iterable
from pathlib import Path

from tests.model.search import Result, Statuses

README = Path(__file__).with_name("README.md")
DRAWING = re.compile(r"(?<=```mermaid\n).*?(?=```)", re.DOTALL)

ORDER_STATUSES = ("NONE", "PENDING_PAYMENT", "PAID", "FULFILLED", "CANCELLED")
PAYMENT_STATUSES = ("", "INITIATED", "PROCESSING", "SUCCEEDED", "REFUND_PENDING", "REFUNDED", "EXPIRED", "FAILED")
# What the picture calls a step whose label begins so.
NAMES = {
    "checkout: unit reserved": "checkout",
    "checkout: refused": "Stripe refuses the session",
    "end:": "hold ended or cancelled",
    "settled as expired": "session expired",
    "Stripe reports: expired": "session expired",
    "settled as failed": "payment failed",
    "Stripe reports: failed": "payment failed",
    "settled as processing": "bank payment begins",
    "Stripe reports: processing": "bank payment begins",
    "settled as paid": "paid",
    "Stripe reports: paid": "paid",
    "fulfilled": "fulfilled",
    "staff: refund": "full refund requested",
}


def picture(results: Iterable[Result]) -> str:
    """A mermaid state diagram: a state is the status of an order and of its payment, an arrow a kind of step."""
    arrows: dict[tuple[Statuses, Statuses], set[str]] = defaultdict(set)
    for result in results:
        for before, after, label in result.status_changes:
            arrows[before, after].add(step_name(before, after, label))
    states = sorted({state for pair in arrows for state in pair if state[0] != "NONE"}, key=position)
    lines = ["stateDiagram-v2", *(f"    {'_'.join(state)}: {' / '.join(state)}" for state in states)]
    for before, after in sorted(arrows, key=lambda pair: (position(pair[0]), position(pair[1]))):
        source = "[*]" if before[0] == "NONE" else "_".join(before)
        lines.append(f"    {source} --> {'_'.join(after)}: {', '.join(sorted(arrows[before, after]))}")
    return "\n".join(lines) + "\n"


def position(state: Statuses) -> tuple[int, int]:
    """The place of a state in the life of an order."""
    return ORDER_STATUSES.index(state[0]), PAYMENT_STATUSES.index(state[1])


def step_name(before: Statuses, after: Statuses, label: str) -> str:
    if label == "refunds: recorded":
        return "refund succeeded" if after[1] == "REFUNDED" else "refund failed"
    name = next(name for beginning, name in NAMES.items() if label.startswith(beginning))
    if before[0] == "CANCELLED" and name == "paid":
        return "late payment, unit taken again" if after[0] == "PAID" else "late payment, no unit"
    return name


def drawn_picture() -> str:
    """The picture in README.md."""
    match = DRAWING.search(README.read_text())
    assert match, "README.md has no picture"
    return match[0]


def write_picture(results: Iterable[Result]) -> None:
    """Draw the picture in README.md anew."""
    drawing = picture(results)
    README.write_text(DRAWING.sub(lambda _: drawing, README.read_text()))
