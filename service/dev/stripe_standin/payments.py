"""What happens at Stripe: sessions, payments, refunds and disputes, and the event that each change emits."""

from __future__ import annotations

import time
from collections.abc import Callable
from heapq import heapify, heappop, heappush

import orjson

from .money import format_amount
from .objects import (
    API_VERSION,
    customer_details,
    new_charge,
    new_dispute,
    new_id,
    new_intent,
    new_refund,
    new_session,
)
from .parameters import Parameters
from .replies import ApiError, missing_object
from .store import Collection, Json, Store, public

NO_REQUEST: Json = {"id": None, "idempotency_key": None}
REFUND_REASONS = ("duplicate", "fraudulent", "requested_by_customer")
REFUND_STATUSES = ("pending", "succeeded", "failed")


class Payments:
    """The account's objects and what can happen to them.

    A method that changes an object returns it in Stripe's shape, and raises ApiError when Stripe would refuse.
    Not thread-safe: call from the event loop's thread. Changes are durable after the store's commit, which every
    request and the ticker make.
    """

    def __init__(self, store: Store, deliver: Callable[[Json], None]) -> None:
        self.store = store
        self.sessions = Collection(store, "checkout.session")
        self.intents = Collection(store, "payment_intent")
        self.charges = Collection(store, "charge")
        self.refunds = Collection(store, "refund")
        self.disputes = Collection(store, "dispute")
        self.events = Collection(store, "event")
        # The status of new refunds; after "pending" a test settles each one by `set_refund`.
        self.refund_status = "succeeded"
        # The API request that causes the events emitted now.
        self.cause = NO_REQUEST
        self._deliver = deliver
        self._clock_shift: float = sum(row["seconds"] for row in store.load("clock"))
        # (time, session id) of each expiry and bank transfer to come; entries that no longer apply are skipped.
        self._due = [(s["expires_at"], s["id"]) for s in self.sessions if s["status"] == "open"]
        self._due += [(s["_settles_at"], s["id"]) for s in self.sessions if s["_settles_at"]]
        heapify(self._due)

    # Time

    def now(self) -> int:
        """The stand-in's own clock, Unix seconds."""
        return int(time.time() + self._clock_shift)

    def advance_clock(self, seconds: float) -> int:
        """Shift the clock forward and return the new time."""
        if seconds < 0:
            # Pages rely on objects stored in the order of `created`.
            raise ApiError(400, "The clock only goes forward.")
        self._clock_shift += seconds
        self.store.save("clock", {"id": "shift", "seconds": self._clock_shift})
        self.catch_up()
        return self.now()

    def catch_up(self) -> None:
        """Expire and settle the sessions that are due; cheap when none is."""
        now = self.now()
        while self._due and self._due[0][0] <= now:
            _, session_id = heappop(self._due)
            session = self.session(session_id)
            if session["status"] == "open" and session["expires_at"] <= now:
                self._expire(session)
            elif session["_settles_at"] and session["_settles_at"] <= now:
                self.settle(session_id)

    # Events

    def _emit(self, kind: str, subject: Json) -> None:
        event: Json = {
            "id": new_id("evt_"),
            "object": "event",
            "api_version": API_VERSION,
            "created": self.now(),
            # A copy: the object may change later, the event must not.
            "data": {"object": orjson.loads(orjson.dumps(public(subject)))},
            "livemode": False,
            "pending_webhooks": 0,
            "request": self.cause,
            "type": kind,
        }
        self.events.save(event)
        self._deliver(event)

    # Checkout sessions

    def session(self, session_id: str) -> Json:
        session = self.sessions.get(session_id)
        if session is None:
            raise missing_object("checkout.session", session_id, "session")
        return session

    def create_session(self, form: Parameters, base_url: str) -> Json:
        """Create an open session of mode payment, with its page at `base_url`/pay/{id}."""
        session = new_session(form, base_url, self.now())
        self.sessions.save(session)
        heappush(self._due, (session["expires_at"], session["id"]))
        return public(session)

    def _open_session(self, session_id: str) -> Json:
        session = self.session(session_id)
        if session["status"] != "open":
            raise ApiError(400, f"This Checkout Session has a status of `{session['status']}`.")
        return session

    def expire_session(self, session_id: str) -> Json:
        session = self.session(session_id)
        if session["status"] != "open":
            message = (
                'Only Checkout Sessions with a status in ["open"] can be expired. This Checkout Session has a'
                f" status of `{session['status']}`."
            )
            raise ApiError(400, message, param="session", stored=True)
        return self._expire(session)

    def _expire(self, session: Json) -> Json:
        session |= {"status": "expired", "url": None}
        self.sessions.save(session)
        if session["payment_intent"]:
            intent = self.intent(session["payment_intent"])
            intent |= {"status": "canceled", "canceled_at": self.now(), "cancellation_reason": "expired"}
            self.intents.save(intent)
        self._emit("checkout.session.expired", session)
        return public(session)

    # Payments

    def intent(self, intent_id: str) -> Json:
        intent = self.intents.get(intent_id)
        if intent is None:
            raise missing_object("payment_intent", intent_id, "intent")
        return intent

    def pay(
        self,
        session_id: str,
        *,
        email: str | None = None,
        later: bool = False,
        settles_in: float | None = None,
    ) -> Json:
        """The customer pays. With `later` the money arrives by `settle`, or after `settles_in` seconds."""
        session = self._open_session(session_id)
        email = email or session["customer_email"] or "shopper@example.com"
        session |= {
            "status": "complete",
            "payment_status": "unpaid" if later else "paid",
            "url": None,
            "customer_details": customer_details(email),
        }
        if settles_in is not None:
            session["_settles_at"] = self.now() + settles_in
            heappush(self._due, (session["_settles_at"], session_id))
        intent = self._attempt(session, "processing" if later else "succeeded")
        self.sessions.save(session)
        if not later:
            self._emit("payment_intent.succeeded", intent)
        self._emit("checkout.session.completed", session)
        return public(session)

    def decline(self, session_id: str) -> Json:
        """The customer's card is declined; the session stays open for another attempt."""
        session = self._open_session(session_id)
        intent = self._attempt(session, "requires_payment_method")
        self.sessions.save(session)
        self._emit("payment_intent.payment_failed", intent)
        return public(session)

    def settle(self, session_id: str, succeed: bool = True) -> Json:
        """Settle a payment made with `later`: the money arrives, or the payment fails."""
        session = self.session(session_id)
        intent = self.intents.get(session["payment_intent"] or "")
        if intent is None or intent["status"] != "processing":
            raise ApiError(400, "This Checkout Session has no payment to settle.")
        session["_settles_at"] = None
        charge = self._charge(intent["latest_charge"])
        if succeed:
            session["payment_status"] = "paid"
        self._conclude(intent, charge, "succeeded" if succeed else "requires_payment_method")
        self.sessions.save(session)
        outcome = "succeeded" if succeed else "payment_failed"
        self._emit(f"payment_intent.{outcome}", intent)
        self._emit(f"checkout.session.async_payment_{'succeeded' if succeed else 'failed'}", session)
        return public(session)

    def _attempt(self, session: Json, status: str) -> Json:
        """Charge the session's payment intent, which the first attempt creates."""
        intent = self.intents.get(session["payment_intent"] or "")
        if intent is None:
            intent = new_intent(session, self.now())
            session["payment_intent"] = intent["id"]
        charge = new_charge(session, self.now())
        intent["latest_charge"] = charge["id"]
        self._conclude(intent, charge, status)
        return intent

    def _conclude(self, intent: Json, charge: Json, status: str) -> None:
        """Set a payment intent to `status`, and its charge to the matching outcome."""
        paid = status == "succeeded"
        failed = status == "requires_payment_method"
        decline = {"type": "card_error", "code": "card_declined", "message": "Your card was declined."}
        intent |= {
            "status": status,
            "amount_received": intent["amount"] if paid else 0,
            "last_payment_error": {**decline, "charge": charge["id"]} if failed else None,
        }
        charge |= {
            "status": "succeeded" if paid else "failed" if failed else "pending",
            "paid": paid,
            "captured": paid,
            "amount_captured": charge["amount"] if paid else 0,
            "failure_code": decline["code"] if failed else None,
            "failure_message": decline["message"] if failed else None,
        }
        self.charges.save(charge)
        self.intents.save(intent)

    # Refunds and disputes

    def _charge(self, charge_id: str) -> Json:
        charge = self.charges.get(charge_id)
        if charge is None:
            raise missing_object("charge", charge_id, "charge")
        return charge

    def refund(self, refund_id: str) -> Json:
        refund = self.refunds.get(refund_id)
        if refund is None:
            raise missing_object("refund", refund_id)
        return refund

    def create_refund(self, form: Parameters) -> Json:
        form.expect(optional=("amount", "charge", "metadata", "payment_intent", "reason"))
        charge = self._charge_to_refund(form)
        reason = form.choice("reason", REFUND_REASONS)
        metadata = form.metadata()
        unrefunded: int = charge["amount"] - charge["amount_refunded"]
        amount = form.integer("amount", least=1, most=10**12)
        if unrefunded == 0:
            message = f"Charge {charge['id']} has already been refunded."
            raise ApiError(400, message, code="charge_already_refunded", stored=True)
        if charge["disputed"]:
            message = f"Charge {charge['id']} has been charged back; cannot issue a refund."
            raise ApiError(400, message, code="charge_disputed", stored=True)
        if amount is not None and amount > unrefunded:
            limit = "unrefunded amount on charge" if charge["amount_refunded"] else "charge amount"
            currency = charge["currency"]
            message = (
                f"Refund amount ({format_amount(amount, currency)}) is greater than {limit}"
                f" ({format_amount(unrefunded, currency)})"
            )
            raise ApiError(400, message, param="amount", stored=True)
        refund = new_refund(
            charge,
            unrefunded if amount is None else amount,
            status=self.refund_status,
            reason=reason,
            metadata=metadata,
            now=self.now(),
        )
        self.refunds.save(refund)
        self._add_refunded(charge, refund["amount"])
        self._emit("refund.created", refund)
        self._emit("charge.refunded", charge)
        return public(refund)

    def _charge_to_refund(self, form: Parameters) -> Json:
        intent_id, charge_id = form.text("payment_intent"), form.text("charge")
        if intent_id is not None:
            intent = self.intents.get(intent_id)
            if intent is None:
                raise missing_object("payment_intent", intent_id, "payment_intent")
            charge_id = intent["latest_charge"]
        if charge_id is None:
            message = "One of the following params should be provided for this request: payment_intent or charge."
            raise ApiError(400, message, code="parameter_missing", param="payment_intent")
        charge = self._charge(charge_id)
        if charge["status"] != "succeeded":
            intent_id = charge["payment_intent"]
            message = f"This PaymentIntent ({intent_id}) does not have a successful charge to refund."
            raise ApiError(400, message, stored=True)
        return charge

    def _add_refunded(self, charge: Json, amount: int) -> None:
        charge["amount_refunded"] += amount
        charge["refunded"] = charge["amount_refunded"] == charge["amount"]
        self.charges.save(charge)

    def set_refund(self, refund_id: str, status: str) -> Json:
        """Change a refund's status. A failed refund is final; its amount can be refunded again."""
        refund = self.refund(refund_id)
        if status not in REFUND_STATUSES:
            raise ApiError(400, f"A refund's status is one of {', '.join(REFUND_STATUSES)}.", param="status")
        if status == refund["status"]:
            return public(refund)
        if refund["status"] == "failed":
            raise ApiError(400, "This refund has failed, which is final.")
        failed = status == "failed"
        refund |= {"status": status, "failure_reason": "lost_or_stolen_card" if failed else None}
        self.refunds.save(refund)
        if failed:
            self._add_refunded(self._charge(refund["charge"]), -refund["amount"])
        self._emit("refund.updated", refund)
        if failed:
            self._emit("refund.failed", refund)
        return public(refund)

    def dispute(self, intent_id: str) -> Json:
        """The customer's bank disputes a payment."""
        intent = self.intent(intent_id)
        if intent["status"] != "succeeded":
            raise ApiError(400, "Only a payment that succeeded can be disputed.", param="payment_intent")
        charge = self._charge(intent["latest_charge"])
        charge["disputed"] = True
        self.charges.save(charge)
        dispute = new_dispute(charge, self.now())
        self.disputes.save(dispute)
        self._emit("charge.dispute.created", dispute)
        return public(dispute)

    # For tests

    def ledger(self) -> Json:
        """Every captured payment, with its session's metadata and the sum of its succeeded refunds.

        {"payments": [{session, payment_intent, amount, currency, metadata, refunded}],
        "open_sessions": [{id, metadata}]}
        """
        self.catch_up()
        refunded: dict[str, int] = {}
        for refund in self.refunds:
            if refund["status"] == "succeeded":
                intent_id = refund["payment_intent"]
                refunded[intent_id] = refunded.get(intent_id, 0) + refund["amount"]
        return {
            "payments": [
                {
                    "session": session["id"],
                    "payment_intent": session["payment_intent"],
                    "amount": session["amount_total"],
                    "currency": session["currency"],
                    "metadata": session["metadata"],
                    "refunded": refunded.get(session["payment_intent"], 0),
                }
                for session in self.sessions
                if session["payment_status"] == "paid"
            ],
            "open_sessions": [
                {"id": session["id"], "metadata": session["metadata"]}
                for session in self.sessions
                if session["status"] == "open"
            ],
        }
