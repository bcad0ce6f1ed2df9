"""Unverified webhooks: refused before their body is read where possible, and limited in memory."""

import asyncio
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import orjson
import pytest

from service.dev.stripe_standin.webhooks import signature
from service.http import webhooks
from service.http.server import bodies
from service.http.server.bodies import ByteBudget
from tests.client import Shop, eventually
from tests.conftest import WEBHOOK_SECRET

KIB = 1024
EVENT = orjson.dumps({"id": "evt_1", "type": "c4nary", "data": {"object": {}}})
HEX = 64 * "0"


def now(offset: int = 0) -> int:
    return int(time.time()) + offset


@asynccontextmanager
async def webhook(
    shop: Shop, size: int, *signatures: str, address: str = "127.0.0.1"
) -> AsyncIterator[tuple[asyncio.StreamReader, asyncio.StreamWriter]]:
    """A connection that has announced a webhook of this size, and not sent its body yet."""
    port = int(shop.url.rpartition(":")[2])
    reader, writer = await asyncio.open_connection("127.0.0.1", port, local_addr=(address, 0))
    lines = ["POST /webhooks/stripe HTTP/1.1", "Host: shop", f"Content-Length: {size}"]
    lines += [f"Stripe-Signature: {value}" for value in signatures]
    writer.write("\r\n".join([*lines, "", ""]).encode())
    try:
        yield reader, writer
    finally:
        writer.close()


async def head_of(reader: asyncio.StreamReader) -> bytes:
    return (await asyncio.wait_for(reader.readuntil(b"\r\n\r\n"), 20)).lower()


@pytest.mark.parametrize(
    "signatures",
    [
        pytest.param([], id="none"),
        pytest.param([""], id="empty"),
        pytest.param(["c4nary"], id="no signature"),
        pytest.param(["t={now}"], id="a time alone"),
        pytest.param([f"v1={HEX}"], id="no time"),
        pytest.param([f"t={{now}},v1={HEX[:-1]}"], id="short"),
        pytest.param([f"t={{now}},v1={HEX[:-1]}g"], id="no digits"),
        pytest.param([f"t={{now}},v0={HEX}"], id="another scheme"),
        pytest.param([f"t=x,v1={HEX}"], id="no number"),
        pytest.param([f"t=-{{now}},v1={HEX}"], id="a sign"),
        pytest.param([f"t={9 * '9'}{9 * '9'},v1={HEX}"], id="a large number"),
        pytest.param([f"t={{old}},v1={HEX}"], id="old"),
        pytest.param([f"t={{early}},v1={HEX}"], id="of the future"),
        pytest.param([f"t={{old}},t={{now}},v1={HEX}"], id="two times"),
        pytest.param([f"t={{now}},v1={HEX},v2=é"], id="no ASCII"),
        pytest.param(2 * [f"t={{now}},v1={HEX}"], id="twice"),
    ],
)
async def test_a_signature_that_cannot_verify_is_refused_before_the_body_is_sent(
    shop: Shop, signatures: list[str]
) -> None:
    times = {"now": now(), "old": now(-310), "early": now(310)}
    async with webhook(shop, 1024 * KIB, *(value.format(**times) for value in signatures)) as (reader, _):
        assert (await head_of(reader)).startswith(b"http/1.1 400 ")
        assert b'"code":"invalid_signature"' in await reader.readuntil(b"}")


async def test_a_signature_that_may_verify_is_checked_with_the_body(shop: Shop) -> None:
    for header, body, status in (
        (signature(EVENT, WEBHOOK_SECRET, now()), EVENT, 200),
        (signature(EVENT, WEBHOOK_SECRET, now(-290)), EVENT, 200),
        (f"{signature(EVENT, WEBHOOK_SECRET, now())},v1={HEX},v0={HEX}", EVENT, 200),
        (f"t={now()},v1={HEX}", EVENT, 400),
    ):
        async with webhook(shop, len(body), header) as (reader, writer):
            await asyncio.sleep(0.02)
            writer.write(body)
            assert (await head_of(reader)).startswith(b"http/1.1 %d " % status)


class TestWithoutASecret:
    @pytest.fixture
    def changed_settings(self) -> dict[str, str]:
        return {"STRIPE_WEBHOOK_SECRET": "", "ALLOW_INSECURE_WEBHOOK": "true"}

    async def test_no_signature_is_needed(self, shop: Shop) -> None:
        async with webhook(shop, len(EVENT)) as (reader, writer):
            writer.write(EVENT)
            assert (await head_of(reader)).startswith(b"http/1.1 200 ")


class TestBytes:
    """Of unverified webhooks."""

    @pytest.fixture(autouse=True)
    def budget(self, monkeypatch: pytest.MonkeyPatch) -> ByteBudget:
        budget = ByteBudget(limit=80 * KIB, limit_per_client=50 * KIB)
        monkeypatch.setattr(webhooks, "UNVERIFIED", budget)
        return budget

    async def test_are_limited_for_each_client_and_in_total(self, shop: Shop, budget: ByteBudget) -> None:
        plausible = f"t={now()},v1={HEX}"

        async def wait_for_used(size: int) -> None:
            async def is_used() -> bool:
                return budget.used == size

            await eventually(is_used)

        async with (
            webhook(shop, 1024 * KIB, plausible) as (_, first),
            webhook(shop, 1024 * KIB, plausible, address="127.0.0.2") as (_, other),
        ):
            # Announced bytes do not count.
            assert budget.used == 0
            first.write(40 * KIB * b"x")
            await wait_for_used(40 * KIB)
            async with webhook(shop, 1024 * KIB, plausible) as (reader, writer):
                writer.write(20 * KIB * b"x")
                head = await head_of(reader)
                assert head.startswith(b"http/1.1 503 ")
                assert b"\r\nretry-after: " in head
                assert b"\r\nconnection: close\r\n" in head
                assert b'"code":"busy"' in await reader.readuntil(b"}")
            other.write(30 * KIB * b"x")
            await wait_for_used(70 * KIB)
            async with webhook(shop, 1024 * KIB, plausible, address="127.0.0.3") as (reader, writer):
                writer.write(20 * KIB * b"x")
                assert (await head_of(reader)).startswith(b"http/1.1 503 ")
            # A small signed webhook is accepted.
            header = signature(EVENT, WEBHOOK_SECRET, now())
            async with webhook(shop, len(EVENT), header) as (reader, writer):
                writer.write(EVENT)
                assert (await head_of(reader)).startswith(b"http/1.1 200 ")
        await wait_for_used(0)

    async def test_stay_charged_to_a_forger_for_a_while(self, shop: Shop, monkeypatch: pytest.MonkeyPatch) -> None:
        async def forged(size: int, address: str = "127.0.0.1") -> bytes:
            async with webhook(shop, size, f"t={now()},v1={HEX}", address=address) as (reader, writer):
                writer.write(size * b"x")
                return (await head_of(reader))[9:12]

        assert await forged(40 * KIB) == b"400"
        assert await forged(20 * KIB) == b"503"
        # Other clients are not affected.
        for address in ("127.0.0.2", "127.0.0.3", "127.0.0.4"):
            assert await forged(40 * KIB, address) == b"400"
        monkeypatch.setattr(bodies, "PENALTY_SECONDS", 0.05)
        for _ in range(2):
            assert await forged(40 * KIB, "127.0.0.5") == b"400"
            await asyncio.sleep(0.1)
