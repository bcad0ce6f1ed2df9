"""The stand-in against the types of the SDK that is installed: what it answers, and which parameters it takes."""

import re
from collections.abc import Callable
from copy import deepcopy
from typing import Any

import pytest
import stripe
from stripe.params._event_list_params import EventListParams
from stripe.params._refund_create_params import RefundCreateParams
from stripe.params._refund_list_params import RefundListParams
from stripe.params.checkout._session_create_params import SessionCreateParams
from stripe.params.checkout._session_list_params import SessionListParams

from service.dev.stripe_standin.closed_lists import ALLOWABLE_PAYMENT_METHODS, COUNTRIES, EXCLUDABLE_PAYMENT_METHODS
from service.dev.stripe_standin.objects import API_VERSION
from service.dev.stripe_standin.parameters import Parameters
from service.dev.stripe_standin.payments import METHODS
from service.dev.stripe_standin.refunds import STATUSES as REFUND_STATUSES
from tests.dev.stripe_types import literals_of, members_of, object_problems, parameters_of, problems
from tests.dev.world import World, line, refused

DISPUTES = [
    ("warning_needs_response",),
    ("warning_needs_response", "warning_under_review", "warning_closed"),
    ("needs_response", "under_review", "won"),
    ("needs_response", "lost"),
    ("needs_response", "lost", "appeal_needs_response", "appeal_under_review", "won"),
    ("warning_needs_response", "prevented"),
]


async def make_everything(world: World) -> None:
    """Bring sessions, payments, refunds and disputes into each of their states."""
    standin = world.standin
    await world.create(customer_email="jo@example.com")
    await world.sessions.expire_async((await world.create()).id, options={"idempotency_key": "k"})
    for method in METHODS:
        for succeed in (None, True, False):
            session = standin.pay((await world.create(allowed_payment_method_types=[method])).id, method=method)
            if method != "card" and succeed is not None:
                standin.settle(session["id"], succeed)
    delivered = await world.create(
        shipping_address_collection={"allowed_countries": ["DE"]}, phone_number_collection={"enabled": True}
    )
    standin.pay(delivered.id)
    standin.pay((await world.create()).id, no_payment=True)
    standin.decline((await world.create(excluded_payment_method_types=["boleto"])).id)
    for answer in (standin.pay, standin.decline, standin.expire_session, standin.expand_intent):
        secured = await world.create()
        standin.require_action(secured.id)
        answer(secured.id)  # type: ignore[operator]
    for method in METHODS:
        for status in REFUND_STATUSES:
            standin.refund_status = "pending"
            paid = standin.pay((await world.create()).id, method=method)
            if method != "card":
                standin.settle(paid["id"])
            refund = await world.refunds.create_async({"payment_intent": paid["payment_intent"], "amount": 100})
            standin.set_refund(refund.id, status)
    for statuses in DISPUTES:
        paid = standin.pay((await world.create()).id)
        dispute = standin.dispute(paid["payment_intent"], status=statuses[0])
        for status in statuses[1:]:
            standin.set_dispute(dispute["id"], status)
    debit = standin.pay((await world.create()).id, later=True)
    standin.settle(debit["id"])
    standin.dispute(debit["payment_intent"], reason="debit_not_authorized")


def states_of(rendered: list[dict[str, Any]], kind: str) -> set[Any]:
    """The states of the objects of a kind, by each member that has a list of states."""
    names = ("status", "payment_status") if kind == "checkout.session" else ("status",)
    return {tuple(one[name] for name in names) for one in rendered if one["object"] == kind}


