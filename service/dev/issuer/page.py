"""The sign-in page of the development issuer: a button for each demo user, and no password."""

import base64
import hashlib
from html import escape

from starlette.responses import HTMLResponse

from service.dev.issuer.tokens import CUSTOMERS, STAFF, User

STYLE = """
:root { color-scheme: light dark; --ink: #1b1f24; --soft: #59636e; --line: #d1d9e0; --back: #f6f8fa; --card: #fff; }
@media (prefers-color-scheme: dark) { :root { --ink: #f0f3f6; --soft: #a3adb8; --line: #3d444d; --back: #14171b;
  --card: #1d2126; } }
* { box-sizing: border-box; }
body { margin: 0; padding: 2rem 1rem; background: var(--back); color: var(--ink);
  font: 16px/1.5 system-ui, sans-serif; }
main { max-width: 28rem; margin: 0 auto; padding: 1.5rem 2rem 2rem; background: var(--card);
  border: 1px solid var(--line); border-radius: 10px; overflow-wrap: anywhere; }
h1 { margin: 0 0 .5rem; font-size: 1.5rem; }
h2 { margin: 1.5rem 0 .25rem; font-size: 1rem; }
p { margin: 0; color: var(--soft); }
button { display: block; width: 100%; margin-top: .5rem; padding: .6rem .8rem; font: inherit; text-align: left;
  color: inherit; background: transparent; border: 1px solid var(--line); border-radius: 8px; cursor: pointer; }
button:hover, button:focus-visible { border-color: currentcolor; }
small { display: block; color: var(--soft); }
"""
STYLE_HASH = base64.b64encode(hashlib.sha256(STYLE.encode()).digest()).decode()


def sign_in_page(client_id: str, origin: str) -> HTMLResponse:
    """The demo users to choose from; `origin` is where the client's redirect URI leads."""
    # Browsers check the redirect that follows a form too. A policy cannot name an IPv6 address.
    target = "http:" if "[" in origin else origin
    content = (
        "<h1>Sign in</h1><p>For development: these people are invented and need no password. "
        f"You sign in to <b>{escape(client_id)}</b>.</p>"
        f'<form method="post"><h2>Customers</h2>{_buttons(CUSTOMERS)}<h2>Staff</h2>{_buttons(STAFF)}</form>'
    )
    return html_page("Sign in", content, form_action=f"'self' {target}")


def html_page(title: str, content: str, status: int = 200, form_action: str = "'none'") -> HTMLResponse:
    """`content` is HTML, `title` is text."""
    page = (
        f'<!doctype html><html lang="en"><head><meta charset="utf-8"><title>{escape(title)}</title>'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        f"<style>{STYLE}</style></head><body><main>{content}</main></body></html>"
    )
    policy = (
        f"default-src 'none'; style-src 'sha256-{STYLE_HASH}'; form-action {form_action}; "
        "base-uri 'none'; frame-ancestors 'none'"
    )
    headers = {
        "Content-Security-Policy": policy,
        "Cache-Control": "no-store",
        "Referrer-Policy": "no-referrer",
        "X-Content-Type-Options": "nosniff",
    }
    return HTMLResponse(page, status, headers)


def _buttons(users: tuple[User, ...]) -> str:
    return "".join(
        f'<button name="user" value="{user.sub}">{user.sub.capitalize()}<small>'
        f"{', '.join(user.roles) or 'customer'} · {user.email}{'' if user.email_verified else ' (not verified)'}"
        "</small></button>"
        for user in users
    )
