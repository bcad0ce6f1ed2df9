"""Stripe's rate limits: so many requests a second, for each endpoint and for all of them."""

from __future__ import annotations

import time
from collections import defaultdict, deque

from .replies import ApiError


class RateLimit:
    """Off until `set`. Stripe's defaults are 25 for each endpoint, and for all 25 in test and 100 in live mode.

    https://docs.stripe.com/rate-limits
    """

    def __init__(self) -> None:
        self._endpoint: int | None = None
        self._total: int | None = None
        # When the requests of the last second were admitted, by endpoint; "" has those of all.
        self._admitted: dict[str, deque[float]] = defaultdict(deque)

    def set(self, endpoint: int | None = None, total: int | None = None) -> None:
        """Admit so many requests a second for each endpoint, and for all of them; None admits any number."""
        self._endpoint, self._total = endpoint, total
        self._admitted.clear()

    def take(self, endpoint: str) -> None:
        """Admit a request to an endpoint, such as "GET /v1/events/{id}". Raises ApiError 429."""
        now = time.monotonic()
        limits = (("", self._total, "global-rate"), (endpoint, self._endpoint, "endpoint-rate"))
        for name, limit, reason in limits:
            admitted = self._admitted[name]
            while admitted and admitted[0] <= now - 1:
                admitted.popleft()
            if limit is not None and len(admitted) >= limit:
                raise rate_limited(reason)
        for name, limit, _ in limits:
            if limit is not None:
                self._admitted[name].append(now)


def rate_limited(reason: str, code: str = "rate_limit") -> ApiError:
    """A refusal that no idempotency key remembers. Stripe sends no Retry-After with it.

    `lock_timeout`: another request holds the object, which Stripe asks to try again.
    """
    if code == "lock_timeout":
        message = (
            "This object cannot be accessed right now because another API request or Stripe process is currently"
            " accessing it. If you see this error intermittently, retry the request."
        )
        return ApiError(429, message, code=code, headers={"Stripe-Should-Retry": "true"})
    message = (
        "Request rate limit exceeded. You can learn more about rate limits here https://stripe.com/docs/rate-limits."
    )
    headers = {"Stripe-Rate-Limited-Reason": reason, "Stripe-Should-Retry": "false"}
    return ApiError(429, message, code=code, headers=headers)
