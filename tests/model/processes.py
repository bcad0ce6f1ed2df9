"""The processes of the service, one step at a time.

A step is one transaction or one call to Stripe. Each function yields what may happen next: a label, the world after
it, and how the process goes on. `create` is the first checkout of an order, `resume` a repeated one, `end` an expiry or
a cancel, `refund` the settlement of refunds.
"""

from collections.abc import Iterator

from tests.model.stripe import create_at_stripe, create_refund_at_stripe, expire_at_stripe, with_lost_replies
from tests.model.transactions import attach, balance, cancel, cancel_unchanged, is_pending, reserve, settle
from tests.model.world import RETRIEVED_AS, SESSION_AGES, Continued, Process, Rules, World, with_order


def step_create(world: World, process: Process, rules: Rules) -> Iterator[Continued]:
    """checkout.ensure_session: payment_session.create, the first call for this attempt."""
    answers = create_at_stripe(world.orders[process.order], process.attempt, rules)
    for order, answer in with_lost_replies(answers, rules):
        after = with_order(world, process.order, order)
        if isinstance(answer, int):
            yield "checkout: Stripe creates the session", after, Process(process.order, "attach", session=answer)
        elif answer in ("near", "refused"):
            yield f"checkout: Stripe refuses the session ({answer})", after, process._replace(step="cancel_refused")
        else:
            yield f"checkout: creation ends in {answer or 'silence'}", after, Process(process.order, "release")


def step_replay(world: World, process: Process, rules: Rules) -> Iterator[Continued]:
    """payment_session.resume: repeat the creation under the same key."""
    task = process.step.removesuffix("_replay")
    before = world.orders[process.order]
    if rules.variant == "new_key_each_time":
        yield (
            f"{task}: Stripe creates a session under a new key",
            with_order(world, process.order, before._replace(sessions=(*before.sessions, "open"))),
            process._replace(step=f"{task}_retrieve", session=len(before.sessions) + 1),
        )
        return
    no_session = "end_cancel" if task == "end" else "resume_renew"
    for order, answer in with_lost_replies(create_at_stripe(before, process.attempt, rules), rules):
        after = with_order(world, process.order, order)
        if isinstance(answer, int):
            step, label = f"{task}_retrieve", "replay answers a session"
            yield f"{task}: {label}", after, process._replace(step=step, session=answer)
        elif answer == "near" or (answer == "refused" and task == "end"):
            yield f"{task}: replay refused ({answer})", after, process._replace(step=no_session)
        elif answer == "refused":
            yield f"{task}: replay refused", after, process._replace(step="cancel_refused")
        elif answer == "error":
            step = no_session if rules.variant == "stored_failure_is_none" else f"{task}_find_listed"
            yield f"{task}: replay answers 500", after, process._replace(step=step)
        else:
            yield f"{task}: replay gets no answer", after, process._replace(step=f"{task}_release")


def step_find_listed(world: World, process: Process, rules: Rules) -> Iterator[Continued]:
    """payment_session._find_listed: the order's newest session in Stripe's list."""
    task = process.step.removesuffix("_find_listed")
    number = len(world.orders[process.order].sessions)
    if number:
        yield f"{task}: the session is listed", world, process._replace(step=f"{task}_retrieve", session=number)
    else:
        yield f"{task}: no session is listed", world, process._replace(step=f"{task}_release")
    if rules.faults and number:
        yield f"{task}: listing gets no answer", world, process._replace(step=f"{task}_release")


def step_retrieve(world: World, process: Process, rules: Rules) -> Iterator[Continued]:
    """payment_session.resume: the session in its present state."""
    task = process.step.removesuffix("_retrieve")
    state = world.orders[process.order].sessions[process.session - 1]
    report = RETRIEVED_AS.get(state, state)
    if report != "open":
        following = Process(process.order, f"{task}_settle", session=process.session, report=report)
    elif task == "end":
        following = process._replace(step="end_expire")
    else:
        following = Process(process.order, "attach", session=process.session)
    yield f"{task}: session retrieved, {report}", world, following
    if rules.faults:
        yield f"{task}: retrieving gets no answer", world, process._replace(step=f"{task}_release", session=0)


