"""The part of Stripe's API that the shop uses, over the SDK's async client: calls, what they answer, what failed."""

import asyncio
import hmac
import logging
import re
import ssl
import time
from collections.abc import AsyncIterator, Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Self, TypeVar
from urllib.parse import quote
from uuid import UUID

import aiohttp
import stripe

from service.settings import Settings

# A signature older or newer than this is refused, in seconds.
SIGNATURE_TOLERANCE = 300
# How far Stripe's clock may be from ours when something is looked for by its time of creation.
CLOCK_SKEW_SECONDS = 300
# Stripe allows 100 reads a second with a live key; a listing job stays far from taking them all.
_SECONDS_BETWEEN_PAGES = 0.1
_NO_TEXT = re.compile("[\0\ud800-\udfff]")
_PLAIN = re.compile(r"[\w-]{1,100}", re.ASCII)
_UNIX_TIME = re.compile("[0-9]{1,12}")
_SIGNATURE = re.compile("[0-9a-f]{64}")

T = TypeVar("T")

stripe.enable_telemetry = False

logger = logging.getLogger(__name__)


class StripeFailed(Exception):
    """A call that failed: the reply's status, Stripe's error code and request id; each is None where there is none.

    `param` names what Stripe minded. `replayed` says that the reply is the stored one of an earlier call with this
    key: Stripe has done with it and will not do it again.
    """

    def __init__(
        self,
        message: str,
        status: int | None = None,
        *,
        code: str | None = None,
        request_id: str | None = None,
        param: str | None = None,
        replayed: bool = False,
    ) -> None:
        super().__init__(message)
        self.status = status
        self.code = code
        self.request_id = request_id
        self.param = param
        self.replayed = replayed


class StripeRefused(StripeFailed):
    """Stripe understood and said no (400, 402, 404): the call had no effect."""


class StripeUnknown(StripeFailed):
    """Anything else: time-out, lost or unreadable reply, 409, 429, 401, 403, 5xx. The call may have had its effect."""


@dataclass(slots=True)
class Session:
    """A Checkout session; money in minor units, currency in upper case, `order_id` from its metadata."""

    id: str
    status: str
    payment_status: str
    amount_total: int | None
    currency: str | None
    payment_intent: str | None
    email: str | None
    url: str | None
    order_id: str | None

    @classmethod
    def read(cls, data: Mapping[str, Any]) -> Self:
        """From Stripe's JSON, a reply's or an event's; raises StripeUnknown when it is none."""
        try:
            currency, details = _text(data.get("currency")), data.get("customer_details") or {}
            return cls(
                _needed(data["id"]),
                _needed(data["status"]),
                _needed(data["payment_status"]),
                _amount(data.get("amount_total")),
                currency.upper() if currency else None,
                _text(data.get("payment_intent")),
                (_text(details.get("email")) or "")[:800] or None,
                _text(data.get("url")),
                _text((data.get("metadata") or {}).get("order_id")),
            )
        except (KeyError, TypeError, AttributeError):
            raise StripeUnknown("not a Checkout session") from None


@dataclass(slots=True)
class Refund:
    """A refund as Stripe has it; `refund_id` is ours, from its metadata."""

    id: str
    status: str
    amount_minor: int
    refund_id: str | None


@dataclass(slots=True)
class PaymentIntent:
    """A payment intent; `order_id` is ours, from its metadata.

    `received_minor` has been captured, in minor units of `currency` (upper case).
    """

    id: str
    status: str
    order_id: str | None
    received_minor: int
    currency: str


def _text(value: object) -> str | None:
    """A text; None for what is none. Raises StripeUnknown for one that PostgreSQL cannot hold, though JSON can."""
    if not isinstance(value, str):
        return None
    if _NO_TEXT.search(value):
        raise StripeUnknown("not a text")
    return value


def _needed(value: object) -> str:
    """A text; raises TypeError for what is none."""
    text = _text(value)
    if text is None:
        raise TypeError
    return text


