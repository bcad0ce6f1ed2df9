"""What is searched: the protocol within several bounds, and broken variants that a search must catch."""

from dataclasses import replace

from tests.model.world import Rules

# The sessions of one order, with rivals for the unit and all faults of creating, expiring and paying.
SESSIONS = Rules(staff=False, refunds=2)
# The refunds of a paid order: with two processes at a time, then more refunds with one.
REFUNDS = Rules(paid=True, refunds=2)
MORE_REFUNDS = Rules(paid=True, refunds=3, processes=1, rivals=False, errors=False)
# Two whole orders: from two carts, and one after the other from the same cart.
TWO_CARTS = Rules(orders=2, rivals=False, processes=1, attempts=1, refunds=1, staff=False, errors=False)
ONE_CART = replace(TWO_CARTS, same_cart=True)

SEARCHES = {
    "sessions": SESSIONS,
    "refunds": REFUNDS,
    "more refunds": MORE_REFUNDS,
    "two carts": TWO_CARTS,
    "one cart twice": ONE_CART,
}

VARIANTS = {
    "no_status_guard": "transitions change an order whatever its status is",
    "stock_returned_twice": "no status guard, and no unique index on the ledger's releases",
    "late_money_ignored": "a payment for a cancelled order is only logged",
    "found_by_stored_session": "orders are looked up by the stored session id instead of the metadata",
    "cancel_without_asking": "expiry and cancel change the order and leave its session at Stripe open",
    "gives_up_at_once": "expiry cancels as soon as one call to Stripe gets no answer",
    "new_key_each_time": "a repeated checkout creates a session under a new key instead of replaying the old one",
    "stored_failure_is_none": "a replayed 500 is taken as proof that there is no session",
    "attempt_not_compared": "expiry, cancel and a refusal end the order whichever attempt it is at",
    "refund_with_new_key": "each try of a refund has a new idempotency key",
    "refund_without_list": "a refund is repeated under its key before Stripe's list is searched for it",
    "no_reconcile": "only webhooks report the state of a session, and one is lost",
    "events_not_fetched": "the webhook of a bank payment's end is lost, and nobody lists Stripe's events",
}


def search_for(variant: str) -> Rules:
    """The bounds in which a variant fails."""
    return replace(REFUNDS if variant.startswith("refund") else SESSIONS, variant=variant)
