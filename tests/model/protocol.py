"""A model check of checkout, payment, expiry and refunds: every interleaving, crash and lost reply within bounds.

The protocol of `service/shop` in plain Python: a state is a tuple, a step is one database transaction or one call to
Stripe, and breadth first search visits every state that can be reached. In each of them the safety rules of
`broken_rule` hold, and from each of them the repairers alone, with faults off, reach an end that `broken_end` accepts.

What is bounded, and why little is lost by it:

- One order in full detail and rivals for its unit. A rival is all that other orders are to this one: somebody who, in
  one transaction each, takes the unit, gives it back, or keeps it, from a cart of its own or (the order cancelled) from
  the same cart. TWO_CARTS and ONE_CART check that reasoning with two whole orders and fewer faults; the two are told
  apart by which was placed first.
- At most two processes at a time work on orders. A stalled one stays where it is for as long as it likes; a killed one
  is gone, and another may begin. Kills, lost replies, requests that arrive late: any number of them.
- A session's creation is tried under at most two keys, and an order has at most three refunds (two where two processes
  work on it), of which the last one that there is room for does not fail.
- What Stripe tells of a session may be delivered at any time after it became true, any number of times, in any order,
  or never. That covers webhooks late, twice, out of order and lost, reconcile (its list is as old as it likes to be),
  fetched events and the recheck of a payment on its way: all of them are `settlement.apply_session` with something that
  was true once.
- A claim may lapse at any moment: nothing may rest on it.
- Left out: amounts and currencies that do not fit, refunds made in the dashboard, disputes, `Idempotency-Key`.

From every state that is visited the repairers are run, as they bring the same tables to an end whoever died when; not
only from states where faults are used up, as here they never are.

What is taken for granted of Stripe: a key's answer, once stored, is replayed, for sessions as long as they live, for
refunds until a day has gone by (in which every process ends); a refusal is repeated; lists and retrieved objects are
true; a session ends at most ten minutes after its `expires_at`; what becomes of a payment that took days is told by its
webhook or by the list of events, which `fetch_events` goes through (reconcile looks back for hours only).

    python -m tests.model.protocol                   check the protocol
    python -m tests.model.protocol --variant NAME    show how a broken one goes wrong
"""

import argparse
import sys
import time
from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import NamedTuple

TOTAL = 2  # What an order costs: two coins, so that a refund can be of a part.
HOURS = ("fresh", "near", "ended", "over")  # Of a session: young; too old to be created; ended; ended 10 min ago.
CAPTURED = ("SUCCEEDED", "REFUND_PENDING", "REFUNDED")
LIVE = ("PENDING_PAYMENT", "PAID", "FULFILLED")
LEGAL_STEPS = {
    ("NONE", "PENDING_PAYMENT"),
    ("PENDING_PAYMENT", "PAID"),
    ("PENDING_PAYMENT", "CANCELLED"),
    ("PAID", "FULFILLED"),
    ("PAID", "CANCELLED"),
    ("CANCELLED", "PAID"),
}
# What may have been told of a session, by what it is now: events carry the session as it was.
TOLD = {
    "open": (),
    "expired": ("expired",),
    "paid": ("paid",),
    "processing": ("processing",),
    "paid_later": ("processing", "paid"),
    "failed": ("processing", "failed"),
}
# What retrieving a session answers: that its payment failed only its payment intent says.
SEEN = {"paid_later": "paid", "failed": "processing"}

VARIANTS = {
    "no_status_guard": "transitions change an order whatever its status is",
    "stock_returned_twice": "no status guard, and no unique index on the ledger's releases either",
    "late_money_ignored": "money for a cancelled order is only logged",
    "found_by_stored_session": "orders are looked up by the stored session id, not by the metadata",
    "cancel_without_asking": "expiry and cancel change the order and leave the session at Stripe alone",
    "gives_up_at_once": "expiry cancels as soon as one call to Stripe gets no answer",
    "new_key_each_time": "asking again creates a session under a new key instead of replaying the old one",
    "stored_failure_is_none": "a replayed 500 is taken as proof that there is no session",
    "attempt_not_compared": "expiry, cancel and a refusal end the order without looking at which attempt it is at",
    "refund_with_new_key": "each try of a refund has a new idempotency key",
    "refund_without_list": "a refund is tried again under its key without looking for it in Stripe's list first",
    "no_reconcile": "only webhooks tell what became of a session, and one is lost",
    "events_not_fetched": "the webhook of a payment that took days is lost for good, and nobody lists Stripe's events",
}


class Refund(NamedTuple):
    """A row of `refunds`, and what Stripe has of it: the answer under the row's key, and the refunds it made."""

    intent: int
    amount: int
    cause: str
    status: str = "REQUESTED"
    reply: str = ""
    made: tuple[str, ...] = ()

    @property
    def stands(self) -> bool:
        return self.status in ("REQUESTED", "PENDING", "SUCCEEDED")


class Order(NamedTuple):
    """An order with its payment and refunds here, and its sessions and keys at Stripe."""

    status: str = "NONE"
    payment: str = ""
    out: int = 0  # Its units taken less its units given back, by the ledger.
    attempt: int = 1
    stored: int = 0  # stripe_session_id; sessions are counted from 1.
    claimed: bool = False
    intent: int = 0  # The session whose payment was captured.
    refunds: tuple[Refund, ...] = ()
    hold_ended: bool = False
    hour: int = 0  # Of the present attempt's session, an index into HOURS.
    sessions: tuple[str, ...] = ()
    replies: tuple[object, ...] = ()  # By attempt: what its key answers. A session, "error", "refused", or nothing yet.
    travelling: bool = False  # A creation that its caller has given up is still on its way to Stripe.

    @property
    def live(self) -> bool:
        return self.status in LIVE

    def reply(self, attempt: int) -> object:
        return self.replies[attempt - 1] if attempt <= len(self.replies) else ""


