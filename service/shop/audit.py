"""The invariants of the shop: each is a query under `sql/audit/` that returns a row for every violation.

A rule checks the orders, carts or products that its parameter names. `check_changes` checks those that have changed
since its last run, by positions in the tables that grow with each change; `check_all` checks everything, and asks
Stripe for the session of every order.
"""

import asyncio
import logging
import math
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta
from functools import partial
from typing import Any, NamedTuple
from uuid import UUID

from service.infra.db import Connection, Pool, connection
from service.infra.metrics import AUDIT, AUDIT_FAILURES, AUDIT_PASSES
from service.infra.sql import statement
from service.infra.statements import Many, files
from service.infra.stripe import Session, Stripe, StripeRefused, StripeUnknown, pause_between_pages
from service.infra.transactions import run_transaction

# Ids that one statement checks. With a hundred lines an order it still takes less than 0.1 s.
BATCH = 200
# Ids of events or movements that one statement looks through, for the ids to check.
WINDOW = 1000
# Movements that one statement adds up.
LEDGER_BATCH = 5000
# Ids that a run remembers as checked.
MOST_REMEMBERED = 100_000
# The time between two runs.
SECONDS = 300.0
# A rule that takes longer goes on at the next run; it fails after twice this time. The others have their own time.
RULE_SECONDS = 60.0
# How long a run waits for the end of the transactions that were open when it began.
WAIT_SECONDS = 15.0
# Transactions give refunds the time of their begin. They do so long before they are this old.
REFUND_MARGIN = timedelta(seconds=60)
# Orders that one statement lists for the comparison with Stripe.
SESSIONS = 100
# The pause after a batch, as a multiple of the time that the batch took.
PAUSE = 3.0
# A full audit asks a silent Stripe again after a second. The time doubles up to this; then the rule fails.
LONGEST_SILENCE = 64.0
EPOCH = datetime(1970, 1, 1, tzinfo=UTC)

logger = logging.getLogger(__name__)


@dataclass(slots=True)
class Violation:
    """A row that breaks a rule: what it is about, and what is wrong with it."""

    subject: str
    detail: str


@dataclass(slots=True)
class Ends:
    """The newest numbers drawn for events and stock movements, and the time of this query."""

    event_id: int
    movement_id: int
    at: datetime


@dataclass(slots=True)
class Transactions:
    """The number of the oldest transaction that writes, and the one that the next transaction will get."""

    oldest: int
    next: int


@dataclass(slots=True)
class ChangedRefund:
    """The order of a refund, and the time of the refund's last change."""

    order_id: UUID
    changed_at: datetime


@dataclass(slots=True)
class NumberedOrder:
    """An order and its number."""

    number: int
    id: UUID


@dataclass(slots=True)
class OrderSession:
    """An order with its number, and its payment session; None for an order without one, or whose payment may come."""

    number: int
    order_id: UUID
    stripe_session_id: str | None


@dataclass(slots=True)
class LedgerSum:
    """The sum of some movements of a product, the id of the last one, and how many they are."""

    product_id: int
    units: int
    last_id: int
    movements: int


@dataclass(slots=True)
class Result:
    """When the changes of a rule were checked last, when everything was, and how many violations of it are known."""

    rule: str
    changes_at: datetime | None
    full_at: datetime | None
    violations: int


RULES = [Many(name, Violation) for name in files("audit")]
for name in files("audit"):
    # An alert waits for a rise, which Prometheus sees only from 0.
    AUDIT_FAILURES.labels(name)

# Each rule's sources of what has changed, cheapest rule first. A rule without sources reads what is due, by an index.
SOURCES: dict[str, tuple[str, ...]] = {
    "audit/nothing_is_overdue": (),
    "audit/unmatched_payments_are_refunded": (),
    "audit/carts_match_orders": ("order_events",),
    "audit/cart_lines_have_products": ("order_events",),
    "audit/history_is_legal": ("order_events",),
    "audit/order_lines_add_up": ("order_events",),
    "audit/payment_fits_order": ("order_events", "refunds"),
    "audit/refund_lines_add_up": ("order_events", "refunds", "stock_movements"),
    "audit/units_add_up": ("order_events", "refunds", "stock_movements"),
    "audit/stock_matches_ledger": ("stock_movements",),
}
# Reconcile runs this rule on the pages of Stripe's list, and a full audit on the session of each order.
STRIPE_RULE = "audit/captured_is_paid_at_stripe"
STOCK_RULE = "audit/stock_matches_ledger"

