"""Queues before what is scarce: first come, first served, and bounded, so that waiting stays worth it."""

import asyncio
import time
from collections.abc import AsyncIterator, Hashable
from contextlib import AsyncExitStack, asynccontextmanager
from types import TracebackType
from weakref import WeakValueDictionary

from service.errors import ShopError

# A rush is let in whole and gets through in a while; a queue that stands for longer than this is no rush, but more
# than can be done: from then on whoever would make it longer than WAITING is sent away at once.
RUSH_SECONDS = 10.0
WAITING = 256
PATIENCE_SECONDS = 20.0


class Turns:
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
        self._most, self._rush, self._patience = waiting, rush_seconds, patience_seconds
        self._waiting = 0
        self._free_at = time.monotonic()

    async def __aenter__(self) -> None:
        if not self._places.locked():
            self._free_at = time.monotonic()
            # At once, and without the cost of a time limit.
            await self._places.acquire()
            return
        if self._waiting >= self._most and time.monotonic() > self._free_at + self._rush:
            raise _busy()
        self._waiting += 1
        try:
            async with asyncio.timeout(self._patience):
                await self._places.acquire()
        except TimeoutError:
            raise _busy() from None
        finally:
            self._waiting -= 1

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._places.release()


class Lanes:
    """Turns by name, so that those who wait for one row's lock leave connections to everybody else."""

    def __init__(self, places: int) -> None:
        """`places` in each lane."""
        self._places = places
        # A lane is there for as long as somebody is in it.
        self._lanes: WeakValueDictionary[Hashable, Turns] = WeakValueDictionary()

    @asynccontextmanager
    async def enter(self, *names: Hashable) -> AsyncIterator[None]:
        """Have a place in the lane of each name. Callers give several names in one order, as with locks."""
        async with AsyncExitStack() as stack:
            for name in names:
                lane = self._lanes.setdefault(name, Turns(self._places))
                await stack.enter_async_context(lane)
            yield


def _busy() -> ShopError:
    return ShopError("busy", "Too many are waiting for the same; try again.")
