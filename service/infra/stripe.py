"""The part of Stripe's API that the shop uses: calls through the SDK's async client, their results and errors."""

import asyncio
import hmac
import logging
import random
import re
import ssl
import time
from collections.abc import AsyncIterator, Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Literal, Self, TypeAlias, TypeVar, get_args
from urllib.parse import quote
from uuid import UUID

import aiohttp
import stripe

from service.infra.metrics import STRIPE
from service.settings import Settings

# Signatures whose time is further from now than this are refused, in seconds.
SIGNATURE_TOLERANCE = 300
# The allowed difference between Stripe's clock and ours, for searches by time of creation.
CLOCK_SKEW_SECONDS = 300
# Stripe allows 25 calls a second by default. A job that lists uses a fifth of them.
SECONDS_BETWEEN_PAGES = 0.2
# A call that Stripe's rate limit refused is repeated after its Retry-After, if there is one, and a random part of this
# time, in seconds. The time doubles up to the second number.
_PAUSE, _LONGEST_PAUSE = 0.2, 2.0
# Characters of JSON that PostgreSQL cannot store.
_NOT_STORABLE = re.compile("[\0\ud800-\udfff]")
_LOGGABLE = re.compile(r"[\w-]{1,100}", re.ASCII)
_ID = re.compile(r"[\w-]{1,255}", re.ASCII)
_UNIX_TIME = re.compile("[0-9]{1,12}")
_SIGNATURE = re.compile("[0-9a-f]{64}")

T = TypeVar("T")
# The calls that are made here: a label of the metrics.
Operation: TypeAlias = Literal[
    "create_session",
    "retrieve_session",
    "expire_session",
    "list_sessions",
    "create_refund",
    "list_refunds",
    "retrieve_payment_intent",
    "retrieve_event",
    "list_events",
]

# An alert waits for these: Prometheus sees no rise in a time series that begins at 1.
for operation in get_args(Operation):
    STRIPE.labels(operation, "key_refused")

# What `tracing` adds to the HTTP client.
TRACE_CONFIGS: list[aiohttp.TraceConfig] = []

stripe.enable_telemetry = False

logger = logging.getLogger(__name__)


class StripeFailed(Exception):
    """A failed call, with the reply's status, Stripe's error code and request id as far as there are any.

    `param` is the parameter that Stripe refused. `replayed` means that the reply is the stored one of an earlier call
    with the same idempotency key, so that every repetition will fail too.
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
    """Stripe refused the call (400, 402, 404): it had no effect."""


class StripeUnknown(StripeFailed):
    """Another failure: time-out, lost or unreadable reply, 401, 403, 409, 429, 5xx. It may have had an effect."""


@dataclass(slots=True)
class Shipping:
    """Where the goods go and whom to call, as the customer told Stripe; texts of at most 500 characters."""

    name: str | None
    phone: str | None
    line1: str | None
    line2: str | None
    city: str | None
    state: str | None
    postal_code: str | None
    country: str | None

    @classmethod
    def read(cls, data: Mapping[str, Any]) -> Self | None:
        """From the JSON of a session; None if it has no address. What has another form counts as absent.

        A payment is never refused for its address.
        """
        details = _members(_members(data.get("collected_information")).get("shipping_details"))
        # Events of API versions before 2025-03-31 have the address in the session itself.
        details = details or _members(data.get("shipping_details"))
        if not details:
            return None
        address = _members(details.get("address"))
        texts = (
            details.get("name"),
            _members(data.get("customer_details")).get("phone"),
            *(address.get(part) for part in ("line1", "line2", "city", "state", "postal_code", "country")),
        )
        return cls(*(_NOT_STORABLE.sub("", text)[:500] or None if isinstance(text, str) else None for text in texts))


@dataclass(slots=True)
class Session:
    """A Checkout Session; money in minor units, currency in upper case, `order_id` from its metadata."""

    id: str
    status: str
    payment_status: str
    amount_total: int | None
    currency: str | None
    payment_intent: str | None
    email: str | None
    url: str | None
    order_id: str | None
    shipping: Shipping | None = None

    @classmethod
    def read(cls, data: Mapping[str, Any]) -> Self:
        """From the JSON of a reply or an event. Raises StripeUnknown if it is not a Checkout Session."""
        try:
            currency, details = _text(data.get("currency")), _members(data.get("customer_details"))
            return cls(
                _id(data["id"]),
                _required_text(data["status"]),
                _required_text(data["payment_status"]),
                _amount(data.get("amount_total")),
                currency.upper() if currency else None,
                object_id(data.get("payment_intent")),
                (_text(details.get("email")) or "")[:800] or None,
                _text(data.get("url")),
                _text((data.get("metadata") or {}).get("order_id")),
                Shipping.read(data),
            )
        except (KeyError, TypeError, AttributeError):
            raise StripeUnknown("not a Checkout session") from None


@dataclass(slots=True)
class Refund:
    """A refund at Stripe; `refund_id` is our id, from its metadata.

    `failure_reason` is Stripe's word for why it failed; null unless Stripe gives one.
    """

    id: str
    status: str
    amount_minor: int
    refund_id: str | None
    failure_reason: str | None = None


@dataclass(slots=True)
class PaymentIntent:
    """A payment intent; `order_id` is our id, from its metadata.

    `received_minor` is the captured amount in minor units of `currency` (upper case).
    """

    id: str
    status: str
    order_id: str | None
    received_minor: int
    currency: str


@dataclass(slots=True)
class Dispute:
    """A dispute in Stripe's words; the amount in minor units of `currency` (upper case)."""

    id: str
    payment_intent: str | None
    amount_minor: int
    currency: str
    reason: str
    status: str

    @classmethod
    def read(cls, data: Mapping[str, Any]) -> Self:
        """From the JSON of an event. Raises StripeUnknown if it is not a dispute."""
        try:
            amount, currency = _amount(data["amount"]), _required_text(data["currency"]).upper()
            reason, status = _word(data["reason"]), _word(data["status"])
            if amount is None or not re.fullmatch("[A-Z]{3}", currency) or not (reason and status):
                raise TypeError
            return cls(_id(data["id"]), object_id(data.get("payment_intent")), amount, currency, reason, status)
        except (KeyError, TypeError, AttributeError):
            raise StripeUnknown("not a dispute") from None


