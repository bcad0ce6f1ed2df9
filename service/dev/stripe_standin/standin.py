"""One Stripe account in test mode and its server."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from starlette.applications import Starlette
from starlette.datastructures import Headers
from starlette.requests import Request
from starlette.responses import PlainTextResponse
from starlette.routing import Route
from starlette.types import ASGIApp, Receive, Scope, Send

from .account import Account
from .api import Api
from .control import control_routes
from .faults import Faults
from .hosts import is_own
from .page import PaymentPage
from .store import Store
from .webhooks import Deliverer, Delivery


class StripeStandin(Account):
    """One Stripe account in test mode, with `app`, the ASGI application that serves it.

    Tests in the same process change it by `pay`, `require_action`, `decline`, `settle`, `set_refund`,
    `refund_status`, `dispute`, `set_dispute`, `show`, `expand_intent`, `emit_event`, `set_faults`, `set_webhooks`,
    `set_rate_limit`, `restrict_key` and `advance_clock`. They read `ledger` and `requests`. Over HTTP, /_control
    offers the same, and lists it. Call these in the event loop that runs `app`. They raise ApiError when the state
    forbids the change.

    `webhook_url` and `webhook_secret` can be set at any time; `webhook_events` are patterns of the event types sent
    there. `public_url` is the base of the payment pages for browsers; None uses the Host of the API call.
    `settle_seconds` is the delay of a bank transfer made on the page, None for never. `database` None keeps the state
    in memory. It answers calls by address, as localhost, by `public_url` and by `hosts`; see `hosts.is_own`.
    """

    def __init__(
        self,
        *,
        webhook_url: str | None = None,
        webhook_secret: str = "whsec_standin",  # noqa: S107 - public on purpose
        webhook_events: Sequence[str] = ("*",),
        public_url: str | None = None,
        database: Path | None = None,
        settle_seconds: float | None = 10.0,
        hosts: Sequence[str] = (),
    ) -> None:
        self.webhook_url = webhook_url
        self.webhook_secret = webhook_secret
        self.public_url = public_url
        store = Store(database)
        self._deliverer = Deliverer(
            store, lambda: self.events, lambda: (self.webhook_url, self.webhook_secret), webhook_events
        )
        super().__init__(store, self._deliverer.deliver)
        self._faults = Faults()
        api = Api(self, self._faults, self._base_url)
        self.requests = api.requests
        self.set_rate_limit = api.rate_limit.set
        self.restrict_key = api.restrict_key
        page = PaymentPage(self, self._deliverer, settle_seconds)
        rest = Starlette(
            routes=[
                Route("/pay/{session_id}", page.show, methods=["GET"]),
                Route("/pay/{session_id}", page.submit, methods=["POST"]),
                *control_routes(
                    self,
                    self._faults,
                    self._deliverer,
                    rate_limit=api.rate_limit,
                    requests=api.requests,
                    restrict_key=api.restrict_key,
                ),
            ],
            lifespan=self._lifespan,
        )

        names = frozenset((*hosts, *((urlsplit(public_url).hostname or "",) if public_url else ())))

        async def app(scope: Scope, receive: Receive, send: Send) -> None:
            if scope["type"] == "http" and not is_own(Headers(scope=scope).get("host", ""), names):
                await PlainTextResponse("This server does not answer to that Host.", 421)(scope, receive, send)
                return
            # Starlette would wrap `send`, which faults need unwrapped to drop the connection.
            target = api if scope["type"] == "http" and scope["path"].startswith("/v1/") else rest
            await target(scope, receive, send)

        # Not a method: uvicorn treats bound methods as ASGI 2.
        self.app: ASGIApp = app

    def set_faults(self, rules: Sequence[Mapping[str, Any]]) -> None:
        """Replace the fault rules; see faults.Rule for their fields."""
        self._faults.set(rules)

    def set_webhooks(self, **changes: Any) -> Delivery:
        """Change how events are delivered; see webhooks.Delivery for the settings."""
        return self._deliverer.change(**changes)

    def _base_url(self, request: Request) -> str:
        return (self.public_url or str(request.base_url)).rstrip("/")

    @asynccontextmanager
    async def _lifespan(self, _: Starlette) -> AsyncIterator[None]:
        await self._deliverer.start()
        ticker = asyncio.create_task(self._tick())
        yield
        ticker.cancel()
        with suppress(asyncio.CancelledError):
            await ticker
        await self._deliverer.stop()
        self.store.commit()

    async def _tick(self) -> None:
        while True:
            self.catch_up()
            self.store.commit()
            await asyncio.sleep(1)
