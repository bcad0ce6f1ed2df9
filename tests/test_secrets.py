"""Secrets and personal data never appear in a log, a metric, Redis or a response, whether calls succeed or fail.

The service runs as its operators run it, at log level DEBUG. Every secret, and all that Stripe says about a customer,
contains a word, the canary. The tests search all output for it.
"""

import asyncio
import re
import signal
import sys
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from uuid import uuid4

import asyncpg
import httpx
import orjson
import pytest
import redis

from service.dev import roles
from service.dev.servers import free_port
from service.dev.stripe_standin import StripeStandin
from service.dev.stripe_standin.webhooks import signature
from tests.client import NO_TLS, Shop, eventually
from tests.conftest import served
from tests.stripe_events import make_event, personal_members, post_webhook
from tests.test_command_line import command

CANARY = "c4nary"
EMAIL = f"{CANARY}@example.com"


@pytest.fixture
async def stripe() -> AsyncIterator[StripeStandin]:
    standin = StripeStandin(webhook_secret=f"whsec_{CANARY}")
    async with served(standin.app) as url:
        standin.api_base = url  # type: ignore[attr-defined]
        yield standin


@pytest.fixture
async def secrets(
    environ: dict[str, str], database_url: str, database: asyncpg.Connection, redis_url: str
) -> AsyncIterator[dict[str, str]]:
    """The environment with the canary in every secret. All of them are valid."""
    role, password = f"canary_{uuid4().hex}", f"{CANARY}-password"
    await database.execute(
        f"CREATE ROLE {role} LOGIN PASSWORD '{password}' IN ROLE commerce_owner, commerce_app, commerce_worker"
    )
    url = roles.login(database_url, role, password)
    address = redis_url.partition("://")[2].rpartition("@")[2]
    with redis.Redis.from_url(redis_url) as server:
        server.execute_command("ACL", "SETUSER", role, "on", f">{password}", "~*", "&*", "+@all")
        yield {
            **environ,
            "DATABASE_URL": url,
            "MIGRATE_DATABASE_URL": url,
            "REDIS_URL": f"redis://{role}:{password}@{address}",
            "STRIPE_API_KEY": f"sk_test_{CANARY}",
            "STRIPE_WEBHOOK_SECRET": f"whsec_{CANARY}_old,whsec_{CANARY}",
            "ADMIN_TOKEN": f"{CANARY}-token-of-32-characters---",
            "LOG_LEVEL": "DEBUG",
            "RECONCILE_SECONDS": "0.5",
        }
        server.acl_deluser(role)
    await database.execute(f"DROP OWNED BY {role}; DROP ROLE {role}")


class Running:
    """An API and a worker, and their output."""

    def __init__(self, url: str, metrics_urls: list[str], log: Path) -> None:
        self.url, self.metrics_urls, self.log = url, metrics_urls, log
        self.answers: list[str] = []

    async def record(self, answer: httpx.Response) -> None:
        self.answers.append(f"{answer.headers} {(await answer.aread()).decode()}")

    async def output(self) -> str:
        """All responses, metrics and log lines."""
        async with httpx.AsyncClient(event_hooks={"response": [self.record]}, verify=NO_TLS) as client:
            for url in self.metrics_urls:
                assert (await client.get(f"{url}/metrics")).status_code == 200
        return "\n".join([*self.answers, self.log.read_text()])


@asynccontextmanager
async def running(environ: dict[str, str], log: Path) -> AsyncIterator[Running]:
    """Both as processes that write to a file. A pipe that nobody reads would block them."""
    port, metrics_ports = free_port(), [free_port(), free_port()]
    commands = (["serve", "--port", str(port)], ["worker"])
    processes = []
    try:
        with log.open("wb") as file:
            for arguments, metrics_port in zip(commands, metrics_ports, strict=True):
                process = await asyncio.create_subprocess_exec(
                    *(sys.executable, "-m", "service", *arguments),
                    stdout=file,
                    stderr=file,
                    env={**environ, "METRICS_PORT": str(metrics_port)},
                    cwd=environ["TMPDIR"],
                )
                processes.append(process)
        yield Running(f"http://127.0.0.1:{port}", [f"http://127.0.0.1:{each}" for each in metrics_ports], log)
    finally:
        for process in processes:
            process.send_signal(signal.SIGTERM)
        await asyncio.wait_for(asyncio.gather(*(process.wait() for process in processes)), 30)


