"""Queues before what is scarce: first come, first served, and bounded, so that waiting stays worth it."""

import asyncio
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Hashable
from contextlib import AsyncExitStack, asynccontextmanager
from types import TracebackType
from weakref import WeakValueDictionary

from service.errors import ShopError

# A rush is let in whole and gets through in a while; a queue that stands for longer than this is no rush, but more
# than can be done: from then on whoever would make it longer than WAITING is sent away at once.
RUSH_SECONDS = 10.0
WAITING = 256
PATIENCE_SECONDS = 20.0


class Limiter:
    """At most `places` at a time, for `async with`. Raises `busy` where the queue is too long or does not move."""

    def __init__(
        self,
        places: int,
        *,
        waiting: int = WAITING,
        rush_seconds: float = RUSH_SECONDS,
        patience_seconds: float = PATIENCE_SECONDS,
    ) -> None:
        self._places = asyncio.Semaphore(places)
        self._most, self._rush, self._redis_breaker = waiting, rush_seconds, patience_seconds
        self._waiting = 0
        self._free_at = time.monotonic()

    @property
    def full(self) -> bool:
        """Whether who enters now has to wait."""
        return self._places.locked()

    async def __aenter__(self) -> None:
        if not self.full:
            self._free_at = time.monotonic()
            # At once, and without the cost of a time limit.
            await self._places.acquire()
            return
        if self._waiting >= self._most and time.monotonic() > self._free_at + self._rush:
            raise _busy()
        self._waiting += 1
        try:
            async with asyncio.timeout(self._redis_breaker):
                await self._places.acquire()
        except TimeoutError:
            raise _busy() from None
        finally:
            self._waiting -= 1

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._places.release()


class KeyedLimiter:
    """Limiter by name, so that those who wait for one row's lock leave connections to everybody else."""

    def __init__(self, places: int) -> None:
        """`places` in each lane."""
        self._places = places
        # A lane is there for as long as somebody is in it.
        self._lanes: WeakValueDictionary[Hashable, Limiter] = WeakValueDictionary()
        self._waiting = 0

    @property
    def contended(self) -> bool:
        """Whether anybody waits for a place."""
        return self._waiting > 0

    @asynccontextmanager
    async def enter(self, *names: Hashable) -> AsyncIterator[Callable[..., Awaitable[bool]]]:
        """Have a place in the lane of each name. Callers give several names in one order, as with locks.

        Yields `also(*names)` for who must not wait: it enters those lanes too if each has a place free, and says
        whether it did.
        """
        async with AsyncExitStack() as stack:
            entered = set(names)

            async def also(*names: Hashable) -> bool:
                lanes = {name: self._lane(name) for name in names if name not in entered}
                if any(lane.full for lane in lanes.values()):
                    return False
                for lane in lanes.values():
                    await stack.enter_async_context(lane)
                entered.update(lanes)
                return True

            self._waiting += 1
            try:
                for name in names:
                    await stack.enter_async_context(self._lane(name))
            finally:
                self._waiting -= 1
            yield also

    def _lane(self, name: Hashable) -> Limiter:
        return self._lanes.setdefault(name, Limiter(self._places))


def _busy() -> ShopError:
    return ShopError("busy", "Too many are waiting for the same; try again.")
