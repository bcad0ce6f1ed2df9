"""Calls to Redis that nothing depends on. After a failed call, further calls are skipped for a second."""

import asyncio
import logging
import time
from collections.abc import Awaitable, Callable
from contextlib import suppress
from functools import cache
from typing import Literal, TypeAlias, TypeVar

from prometheus_client import Histogram
from redis.asyncio import ConnectionPool
from redis.exceptions import AuthenticationError, NoPermissionError, ReadOnlyError, RedisError

from service.infra.metrics import REDIS, REDIS_FAILURES

T = TypeVar("T")
# What Redis is asked for: the label of the metrics.
Operation: TypeAlias = Literal[
    "read_generation",
    "read_page",
    "store_page",
    "invalidate",
    "count_request",
    "enqueue",
    "confirm",
    "readiness",
    "describe_server",
]
# The result of the last call, in the words of readiness.
State: TypeAlias = Literal["ok", "unreachable", "login_refused", "read_only"]

CALL_SECONDS = 0.25
# Calls are skipped for this long after a failed one, so that callers do not wait for a server that is down.
REST_SECONDS = 1.0

logger = logging.getLogger(__name__)


class CircuitBreaker:
    """The circuit breaker of one process's Redis; `pool` has all of its connections."""

    def __init__(self, pool: ConnectionPool) -> None:
        self._pool = pool
        self._rest_until = 0.0
        self.state: State = "ok"

    async def call(
        self,
        request: Callable[[], Awaitable[T]],
        *,
        operation: Operation,
        urgent: bool = False,
        seconds: float = CALL_SECONDS,
    ) -> T | None:
        """The result of `request()`, or None if it fails or if an earlier one failed within REST_SECONDS.

        `urgent` requests are made even then.
        """
        started = time.monotonic()
        if started < self._rest_until and not urgent:
            return None
        try:
            async with asyncio.timeout(seconds):
                result = await request()
        except (RedisError, OSError, TimeoutError) as error:
            self._rest_until = time.monotonic() + REST_SECONDS
            self.state = _state(error)
            REDIS_FAILURES.labels(operation, self.state).inc()
            logger.warning("redis call failed", extra={"operation": operation, "error": repr(error)})
            if self.state == "read_only":
                # The server was demoted: drop all connections, busy ones too. New ones find the new primary.
                with suppress(RedisError, OSError):
                    await self._pool.disconnect()
            return None
        self.state = "ok"
        _latency(operation).observe(time.monotonic() - started)
        return result


@cache
def _latency(operation: Operation) -> Histogram:
    """Cached, because the look-up by labels takes as long as observing."""
    return REDIS.labels(operation)


def _state(error: Exception) -> State:
    if isinstance(error, ReadOnlyError):
        return "read_only"
    return "login_refused" if isinstance(error, AuthenticationError | NoPermissionError) else "unreachable"
