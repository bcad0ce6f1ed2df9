"""Delivery of events to the webhook endpoint: signed, retried, and faulty on demand."""

from __future__ import annotations

import asyncio
import hmac
import random
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from fnmatch import fnmatchcase
from hashlib import sha256
from typing import Any

import aiohttp
import orjson

from .objects import new_id
from .rendering import exists_at, require_style, snapshot, thin, version_of
from .replies import ApiError
from .store import Collection, Json, Store

CONCURRENCY = 16
TIMEOUT_SECONDS = 10
FIRST_RETRY_SECONDS = 0.5
MAX_RETRY_SECONDS = 30.0
GIVE_UP_SECONDS = 3 * 86_400


@dataclass(slots=True)
class Delivery:
    """How events are delivered.

    `paused` collects events until it is false again; then they are sent, in random order with `shuffle`. Each event
    is sent `copies` times at once. With `drop` an event is stored and never sent.

    The endpoint receives snapshots of its `api_version` (None: the account's), or with `style` "thin" thin events.
    `account` and `context` name a connected account whose events they are.
    """

    paused: bool = False
    copies: int = 1
    shuffle: bool = False
    drop: bool = False
    api_version: str | None = None
    style: str = "snapshot"
    account: str | None = None
    context: str | None = None


def signature(body: bytes, secret: str, timestamp: int) -> str:
    """The value of `Stripe-Signature`: HMAC-SHA256 of "{t}.{body}"; the key is the secret with its `whsec_`."""
    signed = hmac.new(secret.encode(), b"%d." % timestamp + body, sha256).hexdigest()
    return f"t={timestamp},v1={signed}"


class Deliverer:
    """One task for each undelivered event. Undelivered events are stored, and `start` resumes their delivery.

    `endpoint` returns the endpoint's URL, or None, and its secret. `enabled` are patterns of event types: the endpoint
    receives the events that match one of them, as at Stripe.
    """

    def __init__(
        self,
        store: Store,
        events: Callable[[], Collection],
        endpoint: Callable[[], tuple[str | None, str]],
        enabled: Sequence[str],
    ):
        self.settings = Delivery()
        self._enabled = enabled
        self._store = store
        self._events = events
        self._endpoint = endpoint
        # {id, event, since} by id, in the order of the events; `since` is real time, not the stand-in's clock.
        self._undelivered = {row["id"]: row for row in store.load("delivery")}
        self._waiting = list(self._undelivered)
        self._tasks: set[asyncio.Task[None]] = set()
        # Set by the first attempt to deliver an event, for those who wait for it; by the event's id.
        self._attempted: dict[str, asyncio.Event] = {}
        self._client: aiohttp.ClientSession | None = None

    async def start(self) -> None:
        # Created here because they belong to the event loop that runs the server.
        self._resumed = asyncio.Event()
        self._slots = asyncio.Semaphore(CONCURRENCY)
        self._client = aiohttp.ClientSession(
            timeout=aiohttp.ClientTimeout(total=TIMEOUT_SECONDS), connector=aiohttp.TCPConnector(limit=0)
        )
        self._send_waiting()

    async def stop(self) -> None:
        client, self._client = self._client, None
        tasks = list(self._tasks)
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        self._waiting = list(self._undelivered)
        if client is not None:
            await client.close()

    def change(self, **changes: Any) -> Delivery:
        """Change some of the settings. Raises ApiError 400 for a name that is not one of Delivery's."""
        try:
            settings = replace(self.settings, **changes)
        except TypeError as error:
            raise ApiError(400, str(error)) from None
        require_style(settings.style)
        self.settings = settings
        self._send_waiting()
        return self.settings

    def deliver(self, event: Json) -> None:
        """Deliver an event to the endpoint, unless there is none or it does not receive this type."""
        enabled = any(fnmatchcase(event["type"], pattern) for pattern in self._enabled)
        enabled = enabled and exists_at(self.settings.api_version or version_of(event), event["type"])
        if self.settings.drop or not enabled or self._endpoint()[0] is None:
            return
        event["pending_webhooks"] = 1
        self._events().save(event)
        self._add(event["id"], time.time())
        self._send_waiting()

    async def wait_for_attempt(self, event_id: str, seconds: float) -> None:
        """Wait until the endpoint has answered the event once, at most `seconds`; not for what is paused or dropped."""
        if self.settings.paused or self._client is None:
            return
        if all(row["event"] != event_id for row in self._undelivered.values()):
            return
        attempted = self._attempted.setdefault(event_id, asyncio.Event())
        with suppress(TimeoutError):
            async with asyncio.timeout(seconds):
                await attempted.wait()
        self._attempted.pop(event_id, None)

    def _add(self, event_id: str, since: float) -> None:
        row: Json = {"id": new_id("whd_"), "event": event_id, "since": since}
        self._undelivered[row["id"]] = row
        self._store.save("delivery", row)
        self._waiting.append(row["id"])

    def _send_waiting(self) -> None:
        """Start the waiting deliveries, unless deliveries are paused or the server is not running."""
        if self._client is None:
            return
        if self.settings.paused:
            self._resumed.clear()
            return
        self._resumed.set()
        for delivery_id in list(self._waiting):
            row = self._undelivered[delivery_id]
            for _ in range(self.settings.copies - 1):
                self._add(row["event"], row["since"])
        if self.settings.shuffle:
            random.shuffle(self._waiting)
        for delivery_id in self._waiting:
            task = asyncio.create_task(self._send_until_accepted(self._client, self._undelivered[delivery_id]))
            self._tasks.add(task)
            task.add_done_callback(self._tasks.discard)
        self._waiting.clear()

    async def _send_until_accepted(self, client: aiohttp.ClientSession, row: Json) -> None:
        wait = FIRST_RETRY_SECONDS
        while not await self._attempt(client, row["event"]):
            if time.time() - row["since"] > GIVE_UP_SECONDS:
                break
            await asyncio.sleep(wait)
            wait = min(wait * 2, MAX_RETRY_SECONDS)
            await self._resumed.wait()
        del self._undelivered[row["id"]]
        self._store.remove("delivery", row["id"])
        event = self._event(row["event"])
        event["pending_webhooks"] = 0
        self._events().save(event)
        self._store.commit()

    async def _attempt(self, client: aiohttp.ClientSession, event_id: str) -> bool:
        """Post the event once; true when the endpoint accepted it."""
        async with self._slots:
            # Read at each attempt: tests move the endpoint and rotate its secret.
            url, secret = self._endpoint()
            if url is None:
                return False
            body = orjson.dumps(self._rendered(self._event(event_id)))
            headers = {
                "Content-Type": "application/json; charset=utf-8",
                "User-Agent": "Stripe/1.0 (+https://stripe.com/docs/webhooks)",
                "Stripe-Signature": signature(body, secret, int(time.time())),
            }
            try:
                async with client.post(url, data=body, headers=headers, allow_redirects=False) as answer:
                    return 200 <= answer.status < 300
            except (aiohttp.ClientError, TimeoutError, ValueError):
                # aiohttp raises ValueError for a URL it cannot parse.
                return False
            finally:
                if event_id in self._attempted:
                    self._attempted[event_id].set()

    def _rendered(self, event: Json) -> Json:
        settings = self.settings
        if settings.style == "thin":
            return thin(event, context=settings.context)
        version = settings.api_version or version_of(event)
        return snapshot(event, api_version=version, account=settings.account, context=settings.context)

    def _event(self, event_id: str) -> Json:
        event = self._events().get(event_id)
        assert event is not None, f"delivery of unknown event {event_id}"
        return event
