"""Checkout: reserve the stock in one transaction, create the Stripe session without one, attach it in a second."""

from collections.abc import Awaitable, Callable, Hashable
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any
from uuid import UUID, uuid4

from service.errors import ShopError, not_found
from service.infra.db import Connection, connection
from service.infra.encoding import encode
from service.infra.logs import cause
from service.infra.metrics import TRANSITIONS
from service.infra.resources import Resources
from service.infra.statements import Statement
from service.infra.stripe import Session, StripeRefused, StripeUnknown
from service.infra.transactions import run_transaction
from service.shop import cart, idempotency, money, orders, payment_session, settlement, transitions
from service.shop.idempotency import IdempotencyKey, StoredResponse

# How often a checkout that lost its reason for a refusal is tried again before it is `busy`.
ATTEMPTS = 3


@dataclass(slots=True)
class ClosedCart:
    """What the cart that this checkout closed is of."""

    product_ids: list[int]


@dataclass(slots=True)
class LockedClient:
    """The advisory lock is ours."""

    locked: str


@dataclass(slots=True)
class Pending:
    """How many orders of a client wait for their payment."""

    pending: int


@dataclass(slots=True)
class Reserved:
    """An order just placed: the session to create, and whether it took the last unit of something."""

    attempt: int
    session_parameters: dict[str, Any]
    created_at: datetime
    sold_out: bool


@dataclass(slots=True)
class CartOrder:
    """What a cart is, and its live order."""

    cart_status: str
    order_id: UUID | None


@dataclass(slots=True)
class LineProduct:
    """The product of a line."""

    product_id: int


@dataclass(slots=True)
class RefusedLine:
    """A line that a checkout looked at, as it is now."""

    product_id: int
    requested: int
    available: int
    active: bool
    price_minor: int


@dataclass(slots=True)
class CheckoutPayment:
    """The payment in a checkout's answer."""

    id: UUID
    status: str
    stripe_session_id: str | None


@dataclass(slots=True)
class Checkout:
    """What a checkout answers; `expires_at` is the end of the hold."""

    order_id: UUID
    status: str
    total_minor: int
    currency: str
    expires_at: datetime
    payment: CheckoutPayment
    checkout_url: str | None


LIST_PRODUCTS = Statement("checkout/list_products", LineProduct)
CLOSE_CART = Statement("checkout/close_cart", ClosedCart)
LOCK_CLIENT = Statement("checkout/lock_client", LockedClient)
COUNT_PENDING = Statement("checkout/count_pending", Pending)
RESERVE = Statement("checkout/reserve", Reserved)
FIND_ORDER = Statement("checkout/find_order", CartOrder)
EXPLAIN_REFUSAL = Statement("checkout/explain_refusal", RefusedLine)


class NotReserved(Exception):
    """Some line could not be had; raised to roll the cart's closing back."""


class Contended(Exception):
    """Others wait for one of the products; raised to wait among them with no connection held."""


async def checkout(
    resources: Resources,
    key: IdempotencyKey | None,
    cart_id: UUID,
    expected_total_minor: int | None,
    *,
    client: bytes | None = None,
) -> StoredResponse:
    """201 with the Checkout of a new order, or 200 with that of the pending one.

    `client` stands for who is asking, where that is to be limited. Raises what the contract lists for checkout:
    `cart_empty`, `cart_not_open`, `insufficient_stock`, `product_inactive`, `price_changed`, `amount_out_of_range`,
    `checkout_in_progress`, `rate_limited`, `payment_refused`, `payment_unavailable`, `payment_misconfigured`, and the
    idempotency key's.
    """
    for _ in range(ATTEMPTS):
        order_id = uuid4()
        try:
            placed = await place(resources, key, cart_id, order_id, expected_total_minor, client)
        except Contended:
            continue
        except NotReserved:
            if refused := await refusal(resources, cart_id, expected_total_minor):
                raise refused from None
            continue
        if isinstance(placed, StoredResponse):
            return placed
        if isinstance(placed, Reserved):
            TRANSITIONS.labels("PENDING_PAYMENT").inc()
            if placed.sold_out:
                await resources.cache.invalidate()
            held = payment_session.Claim(placed.attempt, placed.session_parameters, placed.created_at)
            return await _pay_for(resources, key, order_id, held, new=True)
        if placed == order_id:
            # Reserved by a run whose COMMIT got no answer, so the claim is our own: go on as who asks again does.
            await payment_session.release(resources, order_id)
        if placed is not None and (answer := await _again(resources, key, placed)):
            return answer
    raise ShopError("busy", "The cart or its products keep changing; try again.")


