"""Ids: version 7, in order of time, with 74 random bits, for everything that a client can name."""

import itertools
import re
import time
from functools import reduce
from operator import and_, or_
from uuid import UUID

import asyncpg
import pytest

from service.dev.stripe_standin import StripeStandin
from service.infra.ids import new_id
from service.infra.packaged import MIGRATIONS
from service.infra.resources import Resources
from service.shop import refunds
from tests.client import Shop
from tests.stripe_events import deliver, make_event

SERVICE = MIGRATIONS.parent / "service"
RANDOM_BITS = (1 << 76) - (1 << 64) | (1 << 62) - 1


def test_an_id_has_the_layout_of_version_7() -> None:
    before = time.time_ns() // 1_000_000

    made = new_id()

    assert (made.version, made.variant) == (7, "specified in RFC 4122")
    assert before <= made.int >> 80 <= time.time_ns() // 1_000_000


def test_each_of_the_74_random_bits_varies_and_none_counts() -> None:
    """Made within a millisecond or two, so that a counter would show: neighbours would share most of these bits."""
    random = [new_id().int & RANDOM_BITS for _ in range(1000)]

    assert RANDOM_BITS.bit_count() == 74
    assert reduce(or_, random) == RANDOM_BITS
    assert reduce(and_, random) == 0
    differing = [(one ^ two).bit_count() for one, two in itertools.pairwise(random)]
    # The mean of a thousand counts of 74 fair bits is 37, give or take 0.14.
    assert 36 < sum(differing) / len(differing) < 38


def test_ids_do_not_repeat_and_sort_by_their_millisecond(monkeypatch: pytest.MonkeyPatch) -> None:
    made = []
    for millisecond in range(100):
        monkeypatch.setattr(time, "time_ns", lambda now=millisecond: 1_700_000_000_000_000_000 + now * 1_000_000)
        made.append([new_id() for _ in range(100)])

    assert len({one for together in made for one in together}) == 10_000
    assert all(max(earlier) < min(later) for earlier, later in itertools.pairwise(made))


def test_the_service_draws_ids_by_this_function_alone() -> None:
    """A uuid5 is derived from what it names. A refund made in Stripe's dashboard has one, the same for each listing."""
    drawn = {
        (str(path.relative_to(SERVICE)), word)
        for path in SERVICE.rglob("*.py")
        for word in re.findall(r"\buuid[1-8]\b|gen_random_uuid|\bgetrandbits\b", path.read_text())
    }
    assert drawn == {("shop/refunds.py", "uuid5")}


@pytest.mark.usefixtures("webhooks_dropped")
async def test_a_cart_an_order_a_payment_and_a_refund_have_such_an_id(
    shop: Shop, stripe: StripeStandin, resources: Resources, database: asyncpg.Connection
) -> None:
    order = await shop.checked_out_cart()
    paid = stripe.pay(order["payment"]["stripe_session_id"])
    await deliver(shop, make_event("checkout.session.completed", paid))
    await shop.call("POST", f"/orders/{order['order_id']}/refund", 200, {"amount_minor": 100})
    await refunds.settle(resources, UUID(order["order_id"]))

    made = await database.fetch(
        "SELECT id FROM carts UNION ALL SELECT id FROM orders UNION ALL SELECT id FROM payments"
        " UNION ALL SELECT id FROM refunds WHERE cause = 'staff'"
    )

    assert [id.version for (id,) in made] == [7] * 4