READ_ENDS = statement("audit_state/read_ends", Ends)
READ_TRANSACTIONS = statement("audit_state/read_transactions", Transactions)
READ_POSITION = statement("audit_state/read_position", int)
MOVE_POSITION = statement("audit_state/move_position")
LIST_ORDERS_BY_EVENTS = statement("audit_state/list_orders_by_events", UUID)
LIST_CARTS_BY_EVENTS = statement("audit_state/list_carts_by_events", UUID)
LIST_ORDERS_BY_MOVEMENTS = statement("audit_state/list_orders_by_movements", UUID)
LIST_PRODUCTS_BY_MOVEMENTS = statement("audit_state/list_products_by_movements", int)
LIST_ORDERS_BY_REFUNDS = statement("audit_state/list_orders_by_refunds", ChangedRefund)
FOLD_BALANCES = statement("audit_state/fold_balances", int)
LIST_VIOLATIONS = statement("audit_state/list_violations", Violation)
LOCK_RULE = statement("audit_state/lock_rule")
STORE_VIOLATIONS = statement("audit_state/store_violations")
RECORD_PASS = statement("audit_state/record_pass")
LIST_RESULTS = statement("audit_state/list_results", Result)
LIST_ORDERS = statement("audit_state/list_orders", NumberedOrder)
LIST_SESSIONS = statement("audit_state/list_sessions", OrderSession)
LIST_CARTS = statement("audit_state/list_carts", UUID)
LIST_PRODUCTS = statement("audit_state/list_products", int)
SUM_LEDGER = statement("audit_state/sum_ledger", LedgerSum)
SET_BALANCES = statement("audit_state/set_balances")

# What a rule checks, as its parameter is named -> the first word of its violations' subjects.
WORDS = {"order_ids": "order", "cart_ids": "cart", "product_ids": "product"}


class Changes(NamedTuple):
    """Where the sources end in this run; `final` when nothing before these ends can still be committed.

    `deadline`, of the monotonic clock, is when a rule stops behind the window that it has reached.
    """

    ends: Ends
    final: bool
    deadline: float = math.inf


class Unfinished(Exception):
    """A rule whose time was up before it had checked all changes. Its positions say where the next run goes on."""


@dataclass(slots=True)
class Report:
    """The known violations by rule, and the rules that were not checked to the end, with the reason."""

    violations: dict[str, list[Violation]] = field(default_factory=dict)
    failures: dict[str, str] = field(default_factory=dict)


async def audit(pool: Pool) -> dict[str, list[Violation]]:
    """The violations by rule, of everything there is, read batch by batch. Nothing is stored.

    Raises FileNotFoundError without rules, since an audit that checks nothing must not pass.
    """
    violations: dict[str, list[Violation]] = {}
    for rule in _rules():
        violations[rule.name] = rows = []
        async for ids in _everything(pool, _scope(rule)):
            rows += await _find(pool, rule, ids)
    return violations


async def check_changes(pool: Pool) -> Report:
    """Check what has changed since the last run, and store what is wrong with it.

    Each rule has positions and a time limit of its own: one that fails is logged and counted, and the others go on.
    """
    changes = await _read_changes(pool)

    async def check(rule: Many[Violation]) -> None:
        async with asyncio.timeout(2 * RULE_SECONDS):
            await _check_rule(pool, rule, changes._replace(deadline=time.monotonic() + RULE_SECONDS))

    return await _check_each(pool, _rules(), check)


async def check_all(pool: Pool, stripe: Stripe) -> Report:
    """Check everything, and store what is wrong with it. Takes hours in large tables, at most a quarter of one core.

    Meanwhile `check_changes` runs as often as in the worker. Stripe is asked last, for up to 18,000 orders an hour.
    """
    clock = _Clock()

    async def check(rule: Many[Violation]) -> None:
        is_stripes = rule.name == STRIPE_RULE
        await (_check_payments(pool, stripe, clock) if is_stripes else _check_whole(pool, rule, clock))

    return await _check_each(pool, [*_rules(), _stripe_rule()], check)