async def place(
    resources: Resources,
    key: IdempotencyKey | None,
    cart_id: UUID,
    order_id: UUID,
    expected_total_minor: int | None,
    client: bytes | None = None,
) -> Reserved | UUID | StoredResponse | None:
    """`reserve` in a transaction of its own, in turn as this client, with this cart and at each of its products.

    Else the buyers of one product that everybody wants would wait for its lock in all connections there are, and
    nobody could buy anything else. Which products those are is looked up first only where anybody waits in a lane.
    Raises Contended where they changed since, and what `reserve` does.
    """

    async def in_turn(*, look: bool) -> Reserved | UUID | StoredResponse | None:
        names: list[Hashable] = [client, cart_id] if client else [cart_id]
        if look:
            async with connection(resources.pool) as reader:
                names += [line.product_id for line in await LIST_PRODUCTS.all(reader, cart_id)]
        async with resources.checkout_limiter.enter(*names) as also:
            return await run_transaction(
                resources.pool,
                lambda tx: reserve(tx, resources, key, cart_id, order_id, expected_total_minor, client, also),
                idempotent=True,
            )

    try:
        return await in_turn(look=resources.checkout_limiter.contended)
    except Contended:
        return await in_turn(look=True)


async def reserve(
    tx: Connection,
    resources: Resources,
    key: IdempotencyKey | None,
    cart_id: UUID,
    order_id: UUID,
    expected_total_minor: int | None,
    client: bytes | None = None,
    also: Callable[..., Awaitable[bool]] | None = None,
) -> Reserved | UUID | StoredResponse | None:
    """Close the cart, take the stock, write the order.

    Instead the id of the order that the cart has already, or the answer that the key has; None where the cart
    opened again in between. Raises NotReserved when a line, the total or the cart does not allow it, Contended when
    `also`, of the lanes that the caller is in, finds no place at one of the products.
    """
    if replay := await idempotency.find_stored_response(tx, key):
        return replay
    closed = await CLOSE_CART.maybe(tx, cart_id)
    if closed is None:
        found = await FIND_ORDER.maybe(tx, cart_id)
        if found is None:
            raise not_found("cart")
        return found.order_id
    if also and not await also(*closed.product_ids):
        raise Contended
    settings = resources.settings
    if client is not None:
        await limit(tx, client, settings.max_pending_per_client)
    reserved = await RESERVE.maybe(
        tx,
        order_id,
        cart_id,
        uuid4(),
        expected_total_minor,
        settings.hold_seconds,
        settings.session_seconds,
        payment_session.claim_seconds(settings),
        payment_session.template(settings, order_id),
        cause.get(),
        client,
    )
    if reserved is None:
        raise NotReserved
    await idempotency.store_response(tx, key, None, order_id)
    return reserved


async def limit(tx: Connection, client: bytes, most: int) -> None:
    """Hold the client; `rate_limited` when it has `most` pending orders, for which it has paid nothing yet."""
    await LOCK_CLIENT.one(tx, int.from_bytes(client[:8], "big", signed=True))
    if (await COUNT_PENDING.one(tx, client)).pending >= most:
        raise ShopError("rate_limited", f"At most {most} orders may wait for their payment; pay or cancel one.")


async def refusal(resources: Resources, cart_id: UUID, expected_total_minor: int | None) -> ShopError | None:
    """Why a cart could not be reserved, looked up without locks; None when nothing stands in the way any more."""
    async with connection(resources.pool) as reader:
        lines = await EXPLAIN_REFUSAL.all(reader, cart_id)
    if not lines:
        return ShopError("cart_empty", "There is nothing in the cart.")
    if inactive := [line.product_id for line in lines if not line.active]:
        return ShopError("product_inactive", "Some products are no longer for sale.", product_ids=inactive)
    if short := [
        {"product_id": line.product_id, "requested": line.requested, "available": line.available}
        for line in lines
        if line.available < line.requested
    ]:
        return ShopError("insufficient_stock", "There are not enough units in stock.", items=short)
    total = sum(line.requested * line.price_minor for line in lines)
    if total not in money.TOTAL_MINOR:
        low, high = money.TOTAL_MINOR[0], money.TOTAL_MINOR[-1]
        return ShopError(
            "amount_out_of_range",
            f"An order comes to {low} to {high} minor units.",
            total_minor=total,
            minimum_minor=low,
            maximum_minor=high,
        )
    if expected_total_minor is not None and total != expected_total_minor:
        return ShopError(
            "price_changed",
            "Prices changed since the total was shown.",
            expected_total_minor=expected_total_minor,
            total_minor=total,
        )
    return None


