"""A small shop, and for every statement the arguments with which it does its work there.

The proofs in this folder run each statement as its scenario says. A new file under `sql/` needs an entry in SCENARIOS:

- `does`: runs that together lock, write and return everything that the statement can;
- `none`: a run that matches no row;
- `refused`: for each guard, a run that violates it;
- `predecessor`: the arguments of the statement that, by the header's `waits`, has locked the rows before.
"""

import hashlib
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any
from uuid import UUID

from service.infra.packaged import index_names, migration_names

# Categories and products; NO_… are ids that no row has.
TENTS, MUGS, UNUSED, NO_CATEGORY = 1, 2, 3, 404
FILE_RUN = UUID(int=1)
TENT, LAMP, ROPE, MUG, OLD, OLDER, NO_PRODUCT = 1, 2, 3, 4, 5, 6, 404

OPEN, EMPTY, PENDING, REORDER, PAID, FULFILLED, CANCELLED, REORDERED, LATE, ABANDONED, NEW, SINGLE = (
    UUID(f"00000000-0000-4000-8000-00000000000{digit}") for digit in "123456789afc"
)

EMAIL = "someone@example.com"
PICTURE = "https://images.example.com/tent.jpg"
# Owns the carts and the orders of PAID and FULFILLED; nobody owns the others.
USER, STRANGER = "user", "stranger"

# An order has the id of its cart, a payment the id of its order. Rows that a statement locks together are inserted in
# another order than that of their ids: a plan that locks them as they lie fails the test. Nothing is overdue for a day.
# Each order of a search, and whether only what is in stock.
SORTED = [("relevance", None), ("newest", False), ("price", None), ("-price", None), ("name", False)]

