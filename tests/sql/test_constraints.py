"""Tests each constraint, guard and lock alone, as the last protection of the data.

The service checks first, so hardly any other test reaches them. Nothing but the constraint, guard or lock in question
stops a case here: `make mutants` removes each one and sees its case fail.
"""

import asyncio
from collections.abc import AsyncIterator, Iterator
from uuid import UUID

import asyncpg
import pytest

from service.infra.statements import Statement
from tests.database import wait_for_blocked
from tests.sql.conftest import shared

ONE, TWO, NONE = (f"'00000000-0000-4000-8000-00000000000{number}'::uuid" for number in (1, 2, 3))
FIRST, SECOND, THIRD = (UUID(text.split("'")[1]) for text in (ONE, TWO, NONE))

# A pending order, a cancelled order with a late payment, and one row of everything else.
SEED = f"""
INSERT INTO categories (name, slug) VALUES ('Tents', 'tents'), ('Mugs', 'mugs');
INSERT INTO products (name, category_id, price_minor, currency, stock)
VALUES ('Tent', 1, 1250, 'EUR', 8), ('Mug', 2, 990, 'USD', 5);
-- Moves the first product behind the second, for a plan that reads the rows as they lie.
UPDATE products SET updated_at = now() WHERE id = 1;
INSERT INTO carts (id, status, currency) VALUES ({ONE}, 'CHECKED_OUT', 'EUR'), ({TWO}, 'OPEN', 'EUR');
INSERT INTO cart_items (cart_id, product_id, quantity) VALUES ({ONE}, 1, 2);
INSERT INTO orders (id, cart_id, total_minor, currency, expires_at, next_attempt_at)
VALUES ({ONE}, {ONE}, 2500, 'EUR', now(), now());
INSERT INTO orders (id, cart_id, status, total_minor, currency, expires_at, cancelled_at)
VALUES ({TWO}, {TWO}, 'CANCELLED', 1250, 'EUR', now(), now());
INSERT INTO order_items (order_id, product_id, name, quantity, unit_price_minor) VALUES ({ONE}, 1, 'Tent', 2, 1250);
INSERT INTO payments (id, order_id, amount_minor, currency, session_parameters, session_expires_at)
VALUES ({ONE}, {ONE}, 2500, 'EUR', '{{}}', now());
INSERT INTO payments (
    id, order_id, status, amount_minor, currency, session_parameters, session_expires_at,
    stripe_session_id, stripe_payment_intent_id
)
VALUES ({TWO}, {TWO}, 'REFUND_PENDING', 1250, 'EUR', '{{}}', now(), 'cs_2', 'pi_2');
INSERT INTO refunds (id, order_id, stripe_payment_intent_id, amount_minor, cause, next_attempt_at)
VALUES ({TWO}, {TWO}, 'pi_2', 1250, 'late_money', now());
INSERT INTO refunds (id, order_id, stripe_payment_intent_id, amount_minor, cause, status, stripe_refund_id)
VALUES ({ONE}, {TWO}, 'pi_2', 50, 'staff', 'FAILED', 're_1');
INSERT INTO order_shipping (order_id, name) VALUES ({ONE}, 'Jenny Rosen');
INSERT INTO refund_items (refund_id, product_id, quantity, restock) VALUES ({ONE}, 1, 1, true);
INSERT INTO order_events (order_id, to_status, cause) VALUES ({ONE}, 'PENDING_PAYMENT', 'test');
INSERT INTO stock_movements (product_id, delta, reason, order_id, hold) VALUES (1, -2, 'hold', {ONE}, 1);
INSERT INTO stock_movements (product_id, delta, reason) VALUES (1, 10, 'initial stock');
INSERT INTO stripe_events (id, type, payload, next_attempt_at) VALUES ('evt_1', 'charge.refunded', '{{}}', now());
INSERT INTO idempotency_keys (id, request_digest) VALUES (sha256('key'), sha256('body'));
INSERT INTO disputes VALUES ('dp_1', 'pi_2', {TWO}, 1250, 'EUR', 'fraudulent', 'lost', now());
INSERT INTO stuck_items (kind, id, order_id, reason) VALUES ('dispute_open', 'dp_1', {TWO}, 'needs_response');
INSERT INTO api_keys (name, prefix, digest, scopes, created_by, expires_at)
VALUES ('erp', 'cck_erp', sha256('key'), '{{stock:write}}', 'anna', '2100-01-01');
INSERT INTO token_revocations (subject) VALUES ('anna');
INSERT INTO product_search (product_id, language, version, words, name_key, price_minor, currency)
VALUES (1, 'simple', 1, 'tent', 'tent', 1250, 'EUR');
INSERT INTO search_words VALUES ('tent');
INSERT INTO audit_log (actor, action, subject, request_id) VALUES ('admin', 'delete_product', 'product:1', 'x');
INSERT INTO event_endpoints (url, types, secret) VALUES ('https://example.com', '{{order.paid}}', sha256('secret'));
INSERT INTO event_leases (endpoint_id) VALUES (1);
INSERT INTO event_deliveries (endpoint_id, event_id, type, subject, data)
VALUES (1, {ONE}, 'order.paid', 'order:' || {ONE}, '{{}}');
INSERT INTO product_announcements (product_id) VALUES (1);
INSERT INTO imports (digest) VALUES (sha256('file'));
INSERT INTO import_lines (run, line, sku) VALUES ('00000000-0000-0000-0000-000000000001', 2, 'A-1');
"""