async def test_every_object_is_of_the_sdks_types_in_every_state(world: World) -> None:
    """Everything that the API and events show has all members that Stripe sends, of the right type, and no others."""
    await make_everything(world)
    standin = world.standin

    rendered = [event["data"]["object"] for event in standin.events]
    for collection in (standin.sessions, standin.intents, standin.charges, standin.refunds, standin.disputes):
        rendered += [standin.public(stored) for stored in collection]
    rendered += list(standin.events)

    assert sorted({problem for one in rendered for problem in object_problems(one)}) == []
    assert states_of(rendered, "checkout.session") == {
        ("open", "unpaid"), ("expired", "unpaid"), ("complete", "unpaid"), ("complete", "paid"),
        ("complete", "no_payment_required"),
    }  # fmt: skip
    intents = {"requires_payment_method", "requires_action", "processing", "canceled", "succeeded"}
    assert states_of(rendered, "payment_intent") == {(status,) for status in intents}
    assert states_of(rendered, "charge") == {("pending",), ("succeeded",), ("failed",)}
    assert states_of(rendered, "refund") == {(status,) for status in REFUND_STATUSES}
    assert states_of(rendered, "dispute") == {(status,) for status in literals_of(stripe.Dispute, ["status"])}
    assert {one["object"] for one in rendered} == {
        "checkout.session", "payment_intent", "charge", "refund", "dispute", "event",
    }  # fmt: skip


async def test_every_list_is_of_the_sdks_types(world: World) -> None:
    await make_everything(world)

    for resource in (world.sessions, world.refunds, world.events):
        page = await resource.list_async({"limit": 3})

        assert object_problems(page.to_dict()) == []
        assert (len(page.data), page.has_more) == (3, True)


CHANGES: dict[str, Callable[[dict[str, Any]], object]] = {
    "a required member is missing": lambda session: session.pop("automatic_tax"),
    "a member that is always there is missing": lambda session: session.pop("wallet_options"),
    "an unknown member": lambda session: session.update(colour="blue"),
    "a status that is not in the list": lambda session: session.update(status="late"),
    "a text for a number": lambda session: session.update(amount_total="1"),
    "null where it cannot be": lambda session: session.update(livemode=None),
    "a member of a member is missing": lambda session: session["automatic_tax"].pop("enabled"),
    "half an intent": lambda session: session.update(payment_intent={"object": "payment_intent"}),
}


async def test_the_comparison_finds_each_kind_of_difference(world: World) -> None:
    session = (await world.create()).to_dict()
    assert object_problems(session) == []

    for name, change in CHANGES.items():
        changed = deepcopy(session)
        change(changed)
        assert object_problems(changed) != [], name


async def test_every_error_is_of_the_sdks_type(world: World) -> None:
    paid = await world.create_paid()
    world.standin.set_rate_limit(total=20)
    calls = [
        lambda: world.create(colour="blue"),
        lambda: world.create(line_items=[line(1, 1)]),
        lambda: world.sessions.retrieve_async("cs_no"),
        lambda: world.sessions.expire_async(paid.id),
        lambda: world.refunds.create_async({"payment_intent": paid.payment_intent, "amount": 9999}),
        *[lambda: world.sessions.retrieve_async(paid.id)] * 20,
    ]

    errors = []
    for call in calls:
        try:
            await call()
        except stripe.StripeError as error:
            errors.append(error)

    assert {error.http_status for error in errors} == {400, 404, 429}
    for error in errors:
        assert problems(error.json_body["error"], stripe.ErrorObject) == []
        assert {"message", "type"} <= error.json_body["error"].keys()


def test_it_follows_the_version_that_the_sdk_sends() -> None:
    assert stripe.api_version == API_VERSION


# Parameters


CALLS = {
    "POST /v1/checkout/sessions": SessionCreateParams,
    "GET /v1/checkout/sessions": SessionListParams,
    "POST /v1/refunds": RefundCreateParams,
    "GET /v1/refunds": RefundListParams,
    "GET /v1/events": EventListParams,
}


@pytest.fixture
def accepted(monkeypatch: pytest.MonkeyPatch) -> list[tuple[str, set[str]]]:
    """The (path, names) of all parameters that the stand-in asks for, in this order."""
    found: list[tuple[str, set[str]]] = []
    expect = Parameters.expect

    def record(self: Parameters, *, required: Any = (), optional: Any = ()) -> None:
        found.append((self.name("").removesuffix("[]"), {*required, *optional}))
        expect(self, required=required, optional=optional)

    monkeypatch.setattr(Parameters, "expect", record)
    return found


async def test_every_parameter_is_one_of_the_sdks(world: World, accepted: list[tuple[str, set[str]]]) -> None:
    """Record the names that the stand-in accepts in each call, and look for them in the types of the SDK's call."""
    for call, params in CALLS.items():
        accepted.clear()
        await call_with_nested_parameters(world, call)

        assert accepted, call
        for path, names in accepted:
            keys = [key for key in re.findall(r"[a-z_]+", path) if key != "metadata"]
            assert names <= parameters_of(params, keys), (call, path)