def object_id(value: object) -> str | None:
    """The id of an object that Stripe names, by its id or expanded; None for anything else."""
    text = _text(value.get("id") if isinstance(value, Mapping) else value)
    return text if text and _ID.fullmatch(text) else None


def _members(value: object) -> Mapping[str, Any]:
    """An object's members; none of anything else."""
    return value if isinstance(value, Mapping) else {}


def _word(value: object) -> str | None:
    """One of Stripe's words, of at most 100 characters; None for anything else."""
    return (_text(value) or "")[:100] or None


def _text(value: object) -> str | None:
    """A text, or None for another type. Raises StripeUnknown if PostgreSQL cannot store it."""
    if not isinstance(value, str):
        return None
    if _NOT_STORABLE.search(value):
        raise StripeUnknown("not a text")
    return value


def _required_text(value: object) -> str:
    """A text. Raises TypeError for another type."""
    text = _text(value)
    if text is None:
        raise TypeError
    return text


def _id(value: object) -> str:
    """An id that can be stored, and named in a path. Raises TypeError for anything else."""
    text = object_id(value)
    if text is None:
        raise TypeError
    return text


def _amount(value: object) -> int | None:
    """An amount of money in minor units, or None for anything else."""
    return value if type(value) is int and 0 <= value < 2**63 else None


async def pause_between_pages() -> None:
    """Wait before the next of many calls, so that requests of customers find room in Stripe's rate limit."""
    await asyncio.sleep(SECONDS_BETWEEN_PAGES)


