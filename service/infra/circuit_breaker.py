"""Asking Redis without depending on it."""

import asyncio
import logging
import time
from collections.abc import Awaitable, Callable
from contextlib import suppress
from typing import Literal, TypeAlias, TypeVar

from redis.asyncio import ConnectionPool
from redis.exceptions import AuthenticationError, NoPermissionError, ReadOnlyError, RedisError

T = TypeVar("T")
# How Redis answered last, in the words of readiness.
State: TypeAlias = Literal["ok", "unreachable", "login_refused", "read_only"]

# A Redis that hangs is given this long, then left alone for a while: its callers have work to do.
PATIENCE_SECONDS = 0.25
REST_SECONDS = 1.0

logger = logging.getLogger(__name__)


class CircuitBreaker:
    """One process's patience with its Redis, whose connections are all in `pool`."""

    def __init__(self, pool: ConnectionPool) -> None:
        self._pool = pool
        self._rest_until = 0.0
        self.state: State = "ok"

    async def call(
        self, question: Callable[[], Awaitable[T]], *, urgent: bool = False, seconds: float = PATIENCE_SECONDS
    ) -> T | None:
        """Redis's answer, or None when it gives none; after that it is not asked for a while, unless urgent."""
        if time.monotonic() < self._rest_until and not urgent:
            return None
        try:
            async with asyncio.timeout(seconds):
                answer = await question()
        except (RedisError, OSError, TimeoutError) as error:
            self._rest_until = time.monotonic() + REST_SECONDS
            self.state = _state(error)
            logger.warning("redis call failed", extra={"error": repr(error)})
            if self.state == "read_only":
                # The server was demoted. New connections find the new primary, so all are dropped, busy ones too.
                with suppress(RedisError, OSError):
                    await self._pool.disconnect()
            return None
        self.state = "ok"
        return answer


def _state(error: Exception) -> State:
    if isinstance(error, ReadOnlyError):
        return "read_only"
    return "login_refused" if isinstance(error, AuthenticationError | NoPermissionError) else "unreachable"