async def _check_each(
    pool: Pool, rules: list[Many[Violation]], check: Callable[[Many[Violation]], Awaitable[None]]
) -> Report:
    """Run `check` for each rule, and report what is known afterwards."""
    report = Report()
    for rule in rules:
        try:
            await check(rule)
        except Unfinished:
            # So it is after a restore, or at the first run in large tables, until the rule has caught up.
            logger.info("audit rule goes on at the next run", extra={"rule": rule.name})
            report.failures[rule.name] = "not finished, goes on at the next run"
        except Exception as error:
            AUDIT_FAILURES.labels(rule.name).inc()
            logger.exception("audit rule failed", extra={"rule": rule.name})
            report.failures[rule.name] = f"{type(error).__name__} {error}".strip()
    for name in dict.fromkeys((*(rule.name for rule in rules), STRIPE_RULE)):
        report.violations[name] = await _list_known(pool, name)
    return report


async def export_results(pool: Pool) -> None:
    """Export the stored results as gauges, so that every worker shows those of the one that found them."""
    async with connection(pool) as reader:
        results = await LIST_RESULTS.all(reader, rules=[rule.name for rule in RULES])
    for result in results:
        AUDIT.labels(result.rule).set(result.violations)
        for kind, at in (("changes", result.changes_at), ("full", result.full_at)):
            if at is not None:
                AUDIT_PASSES.labels(result.rule, kind).set(at.timestamp())


def _rules() -> list[Many[Violation]]:
    by_name = {rule.name: rule for rule in RULES}
    rules = [by_name[name] for name in SOURCES if name in by_name]
    if not rules:
        raise FileNotFoundError("There is no audit rule.")
    return rules


def _stripe_rule() -> Many[Violation]:
    return next(rule for rule in RULES if rule.name == STRIPE_RULE)


def _scope(rule: Many[Violation]) -> str:
    """What a rule checks, as its parameter is named; empty for a rule that is run as a whole."""
    return rule.parameters[0] if rule.parameters else ""


async def _find(pool: Pool, rule: Many[Violation], ids: Sequence[Any] | None) -> list[Violation]:
    """The violations of a rule by these ids, or by all there is for a rule without a parameter."""
    async with connection(pool) as reader:
        return await rule.all(reader, **({} if ids is None else {_scope(rule): ids}))


async def _check_ids(pool: Pool, rule: Many[Violation], ids: Sequence[Any] | None, known: set[str]) -> None:
    """Check these ids, and store what is found; `known` has the subjects of stored violations."""
    started = time.monotonic()
    violations = await _find(pool, rule, ids)
    checked = None if ids is None else [f"{WORDS[_scope(rule)]} {each}" for each in ids]
    if violations or known & set(checked or known):
        await store(pool, rule.name, checked, violations)
    await _leave_time(started)


async def _leave_time(started: float) -> None:
    """Pause in proportion to the time since `started`, so that the shop keeps its pace beside the audit.

    What took longer because the shop is busy makes the pause longer.
    """
    await asyncio.sleep(PAUSE * (time.monotonic() - started))


async def _list_known(pool: Pool, rule: str) -> list[Violation]:
    """The known violations of a rule, by subject and detail."""
    known = [Violation("", "")]
    while True:
        async with connection(pool) as reader:
            page = await LIST_VIOLATIONS.all(
                reader, rule=rule, after_subject=known[-1].subject, after_detail=known[-1].detail
            )
        known += page
        if not page:
            return known[1:]


async def store(pool: Pool, rule: str, checked: list[str] | None, violations: Sequence[Violation]) -> None:
    """Store what is wrong with the subjects that were checked, all if None; what is no longer wrong is forgotten."""
    subjects = [violation.subject for violation in violations]
    details = [violation.detail for violation in violations]

    async def write(tx: Connection) -> None:
        await LOCK_RULE.run(tx, rule=rule)
        await STORE_VIOLATIONS.run(tx, rule=rule, checked=checked, subjects=subjects, details=details)

    await run_transaction(pool, write, idempotent=True)