class Stripe:
    """Calls to Stripe. Each takes at most `stripe_timeout_seconds`; only the callers know whether a retry is safe.

    A failed call raises StripeRefused or StripeUnknown, and is logged once, with the `order_id` it was for.
    """

    def __init__(self, settings: Settings) -> None:
        """Needs a running event loop. Call `close` at the end."""
        tls = ssl.create_default_context(cafile=stripe.ca_bundle_path)
        self._timeout = settings.stripe_timeout_seconds
        # Half of the requests that the API handles at a time, so that a Stripe that hangs cannot occupy all of them.
        self._free = limit = max(1, settings.max_in_flight // 2)
        self.session = aiohttp.ClientSession(
            connector=aiohttp.TCPConnector(limit=limit, ssl=tls), trace_configs=TRACE_CONFIGS
        )
        self._client = stripe.StripeClient(
            settings.stripe_api_key,
            base_addresses={"api": settings.stripe_api_base.rstrip("/")},
            http_client=stripe.AIOHTTPClient(
                timeout=settings.stripe_timeout_seconds,
                session=self.session,
                proxy=settings.proxy_for(settings.stripe_api_base),
            ),
            max_network_retries=0,
        )

    async def close(self) -> None:
        """Close the connections."""
        await self.session.close()

    async def create_session(
        self, parameters: dict[str, Any], idempotency_key: str, *, order_id: UUID | str | None = None
    ) -> Session:
        """Create a session. If this key has created one before, the result is that session as it was then."""

        def read(data: Mapping[str, Any]) -> Session:
            session = Session.read(data)
            if order_id is not None and session.order_id != str(order_id):
                # This should not happen. A customer must never pay another order's session for this one.
                raise StripeUnknown("another order's session")
            return session

        parameters = {**parameters, "idempotency_key": idempotency_key}
        return await self._call("create_session", "post", "checkout/sessions", read, order_id, **parameters)

    async def retrieve_session(self, session_id: str, *, order_id: UUID | str | None = None) -> Session:
        """The current state of a session."""
        return await self._call(
            "retrieve_session", "get", f"checkout/sessions/{_quoted(session_id)}", Session.read, order_id
        )

    async def expire_session(self, session_id: str, *, order_id: UUID | str | None = None) -> Session:
        """Expire an open session. If it is not open, the result is its current state."""
        path = f"checkout/sessions/{_quoted(session_id)}/expire"
        with _failure_logged("post", path, order_id):
            try:
                with measured("expire_session"):
                    return Session.read(await self._reply("post", path, {}))
            except StripeRefused as refused:
                if refused.status == 404:
                    raise
        # Stripe refuses to expire a session that is not open. For us this is not an error.
        return await self.retrieve_session(session_id, order_id=order_id)

    async def sessions_since(
        self, created: int, *, until: int | None = None, order_id: UUID | str | None = None, **filters: str
    ) -> AsyncIterator[Session]:
        """All sessions with an order id that were created from a Unix time to `until`, newest first.

        Sessions of other applications on the same account are skipped unread, because their form may differ.
        """
        parameters: dict[str, Any] = {"limit": 100, "created": _between(created, until), **filters}
        async for session in self._pages(
            "list_sessions", "checkout/sessions", _session_of_ours, order_id, **parameters
        ):
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
        """Refund an amount of a payment. The same key creates one refund only."""
        parameters: dict[str, Any] = {
            "payment_intent": payment_intent,
            "amount": amount_minor,
            "metadata": metadata,
            "idempotency_key": idempotency_key,
        }
        return await self._call("create_refund", "post", "refunds", _refund, order_id, **parameters)

    async def refunds_of(self, payment_intent: str, *, order_id: UUID | str | None = None) -> list[Refund]:
        """All refunds of a payment, newest first, including those made in Stripe's dashboard."""
        parameters: dict[str, Any] = {"limit": 100, "payment_intent": payment_intent}
        return [refund async for refund in self._pages("list_refunds", "refunds", _refund, order_id, **parameters)]

    async def retrieve_payment_intent(
        self, payment_intent: str, *, order_id: UUID | str | None = None
    ) -> PaymentIntent:
        """The current state of a payment intent."""

        def read(data: Mapping[str, Any]) -> PaymentIntent:
            try:
                order, received = _text((data.get("metadata") or {}).get("order_id")), _amount(data["amount_received"])
                if received is None:
                    raise TypeError
                status, currency = _required_text(data["status"]), _required_text(data["currency"]).upper()
                return PaymentIntent(payment_intent, status, order, received, currency)
            except (KeyError, TypeError, AttributeError):
                raise StripeUnknown("not a payment intent") from None

        return await self._call(
            "retrieve_payment_intent", "get", f"payment_intents/{_quoted(payment_intent)}", read, order_id
        )

    async def retrieve_event(self, event_id: str) -> dict[str, Any]:
        """An event. Stripe keeps events for 30 days."""
        return await self._call("retrieve_event", "get", f"events/{_quoted(event_id)}", dict, None)

    async def events_since(
        self, created: int, types: Sequence[str], *, until: int | None = None
    ) -> AsyncIterator[dict[str, Any]]:
        """All events of these types (at most 20) that were created from a Unix time to `until`, newest first."""
        parameters: dict[str, Any] = {"limit": 100, "created": _between(created, until), "types": list(types)}
        async for data in self._pages("list_events", "events", dict, None, **parameters):
            yield data

    async def _pages(
        self,
        operation: Operation,
        path: str,
        read: Callable[[dict[str, Any]], T],
        order_id: UUID | str | None,
        **parameters: Any,
    ) -> AsyncIterator[T]:
        while True:
            items, after = await self._call(operation, "get", path, _page, order_id, **parameters)
            for item in items:
                # One by one, so that the items before an unreadable one are still used.
                with _failure_logged("get", path, order_id):
                    if not isinstance(item, dict):
                        raise StripeUnknown("not an object")
                    result = read(item)
                yield result
            if after is None:
                return
            parameters["starting_after"] = after
            await pause_between_pages()

    async def _call(
        self,
        operation: Operation,
        method: str,
        path: str,
        read: Callable[[dict[str, Any]], T],
        order_id: UUID | str | None,
        **parameters: Any,
    ) -> T:
        with _failure_logged(method, path, order_id), measured(operation):
            return read(await self._reply(method, path, parameters))

    async def _reply(self, method: str, path: str, parameters: dict[str, Any]) -> dict[str, Any]:
        """A reply as plain JSON: the SDK's typed objects would take half of a call's time."""
        if not self._free:
            raise StripeUnknown("too many calls at once")
        self._free -= 1
        try:
            async with asyncio.timeout(self._timeout):
                reply = await self._request(method, path, parameters)
            if not isinstance(reply, dict):
                raise TypeError
            return reply
        except stripe.StripeError as error:
            status, code, request_id = error.http_status, _error_code(error.json_body), _loggable(error.request_id)
            # Stripe's own message is left out, because it quotes what was sent: a part of the key, a customer's data.
            message = f"status {status}, code {code}, request {request_id}"
            # The status alone is not enough: idempotency errors and some rate limits are 400 too.
            if isinstance(error, stripe.InvalidRequestError | stripe.CardError) and status:
                raise StripeRefused(message, status, code=code, request_id=request_id, param=error.param) from error
            replayed = _headers(error).get("idempotent-replayed") == "true"
            raise StripeUnknown(message, status, code=code, request_id=request_id, replayed=replayed) from error
        except TimeoutError as error:
            raise StripeUnknown("no answer in time") from error
        except (AttributeError, KeyError, TypeError, ValueError, RecursionError) as error:
            # The SDK's errors for a reply that is not a Stripe object.
            raise StripeUnknown("an unreadable reply") from error
        finally:
            self._free += 1

    async def _request(self, method: str, path: str, parameters: dict[str, Any]) -> Any:
        """A reply's JSON. A call that the rate limit refused had no effect, so it is repeated while there is time."""
        loop = asyncio.get_running_loop()
        deadline, pause = loop.time() + self._timeout, _PAUSE
        while True:
            try:
                return (await self._client.raw_request_async(method, f"/v1/{path}", **parameters)).data
            except stripe.RateLimitError as error:
                # Random, so that the refused calls do not come back together.
                seconds = _retry_after(error) + random.uniform(0, pause)  # noqa: S311
                if loop.time() + seconds >= deadline:
                    raise
            logger.info("stripe call rate limited", extra={"method": method, "path": path[:300], "seconds": seconds})
            await asyncio.sleep(seconds)
            pause = min(2 * pause, _LONGEST_PAUSE)


@contextmanager
def measured(operation: Operation) -> Iterator[None]:
    """Measure the call inside the block, and count its outcome."""
    started, outcome = time.perf_counter(), "cancelled"
    try:
        yield
        outcome = "ok"
    except StripeFailed as failed:
        outcome = _outcome(failed)
        raise
    finally:
        STRIPE.labels(operation, outcome).observe(time.perf_counter() - started)


def _outcome(failed: StripeFailed) -> str:
    """How a call failed, as a label."""
    match failed:
        case StripeRefused():
            return "refused"
        case StripeUnknown(status=401 | 403):
            return "key_refused"
        case StripeUnknown(status=429):
            return "rate_limited"
        case StripeUnknown(status=int()):
            return "failed"
    return "unanswered" if isinstance(failed.__cause__, TimeoutError | stripe.StripeError) else "unreadable"


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
                "error": kind,
                # Otherwise the line names the order that the work under way is for.
                **({} if order_id is None else {"order_id": str(order_id)}),
            },
        )
        raise


