"""A .sql file as a typed statement: the text a DBA reads is the text that runs."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any, Generic, TypeVar

from service.infra.db import Connection

SQL = Path(__file__).parents[2] / "sql"

Row = TypeVar("Row")


@dataclass(slots=True, frozen=True)
class NoRow:
    """The row type of a statement that answers no rows."""


class Statement(Generic[Row]):
    """One file under `sql/`, bound to the dataclass of its rows: columns in the order of its fields."""

    def __init__(self, name: str, row: type[Row]) -> None:
        """Load `sql/<name>.sql`; its name goes behind the first word, so that the server's own views name the file.

        Before it, pg_stat_statements would cut it off since PostgreSQL 18.
        """
        self.name = name
        self.row = row
        self.header, body = split((SQL / f"{name}.sql").read_text())
        verb = body.split(maxsplit=1)[0]
        self.sql = f"{verb} /* {name} */{body.removeprefix(verb)}"

    async def one(self, connection: Connection, *args: Any) -> Row:
        """The one row there always is."""
        record = await connection.fetchrow(self.sql, *args)
        assert record is not None, self.name
        return self.row(*record)

    async def maybe(self, connection: Connection, *args: Any) -> Row | None:
        """The row, or None where there is none."""
        record = await connection.fetchrow(self.sql, *args)
        return None if record is None else self.row(*record)

    async def all(self, connection: Connection, *args: Any) -> list[Row]:
        """All rows, in the statement's order."""
        row = self.row
        return [row(*record) for record in await connection.fetch(self.sql, *args)]

    async def run(self, connection: Connection, *args: Any) -> int:
        """Run a statement that answers no rows; the number of rows it touched."""
        status: str = await connection.execute(self.sql, *args)
        return int(status.rpartition(" ")[2])


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