SEED = f"""
INSERT INTO categories (name, slug) VALUES ('Tents', 'tents'), ('Mugs', 'mugs'), ('Unused', 'unused');
INSERT INTO products (id, name, category_id, price_minor, currency, stock, sku) OVERRIDING SYSTEM VALUE
VALUES
    ({ROPE}, 'Rope', {TENTS}, 700, 'EUR', 10, 'R-1'),
    ({TENT}, 'Tent', {TENTS}, 1250, 'EUR', 10, 'T-1'),
    ({LAMP}, 'Lamp', {TENTS}, 990, 'EUR', 10, 'L-1'),
    ({MUG}, 'Mug', {MUGS}, 400, 'USD', 10, NULL);
INSERT INTO stock_movements (product_id, delta, reason) SELECT id, 10, 'initial stock' FROM products;
SELECT setval('products_id_seq', 10), setval('categories_id_seq', 10);

INSERT INTO product_search (product_id, version, language, words, name_key, price_minor, currency)
SELECT
    id,
    version,
    'simple',
    array_to_tsvector(ARRAY['$' || currency, '#' || category_id, lower(name), '=' || lower(name)]),
    lower(name),
    price_minor,
    currency
FROM products
WHERE id <> {MUG};
INSERT INTO search_words (word) VALUES ('tent'), ('lamp'), ('lamps');

INSERT INTO carts (id, status, currency)
VALUES
    ('{REORDER}', 'CHECKED_OUT', 'EUR'), ('{EMPTY}', 'OPEN', 'EUR'), ('{PENDING}', 'CHECKED_OUT', 'EUR'),
    ('{OPEN}', 'OPEN', 'EUR'), ('{PAID}', 'CHECKED_OUT', 'EUR'), ('{FULFILLED}', 'CHECKED_OUT', 'EUR'),
    ('{CANCELLED}', 'OPEN', 'EUR'), ('{LATE}', 'OPEN', 'EUR'), ('{SINGLE}', 'OPEN', 'EUR');
INSERT INTO carts (id, created_at, updated_at) VALUES ('{ABANDONED}', '2000-01-01', '2000-01-01');
INSERT INTO cart_items (cart_id, product_id, quantity)
SELECT carts.id, products.id, 1 FROM carts, products
WHERE carts.id <> '{EMPTY}' AND products.id <> {MUG} AND (carts.id <> '{SINGLE}' OR products.id = {TENT});

-- Two orders have an e-mail address with its hash, two have one without.
INSERT INTO orders (
    id, cart_id, status, total_minor, currency, expires_at, paid_at, fulfilled_at, cancelled_at, email, email_digest,
    next_attempt_at, user_id, reference
)
SELECT
    id::uuid,
    cart_id::uuid,
    status,
    2940,
    'EUR',
    now() + interval '1 day',
    CASE WHEN status IN ('PAID', 'FULFILLED') THEN now() + interval '1 day' END,
    CASE WHEN status = 'FULFILLED' THEN now() + interval '1 day' END,
    CASE WHEN status = 'CANCELLED' THEN now() END,
    CASE WHEN id IN ('{PAID}', '{FULFILLED}', '{CANCELLED}', '{LATE}') THEN '{EMAIL}' END,
    CASE WHEN id IN ('{PAID}', '{FULFILLED}') THEN sha256('{EMAIL}') END,
    CASE WHEN status IN ('PENDING_PAYMENT', 'PAID') THEN now() END,
    CASE WHEN id IN ('{PAID}', '{FULFILLED}') THEN '{USER}' END,
    CASE WHEN id IN ('{PAID}', '{FULFILLED}', '{LATE}') THEN 'web-1' END
FROM (
    VALUES
    ('{REORDERED}', '{REORDER}', 'CANCELLED'),
    ('{REORDER}', '{REORDER}', 'PENDING_PAYMENT'),
    ('{PENDING}', '{PENDING}', 'PENDING_PAYMENT'),
    ('{PAID}', '{PAID}', 'PAID'),
    ('{FULFILLED}', '{FULFILLED}', 'FULFILLED'),
    ('{CANCELLED}', '{CANCELLED}', 'CANCELLED'),
    ('{LATE}', '{LATE}', 'CANCELLED')
) AS new_order (id, cart_id, status);
SELECT setval('orders_number_seq', 10);
INSERT INTO order_items (order_id, product_id, name, quantity, unit_price_minor)
SELECT orders.id, products.id, products.name, 1, products.price_minor FROM orders, products WHERE products.id <> {MUG};
INSERT INTO stock_movements (product_id, delta, reason, order_id, hold, actor)
SELECT product_id, -quantity, 'hold', order_id, 1, 'user:anna' FROM order_items;
INSERT INTO stock_movements (product_id, delta, reason, order_id, hold)
SELECT product_id, quantity, 'release', order_id, 1
FROM order_items INNER JOIN orders ON order_id = id WHERE status = 'CANCELLED';
UPDATE products SET stock = (SELECT sum(delta) FROM stock_movements WHERE product_id = products.id);

INSERT INTO payments (
    id, order_id, order_number, status, amount_minor, currency, session_parameters, session_expires_at
)
SELECT
    id,
    id,
    number,
    CASE status WHEN 'CANCELLED' THEN 'EXPIRED' ELSE 'INITIATED' END,
    2940,
    'EUR',
    '{{"mode": "payment"}}',
    now()
FROM orders
ORDER BY id DESC;
UPDATE payments SET
    status = CASE order_id WHEN '{LATE}' THEN 'REFUND_PENDING' ELSE 'SUCCEEDED' END,
    stripe_session_id = 'cs_' || order_id,
    stripe_payment_intent_id = 'pi_' || order_id
WHERE order_id IN ('{PAID}', '{FULFILLED}', '{LATE}');

INSERT INTO order_events (order_id, from_status, to_status, cause, note)
SELECT id, NULL, 'PENDING_PAYMENT', 'x', 'x' FROM orders ORDER BY id DESC;
INSERT INTO order_events (order_id, from_status, to_status, cause)
SELECT id, 'PENDING_PAYMENT', CASE status WHEN 'FULFILLED' THEN 'PAID' ELSE status END, 'x'
FROM orders WHERE status <> 'PENDING_PAYMENT';
INSERT INTO order_events (order_id, from_status, to_status, cause)
SELECT id, 'PAID', 'FULFILLED', 'x' FROM orders WHERE status = 'FULFILLED';

UPDATE carts SET user_id = '{USER}' WHERE id IN ('{PAID}', '{FULFILLED}');

-- Moves the events and the movements of one order behind the others.
UPDATE order_events SET cause = cause WHERE order_id = '{FULFILLED}';
UPDATE stock_movements SET reason = reason WHERE order_id = '{PAID}';

INSERT INTO refunds (id, order_id, stripe_payment_intent_id, amount_minor, cause, next_attempt_at)
VALUES
    ('{LATE}', '{LATE}', 'pi_{LATE}', 2940, 'late_money', now()),
    ('{PAID}', '{PAID}', 'pi_{PAID}', 50, 'staff', now());
INSERT INTO refunds (id, order_id, stripe_payment_intent_id, amount_minor, cause, status, stripe_refund_id)
VALUES ('{PENDING}', '{LATE}', 'pi_{LATE}', 2940, 'late_money', 'FAILED', 're_1');

INSERT INTO unmatched_payments (stripe_payment_intent_id, order_id, amount_minor, currency)
VALUES ('pi_2', '{PAID}', 50, 'EUR'), ('pi_1', '{PAID}', 50, 'EUR');
INSERT INTO refunds (id, order_id, stripe_payment_intent_id, amount_minor, cause, status, stripe_refund_id)
VALUES ('{FULFILLED}', '{PAID}', 'pi_2', 50, 'stripe', 'SUCCEEDED', 're_2'),
    ('{CANCELLED}', '{PAID}', 'pi_1', 50, 'stripe', 'SUCCEEDED', 're_3');

INSERT INTO refunds (id, order_id, stripe_payment_intent_id, amount_minor, cause, status, stripe_refund_id)
VALUES ('{SINGLE}', '{FULFILLED}', 'pi_{FULFILLED}', 2240, 'staff', 'SUCCEEDED', 're_4');
INSERT INTO order_shipping (order_id, name) VALUES ('{FULFILLED}', 'Jenny Rosen'), ('{PAID}', 'Jenny Rosen');
INSERT INTO refund_items (refund_id, product_id, quantity, restock)
VALUES ('{SINGLE}', {LAMP}, 1, true), ('{SINGLE}', {TENT}, 1, true);

INSERT INTO disputes (
    stripe_dispute_id, stripe_payment_intent_id, order_id, amount_minor, currency, reason, status, reported_at
)
VALUES
    ('dp_1', 'pi_{PAID}', '{PAID}', 2940, 'EUR', 'fraudulent', 'needs_response', '2020-01-01'),
    ('dp_3', 'pi_other', NULL, 50, 'EUR', 'general', 'lost', '2020-01-01'),
    ('dp_2', 'pi_other', NULL, 50, 'EUR', 'general', 'lost', '2020-01-01');
INSERT INTO api_keys (name, prefix, digest, scopes, created_by, expires_at)
VALUES
    ('erp', 'cck_erp', sha256('body'), '{{stock:write}}', 'anna', '2100-01-01'),
    ('old', 'cck_old', sha256('old'), '{{stock:write}}', 'anna', '2100-01-01');
INSERT INTO token_revocations (subject) VALUES ('anna'), ('carla');
INSERT INTO stuck_items (kind, id, order_id, reason)
VALUES
    ('dispute_open', 'dp_3', NULL, 'needs_response'),
    ('dispute_open', 'dp_1', '{PAID}', 'needs_response'),
    ('refund_failed', '{PENDING}', '{LATE}', 'declined'),
    ('refund_open', '{LATE}', '{LATE}', 'pending');
INSERT INTO stuck_items (kind, id, order_id, reason, ended_at, resolved)
VALUES
    ('unmatched_payment', 'pi_x', '{LATE}', 'less', now(), true),
    ('refund_failed', 're_1', '{LATE}', 'declined', now(), true),
    ('unmatched_payment', 'pi_1', '{PAID}', 'less', now(), false);

INSERT INTO audit_log (actor, action, subject, after, request_id)
VALUES
    ('admin', 'create_product', 'product:1', '{{}}', 'x'),
    ('user:anna', 'create_product', 'product:2', '{{}}', 'x'),
    ('admin', 'update_product', 'product:1', '{{}}', 'x');

-- Two active endpoints, one that is off, two that staff deleted, one of these without events. Rows are shuffled.
INSERT INTO event_endpoints (url, types, secret, active, deleted_at)
SELECT
    'https://example.com/' || n,
    CASE
        WHEN n = 2 THEN '{{dispute.closed}}'
        ELSE '{{order.placed,order.paid,order.fulfilled,order.cancelled,refund.succeeded,product.sold_out}}'
    END::text [],
    sha256('secret'),
    n <= 2,
    CASE WHEN n >= 4 THEN timestamptz '2000-01-01' END
FROM generate_series(1, 5) AS n;
INSERT INTO event_leases (endpoint_id) SELECT id FROM event_endpoints ORDER BY id DESC;
UPDATE event_leases SET run_id = '{NEW}' WHERE endpoint_id = 1;
INSERT INTO event_deliveries (endpoint_id, event_id, type, subject, data)
SELECT
    n,
    '{PAID}',
    'order.' || type,
    'order:{PAID}',
    '{{"order_id": "{PAID}"}}'
FROM unnest(ARRAY[4, 3, 2, 1]) AS n, unnest(ARRAY['placed', 'paid']) AS type
ORDER BY n DESC, type DESC;
INSERT INTO event_deliveries (endpoint_id, event_id, type, subject, data, status, next_attempt_at, finished_at)
SELECT 1, '{PAID}', 'order.placed', 'order:{LATE}', '{{}}', 'delivered', NULL, '2000-01-01' FROM generate_series(1, 2);
UPDATE event_deliveries SET result = '500' WHERE id = 7;
INSERT INTO product_announcements (product_id, sold_out, sold_out_at, restocked_at, due_at)
VALUES ({LAMP}, false, '2000-01-01', '2000-01-01', now()), ({TENT}, false, '2000-01-01', '2000-01-01', now());
INSERT INTO imports (digest, position, moved_to) VALUES (sha256('file'), 1, 1), (sha256('other'), 1, 1);
INSERT INTO import_lines (run, line, sku, name, category, price_minor, currency, active, stock, stock_delta)
VALUES
    ('{FILE_RUN}', 3, 'T-1', 'Tent', 'mugs', NULL, NULL, NULL, NULL, 5),
    ('{FILE_RUN}', 2, 'R-1', 'Long rope', 'mugs', 800, 'EUR', false, NULL, NULL),
    ('{FILE_RUN}', 4, 'L-1', NULL, 'mugs', NULL, NULL, NULL, NULL, NULL),
    ('{FILE_RUN}', 5, 'N-1', 'New', 'mugs', 100, 'EUR', true, 5, 5);

UPDATE refunds SET reason = 'a scratch' WHERE id = '{CANCELLED}';
UPDATE refunds SET reason = 'a scratch' WHERE id = '{FULFILLED}';
UPDATE refunds SET reason = 'a scratch' WHERE id = '{PAID}';

INSERT INTO stripe_events (id, type, payload, received_at, next_attempt_at)
VALUES
    ('evt_1', 'charge.refunded', '{{}}', now() + interval '1 day', now()),
    ('evt_2', 'charge.refunded', '{{}}', now() + interval '1 day', now());
INSERT INTO stripe_events (id, type, payload, outcome, handled_at)
VALUES ('evt_old', 'charge.refunded', '{{}}', 'applied', '2000-01-01');
INSERT INTO stripe_events (id, type, payload, order_id, outcome, handled_at)
VALUES
    ('evt_4', 'charge.refunded', '{{}}', '{FULFILLED}', 'applied', now()),
    ('evt_3', 'charge.refunded', '{{}}', '{FULFILLED}', 'applied', now());
INSERT INTO stripe_events (id, type, payload, order_id, outcome, handled_at)
SELECT 'evt_' || id, 'x', '{{"data": {{"object": {{"customer_email": "{EMAIL}"}}}}}}', id, 'applied', now()
FROM orders WHERE id IN ('{REORDERED}', '{REORDER}');
INSERT INTO audit_violations (rule, subject, detail)
VALUES ('audit/x', 'order 2', 'wrong'), ('audit/x', 'order 1', 'wrong');
INSERT INTO audit_passes (rule) VALUES ('audit/x');
INSERT INTO audit_balances (product_id, units) SELECT id, 0 FROM products ORDER BY id DESC;
UPDATE worker_heartbeats SET claimed_by = '{NEW}' WHERE loop = 'audit';
INSERT INTO idempotency_keys (id, request_digest, created_at)
VALUES
    (sha256('new'), sha256('body'), now() + interval '1 day'),
    (sha256('old'), sha256('body'), now() - interval '2 days'),
    (sha256('older'), sha256('body'), now() - interval '3 days');
INSERT INTO idempotency_keys (id, request_digest, order_id, status, answer)
VALUES
    (sha256('b'), sha256('body'), '{FULFILLED}', 200, '{{}}'),
    (sha256('a'), sha256('body'), '{FULFILLED}', 200, '{{}}'),
    (sha256('c'), sha256('body'), '{FULFILLED}', 200, '{{}}');
-- Off sale, and not yet taken out of the search.
INSERT INTO products (id, name, price_minor, currency, stock, active) OVERRIDING SYSTEM VALUE
VALUES ({OLD}, 'Old', 100, 'CHF', 0, false), ({OLDER}, 'Older', 90, 'CHF', 0, false);
INSERT INTO product_search (product_id, version, language, words, name_key, price_minor, currency)
VALUES
    ({OLDER}, 1, 'simple', '$CHF =older older', 'older', 90, 'CHF'),
    ({OLD}, 1, 'simple', '$CHF =old old', 'old', 100, 'CHF');
"""


