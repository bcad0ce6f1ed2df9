"""Parses the headers of the files under `sql/`; sql/README.md explains their grammar.

As a program, writes the lock map into sql/README.md.
"""

import re
from functools import cache
from typing import NamedTuple

from service.infra.statements import SQL, files, split

README = SQL / "README.md"
KEYS = ("callers", "param", "returns", "locks", "waits", "index", "rows", "guards")

# Row lock strengths, weakest first. Two locks of one row are compatible when their indexes add up to less than three.
STRENGTHS = ("KEY SHARE", "SHARE", "NO KEY UPDATE", "UPDATE")


class Lock(NamedTuple):
    """The rows of a table that a statement locks. `order` is `by id`, `in no order`, `SKIP LOCKED` or empty."""

    table: str
    strength: str
    order: str


class Waits(NamedTuple):
    """The tables on whose rows a statement can wait.

    `predecessor` is the statement that its transaction has run before, and that has locked rows for it.
    """

    on: tuple[str, ...]
    predecessor: str | None


def header_text(name: str) -> str:
    """The comment at the top of a file."""
    return split((SQL / f"{name}.sql").read_text())[0]


@cache
def header(name: str) -> dict[str, list[str]]:
    """The values of each key; a line that begins with ten spaces continues the value above it."""
    text = header_text(name)
    values: dict[str, list[str]] = {}
    for line in re.sub(r"\n-- {10}", " ", text).splitlines():
        if match := re.fullmatch(rf"-- ({'|'.join(KEYS)}) +(\S.*)", line):
            values.setdefault(match[1], []).append(match[2])
    return values


def body(name: str) -> str:
    """The statement, as its file has it."""
    return split((SQL / f"{name}.sql").read_text())[1]


def value_of(name: str, key: str) -> str:
    """The value of a key that occurs once."""
    values = header(name).get(key, [])
    assert len(values) == 1, f"sql/{name}.sql has {len(values)} lines `{key}` instead of one"
    return values[0]


def locks(name: str) -> list[Lock]:
    """The locks of existing rows, in the header's order. New rows are left out: nobody else can lock them yet."""
    result = []
    for part in value_of(name, "locks").split("; "):
        if match := re.fullmatch(rf"(.+?) ({'|'.join(sorted(STRENGTHS, key=len, reverse=True))})( .+)?", part):
            result += [Lock(table, match[2], (match[3] or "").strip()) for table in match[1].split(", ")]
    return result


def waits(name: str) -> Waits:
    """What the `waits` line says; fails when the line does not follow the grammar."""
    value = value_of(name, "waits")
    predecessor = re.search(r"(\w+/\w+) has locked ", value)
    ends = "55P03 after lock_timeout -> busy|no limit"
    match = re.fullmatch(rf"none|for nothing: .+|on ([a-z_]+(?:, [a-z_]+)*) for [^;]+; (?:{ends})(?:; .+)?", value)
    assert match, f"sql/{name}.sql: `waits` does not follow the grammar in sql/README.md: {value}"
    return Waits(tuple(match[1].split(", ")) if match[1] else (), predecessor and predecessor[1])


def guards(name: str) -> tuple[dict[str, str], dict[str, str]]:
    """Constraint -> error code: the guards that the statement can violate, and those that it never can."""
    possible: dict[str, str] = {}
    never: dict[str, str] = {}
    if (value := value_of(name, "guards")) != "none":
        for part in value.split(", "):
            match = re.fullmatch(r"(never )?(\w+) -> (\w+)", part)
            assert match, f"sql/{name}.sql: `guards` is not `[never] constraint -> code, …`: {part}"
            (never if match[1] else possible)[match[2]] = match[3]
    return possible, never


def conflict(one: str, other: str) -> bool:
    """Whether two locks of one row exclude each other."""
    return STRENGTHS.index(one) + STRENGTHS.index(other) >= 3


def conflicting_statements(name: str, table: str, strength: str, own: str | None) -> list[str]:
    """The statements for which this one waits when it locks a row of `table` with `strength`, by all headers.

    `own` is the lock that its transaction already has on the row: what conflicts with that cannot be there any more.
    A statement that meets this one at an earlier row is left out: the two already queue there, for example at the cart.
    """
    return [
        other
        for other in files()
        for lock in locks(other)
        if lock.table == table
        and conflict(lock.strength, strength)
        and not (own and conflict(lock.strength, own))
        and not _meet_before(name, other, table)
    ]


def _meet_before(name: str, other: str, table: str) -> bool:
    """Whether two statements have conflicting locks of an earlier table when they come to this one."""
    return any(
        mine.table == theirs.table and conflict(mine.strength, theirs.strength)
        for mine in _locks_before(name, table)
        for theirs in _locks_before(other, table)
    )


def _locks_before(name: str, table: str) -> list[Lock]:
    """The locks that a statement's transaction has when the statement comes to a table."""
    own = locks(name)
    predecessor = waits(name).predecessor
    position = [lock.table for lock in own].index(table)
    return (locks(predecessor) if predecessor else []) + own[:position]


def lock_map() -> str:
    """For each table, the statements that lock its rows, by strength: a table in Markdown."""
    lockers: dict[str, dict[str, list[str]]] = {}
    for name in files():
        for lock in locks(name):
            lockers.setdefault(lock.table, {}).setdefault(lock.strength, []).append(f"`{name}`")
    # No statement takes SHARE.
    strengths = ("KEY SHARE", "NO KEY UPDATE", "UPDATE")
    assert {strength for table in lockers.values() for strength in table} <= {*strengths}
    lines = [" | ".join(["| rows of", *strengths, ""]).strip(), "| --- " * 4 + "|"]
    for table in dict.fromkeys(["carts", "orders", "payments", "products", *sorted(lockers)]):
        cells = [", ".join(lockers[table].get(strength, [])) for strength in strengths]
        lines.append(" | ".join([f"| `{table}`", *cells, ""]).strip())
    return "\n".join(lines) + "\n"


def write() -> None:
    """Replace the lock map in sql/README.md."""
    table = re.compile(r"^\| rows of \|.*\n(?:\|.*\n)+", re.MULTILINE)
    README.write_text(table.sub(lock_map(), README.read_text()))


if __name__ == "__main__":
    write()
