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
    text = await explain(connection, Statement(name).sql, "FORMAT JSON")
    return [*_walk(orjson.loads(text)[0]["Plan"])]


def _walk(node: Node) -> Iterator[Node]:
    yield node
    for child in node.get("Plans", []):
        yield from _walk(child)