@dataclass(frozen=True, slots=True)
class Run:
    """Arguments of a statement, and SQL that runs before it in its transaction."""

    arguments: tuple[Any, ...]
    before: str = ""


@dataclass(frozen=True, slots=True)
class Scenario:
    """How a statement is run; the module's docstring explains each field."""

    does: tuple[Run, ...]
    none: Run | None = None
    refused: dict[str, Run] = field(default_factory=dict)
    predecessor: tuple[Any, ...] = ()


def run(*arguments: Any, before: str = "") -> Run:
    return Run(arguments, before)


def does(
    *runs: Run, none: Run | None = None, refused: dict[str, Run] | None = None, predecessor: tuple[Any, ...] = ()
) -> Scenario:
    return Scenario(runs, none, refused or {}, predecessor)


LAST = 2**62
LONG_AGO, SOON = datetime(2000, 1, 1, tzinfo=UTC), datetime(2100, 1, 1, tzinfo=UTC)
KEY, NEW_KEY, BODY = (hashlib.sha256(text).digest() for text in (b"new", b"unused", b"body"))
FILE = hashlib.sha256(b"file").digest()
CLIENT = BODY[:16]
DIGEST = hashlib.sha256(EMAIL.encode()).digest()
STOCK_RULE = "audit/stock_matches_ledger"
# Of checkout/reserve: the client's network, pending orders of a client, units in a line, actor, owner, reference.
LIMITS = (CLIENT, 5, 100, "customer", USER, "web-1")

