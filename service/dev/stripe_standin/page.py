"""The payment page at a session's `url`: plain HTML forms, no script, no resources from other hosts."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import suppress
from html import escape
from urllib.parse import parse_qs

from starlette.requests import Request
from starlette.responses import HTMLResponse, RedirectResponse, Response

from .money import format_amount
from .objects import address_of
from .payments import Payments
from .replies import ApiError
from .store import Json
from .webhooks import Deliverer

REDIRECT_SECONDS = 10

STYLE = """
:root { color-scheme: light dark; --ink: #1a1f36; --soft: #697386; --line: #e3e8ee; --back: #f6f9fc;
  --card: #fff; --accent: #635bff; --bad: #b3093c; }
@media (prefers-color-scheme: dark) { :root { --ink: #f5f6f8; --soft: #a3acba; --line: #363c4a;
  --back: #14171f; --card: #1d212b; --accent: #7a73ff; --bad: #ff7a9c; } }
* { box-sizing: border-box; }
body { margin: 0; padding: 2rem 1rem; background: var(--back); color: var(--ink);
  font: 16px/1.5 system-ui, -apple-system, "Segoe UI", sans-serif; }
main { max-width: 30rem; margin: 0 auto; padding: 2rem; background: var(--card);
  border: 1px solid var(--line); border-radius: 12px; box-shadow: 0 8px 24px rgb(0 0 0 / 8%); }
h1 { margin: 0 0 .25rem; font-size: 1rem; font-weight: 500; color: var(--soft); }
.total { margin: 0 0 1.5rem; font-size: 2.25rem; font-weight: 600; letter-spacing: -.02em; }
table { width: 100%; border-collapse: collapse; margin-bottom: 1.5rem; }
td { padding: .6rem 0; border-bottom: 1px solid var(--line); vertical-align: top;
  overflow-wrap: anywhere; }
td + td { padding-left: 1rem; text-align: right; white-space: nowrap;
  font-variant-numeric: tabular-nums; }
small { display: block; color: var(--soft); }
label { display: block; margin-bottom: 1rem; font-size: .875rem; font-weight: 500; }
:is(input, select) { display: block; width: 100%; margin-top: .35rem; padding: .65rem .75rem; font: inherit;
  color: inherit; background: transparent; border: 1px solid var(--line); border-radius: 8px; }
button { display: block; width: 100%; margin-top: .6rem; padding: .7rem; font: inherit; font-weight: 500;
  color: inherit; background: transparent; border: 1px solid var(--line); border-radius: 8px;
  cursor: pointer; }
button.pay { color: #fff; background: var(--accent); border-color: var(--accent); }
button.plain { border-color: transparent; color: var(--soft); }
:is(input, button):focus-visible { outline: 2px solid var(--accent); outline-offset: 2px; }
[role=alert] { margin: 0 0 1rem; padding: .6rem .8rem; color: var(--bad); border: 1px solid;
  border-radius: 8px; }
footer { max-width: 30rem; margin: 1rem auto 0; text-align: center; font-size: .8125rem; color: var(--soft); }
"""
HEADERS = {
    "Content-Security-Policy": "default-src 'none'; style-src 'unsafe-inline'; frame-ancestors 'none'",
    "Cache-Control": "no-store",
    "Referrer-Policy": "no-referrer",
}


def html_page(title: str, content: str, status: int = 200) -> HTMLResponse:
    """`content` is HTML, `title` is text."""
    page = (
        f'<!doctype html><html lang="en"><head><meta charset="utf-8"><title>{escape(title)}</title>'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        f"<style>{STYLE}</style></head><body><main>{content}</main>"
        "<footer>A stand-in for Stripe Checkout: this is a test and no money moves.</footer></body></html>"
    )
    return HTMLResponse(page, status, HEADERS)


# Buttons of an open session by payment method: the action, and what the button says.
OFFERS = {
    "card": (("pay", "Pay {total}"), ("secure", "Pay with 3-D Secure"), ("decline", "Decline")),
    "sepa_debit": (("later", "Pay by bank transfer (settles later)"),),
    "boleto": (("voucher", "Pay by Boleto (a voucher, to be paid within 3 days)"),),
}


def payment_form(session: Json, problem: str | None) -> HTMLResponse:
    currency: str = session["currency"]
    total = escape(format_amount(session["amount_total"], currency))
    rows = "".join(line_row(line) for line in session["_lines"])
    alert = f'<p role="alert">{escape(problem)}</p>' if problem else ""
    email = escape(session["customer_email"] or "shopper@example.com")
    offers = [
        offer for method, offers in OFFERS.items() if method in session["payment_method_types"] for offer in offers
    ]
    cancel = '<button class="plain" name="action" value="cancel" formnovalidate>Cancel</button>'
    content = (
        f'<h1>To pay</h1><p class="total">{total}</p><table>{rows}</table>{alert}<form method="post">'
        '<label>E-mail<input type="email" name="email" required autocomplete="email"'
        f' value="{email}"></label>{contact_fields(session)}'
        f"{buttons(offers).format(total=total)}"
        f"{cancel if session['cancel_url'] else ''}</form>"
    )
    return html_page(f"Pay {format_amount(session['amount_total'], currency)}", content)


# What the customer is asked for an address: the member, its label, and what browsers fill in.
ADDRESS = (
    ("name", "Name", "shipping name"),
    ("line1", "Address", "shipping address-line1"),
    ("line2", "Flat, building", "shipping address-line2"),
    ("postal_code", "Postal code", "shipping postal-code"),
    ("city", "City", "shipping address-level2"),
    ("state", "State", "shipping address-level1"),
)


def contact_fields(session: Json) -> str:
    """The fields of the address and the phone number that a session collects."""
    fields = ""
    if session["shipping_address_collection"]:
        examples = {**address_of(session), "name": "Jenny Rosen"}
        fields += "".join(
            f'<label>{label}<input name="{name}" autocomplete="{fill}" value="{examples[name] or ""}"'
            f"{'' if name in ('line2', 'state') else ' required'}></label>"
            for name, label, fill in ADDRESS
        )
        countries = session["shipping_address_collection"]["allowed_countries"]
        options = "".join(f"<option>{country}</option>" for country in countries)
        fields += f'<label>Country<select name="country" autocomplete="shipping country">{options}</select></label>'
    if session["phone_number_collection"]["enabled"]:
        fields += (
            '<label>Phone<input type="tel" name="phone" autocomplete="shipping tel" required'
            ' value="+14155550132"></label>'
        )
    return fields


def read_contact(session: Json, form: dict[str, list[str]]) -> Json | None:
    """What the customer sent of these fields; None if nothing is collected, or another form was sent."""
    names = [name for name, _, _ in ADDRESS] + ["phone"]
    contact: Json = {name: form[name][0].strip()[:500] or None for name in names if name in form}
    if (country := form.get("country", [""])[0]) in (
        (session["shipping_address_collection"] or {}).get("allowed_countries", ())
    ):
        contact["country"] = country
    return contact or None


def buttons(offers: Sequence[tuple[str, str]]) -> str:
    """Buttons for these actions and texts; the first is the main one."""
    classes = ["pay", *["other"] * len(offers)]
    return "".join(
        f'<button class="{kind}" name="action" value="{action}">{text}</button>'
        for kind, (action, text) in zip(classes, offers, strict=False)
    )


def secure_form(email: str | None) -> HTMLResponse:
    content = (
        '<h1>3-D Secure</h1><p>Your bank asks whether this payment is yours.</p><form method="post">'
        f'<input type="hidden" name="email" value="{escape(email or "")}">'
        f"{buttons((('pay', 'Complete'), ('decline', 'Fail')))}</form>"
    )
    return html_page("3-D Secure", content)


def line_row(line: Json) -> str:
    unit = format_amount(line["unit_amount"], line["currency"])
    amount = format_amount(line["unit_amount"] * line["quantity"], line["currency"])
    description = f"<small>{escape(line['description'])}</small>" if line["description"] else ""
    quantity = f"<small>{line['quantity']} × {escape(unit)}</small>"
    return f"<tr><td>{escape(line['name'])}{description}{quantity}</td><td>{escape(amount)}</td></tr>"


def closed_page(session: Json) -> HTMLResponse:
    if session["status"] == "expired":
        return html_page("Expired", "<h1>Too late</h1><p>This payment page has expired. Nothing was charged.</p>", 410)
    if session["payment_status"] == "paid":
        return html_page("Paid", "<h1>Done</h1><p>This order has been paid already.</p>")
    content = (
        '<h1>Done</h1><p>This order is complete; its payment settles later.</p><form method="post">'
        f"{buttons((('settle', 'Let the money arrive'), ('fail', 'Let the payment fail')))}</form>"
    )
    return html_page("Complete", content)


class PaymentPage:
    """GET shows the form; POST applies the `action` of the pressed button.

    `settle_seconds`: how long after `later` the money arrives; None leaves that to `settle`. Like Stripe, the page
    does not redirect a customer who has paid before the endpoint answered the event, for 10 seconds at most.
    """

    def __init__(self, payments: Payments, deliverer: Deliverer, settle_seconds: float | None) -> None:
        self._payments = payments
        self._deliverer = deliverer
        self._settle_seconds = settle_seconds

    async def show(self, request: Request) -> Response:
        session = self._session(request)
        if session is None:
            return html_page("Not found", "<h1>Not found</h1><p>There is no such payment page.</p>", 404)
        return payment_form(session, None) if session["status"] == "open" else closed_page(session)

    async def submit(self, request: Request) -> Response:
        form = parse_qs((await request.body()).decode(errors="replace"), keep_blank_values=True)
        session = self._session(request)
        action = form.get("action", [""])[0]
        if session is None:
            return await self.show(request)
        if session["status"] != "open":
            if action in ("settle", "fail") and session["payment_status"] == "unpaid":
                with suppress(ApiError):
                    self._payments.settle(session["id"], action == "settle")
                    self._payments.store.commit()
            return closed_page(session)
        session_id: str = session["id"]
        email = form.get("email", [""])[0].strip()[:800] or None
        contact = read_contact(session, form)
        if action == "cancel" and session["cancel_url"]:
            return RedirectResponse(session["cancel_url"], 303, HEADERS)
        try:
            if action == "decline":
                self._payments.decline(session_id)
                self._payments.store.commit()
                intent = self._payments.intent(session["payment_intent"])
                return payment_form(session, intent["last_payment_error"]["message"])
            if action == "secure":
                self._payments.require_action(session_id)
                self._payments.store.commit()
                return secure_form(email)
            if action == "pay":
                self._payments.pay(session_id, email=email, contact=contact)
            elif action == "later":
                self._payments.pay(
                    session_id,
                    email=email,
                    method="sepa_debit",
                    settles_in=self._settle_seconds,
                    contact=contact,
                )
            elif action == "voucher":
                self._payments.pay(session_id, email=email, method="boleto", contact=contact)
            else:
                return payment_form(session, None)
        except ApiError as error:
            return payment_form(session, str(error))
        completed = self._payments.events.newest()
        self._payments.store.commit()
        await self._deliverer.wait_for_attempt(completed["id"], REDIRECT_SECONDS)
        return RedirectResponse(session["success_url"].replace("{CHECKOUT_SESSION_ID}", session_id), 303, HEADERS)

    def _session(self, request: Request) -> Json | None:
        self._payments.catch_up()
        self._payments.store.commit()
        try:
            return self._payments.session(request.path_params["session_id"])
        except ApiError:
            return None
