"""New objects in Stripe's shapes, of the API version that stripe 16.1 pins."""

from __future__ import annotations

import string
from secrets import token_bytes

from .money import MAXIMUM, MINIMUM, USUAL_MINIMUM, format_amount
from .parameters import Parameters
from .replies import ApiError
from .store import Json

API_VERSION = "2026-10-28.endive"
DAY = 86_400
# Indexed by a random byte: `secrets.choice` for each letter would call the system that often.
LETTERS = (5 * (string.ascii_letters + string.digits))[:256]


def new_id(prefix: str, length: int = 24) -> str:
    return prefix + "".join([LETTERS[byte] for byte in token_bytes(length)])


def new_session(form: Parameters, base_url: str, now: int) -> Json:
    """An open Checkout Session. Raises ApiError 400 for parameters that Stripe refuses."""
    form.expect(
        required=("mode", "line_items", "success_url"),
        optional=(
            "cancel_url", "client_reference_id", "customer_email", "expires_at", "metadata",
            "payment_intent_data", "payment_method_types",
        ),
    )  # fmt: skip
    form.choice("mode", ("payment",))
    intent_data = form.section("payment_intent_data")
    intent_data.expect(optional=("metadata",))
    lines = read_lines(form)
    currency: str = lines[0]["currency"]
    total = sum(line["unit_amount"] * line["quantity"] for line in lines)
    minimum = MINIMUM.get(currency, USUAL_MINIMUM)
    if total < minimum:
        bound = f"{format_amount(minimum, currency)} {currency}"
        message = f"The Checkout Session's total amount due must add up to at least {bound}"
        raise ApiError(400, message, code="amount_too_small")
    if total > MAXIMUM:
        bound = format_amount(MAXIMUM, currency)
        message = f"The Checkout Session's total amount due must be no more than {bound}."
        raise ApiError(400, message, code="amount_too_large")
    expires_at = form.integer("expires_at", least=0, most=2**40)
    if expires_at is None:
        expires_at = now + DAY
    elif expires_at < now + 1800 or expires_at > now + DAY:
        bound = "at least 30 minutes" if expires_at < now + 1800 else "less than 24 hours"
        message = f"The `expires_at` timestamp must be {bound} from Checkout Session creation."
        raise ApiError(400, message, param="expires_at")
    # Longer than the ids of other objects, as at Stripe.
    session_id = new_id("cs_test_a1", 56)
    email = form.text("customer_email", most=800)
    return {
        "id": session_id,
        "object": "checkout.session",
        "adaptive_pricing": {"enabled": False},
        "after_expiration": None,
        "allow_promotion_codes": None,
        "amount_subtotal": total,
        "amount_total": total,
        "automatic_tax": {"enabled": False, "liability": None, "provider": None, "status": None},
        "billing_address_collection": None,
        "cancel_url": form.url("cancel_url"),
        "client_reference_id": form.text("client_reference_id", most=200),
        "client_secret": None,
        "consent": None,
        "consent_collection": None,
        "created": now,
        "currency": currency,
        "currency_conversion": None,
        "custom_fields": [],
        "custom_text": {"after_submit": None, "shipping_address": None, "submit": None,
                        "terms_of_service_acceptance": None},
        "customer": None,
        "customer_creation": "if_required",
        "customer_details": None if email is None else customer_details(email),
        "customer_email": email,
        "discounts": [],
        "expires_at": expires_at,
        "invoice": None,
        "invoice_creation": None,
        "livemode": False,
        "locale": None,
        "metadata": form.metadata(),
        "mode": "payment",
        # Since API version 2022-08-01, None until the customer first tries to pay.
        "payment_intent": None,
        "payment_link": None,
        "payment_method_collection": "if_required",
        "payment_method_options": {},
        "payment_method_types": form.texts("payment_method_types") or ["card"],
        "payment_status": "unpaid",
        "phone_number_collection": {"enabled": False},
        "recovered_from": None,
        "setup_intent": None,
        "shipping_address_collection": None,
        "shipping_cost": None,
        "shipping_options": [],
        "status": "open",
        "submit_type": None,
        "subscription": None,
        "success_url": form.url("success_url"),
        "total_details": {"amount_discount": 0, "amount_shipping": 0, "amount_tax": 0},
        "ui_mode": "hosted_page",
        "url": f"{base_url}/pay/{session_id}",
        "_lines": lines,
        "_intent_metadata": intent_data.metadata(),
        "_settles_at": None,
    }  # fmt: skip


