"""The fixtures of the stand-in's tests."""

from collections.abc import AsyncIterator

import pytest

from service.dev.stripe_standin import StripeStandin
from tests.conftest import served
from tests.dev.world import SECRET, Receiver, World, world_of


@pytest.fixture
async def world() -> AsyncIterator[World]:
    async with world_of(StripeStandin(webhook_secret=SECRET, settle_seconds=None)) as world:
        yield world


@pytest.fixture
async def receiver(world: World) -> AsyncIterator[Receiver]:
    receiver = Receiver()
    async with served(receiver.app) as base:
        world.standin.webhook_url = f"{base}/hook"
        yield receiver
        world.standin.set_webhooks(drop=True)
