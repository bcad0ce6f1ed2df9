"""A stand-in for Stripe: its API, payment page and webhooks as far as the shop uses them, on one server.

It is a program of its own, `python -m service.dev.stripe_standin`, and imports nothing of the service.

    standin.py       the account and its server            api.py           /v1: authentication, idempotency keys
    calls.py         the calls under /v1                   account.py       disputes, and all that follows:
    page.py          /pay/{session id}                     refunds.py       refunds
    control.py       /_control: for tests and people       payments.py      sessions and their payments
    parameters.py    form decoding and validation          events.py        the clock, and an event of each change
    closed_lists.py  payment methods and countries         webhooks.py      signed and retried deliveries
    objects.py       new objects in Stripe's shapes        rendering.py     what an endpoint receives of an event
    money.py         currencies and their limits           rate_limit.py    requests a second
    faults.py        which calls fail, and how             store.py         dictionaries, written through to SQLite
    replies.py       replies and errors in Stripe's words  hosts.py         which Host a call may name

Error messages are the real API's where we know them, and our own elsewhere.
"""

from .standin import StripeStandin

__all__ = ["StripeStandin"]
