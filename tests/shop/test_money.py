"""The currencies that the shop sells in, and the limits of prices and totals in each."""

import asyncpg
import pytest

from service.dev.stripe_standin import money as stripe_money
from service.shop.money import CURRENCIES, MOST_MINOR
from tests.client import Shop

# ISO 4217, list one, without funds, metals and codes for tests: the currencies by their decimal places.
ISO_4217 = {
    0: "BIF CLP DJF GNF ISK JPY KMF KRW PYG RWF UGX VND VUV XAF XOF XPF".split(),
    2: (
        "AED AFN ALL AMD AOA ARS AUD AWG AZN BAM BBD BDT BMD BND BOB BRL BSD BTN BWP BYN BZD CAD CDF CHF CNY COP CRC "
        "CUP CVE CZK DKK DOP DZD EGP ERN ETB EUR FJD FKP GBP GEL GHS GIP GMD GTQ GYD HKD HNL HTG HUF IDR ILS INR IRR "
        "JMD KES KGS KHR KPW KYD KZT LAK LBP LKR LRD LSL MAD MDL MGA MKD MMK MNT MOP MRU MUR MVR MWK MXN MYR MZN NAD "
        "NGN NIO NOK NPR NZD PAB PEN PGK PHP PKR PLN QAR RON RSD RUB SAR SBD SCR SDG SEK SGD SHP SLE SOS SRD SSP STN "
        "SVC SYP SZL THB TJS TMT TOP TRY TTD TWD TZS UAH USD UYU UZS VED VES WST XCD XCG YER ZAR ZMW ZWG"
    ).split(),
    3: "BHD IQD JOD KWD LYD OMR TND".split(),
}
NOT_SOLD = {
    "Stripe counts in hundredths": {"ISK", "UGX"},
    "Stripe counts in whole units": {"MGA"},
    "Stripe takes multiples of ten thousandths only": {"BHD", "JOD", "KWD", "OMR", "TND"},
    "Stripe does not take it": set("BTN CUP ERN GHS IQD IRR KPW LYD MRU SDG SSP STN SVC SYP TMT VED VES ZWG".split()),
}


def test_every_currency_is_sold_or_left_out_for_a_reason() -> None:
    decimals = {currency: places for places, currencies in ISO_4217.items() for currency in currencies}
    left_out = {currency for currencies in NOT_SOLD.values() for currency in currencies}

    # Withdrawn in favour of XCG.
    assert CURRENCIES.keys() - {"ANG"} == decimals.keys() - left_out
    assert left_out <= decimals.keys()
    taken = {currency.upper() for currency in stripe_money.SUPPORTED}
    # The euro has replaced BGN and HRK.
    assert CURRENCIES.keys() == taken - left_out - {"BGN", "HRK", "STD"}
    for currency, rules in CURRENCIES.items():
        stripe_decimals = 0 if currency.lower() in stripe_money.NO_DECIMALS else 2
        assert rules.decimals == decimals.get(currency, 2) == stripe_decimals, currency


def test_the_limits_are_those_of_stripe() -> None:
    for currency, (_, minimum, maximum) in CURRENCIES.items():
        assert minimum == stripe_money.MINIMUM.get(currency.lower(), stripe_money.USUAL_MINIMUM), currency
        assert maximum == stripe_money.MAXIMUM.get(currency.lower(), stripe_money.USUAL_MAXIMUM), currency
    assert max(rules.maximum_minor for rules in CURRENCIES.values()) == MOST_MINOR


@pytest.mark.parametrize(
    ("currency", "lowest", "highest"),
    [
        ("EUR", 50, 99_999_999),
        ("GBP", 30, 99_999_999),
        ("JPY", 50, 99_999_999),
        ("CZK", 1_500, 99_999_999),
        ("MXN", 1_000, 99_999_999),
        ("HUF", 17_500, 99_999_999),
        ("INR", 50, 999_999_999),
        ("COP", 50, 9_999_999_999),
        ("IDR", 50, 999_999_999_999),
    ],
)
async def test_prices_and_totals_are_within_the_limits_of_their_currency(
    shop: Shop, database: asyncpg.Connection, currency: str, lowest: int, highest: int
) -> None:
    unit, cheap = [await shop.create_product(price_minor=price, currency=currency) for price in (1, lowest - 1)]
    dear = await shop.create_product(price_minor=highest, currency=currency)
    too_little, too_much = await shop.create_cart((cheap["id"], 1)), await shop.create_cart((dear["id"], 2))
    just_enough = await shop.create_cart((cheap["id"], 1), (unit["id"], 1))
    most = await shop.create_cart((dear["id"], 1))

    for cart, total in ((too_little, lowest - 1), (too_much, 2 * highest)):
        problem = await shop.check_out(cart, 409)
        assert problem["code"] == "amount_out_of_range"
        limits = problem["total_minor"], problem["minimum_minor"], problem["maximum_minor"]
        assert limits == (total, lowest, highest)
        assert (await shop.call("GET", f"/carts/{cart}", 200))["status"] == "OPEN"
    assert await database.fetchval("SELECT count(*) FROM orders") == 0
    assert await database.fetchval("SELECT count(*) FROM stock_movements WHERE order_id IS NOT NULL") == 0

    assert (await shop.check_out(just_enough))["total_minor"] == lowest
    assert (await shop.check_out(most))["total_minor"] == highest

    product = {"name": "Palace", "price_minor": highest + 1, "currency": currency, "stock": 1}
    refusals = [
        await shop.call("POST", "/products", 422, product),
        await shop.call("PATCH", f"/products/{unit['id']}", 422, {"price_minor": highest + 1}),
    ]
    assert [[error["pointer"] for error in refusal["errors"]] for refusal in refusals] == [["/price_minor"]] * 2
    assert (await shop.call("GET", f"/products/{unit['id']}", 200))["version"] == unit["version"]


async def test_the_largest_cart_of_the_largest_prices_is_refused(shop: Shop, database: asyncpg.Connection) -> None:
    await database.execute(
        "INSERT INTO products (name, price_minor, currency, stock, max_per_order)"
        " SELECT 'Palace', 999999999999, 'IDR', 9999, 9999 FROM generate_series(1, 100);"
        " INSERT INTO stock_movements (product_id, delta, reason) SELECT id, stock, 'initial stock' FROM products"
    )
    cart = await shop.create_cart((1, 9_999))
    await database.execute(
        f"INSERT INTO cart_items (cart_id, product_id, quantity) SELECT '{cart}', id, 9999 FROM products WHERE id > 1"
    )
    total = 100 * 9_999 * MOST_MINOR

    assert (await shop.call("GET", f"/carts/{cart}", 200))["total_minor"] == total
    for body in ({}, {"expected_total_minor": total}, {"expected_total_minor": 2**63 - 1}):
        problem = await shop.check_out(cart, 409, body)
        assert (problem["code"], problem["total_minor"]) == ("amount_out_of_range", total)