# Keys that an UPDATE cannot set are tested by an INSERT.
NEW_ORDER = "INSERT INTO orders (id, number, cart_id, status, total_minor, currency, expires_at, cancelled_at)"
NEW_REFUND = "INSERT INTO refunds (id, order_id, stripe_payment_intent_id, amount_minor, cause)"
NEW_PRODUCT = "INSERT INTO products (id, name, price_minor, currency, stock)"
SEARCH_ROW = "INSERT INTO product_search (product_id, language, version, words, name_key, price_minor, currency)"
NEW_KEY = "INSERT INTO api_keys (id, name, prefix, digest, scopes, created_by, expires_at) OVERRIDING SYSTEM VALUE"
NEW_MOVEMENT = "INSERT INTO stock_movements (product_id, delta, reason, order_id, hold)"
OWN_ID = "OVERRIDING SYSTEM VALUE"

CAPTURED = f"UPDATE payments SET captured_minor = {{}} WHERE id = {TWO}"

INVALID_ROWS = [
    ("categories_pkey", f"INSERT INTO categories (id, name, slug) {OWN_ID} VALUES (1, 'x', 'x')"),
    ("categories_slug_unique", "UPDATE categories SET slug = 'tents'"),
    ("categories_name_length", "UPDATE categories SET name = ''"),
    ("categories_slug_length", "UPDATE categories SET slug = repeat('x', 201) WHERE id = 1"),
    *(
        ("categories_slug_form", f"UPDATE categories SET slug = '{slug}' WHERE id = 1")
        for slug in ("Tents", "a b", "a--b", "-a", "a-", "a_b", "cafe\u0301", "a\u2014b", "a\u00a0b", "a\n", "\u0958")
    ),
    *(
        (f"{table}_name_form", f"UPDATE {table} SET name = 'a{character}b' WHERE id = 1")
        for table in ("categories", "products")
        for character in "\x01\n\x7f\x85\u2028\u202e\u2069"
    ),
    ("products_pkey", f"{NEW_PRODUCT} {OWN_ID} VALUES (1, 'x', 1, 'EUR', 0)"),
    ("products_category_fkey", "UPDATE products SET category_id = 404"),
    ("products_category_fkey", "DELETE FROM categories"),
    ("products_name_length", "UPDATE products SET name = ''"),
    ("products_description_length", "UPDATE products SET description = repeat('x', 10001)"),
    ("products_price_range", "UPDATE products SET price_minor = 0"),
    ("products_price_range", "UPDATE products SET price_minor = 1000000000000"),
    ("products_currency_form", "UPDATE products SET currency = 'eur'"),
    ("products_stock_not_negative", "UPDATE products SET stock = stock - 9"),
    ("products_stock_bounded", "UPDATE products SET stock = 2000000001"),
    ("products_max_per_order_range", "UPDATE products SET max_per_order = 0"),
    ("products_max_per_order_range", "UPDATE products SET max_per_order = 10000"),
    ("products_version_positive", "UPDATE products SET version = 0"),
    ("products_sku_form", "UPDATE products SET sku = '' WHERE id = 1"),
    ("products_sku_form", "UPDATE products SET sku = 'A 1' WHERE id = 1"),
    ("products_sku_form", "UPDATE products SET sku = repeat('x', 65) WHERE id = 1"),
    ("products_sku_form", r"UPDATE products SET sku = E'A1\n' WHERE id = 1"),
    ("products_sku_unique", "UPDATE products SET sku = 'A1'"),
    ("products_image_url_form", "UPDATE products SET image_url = 'http://example.com/a.png'"),
    ("products_image_url_form", "UPDATE products SET image_url = 'https://example.com/a b.png'"),
    ("products_image_url_form", "UPDATE products SET image_url = 'https://example.com/' || repeat('x', 2029)"),
    ("imports_pkey", "INSERT INTO imports (digest) VALUES (sha256('file'))"),
    ("imports_digest_length", "UPDATE imports SET digest = 'x'"),
    ("imports_position_range", "UPDATE imports SET position = -1"),
    ("imports_position_range", "UPDATE imports SET position = 1"),
    (
        "import_lines_pkey",
        "INSERT INTO import_lines (run, line, sku) SELECT run, line, 'A-2' FROM import_lines",
    ),
    ("carts_pkey", f"INSERT INTO carts (id) VALUES ({ONE})"),
    ("carts_status_known", "UPDATE carts SET status = 'PAID'"),
    ("carts_currency_form", "UPDATE carts SET currency = 'EURO'"),
    *(
        (f"{table}_{column}_form", f"UPDATE {table} SET {column} = {text}")
        for table in ("carts", "orders")
        for column in ("user_id", "reference")
        for text in ("''", "repeat('x', 256)", "'a\nb'", "'a\u202eb'")
    ),
    ("carts_replaced_by_another", "UPDATE carts SET replaced_by = id"),
    ("cart_items_pkey", f"INSERT INTO cart_items (cart_id, product_id, quantity) VALUES ({ONE}, 1, 1)"),
    ("cart_items_cart_fkey", f"UPDATE cart_items SET cart_id = {NONE}"),
    ("cart_items_quantity_range", "UPDATE cart_items SET quantity = 0"),
    ("cart_items_quantity_range", "UPDATE cart_items SET quantity = 10000"),
    ("orders_pkey", f"UPDATE orders SET id = {ONE}"),
    (
        "orders_number_unique",
        f"{NEW_ORDER} {OWN_ID} SELECT {NONE}, number, cart_id, 'CANCELLED', 50, 'EUR', now(), now() FROM orders",
    ),
    ("orders_cart_fkey", f"UPDATE orders SET cart_id = {NONE}"),
    (
        "orders_one_live_per_cart",
        f"UPDATE orders SET cart_id = {ONE}, status = 'PENDING_PAYMENT', cancelled_at = NULL, next_attempt_at = now()",
    ),
    ("orders_status_known", f"UPDATE orders SET status = 'LOST', cancelled_at = now() WHERE id = {TWO}"),
    ("orders_total_range", "UPDATE orders SET total_minor = 0"),
    ("orders_total_range", "UPDATE orders SET total_minor = 1000000000000"),
    ("orders_currency_form", "UPDATE orders SET currency = ''"),
    ("orders_email_length", "UPDATE orders SET email = repeat('x', 801)"),
    ("orders_client_form", "UPDATE orders SET client = ''"),
    ("orders_email_digest_form", "UPDATE orders SET email = 'x', email_digest = ''"),
    ("orders_email_digest_form", "UPDATE orders SET email_digest = sha256('x')"),
    ("orders_erased_has_no_email", "UPDATE orders SET email = 'x', erased_at = now()"),
    ("orders_claimed_has_owner", "UPDATE orders SET claimed = true"),
    ("orders_client_network_form", "UPDATE orders SET client_network = ''"),
    ("orders_hold_positive", "UPDATE orders SET hold = 0"),
    ("orders_times_match_status", "UPDATE orders SET status = 'PAID'"),
    ("orders_times_match_status", "UPDATE orders SET status = 'FULFILLED', paid_at = now()"),
    ("orders_times_match_status", "UPDATE orders SET cancelled_at = now()"),
    ("orders_attempts_not_negative", "UPDATE orders SET attempts = -1"),
    ("orders_unfinished_is_due", f"UPDATE orders SET next_attempt_at = NULL WHERE id = {ONE}"),
    ("order_items_pkey", "INSERT INTO order_items SELECT * FROM order_items"),
    ("order_items_order_fkey", f"UPDATE order_items SET order_id = {NONE}"),
    ("order_items_product_fkey", "UPDATE order_items SET product_id = 404"),
    ("order_items_quantity_range", "UPDATE order_items SET quantity = 0"),
    ("order_items_price_positive", "UPDATE order_items SET unit_price_minor = 0"),
    ("order_items_name_length", "UPDATE order_items SET name = ''"),
    ("order_items_name_length", "UPDATE order_items SET name = repeat('x', 201)"),
    ("payments_one_per_order", f"UPDATE payments SET order_id = {ONE}"),
    ("payments_session_once", "UPDATE payments SET stripe_session_id = 'cs_2'"),
    ("payments_payment_intent_once", "UPDATE payments SET stripe_payment_intent_id = 'pi_2'"),
    ("payments_order_fkey", f"UPDATE payments SET order_id = {NONE} WHERE id = {ONE}"),
    ("payments_parameters_until_attached", f"UPDATE payments SET session_parameters = NULL WHERE id = {ONE}"),
    ("payments_status_known", f"UPDATE payments SET status = 'STOLEN' WHERE id = {ONE}"),
    ("payments_amount_positive", f"UPDATE payments SET amount_minor = 0 WHERE id = {ONE}"),
    ("payments_currency_form", "UPDATE payments SET currency = 'E1R'"),
    ("payments_refunded_within_amount", f"UPDATE payments SET refunded_minor = 1251 WHERE id = {TWO}"),
    ("payments_refunded_within_amount", f"UPDATE payments SET refunded_minor = -1 WHERE id = {TWO}"),
    ("payments_refunded_whole", f"UPDATE payments SET status = 'REFUNDED', refunded_minor = 1 WHERE id = {TWO}"),
    ("payments_refunded_only_captured", f"UPDATE payments SET refunded_minor = 1 WHERE id = {ONE}"),
    (
        "payments_captured_has_session",
        f"UPDATE payments SET status = 'SUCCEEDED', stripe_payment_intent_id = 'pi_1' WHERE id = {ONE}",
    ),
    ("payments_captured_form", CAPTURED.format("0, captured_currency = 'EUR'")),
    ("payments_captured_form", CAPTURED.format("1190, captured_currency = 'eur'")),
    ("payments_captured_form", CAPTURED.format("1190, captured_currency = NULL")),
    ("payments_captured_form", CAPTURED.format("NULL, captured_currency = 'EUR'")),
    ("payments_captured_form", CAPTURED.format("amount_minor, captured_currency = currency")),
    ("payments_captured_form", CAPTURED.format("1190, captured_currency = 'EUR', status = 'SUCCEEDED'")),
    ("payments_attempt_positive", "UPDATE payments SET attempt = 0"),
    ("payments_captured_has_intent", f"UPDATE payments SET stripe_payment_intent_id = NULL WHERE id = {TWO}"),
    ("payments_claimed_until_attached", f"UPDATE payments SET claimed_until = now() WHERE id = {TWO}"),
    (
        "payments_claimed_until_attached",
        f"UPDATE payments SET claimed_until = now(), stripe_session_id = 'cs_1' WHERE id = {ONE}",
    ),
    ("payments_url_has_session", f"UPDATE payments SET checkout_url = 'https://x' WHERE id = {ONE}"),
    ("payments_parameters_form", f"UPDATE payments SET session_parameters = '[]' WHERE id = {ONE}"),
    ("payments_session_length", f"UPDATE payments SET stripe_session_id = repeat('x', 256) WHERE id = {ONE}"),
    ("payments_payment_intent_length", f"UPDATE payments SET stripe_payment_intent_id = '' WHERE id = {TWO}"),
    ("refunds_attempts_not_negative", "UPDATE refunds SET attempts = -1"),
    ("refunds_payment_intent_length", "UPDATE refunds SET stripe_payment_intent_id = ''"),
    ("refunds_stripe_refund_length", f"UPDATE refunds SET stripe_refund_id = '' WHERE id = {ONE}"),
    ("refunds_restock_by_staff", f"UPDATE refunds SET restock = true WHERE id = {TWO}"),
    ("refunds_settled_is_not_due", f"UPDATE refunds SET next_attempt_at = now() WHERE id = {ONE}"),
    ("refunds_pkey", f"{NEW_REFUND} VALUES ({ONE}, {TWO}, 'pi_3', 1, 'staff')"),
    ("reconcile_positions_pkey", "INSERT INTO reconcile_positions (list) VALUES ('events')"),
    (
        "audit_positions_pkey",
        "INSERT INTO audit_positions (rule, source) SELECT rule, source FROM audit_positions",
    ),
    ("audit_positions_not_negative", "UPDATE audit_positions SET position = -1"),
    ("audit_balances_pkey", "INSERT INTO audit_balances VALUES (1, 1), (1, 1)"),
    ("audit_violations_pkey", "INSERT INTO audit_violations VALUES ('x', 'x', 'x'), ('x', 'x', 'x')"),
    ("audit_positions_rule_length", "INSERT INTO audit_positions VALUES ('', 'x')"),
    ("audit_positions_source_length", "INSERT INTO audit_positions VALUES ('x', '')"),
    ("audit_passes_rule_length", "INSERT INTO audit_passes VALUES ('')"),
    ("audit_violations_rule_length", "INSERT INTO audit_violations VALUES ('', 'x', 'x')"),
    ("audit_violations_subject_length", "INSERT INTO audit_violations VALUES ('x', '', 'x')"),
    ("audit_violations_detail_length", "INSERT INTO audit_violations VALUES ('x', 'x', repeat('x', 501))"),
    ("audit_passes_pkey", "INSERT INTO audit_passes VALUES ('x'), ('x')"),
    ("reconcile_positions_list_length", "UPDATE reconcile_positions SET list = ''"),
    ("refunds_stripe_refund_once", "UPDATE refunds SET stripe_refund_id = 're_1'"),
    ("refunds_order_fkey", f"UPDATE refunds SET order_id = {NONE}"),
    ("refunds_amount_positive", "UPDATE refunds SET amount_minor = 0"),
    ("refunds_cause_known", "UPDATE refunds SET cause = 'whim'"),
    ("refunds_status_known", f"UPDATE refunds SET status = 'LOST' WHERE id = {ONE}"),
    ("refunds_settled_is_known_to_stripe", f"UPDATE refunds SET status = 'SUCCEEDED' WHERE id = {TWO}"),
    ("refunds_late_money_once", f"{NEW_REFUND} VALUES ({NONE}, {TWO}, 'pi_2', 1, 'late_money')"),
    (
        "order_events_pkey",
        f"INSERT INTO order_events (id, order_id, to_status, cause) {OWN_ID} SELECT id, order_id, to_status, cause"
        " FROM order_events",
    ),
    (
        "unmatched_payments_pkey",
        f"INSERT INTO unmatched_payments VALUES ('pi_9', {TWO}, 1, 'EUR'), ('pi_9', {TWO}, 1, 'EUR')",
    ),
    ("unmatched_payments_order_fkey", f"INSERT INTO unmatched_payments VALUES ('pi_9', {NONE}, 1, 'EUR')"),
    ("unmatched_payments_amount_positive", f"INSERT INTO unmatched_payments VALUES ('pi_9', {TWO}, 0, 'EUR')"),
    ("unmatched_payments_currency_form", f"INSERT INTO unmatched_payments VALUES ('pi_9', {TWO}, 1, 'euro')"),
    ("unmatched_payments_payment_intent_length", f"INSERT INTO unmatched_payments VALUES ('', {TWO}, 1, 'EUR')"),
    (
        "unmatched_payments_attempts_not_negative",
        f"INSERT INTO unmatched_payments VALUES ('pi_9', {TWO}, 1, 'EUR', now(), now(), -1)",
    ),
    ("refunds_reason_length", "UPDATE refunds SET reason = ''"),
    ("refunds_failure_reason_form", f"UPDATE refunds SET failure_reason = 'declined' WHERE id = {TWO}"),
    ("refunds_failure_reason_form", f"UPDATE refunds SET failure_reason = '' WHERE id = {ONE}"),
    ("order_shipping_pkey", "INSERT INTO order_shipping SELECT * FROM order_shipping"),
    ("order_shipping_order_fkey", f"UPDATE order_shipping SET order_id = {NONE}"),
    *(
        ("order_shipping_lengths", f"UPDATE order_shipping SET {column} = repeat('x', 501)")
        for column in ("name", "phone", "line1", "line2", "city", "state", "postal_code", "country")
    ),
    ("refund_items_pkey", "INSERT INTO refund_items SELECT * FROM refund_items"),
    ("refund_items_refund_fkey", f"UPDATE refund_items SET refund_id = {NONE}"),
    ("refund_items_quantity_range", "UPDATE refund_items SET quantity = 0"),
    ("refund_items_quantity_range", "UPDATE refund_items SET quantity = 10000"),
    ("disputes_pkey", "INSERT INTO disputes SELECT * FROM disputes"),
    ("disputes_order_fkey", f"UPDATE disputes SET order_id = {NONE}"),
    ("disputes_amount_not_negative", "UPDATE disputes SET amount_minor = -1"),
    ("disputes_currency_form", "UPDATE disputes SET currency = 'eur'"),
    ("disputes_id_length", "UPDATE disputes SET stripe_dispute_id = ''"),
    ("disputes_payment_intent_length", "UPDATE disputes SET stripe_payment_intent_id = ''"),
    ("disputes_reason_length", "UPDATE disputes SET reason = ''"),
    ("disputes_status_length", "UPDATE disputes SET status = repeat('x', 101)"),
    ("api_keys_pkey", f"{NEW_KEY} SELECT 1, 'shop', 'x', sha256('x'), scopes, 'x', expires_at FROM api_keys"),
    ("api_keys_name_unique", f"{NEW_KEY} SELECT 2, 'erp', 'x', sha256('x'), scopes, 'x', expires_at FROM api_keys"),
    ("api_keys_digest_unique", f"{NEW_KEY} SELECT 2, 'shop', 'x', digest, scopes, 'x', expires_at FROM api_keys"),
    *(("api_keys_name_form", f"UPDATE api_keys SET name = '{name}'") for name in ("", "Erp", "a b", "-a", 65 * "a")),
    ("api_keys_prefix_length", "UPDATE api_keys SET prefix = ''"),
    ("api_keys_digest_length", "UPDATE api_keys SET digest = ''"),
    ("api_keys_scopes_known", "UPDATE api_keys SET scopes = '{}'"),
    ("api_keys_scopes_known", "UPDATE api_keys SET scopes = '{stock:write,everything}'"),
    ("api_keys_created_by_length", "UPDATE api_keys SET created_by = ''"),
    ("api_keys_expires_after_creation", "UPDATE api_keys SET expires_at = created_at"),
    ("token_revocations_pkey", "INSERT INTO token_revocations (subject) VALUES ('anna')"),
    ("token_revocations_subject_length", "UPDATE token_revocations SET subject = ''"),
    ("stuck_items_pkey", "INSERT INTO stuck_items (kind, id, reason) VALUES ('dispute_open', 'dp_1', 'x')"),
    (
        "stuck_items_number_unique",
        f"INSERT INTO stuck_items (number, kind, id, reason) {OWN_ID} SELECT number, kind, 'x', 'x' FROM stuck_items",
    ),
    ("stuck_items_order_fkey", f"UPDATE stuck_items SET order_id = {NONE}"),
    ("stuck_items_kind_known", "UPDATE stuck_items SET kind = 'mood'"),
    ("stuck_items_id_length", "UPDATE stuck_items SET id = ''"),
    ("stuck_items_reason_length", "UPDATE stuck_items SET reason = ''"),
    ("stuck_items_resolved_has_ended", "UPDATE stuck_items SET resolved = true"),
    ("order_events_order_fkey", f"UPDATE order_events SET order_id = {NONE}"),
    ("order_events_path_legal", "UPDATE order_events SET from_status = 'FULFILLED', to_status = 'PAID'"),
    ("order_events_status_known", "UPDATE order_events SET from_status = 'LOST', to_status = 'LOST'"),
    ("order_events_cause_length", "UPDATE order_events SET cause = ''"),
    ("order_events_note_length", "UPDATE order_events SET note = ''"),
    *(
        (f"{table}_actor_form", f"UPDATE {table} SET actor = {actor}")
        for table in ("order_events", "refunds", "stock_movements")
        for actor in ("''", "'staff'", "'user'", "'user:'", "'admin:x'", "'the admin'", "'user:' || repeat('x', 296)")
    ),
    (
        "stock_movements_pkey",
        f"INSERT INTO stock_movements (id, product_id, delta, reason) {OWN_ID} SELECT id, 1, 1, 'x'"
        " FROM stock_movements",
    ),
    ("stock_movements_product_fkey", "UPDATE stock_movements SET product_id = 404"),
    ("stock_movements_order_fkey", f"UPDATE stock_movements SET order_id = {NONE} WHERE reason = 'hold'"),
    ("stock_movements_delta_not_zero", "UPDATE stock_movements SET delta = 0 WHERE order_id IS NULL"),
    ("stock_movements_reason_length", "UPDATE stock_movements SET reason = '' WHERE order_id IS NULL"),
    ("stock_movements_order_form", "UPDATE stock_movements SET hold = 1 WHERE order_id IS NULL"),
    ("stock_movements_order_form", "UPDATE stock_movements SET delta = 2 WHERE reason = 'hold'"),
    ("stock_movements_order_form", "UPDATE stock_movements SET reason = 'release' WHERE reason = 'hold'"),
    *(
        ("stock_movements_order_form", f"{NEW_MOVEMENT} VALUES (1, {delta}, '{reason}', {ONE}, 1)")
        for delta, reason in ((1, "refund:"), (1, "refund:1"), (1, f"refund:{THIRD} "), (-1, f"refund:{THIRD}"))
    ),
    ("stock_movements_once", f"{NEW_MOVEMENT} VALUES (1, -1, 'hold', {ONE}, 1)"),
    ("stock_movements_hold_positive", f"{NEW_MOVEMENT} VALUES (1, -1, 'hold', {ONE}, 0)"),
    ("stripe_events_pkey", "INSERT INTO stripe_events SELECT * FROM stripe_events"),
    ("stripe_events_order_fkey", f"UPDATE stripe_events SET order_id = {NONE}"),
    ("stripe_events_id_length", "UPDATE stripe_events SET id = ''"),
    ("stripe_events_type_length", "UPDATE stripe_events SET type = ''"),
    ("stripe_events_outcome_length", "UPDATE stripe_events SET outcome = ''"),
    ("stripe_events_payload_form", "UPDATE stripe_events SET payload = '1'"),
    ("stripe_events_attempts_not_negative", "UPDATE stripe_events SET attempts = -1"),
    ("stripe_events_handled_has_outcome", "UPDATE stripe_events SET handled_at = now(), next_attempt_at = NULL"),
    ("stripe_events_handled_or_due", "UPDATE stripe_events SET next_attempt_at = NULL"),
    ("idempotency_keys_pkey", "INSERT INTO idempotency_keys SELECT * FROM idempotency_keys"),
    ("idempotency_keys_order_fkey", f"UPDATE idempotency_keys SET order_id = {NONE}"),
    ("idempotency_keys_id_form", "UPDATE idempotency_keys SET id = '\\x00'"),
    ("idempotency_keys_request_digest_form", "UPDATE idempotency_keys SET request_digest = ''"),
    ("idempotency_keys_answered_whole", "UPDATE idempotency_keys SET status = 200"),
    ("idempotency_keys_status_success", "UPDATE idempotency_keys SET status = 409, answer = ''"),
    ("idempotency_keys_location_length", "UPDATE idempotency_keys SET location = ''"),
    (
        "audit_log_pkey",
        f"INSERT INTO audit_log (id, actor, action, subject, request_id) {OWN_ID}"
        " SELECT id, actor, action, subject, 'x' FROM audit_log",
    ),
    *(("audit_log_actor_form", f"UPDATE audit_log SET actor = '{actor}'") for actor in ("", "staff", "key:")),
    *(("audit_log_action_form", f"UPDATE audit_log SET action = '{action}'") for action in ("", "Erase", "a__b")),
    ("audit_log_action_form", "UPDATE audit_log SET action = repeat('x', 101)"),
    *(("audit_log_subject_form", f"UPDATE audit_log SET subject = '{subject}'") for subject in ("", "product", "12:")),
    ("audit_log_subject_form", "UPDATE audit_log SET subject = 'stuck:' || repeat('x', 295)"),
    ("audit_log_before_form", "UPDATE audit_log SET before = '1'"),
    ("audit_log_after_form", "UPDATE audit_log SET after = '[]'"),
    ("audit_log_request_id_length", "UPDATE audit_log SET request_id = ''"),
    ("product_search_pkey", f"{SEARCH_ROW} VALUES (1, 'simple', 1, '', '', 1, 'EUR')"),
    ("product_search_product_fkey", f"{SEARCH_ROW} VALUES (99, 'simple', 1, '', '', 1, 'EUR')"),
    ("product_search_language_length", f"{SEARCH_ROW} VALUES (2, '', 1, '', '', 1, 'EUR')"),
    ("search_words_pkey", "INSERT INTO search_words VALUES ('tent')"),
    ("search_words_word_length", "INSERT INTO search_words VALUES ('mug')"),
    ("hold_pressure_pkey", "INSERT INTO hold_pressure DEFAULT VALUES"),
    ("hold_pressure_one_row", "INSERT INTO hold_pressure (id) VALUES (false)"),
    ("hold_pressure_time_ends", "UPDATE hold_pressure SET measured_at = 'infinity'"),
    ("hold_pressure_ratio_range", "UPDATE hold_pressure SET units_on_hold_ratio = 1.1"),
    ("worker_heartbeats_pkey", "INSERT INTO worker_heartbeats (loop) VALUES ('sweep')"),
    ("worker_heartbeats_loop_length", "UPDATE worker_heartbeats SET loop = '' WHERE loop = 'sweep'"),
    (
        "event_endpoints_pkey",
        f"INSERT INTO event_endpoints (id, url, types, secret) {OWN_ID} SELECT id, url, types, secret"
        " FROM event_endpoints",
    ),
    ("event_endpoints_url_length", "UPDATE event_endpoints SET url = ''"),
    *(
        ("event_endpoints_types_known", f"UPDATE event_endpoints SET types = '{types}'")
        for types in ("{}", "{order.paid,order.lost}")
    ),
    ("event_endpoints_description_length", "UPDATE event_endpoints SET description = repeat('x', 501)"),
    *(
        ("event_endpoints_secret_length", f"UPDATE event_endpoints SET {values}")
        for values in ("secret = 'short'", "secret = repeat('x', 65)::bytea")
    ),
    *(
        ("event_endpoints_previous_ends", f"UPDATE event_endpoints SET {values}")
        for values in (
            "previous_secrets = ARRAY[secret]",
            "previous_secrets = array_fill(secret, ARRAY[6]), previous_until = array_fill(now(), ARRAY[6])",
        )
    ),
    ("event_endpoints_deleted_is_off", "UPDATE event_endpoints SET deleted_at = now()"),
    ("event_leases_pkey", "INSERT INTO event_leases (endpoint_id) VALUES (1)"),
    ("event_leases_endpoint_fkey", "INSERT INTO event_leases (endpoint_id) VALUES (2)"),
    (
        "event_deliveries_pkey",
        f"INSERT INTO event_deliveries (endpoint_id, id, event_id, type, subject, data) {OWN_ID}"
        " SELECT endpoint_id, id, event_id, type, subject, data FROM event_deliveries",
    ),
    ("event_deliveries_type_form", "UPDATE event_deliveries SET type = 'paid'"),
    ("event_deliveries_subject_form", "UPDATE event_deliveries SET subject = 'order:anna'"),
    ("event_deliveries_data_form", "UPDATE event_deliveries SET data = '[]'"),
    (
        "event_deliveries_status_known",
        "UPDATE event_deliveries SET status = 'lost', next_attempt_at = NULL, finished_at = now()",
    ),
    ("event_deliveries_pending_is_due", "UPDATE event_deliveries SET next_attempt_at = NULL"),
    ("event_deliveries_pending_is_unfinished", "UPDATE event_deliveries SET finished_at = now()"),
    ("event_deliveries_attempts_not_negative", "UPDATE event_deliveries SET attempts = -1"),
    ("event_deliveries_result_form", "UPDATE event_deliveries SET result = 'It failed.'"),
    ("product_announcements_pkey", "INSERT INTO product_announcements (product_id) VALUES (1)"),
]


