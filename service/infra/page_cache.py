"""The first page of the listing, cached in Redis as the bytes of the response."""

import asyncio
import secrets
import time
from collections.abc import Awaitable, Callable

from redis.asyncio import Redis

from service.infra.circuit_breaker import CircuitBreaker

TTL_SECONDS = 60
_GENERATION = b"catalogue:generation"
_PAGE = b"catalogue:first_page:"


class PageCache:
    """A cached page and its generation, which every change ends.

    The generation is random and part of the page's key. A reader gets it before it reads the tables, so a slow reader
    stores its old page under an old generation, which nobody asks for. No generation is used twice, so even a Redis
    that lost its data cannot bring an old page back.
    """

    def __init__(self, redis: Redis, redis_breaker: CircuitBreaker) -> None:
        self._redis = redis
        self._redis_breaker = redis_breaker
        # The query for the generation that is under way, and the one that is sent after it.
        self._current_query: asyncio.Task[bytes | None] | None = None
        self._next_query: asyncio.Task[bytes | None] | None = None
        self._refill: asyncio.Task[bytes] | None = None
        self._invalidation: asyncio.Task[None] | None = None
        # This process's copy of the page: its generation, the end of its life (monotonic), its bytes.
        self._copy: tuple[bytes, float, bytes] = (b"", 0.0, b"")
        # Plain integers: a counter of the metrics takes ten times as long, at each request.
        self._hits = self._misses = 0

    def take_counts(self) -> tuple[int, int]:
        """How many requests the cache answered, and how many it did not, since the last call."""
        counts = self._hits, self._misses
        self._hits = self._misses = 0
        return counts

    async def page(self, render: Callable[[], Awaitable[bytes]], members: str = "") -> bytes:
        """The cached page. If there is none, or no Redis, `render` reads it from the tables.

        `members` are those of its items: processes of another version, with others, have a page of their own.
        One refill runs at a time; requests that arrive meanwhile share its result.
        """
        if self._is_invalidating():
            self._misses += 1
            return await render()
        generation = await asyncio.shield(self._query_generation())
        if generation is None:
            self._misses += 1
            return await render()
        copy = self._copy_of(generation)
        if copy is not None:
            self._hits += 1
            return copy
        self._misses += 1
        if self._refill is None or self._refill.done() or self._refill.get_name() != generation.hex():
            self._refill = asyncio.create_task(self._fill(generation, render, members), name=generation.hex())
        return await asyncio.shield(self._refill)

    async def invalidate(self) -> None:
        """End the generation, and with it every cached page. Call it after the commit of a change that a page shows.

        Without Redis this is retried in the background, until the oldest cached page has expired.
        """
        if not await self._end_generation() and not self._is_invalidating():
            self._invalidation = asyncio.create_task(self._invalidate_later())

    def _is_invalidating(self) -> bool:
        """Whether Redis may still have the generation from before a change that this process made."""
        return self._invalidation is not None and not self._invalidation.done()

    def _copy_of(self, generation: bytes) -> bytes | None:
        copied_generation, end, page = self._copy
        return page if generation == copied_generation and time.monotonic() < end else None

    def _query_generation(self) -> asyncio.Task[bytes | None]:
        """Get the generation by a query that is sent after this call. All callers before that share the query.

        A query under way is not enough: Redis may have answered it before a change.
        """
        if self._next_query is None:
            self._next_query = asyncio.create_task(self._query_after(self._current_query))
        return self._next_query

    async def _query_after(self, previous: asyncio.Task[bytes | None] | None) -> bytes | None:
        if previous is not None and not previous.done():
            await asyncio.wait((previous,))
        self._current_query, self._next_query = self._next_query, None
        return await self._redis_breaker.call(self._read_generation, operation="read_generation")

    async def _read_generation(self) -> bytes:
        generation = await self._redis.get(_GENERATION)
        if generation is None:
            await self._redis.set(_GENERATION, secrets.token_bytes(12), nx=True)
            generation = await self._redis.get(_GENERATION)
        return bytes(generation or secrets.token_bytes(12))

    async def _fill(self, generation: bytes, render: Callable[[], Awaitable[bytes]], members: str) -> bytes:
        key = _PAGE + members.encode() + b":" + generation
        # Another process may have stored the page. Its time to live then gives its age.
        stored = await self._redis_breaker.call(lambda: self._redis.get(key), operation="read_page")
        ttl = None
        if stored:
            ttl = await self._redis_breaker.call(lambda: self._redis.pttl(key), operation="read_page")
        if stored and ttl and ttl > 0:
            self._copy = (generation, time.monotonic() + ttl / 1000, stored)
            return bytes(stored)
        end = time.monotonic() + TTL_SECONDS
        page: bytes = await render()
        self._copy = (generation, end, page)
        await self._redis_breaker.call(lambda: self._redis.set(key, page, ex=TTL_SECONDS), operation="store_page")
        return page

    async def _end_generation(self) -> bool:
        # Deleting works in a full Redis too. The next reader sets a new generation.
        deleted = await self._redis_breaker.call(
            lambda: self._redis.delete(_GENERATION), operation="invalidate", urgent=True
        )
        return deleted is not None

    async def _invalidate_later(self) -> None:
        for _ in range(TTL_SECONDS):
            await asyncio.sleep(1)
            if await self._end_generation():
                return
