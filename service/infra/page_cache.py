"""The first page of the listing, kept in Redis as the bytes that go out."""

import asyncio
import secrets
import time
from collections.abc import Awaitable, Callable
from functools import partial

from redis.asyncio import Redis

from service.infra.circuit_breaker import CircuitBreaker

TTL_SECONDS = 60
_GENERATION = b"catalogue:generation"
_PAGE = b"catalogue:first_page:"


class PageCache:
    """A page under a generation that every change ends.

    The generation is random and part of the page's key. A reader learns the generation before it reads the
    tables, so a slow one can only ever store its old page under a generation that nobody asks for any more;
    and as none is ever used twice, not even a wiped Redis can bring an old page back.
    """

    def __init__(self, redis: Redis, redis_breaker: CircuitBreaker) -> None:
        self._redis = redis
        self._redis_breaker = redis_breaker
        self._asking: asyncio.Task[bytes | None] | None = None
        self._to_ask: asyncio.Task[bytes | None] | None = None
        # Who is to be told what `_to_ask` learns.
        self._to_tell: list[Callable[[bytes | None], None]] = []
        self._refill: asyncio.Task[bytes] | None = None
        self._renewal: asyncio.Task[None] | None = None
        # What this process sent last: its generation, the end of its life (monotonic), its bytes.
        self._held: tuple[bytes, float, bytes] = (b"", 0.0, b"")

    def when_fresh(self, tell: Callable[[bytes | None], None]) -> None:
        """Call `tell` with the page once Redis has said that the one held here is fresh; with None where it is not.

        For who answers so many that a task to wait in would cost each more than its answer.
        """
        if self._unheard():
            tell(None)
        else:
            self._next_question()
            self._to_tell.append(tell)

    async def page(self, render: Callable[[], Awaitable[bytes]]) -> bytes:
        """The cached page; `render` reads it from the tables where there is none or no Redis.

        One refill at a time: whoever misses while one is under way gets what that one reads.
        """
        if self._unheard():
            return await render()
        generation = await asyncio.shield(self._next_question())
        if generation is None:
            return await render()
        held = self._held_under(generation)
        if held is not None:
            return held
        if self._refill is None or self._refill.done() or self._refill.get_name() != generation.hex():
            self._refill = asyncio.create_task(self._fill(generation, render), name=generation.hex())
        return await asyncio.shield(self._refill)

    async def invalidate(self) -> None:
        """Make every cached page void; called after the commit of a change that a page would show.

        With Redis out of reach it is tried again until the oldest page there can be has run out.
        """
        if not await self._renew() and (self._renewal is None or self._renewal.done()):
            self._renewal = asyncio.create_task(self._renew_later())

    def _unheard(self) -> bool:
        """Whether Redis may answer, but does not know of a change made here."""
        return self._renewal is not None and not self._renewal.done()

    def _held_under(self, generation: bytes) -> bytes | None:
        held_generation, end, held = self._held
        return held if generation == held_generation and time.monotonic() < end else None

    def _tell(self, waiting: list[Callable[[bytes | None], None]], question: asyncio.Task[bytes | None]) -> None:
        generation = None if question.cancelled() or question.exception() else question.result()
        page = None if generation is None else self._held_under(generation)
        for tell in waiting:
            tell(page)

    def _next_question(self) -> asyncio.Task[bytes | None]:
        """Learns the generation by a question that is sent after this was called; one serves all who wait by then.

        Whoever comes while one is under way waits for the next: that one may have been answered before a change.
        """
        if self._to_ask is None:
            self._to_ask = asyncio.create_task(self._ask_next(self._asking))
            self._to_tell = []
            self._to_ask.add_done_callback(partial(self._tell, self._to_tell))
        return self._to_ask

    async def _ask_next(self, before: asyncio.Task[bytes | None] | None) -> bytes | None:
        if before is not None and not before.done():
            await asyncio.wait((before,))
        self._asking, self._to_ask = self._to_ask, None
        return await self._redis_breaker.call(self._generation)

    async def _generation(self) -> bytes:
        generation = await self._redis.get(_GENERATION)
        if generation is None:
            await self._redis.set(_GENERATION, secrets.token_bytes(12), nx=True)
            generation = await self._redis.get(_GENERATION)
        return bytes(generation or secrets.token_bytes(12))

    async def _fill(self, generation: bytes, render: Callable[[], Awaitable[bytes]]) -> bytes:
        key = _PAGE + generation
        # Another process may have stored it: then it is as old as its time to live tells.
        stored = await self._redis_breaker.call(lambda: self._redis.get(key))
        left = await self._redis_breaker.call(lambda: self._redis.pttl(key)) if stored else None
        if stored and left and left > 0:
            self._held = (generation, time.monotonic() + left / 1000, stored)
            return bytes(stored)
        end = time.monotonic() + TTL_SECONDS
        page: bytes = await render()
        self._held = (generation, end, page)
        await self._redis_breaker.call(lambda: self._redis.set(key, page, ex=TTL_SECONDS))
        return page

    async def _renew(self) -> bool:
        # Deleted and not set: that works in a Redis that is full, and whoever reads next makes a new one.
        return await self._redis_breaker.call(lambda: self._redis.delete(_GENERATION), urgent=True) is not None

    async def _renew_later(self) -> None:
        for _ in range(TTL_SECONDS):
            await asyncio.sleep(1)
            if await self._renew():
                return