@pytest.fixture(scope="module")
def seeded(template: str) -> Iterator[str]:
    """The URL of one database for all cases. Each case rolls back; a clone for each would take a minute in total."""
    with shared(template, SEED) as url:
        yield url


@pytest.fixture
async def database(seeded: str) -> AsyncIterator[asyncpg.Connection]:
    """A connection in a transaction that is rolled back."""
    connection = await asyncpg.connect(seeded)
    await connection.execute("BEGIN")
    yield connection
    await connection.execute("ROLLBACK")
    await connection.close()


@pytest.fixture
async def other(seeded: str) -> AsyncIterator[asyncpg.Connection]:
    """A second connection, which waits only briefly for a lock."""
    connection = await asyncpg.connect(seeded, server_settings={"lock_timeout": "100ms"})
    yield connection
    await connection.close()


@pytest.mark.parametrize(("constraint", "write"), INVALID_ROWS, ids=[constraint for constraint, _ in INVALID_ROWS])
async def test_a_constraint_refuses_invalid_rows(database: asyncpg.Connection, constraint: str, write: str) -> None:
    with pytest.raises(asyncpg.IntegrityConstraintViolationError) as refused:
        await database.execute(write)
    assert refused.value.constraint_name == constraint


async def test_every_constraint_has_an_invalid_row(database: asyncpg.Connection) -> None:
    # Since version 18 NOT NULL is a constraint too (n), with a generated name.
    names = await database.fetch(
        "SELECT conname FROM pg_constraint WHERE connamespace = 'public'::regnamespace AND contype <> 'n'"
        " UNION SELECT relname FROM pg_index JOIN pg_class ON oid = indexrelid"
        " WHERE indisunique AND relnamespace = 'public'::regnamespace"
    )
    # yoyo's own tables are left out.
    ours = {name for (name,) in names if "yoyo" not in name}
    listed = {constraint for constraint, _ in INVALID_ROWS}
    assert ours == listed, (
        f"INVALID_ROWS lacks {ours - listed or 'none'}; not in the database: {listed - ours or 'none'}"
    )


