"""The currencies that the shop sells in, and amounts as text."""

from typing import Annotated

from pydantic import AfterValidator, Field

# Decimal places by ISO 4217, for the currencies whose minor unit is the same at Stripe. ISK and UGX (two places at
# Stripe), MGA and all currencies with three places are missing, since Stripe counts them differently.
# https://docs.stripe.com/currencies#zero-decimal
EXPONENTS: dict[str, int] = {
    **dict.fromkeys(
        "AED ALL AMD ANG AUD AWG AZN BAM BBD BDT BMD BND BOB BRL BSD BWP BYN BZD CAD CDF CHF CNY COP CRC CVE "
        "CZK DKK DOP DZD EGP ETB EUR FJD FKP GBP GEL GIP GMD GTQ GYD HKD HNL HTG IDR ILS INR JMD KES KGS KHR "
        "KYD KZT LAK LBP LKR LRD LSL MAD MDL MKD MMK MNT MOP MUR MVR MWK MXN MYR MZN NAD NGN NIO NOK NPR NZD "
        "PAB PEN PGK PHP PKR PLN QAR RON RSD SAR SBD SCR SEK SGD SHP SOS SRD SZL THB TJS TOP TRY TTD TWD TZS "
        "UAH USD UYU UZS WST XCD YER ZAR ZMW".split(),
        2,
    ),
    **dict.fromkeys("BIF CLP DJF GNF JPY KMF KRW PYG RWF VND VUV XAF XOF XPF".split(), 0),
}


def _check_sold(currency: str) -> str:
    if currency not in EXPONENTS:
        raise ValueError("the shop does not sell in this currency")
    return currency


Currency = Annotated[str, AfterValidator(_check_sold), Field(json_schema_extra={"enum": [*EXPONENTS]})]

# The total that an order may have, in minor units. Stripe's limits depend on the currency; these suit all of them.
TOTAL_MINOR = range(50, 99_999_999 + 1)


def readable(amount_minor: int, currency: str) -> str:
    """An amount as text, for example `12.50 EUR`."""
    exponent = EXPONENTS[currency]
    whole, rest = divmod(amount_minor, 10**exponent)
    return f"{whole}.{rest:0{exponent}d} {currency}" if exponent else f"{whole} {currency}"
