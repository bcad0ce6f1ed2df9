"""An identity provider for tests of the API."""

from collections.abc import AsyncIterator

import pytest

from tests.conftest import served
from tests.provider import Provider


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--renew-permissions", action="store_true", help="write permissions.txt anew, for review")


@pytest.fixture
async def provider() -> AsyncIterator[Provider]:
    """An identity provider on a real port."""
    provider = Provider()
    async with served(provider) as url:
        provider.url = url
        yield provider