def _retry_after(error: stripe.StripeError) -> int:
    """The seconds of a reply's Retry-After; 0 without one."""
    value = _headers(error).get("retry-after", "")
    return int(value) if re.fullmatch("[0-9]{1,9}", value) else 0


def _headers(error: stripe.StripeError) -> dict[str, str]:
    """A reply's headers with names in lower case; the SDK may change their case."""
    return {name.lower(): value for name, value in error.headers.items()} if error.headers else {}


def _error_code(reply: object) -> str | None:
    """Stripe's error code in a reply; the SDK has it for some classes of errors only."""
    error = reply.get("error") if isinstance(reply, Mapping) else None
    return _loggable(error.get("code")) if isinstance(error, Mapping) else None


def _loggable(value: object) -> str | None:
    """`value` if it is a code or an id; None for anything else, which must not get into a log."""
    return value if isinstance(value, str) and _LOGGABLE.fullmatch(value) else None


def _between(since: int, until: int | None) -> dict[str, int]:
    """Stripe's filter for a time of creation, both ends included."""
    return {"gte": since} if until is None else {"gte": since, "lte": until}


def _page(data: Mapping[str, Any]) -> tuple[list[Any], str | None]:
    """The items of a page, and the id after which the next page begins; None on the last page."""
    try:
        items = list(data["data"])
        return items, items[-1]["id"] if data["has_more"] and items else None
    except (KeyError, TypeError):
        raise StripeUnknown("not a list") from None