class Process(NamedTuple):
    """A process between two of its steps: what it does next, and what it knows."""

    order: int
    step: str
    attempt: int = 0
    session: int = 0
    told: str = ""
    stripe_deadline_passed: bool = False
    listed: tuple[str, ...] = ()


class World(NamedTuple):
    """Everything there is."""

    stock: int
    rival: str
    orders: tuple[Order, ...]
    processes: tuple[Process, ...] = ()


@dataclass(frozen=True, slots=True)
class Rules:
    """How far to go, and which variant of the protocol to follow."""

    variant: str = ""
    orders: int = 1
    same_cart: bool = False
    rivals: bool = True
    processes: int = 2  # At a time.
    attempts: int = 2
    refunds: int = 3  # Of one order; the last that there is room for does not fail.
    staff: bool = True  # Refunds asked for by staff.
    paid: bool = False  # Begin with an order just paid.
    errors: bool = True  # 500s stored and not, refusals, and creations that arrive after their caller gave up.
    faults: bool = True  # Lost replies, and all that `errors` allows.


# One order's sessions, with rivals for the unit, under all faults of creating, expiring and paying.
SESSIONS = Rules(staff=False, refunds=2)
# A paid order's refunds: two processes at a time, then more refunds with one.
REFUNDS = Rules(paid=True, refunds=2)
MORE_REFUNDS = Rules(paid=True, refunds=3, processes=1, rivals=False, errors=False)
# Two whole orders: from two carts, and one after the other from the same.
TWO_CARTS = Rules(orders=2, rivals=False, processes=1, attempts=1, refunds=1, staff=False, errors=False)
ONE_CART = replace(TWO_CARTS, same_cart=True)

SEARCHES = {
    "sessions": SESSIONS,
    "refunds": REFUNDS,
    "more refunds": MORE_REFUNDS,
    "two carts": TWO_CARTS,
    "one cart twice": ONE_CART,
}


def broken(variant: str) -> Rules:
    """The search that shows how a variant fails."""
    return replace(REFUNDS if variant.startswith("refund") else SESSIONS, variant=variant)


Step = tuple[int, str, World]
Continued = tuple[str, World, Process | None]


def put(world: World, index: int, order: Order, units: int = 0) -> World:
    """The world with another order in its place, and `units` given back to the stock."""
    orders = (*world.orders[:index], order, *world.orders[index + 1 :])
    return World(world.stock + units, world.rival, orders, world.processes)


def cart_has_live_order(world: World, index: int, rules: Rules) -> bool:
    """settlement/cart_has_live_order: another order than this one."""
    if rules.same_cart:
        return any(order.live for other, order in enumerate(world.orders) if other != index)
    return world.rival == "same cart"


# Transactions. Each is one function of service/shop with the guards of its statements.


def reserve(world: World, index: int, rules: Rules) -> World | None:
    """checkout.reserve: close the cart, take the unit, write the order with its first attempt, claimed."""
    if world.stock < 1 or cart_has_live_order(world, index, rules):
        return None
    return put(world, index, Order("PENDING_PAYMENT", "INITIATED", 1, claimed=True), -1)


def cancel(world: World, index: int, payment: str, rules: Rules) -> World:
    """transitions.cancel: MARK_CANCELLED guarded by the status that was locked, then RETURN_STOCK once for the hold."""
    order = world.orders[index]
    if order.payment in ("INITIATED", "PROCESSING"):
        order = order._replace(payment=payment, claimed=False)
    units = 1 if order.out or rules.variant == "stock_returned_twice" else 0
    return put(world, index, order._replace(status="CANCELLED", out=order.out - units, hold_ended=False), units)


def pending(order: Order, rules: Rules) -> bool:
    """The status guard of a transition out of PENDING_PAYMENT."""
    return order.status == "PENDING_PAYMENT" or rules.variant in ("no_status_guard", "stock_returned_twice")


def cancel_unasked(world: World, process: Process, rules: Rules) -> World:
    """expiry._cancel_unasked: Stripe has no session, or has been silent for too long."""
    order = world.orders[process.order]
    if order.attempt != process.attempt and rules.variant != "attempt_not_compared":
        return world
    if not pending(order, rules) or (pending(order, Rules()) and order.payment != "INITIATED"):
        return world
    return cancel(world, process.order, "EXPIRED", rules)


def settle(world: World, index: int, session: int, told: str, rules: Rules) -> World:
    """settlement.apply_session, for whoever tells it: a webhook, reconcile, expiry, checkout or the recheck."""
    order = world.orders[index]
    if rules.variant == "found_by_stored_session" and order.stored != session:
        return world
    if told == "paid":
        return settle_paid(world, index, session, rules)
    if not pending(order, rules) or order.stored not in (0, session):
        return world
    if told in ("failed", "expired"):
        return cancel(world, index, "FAILED" if told == "failed" else "EXPIRED", rules)
    if told == "processing" and order.payment == "INITIATED":
        # settlement/mark_processing
        return put(world, index, order._replace(payment="PROCESSING", stored=session, claimed=False))
    return world


def settle_paid(world: World, index: int, session: int, rules: Rules) -> World:
    """settlement._apply_paid_session and apply_late_payment."""
    order = world.orders[index]
    if order.payment in CAPTURED:
        # The same payment: unchanged. Another one: paid twice, given back.
        return world if order.intent == session else put(world, index, add_late_money(order, session))
    paid = order._replace(
        status="PAID", payment="SUCCEEDED", stored=session, intent=session, claimed=False, hold_ended=False
    )
    if order.status == "PENDING_PAYMENT":
        return put(world, index, paid)
    if rules.variant == "late_money_ignored":
        return world
    if world.stock >= 1 and not cart_has_live_order(world, index, rules):
        # settlement/retake_stock
        return put(world, index, paid._replace(out=order.out + 1), -1)
    # settlement/record_late_payment
    kept = order._replace(payment="REFUND_PENDING", stored=session, intent=session)
    return put(world, index, add_late_money(kept, session))


