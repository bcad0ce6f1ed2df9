"""Stripe's currencies and their limits. Amounts are integers in the currency's minor unit."""

from __future__ import annotations

# https://docs.stripe.com/currencies#zero-decimal and #three-decimal; every other currency has two.
NO_DECIMALS = frozenset(
    ["bif", "clp", "djf", "gnf", "jpy", "kmf", "krw", "mga", "pyg", "rwf", "vnd", "vuv", "xaf", "xof", "xpf"]
)
THREE_DECIMALS = frozenset(["bhd", "jod", "kwd", "omr", "tnd"])
# https://docs.stripe.com/currencies#minimum-and-maximum-charge-amounts
MINIMUM = {
    "aed": 200, "czk": 1500, "dkk": 250, "gbp": 30, "hkd": 400, "huf": 17500,
    "mxn": 1000, "myr": 200, "nok": 300, "pln": 200, "ron": 200, "sek": 300, "thb": 1000,
}  # fmt: skip
USUAL_MINIMUM = 50
# What every payment method takes.
MAXIMUM = {"cop": 9_999_999_999, "idr": 999_999_999_999, "inr": 999_999_999}
USUAL_MAXIMUM = 99_999_999
SYMBOLS = {"usd": "$", "eur": "€", "gbp": "£", "jpy": "¥"}


def format_amount(amount: int, currency: str) -> str:
    """`$1,234.50` for a currency with a symbol, else `SEK 1,234.50`."""
    decimals = 0 if currency in NO_DECIMALS else 3 if currency in THREE_DECIMALS else 2
    major, minor = divmod(amount, 10**decimals)
    digits = f"{major:,}" + (f".{minor:0{decimals}}" if decimals else "")
    return SYMBOLS.get(currency, f"{currency.upper()} ") + digits
