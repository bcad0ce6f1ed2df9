"""A server for a module's own application, its fixture `app`."""

from collections.abc import AsyncIterator

import pytest
from starlette.types import ASGIApp

from tests.conftest import served


@pytest.fixture
async def url(app: ASGIApp) -> AsyncIterator[str]:
    async with served(app) as url:
        yield url