async def _again(resources: Resources, key: IdempotencyKey | None, order_id: UUID) -> StoredResponse | None:
    """Checkout of a cart that has a live order; None where that was cancelled meanwhile."""
    async with connection(resources.pool) as reader:
        order = await orders.read(reader, order_id)
    if order.stripe_session_id is None and order.status == "PENDING_PAYMENT":
        held = await payment_session.claim(resources, order_id)
        if held is None:
            raise payment_session.in_progress()
        return await _pay_for(resources, key, order_id, held, new=False)
    return await run_transaction(resources.pool, lambda tx: _answer(tx, key, order_id, 200), idempotent=True)


async def _pay_for(
    resources: Resources, key: IdempotencyKey | None, order_id: UUID, held: payment_session.Claim, *, new: bool
) -> StoredResponse:
    """Create or find the session, with no connection held, and attach it."""
    try:
        found = (
            await payment_session.create(resources, order_id, held)
            if new
            else await payment_session.resume(resources, order_id, held)
        )
        if found is None:
            again = await payment_session.next_attempt(resources, order_id, held)
            if again is None:
                raise payment_session.in_progress()
            held = again
            found = await payment_session.create(resources, order_id, held)
    except StripeRefused as refused:
        await _undo(resources, order_id, held.attempt)
        raise ShopError("payment_refused", "Stripe refused the payment session.") from refused
    except StripeUnknown as unknown:
        await payment_session.release(resources, order_id)
        raise payment_session.payment_unavailable(unknown) from unknown
    if found.status != "open":
        try:
            await settlement.settle_session(resources, order_id, found)
        except ShopError:
            await payment_session.release(resources, order_id)
            raise
    answer = await run_transaction(
        resources.pool,
        lambda tx: _attach(tx, key, order_id, found, 201 if new else 200),
        idempotent=True,
        autocommit=key is None,
    )
    if answer is None:
        # Cancelled meanwhile: nobody may pay this session any more.
        await payment_session.close(resources, order_id, found.id)
        raise payment_session.in_progress()
    await resources.queue.expire_cart_later(order_id, timedelta(seconds=resources.settings.hold_seconds))
    return answer


async def _attach(
    tx: Connection, key: IdempotencyKey | None, order_id: UUID, found: Session, status: int
) -> StoredResponse | None:
    attached = await payment_session.attach(tx, order_id, found)
    if attached is None:
        return await _answer(tx, key, order_id, status)
    payment = CheckoutPayment(attached.payment_id, attached.payment_status, found.id)
    total, currency, expires_at = attached.total_minor, attached.currency, attached.expires_at
    return await _keep(
        tx, key, status, Checkout(order_id, "PENDING_PAYMENT", total, currency, expires_at, payment, found.url)
    )


async def _answer(tx: Connection, key: IdempotencyKey | None, order_id: UUID, status: int) -> StoredResponse | None:
    """The order as it is now; None for a cancelled one. Who asks again once it is paid gets `cart_not_open`."""
    order = await orders.read(tx, order_id)
    if order.status == "CANCELLED":
        return None
    if order.status != "PENDING_PAYMENT" and status != 201:
        raise cart.cart_not_open(order_id)
    body = Checkout(
        order.id,
        order.status,
        order.total_minor,
        order.currency,
        order.expires_at,
        CheckoutPayment(order.payment_id, order.payment_status, order.stripe_session_id),
        order.checkout_url,
    )
    return await _keep(tx, key, status, body)


async def _keep(tx: Connection, key: IdempotencyKey | None, status: int, body: Checkout) -> StoredResponse:
    answer = StoredResponse(status, encode(body), f"/orders/{body.order_id}")
    await idempotency.store_response(tx, key, answer, body.order_id)
    return answer


async def _undo(resources: Resources, order_id: UUID, attempt: int) -> None:
    """Stripe refused this attempt's session: the order ends at once, unless another request is further on."""

    async def work(tx: Connection, after: transitions.AfterCommit) -> None:
        order = await transitions.lock(tx, order_id)
        if (order.status, order.attempt, order.stripe_session_id) == ("PENDING_PAYMENT", attempt, None):
            await transitions.cancel(tx, after, [order], "FAILED", "Stripe refused the payment session")

    await transitions.run_transition(resources, work)
