"""Refunds: by the API, in Stripe's dashboard, and what the customer's bank makes of them days or weeks later."""

from __future__ import annotations

from collections.abc import Callable

from .money import format_amount
from .objects import new_refund, refund_extras
from .parameters import Parameters
from .payments import Payments
from .replies import ApiError, missing_object
from .store import Collection, Json, Store

REASONS = ("duplicate", "fraudulent", "requested_by_customer")
# The statuses of a refund, each with those that it can change to. Stripe can fail a succeeded refund weeks later.
STATUSES = {
    "pending": ("requires_action", "succeeded", "failed", "canceled"),
    "requires_action": ("pending", "succeeded", "failed", "canceled"),
    "succeeded": ("failed", "canceled"),
    "failed": (),
    "canceled": (),
}
FAILURE_REASONS = (
    "lost_or_stolen_card", "expired_or_canceled_card", "charge_for_pending_refund_disputed", "insufficient_funds",
    "declined", "merchant_request", "unknown",
)  # fmt: skip


class Refunds(Payments):
    """Refunds, beside the payments."""

    def __init__(self, store: Store, deliver: Callable[[Json], None]) -> None:
        super().__init__(store, deliver)
        self.refunds = Collection(store, "refund")
        # The status of new refunds; a test changes each one by `set_refund`.
        self.refund_status = "succeeded"

    def refund(self, refund_id: str) -> Json:
        refund = self.refunds.get(refund_id)
        if refund is None:
            raise missing_object("refund", refund_id)
        return refund

    def create_refund(self, form: Parameters) -> Json:
        form.expect(optional=("amount", "charge", "metadata", "payment_intent", "reason"))
        charge = self._charge_to_refund(form)
        reason = form.choice("reason", REASONS)
        metadata = form.metadata()
        unrefunded: int = charge["amount"] - charge["amount_refunded"]
        amount = form.integer("amount", least=1, most=10**12)
        if unrefunded == 0:
            message = f"Charge {charge['id']} has already been refunded."
            raise ApiError(400, message, code="charge_already_refunded", stored=True)
        if not self._is_refundable(charge):
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
        refund |= refund_extras(self.refund_status, failure_reason="unknown", now=self.now())
        self.refunds.save(refund)
        self.emit("refund.created", refund)
        if refund["status"] == "failed":
            self.emit("refund.failed", refund)
        elif refund["status"] != "canceled":
            before = self._add_refunded(charge, refund["amount"])
            self.emit("charge.refunded", charge, before)
        return self.public(refund)

    def _charge_to_refund(self, form: Parameters) -> Json:
        intent_id, charge_id = form.text("payment_intent"), form.text("charge")
        if intent_id is not None:
            intent = self.intents.get(intent_id)
            if intent is None:
                raise missing_object("payment_intent", intent_id, "payment_intent")
            charge_id = intent["latest_charge"]
            if charge_id is None:
                message = f"This PaymentIntent ({intent_id}) does not have a successful charge to refund."
                raise ApiError(400, message, stored=True)
        if charge_id is None:
            message = "One of the following params should be provided for this request: payment_intent or charge."
            raise ApiError(400, message, code="parameter_missing", param="payment_intent")
        charge = self.find_charge(charge_id)
        if charge["status"] != "succeeded":
            intent_id = charge["payment_intent"]
            message = f"This PaymentIntent ({intent_id}) does not have a successful charge to refund."
            raise ApiError(400, message, stored=True)
        return charge

    def _is_refundable(self, charge: Json) -> bool:
        return True

    def _add_refunded(self, charge: Json, amount: int) -> Json:
        """Count an amount as refunded; the charge as it was before."""
        before = dict(charge)
        charge["amount_refunded"] += amount
        charge["refunded"] = charge["amount_refunded"] == charge["amount"]
        self.charges.save(charge)
        return before

    def set_refund(self, refund_id: str, status: str, failure_reason: str | None = None) -> Json:
        """Change a refund's status, as STATUSES allows it. What fails or is canceled can be refunded again."""
        refund = self.refund(refund_id)
        require_status(status)
        if failure_reason is not None and failure_reason not in FAILURE_REASONS:
            message = f"A refund's failure_reason is one of {', '.join(FAILURE_REASONS)}."
            raise ApiError(400, message, param="failure_reason")
        if status == refund["status"]:
            return self.public(refund)
        if status not in STATUSES[refund["status"]]:
            raise ApiError(400, f"A refund that is {refund['status']} cannot become {status}.", param="status")
        before = dict(refund)
        usual_reason = "merchant_request" if status == "canceled" else "lost_or_stolen_card"
        for name in ("pending_reason", "next_action", "instructions_email"):
            refund.pop(name, None)
        refund |= {
            "status": status,
            **refund_extras(status, failure_reason=failure_reason or usual_reason, now=self.now()),
        }
        self.refunds.save(refund)
        if status in ("failed", "canceled"):
            self._add_refunded(self.find_charge(refund["charge"]), -refund["amount"])
        self.emit("refund.updated", refund, before)
        self.emit("charge.refund.updated", refund, before)
        if status == "failed":
            self.emit("refund.failed", refund)
        return self.public(refund)


def require_status(status: str) -> None:
    """Raise ApiError 400 for what is not a refund's status."""
    if status not in STATUSES:
        raise ApiError(400, f"A refund's status is one of {', '.join(STATUSES)}.", param="status")
