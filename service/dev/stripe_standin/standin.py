"""The stand-in whole: one Stripe account in test mode and the server in front of it."""

from __future__ import annotations

import asyncio
import gc
import signal
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager, suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

import uvicorn
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.routing import Route
from starlette.types import ASGIApp, Receive, Scope, Send

from .api import Api
from .control import control_routes
from .faults import Faults
from .page import PaymentPage
from .parameters import ApiError
from .payments import Payments
from .store import Store
from .webhooks import Deliverer, Delivery


class StripeStandin(Payments):
    """One Stripe account in test mode and the server in front of it.

    What /_control does over HTTP, tests in the same process do by `pay`, `decline`, `settle`, `set_refund`,
    `refund_status`, `dispute`, `set_faults`, `set_webhooks`, `advance_clock`, `ledger` and `requests`. Call
    them in the event loop that runs `app`; they raise ApiError when the state forbids the change.

    `webhook_url` and `webhook_secret` may be set at any time; `webhook_events` are patterns of the types of events
    that are sent there. `public_url` is the base of payment pages as a browser reaches them; None takes the Host that
    the API was called by. `settle_seconds`: when money promised on the page as a bank transfer arrives, None for
    never. `database` None keeps all in memory.
    """

    def __init__(
        self,
        *,
        webhook_url: str | None = None,
        webhook_secret: str = "whsec_standin",  # noqa: S107 - known to everyone, and meant to be
        webhook_events: Sequence[str] = ("*",),
        public_url: str | None = None,
        database: Path | None = None,
        settle_seconds: float | None = 10.0,
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
        # Calls of the API by "METHOD path-template".
        self.requests = api.requests
        page = PaymentPage(self, settle_seconds)
        rest = Starlette(
            routes=[
                Route("/pay/{session_id}", page.show, methods=["GET"]),
                Route("/pay/{session_id}", page.submit, methods=["POST"]),
                *control_routes(self),
            ],
            lifespan=self._lifespan,
        )

        async def app(scope: Scope, receive: Receive, send: Send) -> None:
            # Starlette would wrap `send`, and faults could no longer drop the connection.
            inside = api if scope["type"] == "http" and scope["path"].startswith("/v1/") else rest
            await inside(scope, receive, send)

        # Not a method: uvicorn takes bound methods for ASGI 2.
        self.app: ASGIApp = app

    def set_faults(self, rules: Sequence[Mapping[str, Any]]) -> None:
        """Replace the rules of what goes wrong with API calls; see faults.Rule for their fields."""
        self._faults.set(rules)

    def set_webhooks(self, **changes: Any) -> Delivery:
        """Change how events are delivered; see webhooks.Delivery. What is not given stays as it is."""
        try:
            return self._deliverer.configure(replace(self._deliverer.settings, **changes))
        except TypeError as error:
            raise ApiError(400, str(error)) from None

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


def serve(
    host: str,
    port: int,
    *,
    webhook_url: str | None,
    webhook_secret: str,
    webhook_events: Sequence[str],
    public_url: str | None,
    database: Path | None,
) -> None:
    """Run the stand-in until SIGTERM or SIGINT, then return. For the main thread of a process of its own."""
    standin = StripeStandin(
        webhook_url=webhook_url,
        webhook_secret=webhook_secret,
        webhook_events=webhook_events,
        public_url=public_url,
        database=database,
    )
    # It keeps whatever it made, all of which a full collection walks: Stripe does not stop for a quarter of a second.
    gc.set_threshold(700, 10, 1000)
    # uvicorn raises the signal again once it has stopped; unheeded, this function can return.
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: None)
    uvicorn.run(
        standin.app,
        host=host,
        port=port,
        log_level="warning",
        access_log=False,
        proxy_headers=False,
        # A client that takes up a connection just as it is closed would have to try again.
        timeout_keep_alive=75,
        # A call that a fault keeps hanging must not keep the server from stopping.
        timeout_graceful_shutdown=2,
    )
