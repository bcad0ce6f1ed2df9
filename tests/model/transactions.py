"""The transactions of the service: each is one function of service/shop with the guards of its statements."""

from tests.model.world import CAPTURED, TOTAL, Order, Process, Refund, Rules, World, refunded_and_pending, with_order


def cart_has_live_order(world: World, index: int, rules: Rules) -> bool:
    """settlement/cart_has_live_order: whether the cart has another live order."""
    if rules.same_cart:
        return any(order.live for other, order in enumerate(world.orders) if other != index)
    return world.rival == "same cart"


def reserve(world: World, index: int, rules: Rules) -> World | None:
    """checkout.reserve: close the cart, take the unit, insert the order with its first attempt, claimed."""
    if world.stock < 1 or cart_has_live_order(world, index, rules):
        return None
    return with_order(world, index, Order("PENDING_PAYMENT", "INITIATED", 1, claimed=True), -1)


def is_pending(order: Order, rules: Rules) -> bool:
    """The status guard of a transition out of PENDING_PAYMENT."""
    return order.status == "PENDING_PAYMENT" or rules.variant in ("no_status_guard", "stock_returned_twice")


def cancel(world: World, index: int, payment: str, rules: Rules) -> World:
    """transitions.cancel: MARK_CANCELLED guarded by the locked status, then RETURN_STOCK once for the hold."""
    order = world.orders[index]
    if order.payment in ("INITIATED", "PROCESSING"):
        order = order._replace(payment=payment, claimed=False)
    units = 1 if order.units_taken or rules.variant == "stock_returned_twice" else 0
    order = order._replace(status="CANCELLED", units_taken=order.units_taken - units, hold_ended=False)
    return with_order(world, index, order, units)


def cancel_unchanged(world: World, process: Process, rules: Rules) -> World:
    """expiry._cancel_unchanged: Stripe has no session, or did not answer until its deadline had passed."""
    order = world.orders[process.order]
    if order.attempt != process.attempt and rules.variant != "attempt_not_compared":
        return world
    if not is_pending(order, rules) or (is_pending(order, Rules()) and order.payment != "INITIATED"):
        return world
    return cancel(world, process.order, "EXPIRED", rules)


def attach(world: World, process: Process) -> World:
    """payment_session.attach: payment_session/attach_session."""
    order = world.orders[process.order]
    if order.status == "PENDING_PAYMENT" and order.payment == "INITIATED":
        return with_order(world, process.order, order._replace(stored_session=process.session, claimed=False))
    return world


def settle(world: World, index: int, session: int, report: str, rules: Rules) -> World:
    """settlement.apply_session: apply what a webhook, a list of Stripe's or a retrieved session reports."""
    order = world.orders[index]
    if rules.variant == "found_by_stored_session" and order.stored_session != session:
        return world
    if report == "paid":
        return settle_paid(world, index, session, rules)
    if not is_pending(order, rules) or order.stored_session not in (0, session):
        return world
    if report in ("failed", "expired"):
        return cancel(world, index, "FAILED" if report == "failed" else "EXPIRED", rules)
    if report == "processing" and order.payment == "INITIATED":
        # settlement/mark_processing
        return with_order(world, index, order._replace(payment="PROCESSING", stored_session=session, claimed=False))
    return world


def settle_paid(world: World, index: int, session: int, rules: Rules) -> World:
    """settlement._apply_paid_session and apply_late_payment."""
    order = world.orders[index]
    if order.payment in CAPTURED:
        # The same payment changes nothing; a second payment is refunded.
        return world if order.intent == session else with_order(world, index, add_late_payment(order, session))
    paid = order._replace(
        status="PAID", payment="SUCCEEDED", stored_session=session, intent=session, claimed=False, hold_ended=False
    )
    if order.status == "PENDING_PAYMENT":
        return with_order(world, index, paid)
    if rules.variant == "late_money_ignored":
        return world
    if world.stock >= 1 and not cart_has_live_order(world, index, rules):
        # settlement/retake_stock
        return with_order(world, index, paid._replace(units_taken=order.units_taken + 1), -1)
    # settlement/record_late_payment
    recorded = order._replace(payment="REFUND_PENDING", stored_session=session, intent=session)
    return with_order(world, index, add_late_payment(recorded, session))


def add_late_payment(order: Order, intent: int) -> Order:
    """refunds.add_late_payment: the index refunds_late_money_once allows one such refund for each payment."""
    if has_late_payment_refund(order, intent):
        return order
    return order._replace(refunds=(*order.refunds, Refund(intent, TOTAL, "late_money")))


def has_late_payment_refund(order: Order, intent: int) -> bool:
    return any(row.intent == intent and row.cause == "late_money" and row.counts for row in order.refunds)


def fulfil(world: World, index: int) -> World:
    """fulfilment._fulfil."""
    order = world.orders[index]
    if order.status == "PAID" and order.payment == "SUCCEEDED":
        return with_order(world, index, order._replace(status="FULFILLED"))
    return world


def balance(world: World, index: int, rules: Rules) -> World:
    """refunds._decide_owed and refunds._balance: request what must be refunded, and set the payment's status."""
    order = world.orders[index]
    if order.payment not in CAPTURED:
        return world
    due = {row.intent: row.amount for row in reversed(order.refunds) if row.cause == "late_money"}
    if order.status == "CANCELLED":
        due[order.intent] = TOTAL
    for intent, amount in due.items():
        missing = amount - sum(refunded_and_pending(order, intent))
        if missing > 0:
            cause = "staff" if has_late_payment_refund(order, intent) else "late_money"
            order = order._replace(refunds=(*order.refunds, Refund(intent, missing, cause)))

    refunded, in_progress = refunded_and_pending(order, order.intent)
    if refunded == TOTAL:
        status = "REFUNDED"
    elif refunded + in_progress >= TOTAL or order.status == "CANCELLED":
        status = "REFUND_PENDING"
    else:
        status = "SUCCEEDED"
    changed, order = status != order.payment, order._replace(payment=status)
    world = with_order(world, index, order)
    if status != "REFUNDED" or not changed:
        return world
    if order.status == "PAID":
        return cancel(world, index, status, rules)
    if order.status == "FULFILLED" and any(r.cause == "restock" and r.status == "SUCCEEDED" for r in order.refunds):
        return with_order(world, index, order._replace(units_taken=0), order.units_taken)
    return world
