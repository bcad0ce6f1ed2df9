"""All that can happen next: to orders, at Stripe, by the clock, by rivals and in the processes of the service."""

from collections.abc import Iterator

from tests.model.processes import STEPS, begin
from tests.model.stripe import create_at_stripe
from tests.model.transactions import balance, fulfil, settle
from tests.model.world import (
    REPORTS,
    SESSION_AGES,
    TOTAL,
    Order,
    Refund,
    Rules,
    Step,
    World,
    refunded_and_pending,
    with_order,
    with_process,
    with_refund,
)


def steps(world: World, rules: Rules) -> Iterator[Step]:
    """Every step that is possible in this state."""
    if rules.rivals:
        yield from rival_steps(world)
    for index in range(len(world.orders)):
        yield from events(world, index, rules)
        if len(world.processes) < rules.processes:
            for label, after, process in begin(world, index, rules):
                yield index, label, with_process(after, process)
    for position, process in enumerate(world.processes):
        without = world._replace(processes=(*world.processes[:position], *world.processes[position + 1 :]))
        yield process.order, f"process killed before: {process.step}", without
        for label, after, continued in STEPS[process.step](without, process, rules):
            yield process.order, label, with_process(after, continued)


def rival_steps(world: World) -> Iterator[Step]:
    """Other orders: each takes the unit or gives it back."""
    if world.rival:
        yield 0, "rival: gives the unit back", world._replace(stock=world.stock + 1, rival="")
    elif world.stock:
        yield 0, "rival: takes the unit", world._replace(stock=world.stock - 1, rival="elsewhere")
        if not world.orders[0].live:
            after = world._replace(stock=world.stock - 1, rival="same cart")
            yield 0, "rival: takes the unit, from the same cart", after


def events(world: World, index: int, rules: Rules) -> Iterator[Step]:
    """What happens to an order outside of processes: at Stripe, by the clock, and in single transactions."""
    order = world.orders[index]
    yield from session_events(world, index, rules)
    yield from refund_events(world, index, rules)
    if order.creation_in_flight:
        arrived, _ = next(create_at_stripe(order, order.attempt, rules))
        yield index, "Stripe: a creation arrives after its caller gave up", with_order(world, index, arrived)
    if order.claimed:
        yield index, "claim: lapses", with_order(world, index, order._replace(claimed=False))
    yield from clock_events(world, index)
    # fulfilment.fulfil
    yield index, "fulfilled", fulfil(world, index)
    if rules.staff:
        yield from staff_refunds(world, index, rules)


def session_events(world: World, index: int, rules: Rules) -> Iterator[Step]:
    """What customers and Stripe do with the sessions of an order, and Stripe's reports of it."""
    order = world.orders[index]
    for number, state in enumerate(order.sessions, 1):
        before, behind = order.sessions[: number - 1], order.sessions[number:]

        def with_session(state: str, before: tuple = before, behind: tuple = behind) -> World:
            return with_order(world, index, order._replace(sessions=(*before, state, *behind)))

        if state == "open":
            yield index, "customer: pays", with_session("paid")
            yield index, "customer: pays by bank", with_session("processing")
            if SESSION_AGES[order.session_age] in ("ended", "over"):
                yield index, "Stripe: session expires", with_session("expired")
        elif state == "processing":
            yield index, "Stripe: the bank payment succeeds", with_session("paid_later")
            yield index, "Stripe: the bank payment fails", with_session("failed")
        for report in REPORTS[state]:
            # webhooks.receive_webhook, reconcile._settle, expiry._recheck
            yield index, f"Stripe reports: {report}", settle(world, index, number, report, rules)


def clock_events(world: World, index: int) -> Iterator[Step]:
    """The end of an order's hold, and the ageing of its session."""
    order = world.orders[index]
    if order.status == "PENDING_PAYMENT":
        if not order.hold_ended:
            yield index, "clock: hold ended", with_order(world, index, order._replace(hold_ended=True))
        next_age = SESSION_AGES[order.session_age + 1] if order.session_age < 3 else ""
        may_end = order.hold_ended and (next_age == "ended" or "open" not in order.sessions)
        if next_age and (next_age == "near" or may_end):
            # Stripe would refuse a creation that is still in flight by now.
            older = order._replace(session_age=order.session_age + 1, creation_in_flight=False)
            yield index, f"clock: session {next_age}", with_order(world, index, older)
    elif "open" in order.sessions and SESSION_AGES[order.session_age] in ("fresh", "near"):
        yield index, "clock: session ended", with_order(world, index, order._replace(session_age=2))


def refund_events(world: World, index: int, rules: Rules) -> Iterator[Step]:
    """What happens to refunds at Stripe: the bank may send back even one that has succeeded."""
    order = world.orders[index]
    for position, row in enumerate(order.refunds):
        state = row.made[-1] if row.made else ""
        outcomes = {"pending": ("succeeded", "failed"), "succeeded": ("failed",)}.get(state, ())
        for outcome in outcomes:
            if outcome == "succeeded" or len(order.refunds) < rules.refunds:
                after = with_refund(order, position, row._replace(made=(*row.made[:-1], outcome)))
                yield index, f"Stripe: {state} refund has {outcome}", with_order(world, index, after)
        if row.reply and not world.processes:
            forgotten = with_refund(order, position, row._replace(reply=""))
            yield index, "Stripe: forgets a refund's key after a day", with_order(world, index, forgotten)


def staff_refunds(world: World, index: int, rules: Rules) -> Iterator[Step]:
    """refunds.request by staff: of one coin, of the rest, and of the rest with restock."""
    order = world.orders[index]
    if order.payment != "SUCCEEDED" or len(order.refunds) >= rules.refunds - 1:
        return
    rest = TOTAL - sum(refunded_and_pending(order, order.intent))
    for amount, cause in dict.fromkeys(((1, "staff"), (rest, "staff"), (rest, "restock"))):
        if 0 < amount <= rest:
            requested = order._replace(refunds=(*order.refunds, Refund(order.intent, amount, cause)))
            after = balance(with_order(world, index, requested), index, rules)
            yield index, f"staff: refund of {amount} requested ({cause})", after


def first_world(rules: Rules) -> World:
    """One unit and orders that are not placed yet; or one order whose payment Stripe has not reported yet."""
    if rules.paid:
        paid = Order(
            "PENDING_PAYMENT", "INITIATED", 1, stored_session=1, hold_ended=True, sessions=("paid",), replies=(1,)
        )
        return World(0, "", (paid,))
    return World(1, "", (Order(),) * rules.orders)
