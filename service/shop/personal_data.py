"""Personal data: the hash by which an e-mail address is found, and what stays of documents once an order is erased.

Both lists name what stays. A member that is in neither list counts as personal.
"""

import hashlib
import unicodedata
from typing import Any

import orjson

# A document's members that stay: name -> the members inside it, `{}` for a plain value.
Members = dict[str, Any]

# What applying a Stripe event reads, except the e-mail address. `tests/shop/test_erasure.py` compares the two.
EVENT: Members = {
    "id": {},
    "object": {},
    "type": {},
    "created": {},
    "api_version": {},
    "livemode": {},
    "account": {},
    "context": {},
    "data": {
        "object": {
            "id": {},
            "object": {},
            "created": {},
            "status": {},
            "payment_status": {},
            "amount": {},
            "amount_refunded": {},
            "amount_total": {},
            "currency": {},
            "charge": {"id": {}},
            "payment_intent": {"id": {}},
            "reason": {},
            "failure_reason": {},
            "client_reference_id": {},
            "metadata": {"order_id": {}, "refund_id": {}},
        }
    },
}

# The members of an order, and of a checkout's response. The others become null, so that a client can still read it.
RESPONSE: Members = {
    "id": {},
    "number": {},
    "order_id": {},
    "cart_id": {},
    "status": {},
    "total_minor": {},
    "currency": {},
    "created_at": {},
    "expires_at": {},
    "paid_at": {},
    "fulfilled_at": {},
    "cancelled_at": {},
    "items": {"product_id": {}, "name": {}, "quantity": {}, "unit_price_minor": {}, "line_total_minor": {}},
    "payment": {"id": {}, "status": {}, "stripe_session_id": {}, "amount_minor": {}, "refunded_minor": {}},
    "refunds": {
        "id": {},
        "amount_minor": {},
        "currency": {},
        "status": {},
        "created_at": {},
        "failure_reason": {},
        "items": {"product_id": {}, "quantity": {}},
    },
    "disputes": {"id": {}, "status": {}, "reason": {}, "amount_minor": {}, "currency": {}},
}


def email_digest(email: str) -> bytes:
    """SHA-256 of an address without spaces around it, in lower case and NFC: all spellings of one address are equal."""
    return hashlib.sha256(lower_email(email).encode()).digest()


def lower_email(email: str) -> str:
    """An address without spaces around it, in lower case and NFC."""
    return unicodedata.normalize("NFC", email.strip().lower())


def same_email(one: str | None, other: str | None) -> bool:
    """Whether both are addresses, and equal in this form."""
    return one is not None and other is not None and lower_email(one) == lower_email(other)


def reduced_event(payload: dict[str, Any]) -> dict[str, Any]:
    """The members of a Stripe event that are not personal. Applying them has the effect of applying the event."""
    result: dict[str, Any] = _reduced(payload, EVENT)
    return result


def reduced_response(body: bytes) -> bytes:
    """A stored response whose personal members are null."""
    return orjson.dumps(_reduced(orjson.loads(body), RESPONSE, nulls=True))


def _reduced(value: Any, members: Members, *, nulls: bool = False) -> Any:
    if isinstance(value, list):
        # None of the members that stay is a list of plain values.
        return [_reduced(element, members, nulls=nulls) for element in value if isinstance(element, dict)]
    if not isinstance(value, dict):
        return value
    reduced = {name: _reduced(value[name], inner, nulls=nulls) for name, inner in members.items() if name in value}
    return {**dict.fromkeys(value), **reduced} if nulls else reduced
