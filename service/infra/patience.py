"""Asking Redis without depending on it."""

import asyncio
import logging
import time
from collections.abc import Awaitable, Callable
from typing import TypeVar

from redis.exceptions import RedisError

T = TypeVar("T")

# A Redis that hangs is given this long, then left alone for a while: its callers have work to do.
PATIENCE_SECONDS = 0.25
REST_SECONDS = 1.0

logger = logging.getLogger(__name__)


class Patience:
    """One process's patience with its Redis."""

    def __init__(self) -> None:
        self._rest_until = 0.0

    async def ask(
        self, question: Callable[[], Awaitable[T]], *, urgent: bool = False, seconds: float = PATIENCE_SECONDS
    ) -> T | None:
        """Redis's answer, or None when it gives none; after that it is not asked for a while, unless urgent."""
        if time.monotonic() < self._rest_until and not urgent:
            return None
        try:
            async with asyncio.timeout(seconds):
                return await question()
        except (RedisError, OSError, TimeoutError) as error:
            self._rest_until = time.monotonic() + REST_SECONDS
            logger.warning("redis does not answer", extra={"error": repr(error)})
            return None
