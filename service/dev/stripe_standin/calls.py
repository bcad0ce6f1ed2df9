"""The calls under /v1: which exist, what parameters they take and what they return."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from fnmatch import fnmatchcase
from typing import TypeAlias

from .account import Account
from .objects import DAY
from .parameters import Parameters
from .rendering import exists_at, version_of
from .replies import ApiError, missing_object
from .store import Collection, Json

LIST_PARAMETERS = ("created", "ending_before", "limit", "starting_after")
LATEST = 2**40
# Stripe shows events for so long.
EVENTS_SECONDS = 30 * DAY


@dataclass(frozen=True, slots=True)
class Call:
    """What a handler needs of a request."""

    # The id in the path, "" where it has none.
    object_id: str
    form: Parameters
    # The base of the payment page's address.
    base_url: str


Handler: TypeAlias = Callable[[Account, Call], Json]


def create_session(account: Account, call: Call) -> Json:
    return account.create_session(call.form, call.base_url)


def retrieve_session(account: Account, call: Call) -> Json:
    call.form.expect()
    return account.public(account.session(call.object_id))


def expire_session(account: Account, call: Call) -> Json:
    call.form.expect()
    return account.expire_session(call.object_id)


def list_sessions(account: Account, call: Call) -> Json:
    form = call.form
    form.expect(optional=(*LIST_PARAMETERS, "payment_intent", "status"))
    status = form.choice("status", ("complete", "expired", "open"))
    matches = equal_to({"payment_intent": form.text("payment_intent"), "status": status})
    return list_page(account, account.sessions, form, matches, url="/v1/checkout/sessions", noun="checkout.session")


def create_refund(account: Account, call: Call) -> Json:
    return account.create_refund(call.form)


def retrieve_refund(account: Account, call: Call) -> Json:
    call.form.expect()
    return account.public(account.refund(call.object_id))


def list_refunds(account: Account, call: Call) -> Json:
    form = call.form
    form.expect(optional=(*LIST_PARAMETERS, "charge", "payment_intent"))
    matches = equal_to({"charge": form.text("charge"), "payment_intent": form.text("payment_intent")})
    return list_page(account, account.refunds, form, matches, url="/v1/refunds", noun="refund")


def retrieve_intent(account: Account, call: Call) -> Json:
    call.form.expect()
    return account.public(account.intent(call.object_id))


def retrieve_event(account: Account, call: Call) -> Json:
    call.form.expect()
    event = account.events.get(call.object_id)
    if event is None or event["created"] < account.now() - EVENTS_SECONDS:
        raise missing_object("event", call.object_id)
    return account.public(event)


def list_events(account: Account, call: Call) -> Json:
    form = call.form
    form.expect(optional=(*LIST_PARAMETERS, "type", "types"))
    pattern, kinds = form.text("type"), set(form.texts("types"))
    if pattern is not None and kinds:
        raise ApiError(400, "You may only specify one of these parameters: type, types.")
    if len(kinds) > 20:
        raise ApiError(400, "You can only pass up to 20 types.", param="types")
    oldest = account.now() - EVENTS_SECONDS

    def matches(event: Json) -> bool:
        chosen = fnmatchcase(event["type"], pattern) if pattern is not None else not kinds or event["type"] in kinds
        return chosen and event["created"] >= oldest and exists_at(version_of(event), event["type"])

    return list_page(account, account.events, form, matches, url="/v1/events", noun="event")


ROUTES: dict[tuple[str, str], Handler] = {
    ("POST", "/v1/checkout/sessions"): create_session,
    ("GET", "/v1/checkout/sessions"): list_sessions,
    ("GET", "/v1/checkout/sessions/{id}"): retrieve_session,
    ("POST", "/v1/checkout/sessions/{id}/expire"): expire_session,
    ("POST", "/v1/refunds"): create_refund,
    ("GET", "/v1/refunds"): list_refunds,
    ("GET", "/v1/refunds/{id}"): retrieve_refund,
    ("GET", "/v1/payment_intents/{id}"): retrieve_intent,
    ("GET", "/v1/events"): list_events,
    ("GET", "/v1/events/{id}"): retrieve_event,
}
# The resource that a restricted key needs a permission for: of reading it, or of writing, which includes reading.
RESOURCES = {
    "/v1/checkout/sessions": "checkout_session",
    "/v1/refunds": "charge",
    "/v1/payment_intents": "payment_intent",
    "/v1/events": "event",
}


def permission_for(method: str, template: str) -> tuple[str, ...]:
    """The permissions of a restricted key each of which allows a call, the least one first."""
    name = next(name for prefix, name in RESOURCES.items() if template.startswith(prefix))
    write = f"rak_{name}_write"
    return (write,) if method == "POST" else (f"rak_{name}_read", write)


def find_route(method: str, path: str) -> tuple[str, str]:
    """The template of a path and the id in it. Raises ApiError 404 when there is no such call."""
    if (method, path) in ROUTES:
        return path, ""
    for prefix in ("/v1/checkout/sessions/", "/v1/refunds/", "/v1/payment_intents/", "/v1/events/"):
        if path.startswith(prefix):
            object_id, slash, action = path.removeprefix(prefix).partition("/")
            template = f"{prefix}{{id}}{slash}{action}"
            if object_id and (method, template) in ROUTES:
                return template, object_id
    message = (
        f"Unrecognized request URL ({method}: {path}). Please see https://stripe.com/docs or we can help at"
        " https://support.stripe.com/."
    )
    raise ApiError(404, message)


def list_page(
    account: Account, collection: Collection, form: Parameters, matches: Callable[[Json], bool], *, url: str, noun: str
) -> Json:
    """A list object: newest first, `limit` 1 to 100 (default 10), bounded by `created`, paged by a cursor."""
    cursors = {key: form.text(key) for key in ("starting_after", "ending_before")}
    for key, object_id in cursors.items():
        if object_id is not None and collection.get(object_id) is None:
            raise missing_object(noun, object_id, key)
    since, until = created_bounds(form)
    objects, more = collection.page(
        matches,
        limit=form.integer("limit", least=1, most=100) or 10,
        starting_after=cursors["starting_after"],
        ending_before=cursors["ending_before"],
        since=since,
        until=until,
    )
    return {"object": "list", "data": [account.public(stored) for stored in objects], "has_more": more, "url": url}


def created_bounds(form: Parameters) -> tuple[int | None, int | None]:
    """The first and last second, both included, that `created` or `created[gt|gte|lt|lte]` allows."""
    if "created" not in form:
        return None, None
    if not form.nests("created"):
        exact = form.integer("created", least=0, most=LATEST)
        return exact, exact
    bounds = form.section("created")
    bounds.expect(optional=("gt", "gte", "lt", "lte"))
    limits = {key: bounds.integer(key, least=0, most=LATEST) for key in ("gt", "gte", "lt", "lte")}
    low = [moment + shift for key, shift in (("gt", 1), ("gte", 0)) if (moment := limits[key]) is not None]
    high = [moment - shift for key, shift in (("lt", 1), ("lte", 0)) if (moment := limits[key]) is not None]
    return max(low, default=None), min(high, default=None)


def equal_to(fields: dict[str, str | None]) -> Callable[[Json], bool]:
    """A filter for objects with these values; None allows any."""
    expected = {key: value for key, value in fields.items() if value is not None}
    return lambda stored: all(stored[key] == value for key, value in expected.items())
