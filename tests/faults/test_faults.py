"""The faults in short, all on one stage; `make faults` does them at length, each on its own."""

from collections.abc import AsyncIterator

import pytest
import pytest_asyncio

from tests.faults.parts import PARTS
from tests.faults.stage import Stage, staged


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def stage() -> AsyncIterator[Stage]:
    async with staged() as stage:
        yield stage


@pytest.mark.asyncio(loop_scope="module")
@pytest.mark.parametrize("name", [name for name, part in PARTS.items() if part.short is not None])
async def test_nothing_acknowledged_is_lost(stage: Stage, name: str) -> None:
    outcome = await PARTS[name].do(stage, **PARTS[name].short or {})
    assert outcome.acknowledged > 0
    assert outcome.clean, outcome
