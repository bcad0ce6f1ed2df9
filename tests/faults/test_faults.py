"""The scenarios in short, all on one stage. `make faults` runs them in full, each on its own stage."""

from collections.abc import AsyncIterator

import pytest
import pytest_asyncio

from tests.faults.scenarios import SCENARIOS
from tests.faults.stage import Stage, staged


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def stage() -> AsyncIterator[Stage]:
    async with staged() as stage:
        yield stage


@pytest.mark.asyncio(loop_scope="module")
@pytest.mark.parametrize("name", [name for name, scenario in SCENARIOS.items() if scenario.short is not None])
async def test_no_acknowledged_write_is_lost(stage: Stage, name: str) -> None:
    scenario = SCENARIOS[name]

    outcome = await scenario.run(stage, **scenario.short or {})

    assert outcome.acknowledged > 0
    assert outcome.clean, outcome