def leaks(text: str) -> list[str]:
    """The places where the canary is."""
    return re.findall(rf".{{0,300}}{CANARY}.{{0,60}}", text)


async def test_no_secret_leaks_from_calls_that_succeed_or_fail(
    secrets: dict[str, str], stripe: StripeStandin, database: asyncpg.Connection, redis_url: str, tmp_path: Path
) -> None:
    async with running(secrets, tmp_path / "log") as service:
        async with Shop(service.url) as shop:
            await eventually(lambda: is_live(shop))
            shop.http.event_hooks["response"].append(service.record)
            stripe.webhook_url = f"{service.url}/webhooks/stripe"
            key = {"Idempotency_Key": f"{CANARY}-key", "Authorization": f"Bearer {secrets['ADMIN_TOKEN']}"}
            tent = {"name": "Tent", "price_minor": 1250, "currency": "EUR", "stock": 10}
            product = await shop.call("POST", "/products", 201, tent, **key)
            await shop.call("POST", "/products", 422, {}, **key)
            await shop.call("POST", "/products", 401, tent, Authorization=f"Bearer {CANARY}")
            carts = [await shop.create_cart((product["id"], 1)) for _ in range(3)]
            paid, broken = [await shop.check_out(cart, **key) for cart in carts[:2]]
            stripe.pay(paid["payment"]["stripe_session_id"], email=EMAIL)
            await shop.wait_for_order(paid["order_id"], "FULFILLED")
            assert await database.fetchval("SELECT email FROM orders WHERE email > ''") == EMAIL

            await report_refund_and_dispute(shop, stripe, paid["order_id"], key)

            forged = {"Stripe_Signature": f"t=1,v1={CANARY}"}
            await shop.call("POST", "/webhooks/stripe", 400, {"id": CANARY}, **forged)
            # An unexpected error: PostgreSQL's message contains the row.
            await database.execute("ALTER TABLE orders ADD CONSTRAINT broken CHECK (email IS NULL) NOT VALID")
            stripe.pay(broken["payment"]["stripe_session_id"], email=EMAIL)
            await eventually(lambda: is_logged(service, "unhandled error", "repair failed and was deferred"))
            stripe.set_faults([{"action": "status", "status": 401}])
            await shop.check_out(carts[2], 503, **key)
            stripe.set_faults([])
        output = await service.output()
    assert leaks(output + service.log.read_text()) == []
    with redis.Redis.from_url(redis_url) as server:
        stored = {stored_key: server.dump(stored_key) for stored_key in server.scan_iter()}
    assert leaks(str(stored)) == []


async def report_refund_and_dispute(shop: Shop, stripe: StripeStandin, order_id: str, key: dict[str, str]) -> None:
    """Refund a part, and let Stripe report refunds and disputes, and what cannot be read, with personal data."""
    # Staff see what they wrote, so these answers are not searched.
    async with Shop(shop.url) as staff:
        why = {"reason": f"{CANARY} is ill"}
        await staff.call("POST", f"/orders/{order_id}/refund", 200, {"amount_minor": 50, **why}, **key)
    await shop.wait_for_order(order_id, "FULFILLED")
    intent = stripe.ledger()["payments"][0]["payment_intent"]
    for kind, status in (
        ("charge.refunded", 200),
        ("refund.failed", 200),
        ("charge.dispute.created", 200),
        ("charge.dispute.closed", 200),
        ("checkout.session.completed", 200),
        ("customer.updated", 200),
    ):
        subject = {"id": f"{kind}_1", "payment_intent": intent, "status": "lost", "amount": 50, "currency": "eur"}
        body = orjson.dumps(make_event(kind, subject, reason="fraudulent", **personal_members(CANARY)))
        signed = signature(body, f"whsec_{CANARY}", int(time.time()))
        assert (await post_webhook(shop, body, signed)).status_code == status
    async with Shop(shop.url) as staff:
        await eventually(lambda: resolve_one(staff, why, key["Authorization"]))


