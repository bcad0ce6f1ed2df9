"""How an endpoint receives an event: as a snapshot of its own API version, as a thin event, for another account."""

from __future__ import annotations

from datetime import UTC, datetime

from .objects import API_VERSION
from .replies import ApiError
from .store import Json

STYLES = ("snapshot", "thin")
# The first API version with events refund.* of every refund. Versions are a date and a name, and compare as texts.
REFUND_EVENTS_SINCE = "2024-10-28"
ADDRESSES = {
    "charge": "/v1/charges/",
    "checkout.session": "/v1/checkout/sessions/",
    "dispute": "/v1/disputes/",
    "payment_intent": "/v1/payment_intents/",
    "refund": "/v1/refunds/",
}


def version_of(event: Json) -> str:
    """The version in which an event was made; the oldest events, and those that tests make, have none."""
    return event.get("api_version") or API_VERSION


def exists_at(api_version: str, kind: str) -> bool:
    """Whether there are events of this type at this API version."""
    return not kind.startswith("refund.") or api_version >= REFUND_EVENTS_SINCE


def snapshot(event: Json, *, api_version: str, account: str | None = None, context: str | None = None) -> Json:
    """The event at this API version; `account` is the connected account that it is about."""
    subject = at_version(dict(event["data"]["object"]), api_version)
    rendered = {**event, "api_version": api_version, "data": {**event["data"], "object": subject}}
    if account is not None:
        rendered["account"] = account
    if context is not None:
        rendered["context"] = context
    return rendered


def at_version(subject: Json, api_version: str) -> Json:
    """The object in the shape of an older API version, as far as the shop could notice the difference."""
    kind = subject.get("object")
    if kind in ("checkout.session", "payment_intent") and api_version < "2026-09-30":
        subject.pop("allowed_payment_method_types", None)
    if kind == "checkout.session" and api_version < "2025-03-31":
        collected = subject.pop("collected_information", None)
        subject["shipping_details"] = collected and collected["shipping_details"]
    if kind in ("charge", "payment_intent") and api_version < "2025-03-31":
        subject["invoice"] = None
    return subject


def thin(event: Json, *, context: str | None) -> Json:
    """The thin event that stands for this one: it has no data, and names the object to fetch."""
    subject = event["data"]["object"]
    created = datetime.fromtimestamp(event["created"], UTC).isoformat(timespec="milliseconds")
    rendered = {
        # The same at each attempt.
        "id": event["id"].replace("evt_", "evt_test_"),
        "object": "v2.core.event",
        "created": created.replace("+00:00", "Z"),
        "livemode": False,
        "related_object": {
            "id": subject["id"],
            "type": subject["object"],
            "url": ADDRESSES.get(subject["object"], "/v1/others/") + subject["id"],
        },
        "snapshot_event": event["id"],
        "type": f"v1.{event['type']}",
    }
    if context is not None:
        rendered["context"] = context
    if event["request"]["id"] is not None:
        rendered["reason"] = {"type": "request", "request": event["request"]}
    return rendered


def require_style(style: str) -> None:
    if style not in STYLES:
        raise ApiError(400, f"An endpoint's style is one of {', '.join(STYLES)}.", param="style")
