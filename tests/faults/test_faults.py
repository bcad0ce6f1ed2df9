"""The scenarios in short, all on one stage. `make faults` runs them in full, each on its own stage."""

from collections.abc import AsyncIterator

import pytest
import pytest_asyncio

from tests.faults.scenarios import SCENARIOS
from tests.faults.stage import Stage, staged

SHORT = [name for name, scenario in SCENARIOS.items() if scenario.short is not None]


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def stage() -> AsyncIterator[Stage]:
    async with staged() as stage:
        yield stage


@pytest.mark.asyncio(loop_scope="module")
@pytest.mark.parametrize("name", [name for name in SHORT if not SCENARIOS[name].replicated])
async def test_no_acknowledged_write_is_lost(stage: Stage, name: str) -> None:
    await run_clean(stage, name)


@pytest.mark.parametrize("name", [name for name in SHORT if SCENARIOS[name].replicated])
async def test_no_acknowledged_write_is_lost_when_a_standby_takes_over(name: str) -> None:
    async with staged(replicated=True) as stage:
        await run_clean(stage, name)


async def run_clean(stage: Stage, name: str) -> None:
    """Run a scenario in short; it must pass."""
    outcome = await SCENARIOS[name].run(stage, **SCENARIOS[name].short or {})

    assert outcome.acknowledged > 0
    assert outcome.clean, outcome
