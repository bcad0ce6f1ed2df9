"""The account: everything that happens at Stripe, with disputes and the ledger that tests compare with."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from .objects import dispute_transaction, new_dispute
from .parameters import Parameters
from .refunds import Refunds
from .replies import ApiError, missing_object
from .store import Collection, Json, Store

# The statuses of a dispute, each with those that it can change to. `warning_…`: an inquiry, which moves no money.
STATUSES = {
    "warning_needs_response": ("warning_under_review", "warning_closed", "needs_response", "prevented"),
    "warning_under_review": ("warning_closed", "needs_response"),
    "needs_response": ("under_review", "won", "lost"),
    "under_review": ("won", "lost"),
    "lost": ("appeal_needs_response",),
    "appeal_needs_response": ("appeal_under_review", "lost"),
    "appeal_under_review": ("won", "lost"),
    "warning_closed": (),
    "prevented": (),
    "won": (),
}
CLOSED = ("warning_closed", "prevented", "won", "lost")
# The shop has the disputed money, or has it back.
FUNDED = ("warning_needs_response", "warning_under_review", "warning_closed", "prevented", "won")
REASONS = (
    "bank_cannot_process", "check_returned", "credit_not_processed", "customer_initiated", "debit_not_authorized",
    "duplicate", "fraudulent", "general", "incorrect_account_details", "insufficient_funds", "noncompliant",
    "product_not_received", "product_unacceptable", "subscription_canceled", "unrecognized",
)  # fmt: skip
DISPUTE_FEE = 1500


class Account(Refunds):
    """One account in test mode, and what can happen to its objects."""

    def __init__(self, store: Store, deliver: Callable[[Json], None]) -> None:
        super().__init__(store, deliver)
        self.disputes = Collection(store, "dispute")

    # Disputes

    def dispute(
        self,
        intent_id: str,
        amount: int | None = None,
        *,
        reason: str = "fraudulent",
        status: str = "needs_response",
    ) -> Json:
        """The customer's bank disputes a payment (`needs_response`), or asks about it (`warning_needs_response`)."""
        intent = self.intent(intent_id)
        if intent["status"] != "succeeded":
            raise ApiError(400, "Only a payment that succeeded can be disputed.", param="payment_intent")
        if reason not in REASONS:
            raise ApiError(400, f"A dispute's reason is one of {', '.join(REASONS)}.", param="reason")
        if status not in ("needs_response", "warning_needs_response"):
            raise ApiError(400, "A dispute begins as needs_response or warning_needs_response.", param="status")
        charge = self.find_charge(intent["latest_charge"])
        if amount is not None and not 1 <= amount <= charge["amount"]:
            raise ApiError(400, "At most the amount of the charge can be disputed.", param="amount")
        charge["disputed"] = True
        self.charges.save(charge)
        dispute = new_dispute(charge, amount or charge["amount"], reason=reason, status=status, now=self.now())
        self.disputes.save(dispute)
        self.emit("charge.dispute.created", dispute)
        if status == "needs_response":
            self._withdraw(dispute)
        return self.public(dispute)

    def set_dispute(self, dispute_id: str, status: str) -> Json:
        """Change a dispute's status, as STATUSES allows it; CLOSED has its ends, and only `lost` can be appealed."""
        dispute = self.disputes.get(dispute_id)
        if dispute is None:
            raise missing_object("dispute", dispute_id, "dispute")
        if status not in STATUSES[dispute["status"]]:
            raise ApiError(400, f"A dispute that is {dispute['status']} cannot become {status}.", param="status")
        before = dict(dispute)
        dispute["status"] = status
        if status.endswith("under_review"):
            submitted = {"has_evidence": True, "submission_count": 1, "submission_method": "manual"}
            dispute["evidence_details"] = {**dispute["evidence_details"], **submitted}
        self.disputes.save(dispute)
        if status in CLOSED:
            self.emit("charge.dispute.closed", dispute)
        else:
            self.emit("charge.dispute.updated", dispute, before)
        if status == "needs_response":
            self._withdraw(dispute)
        if status == "won":
            self._move(dispute, dispute["amount"], fee=0)
            self.emit("charge.dispute.funds_reinstated", dispute)
        return self.public(dispute)

    def _withdraw(self, dispute: Json) -> None:
        dispute["is_charge_refundable"] = False
        self._move(dispute, -dispute["amount"], fee=DISPUTE_FEE)
        self.emit("charge.dispute.funds_withdrawn", dispute)

    def _move(self, dispute: Json, amount: int, *, fee: int) -> None:
        transaction = dispute_transaction(dispute, amount, fee, self.now())
        dispute["balance_transactions"] = [*dispute["balance_transactions"], transaction]
        self.disputes.save(dispute)

    def _is_refundable(self, charge: Json) -> bool:
        """Not once a dispute has withdrawn its money, unless the dispute was won."""
        return all(dispute["status"] in FUNDED for dispute in self.disputes if dispute["charge"] == charge["id"])

    def create_refund(self, form: Parameters) -> Json:
        """A refund. One of the whole payment ends an inquiry about it."""
        refund = super().create_refund(form)
        charge = self.find_charge(refund["charge"])
        for dispute in self.disputes:
            if charge["refunded"] and dispute["charge"] == charge["id"] and dispute["status"].startswith("warning_n"):
                self.set_dispute(dispute["id"], "warning_closed")
        return refund

    # For tests

    def show(self, object_id: str, **members: Any) -> Json:
        """From now on, the API and events show these members of an object in place of the true ones."""
        for collection in (self.sessions, self.intents, self.charges, self.refunds, self.disputes):
            stored = collection.get(object_id)
            if stored is not None:
                stored["_shown"] = {**stored.get("_shown", {}), **members}
                collection.save(stored)
                return self.public(stored)
        raise missing_object("object", object_id)

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
