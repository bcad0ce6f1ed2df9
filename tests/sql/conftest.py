"""Databases that the tests of the SQL share: each test rolls back what it does."""

import asyncio
from collections.abc import AsyncIterator, Iterator
from contextlib import contextmanager

import asyncpg
import pytest
import pytest_asyncio

from tests.conftest import cloned
from tests.sql.scenarios import SEED


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption(
        "--renew-plans", action="store_true", help="write the current plans to tests/sql/plans, for review"
    )
    parser.addoption("--all-schedules", action="store_true", help="try three statements at once for deadlocks, not two")


@contextmanager
def shared(template: str, *statements: str) -> Iterator[str]:
    """`cloned` for many tests, whose event loops differ: the URL of a database in which these statements have run."""

    async def prepare(url: str) -> None:
        connection = await asyncpg.connect(url)
        for statement in statements:
            await connection.execute(statement)
        await connection.close()

    with asyncio.Runner() as runner:
        clone = cloned(template)
        url = runner.run(clone.__aenter__())
        try:
            runner.run(prepare(url))
            yield url
        finally:
            runner.run(clone.__aexit__(None, None, None))


@pytest.fixture(scope="session")
def small_shop(template: str) -> Iterator[str]:
    """The URL of the database in which the scenarios run."""
    with shared(template, SEED, "CREATE EXTENSION pgrowlocks") as url:
        yield url


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def runner(small_shop: str) -> AsyncIterator[asyncpg.Connection]:
    """A connection to the small shop that runs statements in transactions which are rolled back."""
    connection = await asyncpg.connect(small_shop)
    yield connection
    await connection.close()


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def watcher(small_shop: str) -> AsyncIterator[asyncpg.Connection]:
    """A second connection, which observes the first one and locks rows against it."""
    connection = await asyncpg.connect(small_shop)
    yield connection
    await connection.close()
