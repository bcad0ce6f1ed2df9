"""A stand-in for Stripe: its API, payment page and webhooks as far as the shop uses them, on one server.

    standin.py     the account and its server
    api.py         /v1: keys, idempotency, the calls       payments.py   what happens at Stripe
    page.py        /pay/{session id}                       webhooks.py   signed and retried deliveries
    control.py     /_control: what only tests can do       faults.py     which calls go wrong, and how
    parameters.py  form decoding, Stripe's complaints      store.py      dictionaries, written to SQLite too

`objects.py` has Stripe's objects as they begin, `money.py` its currencies. Errors have the words that the
real API is known to answer with; only where none were known are they our own.
"""

from .standin import StripeStandin, serve

__all__ = ["StripeStandin", "serve"]
