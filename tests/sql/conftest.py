"""Databases that the tests of the SQL share, as each leaves behind what it found."""

import asyncio
from collections.abc import AsyncIterator, Iterator
from contextlib import contextmanager

import asyncpg
import pytest
import pytest_asyncio

from tests.conftest import cloned
from tests.sql.scenarios import SEED


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--renew-plans", action="store_true", help="write the plans beside the tests, to be reviewed")


@contextmanager
def shared(template: str, *statements: str) -> Iterator[str]:
    """`cloned` for many tests, each with a loop of its own: the URL of a database that these statements were run in."""

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
    """The URL of the database that the scenarios are about."""
    with shared(template, SEED, "CREATE EXTENSION pgrowlocks") as url:
        yield url


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def runner(small_shop: str) -> AsyncIterator[asyncpg.Connection]:
    """A connection to the small shop, to run statements in transactions that are rolled back."""
    connection = await asyncpg.connect(small_shop)
    yield connection
    await connection.close()


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def watcher(small_shop: str) -> AsyncIterator[asyncpg.Connection]:
    """Another one, to look at the first and to stand in its way."""
    connection = await asyncpg.connect(small_shop)
    yield connection
    await connection.close()