async def resolve_one(staff: Shop, why: dict[str, str], authorization: str) -> bool:
    """Say that people settled a stuck item, once there is one."""
    items = (await staff.call("GET", "/stuck", 200, Authorization=authorization))["items"]
    for item in items[:1]:
        path = f"/stuck/{item['kind']}/{item['id']}/resolve"
        await staff.call("POST", path, 200, why, Authorization=authorization)
    return bool(items)


async def test_no_secret_leaks_without_postgresql_and_redis(secrets: dict[str, str], tmp_path: Path) -> None:
    nowhere = f"127.0.0.1:{free_port()}"
    unreachable = {
        **secrets,
        "DATABASE_URL": f"postgresql://{CANARY}:{CANARY}@{nowhere}/shop",
        "REDIS_URL": f"redis://:{CANARY}@{nowhere}/0",
    }
    async with running(unreachable, tmp_path / "log") as service:
        async with Shop(service.url) as shop:
            await eventually(lambda: is_live(shop))
            shop.http.event_hooks["response"].append(service.record)
            await shop.call("GET", "/health/ready", 503)
            await shop.call("POST", "/carts", 503, Idempotency_Key=CANARY)
            await eventually(lambda: is_logged(service, "periodic task deferred", "redis call failed"))
        output = await service.output()
    assert leaks(output + service.log.read_text()) == []
    # Commands that fail at once do not leak either.
    wrong = {
        **secrets,
        "DATABASE_URL": unreachable["DATABASE_URL"],
        "MIGRATE_DATABASE_URL": unreachable["DATABASE_URL"],
    }
    commands = (command(wrong, *name.split()) for name in ("migrate", "audit", "seed", "replay evt_1"))
    for status, output, errors in await asyncio.gather(*commands):
        assert status == 2
        assert leaks(output + errors) == []


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("DATABASE_URL", f"mysql://shop:{CANARY}@localhost/shop"),
        # A password that should have been quoted: the part after its slash looks like the path.
        ("DATABASE_URL", f"postgresql://shop:{CANARY}/x@localhost/shop"),
        ("DATABASE_URL", f"postgresql://shop:[{CANARY}@localhost/shop"),
        ("MIGRATE_DATABASE_URL", f"postgresql://shop:{CANARY}/x@localhost/shop"),
        ("REDIS_URL", f"http://:{CANARY}@localhost"),
        ("REDIS_URL", f"redis://:{CANARY}/x@localhost/0"),
        ("STRIPE_API_KEY", f"sk_live_{CANARY}"),
        ("STRIPE_API_KEY", f"sk_test_{CANARY}\n{CANARY}"),
    ],
)
async def test_a_refusal_names_the_setting_only(secrets: dict[str, str], name: str, value: str) -> None:
    # The stand-in's address is not safe enough for a live key.
    refused = "STRIPE_API_BASE" if value.startswith("sk_live") else name
    commands = (command({**secrets, name: value}, process) for process in ("serve", "worker"))
    for status, output, errors in await asyncio.gather(*commands):
        assert (status, output, errors.count("\n")) == (2, "", 1), errors
        assert errors.startswith("Refusing to start: ")
        assert refused in errors
        assert leaks(errors) == []


async def is_live(shop: Shop) -> bool:
    try:
        return (await shop.http.get("/health/live")).status_code == 200
    except httpx.TransportError:
        return False


async def is_logged(service: Running, *messages: str) -> bool:
    text = service.log.read_text()
    return all(f'"message":"{message}"' in text for message in messages)
