"""Bounded first-come-first-served queues in front of scarce resources."""

import asyncio
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Hashable
from contextlib import AsyncExitStack, asynccontextmanager
from types import TracebackType
from weakref import WeakValueDictionary

from service.errors import ShopError
from service.infra.metrics import REFUSED, WAITED

# Short bursts are admitted whole. After RUSH_SECONDS with a non-empty queue we are overloaded: arrivals that would make
# the queue longer than MAX_WAITING are refused at once.
RUSH_SECONDS = 10.0
MAX_WAITING = 256
MAX_WAIT_SECONDS = 20.0


class Limiter:
    """At most `slots` users at a time, for `async with`.

    Raises `busy` when the queue is too long, or after a wait of `max_wait_seconds`. `name` is a metrics' label.
    """

    def __init__(
        self,
        slots: int,
        *,
        name: str = "other",
        max_waiting: int = MAX_WAITING,
        rush_seconds: float = RUSH_SECONDS,
        max_wait_seconds: float = MAX_WAIT_SECONDS,
    ) -> None:
        self._slots = asyncio.Semaphore(slots)
        self._max_waiting, self._rush_seconds, self._max_wait_seconds = max_waiting, rush_seconds, max_wait_seconds
        self._waits, self._refusals = WAITED.labels(name), REFUSED.labels(name)
        self.waiting = self.in_use = 0
        self._last_free_at = time.monotonic()

    @property
    def full(self) -> bool:
        """Whether the next user has to wait."""
        return self._slots.locked()

    async def __aenter__(self) -> None:
        if not self.full:
            self._last_free_at = time.monotonic()
            # A free slot needs no time limit, which has a cost.
            await self._slots.acquire()
            self.in_use += 1
            return
        started = time.monotonic()
        if self.waiting >= self._max_waiting and started > self._last_free_at + self._rush_seconds:
            self._refusals.inc()
            raise _busy()
        self.waiting += 1
        try:
            async with asyncio.timeout(self._max_wait_seconds):
                await self._slots.acquire()
        except TimeoutError:
            self._refusals.inc()
            raise _busy() from None
        finally:
            self.waiting -= 1
            self._waits.observe(time.monotonic() - started)
        self.in_use += 1

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.in_use -= 1
        self._slots.release()


class KeyedLimiter:
    """A limiter per key: callers that wait for one row's lock leave connections to all others."""

    def __init__(self, slots: int, *, name: str = "other") -> None:
        """`slots` is the number of users per key; `name` is a metrics' label."""
        self._slots, self._name = slots, name
        # A limiter exists while somebody uses it.
        self._limiters: WeakValueDictionary[Hashable, Limiter] = WeakValueDictionary()
        self.waiting = 0

    @property
    def contended(self) -> bool:
        """Whether any caller waits for a slot."""
        return self.waiting > 0

    @asynccontextmanager
    async def enter(self, *keys: Hashable) -> AsyncIterator[Callable[..., Awaitable[bool]]]:
        """Take a slot of each key. Callers sort their keys, as with locks: this prevents deadlocks.

        Yields `try_add(*keys)`, which takes more slots without waiting. It takes all of them and returns True, or none
        when one of the limiters is full.
        """
        async with AsyncExitStack() as stack:
            entered = set(keys)

            async def try_add(*keys: Hashable) -> bool:
                limiters = {key: self._limiter(key) for key in keys if key not in entered}
                if any(limiter.full for limiter in limiters.values()):
                    return False
                for limiter in limiters.values():
                    await stack.enter_async_context(limiter)
                entered.update(limiters)
                return True

            self.waiting += 1
            try:
                for key in keys:
                    await stack.enter_async_context(self._limiter(key))
            finally:
                self.waiting -= 1
            yield try_add

    def _limiter(self, key: Hashable) -> Limiter:
        return self._limiters.setdefault(key, Limiter(self._slots, name=self._name))


def _busy() -> ShopError:
    return ShopError("busy", "Too many requests wait for the same resource; try again.")
