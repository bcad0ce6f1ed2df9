"""The stand-in's clock and its events, which record every change."""

from __future__ import annotations

import time
from collections.abc import Callable

import orjson

from .objects import API_VERSION, new_id
from .rendering import snapshot, version_of
from .replies import ApiError
from .store import Collection, Json, Store, public

NO_REQUEST: Json = {"id": None, "idempotency_key": None}


class Events:
    """The account's events.

    Not thread-safe: call from the event loop's thread. Changes are durable after the store's commit, which every
    request and the ticker make.
    """

    def __init__(self, store: Store, deliver: Callable[[Json], None]) -> None:
        self.store = store
        self.events = Collection(store, "event")
        # The account's version, in whose shapes new events are listed, and delivered to endpoints without their own.
        self.api_version = API_VERSION
        # The API request that causes the events emitted now.
        self.cause = NO_REQUEST
        self._deliver = deliver
        self._clock_shift: float = sum(row["seconds"] for row in store.load("clock"))

    def now(self) -> int:
        """The stand-in's own clock, Unix seconds."""
        return int(time.time() + self._clock_shift)

    def advance_clock(self, seconds: float) -> int:
        """Shift the clock forward and return the new time."""
        if seconds < 0:
            # Pages rely on objects stored in the order of `created`.
            raise ApiError(400, "The clock only goes forward.")
        self._clock_shift += seconds
        self.store.save("clock", {"id": "shift", "seconds": self._clock_shift})
        self.catch_up()
        return self.now()

    def catch_up(self) -> None:
        """Do what has become due."""

    def public(self, stored: Json) -> Json:
        """An object as the API and events show it; an event in the shapes of its version."""
        if stored["object"] == "event":
            return snapshot(stored, api_version=version_of(stored))
        return public(stored)

    def emit_event(self, kind: str, subject: Json, previous_attributes: Json | None = None) -> Json:
        """Record an event about an object in Stripe's shape, and deliver it."""
        data = {"object": subject}
        if previous_attributes is not None:
            data["previous_attributes"] = previous_attributes
        event: Json = {
            "id": new_id("evt_"),
            "object": "event",
            "api_version": self.api_version,
            "created": self.now(),
            # A copy: the object may change later, the event must not.
            "data": orjson.loads(orjson.dumps(data)),
            "livemode": False,
            "pending_webhooks": 0,
            "request": self.cause,
            "type": kind,
        }
        self.events.save(event)
        self._deliver(event)
        return event

    def emit(self, kind: str, subject: Json, before: Json | None = None) -> None:
        """Record an event about a stored object; `before` is the object before the change that the event reports."""
        after = self.public(subject)
        previous = None
        if before is not None:
            # A member that appeared was null before, as Stripe has it.
            previous = {name: before.get(name) for name in after if before.get(name) != after[name]}
        self.emit_event(kind, after, previous)
