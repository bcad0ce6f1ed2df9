"""A stand-in for Stripe: its API, payment page and webhooks as far as the shop uses them, on one server.

It is a program of its own, `python -m service.dev.stripe_standin`, and imports nothing of the service.

    standin.py     the account and its server              api.py        /v1: authentication, idempotency keys
    calls.py       the calls under /v1                     payments.py   what happens at Stripe, and its events
    page.py        /pay/{session id}                       webhooks.py   signed and retried deliveries
    control.py     /_control: for tests and people         faults.py     which calls fail, and how
    parameters.py  form decoding and validation            replies.py    replies and errors in Stripe's words
    objects.py     new objects in Stripe's shapes          store.py      dictionaries, written through to SQLite
    money.py       currencies and their limits

Error messages are the real API's where we know them, and our own elsewhere.
"""

from .standin import StripeStandin

__all__ = ["StripeStandin"]