def fulfil(world: World, index: int) -> World:
    """fulfilment._fulfil."""
    order = world.orders[index]
    if order.status == "PAID" and order.payment == "SUCCEEDED":
        return put(world, index, order._replace(status="FULFILLED"))
    return world


def attach(world: World, process: Process) -> World:
    """payment_session.attach: payment_session/attach_session."""
    order = world.orders[process.order]
    if order.status == "PENDING_PAYMENT" and order.payment == "INITIATED":
        return put(world, process.order, order._replace(stored=process.session, claimed=False))
    return world


def add_late_money(order: Order, intent: int) -> Order:
    """refunds.add_late_money: refunds_late_money_once lets one stand for each payment."""
    if any(row.intent == intent and row.cause == "late_money" and row.stands for row in order.refunds):
        return order
    return order._replace(refunds=(*order.refunds, Refund(intent, TOTAL, "late_money")))


def given_back(order: Order, intent: int) -> tuple[int, int]:
    """refunds._given_back: what has been refunded of a payment, and what is on its way."""
    own = [row for row in order.refunds if row.intent == intent]
    return (
        sum(row.amount for row in own if row.status == "SUCCEEDED"),
        sum(row.amount for row in own if row.status in ("REQUESTED", "PENDING")),
    )


def balance(world: World, index: int, rules: Rules) -> World:
    """refunds._try_again and refunds._balance."""
    order = world.orders[index]
    if order.payment not in CAPTURED:
        return world
    owed = {row.intent: row.amount for row in reversed(order.refunds) if row.cause == "late_money"}
    if order.status == "CANCELLED":
        owed[order.intent] = TOTAL
    for intent, amount in owed.items():
        left = amount - sum(given_back(order, intent))
        if left > 0:
            stands = any(row.intent == intent and row.cause == "late_money" and row.stands for row in order.refunds)
            row = Refund(intent, left, "staff" if stands else "late_money")
            order = order._replace(refunds=(*order.refunds, row))
    refunded, on_its_way = given_back(order, order.intent)
    if refunded == TOTAL:
        status = "REFUNDED"
    elif refunded + on_its_way >= TOTAL or order.status == "CANCELLED":
        status = "REFUND_PENDING"
    else:
        status = "SUCCEEDED"
    changed, order = status != order.payment, order._replace(payment=status)
    world = put(world, index, order)
    if status != "REFUNDED" or not changed:
        return world
    if order.status == "PAID":
        return cancel(world, index, status, rules)
    if order.status == "FULFILLED" and any(r.cause == "restock" and r.status == "SUCCEEDED" for r in order.refunds):
        return put(world, index, order._replace(out=0), order.out)
    return world


# Calls to Stripe: what it does, and what its caller hears of it, `None` when nothing.


def create_at_stripe(order: Order, attempt: int, rules: Rules) -> Iterator[tuple[Order, object]]:
    """POST /checkout/sessions under the attempt's key: a session's number, "near", "refused", "error" or silence."""
    replayed = order.reply(attempt)
    if replayed:
        yield order, replayed
    elif attempt < order.attempt or order.hour:
        # It minds `expires_at`, and stores nothing.
        yield order, "near"
    else:
        number = len(order.sessions) + 1
        begun = (*order.replies, *("" for _ in range(attempt - len(order.replies) - 1)))
        sessions = (*order.sessions, "open")
        yield order._replace(sessions=sessions, replies=(*begun, number), travelling=False), number
        if rules.faults and rules.errors:
            yield order._replace(sessions=sessions, replies=(*begun, "error"), travelling=False), "error"
            yield order._replace(replies=(*begun, "error"), travelling=False), "error"
            yield order._replace(replies=(*begun, "refused"), travelling=False), "refused"
            yield order, "error"
            yield order._replace(travelling=True), None
    if rules.faults:
        yield order, None


def heard(answers: Iterator[tuple[Order, object]], rules: Rules) -> Iterator[tuple[Order, object]]:
    """What Stripe did, with its reply, or with the reply lost on the way."""
    for order, answer in answers:
        yield order, answer
        if rules.faults and answer is not None:
            yield order, None


def create_refund_at_stripe(order: Order, position: int, rules: Rules) -> Iterator[tuple[Order, object]]:
    """POST /refunds under the row's id: "pending", "succeeded", "refused", "error" or silence.

    Stripe here never refuses for lack of money: that no refund is made twice must not rest on its refusing.
    """
    row = order.refunds[position]
    if row.reply and rules.variant != "refund_with_new_key":
        yield order, row.reply
    else:

        def made(reply: str, *statuses: str) -> Order:
            return with_refund(order, position, row._replace(reply=reply, made=row.made + statuses))

        yield made("succeeded", "succeeded"), "succeeded"
        if rules.faults:
            yield made("pending", "pending"), "pending"
            if rules.errors:
                yield made("error", "succeeded"), "error"
                yield made("error"), "error"
                if len(order.refunds) < rules.refunds:
                    yield made("refused"), "refused"
    if rules.faults:
        yield order, None


# Processes. Each step is a function: what may happen next, the world after it, and how the process goes on.


def step_create(world: World, process: Process, rules: Rules) -> Iterator[Continued]:
    """checkout._pay_for: payment_session.create, the first call for this attempt."""
    for order, answer in heard(create_at_stripe(world.orders[process.order], process.attempt, rules), rules):
        after = put(world, process.order, order)
        if isinstance(answer, int):
            yield "checkout: Stripe creates the session", after, Process(process.order, "attach", session=answer)
        elif answer in ("near", "refused"):
            yield f"checkout: Stripe refuses the session ({answer})", after, process._replace(step="undo")
        else:
            yield f"checkout: creation ends in {answer or 'silence'}", after, Process(process.order, "release")


