"""Single statements of tests on the service's own pool, under the service's role."""

from typing import Any

from service.infra.db import Pool


class Queries:
    """A pool with the methods of one connection."""

    def __init__(self, pool: Pool) -> None:
        self._pool = pool

    async def execute(self, query: str, *args: Any) -> str:
        async with self._pool.acquire() as connection:
            return str(await connection.execute(query, *args))

    async def executemany(self, query: str, rows: Any) -> None:
        async with self._pool.acquire() as connection:
            await connection.executemany(query, rows)

    async def fetch(self, query: str, *args: Any) -> Any:
        async with self._pool.acquire() as connection:
            return await connection.fetch(query, *args)

    async def fetchrow(self, query: str, *args: Any) -> Any:
        async with self._pool.acquire() as connection:
            return await connection.fetchrow(query, *args)

    async def fetchval(self, query: str, *args: Any) -> Any:
        async with self._pool.acquire() as connection:
            return await connection.fetchval(query, *args)


def on(pool: Pool) -> Queries:
    """`await on(resources.pool).fetchval(…)`."""
    return Queries(pool)
