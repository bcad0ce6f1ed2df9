"""The state of the model: orders here, their sessions and refunds at Stripe, the stock, and the running processes."""

from dataclasses import dataclass
from typing import NamedTuple

# The price of an order: two coins, so that a refund can be partial.
TOTAL = 2
# Of a session: new; too old to be created again; ended; ended ten minutes ago.
SESSION_AGES = ("fresh", "near", "ended", "over")
CAPTURED = ("SUCCEEDED", "REFUND_PENDING", "REFUNDED")
LIVE = ("PENDING_PAYMENT", "PAID", "FULFILLED")
LEGAL_TRANSITIONS = {
    ("NONE", "PENDING_PAYMENT"),
    ("PENDING_PAYMENT", "PAID"),
    ("PENDING_PAYMENT", "CANCELLED"),
    ("PAID", "FULFILLED"),
    ("PAID", "CANCELLED"),
    ("CANCELLED", "PAID"),
}
# What Stripe may have reported of a session, by its present state: an event carries the session as it was.
REPORTS = {
    "open": (),
    "expired": ("expired",),
    "paid": ("paid",),
    "processing": ("processing",),
    "paid_later": ("processing", "paid"),
    "failed": ("processing", "failed"),
}
# A retrieved session in these states looks like another: only its payment intent shows that a payment failed.
RETRIEVED_AS = {"paid_later": "paid", "failed": "processing"}


class Refund(NamedTuple):
    """A row of `refunds`, with Stripe's stored answer under the row's key and the refunds that Stripe has made."""

    intent: int
    amount: int
    cause: str
    status: str = "REQUESTED"
    reply: str = ""
    made: tuple[str, ...] = ()

    @property
    def counts(self) -> bool:
        """Whether the amount is refunded or may still be."""
        return self.status in ("REQUESTED", "PENDING", "SUCCEEDED")


class Order(NamedTuple):
    """An order with its payment and refunds in our tables, and its sessions and idempotency keys at Stripe."""

    status: str = "NONE"
    payment: str = ""
    # Units reserved minus units released, by the ledger.
    units_taken: int = 0
    attempt: int = 1
    # `stripe_session_id`; sessions are numbered from 1.
    stored_session: int = 0
    claimed: bool = False
    # The session whose payment was captured.
    intent: int = 0
    refunds: tuple[Refund, ...] = ()
    hold_ended: bool = False
    # Of the present attempt's session: an index into SESSION_AGES.
    session_age: int = 0
    sessions: tuple[str, ...] = ()
    # By attempt, what its key answers: a session's number, "error", "refused", or "" for nothing yet.
    replies: tuple[object, ...] = ()
    # Whether a creation is on its way to Stripe although its caller has stopped waiting for it.
    creation_in_flight: bool = False

    @property
    def live(self) -> bool:
        return self.status in LIVE

    def reply(self, attempt: int) -> object:
        return self.replies[attempt - 1] if attempt <= len(self.replies) else ""


class Process(NamedTuple):
    """A process between two steps: its next step and what it knows."""

    order: int
    step: str
    attempt: int = 0
    session: int = 0
    report: str = ""
    stripe_deadline_passed: bool = False
    listed: tuple[str, ...] = ()


class World(NamedTuple):
    """One state of the model."""

    stock: int
    # Where another order's unit is: "" for nowhere, "elsewhere", or "same cart".
    rival: str
    orders: tuple[Order, ...]
    processes: tuple[Process, ...] = ()


@dataclass(frozen=True, slots=True)
class Rules:
    """The bounds of a search, and the variant of the protocol that it follows."""

    variant: str = ""
    orders: int = 1
    same_cart: bool = False
    rivals: bool = True
    # Running at the same time.
    processes: int = 2
    attempts: int = 2
    # Of one order; the last refund that there is room for does not fail.
    refunds: int = 3
    # Whether staff request refunds.
    staff: bool = True
    # Whether to begin with an order that was just paid.
    paid: bool = False
    # Whether Stripe refuses, answers 500 (stored under the key or not), or gets a creation after its caller gave up.
    errors: bool = True
    # Whether replies get lost; without it there are no errors either.
    faults: bool = True


# The order's index, a label, and the world after the step.
Step = tuple[int, str, World]
# A label, the world after a process's step, and how the process goes on: None when it has ended.
Continued = tuple[str, World, Process | None]
# Steps from one state to another, each with its label and the world after it.
Path = tuple[tuple[str, World], ...]


def with_order(world: World, index: int, order: Order, units: int = 0) -> World:
    """The world with this order at `index`, and `units` added to the stock."""
    orders = (*world.orders[:index], order, *world.orders[index + 1 :])
    return World(world.stock + units, world.rival, orders, world.processes)


def with_refund(order: Order, position: int, refund: Refund) -> Order:
    """The order with this refund at `position`."""
    return order._replace(refunds=(*order.refunds[:position], refund, *order.refunds[position + 1 :]))


def with_process(world: World, process: Process | None) -> World:
    """The world with one more process. They are sorted, as it makes no difference which of two is which."""
    return world._replace(processes=tuple(sorted((*world.processes, process)))) if process else world


def refunded_and_pending(order: Order, intent: int) -> tuple[int, int]:
    """refunds._refunded_and_pending: how much of a payment is refunded, and how much is being refunded."""
    own = [refund for refund in order.refunds if refund.intent == intent]
    return (
        sum(refund.amount for refund in own if refund.status == "SUCCEEDED"),
        sum(refund.amount for refund in own if refund.status in ("REQUESTED", "PENDING")),
    )
