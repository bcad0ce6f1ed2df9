"""New objects in Stripe's shapes, of the API version that stripe 16.1 pins."""

from __future__ import annotations

import string
from secrets import token_bytes

from .closed_lists import ALLOWABLE_PAYMENT_METHODS, COUNTRIES, EXCLUDABLE_PAYMENT_METHODS
from .money import MAXIMUM, MINIMUM, SUPPORTED, USUAL_MAXIMUM, USUAL_MINIMUM, format_amount
from .parameters import Parameters
from .replies import ApiError, doc_url
from .store import Json

API_VERSION = "2026-10-28.endive"
DAY = 86_400
BRANDING = {
    "background_color": "#ffffff",
    "border_style": "rounded",
    "button_color": "#0074d4",
    "display_name": "Stand-in",
    "font_family": "default",
    "icon": None,
    "logo": None,
}
# Indexed by a random byte: `secrets.choice` for each letter would call the system that often.
LETTERS = (5 * (string.ascii_letters + string.digits))[:256]


def new_id(prefix: str, length: int = 24) -> str:
    return prefix + "".join([LETTERS[byte] for byte in token_bytes(length)])


def new_session(form: Parameters, base_url: str, now: int, methods: list[str]) -> Json:
    """An open Checkout Session that offers `methods`. Raises ApiError 400 for parameters that Stripe refuses."""
    form.expect(
        required=("mode", "line_items", "success_url"),
        optional=(
            "allowed_payment_method_types", "cancel_url", "client_reference_id", "customer_email",
            "excluded_payment_method_types", "expires_at", "metadata", "payment_intent_data",
            "phone_number_collection", "shipping_address_collection",
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
    maximum = MAXIMUM.get(currency, USUAL_MAXIMUM)
    if total > maximum:
        bound = format_amount(maximum, currency)
        message = f"The Checkout Session's total amount due must be no more than {bound}."
        raise ApiError(400, message, code="amount_too_large")
    expires_at = form.integer("expires_at", least=0, most=2**40)
    if expires_at is None:
        expires_at = now + DAY
    elif expires_at < now + 1800 or expires_at > now + DAY:
        bound = "at least 30 minutes" if expires_at < now + 1800 else "less than 24 hours"
        message = f"The `expires_at` timestamp must be {bound} from Checkout Session creation."
        raise ApiError(400, message, param="expires_at")
    allowed, excluded, offered = read_methods(form, methods)
    phone = form.section("phone_number_collection")
    phone.expect(required=("enabled",) if "phone_number_collection" in form else ())
    shipping = form.section("shipping_address_collection")
    shipping.expect(required=("allowed_countries",) if "shipping_address_collection" in form else ())
    countries = shipping.choices("allowed_countries", COUNTRIES)
    # Longer than the ids of other objects, as at Stripe.
    session_id = new_id("cs_test_a1", 56)
    email = form.text("customer_email", most=800)
    return {
        "id": session_id,
        "object": "checkout.session",
        "adaptive_pricing": {"enabled": False},
        "after_expiration": None,
        "allow_promotion_codes": None,
        "allowed_payment_method_types": allowed,
        "amount_subtotal": total,
        "amount_total": total,
        "automatic_tax": {"enabled": False, "liability": None, "provider": None, "status": None},
        "billing_address_collection": None,
        "branding_settings": dict(BRANDING),
        "cancel_url": form.url("cancel_url"),
        "client_reference_id": form.text("client_reference_id", most=200),
        "client_secret": None,
        "collected_information": None,
        "consent": None,
        "consent_collection": None,
        "created": now,
        "currency": currency,
        "currency_conversion": None,
        "custom_fields": [],
        "custom_text": {"after_submit": None, "shipping_address": None, "submit": None,
                        "terms_of_service_acceptance": None},
        "customer": None,
        "customer_account": None,
        "customer_creation": "if_required",
        "customer_details": None if email is None else customer_details(email),
        "customer_email": email,
        "discounts": [],
        "excluded_payment_method_types": excluded,
        "expires_at": expires_at,
        "integration_identifier": None,
        "invoice": None,
        "invoice_creation": None,
        "livemode": False,
        "locale": None,
        "managed_payments": {"enabled": False},
        "metadata": form.metadata(),
        "mode": "payment",
        "origin_context": None,
        # Since API version 2022-08-01, None until the customer first tries to pay.
        "payment_intent": None,
        "payment_link": None,
        "payment_method_collection": "if_required",
        "payment_method_configuration_details": None,
        "payment_method_options": {},
        "payment_method_types": offered,
        "payment_status": "unpaid",
        "permissions": None,
        "phone_number_collection": {"enabled": phone.boolean("enabled") or False},
        "recovered_from": None,
        "saved_payment_method_options": None,
        "setup_intent": None,
        "shipping_address_collection": {"allowed_countries": countries} if countries else None,
        "shipping_cost": None,
        "shipping_options": [],
        "status": "open",
        "submit_type": None,
        "subscription": None,
        "success_url": form.url("success_url"),
        "total_details": {"amount_discount": 0, "amount_shipping": 0, "amount_tax": 0},
        "ui_mode": "hosted_page",
        "url": f"{base_url}/pay/{session_id}",
        "wallet_options": None,
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
        if currency not in SUPPORTED:
            message = (
                f"Invalid currency: {currency}. Stripe currently supports these currencies:"
                f" {', '.join(sorted(SUPPORTED))}"
            )
            raise ApiError(400, message, param=price.name("currency"))
        if lines and currency != lines[0]["currency"]:
            message = "All line items of a Checkout Session must be in the same currency."
            raise ApiError(400, message, param=price.name("currency"))
        line = {
            "name": product.required_text("name"),
            "description": product.text("description", most=40_000),
            "currency": currency,
            "unit_amount": price.required_integer("unit_amount", least=0, most=MAXIMUM.get(currency, USUAL_MAXIMUM)),
            "quantity": section.required_integer("quantity", least=1, most=999_999),
        }
        lines.append(line)
    return lines


def read_methods(form: Parameters, methods: list[str]) -> tuple[list[str] | None, list[str] | None, list[str]]:
    """The allowed and the excluded payment methods as the session shows them, and those of `methods` it offers."""
    allowed, excluded = (
        form.choices(name, values) if name in form else None
        for name, values in (
            ("allowed_payment_method_types", ALLOWABLE_PAYMENT_METHODS),
            ("excluded_payment_method_types", EXCLUDABLE_PAYMENT_METHODS),
        )
    )
    offered = [method for method in allowed or methods if method in methods and method not in (excluded or ())]
    if not offered:
        message = (
            "No valid payment method types for this Checkout Session. Please ensure that you have activated payment"
            " methods compatible with your chosen currency in your dashboard"
            " (https://dashboard.stripe.com/settings/payment_methods) or specify allowed_payment_method_types."
        )
        raise ApiError(400, message)
    return allowed, excluded, offered


def customer_details(email: str, session: Json | None = None) -> Json:
    """The details of a customer, with the phone number that `session` collects from one who completed it."""
    phone = session is not None and session["phone_number_collection"]["enabled"]
    return {
        "address": None,
        "business_name": None,
        "email": email,
        "individual_name": None,
        "name": None,
        "phone": "+14155550132" if phone else None,
        "tax_exempt": "none",
        "tax_ids": [],
    }


def address_of(session: Json) -> Json:
    """An address in the first country that the session's customers may live in."""
    return {
        "city": "San Francisco",
        "country": session["shipping_address_collection"]["allowed_countries"][0],
        "line1": "354 Oyster Point Blvd",
        "line2": None,
        "postal_code": "94080",
        "state": "CA",
    }


def new_intent(session: Json, now: int) -> Json:
    intent_id = new_id("pi_")
    return {
        "id": intent_id,
        "object": "payment_intent",
        "allowed_payment_method_types": session["allowed_payment_method_types"],
        "amount": session["amount_total"],
        "amount_capturable": 0,
        "amount_details": {"tip": {}},
        "amount_received": 0,
        "application": None,
        "application_fee_amount": None,
        "automatic_payment_methods": None,
        "canceled_at": None,
        "cancellation_reason": None,
        "capture_method": "automatic_async",
        "client_secret": new_id(f"{intent_id}_secret_", 25),
        "confirmation_method": "automatic",
        "created": now,
        "currency": session["currency"],
        "customer": None,
        "customer_account": None,
        "description": None,
        "excluded_payment_method_types": session["excluded_payment_method_types"],
        "last_payment_error": None,
        "latest_charge": None,
        "livemode": False,
        "managed_payments": {"enabled": False},
        "metadata": session["_intent_metadata"],
        "next_action": None,
        "on_behalf_of": None,
        "payment_method": new_id("pm_"),
        "payment_method_configuration_details": None,
        "payment_method_options": {},
        "payment_method_types": session["payment_method_types"],
        "payment_record": None,
        "processing": None,
        "receipt_email": None,
        "review": None,
        "setup_future_usage": None,
        "shipping": None,
        "source": None,
        "statement_descriptor": None,
        "statement_descriptor_suffix": None,
        "status": "requires_payment_method",
        "transfer_data": None,
        "transfer_group": None,
        "_method": None,
    }


def next_action_of(session: Json, voucher_expires_at: int | None) -> Json:
    """What a customer has to do: pay a voucher until a time, or, without one, pass 3-D Secure."""
    if voucher_expires_at is None:
        script = {"type": "three_d_secure_redirect", "stripe_js": session["url"]}
        return {"type": "use_stripe_sdk", "use_stripe_sdk": script}
    voucher = {
        "expires_at": voucher_expires_at,
        "hosted_voucher_url": "https://payments.stripe.com/boleto/voucher/test",
        "number": "01010101010101010101010101010101010101010101010",
        "pdf": "https://payments.stripe.com/boleto/voucher/test/pdf",
    }
    return {"type": "boleto_display_details", "boleto_display_details": voucher}


DECLINES = {
    "card_declined": ("card_error", "Your card was declined."),
    "insufficient_funds": ("invalid_request_error", "The customer's account has insufficient funds."),
    "payment_intent_authentication_failure": (
        "invalid_request_error",
        "The provided PaymentMethod has failed authentication. You can provide payment_method_data or a new"
        " PaymentMethod to attempt to fulfill this PaymentIntent again.",
    ),
    "payment_intent_payment_attempt_expired": (
        "invalid_request_error",
        "The payment attempt for this PaymentIntent has expired. The customer did not pay in time.",
    ),
}


def decline_of(code: str, charge: Json | None) -> Json:
    """Why an attempt to pay failed, as a payment intent shows it."""
    kind, message = DECLINES[code]
    error = {"code": code, "doc_url": doc_url(code), "message": message, "type": kind}
    if code == "card_declined":
        error["decline_code"] = "generic_decline"
    return error if charge is None else {**error, "charge": charge["id"]}


def new_charge(session: Json, intent: Json, now: int, *, authenticated: bool) -> Json:
    """A charge that is pending; `authenticated`: by 3-D Secure."""
    charge_id = new_id("ch_")
    email = session["customer_details"] and session["customer_details"]["email"]
    return {
        "id": charge_id,
        "object": "charge",
        "amount": session["amount_total"],
        "amount_captured": 0,
        "amount_refunded": 0,
        "application": None,
        "application_fee": None,
        "application_fee_amount": None,
        "balance_transaction": None,
        "billing_details": {"address": None, "email": email, "name": None, "phone": None, "tax_id": None},
        "calculated_statement_descriptor": "STANDIN",
        "captured": False,
        "created": now,
        "currency": session["currency"],
        "customer": None,
        "description": None,
        "disputed": False,
        "failure_balance_transaction": None,
        "failure_code": None,
        "failure_message": None,
        "fraud_details": {},
        "livemode": False,
        "metadata": session["_intent_metadata"],
        "on_behalf_of": None,
        "outcome": None,
        "paid": False,
        "payment_intent": session["payment_intent"],
        "payment_method": intent["payment_method"],
        "payment_method_details": method_details(intent["_method"], authenticated=authenticated),
        "receipt_email": None,
        "receipt_number": None,
        "receipt_url": None,
        "refunded": False,
        "review": None,
        "shipping": None,
        "source": None,
        "source_transfer": None,
        "statement_descriptor": None,
        "statement_descriptor_suffix": None,
        "status": "pending",
        "transfer_data": None,
        "transfer_group": None,
    }


def method_details(method: str, *, authenticated: bool) -> Json:
    """The `payment_method_details` of a charge."""
    if method == "boleto":
        details: Json = {"tax_id": "000.000.000-00"}
    elif method == "sepa_debit":
        details = {
            "bank_code": "19043",
            "branch_code": "",
            "country": "AT",
            "expected_debit_date": None,
            "fingerprint": "Gh5yVRsKo1t7Emtz",
            "last4": "3201",
            "mandate": new_id("mandate_"),
        }
    else:
        secure = {
            "authentication_flow": "challenge",
            "electronic_commerce_indicator": "05",
            "exemption_indicator": None,
            "result": "authenticated",
            "result_reason": None,
            "transaction_id": new_id("", 36),
            "version": "2.2.0",
        }
        details = {
            "amount_authorized": None,
            "authorization_code": None,
            "brand": "visa",
            "checks": {"address_line1_check": None, "address_postal_code_check": None, "cvc_check": "pass"},
            "country": "US",
            "exp_month": 8,
            "exp_year": 2034,
            "extended_authorization": {"status": "disabled"},
            "fingerprint": "Xt5EWLLDS7FJjR1c",
            "funding": "credit",
            "incremental_authorization": {"status": "unavailable"},
            "installments": None,
            "last4": "4242",
            "mandate": None,
            "multicapture": {"status": "unavailable"},
            "network": "visa",
            "network_token": {"used": False},
            "network_transaction_id": None,
            "overcapture": {"maximum_amount_capturable": 0, "status": "unavailable"},
            "regulated_status": "unregulated",
            "three_d_secure": secure if authenticated else None,
            "transaction_link_id": None,
            "wallet": None,
        }
    return {method: details, "type": method}


def new_refund(
    charge: Json, amount: int, *, status: str, reason: str | None, metadata: dict[str, str], now: int
) -> Json:
    refund_id = new_id("re_")
    method = charge["payment_method_details"]["type"]
    details: Json = {"card": {"type": "refund"}, "type": "card"}
    if method != "card":
        # Money of a debit or a voucher goes back by bank transfer.
        transfer = "eu_bank_transfer" if method == "sepa_debit" else "br_bank_transfer"
        details = {transfer: {"reference": None, "reference_status": "pending"}, "type": transfer}
    return {
        "id": refund_id,
        "object": "refund",
        "amount": amount,
        "balance_transaction": new_id("txn_"),
        "charge": charge["id"],
        "created": now,
        "currency": charge["currency"],
        "customer": None,
        "customer_account": None,
        "destination_details": details,
        "metadata": metadata,
        "payment_intent": charge["payment_intent"],
        "payment_method": charge["payment_method"],
        "reason": reason,
        "receipt_number": None,
        "source_transfer_reversal": None,
        "status": status,
        "transfer_reversal": None,
    }


def refund_extras(status: str, *, failure_reason: str, now: int) -> Json:
    """The members that a refund has in this status only."""
    if status == "pending":
        return {"pending_reason": "processing"}
    if status == "requires_action":
        email = {"email_sent_at": now, "email_sent_to": "shopper@example.com"}
        details = {"email_sent": email, "expires_at": now + 45 * DAY}
        return {
            "instructions_email": "shopper@example.com",
            "next_action": {"display_details": details, "type": "display_details"},
        }
    if status in ("failed", "canceled"):
        return {"failure_balance_transaction": new_id("txn_"), "failure_reason": failure_reason}
    return {}


EVIDENCE = (
    "access_activity_log", "billing_address", "cancellation_policy", "cancellation_policy_disclosure",
    "cancellation_rebuttal", "customer_communication", "customer_email_address", "customer_name",
    "customer_purchase_ip", "customer_signature", "duplicate_charge_documentation",
    "duplicate_charge_explanation", "duplicate_charge_id", "product_description", "receipt", "refund_policy",
    "refund_policy_disclosure", "refund_refusal_explanation", "service_date", "service_documentation",
    "shipping_address", "shipping_carrier", "shipping_date", "shipping_documentation",
    "shipping_tracking_number", "uncategorized_file", "uncategorized_text",
)  # fmt: skip


def new_dispute(charge: Json, amount: int, *, reason: str, status: str, now: int) -> Json:
    method = charge["payment_method_details"]["type"]
    inquiry = status.startswith("warning_")
    dispute = {
        "id": new_id("dp_"),
        "object": "dispute",
        "amount": amount,
        "balance_transactions": [],
        "charge": charge["id"],
        "created": now,
        "currency": charge["currency"],
        "enhanced_eligibility_types": [],
        "evidence": {**dict.fromkeys(EVIDENCE), "enhanced_evidence": {}},
        "evidence_details": {
            "due_by": now + 9 * DAY,
            "enhanced_eligibility": {},
            "has_evidence": False,
            "past_due": False,
            "submission_count": 0,
            "submission_method": "not_submitted",
        },
        "is_charge_refundable": inquiry,
        "livemode": False,
        "metadata": {},
        "network_reason_code": "10.4",
        "payment_intent": charge["payment_intent"],
        "reason": reason,
        "status": status,
    }
    if method == "card":
        card = {
            "brand": "visa",
            "case_type": "inquiry" if inquiry else "chargeback",
            "network": "visa",
            "network_reason_code": "10.4",
        }
        dispute["payment_method_details"] = {"card": card, "type": "card"}
    return dispute


def dispute_transaction(dispute: Json, amount: int, fee: int, now: int) -> Json:
    """The balance transaction of a dispute that moves `amount` and takes `fee`."""
    description = f"Chargeback {'withdrawal' if amount < 0 else 'reversal'} for {dispute['charge']}"
    currency = dispute["currency"]
    fees = [{"amount": fee, "application": None, "currency": currency, "description": "Dispute fee",
             "type": "stripe_fee"}]  # fmt: skip
    return {
        "id": new_id("txn_"),
        "object": "balance_transaction",
        "amount": amount,
        "available_on": now,
        "balance_type": "payments",
        "created": now,
        "currency": currency,
        "description": description,
        "exchange_rate": None,
        "fee": fee,
        "fee_details": fees if fee else [],
        "net": amount - fee,
        "reporting_category": "dispute" if amount < 0 else "dispute_reversal",
        "source": dispute["id"],
        "status": "available",
        "type": "adjustment",
    }