async def test_a_history_begins_with_a_pending_order(database: asyncpg.Connection) -> None:
    with pytest.raises(asyncpg.CheckViolationError):
        await database.execute("UPDATE order_events SET from_status = NULL, to_status = 'PAID'")


TABLES = ("carts", "products", "orders", "payments", "refunds", "order_events", "stock_movements")
PAID = f"UPDATE orders SET status = 'PAID', paid_at = now() WHERE id = {ONE}"
ENDS = "next_attempt_at = NULL"
FULFILLED = f"UPDATE orders SET status = 'FULFILLED', paid_at = now(), fulfilled_at = now(), {ENDS} WHERE id = {ONE}"
CANCELLED = f"UPDATE orders SET status = 'CANCELLED', cancelled_at = now(), {ENDS} WHERE id = {ONE}"
ENDED = f"UPDATE payments SET status = 'EXPIRED' WHERE id = {ONE}"
ATTACHED = f"UPDATE payments SET stripe_session_id = 'cs_1' WHERE id = {ONE}"
CAPTURED = f"""
UPDATE payments SET status = 'SUCCEEDED', stripe_session_id = 'cs_1', stripe_payment_intent_id = 'pi_1' WHERE id = {ONE}
"""
CLAIMED = f"UPDATE payments SET claimed_until = now() + interval '1 minute' WHERE id = {ONE}"
MIXED = f"INSERT INTO cart_items (cart_id, product_id, quantity) VALUES ({TWO}, 2, 1), ({TWO}, 1, 1)"
ORDERED = f"""
INSERT INTO order_items (order_id, product_id, name, quantity, unit_price_minor)
VALUES ({TWO}, 2, 'Mug', 1, 990), ({TWO}, 1, 'Tent', 1, 1250)
"""