def step_renew(world: World, process: Process, rules: Rules) -> Iterator[Continued]:
    """payment_session.next_attempt: payment_session/start_attempt."""
    order = world.orders[process.order]
    if (order.attempt, order.payment, order.stored_session) != (process.attempt, "INITIATED", 0):
        yield "resume: no new attempt, the order has changed", world, None
    elif order.attempt < rules.attempts:
        renewed = order._replace(attempt=order.attempt + 1, session_age=0, claimed=True)
        after = with_order(world, process.order, renewed)
        yield "resume: a new attempt", after, process._replace(step="create", attempt=renewed.attempt)


def step_cancel_refused(world: World, process: Process, rules: Rules) -> Iterator[Continued]:
    """checkout.cancel_refused: Stripe refused the session of this attempt."""
    order = world.orders[process.order]
    same = order.attempt == process.attempt or rules.variant == "attempt_not_compared"
    if is_pending(order, rules) and order.stored_session == 0 and same:
        yield "checkout: refused, order cancelled", cancel(world, process.order, "FAILED", rules), None
    else:
        yield "checkout: refused, the order has changed", world, None


def step_release(world: World, process: Process, rules: Rules) -> Iterator[Continued]:
    """payment_session.release_claim; after it, expiry cancels an order whose deadline at Stripe has passed."""
    order = world.orders[process.order]
    after = with_order(world, process.order, order._replace(claimed=False)) if order.stored_session == 0 else world
    overdue = process.step == "end_release" and process.stripe_deadline_passed
    yield "claim released", after, process._replace(step="end_cancel_overdue") if overdue else None


def step_attach(world: World, process: Process, rules: Rules) -> Iterator[Continued]:
    """checkout.attach_session."""
    after = attach(world, process)
    if after.orders[process.order].status == "CANCELLED":
        yield "checkout: session not attached, the order is cancelled", after, process._replace(step="close")
    else:
        yield "checkout: session attached", after, None


def step_close(world: World, process: Process, rules: Rules) -> Iterator[Continued]:
    """checkout.ensure_session: payment_session.close, whose answer is not used."""
    yield "checkout: session closed", expire_at_stripe(world, process), None


def step_expire(world: World, process: Process, rules: Rules) -> Iterator[Continued]:
    """payment_session.close: expire_session; a session that is not open is retrieved next."""
    after = expire_at_stripe(world, process)
    if after is world:
        yield "end: the session is not open", world, process._replace(step="end_retrieve_closed")
    else:
        yield "end: session expired", after, Process(process.order, "end_settle", 0, process.session, "expired")
    if rules.faults:
        gives_up = process.stripe_deadline_passed or rules.variant == "gives_up_at_once"
        following = process._replace(step="end_cancel_overdue") if gives_up else None
        if after is not world:
            yield "end: session expired, reply lost", after, following
        yield "end: expiring gets no answer", world, following


def step_retrieve_closed(world: World, process: Process, rules: Rules) -> Iterator[Continued]:
    """Stripe.expire_session: the state of a session that is not open."""
    state = world.orders[process.order].sessions[process.session - 1]
    report = RETRIEVED_AS.get(state, state)
    yield "end: session retrieved", world, Process(process.order, "end_settle", 0, process.session, report)
    if rules.faults:
        following = process._replace(step="end_cancel_overdue") if process.stripe_deadline_passed else None
        yield "end: retrieving gets no answer", world, following


def step_settle(world: World, process: Process, rules: Rules) -> Iterator[Continued]:
    """settlement.apply_session with the session that expiry or a repeated checkout has retrieved."""
    after = settle(world, process.order, process.session, process.report, rules)
    following = process._replace(step="attach", report="") if process.step == "resume_settle" else None
    yield f"settled as {process.report}", after, following


def step_cancel(world: World, process: Process, rules: Rules) -> Iterator[Continued]:
    """expiry._cancel_unchanged."""
    overdue = process.step == "end_cancel_overdue"
    label = "Stripe did not answer until the deadline" if overdue else "there is no session"
    yield f"end: {label}", cancel_unchanged(world, process, rules), None


def step_list_refunds(world: World, process: Process, rules: Rules) -> Iterator[Continued]:
    """refunds.settle: Stripe's list, and below it the answers that this process got before."""
    rows = world.orders[process.order].refunds
    before = process.listed + ("",) * (len(rows) - len(process.listed))
    listed = tuple(row.made[-1] if row.made else answer for row, answer in zip(rows, before, strict=True))
    if rules.variant == "refund_without_list" and not process.listed:
        listed = before
    yield "refunds: listed", world, next_refund(world, process._replace(listed=listed))


