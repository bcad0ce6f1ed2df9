"""The rules that a state, a step, a pause and an end must keep. Each function names the rule that is broken, if any."""

from tests.model.world import (
    CAPTURED,
    LEGAL_TRANSITIONS,
    SESSION_AGES,
    TOTAL,
    Order,
    World,
    refunded_and_pending,
)


def broken_in_state(world: World) -> str | None:
    """The safety rule that a state breaks."""
    if world.stock < 0:
        return "stock is negative"
    units = int(bool(world.rival))
    for order in world.orders:
        if order.units_taken not in allowed_units(order):
            return f"a {order.status} order has {order.units_taken} units out"
        units += order.units_taken
        if reason := broken_in_payment(order):
            return reason
    if units > 1:
        return "two orders have the one unit"
    if world.stock + units != 1:
        return f"{world.stock} in stock and {units} taken, of one unit"
    return None


def allowed_units(order: Order) -> tuple[int, ...]:
    """How many units an order may have: a restock returns them, even by a refund that fails later."""
    if not order.live:
        return (0,)
    restocks = {row.status for row in order.refunds if row.cause == "restock"}
    if order.status == "FULFILLED" and restocks & {"SUCCEEDED", "FAILED"}:
        return (0,) if order.payment == "REFUNDED" and "SUCCEEDED" in restocks else (0, 1)
    return (1,)


def broken_in_payment(order: Order) -> str | None:
    """The rule of sessions, payment and refunds that an order breaks."""
    if sum(state not in ("expired", "failed") for state in order.sessions) > 1:
        return "an order has two sessions that can be paid or were paid"
    if order.status == "CANCELLED" and "open" in order.sessions:
        return "a session of a cancelled order can be paid"
    allowed = {
        "NONE": ("",),
        "PENDING_PAYMENT": ("INITIATED", "PROCESSING"),
        "CANCELLED": ("FAILED", "EXPIRED", "REFUND_PENDING", "REFUNDED"),
    }.get(order.status, CAPTURED)
    if order.payment not in allowed:
        return f"a {order.status} order has a payment that is {order.payment}"
    known = order.status == "CANCELLED" and order.payment in CAPTURED
    if known and sum(refunded_and_pending(order, order.intent)) < TOTAL:
        return "a known payment of a cancelled order is not refunded"
    refunded: dict[int, int] = {}
    for row in order.refunds:
        effective = sum(status != "failed" for status in row.made)
        if effective > 1:
            return "one refund was made twice"
        refunded[row.intent] = refunded.get(row.intent, 0) + row.amount * effective
    if max(refunded.values(), default=0) > TOTAL:
        return "more was refunded than captured"
    return None


def transitions_between(before: World, after: World) -> set[tuple[str, str]]:
    """The transitions of orders that a step makes."""
    pairs = zip(before.orders, after.orders, strict=True)
    return {(old.status, new.status) for old, new in pairs if old.status != new.status}


def broken_in_step(before: World, after: World) -> str | None:
    """The illegal transition that a step makes."""
    illegal = transitions_between(before, after) - LEGAL_TRANSITIONS
    return next((f"{old} -> {new} is not a legal transition" for old, new in illegal), None)


def broken_in_pause(world: World) -> str | None:
    """What is wrong in a state in which the repairers have nothing to do until something happens.

    An order may be pending past its hold while its payment is in progress, or while Stripe answers only a stored 500.
    """
    for order in world.orders:
        unanswered = (
            order.reply(order.attempt) == "error" and not order.sessions and SESSION_AGES[order.session_age] != "over"
        )
        may_wait = order.payment == "PROCESSING" or unanswered
        if order.status == "PENDING_PAYMENT" and order.hold_ended and not may_wait:
            return "an order is pending past its hold"
        if order.status == "PAID" and order.payment == "SUCCEEDED":
            return "a paid order is not fulfilled"
    return None


def broken_at_end(world: World) -> str | None:
    """What is wrong in a state in which nothing more will happen."""
    for order in world.orders:
        if order.live and order.status != "FULFILLED":
            return f"an order stays {order.status}"
        for number, state in enumerate(order.sessions, 1):
            if state not in ("paid", "paid_later"):
                continue
            bought = order.status == "FULFILLED" and order.intent == number
            refunded, _ = refunded_and_pending(order, number)
            if not bought and refunded < TOTAL:
                return "captured money bought nothing and was not refunded"
    return None