OWNED = f"UPDATE carts SET user_id = 'anna' WHERE id = {TWO}"

# Of checkout/reserve: the client's network, pending orders of a client, units in a line, the actor, the owner.
LIMITS = (None, 5, 100, "customer", None, None)

# For each guard: SQL that makes the guard fail, the statement with its arguments, and the tables that must not change.
# These are all tables where the guard protects the whole statement.
GUARDS = {
    "open_cart: owner": (OWNED, "cart/open_cart", (SECOND, "bob"), TABLES),
    "open_for_product: owner": (
        f"{OWNED}; UPDATE carts SET currency = NULL",
        "cart/open_for_product",
        (SECOND, 1, 100, None),
        TABLES,
    ),
    "close_cart: owner": (OWNED, "checkout/close_cart", (SECOND, None, None), TABLES),
    "claim_cart: owner": (OWNED, "ownership/claim_cart", (SECOND, "bob"), TABLES),
    "claim_orders: owner": (
        f"UPDATE orders SET user_id = 'anna' WHERE id = {TWO}",
        "ownership/claim_orders",
        (SECOND, "bob"),
        TABLES,
    ),
    "mark_paid: status": (
        PAID,
        "transitions/mark_paid",
        (FIRST, "PENDING_PAYMENT", 1, "cs", "pi", None, None, "x", "stripe"),
        TABLES,
    ),
    "mark_paid: path": (
        PAID,
        "transitions/mark_paid",
        (FIRST, "PAID", 1, "cs", "pi", None, None, "x", "stripe"),
        TABLES,
    ),
    "mark_paid: payment": (
        "SELECT",
        "transitions/mark_paid",
        (SECOND, "CANCELLED", 2, "cs", "pi", None, None, "x", "stripe"),
        ("payments",),
    ),
    "mark_cancelled: status": (
        PAID,
        "transitions/mark_cancelled",
        ([FIRST], "PENDING_PAYMENT", "FAILED", "x", None, "admin"),
        TABLES,
    ),
    "mark_cancelled: path": (
        FULFILLED,
        "transitions/mark_cancelled",
        ([FIRST], "FULFILLED", "FAILED", "x", None, "admin"),
        TABLES,
    ),
    "mark_cancelled: payment": (
        f"{PAID}; {CAPTURED}",
        "transitions/mark_cancelled",
        ([FIRST], "PAID", "EXPIRED", "x", None, "admin"),
        ("payments",),
    ),
    "mark_processing: payment": (
        CAPTURED,
        "settlement/mark_processing",
        (FIRST, "cs", "x", 1.0, "stripe", None, None),
        TABLES,
    ),
    "mark_processing: order": (
        CANCELLED,
        "settlement/mark_processing",
        (FIRST, "cs", "x", 1.0, "stripe", None, None),
        ("orders", "order_events"),
    ),
    "mark_fulfilled: status": ("SELECT", "fulfilment/mark_fulfilled", (FIRST, "x", "job:x"), TABLES),
    "mark_fulfilled: an event of its own": (
        f"UPDATE orders SET status = 'PAID', paid_at = now() WHERE id = {ONE};"
        f" UPDATE stripe_events SET order_id = {ONE}",
        "fulfilment/mark_fulfilled",
        (FIRST, "x", "job:x"),
        TABLES,
    ),
    "record_late_payment: status": (
        "SELECT",
        "settlement/record_late_payment",
        (SECOND, "cs", "pi", None, None),
        TABLES,
    ),
    "claim_session: claim": (CLAIMED, "payment_session/claim_session", (FIRST, 1.0), TABLES),
    "claim_session: status": (ENDED, "payment_session/claim_session", (FIRST, 1.0), TABLES),
    "claim_session: session": (ATTACHED, "payment_session/claim_session", (FIRST, 1.0), TABLES),
    "start_attempt: attempt": ("SELECT", "payment_session/start_attempt", (FIRST, 2, 1800, 1.0), TABLES),
    "start_attempt: status": (ENDED, "payment_session/start_attempt", (FIRST, 1, 1800, 1.0), TABLES),
    "start_attempt: session": (ATTACHED, "payment_session/start_attempt", (FIRST, 1, 1800, 1.0), TABLES),
    "attach_session: order": (CANCELLED, "payment_session/attach_session", (FIRST, "cs", "url"), TABLES),
    "attach_session: payment": (ENDED, "payment_session/attach_session", (FIRST, "cs", "url"), TABLES),
    "set_balance: captured": ("SELECT", "refunds/set_balance", (FIRST, 0, "SUCCEEDED"), TABLES),
    "fail_refund: status": (
        f"UPDATE refunds SET status = 'SUCCEEDED', stripe_refund_id = 're_2', {ENDS} WHERE id = {TWO}",
        "refunds/fail_refund",
        (SECOND, "x"),
        TABLES,
    ),
    "reserve: currency": (
        MIXED,
        "checkout/reserve",
        (THIRD, SECOND, THIRD, None, 1800, 2100, 1.0, "{}", "x", None, "EUR", 50, 10_000, 2, *LIMITS),
        TABLES,
    ),
    # One line is short, so the units of the other stay too.
    "reserve: stock": (
        f"{MIXED}; UPDATE products SET currency = 'EUR', stock = id - 1",
        "checkout/reserve",
        (THIRD, SECOND, THIRD, None, 1800, 2100, 1.0, "{}", "x", None, "EUR", 50, 10_000, 2, *LIMITS),
        TABLES,
    ),
    # The products of these two lines are not locked.
    "reserve: line count": (
        f"{MIXED}; UPDATE products SET currency = 'EUR'",
        "checkout/reserve",
        (THIRD, SECOND, THIRD, None, 1800, 2100, 1.0, "{}", "x", None, "EUR", 50, 10_000, 1, *LIMITS),
        TABLES,
    ),
}


