"""The currencies that the shop sells in, and amounts as text."""

from typing import Annotated, NamedTuple

from pydantic import AfterValidator, Field

from service.errors import ShopError, invalid

# The highest price or total in any currency, as in the constraints products_price_range and orders_total_range.
MOST_MINOR = 999_999_999_999


class Rules(NamedTuple):
    """A currency's decimal places, and the totals that Stripe can charge, in minor units."""

    decimals: int
    minimum_minor: int = 50
    maximum_minor: int = 99_999_999


# Each currency that Stripe takes and whose minor unit is the same at ISO 4217 and at Stripe. Not sold:
# - ISK, UGX, MGA: ISO 4217 has 0, 0 and 2 decimal places, Stripe 2, 2 and 0.
# - BHD, JOD, KWD, OMR, TND: three places at both, but Stripe takes multiples of ten only.
# - STD: ISO 4217 has replaced it by STN, which Stripe does not take.
# - Others of ISO 4217: Stripe does not take them.
# ANG, which XCG replaced in 2025, stays for products that are priced in it.
# Where Stripe documents no minimum, 0.50 is the default. Stripe may demand more, because the charge is converted.
# A maximum is what every payment method takes; cards take more.
# https://docs.stripe.com/currencies
CURRENCIES: dict[str, Rules] = {
    **dict.fromkeys(
        "AFN ALL AMD ANG AOA ARS AUD AWG AZN BAM BBD BDT BMD BND BOB BRL BSD BWP BYN BZD CAD CDF CHF CNY CRC CVE DOP "
        "DZD EGP ETB EUR FJD FKP GEL GIP GMD GTQ GYD HNL HTG ILS JMD KES KGS KHR KYD KZT LAK LBP LKR LRD LSL MAD MDL "
        "MKD MMK MNT MOP MUR MVR MWK MZN NAD NGN NIO NPR NZD PAB PEN PGK PHP PKR QAR RSD RUB SAR SBD SCR SGD SHP SLE "
        "SOS SRD SZL TJS TOP TRY TTD TWD TZS UAH USD UYU UZS WST XCD XCG YER ZAR ZMW".split(),
        Rules(2),
    ),
    **dict.fromkeys("BIF CLP DJF GNF JPY KMF KRW PYG RWF VND VUV XAF XOF XPF".split(), Rules(0)),
    "AED": Rules(2, 2_00),
    "COP": Rules(2, maximum_minor=99_999_999_99),
    "CZK": Rules(2, 15_00),
    "DKK": Rules(2, 2_50),
    "GBP": Rules(2, 30),
    "HKD": Rules(2, 4_00),
    "HUF": Rules(2, 175_00),
    "IDR": Rules(2, maximum_minor=MOST_MINOR),
    "INR": Rules(2, maximum_minor=9_999_999_99),
    "MXN": Rules(2, 10_00),
    "MYR": Rules(2, 2_00),
    "NOK": Rules(2, 3_00),
    "PLN": Rules(2, 2_00),
    "RON": Rules(2, 2_00),
    "SEK": Rules(2, 3_00),
    "THB": Rules(2, 10_00),
}


def _check_sold(currency: str) -> str:
    if currency not in CURRENCIES:
        raise ValueError("the shop does not sell in this currency")
    return currency


Currency = Annotated[str, AfterValidator(_check_sold), Field(json_schema_extra={"enum": sorted(CURRENCIES)})]
# Also those that the shop does not sell in.
AnyCurrency = Annotated[str, Field(pattern="^[A-Z]{3}$")]


def check_price(price_minor: int, currency: str) -> None:
    """Raise `invalid` for a price above what can be charged in its currency."""
    maximum = CURRENCIES[currency].maximum_minor
    if price_minor > maximum:
        raise invalid("/price_minor", f"must be at most {maximum} in {currency}")


def total_out_of_range(total_minor: int, currency: str) -> ShopError | None:
    """The `amount_out_of_range` for a total that cannot be charged in this currency; None for any other."""
    _, low, high = CURRENCIES[currency]
    if low <= total_minor <= high:
        return None
    return ShopError(
        "amount_out_of_range",
        f"The total of an order in {currency} is {low} to {high} minor units.",
        total_minor=total_minor,
        minimum_minor=low,
        maximum_minor=high,
    )


# Of the currencies that are not sold: Stripe may capture a payment of any currency, and its refund is shown.
_OTHER_DECIMALS = {**dict.fromkeys(("BHD", "JOD", "KWD", "OMR", "TND"), 3), "MGA": 0}


def readable(amount_minor: int, currency: str) -> str:
    """An amount in Stripe's minor units as text, for example `12.50 EUR`."""
    decimals = CURRENCIES[currency].decimals if currency in CURRENCIES else _OTHER_DECIMALS.get(currency, 2)
    whole, rest = divmod(amount_minor, 10**decimals)
    return f"{whole}.{rest:0{decimals}d} {currency}" if decimals else f"{whole} {currency}"