def step_replay(world: World, process: Process, rules: Rules) -> Iterator[Continued]:
    """payment_session.resume: the creation once more, under the same key."""
    ending = process.step == "end_replay"
    who, prefix = ("end", "end_") if ending else ("again", "again_")
    before = world.orders[process.order]
    if rules.variant == "new_key_each_time":
        yield (
            f"{who}: Stripe creates a session under a new key",
            put(world, process.order, before._replace(sessions=(*before.sessions, "open"))),
            process._replace(step=f"{prefix}retrieve", session=len(before.sessions) + 1),
        )
        return
    for order, answer in heard(create_at_stripe(before, process.attempt, rules), rules):
        after = put(world, process.order, order)
        if isinstance(answer, int):
            yield f"{who}: replay answers a session", after, process._replace(step=f"{prefix}retrieve", session=answer)
        elif answer == "near" or (answer == "refused" and ending):
            following = "end_cancel" if ending else "again_renew"
            yield f"{who}: replay refused ({answer})", after, process._replace(step=following)
        elif answer == "refused":
            yield f"{who}: replay refused", after, process._replace(step="undo")
        elif answer == "error":
            if rules.variant == "stored_failure_is_none":
                yield (
                    f"{who}: replay answers 500",
                    after,
                    process._replace(step="end_cancel" if ending else "again_renew"),
                )
            else:
                yield f"{who}: replay answers 500", after, process._replace(step=f"{prefix}look")
        else:
            yield f"{who}: replay gets no answer", after, process._replace(step=f"{prefix}release")


def step_look(world: World, process: Process, rules: Rules) -> Iterator[Continued]:
    """payment_session._look_for: the order's session in Stripe's list, newest first."""
    who = process.step.removesuffix("_look")
    number = len(world.orders[process.order].sessions)
    if number:
        yield f"{who}: finds the session listed", world, process._replace(step=f"{who}_retrieve", session=number)
    else:
        yield f"{who}: finds no session listed", world, process._replace(step=f"{who}_release")
    if rules.faults and number:
        yield f"{who}: listing gets no answer", world, process._replace(step=f"{who}_release")


def step_retrieve(world: World, process: Process, rules: Rules) -> Iterator[Continued]:
    """payment_session.resume: the session as it is now."""
    who = process.step.removesuffix("_retrieve")
    state = world.orders[process.order].sessions[process.session - 1]
    told = SEEN.get(state, state)
    if told != "open":
        following = Process(process.order, f"{who}_settle", session=process.session, told=told)
    elif who == "end":
        following = process._replace(step="end_expire")
    else:
        following = Process(process.order, "attach", session=process.session)
    yield f"{who}: session retrieved, {told}", world, following
    if rules.faults:
        yield f"{who}: retrieving gets no answer", world, process._replace(step=f"{who}_release", session=0)


def step_renew(world: World, process: Process, rules: Rules) -> Iterator[Continued]:
    """payment_session.next_attempt: payment_session/start_attempt."""
    order = world.orders[process.order]
    if (order.attempt, order.payment, order.stored) != (process.attempt, "INITIATED", 0):
        yield "again: no new attempt, the order moved on", world, None
    elif order.attempt < rules.attempts:
        renewed = order._replace(attempt=order.attempt + 1, hour=0, claimed=True)
        after = put(world, process.order, renewed)
        yield "again: a new attempt", after, process._replace(step="create", attempt=renewed.attempt)


def step_undo(world: World, process: Process, rules: Rules) -> Iterator[Continued]:
    """checkout._undo: Stripe refused the session of this attempt."""
    order = world.orders[process.order]
    same = order.attempt == process.attempt or rules.variant == "attempt_not_compared"
    if pending(order, rules) and order.stored == 0 and same:
        yield "checkout: refused, order cancelled", cancel(world, process.order, "FAILED", rules), None
    else:
        yield "checkout: refused, the order moved on", world, None


def step_release(world: World, process: Process, rules: Rules) -> Iterator[Continued]:
    """payment_session.release: payment_session/release_claim; then expiry may give up."""
    order = world.orders[process.order]
    after = put(world, process.order, order._replace(claimed=False)) if order.stored == 0 else world
    gives_up = process.step == "end_release" and process.stripe_deadline_passed
    yield "claim given back", after, process._replace(step="end_give_up") if gives_up else None


def step_attach(world: World, process: Process, rules: Rules) -> Iterator[Continued]:
    """checkout._attach."""
    after = attach(world, process)
    if after.orders[process.order].status == "CANCELLED":
        yield "checkout: nothing to attach to, the order is cancelled", after, process._replace(step="close")
    else:
        yield "checkout: session attached", after, None


def step_close(world: World, process: Process, rules: Rules) -> Iterator[Continued]:
    """checkout._pay_for: payment_session.close, whatever it comes to."""
    yield "checkout: session closed", expired_at_stripe(world, process), None


def expired_at_stripe(world: World, process: Process) -> World:
    """POST /checkout/sessions/{id}/expire: an open one is open no more, any other is left as it is."""
    order = world.orders[process.order]
    states = order.sessions
    if states[process.session - 1] != "open":
        return world
    states = (*states[: process.session - 1], "expired", *states[process.session :])
    return put(world, process.order, order._replace(sessions=states))


def step_expire(world: World, process: Process, rules: Rules) -> Iterator[Continued]:
    """payment_session.close: expire_session, of one that is not open with a retrieve after it."""
    after = expired_at_stripe(world, process)
    if after is world:
        yield "end: Stripe says that the session is not open", world, process._replace(step="end_ask")
    else:
        yield "end: session expired", after, Process(process.order, "end_settle", 0, process.session, "expired")
    if rules.faults:
        following = "end_give_up" if process.stripe_deadline_passed or rules.variant == "gives_up_at_once" else ""
        silent = process._replace(step=following) if following else None
        if after is not world:
            yield "end: session expired, reply lost", after, silent
        yield "end: expiring gets no answer", world, silent


