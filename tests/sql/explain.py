"""The plans of a statement: the generic one, which serves all parameters, and the custom one for certain arguments."""

from collections.abc import Iterator, Sequence
from typing import Any

import asyncpg
import orjson

from service.infra.statements import Statement

Node = dict[str, Any]


async def explain(connection: asyncpg.Connection, sql: str, options: str = "COSTS OFF") -> str:
    """The output of EXPLAIN, with these options, for a statement's generic plan."""
    parameters = (await connection.prepare(sql)).get_parameters()
    await connection.execute(f"SET plan_cache_mode = force_generic_plan; PREPARE explained AS {sql}")
    try:
        # Nulls are enough: a generic plan does not depend on the values.
        arguments = f"({', '.join(['NULL'] * len(parameters))})" if parameters else ""
        lines = await connection.fetch(f"EXPLAIN ({options}) EXECUTE explained{arguments}")
    finally:
        await connection.execute("DEALLOCATE explained; RESET plan_cache_mode")
    return "\n".join(line for (line,) in lines)


async def nodes(connection: asyncpg.Connection, name: str) -> list[Node]:
    """All nodes of the plan of a file under `sql/`."""
    return [*walk(await root(connection, name))]


async def custom_nodes(connection: asyncpg.Connection, name: str, arguments: Sequence[Any]) -> list[Node]:
    """All nodes of the plan of a file under `sql/` for these arguments."""
    await connection.execute("SET plan_cache_mode = force_custom_plan")
    try:
        text = await connection.fetchval(f"EXPLAIN (FORMAT JSON) {Statement(name).sql}", *arguments)
    finally:
        await connection.execute("RESET plan_cache_mode")
    return [*walk(orjson.loads(text)[0]["Plan"])]


async def root(connection: asyncpg.Connection, name: str) -> Node:
    """The top node of the plan of a file under `sql/`."""
    node: Node = orjson.loads(await explain(connection, Statement(name).sql, "FORMAT JSON"))[0]["Plan"]
    return node


def walk(node: Node) -> Iterator[Node]:
    """A node and all nodes below it."""
    yield node
    for child in node.get("Plans", []):
        yield from walk(child)
