"""Checkout sessions and their payments: what customers do, and what time does."""

from __future__ import annotations

from collections.abc import Callable
from heapq import heapify, heappop, heappush

from .events import Events
from .objects import DAY, address_of, customer_details, decline_of, new_charge, new_intent, new_session, next_action_of
from .parameters import Parameters
from .replies import ApiError, missing_object
from .store import Collection, Json, Store, public

# Payment methods by what a customer's consent is worth: the money is there, comes or fails later, or a voucher
# is to be paid within days.
METHODS = {"card": "paid", "sepa_debit": "processing", "boleto": "voucher"}


class Payments(Events):
    """Sessions, payment intents and charges.

    A method that changes an object returns it in Stripe's shape, and raises ApiError when Stripe would refuse.
    """

    def __init__(self, store: Store, deliver: Callable[[Json], None]) -> None:
        super().__init__(store, deliver)
        self.sessions = Collection(store, "checkout.session")
        self.intents = Collection(store, "payment_intent")
        self.charges = Collection(store, "charge")
        # (time, session id) of each expiry and settlement to come; entries that no longer apply are skipped.
        self._due = [(s["expires_at"], s["id"]) for s in self.sessions if s["status"] == "open"]
        self._due += [(s["_settles_at"], s["id"]) for s in self.sessions if s["_settles_at"]]
        heapify(self._due)

    def catch_up(self) -> None:
        """Expire and settle the sessions that are due; cheap when none is."""
        now = self.now()
        while self._due and self._due[0][0] <= now:
            _, session_id = heappop(self._due)
            session = self.session(session_id)
            if session["status"] == "open" and session["expires_at"] <= now:
                self._expire(session)
            elif session["_settles_at"] and session["_settles_at"] <= now:
                # A voucher that nobody paid until now fails.
                self.settle(session_id, self._intent_of(session)["status"] == "processing")

    def public(self, stored: Json) -> Json:
        shown = super().public(stored)
        if stored.get("_intent_expanded") and shown["payment_intent"]:
            shown["payment_intent"] = public(self.intent(shown["payment_intent"]))
        return shown

    # Sessions

    def session(self, session_id: str) -> Json:
        session = self.sessions.get(session_id)
        if session is None:
            raise missing_object("checkout.session", session_id, "session")
        return session

    def create_session(self, form: Parameters, base_url: str) -> Json:
        """Create an open session of mode payment, with its page at `base_url`/pay/{id}."""
        session = new_session(form, base_url, self.now(), list(METHODS))
        self.sessions.save(session)
        heappush(self._due, (session["expires_at"], session["id"]))
        return self.public(session)

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
            intent = self._intent_of(session)
            intent |= {
                "status": "canceled",
                "canceled_at": self.now(),
                "cancellation_reason": "expired",
                "next_action": None,
            }
            self.intents.save(intent)
            self.emit("payment_intent.canceled", intent)
        self.emit("checkout.session.expired", session)
        return self.public(session)

    def expand_intent(self, session_id: str) -> Json:
        """From now on, the API and events show the session's payment intent as an object in place of its id."""
        session = self.session(session_id)
        session["_intent_expanded"] = True
        self.sessions.save(session)
        return self.public(session)

    # Payments

    def intent(self, intent_id: str) -> Json:
        intent = self.intents.get(intent_id)
        if intent is None:
            raise missing_object("payment_intent", intent_id, "intent")
        return intent

    def _intent_of(self, session: Json) -> Json:
        return self.intent(session["payment_intent"])

    def find_charge(self, charge_id: str) -> Json:
        charge = self.charges.get(charge_id)
        if charge is None:
            raise missing_object("charge", charge_id, "charge")
        return charge

    def pay(
        self,
        session_id: str,
        *,
        email: str | None = None,
        method: str | None = None,
        later: bool = False,
        settles_in: float | None = None,
        no_payment: bool = False,
        contact: Json | None = None,
    ) -> Json:
        """The customer completes the session, with one of METHODS; `later` is short for a bank debit.

        `contact` has what they told about themselves: members of an address, `name` and `phone`.

        A bank debit settles by `settle`, or `settles_in` seconds later. A voucher is paid by `settle`, or fails
        `settles_in` seconds later (3 days). `no_payment`: a discount of the whole total leaves nothing to pay.
        """
        session = self._open_session(session_id)
        method = method or ("sepa_debit" if later else "card")
        if method not in session["payment_method_types"]:
            raise ApiError(400, f"This Checkout Session does not offer {method}.", param="method")
        kind = "none" if no_payment else METHODS[method]
        email = email or session["customer_email"] or "shopper@example.com"
        session |= {
            "status": "complete",
            "payment_status": {"paid": "paid", "none": "no_payment_required"}.get(kind, "unpaid"),
            "url": None,
            "customer_details": customer_details(email, session),
        }
        if session["phone_number_collection"]["enabled"] and contact:
            session["customer_details"]["phone"] = contact.get("phone")
        if session["shipping_address_collection"]:
            details = contact or {}
            address = address_of(session)
            shipping = {
                "address": {part: details.get(part, value) for part, value in address.items()},
                "name": details.get("name", "Jenny Rosen"),
            }
            session["collected_information"] = {
                "business_name": None,
                "individual_name": None,
                "shipping_details": shipping,
            }
        if kind == "voucher" and settles_in is None:
            settles_in = 3 * DAY
        if kind in ("processing", "voucher") and settles_in is not None:
            session["_settles_at"] = self.now() + settles_in
            heappush(self._due, (session["_settles_at"], session_id))
        if kind == "none":
            session["total_details"]["amount_discount"] = session["amount_subtotal"]
            session["amount_total"] = 0
        else:
            self._complete(session, method, kind)
        self.sessions.save(session)
        self.emit("checkout.session.completed", session)
        return self.public(session)

    def _complete(self, session: Json, method: str, kind: str) -> None:
        """Attempt the payment that completes the session."""
        if kind == "voucher":
            intent = self._begin_attempt(session, method)
            intent |= {"status": "requires_action", "next_action": next_action_of(session, int(session["_settles_at"]))}
            self.intents.save(intent)
            self.emit("payment_intent.requires_action", intent)
            return
        secured = session["payment_intent"] and self._intent_of(session)["status"] == "requires_action"
        intent = self._begin_attempt(session, method)
        charge = self._new_charge(session, intent, authenticated=bool(secured))
        self._conclude(intent, charge, "succeeded" if kind == "paid" else "processing")
        self.emit(f"payment_intent.{intent['status']}", intent)

    def require_action(self, session_id: str) -> Json:
        """The customer's bank asks for 3-D Secure. The session stays open until `pay` or `decline`."""
        session = self._open_session(session_id)
        intent = self._begin_attempt(session, "card")
        intent |= {"status": "requires_action", "next_action": next_action_of(session, None)}
        self.intents.save(intent)
        self.sessions.save(session)
        self.emit("payment_intent.requires_action", intent)
        return self.public(session)

    def decline(self, session_id: str) -> Json:
        """The card is declined, or 3-D Secure fails; the session stays open for another attempt."""
        session = self._open_session(session_id)
        if session["payment_intent"] and self._intent_of(session)["status"] == "requires_action":
            intent = self._intent_of(session)
            self._conclude(intent, None, "requires_payment_method", "payment_intent_authentication_failure")
        else:
            intent = self._begin_attempt(session, "card")
            charge = self._new_charge(session, intent)
            self._conclude(intent, charge, "requires_payment_method", "card_declined")
        self.sessions.save(session)
        self.emit("payment_intent.payment_failed", intent)
        return self.public(session)

    def settle(self, session_id: str, succeed: bool = True) -> Json:
        """Settle a bank debit or a voucher: the money arrives, or the payment fails."""
        session = self.session(session_id)
        intent = self.intents.get(session["payment_intent"] or "")
        if (
            session["status"] != "complete"
            or intent is None
            or intent["status"] not in ("processing", "requires_action")
        ):
            raise ApiError(400, "This Checkout Session has no payment to settle.")
        session["_settles_at"] = None
        voucher = intent["status"] == "requires_action"
        if succeed:
            session["payment_status"] = "paid"
            charge = self._new_charge(session, intent) if voucher else self.find_charge(intent["latest_charge"])
            self._conclude(intent, charge, "succeeded")
        elif voucher:
            self._conclude(intent, None, "requires_payment_method", "payment_intent_payment_attempt_expired")
        else:
            self._conclude(
                intent, self.find_charge(intent["latest_charge"]), "requires_payment_method", "insufficient_funds"
            )
        self.sessions.save(session)
        outcome = "succeeded" if succeed else "payment_failed"
        self.emit(f"payment_intent.{outcome}", intent)
        self.emit(f"checkout.session.async_payment_{'succeeded' if succeed else 'failed'}", session)
        return self.public(session)

    def _begin_attempt(self, session: Json, method: str) -> Json:
        """The session's payment intent, which the first attempt creates, with a payment method of this attempt."""
        intent = self.intents.get(session["payment_intent"] or "")
        if intent is None:
            intent = new_intent(session, self.now())
            session["payment_intent"] = intent["id"]
        intent["_method"] = method
        return intent

    def _new_charge(self, session: Json, intent: Json, *, authenticated: bool = False) -> Json:
        charge = new_charge(session, intent, self.now(), authenticated=authenticated)
        intent["latest_charge"] = charge["id"]
        return charge

    def _conclude(self, intent: Json, charge: Json | None, status: str, code: str | None = None) -> None:
        """Set a payment intent to `status`, and its charge to the matching outcome; `code` says why it failed."""
        paid = status == "succeeded"
        error = None if code is None else decline_of(code, charge)
        intent |= {
            "status": status,
            "amount_received": intent["amount"] if paid else 0,
            "last_payment_error": error,
            "next_action": None,
        }
        self.intents.save(intent)
        if charge is None:
            return
        charge |= {
            "status": "succeeded" if paid else "failed" if error else "pending",
            "paid": paid,
            "captured": paid,
            "amount_captured": charge["amount"] if paid else 0,
            "failure_code": code,
            "failure_message": error and error["message"],
        }
        self.charges.save(charge)
