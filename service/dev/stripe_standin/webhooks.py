"""Events on their way to the webhook endpoint: signed, retried, and misbehaving on demand."""

from __future__ import annotations

import asyncio
import hmac
import random
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase
from hashlib import sha256

import aiohttp
import orjson

from .objects import new_id
from .store import Collection, Json, Store

AT_ONCE = 16
ANSWER_SECONDS = 10
FIRST_RETRY_SECONDS = 0.5
LONGEST_RETRY_SECONDS = 30.0
GIVE_UP_SECONDS = 3 * 86_400


@dataclass(slots=True)
class Delivery:
    """How events are delivered.

    `paused` collects them; once it is false again they leave, `shuffle`d when asked. Each leaves `copies`
    times at once. With `drop` an event is stored and never sent.
    """

    paused: bool = False
    copies: int = 1
    shuffle: bool = False
    drop: bool = False


def signature(body: bytes, secret: str, timestamp: int) -> str:
    """The value of `Stripe-Signature`: HMAC-SHA256 of "{t}.{body}" under the secret, `whsec_` included."""
    signed = hmac.new(secret.encode(), b"%d." % timestamp + body, sha256).hexdigest()
    return f"t={timestamp},v1={signed}"


class Deliverer:
    """One task for each event that the endpoint has still to take. `endpoint`: its (url or None, secret).

    Of `enabled` the endpoint gets what one of these patterns fits, as one that is set up at Stripe does.

    What is undelivered is stored, and taken up again by `start`.
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
        # Undelivered {id, event, since} by id, in the order of the events; `since` is true time.
        self._undelivered = {row["id"]: row for row in store.load("delivery")}
        self._held = list(self._undelivered)
        self._tasks: set[asyncio.Task[None]] = set()
        self._client: aiohttp.ClientSession | None = None

    async def start(self) -> None:
        # Made here since they belong to the event loop that runs the server.
        self._released = asyncio.Event()
        self._slots = asyncio.Semaphore(AT_ONCE)
        self._client = aiohttp.ClientSession(
            timeout=aiohttp.ClientTimeout(total=ANSWER_SECONDS), connector=aiohttp.TCPConnector(limit=0)
        )
        self._apply()

    async def stop(self) -> None:
        client, self._client = self._client, None
        tasks = list(self._tasks)
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        self._held = list(self._undelivered)
        if client is not None:
            await client.close()

    def configure(self, settings: Delivery) -> Delivery:
        self.settings = settings
        self._apply()
        return settings

    def deliver(self, event: Json) -> None:
        """Take an event on. Without a webhook URL there is nobody to deliver it to, as at Stripe."""
        wanted = any(fnmatchcase(event["type"], pattern) for pattern in self._enabled)
        if self.settings.drop or not wanted or self._endpoint()[0] is None:
            return
        event["pending_webhooks"] = 1
        self._events().save(event)
        self._hold(event["id"], time.time())
        self._apply()

    def _hold(self, event_id: str, since: float) -> None:
        row: Json = {"id": new_id("whd_"), "event": event_id, "since": since}
        self._undelivered[row["id"]] = row
        self._store.save("delivery", row)
        self._held.append(row["id"])

    def _apply(self) -> None:
        """Let go what is held, unless deliveries are paused or nothing is started."""
        if self._client is None:
            return
        if self.settings.paused:
            self._released.clear()
            return
        self._released.set()
        for delivery_id in list(self._held):
            row = self._undelivered[delivery_id]
            for _ in range(self.settings.copies - 1):
                self._hold(row["event"], row["since"])
        if self.settings.shuffle:
            random.shuffle(self._held)
        for delivery_id in self._held:
            task = asyncio.create_task(self._keep_trying(self._client, self._undelivered[delivery_id]))
            self._tasks.add(task)
            task.add_done_callback(self._tasks.discard)
        self._held.clear()

    async def _keep_trying(self, client: aiohttp.ClientSession, row: Json) -> None:
        wait = FIRST_RETRY_SECONDS
        while not await self._attempt(client, row["event"]):
            if time.time() - row["since"] > GIVE_UP_SECONDS:
                break
            await asyncio.sleep(wait)
            wait = min(wait * 2, LONGEST_RETRY_SECONDS)
            await self._released.wait()
        del self._undelivered[row["id"]]
        self._store.remove("delivery", row["id"])
        event = self._event(row["event"])
        event["pending_webhooks"] = 0
        self._events().save(event)
        self._store.commit()

    async def _attempt(self, client: aiohttp.ClientSession, event_id: str) -> bool:
        """Post the event once; true when the endpoint took it."""
        async with self._slots:
            # Read at each try: tests move the endpoint and rotate its secret.
            url, secret = self._endpoint()
            if url is None:
                return False
            body = orjson.dumps(self._event(event_id))
            headers = {
                "Content-Type": "application/json; charset=utf-8",
                "User-Agent": "Stripe/1.0 (+https://stripe.com/docs/webhooks)",
                "Stripe-Signature": signature(body, secret, int(time.time())),
            }
            try:
                async with client.post(url, data=body, headers=headers, allow_redirects=False) as answer:
                    return 200 <= answer.status < 300
            except (aiohttp.ClientError, TimeoutError, ValueError):
                # ValueError: aiohttp's for a URL it cannot read.
                return False

    def _event(self, event_id: str) -> Json:
        event = self._events().get(event_id)
        assert event is not None, f"delivery of {event_id}, which was never stored"
        return event
