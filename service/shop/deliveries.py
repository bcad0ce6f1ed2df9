"""Delivers outgoing events.

One worker at a time has the lease of an endpoint and sends its events, several at a time, those of one order one by
one. PostgreSQL is asked for due events a few times a second, because a wake-up for each transition would cost more.
"""

import asyncio
import logging
from collections import deque
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass
from datetime import datetime
from functools import partial
from typing import Any
from uuid import UUID

from service.errors import ShopError
from service.infra.db import Connection, connection
from service.infra.encoding import encode
from service.infra.ids import new_id
from service.infra.logs import begin_job
from service.infra.metrics import DELIVERIES, DUE_ROWS, OLDEST_DUE
from service.infra.resources import Resources
from service.infra.sql import statement
from service.infra.webhook_client import NotSent, WebhookClient
from service.shop import outbox, stuck, transitions
from service.shop.transitions import AfterCommit

# How often leases are renewed, and how often the backlog is measured.
SECONDS, MEASURE_SECONDS = 2.0, 30.0
# A worker that was killed delays its endpoints by this. Longer than an attempt, so that two never send at a time.
LEASE_SECONDS = 30.0
ATTEMPT_SECONDS = 20.0
# How often due events are asked for: while some are being sent, and otherwise.
BUSY_SECONDS, IDLE_SECONDS = 0.04, 0.2
# Attempts of one endpoint at a time.
CONCURRENCY = 64
# After so many failures in a row, one attempt at a time is made, each after a longer pause.
FAILURES_IN_A_ROW = 5
MAX_PAUSE_SECONDS = 60.0
# Everything that became due earlier than this before a reading was visible to it: longer than any transaction.
MARGIN_SECONDS = 60.0
# How often everything that is due is read, whatever was read before.
FULL_SECONDS = 30.0
EVER = 1e9
# Events of an endpoint that are read at a time, and products that are announced at a time.
WINDOW, BATCH = 200, 100

logger = logging.getLogger(__name__)


@dataclass(slots=True)
class Lease:
    """An active endpoint; `leased` for some time if this run sends its events, `failing` if every attempt fails."""

    endpoint_id: int
    leased: bool
    failing: bool


@dataclass(slots=True)
class DueEvent:
    """An event to send to an endpoint, with the endpoint's URL and its secrets."""

    id: int
    event_id: UUID
    type: str
    data: dict[str, Any]
    created_at: datetime
    attempts: int
    url: str
    secret: bytes
    previous_secrets: list[bytes]


@dataclass(slots=True)
class GivenUpEvent:
    """An event that could not be delivered for three days, and what came of its last attempt."""

    id: int
    event_id: UUID
    type: str
    order_id: UUID | None
    result: str


@dataclass(slots=True)
class Due:
    """How many events are due for endpoints that work, and for how long the oldest is."""

    due_rows: int
    oldest_due_seconds: float


LOCK_PRODUCTS = statement("deliveries/lock_products", int)
LIST_DUE_PRODUCTS = statement("deliveries/list_due_products", int)
LEASE_ENDPOINTS = statement("deliveries/lease_endpoints", Lease)
RELEASE_LEASES = statement("deliveries/release_leases")
LIST_DUE = statement("deliveries/list_due", DueEvent)
RECORD_ATTEMPTS = statement("deliveries/record_attempts", GivenUpEvent)
MARK_FAILING = statement("deliveries/mark_failing", bool)
MARK_WORKING = statement("deliveries/mark_working")
SWITCH_OFF = statement("deliveries/switch_off", int)
MEASURE_BACKLOG = statement("deliveries/measure_backlog", Due)


def event_name(event_id: UUID) -> str:
    """An event's id as receivers know it: the header webhook-id, the same at each attempt."""
    return f"evt_{event_id.hex}"


def payload(event: DueEvent) -> bytes:
    """The body that is signed and sent, the same at each attempt."""
    return encode({"type": event.type, "timestamp": event.created_at, "data": event.data})


@asynccontextmanager
async def delivering(resources: Resources) -> AsyncIterator["Deliveries"]:
    """Deliveries that end, and give their leases back, at the end."""
    deliveries = Deliveries(resources)
    try:
        yield deliveries
    finally:
        await deliveries.close()