def step_ask(world: World, process: Process, rules: Rules) -> Iterator[Continued]:
    """Stripe.expire_session: what the session is instead."""
    state = world.orders[process.order].sessions[process.session - 1]
    told = Process(process.order, "end_settle", 0, process.session, SEEN.get(state, state))
    yield "end: session retrieved", world, told
    if rules.faults:
        yield (
            "end: retrieving gets no answer",
            world,
            process._replace(step="end_give_up") if process.stripe_deadline_passed else None,
        )


def step_settle(world: World, process: Process, rules: Rules) -> Iterator[Continued]:
    """settlement.apply_session with what expiry, or checkout asked again, was answered."""
    after = settle(world, process.order, process.session, process.told, rules)
    following = process._replace(step="attach", told="") if process.step == "again_settle" else None
    yield f"settled as {process.told}", after, following


def step_cancel(world: World, process: Process, rules: Rules) -> Iterator[Continued]:
    """expiry._settle without a session, and expire's giving up."""
    label = "Stripe is silent for too long" if process.step == "end_give_up" else "there is no session"
    yield f"end: {label}", cancel_unasked(world, process, rules), None


def step_list_refunds(world: World, process: Process, rules: Rules) -> Iterator[Continued]:
    """refunds.settle: Stripe's list. With what it has been told goes what it was refused before."""
    rows = world.orders[process.order].refunds
    before = process.listed + ("",) * (len(rows) - len(process.listed))
    listed = tuple(row.made[-1] if row.made else told for row, told in zip(rows, before, strict=True))
    if rules.variant == "refund_without_list" and not process.listed:
        listed = before
    yield "refunds: listed", world, next_refund(world, process._replace(listed=listed))


def next_refund(world: World, process: Process) -> Process:
    """The next row that Stripe has not heard of; none: write down what Stripe says."""
    for position, row in enumerate(world.orders[process.order].refunds[: len(process.listed)]):
        if row.status == "REQUESTED" and not process.listed[position]:
            return process._replace(step="refund_create", attempt=position)
    return process._replace(step="refund_record", attempt=0)


def step_create_refund(world: World, process: Process, rules: Rules) -> Iterator[Continued]:
    """refunds.settle: create_refund under the row's id."""
    position = process.attempt
    for order, answer in heard(create_refund_at_stripe(world.orders[process.order], position, rules), rules):
        after = put(world, process.order, order)
        if answer in ("error", None):
            yield f"refunds: creation ends in {answer or 'silence'}", after, None
            continue
        listed = (*process.listed[:position], str(answer), *process.listed[position + 1 :])
        following = next_refund(after, process._replace(listed=listed))
        if following.step == "refund_record" and "refused" in listed:
            following = following._replace(step="refund_list")
        yield f"refunds: creation answers {answer}", after, following


def step_record_refunds(world: World, process: Process, rules: Rules) -> Iterator[Continued]:
    """refunds.settle: fail_refund, record_refund for each, and the balance."""
    order = world.orders[process.order]
    rows = list(order.refunds)
    for position, told in enumerate(process.listed):
        row = rows[position]
        if told == "refused" and row.status == "REQUESTED":
            rows[position] = row._replace(status="REFUSED")
        elif told not in ("", "refused") and (row.status in ("REQUESTED", "PENDING", "REFUSED") or told == "failed"):
            rows[position] = row._replace(status=told.upper())
    after = put(world, process.order, order._replace(refunds=tuple(rows)))
    yield "refunds: recorded", balance(after, process.order, rules), None


STEPS = {
    "create": step_create,
    "attach": step_attach,
    "close": step_close,
    "undo": step_undo,
    "release": step_release,
    "again_replay": step_replay,
    "again_look": step_look,
    "again_retrieve": step_retrieve,
    "again_renew": step_renew,
    "again_settle": step_settle,
    "again_release": step_release,
    "end_replay": step_replay,
    "end_look": step_look,
    "end_retrieve": step_retrieve,
    "end_expire": step_expire,
    "end_ask": step_ask,
    "end_settle": step_settle,
    "end_cancel": step_cancel,
    "end_give_up": step_cancel,
    "end_release": step_release,
    "refund_list": step_list_refunds,
    "refund_create": step_create_refund,
    "refund_record": step_record_refunds,
}


# How processes begin, and what happens without us.


def begin_end(world: World, index: int, rules: Rules) -> tuple[World, Process] | None:
    """expiry.expire and expiry.cancel: the order is read; without a stored session the claim is taken."""
    order = world.orders[index]
    if (order.status, order.payment) != ("PENDING_PAYMENT", "INITIATED"):
        return None
    over = HOURS[order.hour] == "over"
    process = Process(index, "end_expire", order.attempt, order.stored, stripe_deadline_passed=over)
    if rules.variant == "cancel_without_asking":
        return world, process._replace(step="end_cancel")
    if order.stored:
        return world, process
    if order.claimed:
        return None
    return put(world, index, order._replace(claimed=True)), process._replace(step="end_replay")


def begin(world: World, index: int, rules: Rules) -> Iterator[tuple[str, World, Process]]:
    """The processes that may begin with an order, after their first transaction."""
    order = world.orders[index]
    if order.status == "NONE":
        # Two orders are told apart by which was placed first.
        first = all(before.status != "NONE" for before in world.orders[:index])
        placed = reserve(world, index, rules) if first else None
        if placed:
            yield "checkout: reserved", placed, Process(index, "create", 1)
        return
    if order.status == "PENDING_PAYMENT" and order.payment == "INITIATED" and not order.stored and not order.claimed:
        # checkout._again; payment_session/claim_session has the same guards as the reading before it.
        claimed = put(world, index, order._replace(claimed=True))
        yield "again: claimed", claimed, Process(index, "again_replay", order.attempt)
    ending = begin_end(world, index, rules)
    if ending:
        yield "end: begun", *ending
    if order.refunds:
        yield "refunds: begun", world, Process(index, "refund_list")