async def call_with_nested_parameters(world: World, call: str) -> None:
    """A call with every parameter that has members of its own."""
    if call == "POST /v1/checkout/sessions":
        await world.create(
            shipping_address_collection={"allowed_countries": ["DE"]}, phone_number_collection={"enabled": True}
        )
    elif call == "POST /v1/refunds":
        await refused(
            world.refunds.create_async({"payment_intent": "pi_no"}), 404, "resource_missing", "payment_intent"
        )
    else:
        resource = {"sessions": world.sessions, "refunds": world.refunds, "events": world.events}[call.split("/")[-1]]
        await resource.list_async({"created": {"gte": 1}})


@pytest.mark.parametrize("name", ["payment_method_types", "ui", "line_item", "idempotency_key"])
async def test_a_parameter_that_the_version_does_not_have_is_refused(world: World, name: str) -> None:
    error = await refused(world.create(**{name: ["card"]}), 400, "parameter_unknown", name)

    assert f"Received unknown parameter: {name}" in error.user_message
    assert name not in parameters_of(SessionCreateParams, [])


@pytest.mark.parametrize(
    ("values", "name"),
    [
        (ALLOWABLE_PAYMENT_METHODS, "allowed_payment_method_types"),
        (EXCLUDABLE_PAYMENT_METHODS, "excluded_payment_method_types"),
    ],
)
async def test_payment_methods_are_those_of_the_sdk(world: World, values: tuple[str, ...], name: str) -> None:
    assert set(values) == literals_of(SessionCreateParams, [name])

    shown = await world.create(**{name: ["card", "klarna"] if name.startswith("allowed") else ["boleto", "klarna"]})
    error = await refused(world.create(**{name: ["cash"]}), 400, None, f"{name}[0]")

    assert shown[name][1] == "klarna"
    assert "card" in shown.payment_method_types
    assert not {"boleto", "klarna"} & set(shown.payment_method_types)
    assert "must be one of acss_debit, affirm" in error.user_message


async def test_a_session_without_any_payment_method_is_refused(world: World) -> None:
    await refused(world.create(excluded_payment_method_types=list(METHODS)), 400)


async def test_countries_are_those_of_the_sdk(world: World) -> None:
    names = ["shipping_address_collection", "allowed_countries"]
    assert set(COUNTRIES) == literals_of(SessionCreateParams, names)

    path = "shipping_address_collection[allowed_countries][0]"
    await refused(world.create(shipping_address_collection={"allowed_countries": ["CU"]}), 400, None, path)


# Amounts


AMOUNTS = {
    "usd": (50, 99_999_999),
    "eur": (50, 99_999_999),
    "gbp": (30, 99_999_999),
    "czk": (1500, 99_999_999),
    "mxn": (1000, 99_999_999),
    "huf": (17_500, 99_999_999),
    "jpy": (50, 99_999_999),
    "thb": (1000, 99_999_999),
    "inr": (50, 999_999_999),
    "cop": (50, 9_999_999_999),
    "idr": (50, 999_999_999_999),
}


async def test_amounts_are_bounded_by_currency(world: World) -> None:
    for currency, (least, most) in AMOUNTS.items():
        for amount in (least, most):
            assert (await world.create(line_items=[line(amount, 1, currency=currency)])).amount_total == amount
        too_small = [line(least - 1, 1, currency=currency)]
        too_large = [line(most, 1, currency=currency), line(1, 1, currency=currency)]
        await refused(world.create(line_items=too_small), 400, "amount_too_small")
        await refused(world.create(line_items=too_large), 400, "amount_too_large")


async def test_a_currency_that_stripe_does_not_take_is_refused(world: World) -> None:
    error = await refused(
        world.create(line_items=[line(currency="stn")]), 400, None, "line_items[0][price_data][currency]"
    )

    assert error.user_message.startswith("Invalid currency: stn. Stripe currently supports these currencies: aed,")


def test_the_classes_have_members() -> None:
    """A renamed annotation would make every comparison pass."""
    assert len(members_of(stripe.checkout.Session)) > 60
