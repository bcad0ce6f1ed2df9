"""Databases that the tests of the SQL share, as each leaves behind what it found."""

import asyncio
from collections.abc import AsyncIterator, Iterator
from contextlib import contextmanager
from uuid import uuid4

import asyncpg
import pytest
import pytest_asyncio

from tests.conftest import TEMPLATE, named
from tests.sql.scenarios import SEED


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--renew-plans", action="store_true", help="write the plans beside the tests, to be reviewed")


@contextmanager
def cloned(template: str, *statements: str) -> Iterator[str]:
    """The URL of a database with the migrated schema, in which these statements have been run."""
    name = f"test_{uuid4().hex}"

    async def run(url: str, *statements: str) -> None:
        connection = await asyncpg.connect(url)
        for statement in statements:
            await connection.execute(statement)
        await connection.close()

    asyncio.run(run(template, f"CREATE DATABASE {name} TEMPLATE {TEMPLATE} STRATEGY file_copy"))
    asyncio.run(run(named(template, name), *statements))
    yield named(template, name)
    asyncio.run(run(template, f"DROP DATABASE {name} WITH (FORCE)"))


@pytest.fixture(scope="session")
def small_shop(template: str) -> Iterator[str]:
    """The URL of the database that the scenarios are about."""
    with cloned(template, SEED, "CREATE EXTENSION pgrowlocks") as url:
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