def request_refund(world: World, index: int, rules: Rules) -> Iterator[Step]:
    """refunds.request by staff: of one coin, of all that is left, and of all with the unit."""
    order = world.orders[index]
    if order.payment != "SUCCEEDED" or len(order.refunds) >= rules.refunds - 1:
        return
    left = TOTAL - sum(given_back(order, order.intent))
    for amount, cause in dict.fromkeys(((1, "staff"), (left, "staff"), (left, "restock"))):
        if 0 < amount <= left:
            requested = order._replace(refunds=(*order.refunds, Refund(order.intent, amount, cause)))
            yield (
                index,
                f"staff: refund of {amount} requested ({cause})",
                balance(put(world, index, requested), index, rules),
            )


def happenings(world: World, index: int, rules: Rules) -> Iterator[Step]:
    """What happens to an order without a process of ours: at Stripe, by the clock, and in single transactions."""
    order = world.orders[index]
    for number, state in enumerate(order.sessions, 1):
        before, behind = order.sessions[: number - 1], order.sessions[number:]

        def became(state: str, before: tuple = before, behind: tuple = behind) -> World:
            return put(world, index, order._replace(sessions=(*before, state, *behind)))

        if state == "open":
            yield index, "customer: pays", became("paid")
            yield index, "customer: pays by a method that takes days", became("processing")
            if HOURS[order.hour] in ("ended", "over"):
                yield index, "Stripe: session ends", became("expired")
        elif state == "processing":
            yield index, "Stripe: the payment succeeds after days", became("paid_later")
            yield index, "Stripe: the payment fails after days", became("failed")
        for told in TOLD[state]:
            # webhooks.receive_webhook (webhook), reconcile._settle, expiry._recheck
            yield index, f"told by webhook or reconcile: {told}", settle(world, index, number, told, rules)
    yield from refund_happenings(world, index, rules)
    if order.travelling:
        landed, _ = next(create_at_stripe(order, order.attempt, rules))
        yield index, "Stripe: a creation arrives that its caller has given up", put(world, index, landed)
    if order.claimed:
        yield index, "claim: lapses", put(world, index, order._replace(claimed=False))
    if order.status == "PENDING_PAYMENT":
        if not order.hold_ended:
            yield index, "clock: hold ended", put(world, index, order._replace(hold_ended=True))
        to_come = HOURS[order.hour + 1] if order.hour < 3 else ""
        if to_come and (
            to_come == "near" or (order.hold_ended and (to_come == "ended" or "open" not in order.sessions))
        ):
            # One still travelling would be refused by now.
            later = order._replace(hour=order.hour + 1, travelling=False)
            yield index, f"clock: session {to_come}", put(world, index, later)
    elif "open" in order.sessions and HOURS[order.hour] in ("fresh", "near"):
        yield index, "clock: session ended", put(world, index, order._replace(hour=2))
    # fulfilment.fulfil
    yield index, "fulfilled", fulfil(world, index)
    if rules.staff:
        yield from request_refund(world, index, rules)


def refund_happenings(world: World, index: int, rules: Rules) -> Iterator[Step]:
    """What becomes of refunds at Stripe: even one that had succeeded may be sent back by the bank."""
    order = world.orders[index]
    for position, row in enumerate(order.refunds):
        now = row.made[-1] if row.made else ""
        outcomes = {"pending": ("succeeded", "failed"), "succeeded": ("failed",)}.get(now, ())
        for outcome in outcomes:
            if outcome == "succeeded" or len(order.refunds) < rules.refunds:
                after = with_refund(order, position, row._replace(made=(*row.made[:-1], outcome)))
                yield index, f"Stripe: {now} refund has {outcome}", put(world, index, after)
        if row.reply and not world.processes:
            forgotten = with_refund(order, position, row._replace(reply=""))
            yield index, "Stripe: forgets a refund's key, a day later", put(world, index, forgotten)


def with_refund(order: Order, position: int, row: Refund) -> Order:
    """The order with another refund in its place."""
    return order._replace(refunds=(*order.refunds[:position], row, *order.refunds[position + 1 :]))


def rivals(world: World, rules: Rules) -> Iterator[Step]:
    """Other orders: each takes the unit or gives it back."""
    if world.rival:
        yield 0, "rival: gives the unit back", world._replace(stock=world.stock + 1, rival="")
    elif world.stock:
        yield 0, "rival: takes the unit", world._replace(stock=world.stock - 1, rival="elsewhere")
        if not world.orders[0].live:
            yield (
                0,
                "rival: takes the unit, from the same cart",
                world._replace(stock=world.stock - 1, rival="same cart"),
            )


def steps(world: World, rules: Rules) -> Iterator[Step]:
    """All that can happen next."""
    if rules.rivals:
        yield from rivals(world, rules)
    for index in range(len(world.orders)):
        yield from happenings(world, index, rules)
        if len(world.processes) < rules.processes:
            for label, after, process in begin(world, index, rules):
                yield index, label, joined(after, process)
    for position, process in enumerate(world.processes):
        alone = world._replace(processes=(*world.processes[:position], *world.processes[position + 1 :]))
        yield process.order, f"process killed before: {process.step}", alone
        for label, after, continued in STEPS[process.step](alone, process, rules):
            yield process.order, label, joined(after, continued)


def joined(world: World, process: Process | None) -> World:
    """The world with one process more; which of two is which makes no difference."""
    return world._replace(processes=tuple(sorted((*world.processes, process)))) if process else world


# Safety.


