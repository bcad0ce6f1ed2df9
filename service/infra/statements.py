"""A .sql file as a statement that is called by the names of its parameters: the text a DBA reads is the text that runs.

Statements are bound by `service.infra.sql.statement`, whose stub types every call from the file's header.
"""

import re
from dataclasses import is_dataclass
from time import perf_counter
from typing import Any, Generic, NamedTuple, TypeVar

from service.infra.db import Connection
from service.infra.metrics import POSTGRESQL
from service.infra.packaged import packaged_folder

SQL = packaged_folder("sql")

Row = TypeVar("Row")


class Parameter(NamedTuple):
    """A `param` line of a header: `type` as PostgreSQL spells it."""

    name: str
    type: str
    nullable: bool


class Statement(Generic[Row]):
    """One file under `sql/`. `row` is the dataclass of its columns in their order, or the type of its only column.

    The subclasses have one method each, so that a statement can only be run as its `returns` line says.
    """

    def __init__(self, name: str, row: type[Row] | None = None) -> None:
        """Load `sql/<name>.sql`, and insert its name after the first word.

        Since PostgreSQL 18, pg_stat_statements omits a comment before the first word.
        """
        self.name = name
        self.row: Any = row
        self.is_scalar = not is_dataclass(row)
        self.header, body = split((SQL / f"{name}.sql").read_text())
        self.parameters = [parameter.name for parameter in parameters(self.header)]
        verb = body.split(maxsplit=1)[0]
        self.latency = POSTGRESQL.labels(name.partition("/")[0])
        self.sql = f"{verb} /*action='{name}'*/{body.removeprefix(verb)}"

    def arguments(self, values: dict[str, Any]) -> list[Any]:
        """The values in the order of their positions. Raises TypeError if the names are not the parameters'."""
        try:
            if len(values) == len(self.parameters):
                return [values[name] for name in self.parameters]
        except KeyError:
            pass
        raise TypeError(f"{self.name} takes ({', '.join(self.parameters)}), not ({', '.join(values)})")


class One(Statement[Row]):
    """Always answers one row."""

    async def one(self, connection: Connection, /, **values: Any) -> Row:
        """The row."""
        started = perf_counter()
        record = await connection.fetchrow(self.sql, *self.arguments(values))
        self.latency.observe(perf_counter() - started)
        assert record is not None, self.name
        row: Row = record[0] if self.is_scalar else self.row(*record)
        return row


class OneOrNone(Statement[Row]):
    """Answers one row, or none."""

    async def one_or_none(self, connection: Connection, /, **values: Any) -> Row | None:
        """The row, or None; the header says what that means."""
        started = perf_counter()
        record = await connection.fetchrow(self.sql, *self.arguments(values))
        self.latency.observe(perf_counter() - started)
        if record is None:
            return None
        row: Row = record[0] if self.is_scalar else self.row(*record)
        return row


class Many(Statement[Row]):
    """Answers any number of rows."""

    async def all(self, connection: Connection, /, **values: Any) -> list[Row]:
        """All rows, in the statement's order."""
        started = perf_counter()
        records = await connection.fetch(self.sql, *self.arguments(values))
        self.latency.observe(perf_counter() - started)
        if self.is_scalar:
            return [record[0] for record in records]
        row = self.row
        return [row(*record) for record in records]


class Command(Statement[None]):
    """Answers no rows."""

    async def run(self, connection: Connection, /, **values: Any) -> int:
        """The number of rows that it wrote."""
        started = perf_counter()
        status: str = await connection.execute(self.sql, *self.arguments(values))
        self.latency.observe(perf_counter() - started)
        return int(status.rpartition(" ")[2])


KINDS: dict[str, type[Statement[Any]]] = {"one or none": OneOrNone, "one": One, "many": Many, "none": Command}


def bind(name: str, row: type[Any] | None = None) -> Statement[Any]:
    """The statement of a file, of the kind that its `returns` line says."""
    header, _ = split((SQL / f"{name}.sql").read_text())
    return KINDS[returns(header)](name, row)


def parameters(header: str) -> list[Parameter]:
    """A header's `param` lines, `$n name type` or `$n name type null`, in the order of their positions."""
    lines = re.findall(r"^-- param +\$\d+ (\w+) (.+?)( null)?$", header, re.MULTILINE)
    return [Parameter(name, type_name, bool(null)) for name, type_name, null in lines]


def returns(header: str) -> str:
    """The kind of a header's `returns` line, a key of KINDS."""
    match = re.search(rf"^-- returns +({'|'.join(KINDS)})\b", header, re.MULTILINE)
    assert match, f"There is no `returns` of a known kind in:\n{header}"
    return match[1]


def split(text: str) -> tuple[str, str]:
    """A file's header (its leading comment lines) and the statement below it, without the closing semicolon."""
    lines = text.splitlines()
    first = next(number for number, line in enumerate(lines) if not line.startswith("--"))
    return "\n".join(lines[:first]), "\n".join(lines[first:]).strip().rstrip(";")


def files(folder: str = "") -> list[str]:
    """The names of all statements, or of those in one folder, sorted. Raises FileNotFoundError where there is none."""
    names = sorted(str(path.relative_to(SQL).with_suffix("")) for path in (SQL / folder).rglob("*.sql"))
    if not names:
        raise FileNotFoundError(f"There is no SQL statement in {SQL / folder}.")
    return names