class Deliveries:
    """The endpoints that this run has leased, each with a task that sends its events."""

    def __init__(self, resources: Resources) -> None:
        self._resources = resources
        self._client = WebhookClient(allow_private=resources.settings.allow_private_event_endpoints)
        self._run_id = new_id()
        self._senders: dict[int, tuple[_Sender, asyncio.Task[None]]] = {}
        self._measured_at = float("-inf")

    async def renew(self) -> None:
        """Renew the leases, and begin and end tasks accordingly. Then announce products and measure the backlog."""
        await self._renew_leases()
        # Whatever fails here, events are sent.
        for follow in (self._announce, self._measure):
            try:
                await follow()
            except ShopError as error:
                logger.info("deliveries deferred", extra={"error": str(error)})
            except Exception:
                logger.exception("deliveries failed")

    async def _renew_leases(self) -> None:
        began = asyncio.get_running_loop().time()
        async with connection(self._resources.pool) as writer:
            active = await LEASE_ENDPOINTS.all(writer, run_id=self._run_id, lease_seconds=LEASE_SECONDS)
        leases = {lease.endpoint_id: lease for lease in active if lease.leased}
        # Active, but locked by another transaction now. The sender goes on until its lease ends, or is renewed.
        locked = {lease.endpoint_id for lease in active} - leases.keys()
        for endpoint_id, (sender, task) in [*self._senders.items()]:
            if endpoint_id not in leases and not (endpoint_id in locked and began < sender.may_send_until):
                del self._senders[endpoint_id]
                task.cancel()
        for endpoint_id, lease in leases.items():
            if endpoint_id not in self._senders or self._senders[endpoint_id][1].done():
                sender = _Sender(self._resources, self._client, lease)
                self._senders[endpoint_id] = sender, asyncio.create_task(sender.run())
            sender, _ = self._senders[endpoint_id]
            sender.may_send_until = began + LEASE_SECONDS - ATTEMPT_SECONDS
            # The last attempts of the run that had the lease before may have failed since.
            sender.failing = sender.failing or lease.failing

    async def _announce(self) -> None:
        async with connection(self._resources.pool) as reader:
            due_products = await LIST_DUE_PRODUCTS.all(reader, limit=BATCH)
        if due_products:
            await transitions.run_transition(self._resources, partial(_announce_due, product_ids=due_products))

    async def _measure(self) -> None:
        now = asyncio.get_running_loop().time()
        if now - self._measured_at < MEASURE_SECONDS:
            return
        self._measured_at = now
        async with connection(self._resources.pool) as reader:
            backlog = await MEASURE_BACKLOG.one(reader)
        DUE_ROWS.labels("deliveries").set(backlog.due_rows)
        OLDEST_DUE.labels("deliveries").set(backlog.oldest_due_seconds)

    async def close(self) -> None:
        """End all tasks, and the leases."""
        tasks = [task for _, task in self._senders.values()]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        self._client.close()
        # Without this the leases end by themselves.
        with suppress(ShopError):
            async with connection(self._resources.pool) as writer:
                await RELEASE_LEASES.run(writer, run_id=self._run_id)


async def _announce_due(tx: Connection, after: AfterCommit, *, product_ids: Sequence[int]) -> None:
    await LOCK_PRODUCTS.all(tx, product_ids=product_ids)
    await outbox.announce_products(tx, product_ids)