def broken_rule(world: World) -> str | None:
    """The safety rule that a state breaks, if any."""
    if world.stock < 0:
        return "stock is negative"
    holders = bool(world.rival)
    for order in world.orders:
        if order.out not in units_due(order):
            return f"a {order.status} order has {order.out} units out"
        holders += order.out
        if broken := broken_payment(order):
            return broken
    if holders > 1:
        return "two orders hold the one unit"
    if world.stock + holders != 1:
        return f"{world.stock} in stock and {holders} held, of one unit"
    return None


def units_due(order: Order) -> tuple[int, ...]:
    """What an order may have taken and not given back: staff may take units back, by a refund that fails later."""
    if not order.live:
        return (0,)
    back = {row.status for row in order.refunds if row.cause == "restock"}
    if order.status == "FULFILLED" and back & {"SUCCEEDED", "FAILED"}:
        return (0,) if order.payment == "REFUNDED" and "SUCCEEDED" in back else (0, 1)
    return (1,)


def broken_payment(order: Order) -> str | None:
    """The rule of sessions, payment and refunds that an order breaks, if any."""
    if sum(state not in ("expired", "failed") for state in order.sessions) > 1:
        return "an order has a session that can be paid beside one that can be, or was"
    if order.status == "CANCELLED" and "open" in order.sessions:
        return "a session of a cancelled order can be paid"
    fitting = {
        "NONE": ("",),
        "PENDING_PAYMENT": ("INITIATED", "PROCESSING"),
        "CANCELLED": ("FAILED", "EXPIRED", "REFUND_PENDING", "REFUNDED"),
    }.get(order.status, CAPTURED)
    if order.payment not in fitting:
        return f"a {order.status} order has a payment that is {order.payment}"
    if order.status == "CANCELLED" and order.payment in CAPTURED and sum(given_back(order, order.intent)) < TOTAL:
        return "a cancelled order keeps money that we know of"
    refunded: dict[int, int] = {}
    for row in order.refunds:
        effective = sum(status != "failed" for status in row.made)
        if effective > 1:
            return "one refund was made twice"
        refunded[row.intent] = refunded.get(row.intent, 0) + row.amount * effective
    if max(refunded.values(), default=0) > TOTAL:
        return "more was refunded than captured"
    return None


def taken(before: World, after: World) -> set[tuple[str, str]]:
    """The transitions of orders that a step makes."""
    pairs = zip(before.orders, after.orders, strict=True)
    return {(old.status, new.status) for old, new in pairs if old.status != new.status}


def broken_history(before: World, after: World) -> str | None:
    """The illegal transition that a step makes, if any."""
    return next((f"{old} -> {new} is no legal step" for old, new in taken(before, after) - LEGAL_STEPS), None)


# Liveness: from here, with faults off, do the repairers bring everything to a good end?

Path = tuple[tuple[str, World], ...]


class Repair:
    """Runs the repairers from a state to the end, under every way that what is open at Stripe can turn out.

    Every process is dead, every reply arrives, no customer does anything, and webhooks are lost but for those of
    payments that took days. Remembers the states it has been through.
    """

    def __init__(self, rules: Rules) -> None:
        self._rules = Rules(rules.variant, rules.orders, rules.same_cart, refunds=rules.refunds, faults=False)
        self._known: dict[World, tuple[str, Path] | None] = {}

    @property
    def states(self) -> int:
        return len(self._known)

    def failure(self, world: World) -> tuple[str, Path] | None:
        """How it ends badly, and the way there; None when it always ends well."""
        orders = tuple(order._replace(claimed=False, travelling=False) for order in world.orders)
        quiet = World(world.stock, world.rival, orders)
        failed = self._from(quiet)
        return failed and (failed[0], (("from here on no process, no fault", quiet), *failed[1]))

    def _from(self, world: World) -> tuple[str, Path] | None:
        if world not in self._known:
            # Until it is known better: who comes here again before that has not moved.
            self._known[world] = ("the repairers go round in circles", ())
            self._known[world] = self._look(world)
        return self._known[world]

    def _look(self, world: World) -> tuple[str, Path] | None:
        if reason := broken_rule(world):
            return reason, ()
        for label, repaired in self._round(world):
            if repaired != world:
                failed = (reason, ()) if (reason := broken_history(world, repaired)) else self._from(repaired)
                return failed and (failed[0], ((label, repaired), *failed[1]))
        if reason := broken_pause(world):
            return reason, ()
        futures = list(self._futures(world))
        if not futures:
            reason = broken_end(world)
            return (reason, ()) if reason else None
        for label, after in futures:
            if failed := self._from(after):
                return failed[0], ((label, after), *failed[1])
        return None

    def _round(self, world: World) -> Iterator[tuple[str, World]]:
        """What each repairer makes of a world: reconcile.reconcile, and sweep.sweep by what is due."""
        for index, order in enumerate(world.orders):
            for number, state in enumerate(order.sessions, 1):
                for told in TOLD[state]:
                    if self._told(order, state):
                        yield f"reconcile: {told}", settle(world, index, number, told, self._rules)
            if order.hold_ended and (ending := begin_end(world, index, self._rules)):
                yield "sweep: expiry", self._run(*ending)
            if order.refunds:
                yield "sweep: refunds", self._run(world, Process(index, "refund_list"))
            yield "sweep: fulfilment", fulfil(world, index)

    def _told(self, order: Order, state: str) -> bool:
        """Whether anybody brings word of a session: reconcile, after days a fetched event, or expiry._recheck."""
        took_days = state in ("paid_later", "failed")
        if self._rules.variant == "no_reconcile":
            return took_days
        return self._rules.variant != "events_not_fetched" or not took_days or order.payment == "PROCESSING"

    def _run(self, world: World, process: Process | None) -> World:
        """A process to its end: without faults there is one way only."""
        while process:
            ((_, world, process),) = STEPS[process.step](world, process, self._rules)
        return world._replace(orders=tuple(order._replace(claimed=False) for order in world.orders))

    def _futures(self, world: World) -> Iterator[tuple[str, World]]:
        """What comes of itself, once the repairers have nothing to do."""
        for index, order in enumerate(world.orders):
            expected = [
                (label, after)
                for _, label, after in happenings(world, index, self._rules)
                if label.startswith(("Stripe: the payment", "Stripe: pending refund"))
            ]
            if not expected and any((row.status, row.reply) == ("REQUESTED", "error") for row in order.refunds):
                expected = [way[1:] for way in refund_happenings(world, index, self._rules) if "forgets" in way[1]]
            if expected:
                yield from expected
                return
            if order.status == "PENDING_PAYMENT":
                if not order.hold_ended:
                    yield "clock: hold ended", put(world, index, order._replace(hold_ended=True))
                    return
                if order.hour < 3:
                    ended = tuple("expired" if state == "open" else state for state in order.sessions)
                    yield "clock: session over", put(world, index, order._replace(hour=3, sessions=ended))
                    return