def _session_of_ours(data: Mapping[str, Any]) -> Session | None:
    """A session with an order id, or None for a session of another application."""
    try:
        return Session.read(data) if (data.get("metadata") or {}).get("order_id") else None
    except AttributeError:
        raise StripeUnknown("not a Checkout session") from None


def _quoted(stripe_id: str) -> str:
    """An id, escaped as a part of a path."""
    return quote(stripe_id, safe="")


def _refund(data: Mapping[str, Any]) -> Refund:
    try:
        refund_id, amount = _text((data.get("metadata") or {}).get("refund_id")), _amount(data["amount"])
        if amount is None:
            raise TypeError
        # A null status is Stripe's for a refund that it has not decided yet.
        status = _required_text(data["status"]) if data["status"] is not None else "pending"
        return Refund(_required_text(data["id"]), status, amount, refund_id, _word(data.get("failure_reason")))
    except (KeyError, TypeError, AttributeError):
        raise StripeUnknown("not a refund") from None


def signature_is_timely(header: str) -> bool:
    """Whether a Stripe-Signature header is well-formed, with a time at most SIGNATURE_TOLERANCE from now."""
    return _timely_signatures(header) is not None


def signature_verifies(body: bytes, header: str | None, secrets: tuple[str, ...]) -> bool:
    """Whether one of `secrets` signed the raw body at a time at most SIGNATURE_TOLERANCE from now.

    The SDK would accept any time in the future, and takes three times as long for a large body.
    https://docs.stripe.com/webhooks#verify-manually
    """
    if header is None or (timely := _timely_signatures(header)) is None:
        return False
    signed_at, signatures = timely
    signed = b"%b.%b" % (signed_at.encode(), body)
    expected = [hmac.digest(secret.encode(), signed, "sha256").hex() for secret in secrets]
    return any(hmac.compare_digest(ours, theirs) for ours in expected for theirs in signatures)


def _timely_signatures(header: str) -> tuple[str, list[str]] | None:
    """The time and the v1 signatures of a header; None unless it has a signature and exactly one time, near now."""
    fields = [field.partition("=") for field in header.split(",")]
    times = [value for name, _, value in fields if name == "t"]
    signatures = [value for name, _, value in fields if name == "v1" and _SIGNATURE.fullmatch(value)]
    if not signatures or len(times) != 1 or not _UNIX_TIME.fullmatch(times[0]) or not header.isascii():
        return None
    return (times[0], signatures) if abs(time.time() - int(times[0])) <= SIGNATURE_TOLERANCE else None