# What has changed


async def _read_changes(pool: Pool) -> Changes:
    """The ends of the sources, once every transaction that may still commit a row before them has ended.

    Numbers are drawn before their rows are committed, so an older number may appear after a newer one. Each of our
    transactions has locked or written a row before it draws a number, so it is among the running ones.
    """
    async with connection(pool) as reader:
        ends = await READ_ENDS.one(reader)
        # A statement of its own: its snapshot is taken after the numbers were read.
        started = await READ_TRANSACTIONS.one(reader)
    deadline, pause = time.monotonic() + WAIT_SECONDS, 0.01
    while started.oldest < started.next:
        async with connection(pool) as reader:
            now = await READ_TRANSACTIONS.one(reader)
        if now.oldest >= started.next:
            break
        if time.monotonic() > deadline:
            logger.warning("audit positions wait for an old transaction", extra={"seconds": WAIT_SECONDS})
            return Changes(ends, False)
        await asyncio.sleep(pause)
        pause = min(2 * pause, 0.5)
    return Changes(ends, True)


async def _check_rule(pool: Pool, rule: Many[Violation], changes: Changes) -> None:
    """Check the subjects that violated a rule before, then those that have changed."""
    known = {violation.subject for violation in await _list_known(pool, rule.name)}
    scope = _scope(rule)
    if not scope:
        await _check_ids(pool, rule, None, known)
    else:
        for batch in _batches(sorted(_id(scope, subject) for subject in known)):
            await _check_ids(pool, rule, batch, known)
        if rule.name == STOCK_RULE and changes.final:
            await _fold_balances(pool, changes)
        # An order has rows in several sources and windows. All of them can be read by now, so one check suffices.
        checked: set[Any] = set()
        for source in SOURCES[rule.name]:
            read = _read_refunds if source == "refunds" else partial(_read_window, source)
            await _check_source(pool, rule, source, changes, read, known, checked)
    if changes.final:
        await record_pass(pool, rule.name, changes.ends.at, full=False)


async def _check_source(
    pool: Pool,
    rule: Many[Violation],
    source: str,
    changes: Changes,
    read: Callable[[Pool, str, int, Ends], Awaitable[tuple[list[Any], int]]],
    known: set[str],
    checked: set[Any],
) -> None:
    """Check what has changed in one source since its position, and move the position if that is safe."""
    async with connection(pool) as reader:
        first = position = await READ_POSITION.one(reader, rule=rule.name, source=source)
    while True:
        ids, reached = await read(pool, _scope(rule), position, changes.ends)
        # Never before the first window, so that each run gets further.
        if reached > position > first and time.monotonic() > changes.deadline:
            raise Unfinished
        for batch in _batches([each for each in ids if each not in checked]):
            await _check_ids(pool, rule, batch, known)
        if len(checked) < MOST_REMEMBERED:
            checked.update(ids)
        if reached <= position:
            return
        if changes.final:
            await _move_position(pool, rule.name, source, from_position=position, to_position=reached)
        position = reached


async def _move_position(pool: Pool, rule: str, source: str, *, from_position: int, to_position: int) -> None:
    async with connection(pool) as writer:
        moved = await MOVE_POSITION.run(
            writer, rule=rule, source=source, from_position=from_position, to_position=to_position
        )
    assert moved, "another process audits at the same time"


async def _read_window(source: str, pool: Pool, scope: str, position: int, ends: Ends) -> tuple[list[Any], int]:
    """The ids to check in the next window of a source, and the end of the window."""
    reached = min(position + WINDOW, ends.event_id if source == "order_events" else ends.movement_id)
    if reached <= position:
        return [], position
    listing: Any = {
        ("order_events", "order_ids"): LIST_ORDERS_BY_EVENTS,
        ("order_events", "cart_ids"): LIST_CARTS_BY_EVENTS,
        ("stock_movements", "order_ids"): LIST_ORDERS_BY_MOVEMENTS,
        ("stock_movements", "product_ids"): LIST_PRODUCTS_BY_MOVEMENTS,
    }[source, scope]
    async with connection(pool) as reader:
        return await listing.all(reader, after_id=position, to_id=reached), reached