def broken_pause(world: World) -> str | None:
    """What must not be while the repairers have nothing to do but wait.

    An order whose hold has ended waits for a payment on its way, or because Stripe answers nothing but a stored 500.
    """
    for order in world.orders:
        unanswered = order.reply(order.attempt) == "error" and not order.sessions and HOURS[order.hour] != "over"
        waits = order.payment == "PROCESSING" or unanswered
        if order.status == "PENDING_PAYMENT" and order.hold_ended and not waits:
            return "an order is pending past its hold"
        if order.status == "PAID" and order.payment == "SUCCEEDED":
            return "a paid order is not fulfilled"
    return None


def broken_end(world: World) -> str | None:
    """What must not be when nothing is left to happen."""
    for order in world.orders:
        if order.live and order.status != "FULFILLED":
            return f"an order stays {order.status}"
        for number, state in enumerate(order.sessions, 1):
            if state not in ("paid", "paid_later"):
                continue
            given, _ = given_back(order, number)
            if not (order.status == "FULFILLED" and order.intent == number) and given < TOTAL:
                return "money was captured that neither bought anything nor was given back"
    return None


# Search.


@dataclass(slots=True)
class Found:
    """What a search came to: the transitions of orders it has seen; `reason` and `trace` when a rule was broken."""

    states: int
    transitions: int
    repairs: int
    seconds: float
    taken: set[tuple[str, str]]
    reason: str | None = None
    trace: Path = ()


def beginning(rules: Rules) -> World:
    """One unit and orders yet to be placed; or one that was placed and paid, of which nobody knows yet."""
    if rules.paid:
        paid = Order("PENDING_PAYMENT", "INITIATED", 1, stored=1, hold_ended=True, sessions=("paid",), replies=(1,))
        return World(0, "", (paid,))
    return World(1, "", (Order(),) * rules.orders)


def explore(rules: Rules) -> Found:
    """Visit every state, nearest first, until one breaks a rule or there are no more."""
    started = time.process_time()
    start = beginning(rules)
    parents: dict[World, World | None] = {start: None}
    queue = deque([start])
    repair = Repair(rules)
    transitions, seen = 0, set()
    reason, trace = None, ()
    while queue and reason is None:
        world = queue.popleft()
        for _, _, after in steps(world, rules):
            transitions += 1
            if after in parents:
                continue
            parents[after] = world
            queue.append(after)
            seen |= taken(world, after)
            reason, rest = broken_history(world, after) or broken_rule(after), ()
            if reason is None and (failure := repair.failure(after)):
                reason, rest = failure
            if reason:
                trace = (*way_to(after, parents, rules), *rest)
                break
    return Found(len(parents), transitions, repair.states, time.process_time() - started, seen, reason, trace)


def way_to(world: World, parents: dict[World, World | None], rules: Rules) -> Path:
    """The steps from the start to a state that was visited."""
    way: list[tuple[str, World]] = []
    while (before := parents[world]) is not None:
        index, label = next((index, label) for index, label, after in steps(before, rules) if after == world)
        way.append((f"order {index + 1}: {label}" if rules.orders > 1 else label, world))
        world = before
    return tuple(reversed(way))


def readable(found: Found, rules: Rules) -> Iterator[str]:
    """A trace, a line for each step with what it changed."""
    before = beginning(rules)
    for number, (label, world) in enumerate(found.trace, 1):
        changes = [
            f"{name} {old!r} -> {new!r}"
            for name, old, new in zip(("stock", "rival"), before[:2], world[:2], strict=True)
            if old != new
        ]
        for old_order, new_order in zip(before.orders, world.orders, strict=True):
            for name, old, new in zip(Order._fields, old_order, new_order, strict=True):
                if old != new:
                    shown = [tuple(row) for row in new] if name == "refunds" else repr(new)
                    changes.append(f"{name} = {shown}")
        yield f"{number:3}. {label}" + (f"   [{', '.join(changes)}]" if changes else "")
        before = world
    yield f"  => {found.reason}" if found.reason else "  => no rule broken"


def summary(found: Found) -> str:
    """The numbers of a search in a line."""
    return (
        f"{found.states:,} states, {found.transitions:,} transitions, {found.repairs:,} states of repair, "
        f"{found.seconds:.1f} s of CPU"
    )


def main() -> int:
    """Check the protocol, or show how a broken variant of it fails; 1 when a rule of the protocol itself is broken."""
    parser = argparse.ArgumentParser(description=main.__doc__)
    parser.add_argument("--variant", choices=VARIANTS, default="", help="a broken protocol, to see how it fails")
    variant = parser.parse_args().variant
    failed = False
    for name, rules in ({variant: broken(variant)} if variant else SEARCHES).items():
        found = explore(rules)
        print(f"{name}: {summary(found)}", *readable(found, rules), sep="\n", flush=True)
        failed |= found.reason is not None
    return int(failed and not variant)


if __name__ == "__main__":
    sys.exit(main())
