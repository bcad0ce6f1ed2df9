"""Calls to Stripe: what Stripe does, and the answer that its caller gets, `None` where no answer arrives."""

from collections.abc import Iterator

from tests.model.world import Order, Process, Rules, World, with_order, with_refund

Answers = Iterator[tuple[Order, object]]


def create_at_stripe(order: Order, attempt: int, rules: Rules) -> Answers:
    """POST /checkout/sessions under the attempt's key: a session's number, "near", "refused", "error" or no answer."""
    replayed = order.reply(attempt)
    if replayed:
        yield order, replayed
    elif attempt < order.attempt or order.session_age:
        # Stripe refuses `expires_at` as too near, and stores nothing under the key.
        yield order, "near"
    else:
        number = len(order.sessions) + 1
        earlier = (*order.replies, *("" for _ in range(attempt - len(order.replies) - 1)))
        sessions = (*order.sessions, "open")
        yield order._replace(sessions=sessions, replies=(*earlier, number), creation_in_flight=False), number
        if rules.faults and rules.errors:
            yield order._replace(sessions=sessions, replies=(*earlier, "error"), creation_in_flight=False), "error"
            yield order._replace(replies=(*earlier, "error"), creation_in_flight=False), "error"
            yield order._replace(replies=(*earlier, "refused"), creation_in_flight=False), "refused"
            yield order, "error"
            yield order._replace(creation_in_flight=True), None
    if rules.faults:
        yield order, None


def expire_at_stripe(world: World, process: Process) -> World:
    """POST /checkout/sessions/{id}/expire: closes an open session and leaves any other as it is."""
    order = world.orders[process.order]
    states = order.sessions
    if states[process.session - 1] != "open":
        return world
    states = (*states[: process.session - 1], "expired", *states[process.session :])
    return with_order(world, process.order, order._replace(sessions=states))


def create_refund_at_stripe(order: Order, position: int, rules: Rules) -> Answers:
    """POST /refunds under the row's id: "pending", "succeeded", "refused", "error" or no answer.

    Stripe never refuses here for lack of money: our protection against a second refund must not depend on that.
    """
    row = order.refunds[position]
    if row.reply and rules.variant != "refund_with_new_key":
        yield order, row.reply
    else:

        def answered(reply: str, *made: str) -> Order:
            return with_refund(order, position, row._replace(reply=reply, made=row.made + made))

        yield answered("succeeded", "succeeded"), "succeeded"
        if rules.faults:
            yield answered("pending", "pending"), "pending"
            if rules.errors:
                yield answered("error", "succeeded"), "error"
                yield answered("error"), "error"
                if len(order.refunds) < rules.refunds:
                    yield answered("refused"), "refused"
    if rules.faults:
        yield order, None


def with_lost_replies(answers: Answers, rules: Rules) -> Answers:
    """Each answer, and the same call with its answer lost on the way back."""
    for order, answer in answers:
        yield order, answer
        if rules.faults and answer is not None:
            yield order, None
