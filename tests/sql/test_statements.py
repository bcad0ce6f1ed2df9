"""Each file under sql/ is bound by one module, and the server accepts it with the types that its header states."""

import importlib
import pkgutil
import re
from dataclasses import fields, is_dataclass
from datetime import datetime
from types import NoneType, UnionType
from typing import Any, Literal, Union, get_args, get_origin, get_type_hints
from uuid import UUID

import asyncpg
import pytest

import service
from service.infra.statements import SQL, Statement, files
from service.settings import has_tracing
from tests.client import Shop
from tests.sql.callers import callers_of
from tests.sql.headers import KEYS, header, header_text, value_of
from tests.sql.scenarios import SCENARIOS

# They bind no statement, and can only be imported with the extra `tracing`.
TRACED = {"service.http.server.tracing", "service.infra.tracing", "service.shop.traces"}


def bound() -> dict[str, list[tuple[str, Statement[object]]]]:
    """For each file, the modules that bind it at their top level, with the statements."""
    result: dict[str, list[tuple[str, Statement[object]]]] = {}
    for module in pkgutil.walk_packages(service.__path__, "service."):
        if module.name == "service.__main__" or (module.name in TRACED and not has_tracing()):
            continue
        loaded = importlib.import_module(module.name)
        values = [value for value in vars(loaded).values() if isinstance(value, Statement)]
        values += [
            s for value in vars(loaded).values() if isinstance(value, list) for s in value if isinstance(s, Statement)
        ]
        for statement in values:
            result.setdefault(statement.name, []).append((module.name, statement))
    return result


BOUND = bound()


@pytest.mark.parametrize("name", files())
def test_a_file_is_bound_once_and_names_its_callers(name: str) -> None:
    assert len(BOUND.get(name, [])) == 1, "a file is bound in exactly one module"
    assert header_text(name).startswith(f"-- {name}: ")
    assert [key for key in KEYS if key != "param"] == [key for key in header(name) if key != "param"], (
        "the keys in order, each with a value; `make stubs` writes the callers"
    )
    assert value_of(name, "callers").split(", ") == callers_of(name), "`make stubs` writes them"


@pytest.mark.asyncio(loop_scope="module")
@pytest.mark.parametrize("name", files())
async def test_parameters_and_columns_are_as_the_header_and_the_row_say(name: str, runner: asyncpg.Connection) -> None:
    _, statement = BOUND[name][0]
    prepared = await runner.prepare(statement.sql)
    prepared_types = [f"${n} {p.name}" for n, p in enumerate(prepared.get_parameters(), 1)]
    stated = [re.sub(r" \w+ ", " ", line.removesuffix(" null"), count=1) for line in header(name).get("param", [])]
    plain = {"float8": "double precision", "bool": "boolean", "int4": "integer", "int8": "bigint"}
    assert stated == [re.sub(r"\w+", lambda m: plain.get(m[0], m[0]), line) for line in prepared_types]
    columns = prepared.get_attributes()
    if is_dataclass(statement.row):
        types = get_type_hints(statement.row)
        assert [column.name for column in columns] == [field.name for field in fields(statement.row)]
    else:
        types = {column.name: statement.row for column in columns}
        assert len(columns) == (statement.row is not None), "a scalar type stands for one column"
    assert {column.name: TYPES[column.type.name] for column in columns} == {
        name: plain_type(hint) for name, hint in types.items()
    }


@pytest.mark.parametrize("name", files())
def test_a_scenario_leaves_out_only_what_may_be_null(name: str) -> None:
    assert name in SCENARIOS, f"sql/{name}.sql has no scenario: add its arguments to SCENARIOS"
    scenario = SCENARIOS[name]
    runs = [*scenario.does, *([scenario.none] if scenario.none else []), *scenario.refused.values()]
    parameters = header(name).get("param", [])
    assert {len(run.arguments) for run in runs} == {len(parameters)}, f"SCENARIOS has other arguments than {parameters}"
    nulls = {place for run in runs for place, value in enumerate(run.arguments) if value is None}
    assert nulls <= {place for place, line in enumerate(parameters) if line.endswith(" null")}


# The server's types, and what the driver makes of them.
TYPES: dict[str, type] = {
    "bool": bool,
    "bytea": bytes,
    "bytea[]": list,
    "int4": int,
    "int8": int,
    "float8": float,
    "int8[]": list,
    "jsonb": dict,
    "text": str,
    "text[]": list,
    "timestamptz": datetime,
    "timestamptz[]": list,
    "uuid": UUID,
}


def plain_type(hint: Any) -> type:
    """`UUID | None` -> `UUID`, `dict[str, Any]` -> `dict`, `Literal["OPEN"]` -> `str`."""
    if get_origin(hint) in (Union, UnionType):
        (hint,) = [part for part in get_args(hint) if part is not NoneType]
    return str if get_origin(hint) is Literal else get_origin(hint) or hint


async def test_pages_are_as_long_as_their_statements_say(shop: Shop) -> None:
    await shop.call("POST", "/categories", 201, {"name": "Tents"})
    for page, statement in PAGES.items():
        high = int(value_of(statement, "rows").partition("..")[2].partition(" ")[0])
        # One row more than the page has is read, to see whether there is another page.
        await shop.call("GET", f"{page}limit={high - 1}", 200)
        await shop.call("GET", f"{page}limit={high}", 422)


PAGES = {
    "/categories?": "catalog/list_categories",
    "/orders?": "orders/list_orders",
    "/orders?status=PAID&": "orders/list_orders_by_status",
}


def test_each_row_of_a_history_names_who_did_it() -> None:
    insert = re.compile(r"INSERT INTO (?:order_events|stock_movements|refunds) \(([^)]*)\)")
    inserted = [(name, columns) for name in files() for columns in insert.findall((SQL / f"{name}.sql").read_text())]

    assert len(inserted) >= 14
    assert [name for name, columns in inserted if "actor" not in re.findall(r"\w+", columns)] == []