def _amount(value: object) -> int | None:
    """An amount of money; None for what is none."""
    return value if type(value) is int and 0 <= value < 2**63 else None


class Stripe:
    """The calls, each bounded by `stripe_timeout_seconds` and never retried in here: callers know what is safe.

    Every call raises StripeRefused or StripeUnknown, and logs that once, with the `order_id` that it is about.
    """

    def __init__(self, settings: Settings) -> None:
        """Must be made inside the running event loop; `close` when done."""
        tls = ssl.create_default_context(cafile=stripe.ca_bundle_path)
        self._timeout = settings.stripe_timeout_seconds
        # When Stripe hangs, its callers do; half of the API's places are left to those who want something else.
        self._free = most = max(1, settings.max_in_flight // 2)
        self._session = aiohttp.ClientSession(connector=aiohttp.TCPConnector(limit=most, ssl=tls))
        self._client = stripe.StripeClient(
            settings.stripe_api_key,
            base_addresses={"api": settings.stripe_api_base.rstrip("/")},
            http_client=stripe.AIOHTTPClient(timeout=settings.stripe_timeout_seconds, session=self._session),
            max_network_retries=0,
        )

    async def close(self) -> None:
        """Close the connections."""
        await self._session.close()

    async def create_session(
        self, parameters: dict[str, Any], idempotency_key: str, *, order_id: UUID | str | None = None
    ) -> Session:
        """Create a session, or get the one that this key created before, as it was then."""

        def read(data: Mapping[str, Any]) -> Session:
            made = Session.read(data)
            if order_id is not None and made.order_id != str(order_id):
                # Nothing of ours answers so. Whatever did, another order's session must not be paid for this one.
                raise StripeUnknown("another order's session")
            return made

        parameters = {**parameters, "idempotency_key": idempotency_key}
        return await self._ask("post", "checkout/sessions", read, order_id, **parameters)

    async def retrieve_session(self, session_id: str, *, order_id: UUID | str | None = None) -> Session:
        """A session as it is now."""
        return await self._ask("get", f"checkout/sessions/{_quoted(session_id)}", Session.read, order_id)

    async def expire_session(self, session_id: str, *, order_id: UUID | str | None = None) -> Session:
        """Close an open session for good; of one that is not open, what it is instead."""
        path = f"checkout/sessions/{_quoted(session_id)}/expire"
        with _failure_logged("post", path, order_id):
            try:
                return Session.read(await self._reply("post", path, {}))
            except StripeRefused as refused:
                if refused.status == 404:
                    raise
        # Refused since it is not open, which is no failure.
        return await self.retrieve_session(session_id, order_id=order_id)

    async def sessions_since(
        self, created: int, *, order_id: UUID | str | None = None, **filters: str
    ) -> AsyncIterator[Session]:
        """All sessions that name an order, created at or after a Unix time, newest first, a page of 100 at a time.

        What others sell on the same account is passed over unread: it need not even be readable here.
        """
        parameters: dict[str, Any] = {"limit": 100, "created": {"gte": created}, **filters}
        async for session in self._pages("checkout/sessions", _session_of_ours, order_id, **parameters):
            if session is not None:
                yield session

    async def create_refund(
        self,
        payment_intent: str,
        amount_minor: int,
        metadata: dict[str, str],
        idempotency_key: str,
        *,
        order_id: UUID | str | None = None,
    ) -> Refund:
        """Give money back."""
        parameters: dict[str, Any] = {
            "payment_intent": payment_intent,
            "amount": amount_minor,
            "metadata": metadata,
            "idempotency_key": idempotency_key,
        }
        return await self._ask("post", "refunds", _refund, order_id, **parameters)

    async def refunds_of(self, payment_intent: str, *, order_id: UUID | str | None = None) -> list[Refund]:
        """All refunds of a payment, newest first, whoever made them."""
        parameters: dict[str, Any] = {"limit": 100, "payment_intent": payment_intent}
        return [refund async for refund in self._pages("refunds", _refund, order_id, **parameters)]

    async def retrieve_payment_intent(
        self, payment_intent: str, *, order_id: UUID | str | None = None
    ) -> PaymentIntent:
        """A payment intent as it is now."""

        def read(data: Mapping[str, Any]) -> PaymentIntent:
            try:
                named, received = _text((data.get("metadata") or {}).get("order_id")), _amount(data["amount_received"])
                if received is None:
                    raise TypeError
                return PaymentIntent(
                    payment_intent, _needed(data["status"]), named, received, _needed(data["currency"]).upper()
                )
            except (KeyError, TypeError, AttributeError):
                raise StripeUnknown("not a payment intent") from None

        return await self._ask("get", f"payment_intents/{_quoted(payment_intent)}", read, order_id)

    async def retrieve_event(self, event_id: str) -> dict[str, Any]:
        """An event as Stripe keeps it for 30 days."""
        return await self._ask("get", f"events/{_quoted(event_id)}", dict, None)

    async def events_since(self, created: int, types: Sequence[str]) -> AsyncIterator[dict[str, Any]]:
        """All events of these types (at most 20) made at or after a Unix time, newest first."""
        parameters: dict[str, Any] = {"limit": 100, "created": {"gte": created}, "types": list(types)}
        async for data in self._pages("events", dict, None, **parameters):
            yield data

    async def _pages(
        self, path: str, read: Callable[[dict[str, Any]], T], order_id: UUID | str | None, **parameters: Any
    ) -> AsyncIterator[T]:
        while True:
            items, after = await self._ask("get", path, _page, order_id, **parameters)
            for item in items:
                # One by one: an item that cannot be read must not keep those before it from being used.
                with _failure_logged("get", path, order_id):
                    if not isinstance(item, dict):
                        raise StripeUnknown("not an object")
                    result = read(item)
                yield result
            if after is None:
                return
            parameters["starting_after"] = after
            await asyncio.sleep(_SECONDS_BETWEEN_PAGES)

    async def _ask(
        self,
        method: str,
        path: str,
        read: Callable[[dict[str, Any]], T],
        order_id: UUID | str | None,
        **parameters: Any,
    ) -> T:
        with _failure_logged(method, path, order_id):
            return read(await self._reply(method, path, parameters))

    async def _reply(self, method: str, path: str, parameters: dict[str, Any]) -> dict[str, Any]:
        """A reply as it came: the typed objects that the SDK's services make of it take half of a call's time."""
        if not self._free:
            raise StripeUnknown("too many calls at once")
        self._free -= 1
        try:
            async with asyncio.timeout(self._timeout):
                reply = (await self._client.raw_request_async(method, f"/v1/{path}", **parameters)).data
            if not isinstance(reply, dict):
                raise TypeError
            return reply
        except stripe.StripeError as error:
            status, code, request_id = error.http_status, _error_code(error.json_body), _plain(error.request_id)
            # Without Stripe's own message: it quotes what was sent, part of the key or a customer's data too.
            message = f"status {status}, code {code}, request {request_id}"
            # By type, not by status alone: idempotency errors and some rate limits are 400 too, and tell nothing.
            if isinstance(error, stripe.InvalidRequestError | stripe.CardError) and status:
                raise StripeRefused(message, status, code=code, request_id=request_id, param=error.param) from error
            # The SDK's headers may keep Stripe's case or not.
            headers = {name.lower(): value for name, value in error.headers.items()} if error.headers else {}
            replayed = headers.get("idempotent-replayed") == "true"
            raise StripeUnknown(message, status, code=code, request_id=request_id, replayed=replayed) from error
        except TimeoutError as error:
            raise StripeUnknown("no answer in time") from error
        except (AttributeError, KeyError, TypeError, ValueError, RecursionError) as error:
            # What the SDK makes of a reply that is no Stripe object.
            raise StripeUnknown("an unreadable reply") from error
        finally:
            self._free += 1


@contextmanager
def _failure_logged(method: str, path: str, order_id: UUID | str | None) -> Iterator[None]:
    try:
        yield
    except StripeFailed as failed:
        kind = type(failed.__cause__).__name__ if failed.__cause__ else str(failed)
        logger.warning(
            "stripe call failed",
            extra={
                "method": method,
                "path": path[:300],
                "status": failed.status,
                "code": failed.code,
                "request_id": failed.request_id,
                "order_id": None if order_id is None else str(order_id),
                "error": kind,
            },
        )
        raise


def _error_code(reply: object) -> str | None:
    """Stripe's code in a reply that says no, which the SDK keeps for some classes of error only."""
    error = reply.get("error") if isinstance(reply, Mapping) else None
    return _plain(error.get("code")) if isinstance(error, Mapping) else None


def _plain(value: object) -> str | None:
    """A code or an id; None for anything else, which must not come into a log."""
    return value if isinstance(value, str) and _PLAIN.fullmatch(value) else None


def _page(data: Mapping[str, Any]) -> tuple[list[Any], str | None]:
    """A page of a list, and the id after which the next one begins; None for the last."""
    try:
        items = list(data["data"])
        return items, items[-1]["id"] if data["has_more"] and items else None
    except (KeyError, TypeError):
        raise StripeUnknown("not a list") from None


def _session_of_ours(data: Mapping[str, Any]) -> Session | None:
    """A session that names an order; None for what others sell."""
    try:
        return Session.read(data) if (data.get("metadata") or {}).get("order_id") else None
    except AttributeError:
        raise StripeUnknown("not a Checkout session") from None


def _quoted(stripe_id: str) -> str:
    """An id as a part of a path, whatever is in it."""
    return quote(stripe_id, safe="")


def _refund(data: Mapping[str, Any]) -> Refund:
    try:
        refund_id, amount = _text((data.get("metadata") or {}).get("refund_id")), _amount(data["amount"])
        if amount is None:
            raise TypeError
        return Refund(_needed(data["id"]), _needed(data["status"]), amount, refund_id)
    except (KeyError, TypeError, AttributeError):
        raise StripeUnknown("not a refund") from None


def signature_is_timely(header: str) -> bool:
    """Whether a Stripe-Signature header has Stripe's form, and a time at most SIGNATURE_TOLERANCE ago or ahead."""
    return _timely_signatures(header) is not None


def signature_verifies(body: bytes, header: str | None, secrets: tuple[str, ...]) -> bool:
    """Whether one of `secrets` signed the raw body, at most SIGNATURE_TOLERANCE ago or ahead.

    The SDK would accept times in the future, and take three times as long for a large body.
    https://docs.stripe.com/webhooks#verify-manually
    """
    if header is None or (timely := _timely_signatures(header)) is None:
        return False
    made, signatures = timely
    signed = b"%b.%b" % (made.encode(), body)
    expected = [hmac.digest(secret.encode(), signed, "sha256").hex() for secret in secrets]
    return any(hmac.compare_digest(ours, theirs) for ours in expected for theirs in signatures)


def _timely_signatures(header: str) -> tuple[str, list[str]] | None:
    """The time and the v1 signatures of a header; None where it has none of either, several times or a wrong one."""
    fields = [field.partition("=") for field in header.split(",")]
    times = [value for name, _, value in fields if name == "t"]
    signatures = [value for name, _, value in fields if name == "v1" and _SIGNATURE.fullmatch(value)]
    if not signatures or len(times) != 1 or not _UNIX_TIME.fullmatch(times[0]) or not header.isascii():
        return None
    return (times[0], signatures) if abs(time.time() - int(times[0])) <= SIGNATURE_TOLERANCE else None
