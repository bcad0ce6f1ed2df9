"""Erasing a customer's personal data: `commerce-core erase`.

Ids, amounts and states stay, so that events, refunds and audits of the order work on.
"""

from dataclasses import dataclass
from uuid import UUID

from service.infra.db import Connection, Pool
from service.infra.logs import actor, cause
from service.infra.sql import statement
from service.infra.transactions import run_transaction
from service.shop import audit_log, personal_data, transitions

NOTE = "personal data erased"


@dataclass(slots=True)
class StoredEmail:
    """An order and its e-mail address."""

    id: UUID
    email: str


@dataclass(slots=True)
class OrderToErase:
    """An order while this transaction has it locked; `erased` if its personal data were erased before."""

    id: UUID
    status: str
    email: str | None
    erased: bool


@dataclass(slots=True)
class StoredPayload:
    """A stored event's payload."""

    id: str
    payload: dict[str, object]


@dataclass(slots=True)
class StoredAnswer:
    """A stored response's body."""

    id: bytes
    answer: bytes


@dataclass(slots=True)
class ErasedRows:
    """How many rows of each table had personal data in their columns."""

    orders: int
    payments: int
    history: int
    shipping: int


@dataclass(slots=True)
class Erasure:
    """The orders whose personal data were erased, and how many rows of each kind had any."""

    order_ids: list[UUID]
    rows: dict[str, int]


class Pending(Exception):
    """The order with this id awaits its payment, whose session is still needed."""


class DryRun(Exception):
    """Rolls the transaction back; it would have done `erasure`."""

    def __init__(self, erasure: Erasure) -> None:
        super().__init__()
        self.erasure = erasure


FIND_BY_DIGEST = statement("erasure/find_by_digest", UUID)
FIND_BY_EVENTS = statement("erasure/find_by_events", UUID)
LIST_WITHOUT_DIGEST = statement("erasure/list_without_digest", StoredEmail)
FIND_BY_NUMBER = statement("erasure/find_by_number", UUID)
LOCK_ORDERS = statement("erasure/lock_orders", OrderToErase)
ERASE_COLUMNS = statement("erasure/erase_columns", ErasedRows)
LIST_PAYMENT_INTENTS = statement("erasure/list_payment_intents", str)
LOCK_EVENTS = statement("erasure/lock_events", StoredPayload)
REDUCE_EVENT = statement("erasure/reduce_event")
LOCK_RESPONSES = statement("erasure/lock_responses", StoredAnswer)
REDUCE_RESPONSE = statement("erasure/reduce_response")


async def erase(pool: Pool, subject: str | int | UUID, *, dry_run: bool = False) -> Erasure:
    """Erase the personal data of one order, by id or number, or of all orders with an e-mail address.

    One transaction; repeating it changes nothing. `dry_run` rolls it back. Raises Pending, and then erases nothing.
    """
    cause.set("command erase")
    actor.set("command:erase")

    async def work(tx: Connection) -> Erasure:
        erasure = await _erase(tx, subject)
        if dry_run:
            raise DryRun(erasure)
        return erasure

    try:
        return await run_transaction(pool, work, idempotent=True)
    except DryRun as rolled_back:
        return rolled_back.erasure


async def _erase(tx: Connection, subject: str | int | UUID) -> Erasure:
    orders = await LOCK_ORDERS.all(tx, order_ids=await _find(tx, subject))
    if pending := [order.id for order in orders if order.status == "PENDING_PAYMENT"]:
        raise Pending(pending[0])
    order_ids = [order.id for order in orders]
    emails = {personal_data.lower_email(order.email) for order in orders if order.email}
    if isinstance(subject, str):
        emails.add(personal_data.lower_email(subject))

    columns = await ERASE_COLUMNS.one(tx, order_ids=order_ids)
    intents = await LIST_PAYMENT_INTENTS.all(tx, order_ids=order_ids)
    keys = [*(str(order_id) for order_id in order_ids), *intents, *emails]
    events = responses = 0
    for key in await LOCK_RESPONSES.all(tx, order_ids=order_ids):
        if (answer := personal_data.reduced_response(key.answer)) != key.answer:
            responses += await REDUCE_RESPONSE.run(tx, key_id=key.id, answer=answer)
    for event in await LOCK_EVENTS.all(tx, order_ids=order_ids, keys=keys):
        if (payload := personal_data.reduced_event(event.payload)) != event.payload:
            events += await REDUCE_EVENT.run(tx, event_id=event.id, payload=payload)
    for order in orders:
        if not order.erased:
            await transitions.ADD_NOTE.run(
                tx, order_id=order.id, status=order.status, cause=cause.get(), actor=actor.get(), note=NOTE
            )
            await audit_log.add(tx, "erase", f"order:{order.id}", before={"erased": False}, after={"erased": True})
    rows = {
        "orders": columns.orders,
        "payments": columns.payments,
        "history entries": columns.history,
        "shipping addresses": columns.shipping,
        "stored responses": responses,
        "Stripe events": events,
    }
    return Erasure(order_ids, rows)


async def _find(tx: Connection, subject: str | int | UUID) -> list[UUID]:
    """The orders of an e-mail address (a text), or the one with this number or id."""
    if isinstance(subject, UUID):
        return [subject]
    if isinstance(subject, int):
        order_id = await FIND_BY_NUMBER.one_or_none(tx, number=subject)
        return [] if order_id is None else [order_id]
    digest = personal_data.email_digest(subject)
    return [
        *await FIND_BY_DIGEST.all(tx, email_digest=digest),
        *await FIND_BY_EVENTS.all(tx, lower_email=personal_data.lower_email(subject)),
        *(order.id for order in await LIST_WITHOUT_DIGEST.all(tx) if personal_data.email_digest(order.email) == digest),
    ]
