"""The types of all statements, from their headers. As a program, writes them into service/infra/sql.pyi."""

from collections.abc import Sequence
from pathlib import Path

from service.infra.statements import SQL, Parameter, files, parameters, returns, split

STUB = SQL.parent / "service" / "infra" / "sql.pyi"

# PostgreSQL's types -> those that asyncpg and our codecs take.
TYPES = {
    "bigint": "int",
    "boolean": "bool",
    "bytea": "bytes",
    "double precision": "float",
    "integer": "int",
    "jsonb": "dict[str, Any]",
    "text": "str",
    "timestamptz": "datetime",
    "uuid": "UUID",
}
# The kind that a `returns` line says -> the method that runs it, and what that returns.
METHODS = {
    "one": ("one", "Row"),
    "one or none": ("one_or_none", "Row | None"),
    "many": ("all", "list[Row]"),
    "none": ("run", "int"),
}
HEAD = """\
# Written by `make stubs` from the headers under sql/: change those.

from collections.abc import Sequence
from datetime import datetime
from typing import Any, Literal, TypeVar, overload
from uuid import UUID

from service.infra.db import Connection
from service.infra.statements import Statement

Row = TypeVar("Row")
"""


def stub(names: Sequence[str]) -> str:
    """A class for each statement with the one method that runs it, and an overload of `statement` that returns it."""
    classes, overloads = [], []
    for name in names:
        header, _ = split((SQL / f"{name}.sql").read_text())
        method, result = METHODS[returns(header)]
        variable = "None" if method == "run" else "Row"
        arguments = [f"{parameter.name}: {python_type(parameter)}" for parameter in parameters(header)]
        arguments = ["self", "connection: Connection", "/", *(["*", *arguments] if arguments else [])]
        classes.append(
            f"\nclass {class_name(name)}(Statement[{variable}]):\n"
            + signature(f"    async def {method}(", arguments, end=f") -> {result}: ...")
        )
        arguments = [f'name: Literal["{name}"]', *(["row: type[Row]"] if variable == "Row" else [])]
        result = f"{class_name(name)}[Row]" if variable == "Row" else class_name(name)
        overloads.append("@overload\n" + signature("def statement(", arguments, end=f") -> {result}: ..."))
    return f"{HEAD}{''.join(classes)}\n{''.join(overloads)}"


def class_name(name: str) -> str:
    """`checkout/close_cart` -> `CheckoutCloseCart`."""
    return name.replace("/", "_").title().replace("_", "")


def signature(start: str, arguments: Sequence[str], *, end: str) -> str:
    """In one line, in three or with a line for each argument, as ruff formats it."""
    indent = start[: len(start) - len(start.lstrip())]
    line = ", ".join(arguments)
    if len(start + line + end) <= 120:
        return f"{start}{line}{end}\n"
    if len(f"{indent}    {line}") <= 120:
        return f"{start}\n{indent}    {line}\n{indent}{end}\n"
    lines = "".join(f"{indent}    {argument},\n" for argument in arguments)
    return f"{start}\n{lines}{indent}{end}\n"


def python_type(parameter: Parameter) -> str:
    element = TYPES[parameter.type.removesuffix("[]")]
    plain = f"Sequence[{element}]" if parameter.type.endswith("[]") else element
    return f"{plain} | None" if parameter.nullable else plain


def write(path: Path = STUB) -> None:
    path.write_text(stub(files()))


if __name__ == "__main__":
    write()