async def _read_refunds(pool: Pool, scope: str, position: int, ends: Ends) -> tuple[list[Any], int]:
    """The orders of the refunds that changed next, and the position behind them, in microseconds since 1970."""
    async with connection(pool) as reader:
        rows = await LIST_ORDERS_BY_REFUNDS.all(reader, after=EPOCH + timedelta(microseconds=position))
    # Changes of the last minute are read again at the next run.
    newest = (ends.at - REFUND_MARGIN - EPOCH) // timedelta(microseconds=1)
    last = (rows[-1].changed_at - EPOCH) // timedelta(microseconds=1) if len(rows) >= WINDOW else newest
    return list({row.order_id for row in rows}), max(position, min(last, newest))


async def _fold_balances(pool: Pool, changes: Changes) -> None:
    """Add the movements up to the end to the balances of their products."""
    to_id = changes.ends.movement_id
    async with connection(pool) as reader:
        position = await READ_POSITION.one(reader, rule=STOCK_RULE, source="balances")
    while position < to_id:
        reached = min(position + WINDOW, to_id)
        async with connection(pool) as writer:
            folded = await FOLD_BALANCES.one_or_none(writer, after_id=position, to_id=reached)
        assert folded is not None, "another process audits at the same time"
        position = reached
        if position < to_id and time.monotonic() > changes.deadline:
            raise Unfinished


async def record_pass(pool: Pool, rule: str, at: datetime, *, full: bool) -> None:
    """Record that a rule has checked what had changed by this time, or everything."""
    async with connection(pool) as writer:
        await RECORD_PASS.run(writer, rule=rule, changes_at=at, is_full=full)


def _id(scope: str, subject: str) -> Any:
    """The id in a subject, `order <id>`."""
    text = subject.partition(" ")[2]
    return int(text) if scope == "product_ids" else UUID(text)


def _batches(ids: Sequence[Any]) -> list[Sequence[Any]]:
    return [ids[first : first + BATCH] for first in range(0, len(ids), BATCH)]


# Stripe


async def check_sessions(pool: Pool, sessions: Sequence[tuple[UUID, Session]]) -> None:
    """Compare sessions of Stripe, each with the order that it names, with our payments; store where they differ."""
    async with connection(pool) as reader:
        violations = await _stripe_rule().all(
            reader,
            order_ids=[order_id for order_id, _ in sessions],
            session_ids=[session.id for _, session in sessions],
            payment_intents=[session.payment_intent for _, session in sessions],
            paid=[session.payment_status == "paid" for _, session in sessions],
        )
    compared = {(order_id, session.id) for order_id, session in sessions}
    if violations or compared & set(await known_sessions(pool)):
        checked = [f"order {order_id} {session_id}" for order_id, session_id in compared]
        await store(pool, STRIPE_RULE, checked, violations)


async def known_sessions(pool: Pool) -> list[tuple[UUID, str]]:
    """The sessions of which it is known that they differ from our payments, each with its order."""
    words = [violation.subject.split(" ", 2) for violation in await _list_known(pool, STRIPE_RULE)]
    return [(UUID(order_id), session_id) for _, order_id, session_id in words]


async def _check_payments(pool: Pool, stripe: Stripe, clock: "_Clock") -> None:
    """Compare the session of every order with our payment, by a call for each, at most 5 a second.

    The position is the last order compared, so that the next run goes on when one was stopped.
    """
    async with connection(pool) as reader:
        at = (await READ_ENDS.one(reader)).at
        position = await READ_POSITION.one(reader, rule=STRIPE_RULE, source="orders")
    read = SESSIONS
    while read == SESSIONS:
        async with connection(pool) as reader:
            orders = await LIST_SESSIONS.all(reader, after_number=position)
        for order in orders:
            if order.stripe_session_id is not None:
                # At once: a payment that comes between the call and the comparison would be a difference.
                session = await _retrieve_patiently(stripe, order.order_id, order.stripe_session_id)
                await check_sessions(pool, [(order.order_id, session)])
                await pause_between_pages()
                await clock.check_changes_when_due(pool)
            await _move_position(pool, STRIPE_RULE, "orders", from_position=position, to_position=order.number)
            position = order.number
        read = len(orders)
    await _move_position(pool, STRIPE_RULE, "orders", from_position=position, to_position=0)
    await record_pass(pool, STRIPE_RULE, at, full=True)


