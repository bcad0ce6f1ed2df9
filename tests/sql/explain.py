"""The generic plan of a statement: one plan for all parameters, which long-lived connections come to use."""

from collections.abc import Iterator
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


async def root(connection: asyncpg.Connection, name: str) -> Node:
    """The top node of the plan of a file under `sql/`."""
    node: Node = orjson.loads(await explain(connection, Statement(name).sql, "FORMAT JSON"))[0]["Plan"]
    return node


def walk(node: Node) -> Iterator[Node]:
    """A node and all nodes below it."""
    yield node
    for child in node.get("Plans", []):
        yield from walk(child)
