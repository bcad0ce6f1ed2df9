"""What the header of a file under `sql/` says, taken apart; sql/README.md has the grammar."""

import re
from functools import cache
from typing import NamedTuple

from service.infra.statements import SQL, files, split

KEYS = ("callers", "param", "returns", "locks", "waits", "index", "rows", "guards")

# Weakest first; two of one row go beside each other when their places add up to less than three.
STRENGTHS = ("KEY SHARE", "SHARE", "NO KEY UPDATE", "UPDATE")


class Lock(NamedTuple):
    """Rows of a table that a statement locks, and in which order: `by id`, `in no order`, `SKIP LOCKED` or ``."""

    table: str
    strength: str
    order: str


class Waits(NamedTuple):
    """The tables on whose rows a statement can wait, and the statement before it that holds the other rows."""

    on: tuple[str, ...]
    holder: str | None


def header_text(name: str) -> str:
    """The comment at the top of a file."""
    return split((SQL / f"{name}.sql").read_text())[0]


@cache
def header(name: str) -> dict[str, list[str]]:
    """The values of each key; a value may go on in lines that begin with ten spaces."""
    text = header_text(name)
    found: dict[str, list[str]] = {}
    for line in re.sub(r"\n-- {10}", " ", text).splitlines():
        if match := re.fullmatch(rf"-- ({'|'.join(KEYS)}) +(\S.*)", line):
            found.setdefault(match[1], []).append(match[2])
    return found


def body(name: str) -> str:
    """The statement as it stands in its file."""
    return split((SQL / f"{name}.sql").read_text())[1]


def said(name: str, key: str) -> str:
    """The one value of a key."""
    values = header(name).get(key, [])
    assert len(values) == 1, f"sql/{name}.sql says {key} {len(values)} times, not once"
    return values[0]


def locks(name: str) -> list[Lock]:
    """The rows there are that the header says it locks, in that order; a new row is nothing that others could lock."""
    found = []
    for part in said(name, "locks").split("; "):
        if match := re.fullmatch(rf"(.+?) ({'|'.join(sorted(STRENGTHS, key=len, reverse=True))})( .+)?", part):
            found += [Lock(table, match[2], (match[3] or "").strip()) for table in match[1].split(", ")]
    return found


def waits(name: str) -> Waits:
    """What the header says of waiting, where it says that in its form."""
    value = said(name, "waits")
    holder = re.search(r"(\w+/\w+) has locked ", value)
    ends = "55P03 after lock_timeout -> busy|no limit"
    match = re.fullmatch(rf"none|for nothing: .+|on ([a-z_]+(?:, [a-z_]+)*) for [^;]+; (?:{ends})(?:; .+)?", value)
    assert match, f"sql/{name}.sql: waits is not of the form that sql/README.md gives: {value}"
    return Waits(tuple(match[1].split(", ")) if match[1] else (), holder and holder[1])


def guards(name: str) -> tuple[dict[str, str], dict[str, str]]:
    """Constraint -> code: those that it can run into, and those that it never does."""
    real: dict[str, str] = {}
    never: dict[str, str] = {}
    if (value := said(name, "guards")) != "none":
        for part in value.split(", "):
            match = re.fullmatch(r"(never )?(\w+) -> (\w+)", part)
            assert match, f"sql/{name}.sql: guards is not of the form `[never] constraint -> code, …`: {part}"
            (never if match[1] else real)[match[2]] = match[3]
    return real, never


def conflict(one: str, other: str) -> bool:
    """Whether two locks of one row exclude each other."""
    return STRENGTHS.index(one) + STRENGTHS.index(other) >= 3


def in_the_way(name: str, table: str, strength: str, has: str | None) -> list[str]:
    """The statements that, by their headers, lock rows of a table so that this one waits, which `has` them already.

    Not those which wait for each other before they come there: at the cart to which both lines belong, for example.
    """
    found = []
    for other in files():
        for lock in locks(other):
            if lock.table != table or not conflict(lock.strength, strength) or (has and conflict(lock.strength, has)):
                continue
            met = any(
                here.table == there.table and conflict(here.strength, there.strength)
                for here in _before(name, table)
                for there in _before(other, table)
            )
            found += [] if met else [other]
    return found


def _before(name: str, table: str) -> list[Lock]:
    """The locks that are there when a statement comes to a table."""
    own = locks(name)
    tables = [lock.table for lock in own]
    holder = waits(name).holder
    return (locks(holder) if holder else []) + own[: tables.index(table)]