SCENARIOS = {
    "access/add_key": does(
        run("shop", "cck_shop", KEY, ["storefront"], 30, "anna"),
        none=run("erp", "cck_erp", KEY, ["stock:write"], 30, "anna"),
    ),
    "access/find_key": does(run(BODY), none=run(BODY, before="UPDATE api_keys SET revoked_at = now()")),
    "access/list_keys": does(run(), none=run(before="DELETE FROM api_keys")),
    "access/list_revocations": does(
        run(86_400), none=run(1, before="UPDATE token_revocations SET revoked_at = '2000-01-01'")
    ),
    "access/revoke_key": does(run("erp"), none=run("other")),
    "access/revoke_tokens": does(run("anna"), run("berta")),
    "audit_log/add_entry": does(run("admin", "update_product", "product:1", "{}", None, "x")),
    "audit_log/list_entries": does(run(LAST, 10), none=run(0, 10)),
    "audit_log/list_entries_by_actor": does(run("admin", LAST, 10), none=run("open", LAST, 10)),
    "audit_log/list_entries_of_subject": does(run("product:1", LAST, 10), none=run("product:1", 0, 10)),
    "audit_log/list_entries_of_subject_by_actor": does(
        run("product:1", "admin", LAST, 10), none=run("product:1", "user:anna", LAST, 10)
    ),
    "audit/captured_is_paid_at_stripe": does(
        run([PAID, PENDING, PENDING], ["cs_1", "cs_2", "cs_3"], ["pi_x", "pi_x", None], [True, True, False]),
        run([PAID], ["cs_1"], [None], [False]),
        none=run([PAID, PAID, PENDING], ["cs_1", "cs_2", "cs_3"], [f"pi_{PAID}", None, None], [True, False, False]),
    ),
    "audit/cart_lines_have_products": does(
        run([PAID, OPEN], before=f"UPDATE cart_items SET product_id = {NO_PRODUCT} - product_id"), none=run([PAID])
    ),
    "audit/carts_match_orders": does(
        run([PAID, PENDING], before="UPDATE carts SET status = 'OPEN'"), none=run([PAID, CANCELLED])
    ),
    "audit/history_is_legal": does(run([PENDING, PAID], before="DELETE FROM order_events"), none=run([PENDING, PAID])),
    "audit/nothing_is_overdue": does(
        run(before="UPDATE orders SET expires_at = '2000-01-01', paid_at = paid_at - interval '1 month'"), none=run()
    ),
    "audit/order_lines_add_up": does(
        run([PENDING, PAID], before="UPDATE orders SET total_minor = total_minor + 1"), none=run([PENDING, PAID])
    ),
    "audit/payment_fits_order": does(
        run([PAID, LATE], before="UPDATE payments SET currency = 'CHF'"),
        run([PAID, LATE], before="UPDATE payments SET order_number = 0"),
        none=run([PAID, LATE]),
    ),
    "audit/refund_lines_add_up": does(
        run([PAID, FULFILLED], before="UPDATE refund_items SET quantity = 2"), none=run([PAID, FULFILLED])
    ),
    "audit/stock_matches_ledger": does(
        run([TENT, LAMP], before="UPDATE products SET stock = stock + 1"), none=run([TENT, LAMP])
    ),
    "audit/unmatched_payments_are_refunded": does(
        run(), none=run(before="UPDATE unmatched_payments SET next_attempt_at = NULL")
    ),
    "audit/units_add_up": does(run([PENDING, PAID], before="DELETE FROM stock_movements"), none=run([PENDING, PAID])),
    "audit_state/fold_balances": does(run(0, 2), run(0, 4, before="DELETE FROM audit_balances"), none=run(1, 2)),
    "audit_state/list_carts": does(run(PENDING), none=run(UUID(int=2**128 - 1))),
    "audit_state/list_carts_by_events": does(run(0, 5), none=run(LAST, LAST)),
    "audit_state/list_orders": does(run(0), none=run(LAST)),
    "audit_state/list_orders_by_events": does(run(0, 5), none=run(LAST, LAST)),
    "audit_state/list_orders_by_movements": does(run(0, 10), none=run(LAST, LAST)),
    "audit_state/list_orders_by_refunds": does(
        run(SOON, before=f"UPDATE refunds SET updated_at = '2200-01-01' WHERE order_id IN ('{LATE}', '{PAID}')"),
        none=run(SOON),
    ),
    "audit_state/list_products": does(run(0), none=run(LAST)),
    "audit_state/list_products_by_movements": does(run(0, 10), none=run(LAST, LAST)),
    "audit_state/list_results": does(run(["audit/x", "audit/y"]), none=run([])),
    "audit_state/list_sessions": does(run(0), none=run(LAST)),
    "audit_state/list_violations": does(run("audit/x", "", ""), none=run("audit/x", "order 2", "wrong")),
    "audit_state/lock_rule": does(run("audit/x"), run("audit/y")),
    "audit_state/move_position": does(
        run("audit/x", "order_events", 0, 1),
        run(STOCK_RULE, "balances", 0, 1),
        none=run(STOCK_RULE, "balances", 1, 2),
    ),
    "audit_state/read_ends": does(run()),
    "audit_state/read_position": does(run(STOCK_RULE, "balances"), run("audit/x", "order_events")),
    "audit_state/read_transactions": does(run()),
    "audit_state/record_pass": does(
        run("audit/x", SOON, True),
        run("audit/y", SOON, False),
    ),
    "audit_state/set_balances": does(
        run([TENT, LAMP], [5, 5], 0),
        run([TENT, LAMP], [5, 5], 0, before="DELETE FROM audit_balances"),
        none=run([TENT], [5], 1),
    ),
    "audit_state/store_violations": does(
        run("audit/x", ["order 1"], ["order 1"], ["new"]),
        run("audit/x", None, ["order 1"], ["new"]),
        none=run("audit/y", ["order 1"], [], []),
        predecessor=("audit/x",),
    ),
    "audit_state/sum_ledger": does(run(0, 0, MUG, LAST), none=run(LAST, LAST, LAST, LAST)),
    "cart/add_line": does(
        run(OPEN, MUG, 1, 100),
        run(OPEN, TENT, 1, 100),
        none=run(OPEN, TENT, 100, 100),
        refused={"cart_items_quantity_range": run(OPEN, TENT, 9999, 10_000)},
        predecessor=(OPEN, TENT, 100, None),
    ),
    "cart/check_owner": does(run(OPEN, None), run(FULFILLED, USER), none=run(FULFILLED, STRANGER)),
    "cart/create_cart": does(run(NEW, USER, "web-1")),
    "cart/explain_refusal": does(run(PENDING, TENT, None), run(NEW, NO_PRODUCT, USER)),
    "cart/forget_currency": does(run(EMPTY), none=run(OPEN), predecessor=(EMPTY, None)),
    "cart/list_carts": does(run(USER, UUID(int=2**128 - 1), 10), none=run(STRANGER, UUID(int=2**128 - 1), 10)),
    "cart/open_cart": does(run(OPEN, USER), none=run(PENDING, None)),
    "cart/open_for_product": does(run(OPEN, TENT, 100, USER), none=run(OPEN, MUG, 100, None)),
    "cart/read_cart": does(
        run(OPEN, None, False),
        run(EMPTY, USER, False),
        run(FULFILLED, STRANGER, True),
        none=run(FULFILLED, None, False),
    ),
    "cart/remove_line": does(run(OPEN, TENT), none=run(OPEN, MUG), predecessor=(OPEN, None)),
    "cart/set_line": does(
        run(OPEN, MUG, 1),
        run(OPEN, TENT, 2),
        refused={"cart_items_quantity_range": run(OPEN, TENT, 10_000)},
        predecessor=(OPEN, TENT, 100, None),
    ),
    "catalog/create_category": does(run("Pots", "pots"), refused={"categories_slug_unique": run("Tents", "tents")}),
    "catalog/create_product": does(
        run("Pot", "", TENTS, 100, "EUR", 5, True, "P-1", PICTURE, 9, "admin"),
        run("Pot", "", None, 100, "EUR", 0, True, None, None, None, "admin"),
        none=run("Pot", "", NO_CATEGORY, 100, "EUR", 5, True, "P-1", None, 9, "admin"),
        refused={
            "products_sku_unique": run("Pot", "", None, 100, "EUR", 5, True, "T-1", None, None, "admin"),
            "products_stock_not_negative": run("Pot", "", TENTS, 100, "EUR", -1, True, None, None, None, "admin"),
        },
    ),
    "catalog/deactivate_product": does(run(TENT), none=run(NO_PRODUCT), predecessor=(TENT,)),
    "catalog/delete_category": does(run(UNUSED), none=run(NO_CATEGORY), refused={"products_category_fkey": run(TENTS)}),
    "catalog/find_category": does(run("tents"), none=run("pots")),
    "catalog/find_staff_products": does(
        run(None, None, None, 0, 10), run(TENTS, True, 5, 0, 1), run(None, False, None, 0, 10)
    ),
    "catalog/get_product": does(run(TENT), none=run(NO_PRODUCT)),
    "catalog/list_categories": does(run(0, 10), none=run(LAST, 10)),
    "catalog/list_category_products": does(run(TENTS, 0, 10), run(TENTS, 0, 1), run(UNUSED, 0, 10)),
    "catalog/list_products": does(run(0, 10), run(0, 1), run(LAST, 10)),
    "catalog/lock_category": does(run(TENTS), none=run(NO_CATEGORY)),
    "catalog/list_movements": does(run(TENT, LAST, 10), none=run(NO_PRODUCT, LAST, 10)),
    "catalog/list_staff_products": does(run([TENT, MUG]), none=run([NO_PRODUCT])),
    "catalog/lock_product_by_sku": does(run("T-1"), none=run("t-1")),
    "catalog/lock_product": does(run(TENT), none=run(NO_PRODUCT)),
    "catalog/move_stock": does(run(TENT, 1, "x", "admin"), none=run(TENT, -1000, "x", "admin")),
    "catalog/update_category": does(
        run(TENTS, None, "shelters"),
        refused={"categories_slug_unique": run(TENTS, None, "mugs")},
        predecessor=(TENTS,),
    ),
    "catalog/update_product": does(
        run(TENT, "Big tent", None, None, True, MUGS, None, True, "T-2", True, PICTURE, True, 9),
        none=run(TENT, "Big tent", None, None, True, NO_CATEGORY, None, False, None, False, None, False, None),
        refused={
            "products_sku_unique": run(MUG, None, None, None, False, None, None, True, "T-1", False, None, False, None)
        },
        predecessor=(TENT,),
    ),
    "exports/list_products": does(run(0), none=run(LAST)),
    "imports/add_products": does(run(1, 10, [], "admin", FILE_RUN), run(1, 4, [], "admin", FILE_RUN)),
    "imports/check_lines": does(
        run(
            *(1, 10, True, 0, [], 99_999_999, ["IDR"], [999_999_999_999], FILE_RUN),
            before="UPDATE import_lines SET category = 'x'",
        ),
        none=run(1, 10, True, 0, [], 99_999_999, ["IDR"], [999_999_999_999], FILE_RUN),
    ),
    "imports/clear_lines": does(run(FILE_RUN, FILE_RUN), none=run(UUID(int=2), UUID(int=3))),
    "imports/finish_import": does(run(FILE)),
    "imports/lock_import": does(run(FILE), none=run(BODY)),
    "imports/lock_products": does(
        run(1, 10, True, True, True, 0, [], FILE_RUN), run(4, 10, True, True, True, 0, [], FILE_RUN)
    ),
    "imports/record_batch": does(run(FILE, 5, [3]), predecessor=(FILE,)),
    "imports/start_import": does(run(FILE), run(BODY)),
    "imports/try_lock": does(run()),
    "imports/update_products": does(
        run(1, 10, [], True, True, True, 0, [], "import", "admin", "x", FILE_RUN),
        run(4, 10, [], True, True, True, 0, [], "import", "admin", "x", FILE_RUN),
        predecessor=(1, 10, True, True, True, 0, [], FILE_RUN),
    ),
    "payment_session/attach_session": does(run(PENDING, "cs_x", "url"), none=run(CANCELLED, "cs_x", "url")),
    "payment_session/claim_session": does(run(PENDING, 60.0), none=run(PAID, 60.0)),
    "checkout/close_cart": does(run(OPEN, 7, USER), none=run(PENDING, 7, None)),
    "checkout/explain_refusal": does(run(OPEN, CLIENT, CLIENT), none=run(EMPTY, CLIENT, CLIENT)),
    "checkout/find_order": does(run(PENDING, None), run(OPEN, USER), none=run(FULFILLED, STRANGER)),
    "checkout/list_products": does(run(OPEN), none=run(EMPTY)),
    "payment_session/start_attempt": does(run(PENDING, 1, 1800, 60.0), none=run(PENDING, 2, 1800, 60.0)),
    "payment_session/read_claim": does(
        run(PENDING, before="UPDATE payments SET claimed_until = now() + interval '1 day' WHERE status = 'INITIATED'"),
        none=run(PENDING),
    ),
    "payment_session/release_claim": does(run(PENDING), none=run(PAID)),
    "checkout/lock_products": does(run(OPEN), none=run(EMPTY), predecessor=(OPEN, 7, None)),
    # One line: of several, another statement has locked the products.
    "checkout/reserve": does(
        run(NEW, SINGLE, NEW, None, 1800, 2100, 60.0, "{}", "x", CLIENT, "EUR", 50, 10_000, 1, *LIMITS),
        none=run(NEW, SINGLE, NEW, 1, 1800, 2100, 60.0, "{}", "x", CLIENT, "EUR", 50, 10_000, 1, *LIMITS),
        refused={
            "orders_one_live_per_cart": run(
                NEW, PAID, NEW, None, 1800, 2100, 60.0, "{}", "x", CLIENT, "EUR", 50, 10_000, 3, *LIMITS
            )
        },
        predecessor=(SINGLE, 7, None),
    ),
    "deliveries/lease_endpoints": does(
        run(NEW, 30.0), none=run(NEW, 30.0, before="UPDATE event_endpoints SET active = false")
    ),
    "deliveries/list_due": does(
        run(
            1,
            1e9,
            [],
            before="INSERT INTO event_deliveries (endpoint_id, event_id, type, subject, data, next_attempt_at)"
            f" SELECT 1, '{PAID}', 'order.paid', 'order:{OPEN}', '{{}}', '2010-01-01'",
        ),
        none=run(3, 1e9, []),
    ),
    "deliveries/list_due_products": does(
        run(10), none=run(10, before="UPDATE product_announcements SET due_at = NULL")
    ),
    "deliveries/lock_products": does(run([LAMP, TENT, ROPE]), none=run([NO_PRODUCT])),
    "deliveries/mark_failing": does(
        run(1), run(1, before="UPDATE event_leases SET failing_since = '2000-01-01'"), none=run(404)
    ),
    "deliveries/mark_working": does(run(1, False), run(1, True), none=run(404, True)),
    "deliveries/measure_backlog": does(run()),
    "deliveries/record_attempts": does(
        run(1, [7, 8], ["500", "200"], [False, True]),
        run(
            1,
            [7, 8],
            ["500", "500"],
            [False, False],
            before="UPDATE event_deliveries SET created_at = '2000-01-01';"
            "UPDATE event_leases SET switched_on_at = '2000-01-01'",
        ),
        none=run(1, [404], ["200"], [True]),
    ),
    "deliveries/release_leases": does(run(NEW), none=run(PAID)),
    "deliveries/switch_off": does(run(1), none=run(3)),
    "erasure/erase_columns": does(run([PAID, FULFILLED]), predecessor=([FULFILLED, PAID],)),
    "erasure/find_by_digest": does(run(DIGEST), none=run(NEW_KEY)),
    "erasure/find_by_events": does(run(EMAIL), none=run("nobody@example.com")),
    "erasure/find_by_number": does(run(1), none=run(404)),
    "erasure/list_payment_intents": does(run([PAID, FULFILLED]), none=run([PENDING])),
    "erasure/list_without_digest": does(run(), none=run(before="UPDATE orders SET email = NULL, email_digest = NULL")),
    "erasure/lock_events": does(run([FULFILLED], [EMAIL]), none=run([NEW], [])),
    "erasure/lock_orders": does(run([REORDERED, PAID, PENDING]), none=run([NEW])),
    "erasure/lock_responses": does(run([FULFILLED]), none=run([NEW])),
    "erasure/reduce_event": does(run("evt_3", "{}"), none=run("evt_x", "{}"), predecessor=([FULFILLED], [])),
    "erasure/reduce_response": does(
        run(hashlib.sha256(b"a").digest(), b"{}"), none=run(NEW_KEY, b"{}"), predecessor=([FULFILLED],)
    ),
    "event_endpoints/create_endpoint": does(
        run("https://example.com", ["order.paid"], "", b"x" * 32, 20),
        none=run("https://example.com", ["order.paid"], "", b"x" * 32, 3),
    ),
    "event_endpoints/delete_endpoint": does(run(1), none=run(404), predecessor=(1,)),
    "event_endpoints/get_endpoint": does(run(1), none=run(4)),
    "event_endpoints/list_deliveries": does(run(1, LAST, 10), none=run(404, LAST, 10)),
    "event_endpoints/list_endpoints": does(run(0, 10), none=run(LAST, 10)),
    "event_endpoints/lock_endpoint": does(run(1), none=run(4)),
    "event_endpoints/resend_delivery": does(run(1, 7), none=run(1, 404)),
    "event_endpoints/rotate_secret": does(run(1, b"y" * 32), none=run(4, b"y" * 32)),
    "event_endpoints/update_endpoint": does(
        run(1, "https://example.org", ["order.paid"], "x", False),
        none=run(404, None, None, None, None),
        predecessor=(1,),
    ),
    "fulfilment/mark_fulfilled": does(run(PAID, "x", "job:x"), none=run(PENDING, "x", "job:x"), predecessor=(PAID,)),
    "retention/delete_keys": does(run(10), none=run(10, before="DELETE FROM idempotency_keys")),
    "idempotency/find_key": does(run(KEY), none=run(NEW_KEY)),
    "idempotency/lock_key": does(run(7)),
    "idempotency/store_key": does(
        run(NEW_KEY, BODY, PENDING, 201, None, b"{}"),
        run(KEY, BODY, PENDING, 201, None, b"{}", before=f"UPDATE idempotency_keys SET order_id = '{PENDING}'"),
        none=run(KEY, BODY, None, 201, None, b"{}", before="UPDATE idempotency_keys SET status = 200, answer = ''"),
    ),
    "health/describe_server": does(run()),
    "health/claim_task": does(run("sweep", NEW, 60.0, 5.0), none=run("nothing", NEW, 60.0, 5.0)),
    "health/release_task": does(run("audit", NEW), none=run("sweep", NEW)),
    "health/record_heartbeat": does(run("sweep", 5.0), none=run("nothing", 5.0)),
    "health/is_migrated": does(run(migration_names(), index_names())),
    "health/list_timely_loops": does(
        run(["heartbeat", "sweep"], before="UPDATE worker_heartbeats SET due_at = now() + interval '1 hour'"),
        none=run(["nothing"]),
    ),
    "migrations/lock_migrations": does(run()),
    "migrations/list_invalid_indexes": does(
        run(before="UPDATE pg_index SET indisvalid = false WHERE indrelid = 'stripe_events'::regclass"), none=run()
    ),
    "transitions/add_note": does(run(PENDING, "PENDING_PAYMENT", "x", "a note", "admin"), predecessor=(PENDING,)),
    "disputes/delete_dispute": does(run("dp_2"), none=run("dp_1")),
    "disputes/link_order": does(run("pi_other", PAID), none=run("pi_x", PAID)),
    "disputes/record_dispute": does(
        run("dp_x", "pi_x", LATE, 50, "EUR", "general", "needs_response", SOON),
        run("dp_1", "pi_x", None, 50, "EUR", "general", "lost", SOON),
        none=run("dp_1", "pi_x", None, 50, "EUR", "general", "lost", LONG_AGO),
    ),
    "orders/list_disputes": does(run(PAID, None), run(PAID, "pi_other"), none=run(NEW, None)),
    "orders/list_refund_items": does(run(FULFILLED), none=run(PAID)),
    "orders/read_shipping": does(run(PAID), none=run(LATE)),
    "orders/list_refunds": does(run(LATE, "EUR"), none=run(NEW, "EUR")),
    "orders/list_events": does(
        run(PENDING, None, False), run(FULFILLED, STRANGER, True), none=run(FULFILLED, STRANGER, False)
    ),
    "orders/list_items": does(run(PAID), none=run(NEW)),
    "orders/list_orders": does(run(LAST, 10), none=run(0, 10)),
    "orders/list_orders_by_status": does(run("CANCELLED", LAST, 10), none=run("CANCELLED", 0, 10)),
    "orders/find_orders": does(
        run(1, DIGEST, "web-1", None, None, LAST, 10),
        run(None, DIGEST, "x", "PAID", "SUCCEEDED", LAST, 10),
        *(run(None, BODY, text, None, None, LAST, 10) for text in (f"pi_{PAID}", "pi_1", "re_3", "dp_1", "evt_4")),
        run(4711, BODY, "cs_other", None, None, LAST, 10),
    ),
    "orders/find_by_payment_status": does(
        run("EXPIRED", None, LAST, 10), run("REFUND_PENDING", "CANCELLED", LAST, 1), run("REFUNDED", None, LAST, 10)
    ),
    "orders/walk_orders": does(run("SUCCEEDED", LAST, 10), run("SUCCEEDED", LAST, 1)),
    "orders/walk_orders_by_status": does(
        run("PENDING_PAYMENT", "INITIATED", LAST, 1), run("FULFILLED", "SUCCEEDED", LAST, 1)
    ),
    "orders/list_numbered": does(run([*range(20)]), none=run([0])),
    "orders/list_user_orders": does(run(USER, LAST, 10), none=run(STRANGER, LAST, 10)),
    "ownership/claim_cart": does(run(REORDER, USER), none=run(FULFILLED, STRANGER)),
    "ownership/claim_orders": does(run(REORDER, USER), none=run(FULFILLED, STRANGER), predecessor=(REORDER, USER)),
    "transitions/lock_order": does(run(PENDING), none=run(NEW)),
    "transitions/lock_orders": does(run([REORDER, PENDING]), none=run([NEW])),
    "transitions/mark_cancelled": does(
        run([REORDER, PENDING], "PENDING_PAYMENT", "EXPIRED", "x", None, "admin"),
        none=run([REORDER, PENDING], "PAID", "EXPIRED", "x", None, "admin"),
        predecessor=([REORDER, PENDING],),
    ),
    "transitions/mark_paid": does(
        run(CANCELLED, "CANCELLED", 2, "cs_x", "pi_x", None, None, "x", "stripe"),
        none=run(CANCELLED, "PENDING_PAYMENT", 2, "cs_x", "pi_x", None, None, "x", "stripe"),
        refused={
            "orders_one_live_per_cart": run(REORDERED, "CANCELLED", 2, "cs_x", "pi_x", None, None, "x", "stripe"),
            "payments_payment_intent_once": run(
                PENDING, "PENDING_PAYMENT", 1, "cs_x", f"pi_{PAID}", None, None, "x", "stripe"
            ),
        },
        predecessor=(CANCELLED,),
    ),
    "settlement/mark_processing": does(
        run(PENDING, "cs_x", "x", 60.0, "stripe", EMAIL, DIGEST),
        run(PENDING, "cs_x", "x", 60.0, "stripe", None, None),
        none=run(PAID, "cs_x", "x", 60.0, "stripe", None, None),
        predecessor=(PENDING,),
    ),
    "orders/read_order": does(
        run(PENDING, None, False), run(FULFILLED, USER, False), none=run(FULFILLED, STRANGER, False)
    ),
    "transitions/lock_products": does(
        run([REORDER, PENDING]), none=run([NEW]), predecessor=([REORDER, PENDING, CANCELLED, FULFILLED],)
    ),
    "transitions/return_stock": does(
        run([REORDER, PENDING], [1, 1], "admin"), none=run([CANCELLED], [1], "admin"), predecessor=([REORDER, PENDING],)
    ),
    "settlement/cart_has_live_order": does(run(PENDING), run(OPEN)),
    "webhooks/finish_event": does(
        run("evt_1", "applied", PENDING, True, "{}"), none=run("evt_x", "applied", None, True, "{}")
    ),
    "settlement/record_late_payment": does(
        run(CANCELLED, "cs_x", "pi_x", 1, "EUR"),
        none=run(PAID, "cs_x", "pi_x", None, None),
        refused={"payments_payment_intent_once": run(CANCELLED, "cs_x", f"pi_{PAID}", None, None)},
        predecessor=(CANCELLED,),
    ),
    "webhooks/read_event": does(run("evt_1"), none=run("evt_x")),
    "webhooks/record_event": does(
        run("evt_x", "x", "{}", "{}", "applied", PENDING, PENDING, True),
        run("evt_1", "x", "{}", "{}", "applied", PENDING, PENDING, True),
        none=run("evt_old", "x", "{}", "{}", "applied", PENDING, PENDING, True),
    ),
    "settlement/store_shipping": does(run(LATE, *["x"] * 8), none=run(PAID, *["x"] * 8), predecessor=(LATE,)),
    "settlement/replace_cart": does(
        run(CANCELLED, NEW, NEW),
        none=run(CANCELLED, CANCELLED, NEW),
        predecessor=(CANCELLED,),
    ),
    "settlement/restore_cart": does(run(EMPTY, CANCELLED), none=run(EMPTY, NEW), predecessor=(EMPTY, CANCELLED, NEW)),
    "settlement/retake_stock": does(
        run(CANCELLED, 2, "stripe"),
        none=run(CANCELLED, 2, "stripe", before="UPDATE products SET stock = 0"),
        refused={"stock_movements_once": run(CANCELLED, 1, "stripe")},
        predecessor=([CANCELLED],),
    ),
    "webhooks/store_event": does(run("evt_x", "x", "{}", "{}", PENDING), none=run("evt_1", "x", "{}", "{}", None)),
    "reconcile/find_missed_events": does(run(["evt_1", "evt_x", "evt_y"]), none=run(["evt_1"])),
    "reconcile/find_other_sessions": does(
        run([PAID, FULFILLED, LATE], [f"cs_{PAID}", "cs_1"]), none=run([PENDING], ["cs_1"])
    ),
    "reconcile/find_unsettled": does(run([PENDING, CANCELLED, PAID]), none=run([PAID, NEW])),
    "reconcile/move_position": does(run("events", SOON), none=run("events", LONG_AGO)),
    "reconcile/read_position": does(run("events")),
    "refunds/add_items": does(
        run(LATE, [TENT, LAMP], [1, 1], [True, False]), none=run(LATE, [], [], []), predecessor=(LATE,)
    ),
    "refunds/add_refund": does(
        run(NEW, PAID, f"pi_{PAID}", 50, "staff", False, "x", 0.0, "admin"),
        none=run(NEW, LATE, f"pi_{LATE}", 50, "late_money", False, None, 0.0, "admin"),
        predecessor=(PAID,),
    ),
    "refunds/add_unmatched": does(run("pi_x", LATE, 50, "EUR"), none=run("pi_1", LATE, 50, "EUR"), predecessor=(LATE,)),
    "refunds/fail_refund": does(run(LATE, "x"), none=run(PENDING, "x"), predecessor=(LATE,)),
    "refunds/find_order": does(run(f"pi_{PAID}"), none=run("pi_x")),
    "refunds/list_lines": does(run(PAID), none=run(NEW)),
    "refunds/list_refunds": does(run(LATE), none=run(NEW)),
    "refunds/list_unmatched": does(run(PAID), none=run(NEW)),
    "refunds/record_refund": does(
        run(NEW, LATE, f"pi_{LATE}", 50, "SUCCEEDED", "re_x", None),
        run(LATE, LATE, f"pi_{LATE}", 50, "SUCCEEDED", "re_x", None),
        none=run(PENDING, LATE, f"pi_{LATE}", 50, "SUCCEEDED", "re_1", None),
        predecessor=(LATE,),
    ),
    "refunds/list_returns": does(run(FULFILLED, 1), none=run(PAID, 1)),
    "refunds/return_units": does(
        run(FULFILLED, 1, "admin", [NEW, NEW], [LAMP, TENT], [1, 1]),
        none=run(FULFILLED, 1, "admin", [], [], []),
        predecessor=([FULFILLED],),
    ),
    "refunds/set_balance": does(
        run(PAID, 0, "SUCCEEDED"),
        none=run(PENDING, 0, "SUCCEEDED"),
        refused={"payments_refunded_within_amount": run(PAID, 2941, "REFUND_PENDING")},
        predecessor=(PAID,),
    ),
    "refunds/settle_unmatched": does(run(PAID), none=run(NEW), predecessor=(PAID,)),
    "pressure/measure_holds": does(run(9.0)),
    "seed/add_category": does(run("Pots", "pots"), run("Tents", "tents")),
    "search/count_matches": does(
        run(["'novel'", "'rope':*"], [0, 0], [LAST, LAST]), run(["'tent' & '=tent'"], [0], [LAST])
    ),
    "search/find_language": does(run("german"), none=run("klingon")),
    "search/find_similar": does(run("lampp", ["lmapp", "tent"]), none=run("mugss", [])),
    "search/match_prices": does(
        *(run("CHF", None, "'=old'", sort, 1, 100, available, 21, -LAST, "", -LAST) for sort, available in SORTED),
        none=run("CHF", "'mug'", None, "price", 1, 100, None, 21, -LAST, "", -LAST),
    ),
    "search/match_words": does(
        *(
            run("'$CHF' & 'old':*", None, "'=old'", sort, 1, 1250, available, 21, -LAST, "", -LAST)
            for sort, available in SORTED
        ),
        none=run("'mug'", "'$EUR'", None, "price", 1, 1250, None, 21, -LAST, "", -LAST),
    ),
    "search/split_query": does(run("Tent 帳篷, rope", "simple"), none=run("?!", "simple")),
    "search/walk_name": does(
        run(None, 0, LAST, None, "", 0, 21),
        run("'product' | 'rope'", 1, LAST, True, "", 0, 21),
        none=run(None, 0, 9, None, "", 0, 21),
    ),
    "search/walk_newest": does(
        run(None, 0, LAST, None, 10, 21),
        run("'tent' | 'rope'", 1, LAST, True, 10, 21),
        none=run(None, 0, 9, None, 10, 21),
    ),
    "search/walk_price": does(
        run(None, "CHF", 0, 100, None, 0, 0, 21),
        run("'old':*", "CHF", 1, 100, False, 0, 0, 21),
        none=run(None, "CHF", 0, 9, None, 0, 0, 21),
    ),
    "search/walk_price_down": does(
        run(None, "CHF", 0, 100, None, 101, 0, 21),
        run("'old':*", "CHF", 1, 100, False, 101, 0, 21),
        none=run(None, "CHF", 0, 9, None, 101, 0, 21),
    ),
    "search/find_stale": does(run(0, "simple"), run(0, "german"), run(LAST, "simple")),
    "search/index_products": does(
        run([TENT, ROPE, MUG, OLD, OLDER], "simple"),
        none=run([NO_PRODUCT], "simple"),
    ),
    "seed/add_products": does(
        run(["Pot", "Pan"], ["", ""], [MUGS, TENTS], [100, 100], ["EUR", "EUR"], [5, 5], "command:seed"),
        refused={
            "products_category_fkey": run(["Pot"], [""], [NO_CATEGORY], [100], ["EUR"], [5], "command:seed"),
            "products_stock_not_negative": run(["Pot"], [""], [TENTS], [100], ["EUR"], [-1], "command:seed"),
        },
    ),
    "seed/find_newest_product": does(
        run(), none=run(before="SET LOCAL session_replication_role = replica; DELETE FROM products")
    ),
    "stuck/add_item": does(
        run("refund_failed", "x", LATE, "x"),
        run("unmatched_payment", "pi_1", PAID, "x"),
        run(
            "dispute_open",
            "dp_1",
            PAID,
            "x",
            before="UPDATE stuck_items SET ended_at = now(), resolved = true WHERE id = 'dp_1'",
        ),
        none=run("unmatched_payment", "pi_x", LATE, "x"),
    ),
    "stuck/count_items": does(run(), none=run(before="UPDATE stuck_items SET ended_at = now()")),
    "stuck/end_items": does(run("dispute_open", ["dp_1", "dp_3"]), none=run("dispute_open", ["dp_x"])),
    "stuck/find_item": does(run("dispute_open", "dp_1"), none=run("unmatched_payment", "pi_x")),
    "stuck/find_open_refunds": does(
        run([LATE, PAID], before="UPDATE refunds SET created_at = '2000-01-01'"), none=run([LATE, PENDING])
    ),
    "stuck/find_unhandled_events": does(
        run(["evt_1", "evt_2"], before="UPDATE stripe_events SET received_at = '2000-01-01'"),
        none=run(["evt_1", "evt_old"]),
    ),
    "stuck/list_items": does(run(0, 10), none=run(LAST, 10)),
    "stuck/list_items_of_kind": does(run("dispute_open", 0, 10), none=run("event_unhandled", 0, 10)),
    "stuck/list_resolved": does(run(LATE), none=run(PAID)),
    "stuck/resolve_item": does(run("dispute_open", "dp_1"), none=run("dispute_open", "dp_x")),
    "sweep/claim_events": does(
        run(10), none=run(10, before="UPDATE stripe_events SET next_attempt_at = 'infinity' WHERE handled_at IS NULL")
    ),
    "sweep/claim_orders": does(
        run(10),
        none=run(
            10,
            before="UPDATE orders SET next_attempt_at = now() + interval '1 hour' WHERE next_attempt_at > '-infinity'",
        ),
    ),
    "sweep/claim_refunds": does(run(10), none=run(10, before="UPDATE refunds SET next_attempt_at = NULL")),
    "sweep/measure_backlog": does(
        run(),
        none=run(
            before="UPDATE orders SET next_attempt_at = 'infinity' WHERE next_attempt_at IS NOT NULL;"
            "UPDATE refunds SET next_attempt_at = NULL;"
            "UPDATE unmatched_payments SET next_attempt_at = NULL;"
            "UPDATE stripe_events SET next_attempt_at = 'infinity' WHERE handled_at IS NULL"
        ),
    ),
    "sweep/claim_unmatched": does(run(10), none=run(10, before="UPDATE unmatched_payments SET next_attempt_at = NULL")),
    "outbox/add_event": does(
        run(NEW, "refund.succeeded", PAID, "{}"),
        none=run(NEW, "dispute.opened", PAID, "{}"),
        predecessor=(PAID,),
    ),
    "outbox/announce_products": does(
        run([LAMP, TENT], before="UPDATE products SET stock = 0"),
        run([ROPE, MUG], before="UPDATE products SET stock = 0"),
        none=run([NO_PRODUCT]),
        predecessor=([LAMP, TENT, ROPE, MUG],),
    ),
    "retention/delete_deliveries": does(run(9000, 10), none=run(20_000, 10)),
    "retention/delete_endpoints": does(run(10), none=run(10, before="UPDATE event_endpoints SET deleted_at = NULL")),
    "retention/delete_unsent": does(run(4, 0, 10), none=run(4, 30, 10)),
    "retention/list_off_endpoints": does(
        run(), none=run(before="UPDATE event_endpoints SET deleted_at = NULL, active = true")
    ),
    "retention/delete_carts": does(run(9000, 10), none=run(20_000, 10)),
    "retention/delete_events": does(run(9000, 10), none=run(20_000, 10)),
}
