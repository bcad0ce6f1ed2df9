"""Checkout in three steps: reserve the stock in a transaction, create the payment session at Stripe, attach it.

No transaction is open and no connection is in use while Stripe is asked. A later request, or the sweep, continues a
checkout that stopped between two steps.
"""

from collections.abc import Awaitable, Callable, Hashable
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from functools import partial
from typing import Any
from uuid import UUID

from service.errors import ShopError, not_found
from service.infra.clients import Client
from service.infra.db import Connection, connection
from service.infra.encoding import encode
from service.infra.ids import new_id
from service.infra.logs import actor, add_subject, cause
from service.infra.resources import Resources
from service.infra.sql import statement
from service.infra.stripe import Session, StripeRefused, StripeUnknown
from service.infra.transactions import run_transaction
from service.settings import Settings
from service.shop import cart, idempotency, money, orders, outbox, payment_session, settlement, transitions
from service.shop.idempotency import IdempotencyKey, StoredResponse
from service.shop.money import Currency
from service.shop.orders import OrderStatus, PaymentStatus
from service.shop.principals import SERVICE, Principal

# How often a checkout is tried while its cart or products keep changing.
ATTEMPTS = 3
# A /48 of IPv6 may have this many times the pending orders of one client, as in checkout/reserve.
NETWORK_FACTOR = 10


@dataclass(slots=True)
class Reservation:
    """A request to reserve a cart's units, by the client to limit, or None for no limit.

    `user_id` is the user who asks; without one, only a cart that nobody owns is reserved.
    """

    key: IdempotencyKey | None
    cart_id: UUID
    expected_total_minor: int | None
    client: Client | None = None
    user_id: str | None = None


@dataclass(slots=True)
class Reserved:
    """A new order with its stock reserved: the session to create, and the products that are now sold out."""

    attempt: int
    session_parameters: dict[str, Any]
    created_at: datetime
    sold_out: list[int] | None


@dataclass(slots=True)
class ExistingOrder:
    """The cart has a live order already."""

    order_id: UUID


@dataclass(slots=True)
class CartChanged:
    """The cart was reopened, or its products changed, while it was being reserved."""


# The outcomes of reserving a cart. A StoredResponse answered an earlier request with the same key.
Outcome = Reserved | ExistingOrder | StoredResponse | CartChanged


class NotReserved(Exception):
    """The cart's lines, total or currency forbid the order. An exception, to roll back the closing of the cart."""


class Contended(Exception):
    """Others wait for one of the products. An exception, to release the cart and the connection before we wait too."""


@dataclass(slots=True)
class ClosedCart:
    """A cart closed for its checkout: its currency, None while it is empty, and its products, perhaps outdated.

    `under_pressure` when most units of one of them are in unpaid holds. `user_id` is its owner.
    """

    currency: str | None
    user_id: str | None
    reference: str | None
    product_ids: list[int]
    under_pressure: bool
    client_locked: bool


@dataclass(slots=True)
class CartOrder:
    """A cart's status, and its live order."""

    cart_status: str
    order_id: UUID | None


@dataclass(slots=True)
class RefusedLine:
    """A line of a refused checkout, as it is now."""

    product_id: int
    requested: int
    available: int
    active: bool
    price_minor: int
    currency: str
    max_per_order: int | None
    client_units: int
    client_pending: int
    network_pending: int


@dataclass(slots=True)
class CheckoutPayment:
    """The payment in a checkout's response."""

    id: UUID
    status: PaymentStatus
    stripe_session_id: str | None


@dataclass(slots=True)
class Checkout:
    """A checkout's response; `expires_at` is the end of the hold."""

    order_id: UUID
    number: int
    status: OrderStatus
    total_minor: int
    currency: Currency
    expires_at: datetime
    payment: CheckoutPayment
    checkout_url: str | None


LIST_PRODUCTS = statement("checkout/list_products", int)
CLOSE_CART = statement("checkout/close_cart", ClosedCart)
LOCK_PRODUCTS = statement("checkout/lock_products", int)
RESERVE = statement("checkout/reserve", Reserved)
FIND_ORDER = statement("checkout/find_order", CartOrder)
EXPLAIN_REFUSAL = statement("checkout/explain_refusal", RefusedLine)


