"""Which updates are HOT: they change no index, so that they write less and VACUUM has less to do."""

import asyncpg
import pytest

from service.infra.statements import files
from tests.sql.locks import transaction
from tests.sql.scenarios import SCENARIOS
from tests.sql.test_headers import sql

pytestmark = pytest.mark.asyncio(loop_scope="module")

# The tables in which a statement makes new index entries: it changes a column of an index, or of an index's condition.
NOT_HOT = {
    # A category's slug is its key.
    "catalog/update_category": {"categories"},
    # Whether a product is active, and in which category, is in indexes of pages.
    "catalog/update_product": {"products"},
    "catalog/deactivate_product": {"products"},
    "imports/update_products": {"products"},
    # An ordered cart leaves the index of carts that may be deleted.
    "checkout/close_cart": {"carts"},
    # An erased order is no longer found by its e-mail, and is no longer listed with its owner's.
    "erasure/erase_columns": {"orders", "carts"},
    # An owned cart or order is listed with its owner's.
    "ownership/claim_cart": {"carts"},
    "ownership/claim_orders": {"orders"},
    # A dispute is found by its order, and a stuck item is listed while it is open.
    "disputes/link_order": {"disputes"},
    "stuck/add_item": {"stuck_items"},
    "stuck/end_items": {"stuck_items"},
    "stuck/resolve_item": {"stuck_items"},
    # Revocations are read by their time.
    "access/revoke_tokens": {"token_revocations"},
    # The ids of a payment at Stripe are unique.
    "payment_session/attach_session": {"payments"},
    "settlement/mark_processing": {"payments", "orders"},
    "settlement/record_late_payment": {"payments"},
    # An order is listed by its status and found by what is due; so is a payment, except by the two of a usual purchase.
    "transitions/mark_paid": {"payments", "orders"},
    "transitions/mark_cancelled": {"payments", "orders"},
    "fulfilment/mark_fulfilled": {"orders"},
    "refunds/set_balance": {"orders"},
    "sweep/claim_orders": {"orders"},
    # What is due, and what Stripe calls it.
    "sweep/claim_events": {"stripe_events"},
    "webhooks/finish_event": {"stripe_events"},
    "webhooks/record_event": {"stripe_events"},
    "sweep/claim_refunds": {"refunds"},
    "refunds/record_refund": {"refunds"},
    "refunds/fail_refund": {"refunds"},
    "sweep/claim_unmatched": {"unmatched_payments"},
    "refunds/settle_unmatched": {"unmatched_payments"},
    # An outgoing event is found while it is due, an endpoint while it is active, a product's change when it is due.
    "deliveries/record_attempts": {"event_deliveries"},
    "event_endpoints/resend_delivery": {"event_deliveries"},
    "deliveries/switch_off": {"event_endpoints"},
    "event_endpoints/update_endpoint": {"event_endpoints"},
    "event_endpoints/delete_endpoint": {"event_endpoints"},
    "outbox/announce_products": {"product_announcements"},
}
# For each table, how many updates of this transaction were not HOT.
COUNTED = """
SELECT relname, pg_stat_get_xact_tuples_updated(oid) - pg_stat_get_xact_tuples_hot_updated(oid)
FROM pg_class WHERE relnamespace = 'public'::regnamespace AND relkind = 'r'
"""


async def test_an_update_is_hot_unless_it_changes_an_index(runner: asyncpg.Connection) -> None:
    """Each scenario runs in a transaction of its own, in small tables, whose pages have room for the new rows."""
    not_hot: dict[str, set[str]] = {}
    for name in files():
        for run in SCENARIOS[name].does:
            async with transaction(runner):
                await runner.execute(run.before or "SELECT")
                before = dict(await runner.fetch(COUNTED))
                await runner.fetch(sql(name), *run.arguments)
                after = dict(await runner.fetch(COUNTED))
            not_hot.setdefault(name, set()).update(table for table in after if after[table] > before[table])

    assert {name: tables for name, tables in not_hot.items() if tables} == NOT_HOT