class _Sender:
    """Sends the events of one endpoint, as long as this run has its lease."""

    def __init__(self, resources: Resources, client: WebhookClient, lease: Lease) -> None:
        self.may_send_until = 0.0
        self.failing = lease.failing
        self._resources = resources
        self._client = client
        self._endpoint_id = lease.endpoint_id
        # Of failures in a row; a success sets it to 0.
        self._failures = FAILURES_IN_A_ROW if lease.failing else 0
        self._paused_until = 0.0
        self._waiting: deque[DueEvent] = deque()
        self._attempts: dict[int, asyncio.Task[None]] = {}
        # Attempts that have ended and are not recorded yet: the result by the event's row.
        self._results: dict[int, str] = {}
        # When everything that was due had been read; -inf: never.
        self._read_at = self._read_all_at = float("-inf")

    async def run(self) -> None:
        """Record what attempts came to, read what is due, and send it, until cancelled."""
        begin_job("deliver_events")
        try:
            while True:
                try:
                    await self._record()
                    await self._read()
                except ShopError as error:
                    logger.info("deliveries deferred", extra={"endpoint_id": self._endpoint_id, "error": str(error)})
                    await asyncio.sleep(1)
                except Exception:
                    logger.exception("deliveries failed", extra={"endpoint_id": self._endpoint_id})
                    await asyncio.sleep(1)
                self._start()
                await asyncio.sleep(BUSY_SECONDS if self._attempts or self._results else IDLE_SECONDS)
        finally:
            for attempt in self._attempts.values():
                attempt.cancel()

    async def _record(self) -> None:
        results = self._results.copy()
        if not results:
            return
        delivered = [result.startswith("2") for result in results.values()]
        work = partial(self._store, results=results, delivered=delivered)
        if all(delivered) and not self.failing:
            async with connection(self._resources.pool) as writer:
                await work(writer, AfterCommit())
        else:
            why = await transitions.run_transition(self._resources, work)
            self.failing = not any(delivered)
            if why:
                # In a transaction of its own: staff lock the endpoint before its lease.
                await transitions.run_transition(self._resources, partial(self._switch_off, reason=why))
        for event_id in results:
            del self._results[event_id]

    async def _store(
        self, tx: Connection, after: AfterCommit, *, results: dict[int, str], delivered: Sequence[bool]
    ) -> str | None:
        """Store what attempts came to; why the endpoint has to be switched off, if it has to."""
        for event in await RECORD_ATTEMPTS.all(
            tx,
            endpoint_id=self._endpoint_id,
            ids=list(results),
            results=list(results.values()),
            delivered=delivered,
        ):
            reason = f"{event.type} could not be delivered to endpoint {self._endpoint_id} for 3 days: {event.result}"
            await stuck.add(tx, after, "event_undelivered", str(event.id), order_id=event.order_id, reason=reason)
        if "410" in results.values():
            return "it answered 410 Gone"
        if any(delivered):
            if self.failing:
                await MARK_WORKING.run(tx, endpoint_id=self._endpoint_id, switched_on=False)
            return None
        is_over = await MARK_FAILING.one_or_none(tx, endpoint_id=self._endpoint_id)
        return "every attempt has failed for 3 days" if is_over else None

    async def _switch_off(self, tx: Connection, after: AfterCommit, *, reason: str) -> None:
        if await SWITCH_OFF.one_or_none(tx, endpoint_id=self._endpoint_id) is not None:
            item_id = str(self._endpoint_id)
            await stuck.add(tx, after, "endpoint_switched_off", item_id, order_id=None, reason=reason)

    async def _read(self) -> None:
        """Read what is due, once nothing is waiting."""
        if self._waiting or not self._may_send():
            return
        began = asyncio.get_running_loop().time()
        read_all = began - self._read_all_at >= FULL_SECONDS
        async with connection(self._resources.pool) as reader:
            due = await LIST_DUE.all(
                reader,
                endpoint_id=self._endpoint_id,
                within_seconds=EVER if read_all else began - self._read_at + MARGIN_SECONDS,
                sending_ids=[*self._attempts, *self._results],
            )
        self._waiting.extend(due)
        if len(due) < WINDOW:
            # What waits behind another event may be older. The next reading of everything finds it.
            self._read_at = began
            self._read_all_at = began if read_all else self._read_all_at

    def _start(self) -> None:
        """Begin attempts, as many as may run."""
        if not self._may_send():
            # They are read again later, because the URL and the secrets may change meanwhile.
            self._waiting.clear()
        limit = CONCURRENCY if self._failures < FAILURES_IN_A_ROW else 1
        while self._waiting and len(self._attempts) < limit:
            event = self._waiting.popleft()
            self._attempts[event.id] = asyncio.create_task(self._send(event))

    def _may_send(self) -> bool:
        now = asyncio.get_running_loop().time()
        return now < self.may_send_until and (self._failures < FAILURES_IN_A_ROW or now >= self._paused_until)

    async def _send(self, event: DueEvent) -> None:
        loop = asyncio.get_running_loop()
        began = loop.time()
        secrets = [event.secret, *event.previous_secrets]
        try:
            result = str(await self._client.post(event.url, event_name(event.event_id), payload(event), secrets))
        except NotSent as not_sent:
            result = str(not_sent)
        except Exception:
            logger.exception("event not sent", extra={"endpoint_id": self._endpoint_id, "event_id": event.id})
            result = "internal_error"
        finally:
            del self._attempts[event.id]
        self._results[event.id] = result
        if result.startswith("2"):
            self._failures = 0
            self._paused_until = min(self._paused_until, loop.time())
        elif began >= self._paused_until:
            # Others, which began before the pause, say nothing new.
            self._failures += 1
            if self._failures >= FAILURES_IN_A_ROW:
                pause = 2.0 ** min(self._failures - FAILURES_IN_A_ROW, 10)
                self._paused_until = loop.time() + min(pause, MAX_PAUSE_SECONDS)
        DELIVERIES.labels("delivered" if result.startswith("2") else "failed").inc()
        if not result.startswith("2"):
            fields = {"endpoint_id": self._endpoint_id, "event_id": event_name(event.event_id), "result": result}
            logger.info("event not delivered", extra={**fields, "attempts": event.attempts + 1})
        if len(self._attempts) < CONCURRENCY // 2:
            self._start()