async def checkout(
    resources: Resources,
    key: IdempotencyKey | None,
    principal: Principal,
    cart_id: UUID,
    *,
    expected_total_minor: int | None = None,
    client: Client | None = None,
) -> StoredResponse:
    """201 with the Checkout of a new order, or 200 with that of the cart's pending order.

    Raises `cart_empty`, `cart_not_open`, `insufficient_stock`, `product_inactive`, `price_changed`,
    `amount_out_of_range`, `checkout_in_progress`, `rate_limited`, `payment_refused`, `payment_unavailable`,
    `payment_misconfigured`, and the errors of the idempotency key.
    """
    reservation = Reservation(key, cart_id, expected_total_minor, client, principal.user_id)
    for _ in range(ATTEMPTS):
        order_id = new_id()
        try:
            outcome = await reserve_in_turn(resources, reservation, order_id)
        except NotReserved:
            if reason := await explain_refusal(resources, reservation):
                raise reason from None
            continue
        match outcome:
            case StoredResponse():
                return outcome
            case Reserved(attempt, session_parameters, created_at, sold_out):
                add_subject(order_id=order_id)
                transitions.log_transition(order_id, "PENDING_PAYMENT", cart_id=cart_id)
                if sold_out:
                    await resources.cache.invalidate()
                claim = payment_session.Claim(attempt, session_parameters, created_at)
                return await ensure_session(resources, key, order_id, claim, new=True)
            case ExistingOrder(existing_id):
                add_subject(order_id=existing_id)
                if existing_id == order_id:
                    # Our earlier attempt reserved it, but its COMMIT got no answer. The claim is ours too: release it.
                    await payment_session.release_claim(resources, order_id)
                if response := await resume_checkout(resources, key, existing_id):
                    return response
            case CartChanged():
                pass
    raise ShopError("busy", "The cart or its products keep changing; try again.")


async def reserve_in_turn(resources: Resources, reservation: Reservation, order_id: UUID) -> Outcome:
    """`reserve` in a transaction of its own, after queueing for the client, the cart and, if needed, the products.

    Without these queues, the buyers of one product would occupy every connection while they wait for its lock. The
    cart's products are only looked up while anyone queues. Raises NotReserved.
    """
    limiter = resources.checkout_limiter
    for queue_for_products in (limiter.contended, True):
        slots: list[Hashable] = [name for name in (reservation.client, reservation.cart_id) if name]
        if queue_for_products:
            async with connection(resources.pool) as reader:
                slots += await LIST_PRODUCTS.all(reader, cart_id=reservation.cart_id)
        try:
            async with limiter.enter(*slots) as try_add:
                work = partial(
                    reserve, settings=resources.settings, reservation=reservation, order_id=order_id, try_add=try_add
                )
                return await run_transaction(resources.pool, work, idempotent=True)
        except Contended:
            continue
    return CartChanged()


async def reserve(
    tx: Connection,
    settings: Settings,
    reservation: Reservation,
    order_id: UUID,
    *,
    try_add: Callable[..., Awaitable[bool]] | None = None,
) -> Outcome:
    """Close the cart, take the stock, write the order.

    `try_add` takes more slots of the limiter that the caller has entered. Raises Contended when it finds no free slot
    for one of the products, and NotReserved when the cart's lines, total or currency forbid the order.
    """
    key, cart_id, client, user_id = reservation.key, reservation.cart_id, reservation.client, reservation.user_id
    check = partial(cart.check_owner, cart_id=cart_id, user_id=user_id)
    if replay := await idempotency.find_stored_response(tx, key, check):
        return replay
    closed = await CLOSE_CART.one_or_none(tx, cart_id=cart_id, client_key=_lock_key(client), user_id=user_id)
    if closed is None:
        existing = await FIND_ORDER.one_or_none(tx, cart_id=cart_id, user_id=user_id)
        if existing is None:
            raise not_found("cart")
        return CartChanged() if existing.order_id is None else ExistingOrder(existing.order_id)
    if closed.currency is None:
        raise NotReserved
    if try_add and not await try_add(*closed.product_ids):
        raise Contended
    rules = money.CURRENCIES[closed.currency]
    line_count = len(closed.product_ids)
    if line_count != 1:
        line_count = len(await LOCK_PRODUCTS.all(tx, cart_id=cart_id))
    reserved = await RESERVE.one_or_none(
        tx,
        order_id=order_id,
        cart_id=cart_id,
        payment_id=new_id(),
        expected_total_minor=reservation.expected_total_minor,
        hold_seconds=(
            min(settings.hold_seconds, settings.hold_pressure_seconds)
            if closed.under_pressure
            else settings.hold_seconds
        ),
        session_seconds=settings.session_seconds,
        claim_seconds=payment_session.claim_seconds(settings),
        session_template=payment_session.template(settings, order_id),
        cause=cause.get(),
        actor=actor.get(),
        client=client.digest if client else None,
        client_network=client.network if client else None,
        max_pending=settings.max_pending_per_client,
        max_per_order=settings.max_per_order,
        currency=closed.currency,
        minimum_minor=rules.minimum_minor,
        maximum_minor=rules.maximum_minor,
        line_count=line_count,
        user_id=closed.user_id,
        reference=closed.reference,
    )
    if reserved is None:
        raise NotReserved
    await outbox.announce_products(tx, reserved.sold_out or [])
    await idempotency.store_response(tx, key, None, order_id)
    return reserved