async def retrieve_session(stripe: Stripe, order_id: UUID, session_id: str) -> Session:
    """An order's session. One that is not at Stripe, or belongs to another order, has not paid this one.

    Raises StripeUnknown or StripeRefused.
    """
    try:
        session = await stripe.retrieve_session(session_id, order_id=order_id)
    except StripeRefused as refused:
        if refused.status != 404:
            raise
        return Session.read({"id": session_id, "status": "expired", "payment_status": "unpaid"})
    return session if session.order_id == str(order_id) else replace(session, payment_status="unpaid")


async def _retrieve_patiently(stripe: Stripe, order_id: UUID, session_id: str) -> Session:
    """`retrieve_session`, again after pauses while Stripe does not answer or its rate limit refuses."""
    pause = 1.0
    while True:
        try:
            return await retrieve_session(stripe, order_id, session_id)
        except StripeUnknown as unknown:
            if unknown.status in (401, 403) or pause > LONGEST_SILENCE:
                raise
        await asyncio.sleep(pause)
        pause *= 2


# Everything


@dataclass(slots=True)
class _Clock:
    """When `check_all` has to check the changes next."""

    due_at: float = field(default_factory=lambda: time.monotonic() + SECONDS)

    async def check_changes_when_due(self, pool: Pool) -> None:
        if time.monotonic() > self.due_at:
            await check_changes(pool)
            self.due_at = time.monotonic() + SECONDS


async def _check_whole(pool: Pool, rule: Many[Violation], clock: _Clock) -> None:
    async with connection(pool) as reader:
        at = (await READ_ENDS.one(reader)).at
    known = {violation.subject for violation in await _list_known(pool, rule.name)}
    async for ids in _everything(pool, _scope(rule)):
        if rule.name == STOCK_RULE and ids:
            started = time.monotonic()
            await _set_balances(pool, ids)
            await _leave_time(started)
        await _check_ids(pool, rule, ids, known)
        await clock.check_changes_when_due(pool)
    await record_pass(pool, rule.name, at, full=True)


async def _set_balances(pool: Pool, product_ids: Sequence[int]) -> None:
    """Add up the ledger of these consecutive products from its first movement to the position of the balances."""
    async with connection(pool) as reader:
        position = await READ_POSITION.one(reader, rule=STOCK_RULE, source="balances")
    units = dict.fromkeys(product_ids, 0)
    after_product, after_id, read = product_ids[0], 0, LEDGER_BATCH
    while read == LEDGER_BATCH:
        async with connection(pool) as reader:
            sums = await SUM_LEDGER.all(
                reader, after_product=after_product, after_id=after_id, to_product=product_ids[-1], to_id=position
            )
        for each in sums:
            units[each.product_id] = units.get(each.product_id, 0) + each.units
            after_product, after_id = each.product_id, each.last_id
        read = sum(each.movements for each in sums)
    async with connection(pool) as writer:
        await SET_BALANCES.run(writer, product_ids=list(units), units=list(units.values()), position=position)


async def _everything(pool: Pool, scope: str) -> AsyncIterator[Sequence[Any] | None]:
    """All ids that a rule checks, in batches by key; None, once, for a rule without a parameter."""
    if not scope:
        yield None
        return
    last: Any = UUID(int=0) if scope == "cart_ids" else 0
    while True:
        ids: list[Any]
        async with connection(pool) as reader:
            if scope == "order_ids":
                orders = await LIST_ORDERS.all(reader, after_number=last)
                ids = [order.id for order in orders]
            elif scope == "cart_ids":
                ids = await LIST_CARTS.all(reader, after_id=last)
            else:
                ids = await LIST_PRODUCTS.all(reader, after_id=last)
        if ids:
            yield ids
        if len(ids) < BATCH:
            return
        last = orders[-1].number if scope == "order_ids" else ids[-1]