@pytest.mark.parametrize("guard", GUARDS)
async def test_a_statement_changes_nothing_when_its_guard_fails(database: asyncpg.Connection, guard: str) -> None:
    setup, name, arguments, tables = GUARDS[guard]

    async def snapshot() -> list[list[asyncpg.Record]]:
        return [await database.fetch(f"SELECT * FROM {table} ORDER BY id") for table in tables]

    await database.execute(setup)
    before = await snapshot()

    await database.fetch(Statement(name).sql, *arguments)

    assert await snapshot() == before


@pytest.mark.parametrize(
    ("table", "claim"),
    [("orders", "sweep/claim_orders"), ("refunds", "sweep/claim_refunds"), ("stripe_events", "sweep/claim_events")],
)
async def test_a_claim_skips_locked_rows(
    database: asyncpg.Connection, other: asyncpg.Connection, table: str, claim: str
) -> None:
    assert len(await database.fetch(f"SELECT FROM {table} WHERE next_attempt_at <= now() FOR NO KEY UPDATE")) == 1
    assert await other.fetch(Statement(claim).sql, 10) == []
    assert len(await database.fetch(Statement(claim).sql, 10)) == 1


@pytest.mark.parametrize("table", ["carts", "orders", "payments"])
async def test_a_transition_locks_its_cart_order_and_payment(
    database: asyncpg.Connection, other: asyncpg.Connection, table: str
) -> None:
    assert await database.fetch(Statement("transitions/lock_order").sql, FIRST)
    await other.execute(f"SELECT FROM {table} WHERE id = {TWO} FOR NO KEY UPDATE")
    with pytest.raises(asyncpg.LockNotAvailableError):
        await other.execute(f"SELECT FROM {table} WHERE id = {ONE} FOR NO KEY UPDATE")


@pytest.mark.parametrize(
    ("lines", "name", "arguments"),
    [
        (MIXED, "checkout/lock_products", (SECOND,)),
        (ORDERED, "transitions/lock_products", ([SECOND],)),
    ],
    ids=["checkout", "transitions"],
)
async def test_products_are_locked_by_id(
    database: asyncpg.Connection, other: asyncpg.Connection, lines: str, name: str, arguments: tuple[object, ...]
) -> None:
    await database.execute(lines)
    await other.execute("BEGIN; SELECT FROM products WHERE id = 1 FOR NO KEY UPDATE")
    locking = asyncio.create_task(database.fetch(Statement(name).sql, *arguments))
    try:
        await wait_for_blocked(other)
        # A statement that waits for the first product has not locked the second.
        await other.execute("SELECT FROM products WHERE id = 2 FOR NO KEY UPDATE NOWAIT")
    finally:
        await other.execute("ROLLBACK")
        await locking