def _lock_key(client: Client | None) -> int | None:
    """The advisory lock of a client. All clients of one IPv6 network share it, because they have a limit together."""
    return int.from_bytes((client.network or client.digest)[:8], "big", signed=True) if client else None


async def explain_refusal(resources: Resources, reservation: Reservation) -> ShopError | None:
    """Why a cart could not be reserved, read without locks; None when the reason no longer applies."""
    client, settings = reservation.client, resources.settings
    async with connection(resources.pool) as reader:
        lines = await EXPLAIN_REFUSAL.all(
            reader,
            cart_id=reservation.cart_id,
            client=client.digest if client else None,
            client_network=client.network if client else None,
        )
    if not lines:
        return ShopError("cart_empty", "There is nothing in the cart.")
    pending, network_pending = lines[0].client_pending, lines[0].network_pending
    limit = settings.max_pending_per_client
    if client and (pending >= limit or network_pending >= NETWORK_FACTOR * limit):
        return ShopError("rate_limited", f"At most {limit} orders may wait for their payment; pay or cancel one.")
    if inactive := [line.product_id for line in lines if not line.active]:
        return ShopError("product_inactive", "Some products are no longer for sale.", product_ids=inactive)
    for line in lines:
        allowed = line.max_per_order or settings.max_per_order
        if line.requested > allowed:
            return cart.quantity_limited(line.product_id, allowed=allowed)
    if short := [
        {"product_id": line.product_id, "requested": line.requested, "available": line.available}
        for line in lines
        if line.available < line.requested
    ]:
        return ShopError("insufficient_stock", "There are not enough units in stock.", items=short)
    for line in lines:
        # As in checkout/reserve: half of the client's unpaid units and the units in stock, less what it has already.
        allowed = max(0, (line.client_units + line.available) // 2 - line.client_units)
        if pending and line.requested > allowed:
            return cart.quantity_limited(line.product_id, allowed=allowed)
    total = sum(line.requested * line.price_minor for line in lines)
    if out_of_range := money.total_out_of_range(total, lines[0].currency):
        return out_of_range
    expected = reservation.expected_total_minor
    if expected is not None and total != expected:
        return ShopError(
            "price_changed",
            "Prices changed since the total was shown.",
            expected_total_minor=expected,
            total_minor=total,
        )
    return None


async def resume_checkout(resources: Resources, key: IdempotencyKey | None, order_id: UUID) -> StoredResponse | None:
    """Continue the checkout of a cart that has a live order; None when the order has been cancelled since."""
    async with connection(resources.pool) as reader:
        order = await orders.read(reader, SERVICE, order_id)
    if order.stripe_session_id is None and order.status == "PENDING_PAYMENT":
        claim = await payment_session.claim_session(resources, order_id)
        return await ensure_session(resources, key, order_id, claim, new=False)
    return await run_transaction(
        resources.pool, lambda tx: read_response(tx, key, order_id, status=200), idempotent=True
    )


async def ensure_session(
    resources: Resources, key: IdempotencyKey | None, order_id: UUID, claim: payment_session.Claim, *, new: bool
) -> StoredResponse:
    """Create the order's session, or find the one that an earlier call created, and attach it to the order."""
    try:
        if new:
            session = await payment_session.create(resources, order_id, claim)
        elif existing := await payment_session.resume(resources, order_id, claim):
            session = existing
        else:
            claim = await payment_session.next_attempt(resources, order_id, claim)
            session = await payment_session.create(resources, order_id, claim)
    except StripeRefused as refused:
        await cancel_refused(resources, order_id, claim.attempt, str(refused))
        if refused.code in ("amount_too_small", "amount_too_large"):
            detail = "Stripe cannot charge this total in this currency."
            raise ShopError("amount_out_of_range", detail, total_minor=_total(claim)) from refused
        raise ShopError("payment_refused", "Stripe refused the payment session.") from refused
    except StripeUnknown as unknown:
        await payment_session.release_claim(resources, order_id)
        raise payment_session.payment_unavailable(unknown) from unknown
    if session.status != "open":
        try:
            await settlement.settle_session(resources, order_id, session)
        except ShopError:
            await payment_session.release_claim(resources, order_id)
            raise
    response, hold_ends_at = await run_transaction(
        resources.pool,
        lambda tx: attach_session(tx, key, order_id, session, status=201 if new else 200),
        idempotent=True,
        autocommit=key is None,
    )
    if response is None:
        # The order has been cancelled, so the session must not be paid.
        await payment_session.close(resources, order_id, session.id)
        async with connection(resources.pool) as reader:
            raise await payment_session.in_progress(reader, order_id)
    if hold_ends_at is not None:
        await resources.queue.expire_cart_later(order_id, max(timedelta(0), hold_ends_at - datetime.now(UTC)))
    return response


async def attach_session(
    tx: Connection, key: IdempotencyKey | None, order_id: UUID, session: Session, *, status: int
) -> tuple[StoredResponse | None, datetime | None]:
    """Attach an open session to its pending order; the response, and when the hold ends.

    For an order that is not pending, what `read_response` returns, and None.
    """
    attached = await payment_session.attach(tx, order_id, session)
    if attached is None:
        return await read_response(tx, key, order_id, status=status), None
    payment = CheckoutPayment(attached.payment_id, attached.payment_status, session.id)
    total, currency, expires_at = attached.total_minor, attached.currency, attached.expires_at
    body = Checkout(order_id, attached.number, "PENDING_PAYMENT", total, currency, expires_at, payment, session.url)
    return await store_response(tx, key, status, body), expires_at


async def read_response(
    tx: Connection, key: IdempotencyKey | None, order_id: UUID, *, status: int
) -> StoredResponse | None:
    """The response with the order as it is now; None for a cancelled order.

    Raises `cart_not_open` for an order that is paid, unless this checkout placed it.
    """
    order = await orders.read(tx, SERVICE, order_id)
    if order.status == "CANCELLED":
        return None
    if order.status != "PENDING_PAYMENT" and status != 201:
        raise cart.cart_not_open(order_id)
    body = Checkout(
        order.id,
        order.number,
        order.status,
        order.total_minor,
        order.currency,
        order.expires_at,
        CheckoutPayment(order.payment_id, order.payment_status, order.stripe_session_id),
        order.checkout_url,
    )
    return await store_response(tx, key, status, body)


async def store_response(tx: Connection, key: IdempotencyKey | None, status: int, body: Checkout) -> StoredResponse:
    """Make the response with this body, and store it with the key and its order."""
    response = StoredResponse(status, encode(body), f"/orders/{body.order_id}")
    await idempotency.store_response(tx, key, response, body.order_id)
    return response


async def cancel_refused(resources: Resources, order_id: UUID, attempt: int, reason: str) -> None:
    """Cancel an order whose session Stripe refused, unless another request has begun a new attempt or attached one."""

    async def work(tx: Connection, after: transitions.AfterCommit) -> None:
        order = await transitions.lock(tx, order_id)
        if (order.status, order.attempt, order.stripe_session_id) == ("PENDING_PAYMENT", attempt, None):
            note = f"Stripe refused the payment session: {reason}"
            await transitions.cancel(tx, after, [order], payment_status="FAILED", note=note)

    await transitions.run_transition(resources, work)


def _total(claim: payment_session.Claim) -> int:
    """The total of the session to create, in minor units."""
    lines = claim.session_parameters["line_items"]
    return sum(int(line["quantity"] * line["price_data"]["unit_amount"]) for line in lines)