def next_refund(world: World, process: Process) -> Process:
    """Create the next refund that Stripe does not list; after the last one, record them all."""
    for position, row in enumerate(world.orders[process.order].refunds[: len(process.listed)]):
        if row.status == "REQUESTED" and not process.listed[position]:
            return process._replace(step="refund_create", attempt=position)
    return process._replace(step="refund_record", attempt=0)


def step_create_refund(world: World, process: Process, rules: Rules) -> Iterator[Continued]:
    """refunds.settle: create_refund under the row's id."""
    position = process.attempt
    answers = create_refund_at_stripe(world.orders[process.order], position, rules)
    for order, answer in with_lost_replies(answers, rules):
        after = with_order(world, process.order, order)
        if answer in ("error", None):
            yield f"refunds: creation ends in {answer or 'silence'}", after, None
            continue
        listed = (*process.listed[:position], str(answer), *process.listed[position + 1 :])
        following = next_refund(after, process._replace(listed=listed))
        if following.step == "refund_record" and "refused" in listed:
            following = following._replace(step="refund_list")
        yield f"refunds: creation answers {answer}", after, following


def step_record_refunds(world: World, process: Process, rules: Rules) -> Iterator[Continued]:
    """refunds.settle: fail_refund or record_refund for each, then the balance."""
    order = world.orders[process.order]
    rows = list(order.refunds)
    for position, answer in enumerate(process.listed):
        row = rows[position]
        if answer == "refused" and row.status == "REQUESTED":
            rows[position] = row._replace(status="REFUSED")
        elif answer not in ("", "refused") and (
            row.status in ("REQUESTED", "PENDING", "REFUSED") or answer == "failed"
        ):
            rows[position] = row._replace(status=answer.upper())
    after = with_order(world, process.order, order._replace(refunds=tuple(rows)))
    yield "refunds: recorded", balance(after, process.order, rules), None


STEPS = {
    "create": step_create,
    "attach": step_attach,
    "close": step_close,
    "cancel_refused": step_cancel_refused,
    "release": step_release,
    "resume_replay": step_replay,
    "resume_find_listed": step_find_listed,
    "resume_retrieve": step_retrieve,
    "resume_renew": step_renew,
    "resume_settle": step_settle,
    "resume_release": step_release,
    "end_replay": step_replay,
    "end_find_listed": step_find_listed,
    "end_retrieve": step_retrieve,
    "end_expire": step_expire,
    "end_retrieve_closed": step_retrieve_closed,
    "end_settle": step_settle,
    "end_cancel": step_cancel,
    "end_cancel_overdue": step_cancel,
    "end_release": step_release,
    "refund_list": step_list_refunds,
    "refund_create": step_create_refund,
    "refund_record": step_record_refunds,
}


def begin_ending(world: World, index: int, rules: Rules) -> tuple[World, Process] | None:
    """expiry.expire and expiry.cancel: read the order; without a stored session, take the claim."""
    order = world.orders[index]
    if (order.status, order.payment) != ("PENDING_PAYMENT", "INITIATED"):
        return None
    overdue = SESSION_AGES[order.session_age] == "over"
    process = Process(index, "end_expire", order.attempt, order.stored_session, stripe_deadline_passed=overdue)
    if rules.variant == "cancel_without_asking":
        return world, process._replace(step="end_cancel")
    if order.stored_session:
        return world, process
    if order.claimed:
        return None
    return with_order(world, index, order._replace(claimed=True)), process._replace(step="end_replay")


def begin(world: World, index: int, rules: Rules) -> Iterator[tuple[str, World, Process]]:
    """The processes that may begin with an order, each after its first transaction."""
    order = world.orders[index]
    if order.status == "NONE":
        # Orders are placed in the order of their indexes: the two are otherwise the same.
        is_next = all(before.status != "NONE" for before in world.orders[:index])
        reserved = reserve(world, index, rules) if is_next else None
        if reserved:
            yield "checkout: unit reserved", reserved, Process(index, "create", 1)
        return
    unclaimed = not order.stored_session and not order.claimed
    if order.status == "PENDING_PAYMENT" and order.payment == "INITIATED" and unclaimed:
        # checkout.resume_checkout; payment_session/claim_session has the same guards as the read before it.
        claimed = with_order(world, index, order._replace(claimed=True))
        yield "resume: claim taken", claimed, Process(index, "resume_replay", order.attempt)
    ending = begin_ending(world, index, rules)
    if ending:
        yield "end: begun", *ending
    if order.refunds:
        yield "refunds: begun", world, Process(index, "refund_list")