def read_lines(form: Parameters) -> list[Json]:
    """The line items, all of one currency: [{name, description, currency, unit_amount, quantity}]."""
    sections = form.sections("line_items")
    if not sections:
        raise form.missing("line_items")
    if len(sections) > 100:
        message = "You can only pass in up to 100 line items."
        raise ApiError(400, message, param="line_items")
    lines: list[Json] = []
    for section in sections:
        section.expect(required=("price_data", "quantity"))
        price = section.section("price_data")
        price.expect(required=("currency", "product_data", "unit_amount"))
        product = price.section("product_data")
        product.expect(required=("name",), optional=("description", "images", "metadata"))
        product.metadata()
        currency = price.required_text("currency").lower()
        if len(currency) != 3 or not (currency.isascii() and currency.isalpha()):
            message = f"Invalid currency: {currency}. Stripe currently supports three-letter ISO codes only"
            raise ApiError(400, message, param=price.name("currency"))
        if lines and currency != lines[0]["currency"]:
            message = "All line items of a Checkout Session must be in the same currency."
            raise ApiError(400, message, param=price.name("currency"))
        line = {
            "name": product.required_text("name"),
            "description": product.text("description", most=40_000),
            "currency": currency,
            "unit_amount": price.required_integer("unit_amount", least=0, most=MAXIMUM),
            "quantity": section.required_integer("quantity", least=1, most=999_999),
        }
        lines.append(line)
    return lines


def customer_details(email: str) -> Json:
    return {"address": None, "email": email, "name": None, "phone": None, "tax_exempt": "none", "tax_ids": []}


def new_intent(session: Json, now: int) -> Json:
    intent_id = new_id("pi_")
    return {
        "id": intent_id,
        "object": "payment_intent",
        "amount": session["amount_total"],
        "amount_capturable": 0,
        "amount_received": 0,
        "automatic_payment_methods": None,
        "canceled_at": None,
        "cancellation_reason": None,
        "capture_method": "automatic_async",
        "client_secret": new_id(f"{intent_id}_secret_", 25),
        "confirmation_method": "automatic",
        "created": now,
        "currency": session["currency"],
        "customer": None,
        "description": None,
        "last_payment_error": None,
        "latest_charge": None,
        "livemode": False,
        "metadata": session["_intent_metadata"],
        "next_action": None,
        "payment_method": new_id("pm_"),
        "payment_method_options": {},
        "payment_method_types": session["payment_method_types"],
        "processing": None,
        "receipt_email": None,
        "setup_future_usage": None,
        "shipping": None,
        "status": "requires_payment_method",
    }


def new_charge(session: Json, now: int) -> Json:
    email = session["customer_details"] and session["customer_details"]["email"]
    return {
        "id": new_id("ch_"),
        "object": "charge",
        "amount": session["amount_total"],
        "amount_captured": 0,
        "amount_refunded": 0,
        "balance_transaction": None,
        "billing_details": {"address": None, "email": email, "name": None, "phone": None, "tax_id": None},
        "captured": False,
        "created": now,
        "currency": session["currency"],
        "customer": None,
        "description": None,
        "disputed": False,
        "failure_code": None,
        "failure_message": None,
        "livemode": False,
        "metadata": session["_intent_metadata"],
        "paid": False,
        "payment_intent": session["payment_intent"],
        "refunded": False,
        "status": "pending",
    }


def new_refund(
    charge: Json, amount: int, *, status: str, reason: str | None, metadata: dict[str, str], now: int
) -> Json:
    return {
        "id": new_id("re_"),
        "object": "refund",
        "amount": amount,
        "balance_transaction": None,
        "charge": charge["id"],
        "created": now,
        "currency": charge["currency"],
        "destination_details": {"card": {"type": "refund"}, "type": "card"},
        "failure_reason": None,
        "metadata": metadata,
        "payment_intent": charge["payment_intent"],
        "reason": reason,
        "receipt_number": None,
        "source_transfer_reversal": None,
        "status": status,
        "transfer_reversal": None,
    }


def new_dispute(charge: Json, now: int) -> Json:
    return {
        "id": new_id("du_"),
        "object": "dispute",
        "amount": charge["amount"],
        "balance_transactions": [],
        "charge": charge["id"],
        "created": now,
        "currency": charge["currency"],
        "is_charge_refundable": False,
        "livemode": False,
        "metadata": {},
        "payment_intent": charge["payment_intent"],
        "reason": "fraudulent",
        "status": "needs_response",
    }
