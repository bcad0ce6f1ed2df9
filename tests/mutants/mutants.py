"""The mutants: each is the service without one guard of money or stock, and names the tests that must fail.

A text to replace occurs in its file exactly once. Its replacement is as similar as possible, and the server accepts it
with the same parameters, so that a mutant fails for what it does. Where another guard refuses first, the named test
runs the inner guard alone.
"""

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Mutant:
    """One guard removed: the file, the text, its replacement, and the tests (node ids) that catch it."""

    name: str
    file: str
    find: str
    replacement: str
    tests: tuple[str, ...]


def at(module: str, *names: str) -> tuple[str, ...]:
    """Tests of one module, for example `shop/test_races`."""
    return tuple(f"tests/{module}.py::{name}" for name in names)


def refuses(*constraints: str) -> tuple[str, ...]:
    """The tests of these constraints alone, numbered where a constraint has several."""
    return at("sql/test_constraints", *(f"test_a_constraint_refuses_invalid_rows[{name}]" for name in constraints))


def guards(name: str) -> tuple[str, ...]:
    """The test of this guard of a statement alone."""
    return at("sql/test_constraints", f"test_a_statement_changes_nothing_when_its_guard_fails[{name}]")


def locks(statement: str) -> tuple[str, ...]:
    """The test of the order in which this statement locks products."""
    return at("sql/test_constraints", f"test_products_are_locked_by_id[{statement}]")


TOTAL = at("shop/test_checkout", "test_a_refused_checkout_says_why_and_reserves_nothing[other total]")
OUT_OF_RANGE = at("shop/test_money", "test_prices_and_totals_are_within_the_limits_of_their_currency")
WAITED = at("shop/test_races", "test_a_checkout_uses_the_product_as_changed_while_it_waited")
AHEAD = at("shop/test_deadlocks", "test_the_products_of_two_lines_are_locked_in_the_order_of_their_ids")
LATE = at("shop/test_refunds", "test_a_late_payment_is_refunded_once_where_its_order_cannot_be_restored")
FEW_LEFT = at("shop/test_refunds", "test_as_many_late_payments_succeed_as_there_are_units")
BY_LINE = at("shop/test_refunds", "test_a_refund_by_line_costs_its_units_and_returns_those_to_restock")
ALL_LINES = at(
    "shop/test_refunds",
    "test_refunds_of_all_lines_before_fulfilment_cancel_the_order_and_return_each_unit_once",
)
FAILED_LINE = at("shop/test_refunds", "test_a_refund_by_line_that_fails_after_its_units_are_back_returns_them_once")
RESTOCK = at("shop/test_refunds", "test_a_restock_returns_the_units_once_though_the_refund_fails")
LATE_ATTEMPT = at("shop/test_checkout", "test_a_refusal_of_an_older_attempt_does_not_end_the_newer_one")
OLDER_ATTEMPT = at("shop/test_checkout", "test_a_conclusion_about_an_older_attempt_changes_nothing")
CANCELLED_MEANWHILE = at("shop/test_checkout", "test_an_order_cancelled_during_session_creation_leaves_no_open_session")
CLAIM = at("sql/test_constraints", "test_a_claim_skips_locked_rows")
NEWER_FIRST = at("shop/test_audit", "test_a_row_that_is_committed_after_a_newer_one_is_not_missed")
KNOWN = at("shop/test_audit", "test_a_violation_stays_known_until_it_is_gone")
MARKED_PAID = at("shop/test_reconcile", "test_a_full_audit_finds_an_order_that_a_later_event_marked_paid")
BROKEN_OFF = at("shop/test_reconcile", "test_a_list_of_events_that_breaks_off_is_fetched_again")
FORGOTTEN = at("shop/test_idempotency", "test_a_stored_checkout_is_forgotten_once_its_order_is_cancelled")
CHAIN = at("shop/test_audit_log", "test_concurrent_writes_chain")
ONE_ROW = at("shop/test_audit_log", "test_each_write_by_staff_leaves_one_row")
FORGED = at("http/test_identity", "test_forged_tokens_are_refused_on_every_route")
SENT_ONCE = at("http/test_identity", "test_a_credential_is_sent_once_as_bearer")
REVOKED = at("http/test_identity", "test_revoked_tokens_are_refused_on_every_process")
WITHDRAWN = at("http/test_identity", "test_a_new_key_is_accepted_and_a_withdrawn_one_refused")
EXPIRED = at("http/test_identity", "test_a_verified_token_is_remembered_but_not_past_its_expiry")
MATRIX = at("http/test_permissions", "test_the_matrix_is_as_reviewed")
PRINCIPALS = "TestPrincipals::test_each_has_its_own_"
HOLDS = at("sql/test_constraints", "test_a_transition_locks_its_cart_order_and_payment")

RESERVE = "sql/checkout/reserve.sql"
MARK_PAID, MARK_CANCELLED = "sql/transitions/mark_paid.sql", "sql/transitions/mark_cancelled.sql"
LIST_RETURNS = "sql/refunds/list_returns.sql"
RETURN, RETAKE = "sql/transitions/return_stock.sql", "sql/settlement/retake_stock.sql"
CLAIM_SESSION, START_ATTEMPT = "sql/payment_session/claim_session.sql", "sql/payment_session/start_attempt.sql"
AUDIT = "service/shop/audit.py"
KNOWN_FORGOTTEN = "        for batch in _batches([] and sorted(_id"
MOVE_POSITION = "sql/reconcile/move_position.sql"
ATTACH = "sql/payment_session/attach_session.sql"
CATALOG, CARTS, ORDERS, STOCK, EVENTS, KEYS, CAPTURED, PRIMARY_KEYS, STRICTER, AMOUNTS = (
    f"migrations/{name}.sql"
    for name in (
        "0001.catalog",
        "0002.carts",
        "0003.orders",
        "0004.stock_movements",
        "0005.stripe_events",
        "0006.idempotency_keys",
        "0019.captured_amounts",
        "0024.keys",
        "0026.stricter_rows",
        "0030.amounts_by_currency",
    )
)
ERASED = "migrations/0045.erasure.sql"
ERASED_ACTOR = "actor = CASE WHEN starts_with(actor, 'user:') THEN 'user:erased' ELSE actor END"
# How an event is stored that meets an erasure, and the statement.
STORING = {"delivered": "record_event", "stored": "store_event", "processed": "finish_event"}
LOCK_CART, LOCK_LINES = "sql/checkout/lock_products.sql", "sql/transitions/lock_products.sql"
AS_READ = """
        AND (products.name, products.price_minor, products.currency, products.active)
        = (line.name, line.price_minor, line.currency, line.active)"""
# The lines of the orders instead of those that this statement released.
RELEASED_LINES = """    FROM (
        SELECT
            product_id,
            quantity
        FROM order_items
        WHERE order_id = any($1)
    ) AS line
    GROUP BY"""
SKIPPING_LOCK = "    FOR NO KEY UPDATE SKIP LOCKED\n"

MUTANTS = [
    # Taking stock
    Mutant(
        "reserve: stock",
        RESERVE,
        "bool_and(active AND stock >= quantity ",
        "bool_and(active ",
        guards("reserve: stock"),
    ),
    Mutant(
        "reserve: active",
        RESERVE,
        "bool_and(active AND stock >= quantity ",
        "bool_and(stock >= quantity ",
        at("shop/test_checkout", "test_a_product_no_longer_for_sale_is_named"),
    ),
    Mutant(
        "reserve: currency", RESERVE, "bool_and(currency = $11)", "bool_or(currency = $11)", guards("reserve: currency")
    ),
    Mutant(
        "reserve: lowest total", RESERVE, "BETWEEN $12::bigint AND", "BETWEEN least($12::bigint, 1) AND", OUT_OF_RANGE
    ),
    Mutant("reserve: highest total", RESERVE, "AND $13::bigint", "AND 2 * $13::bigint", OUT_OF_RANGE),
    Mutant(
        "create_product: highest price",
        "service/shop/catalog.py",
        "    check_price(new.price_minor, new.currency)\n",
        "",
        OUT_OF_RANGE,
    ),
    Mutant(
        "update_product: highest price",
        "service/shop/catalog.py",
        "    check_price(product.price_minor, product.currency)\n",
        "",
        OUT_OF_RANGE,
    ),
    Mutant(
        "a total that Stripe refuses is final",
        "service/shop/checkout.py",
        '("amount_too_small", "amount_too_large")',
        "()",
        at("shop/test_checkout", "test_a_total_that_stripe_refuses_is_out_of_range"),
    ),
    Mutant(
        "reserve: expected total",
        RESERVE,
        "AND ($4::bigint IS NULL OR sum(price_minor * quantity) = $4)",
        "AND ($4::bigint IS NULL OR true)",
        TOTAL,
    ),
    Mutant(
        "reserve: line count",
        RESERVE,
        "count(*) = $14::integer\n        AND",
        "$14::integer > 0\n        AND",
        guards("reserve: line count"),
    ),
    Mutant("reserve: stock after a wait", RESERVE, "products.stock >= line.quantity", "true", WAITED),
    Mutant("reserve: product after a wait", RESERVE, AS_READ, "", WAITED),
    Mutant(
        "reserve: all or nothing",
        RESERVE,
        "WHERE (SELECT count(*) FROM reserved) = $14::integer",
        "WHERE (SELECT count(*) FROM reserved) <= $14::integer",
        WAITED,
    ),
    Mutant("lock_products: order for a checkout", LOCK_CART, "ORDER BY products.id\n", "", locks("checkout")),
    Mutant(
        "lock_products: order for orders",
        LOCK_LINES,
        "ORDER BY id\nFOR NO KEY UPDATE",
        "FOR NO KEY UPDATE",
        at("sql/test_headers", "test_locks[transitions/lock_products]"),
    ),
    Mutant(
        "reserve: locked products",
        "service/shop/checkout.py",
        "line_count = len(await LOCK_PRODUCTS.all(tx, cart_id=cart_id))",
        "line_count = len(closed.product_ids)",
        AHEAD,
    ),
    Mutant(
        "reserve: the ledger",
        RESERVE,
        "    FROM line, reserved_total\n),\n\nitem AS (",
        "    FROM line, reserved_total\n    WHERE false\n),\n\nitem AS (",
        at("shop/test_races", "test_two_concurrent_checkouts_sell_the_last_unit_once"),
    ),
    Mutant(
        "close_cart: status",
        "sql/checkout/close_cart.sql",
        "WHERE id = $1 AND status = 'OPEN'",
        "WHERE id = $1",
        at("shop/test_checkout", "test_a_checkout_answers_with_the_order_and_where_to_pay"),
    ),
    Mutant("retake_stock: every line", RETAKE, "bool_and(stock >= quantity)", "bool_or(stock >= quantity)", LATE),
    Mutant(
        "retake_stock: lock",
        "service/shop/settlement.py",
        "        await transitions.lock_products(tx, [order])\n",
        "",
        FEW_LEFT,
    ),
    Mutant(
        "move_stock: not below zero",
        "sql/catalog/move_stock.sql",
        "stock + $2 BETWEEN 0 AND 1000000000",
        "stock + $2 <= 1000000000",
        at("http/test_catalog", "test_every_stock_move_is_in_the_ledger"),
    ),
    Mutant(
        "put_product: currency",
        "service/shop/catalog.py",
        "if currency not in (None, current.currency):",
        "if not currency:",
        at("http/test_catalog", "test_a_put_keeps_to_the_rules_of_products"),
    ),
    Mutant(
        "put_product: two at once",
        "service/shop/catalog.py",
        'if error.code != "sku_taken":',
        "if error.code:",
        at("http/test_catalog", "test_eight_puts_of_a_sku_at_once_make_one_product"),
    ),
    Mutant(
        "move_stock: bound",
        "sql/catalog/move_stock.sql",
        "stock + $2 BETWEEN 0 AND 1000000000",
        "stock + $2 >= 0",
        at("http/test_catalog", "test_every_stock_move_is_in_the_ledger"),
    ),
    # Releasing stock
    Mutant(
        "return_stock: once",
        RETURN,
        "    FROM movement\n    GROUP BY",
        RELEASED_LINES,
        ALL_LINES,
    ),
    Mutant(
        "return_stock: less what refunds have returned",
        RETURN,
        "AND stock_movements.delta > 0",
        "AND stock_movements.delta > 9999",
        ALL_LINES,
    ),
    Mutant(
        "list_returns: what is back counts",
        LIST_RETURNS,
        "WHERE order_id = $1 AND hold = $2 AND delta > 0",
        "WHERE order_id = $1 AND hold = $2 AND delta > 9999",
        FAILED_LINE,
    ),
    Mutant(
        "list_returns: only of succeeded refunds",
        LIST_RETURNS,
        "WHEN refund_items.restock AND refund.status = 'SUCCEEDED' THEN",
        "WHEN refund_items.restock THEN",
        at("shop/test_refunds", "test_units_return_with_their_own_refund"),
    ),
    Mutant(
        "list_returns: only what is to be restocked",
        LIST_RETURNS,
        "WHEN refund_items.restock AND refund.status = 'SUCCEEDED' THEN",
        "WHEN refund.status = 'SUCCEEDED' THEN",
        BY_LINE,
    ),
    *(
        Mutant(
            f"list_returns: the rest of {name}",
            LIST_RETURNS,
            "AND (refund.created_at >= orders.fulfilled_at OR payments.status = 'REFUNDED')",
            replacement,
            at("shop/test_refunds", f"test_a_restock_of_the_rest_{test}"),
        )
        for name, replacement, test in (
            ("a fulfilled order", "", "waits_for_the_whole_refund_of_a_paid_order"),
            (
                "an order refunded whole",
                "AND refund.created_at >= orders.fulfilled_at",
                "waits_for_the_whole_refund_of_a_paid_order",
            ),
            (
                "an order not refunded whole",
                "AND payments.status = 'REFUNDED'",
                "of_a_fulfilled_order_waits_for_no_other_refund",
            ),
        )
    ),
    Mutant(
        "list_returns: not what a line does not restock",
        LIST_RETURNS,
        "order_items.quantity - sum(item.remaining)",
        "order_items.quantity",
        at("shop/test_refunds", "test_a_restock_of_the_rest_returns_what_no_line_keeps_and_is_not_back"),
    ),
    Mutant(
        "list_returns: no more than is due",
        LIST_RETURNS,
        "least(new_item.quantity, due.quantity - new_item.quantity_before)::integer",
        "new_item.quantity::integer",
        FAILED_LINE,
    ),
    Mutant(
        "return_units: lock",
        "service/shop/refunds.py",
        "        await transitions.lock_products(tx, [order])\n",
        "",
        at("shop/test_deadlocks", "test_the_products_of_two_lines_are_locked_in_the_order_of_their_ids"),
    ),
    Mutant("return_stock: lock", "service/shop/transitions.py", "    await lock_products(tx, locked)\n", "", AHEAD),
    # Transitions
    Mutant(
        "lock_order: cart",
        "sql/transitions/lock_order.sql",
        "    WHERE id = (SELECT cart_id FROM orders WHERE id = $1)\n    FOR NO KEY UPDATE\n",
        "    WHERE id = (SELECT cart_id FROM orders WHERE id = $1)\n",
        HOLDS,
    ),
    Mutant(
        "lock_order: order",
        "sql/transitions/lock_order.sql",
        "    WHERE id = $1 AND (SELECT id FROM locked_cart) IS NOT NULL\n    FOR NO KEY UPDATE\n",
        "    WHERE id = $1 AND (SELECT id FROM locked_cart) IS NOT NULL\n",
        HOLDS,
    ),
    Mutant(
        "lock_order: payment",
        "sql/transitions/lock_order.sql",
        "    WHERE order_id = (SELECT id FROM locked_order)\n    FOR NO KEY UPDATE\n",
        "    WHERE order_id = (SELECT id FROM locked_order)\n",
        HOLDS,
    ),
    Mutant(
        "mark_paid: status",
        MARK_PAID,
        "WHERE id = $1 AND status = $2 AND $2 IN",
        "WHERE id = $1 AND $2 IN",
        guards("mark_paid: status"),
    ),
    Mutant(
        "mark_paid: path",
        MARK_PAID,
        " AND $2 IN ('PENDING_PAYMENT', 'CANCELLED')",
        "",
        guards("mark_paid: path"),
    ),
    Mutant(
        "mark_paid: payment",
        MARK_PAID,
        "\n        AND payments.status IN ('INITIATED', 'PROCESSING', 'FAILED', 'EXPIRED')",
        "",
        guards("mark_paid: payment"),
    ),
    Mutant(
        "mark_cancelled: status",
        MARK_CANCELLED,
        "WHERE id = any($1) AND status || '' = $2 AND $2 IN",
        "WHERE id = any($1) AND $2 IN",
        guards("mark_cancelled: status"),
    ),
    Mutant(
        "mark_cancelled: path",
        MARK_CANCELLED,
        " AND $2 IN ('PENDING_PAYMENT', 'PAID')",
        "",
        guards("mark_cancelled: path"),
    ),
    Mutant(
        "mark_cancelled: payment",
        MARK_CANCELLED,
        " AND payments.status IN ('INITIATED', 'PROCESSING')",
        "",
        guards("mark_cancelled: payment"),
    ),
    Mutant(
        "mark_processing: payment",
        "sql/settlement/mark_processing.sql",
        "WHERE order_id = $1 AND status = 'INITIATED'",
        "WHERE order_id = $1",
        guards("mark_processing: payment"),
    ),
    Mutant(
        "mark_processing: order",
        "sql/settlement/mark_processing.sql",
        " AND orders.status || '' = 'PENDING_PAYMENT'",
        "",
        guards("mark_processing: order"),
    ),
    Mutant(
        "mark_fulfilled: status",
        "sql/fulfilment/mark_fulfilled.sql",
        "        AND status || '' = 'PAID'\n",
        "",
        guards("mark_fulfilled: status"),
    ),
    Mutant(
        "mark_fulfilled: a reported refund",
        "sql/fulfilment/mark_fulfilled.sql",
        "\n        AND NOT EXISTS (SELECT FROM stripe_events WHERE order_id = $1 AND handled_at IS NULL)",
        "",
        guards("mark_fulfilled: an event of its own"),
    ),
    Mutant(
        "fulfil: payment",
        "service/shop/fulfilment.py",
        ' and order.payment_status == "SUCCEEDED"',
        "",
        at("shop/test_refunds", "test_a_full_refund_before_fulfilment_cancels_the_order_and_restocks"),
    ),
    Mutant(
        "record_late_payment: status",
        "sql/settlement/record_late_payment.sql",
        " AND status IN ('FAILED', 'EXPIRED')",
        "",
        guards("record_late_payment: status"),
    ),
    # The session
    Mutant(
        "claim_session: claim",
        CLAIM_SESSION,
        "\n    AND (claimed_until IS NULL OR claimed_until < now())",
        "",
        at("shop/test_checkout", "test_the_claim_of_a_dead_process_ends_by_itself") + guards("claim_session: claim"),
    ),
    Mutant(
        "claim_session: status",
        CLAIM_SESSION,
        "\n    AND status = 'INITIATED'",
        "",
        guards("claim_session: status"),
    ),
    Mutant(
        "claim_session: session",
        CLAIM_SESSION,
        "\n    AND stripe_session_id IS NULL",
        "",
        guards("claim_session: session"),
    ),
    Mutant("start_attempt: attempt", START_ATTEMPT, "AND attempt = $2", "AND $2 > 0", guards("start_attempt: attempt")),
    Mutant(
        "start_attempt: status", START_ATTEMPT, "\n    AND status = 'INITIATED'", "", guards("start_attempt: status")
    ),
    Mutant(
        "start_attempt: session",
        START_ATTEMPT,
        "\n    AND stripe_session_id IS NULL",
        "",
        guards("start_attempt: session"),
    ),
    Mutant(
        "attach_session: order",
        ATTACH,
        "WHERE id = $1 AND status || '' = 'PENDING_PAYMENT'",
        "WHERE id = $1",
        guards("attach_session: order"),
    ),
    Mutant("attach_session: lock", ATTACH, "    FOR NO KEY UPDATE\n", "", CANCELLED_MEANWHILE),
    Mutant(
        "attach_session: payment",
        ATTACH,
        " AND payments.status = 'INITIATED'",
        "",
        guards("attach_session: payment"),
    ),
    Mutant(
        "limit: the client is locked",
        "sql/checkout/close_cart.sql",
        "pg_advisory_xact_lock($2) IS NOT NULL",
        "$2::bigint IS NOT NULL",
        at("http/test_limits", "TestPendingOrders::test_two_checkouts_of_one_client_wait_for_each_other"),
    ),
    Mutant(
        "limit: as many as are allowed",
        RESERVE,
        "FROM client_order) < $16",
        "FROM client_order) <= $16",
        at("http/test_limits", "TestPendingOrders::test_of_one_client_are_limited"),
    ),
    Mutant(
        "limit: ten times as many of a network",
        RESERVE,
        "< 10 * $16",
        "<= 10 * $16",
        at("http/test_limits", "TestPendingOrders::test_of_a_network_are_limited_to_ten_times_as_many"),
    ),
    Mutant(
        "limit: half of a product's units",
        RESERVE,
        "<= line.unpaid_units + products.stock",
        "<= 2 * (line.unpaid_units + products.stock)",
        at("http/test_limits", "TestPendingOrders::test_leave_half_of_the_units_to_others"),
    ),
    Mutant(
        "limit: half of a product's units after a wait",
        RESERVE,
        "<= line.unpaid_units + products.stock",
        "<= line.unpaid_units + line.stock",
        at("http/test_limits", "TestPendingOrders::test_leave_half_of_the_units_that_are_left_after_a_wait"),
    ),
    Mutant(
        "limit: units in one line after a wait",
        RESERVE,
        "AND line.quantity <= coalesce(products.max_per_order, $17)",
        "",
        WAITED,
    ),
    Mutant(
        "limit: units of a product in one line",
        "sql/cart/add_line.sql",
        "WHERE cart_items.quantity + excluded.quantity <= $4",
        "WHERE $4 > 0",
        at("shop/test_checkout", "test_a_line_is_limited_when_it_is_added_and_at_checkout"),
    ),
    Mutant(
        "pressure: more units on hold than in stock",
        "sql/pressure/measure_holds.sql",
        "WHERE hold.units > products.stock",
        "WHERE hold.units >= products.stock",
        at("shop/test_pressure", "test_new_holds_are_shorter_while_most_units_are_in_unpaid_holds"),
    ),
    Mutant(
        "pressure: an old measurement is ignored",
        "sql/checkout/close_cart.sql",
        "hold_pressure.measured_at > now() - interval '1 minute'",
        "hold_pressure.measured_at > now() - interval '1 year'",
        at("shop/test_pressure", "test_new_holds_are_shorter_while_most_units_are_in_unpaid_holds"),
    ),
    Mutant(
        "create: a replayed session is read again",
        "service/shop/payment_session.py",
        "return await resources.stripe.retrieve_session(session.id, order_id=order_id)",
        "return session",
        at("shop/test_checkout", "test_a_replayed_session_is_read_in_its_present_state"),
    ),
    Mutant(
        "create: only a stored failure shows that there is none",
        "service/shop/payment_session.py",
        "if listed is None and unknown.replayed:",
        "if listed is None:",
        at("shop/test_checkout", "test_a_failure_that_stripe_does_not_replay_keeps_the_attempt"),
    ),
    Mutant(
        "create: the order's own session",
        "service/shop/payment_session.py",
        "if session.order_id == str(order_id):",
        "if session.order_id != '':",
        at("shop/test_checkout", "test_the_session_of_an_order_is_found_behind_a_page_of_newer_ones"),
    ),
    Mutant(
        "close: the session ends before the order",
        "service/shop/payment_session.py",
        "return await resources.stripe.expire_session(stripe_session_id, order_id=order_id)",
        "return None",
        at("shop/test_expiry", "test_a_customer_can_cancel_a_pending_order_only"),
    ),
    Mutant(
        "checkout: no session is left behind",
        "service/shop/checkout.py",
        "await payment_session.close(resources, order_id, session.id)",
        "pass",
        CANCELLED_MEANWHILE,
    ),
    Mutant(
        "checkout: attempt",
        "service/shop/checkout.py",
        '(order.status, order.attempt, order.stripe_session_id) == ("PENDING_PAYMENT", attempt, None)',
        '(order.status, order.stripe_session_id) == ("PENDING_PAYMENT", None)',
        LATE_ATTEMPT,
    ),
    Mutant(
        "checkout: session",
        "service/shop/checkout.py",
        '(order.status, order.attempt, order.stripe_session_id) == ("PENDING_PAYMENT", attempt, None)',
        '(order.status, order.attempt) == ("PENDING_PAYMENT", attempt)',
        at("shop/test_checkout", "test_a_refusal_of_an_attempt_with_a_session_changes_nothing"),
    ),
    Mutant(
        "expiry: attempt",
        "service/shop/expiry.py",
        "if (locked.attempt, locked.stripe_session_id) != (order.attempt, order.stripe_session_id):",
        "if False:",
        OLDER_ATTEMPT,
    ),
    Mutant(
        "expiry: a payment in progress stays",
        "service/shop/expiry.py",
        " or locked.payment_status != order.payment_status:",
        ":",
        at("shop/test_expiry", "test_an_event_that_arrives_while_an_order_expires_is_applied"),
    ),
    Mutant(
        "expiry: the hold",
        "service/shop/expiry.py",
        "if not order.hold_expired:",
        "if False:",
        at("shop/test_expiry", "test_an_expired_hold_closes_the_session_and_releases_the_units"),
    ),
    Mutant(
        "expiry: the deadline at Stripe",
        "service/shop/expiry.py",
        "if error.code not in payment_session.NO_ANSWER or not order.stripe_deadline_passed:",
        "if error.code not in payment_session.NO_ANSWER:",
        at("shop/test_expiry", "test_an_expired_hold_closes_the_session_and_releases_the_units"),
    ),
    # Webhooks
    Mutant(
        "receive: signature",
        "service/shop/webhooks.py",
        "if secrets and not signature_verifies(body, signature, secrets):",
        "if False:",
        at("shop/test_webhooks", "test_a_webhook_without_a_valid_recent_signature_is_refused"),
    ),
    Mutant(
        "receive: signed in the future",
        "service/infra/stripe.py",
        "if abs(time.time() - int(times[0])) <= SIGNATURE_TOLERANCE",
        "if time.time() - int(times[0]) <= SIGNATURE_TOLERANCE",
        at("shop/test_webhooks", "test_a_webhook_without_a_valid_recent_signature_is_refused"),
    ),
    Mutant(
        "receive: livemode",
        "service/shop/webhooks.py",
        'if bool(payload.get("livemode")) != settings.live:',
        "if False:",
        at("shop/test_webhooks", "test_an_event_of_the_other_mode_changes_nothing"),
    ),
    Mutant(
        "store_event: once",
        "sql/webhooks/store_event.sql",
        "\nON CONFLICT (id) DO NOTHING",
        "",
        at("shop/test_webhooks", "test_an_event_that_fails_is_stored_and_applied_later"),
    ),
    Mutant(
        "record_event: once",
        "sql/webhooks/record_event.sql",
        "\n    WHERE stripe_events.outcome IS NULL",
        "",
        at("shop/test_webhooks", "test_a_payment_is_applied_once_and_its_email_is_stored"),
    ),
    Mutant(
        "receive: a failed event is applied when it is delivered again",
        "sql/webhooks/record_event.sql",
        "WHERE stripe_events.outcome IS NULL",
        "WHERE false",
        at("shop/test_webhooks", "test_an_event_that_fails_is_stored_and_applied_later"),
    ),
    Mutant(
        "late payment: the cart keeps lines that its order does not have",
        "service/shop/settlement.py",
        "if await REPLACE_CART",
        "if False and await REPLACE_CART",
        at("shop/test_refunds", "test_a_late_payment_gets_its_cart_back_and_other_lines_move_to_a_new_cart"),
    ),
    Mutant(
        "settle: amount",
        "service/shop/settlement.py",
        "if (session.amount_total, session.currency) != (order.total_minor, order.currency):",
        "if session.currency != order.currency:",
        at("shop/test_unmatched_payments", "test_a_mismatched_payment_is_refunded_once_however_it_is_learned"),
    ),
    Mutant(
        "settle: currency",
        "service/shop/settlement.py",
        "if (session.amount_total, session.currency) != (order.total_minor, order.currency):",
        "if session.amount_total != order.total_minor:",
        at("shop/test_unmatched_payments", "test_a_mismatched_payment_is_refunded_once_however_it_is_learned"),
    ),
    Mutant(
        "settle: a payment without an intent pays nothing",
        "service/shop/settlement.py",
        "    if intent is None:\n        # A payment without an intent",
        "    if False:\n        # A payment without an intent",
        ("tests/shop/test_settlement.py::test_a_session_of_an_odd_shape_is_paid_refundable_or_listed",),
    ),
    Mutant(
        "settle: a session that needed no payment is not in progress",
        "service/shop/settlement.py",
        'elif session.status == "complete" and session.payment_status != "unpaid":',
        "elif False:",
        ("tests/shop/test_settlement.py::test_a_session_of_an_odd_shape_is_paid_refundable_or_listed",),
    ),
    Mutant(
        "cancel: only staff end a payment in progress",
        "service/shop/expiry.py",
        'elif order.status == "PENDING_PAYMENT" and by_staff:',
        'elif order.status == "PENDING_PAYMENT":',
        ("tests/shop/test_expiry.py::TestWithStaff",),
    ),
    Mutant(
        "refunds: what people settled elsewhere is not refunded",
        "service/shop/refunds.py",
        "[row for row in rows if row not in stopped]",
        "rows",
        ("tests/shop/test_stuck.py::test_what_people_settled_elsewhere_is_not_refunded_again",),
    ),
    Mutant(
        "disputes: an older event changes nothing",
        "sql/disputes/record_dispute.sql",
        "disputes.reported_at < excluded.reported_at",
        "true",
        ("tests/shop/test_webhooks.py::test_a_dispute_is_recorded_whatever_the_order_of_its_events",),
    ),
    Mutant(
        "settle: a payment pays one order",
        "service/shop/settlement.py",
        "if await refunds.find_order(tx, intent) not in (None, order.id):",
        "if False:",
        at("shop/test_settlement", "test_one_payment_does_not_pay_two_orders"),
    ),
    Mutant(
        "settle: a payment without a payment intent",
        "service/shop/settlement.py",
        "if intent is None:\n        # A payment without an intent",
        "if False:\n        # A payment without an intent",
        at("shop/test_settlement", "test_an_event_that_does_not_match_is_stored_and_stripe_is_asked"),
    ),
    Mutant(
        "settle: captured once",
        "service/shop/settlement.py",
        "if order.captured and order.stripe_payment_intent_id in (None, intent):",
        "if False:",
        at("shop/test_refunds", "test_a_full_refund_before_fulfilment_cancels_the_order_and_restocks"),
    ),
    Mutant(
        "settle: paid twice",
        "service/shop/settlement.py",
        "if order.captured:\n        # Two sessions",
        "if False:\n        # Two sessions",
        at("shop/test_refunds", "test_a_second_payment_of_an_order_is_refunded_though_a_refund_fails"),
    ),
    Mutant(
        "settle: only a pending order ends unpaid",
        "service/shop/settlement.py",
        'if order.status != "PENDING_PAYMENT" or order.stripe_session_id not in (None, session.id):',
        "if order.stripe_session_id not in (None, session.id):",
        at("shop/test_settlement", "test_the_final_state_does_not_depend_on_the_order_of_events"),
    ),
    Mutant(
        "settle: only its own session ends an order",
        "service/shop/settlement.py",
        " or order.stripe_session_id not in (None, session.id):",
        ":",
        at("shop/test_settlement", "test_the_end_of_another_session_does_not_cancel_the_order"),
    ),
    Mutant(
        "late money: the cart's new order",
        "service/shop/settlement.py",
        "if not await CART_HAS_LIVE_ORDER.one(tx, cart_id=order.cart_id):",
        "if True:",
        LATE,
    ),
    Mutant(
        "reconcile: the paid session of two",
        "service/shop/reconcile.py",
        'session if session.payment_status == "paid" else by_order.get(order_id, session)',
        "session",
        at("shop/test_reconcile", "test_the_paid_session_of_an_order_counts_beside_unpaid_ones"),
    ),
    Mutant(
        "events: from where the last list ended",
        "service/shop/reconcile.py",
        'since = await _read_position(resources, "events") - OVERLAP_SECONDS',
        "since = int(time.time())",
        BROKEN_OFF,
    ),
    Mutant("events: the position never goes back", MOVE_POSITION, " AND reached_at < $2", "", BROKEN_OFF),
    Mutant(
        "reconcile: captured here is paid at Stripe",
        "sql/audit/captured_is_paid_at_stripe.sql",
        "WHEN NOT listed.order_is_paid THEN payments.status IN ('SUCCEEDED', 'REFUND_PENDING', 'REFUNDED')",
        "WHEN NOT listed.order_is_paid THEN false",
        at("shop/test_reconcile", "test_an_order_paid_by_an_event_of_another_account_is_a_difference"),
    ),
    Mutant(
        "reconcile: paid at Stripe is captured here",
        "service/shop/reconcile.py",
        "    await _compare(resources, sessions, by_order)\n",
        "",
        at("shop/test_reconcile", "test_a_session_that_is_paid_at_stripe_and_not_here_is_a_difference"),
    ),
    Mutant(
        "reconcile: a difference that is not at Stripe ends",
        "service/shop/reconcile.py",
        "            await audit.check_sessions(resources.pool, [(order_id, session)])\n",
        "            pass\n",
        MARKED_PAID,
    ),
    # Audit
    Mutant(
        "audit: one process at a time stores violations of a rule",
        AUDIT,
        "        await LOCK_RULE.run(tx, rule=rule)\n",
        "",
        at("shop/test_audit", "test_two_processes_store_violations_of_a_rule_in_turn"),
    ),
    Mutant(
        "audit: another order's session has not paid this one",
        AUDIT,
        'session if session.order_id == str(order_id) else replace(session, payment_status="unpaid")',
        "session",
        MARKED_PAID,
    ),
    Mutant(
        "audit: a session that is not at Stripe is not paid",
        AUDIT,
        '"status": "expired", "payment_status": "unpaid"',
        '"status": "expired", "payment_status": "paid"',
        MARKED_PAID,
    ),
    Mutant(
        "audit: the comparison with Stripe goes on",
        AUDIT,
        '"orders", from_position=position, to_position=order.number)',
        '"others", from_position=position, to_position=order.number)',
        at("shop/test_reconcile", "test_a_full_audit_asks_stripe_slowly_and_goes_on_where_it_was_stopped"),
    ),
    Mutant(
        "audit: each run gets further",
        AUDIT,
        "reached > position > first and",
        "reached > position and",
        at("shop/test_audit", "test_a_rule_that_needs_more_time_goes_on_at_the_next_run"),
    ),
    Mutant("audit: older transactions end first", AUDIT, "now.oldest >= started.next", "True", NEWER_FIRST),
    Mutant(
        "audit: positions stay while one runs",
        AUDIT,
        "return Changes(ends, False)",
        "return Changes(ends, True)",
        at("shop/test_audit", "test_positions_stay_while_an_older_transaction_runs"),
    ),
    Mutant(
        "audit: refunds of the last minute again",
        AUDIT,
        "ends.at - REFUND_MARGIN - EPOCH",
        "ends.at - EPOCH",
        at("shop/test_audit", "test_a_changed_refund_is_checked"),
    ),
    Mutant("audit: a violation stays known", AUDIT, "        for batch in _batches(sorted(_id", KNOWN_FORGOTTEN, KNOWN),
    Mutant(
        "audit: a failing rule stops no other",
        AUDIT,
        "        except Exception as error:\n            AUDIT_FAILURES",
        "        except KeyError as error:\n            AUDIT_FAILURES",
        at("shop/test_audit", "test_a_rule_that_fails_stops_no_other"),
    ),
    Mutant(
        "audit: balances move once",
        "sql/audit_state/fold_balances.sql",
        " AND EXISTS (SELECT FROM step)",
        "",
        at("shop/test_audit", "test_movements_are_added_to_balances_once"),
    ),
    Mutant(
        "claim: one run at a time",
        "sql/health/claim_task.sql",
        "coalesce(claimed_until, '-infinity') < now()",
        "true",
        at("shop/test_audit", "test_one_run_at_a_time_has_a_task"),
    ),
    Mutant(
        "events: an unstorable event stops no other",
        "service/shop/reconcile.py",
        "payload = webhooks.parse_event(orjson.dumps(page[event_id]))",
        "payload = page[event_id]",
        at("shop/test_reconcile", "test_events_of_all_pages_are_fetched_once_and_unstorable_ones_skipped"),
    ),
    # Refunds
    Mutant(
        "refund: no more than is left",
        "service/shop/refunds.py",
        "if not 0 < amount <= left or",
        "if not 0 < amount or",
        at("shop/test_refunds", "test_a_fulfilled_order_is_refunded_in_several_amounts"),
    ),
    Mutant(
        "refund: amounts in progress count",
        "service/shop/refunds.py",
        "refunded = sum(_refunded_and_pending(order.stripe_payment_intent_id, rows))",
        "refunded = _refunded_and_pending(order.stripe_payment_intent_id, rows)[0]",
        at("shop/test_refunds", "test_concurrent_refunds_never_exceed_what_was_paid"),
    ),
    Mutant(
        "refund by line: failed refunds name no units",
        "sql/refunds/list_lines.sql",
        " AND refunds.status <> 'FAILED'",
        "",
        FAILED_LINE,
    ),
    Mutant(
        "refund by line: units that others name are gone",
        "sql/refunds/list_lines.sql",
        "order_items.quantity - coalesce(refunded.quantity, 0)",
        "order_items.quantity",
        at("shop/test_refunds", "test_a_refund_by_line_is_never_more_than_what_is_left"),
    ),
    Mutant(
        "refund by line: no more than the money that is left",
        "service/shop/refunds.py",
        "min(line.quantity_left, (left - total) // line.unit_price_minor)",
        "line.quantity_left",
        at("shop/test_refunds", "test_a_refund_by_line_is_never_more_than_what_is_left"),
    ),
    Mutant(
        "refund by line: read under the order's lock",
        "service/shop/refunds.py",
        "    order = await transitions.lock(tx, order_id)\n    rows = await LIST_REFUNDS.all(tx, order_id=order_id)\n"
        "    refunded =",
        "    rows = await LIST_REFUNDS.all(tx, order_id=order_id)\n"
        "    lines = {line.product_id: line for line in await LIST_LINES.all(tx, order_id=order_id)}\n"
        "    order = await transitions.lock(tx, order_id)\n    refunded =",
        at("shop/test_refunds", "test_concurrent_refunds_of_one_line_never_exceed_its_units"),
    ),
    Mutant(
        "refund by line: each product once",
        "service/http/orders.py",
        "if len({item.product_id for item in items}) < len(items):",
        "if False:",
        at("shop/test_refunds", "test_a_refund_has_one_form"),
    ),
    Mutant(
        "refund by line: a failed one is made again with its lines",
        "service/shop/refunds.py",
        "if own and row.amount_minor <= left:",
        "if not own:",
        ALL_LINES,
    ),
    Mutant(
        "refund by line: only lines whose money is left are made again",
        "service/shop/refunds.py",
        "if own and row.amount_minor <= left:",
        "if own:",
        at("shop/test_refunds", "test_lines_whose_money_went_back_in_the_dashboard_are_not_refunded_again"),
    ),
    Mutant(
        "refund by line: only what has just failed is made again",
        "service/shop/refunds.py",
        ' and before[row.id].status != "FAILED"]',
        "]",
        at("shop/test_refunds", "test_only_the_lines_of_a_refund_that_has_just_failed_are_refunded_again"),
    ),
    Mutant(
        "refund: restock only with a full refund",
        "service/shop/refunds.py",
        "if restock and amount != left:",
        "if False:",
        at("shop/test_refunds", "test_a_fulfilled_order_is_refunded_in_several_amounts"),
    ),
    Mutant(
        "refund: only of captured money",
        "service/shop/refunds.py",
        ' if order.payment_status == "SUCCEEDED" else 0',
        "",
        at("shop/test_refunds", "test_an_unpaid_order_cannot_be_refunded"),
    ),
    Mutant(
        "refund: listed before it is created",
        "service/shop/refunds.py",
        " and str(row.id) not in known:",
        ":",
        at("shop/test_refunds", "test_a_refund_whose_answer_was_lost_is_made_once"),
    ),
    Mutant(
        "refund: a replayed failure is checked against a newer list",
        "service/shop/refunds.py",
        "if listed.refund_id == str(row.id)]",
        "if False]",
        at("shop/test_refunds", "test_a_replayed_failure_is_checked_against_a_newer_list_of_refunds"),
    ),
    Mutant(
        "refund: one without an answer stops no other",
        "service/shop/refunds.py",
        "state.unanswered = unknown\n                    continue",
        "raise",
        at("shop/test_refunds", "test_refunds_are_recorded_though_another_one_cannot_be_created"),
    ),
    Mutant(
        "fulfil: a refund reported before its payment",
        "sql/fulfilment/mark_fulfilled.sql",
        "= (SELECT stripe_payment_intent_id FROM payments WHERE order_id = $1)",
        "= (SELECT stripe_session_id FROM payments WHERE order_id = $1)",
        at("shop/test_refunds", "test_a_refund_event_before_its_payment_event_is_settled_before_fulfilment"),
    ),
    Mutant(
        "expiry: a payment in progress of another amount",
        "service/shop/expiry.py",
        '== "mismatch" and order.hold_expired:',
        '== "mismatch" and False:',
        at("shop/test_expiry", "test_a_payment_in_progress_that_cannot_succeed_releases_its_units"),
    ),
    Mutant(
        "expiry: an unknown session of a payment in progress",
        "service/shop/expiry.py",
        "if not order.stripe_deadline_passed:\n"
        "            raise payment_session.payment_unavailable(refused) from refused",
        "raise payment_session.payment_unavailable(refused) from refused",
        at("shop/test_expiry", "test_a_payment_in_progress_that_cannot_succeed_releases_its_units"),
    ),
    Mutant(
        "settle: the payment of another order is not refunded",
        "service/shop/settlement.py",
        "if await refunds.find_order(tx, intent) not in (None, order.id):",
        "if not order.captured and await refunds.find_order(tx, intent) not in (None, order.id):",
        at("shop/test_settlement", "test_a_payment_of_one_paid_order_is_not_refunded_for_another"),
    ),
    Mutant(
        "refund: one that failed waits",
        "service/shop/refunds.py",
        'if row.status == "REQUESTED" and row.due and',
        'if row.status == "REQUESTED" and',
        at("shop/test_refunds", "test_a_failed_refund_is_made_again_later_with_a_new_key"),
    ),
    Mutant(
        "refund: only one that is requested is made",
        "service/shop/refunds.py",
        'if row.status == "REQUESTED" and row.due and',
        "if row.due and",
        at("shop/test_refunds", "test_a_refused_refund_stays_refused_after_stripe_forgets_its_key"),
    ),
    Mutant(
        "refund: an unknown answer is no failure",
        "service/shop/refunds.py",
        "if not unknown.replayed:",
        "if False:",
        at("shop/test_refunds", "test_a_refund_whose_answer_was_lost_is_made_once"),
    ),
    Mutant(
        "record_refund: never backwards",
        "sql/refunds/record_refund.sql",
        "\n    WHERE refunds.status IN ('REQUESTED', 'PENDING') OR refunds.stripe_refund_id IS NULL"
        " OR excluded.status = 'FAILED'",
        "",
        at("shop/test_refunds", "test_an_older_list_of_refunds_does_not_undo_a_newer_one"),
    ),
    Mutant(
        "fail_refund: status",
        "sql/refunds/fail_refund.sql",
        " AND status = 'REQUESTED'",
        "",
        guards("fail_refund: status"),
    ),
    Mutant(
        "set_balance: captured",
        "sql/refunds/set_balance.sql",
        " AND status IN ('SUCCEEDED', 'REFUND_PENDING', 'REFUNDED')",
        "",
        guards("set_balance: captured"),
    ),
    Mutant(
        "add_refund: late money once",
        "sql/refunds/add_refund.sql",
        "\nON CONFLICT (stripe_payment_intent_id) WHERE cause = 'late_money' AND status <> 'FAILED' DO NOTHING",
        "",
        at("shop/test_refunds", "test_a_second_payment_of_an_order_is_refunded_though_a_refund_fails"),
    ),
    # The sweep
    *(
        Mutant(f"claim_{kind}: {what}", f"sql/sweep/claim_{kind}.sql", SKIPPING_LOCK, instead, CLAIM)
        for kind in ("orders", "refunds", "events")
        for what, instead in (("lock", ""), ("SKIP LOCKED", "    FOR NO KEY UPDATE\n"))
    ),
    # Idempotency
    Mutant(
        "lock_key: lock",
        "sql/idempotency/lock_key.sql",
        "pg_try_advisory_xact_lock($1)",
        "$1::bigint IS NOT NULL",
        at("shop/test_idempotency", "test_a_key_is_in_use_while_its_first_request_runs"),
    ),
    Mutant(
        "store_key: an answer stays",
        "sql/idempotency/store_key.sql",
        "    idempotency_keys.status IS NULL\n    OR",
        "    true OR",
        at("shop/test_idempotency", "test_a_stored_answer_is_never_replaced"),
    ),
    Mutant(
        "begin: the same body",
        "service/shop/idempotency.py",
        "if stored.request_digest != key.request_digest:",
        "if False:",
        at("shop/test_idempotency", "test_a_repeated_key_replays_the_first_answer_without_an_effect"),
    ),
    Mutant(
        "reserve: the key stays with its order",
        "service/shop/checkout.py",
        "    await idempotency.store_response(tx, key, None, order_id)\n",
        "",
        at("shop/test_idempotency", "test_a_checkout_that_died_after_its_reservation_is_resumed"),
    ),
    Mutant(
        "find_key: a day",
        "sql/idempotency/find_key.sql",
        "    AND created_at > now() - interval '24 hours'\n",
        "",
        at("shop/test_idempotency", "test_a_key_is_forgotten_after_a_day"),
    ),
    Mutant(
        "find_key: a cancelled order",
        "sql/idempotency/find_key.sql",
        "orders.status = 'CANCELLED' OR ",
        "",
        FORGOTTEN,
    ),
    Mutant("find_key: an order paid late", "sql/idempotency/find_key.sql", " OR orders.hold > 1", "", FORGOTTEN),
    Mutant(
        "store_key: a cancelled order",
        "sql/idempotency/store_key.sql",
        "(orders.status = 'CANCELLED' OR orders.hold > 1)",
        "false",
        FORGOTTEN,
    ),
    Mutant(
        "key: an id in one spelling",
        "service/http/requests.py",
        "match[0].lower()",
        "match[0]",
        at("shop/test_idempotency", "test_a_key_is_the_same_for_every_spelling_of_an_id"),
    ),
    Mutant(
        "key: the client of a new cart",
        "service/http/requests.py",
        'f"client:{client.digest.hex()}"',
        '"client"',
        at("shop/test_idempotency", "TestDifferentClients::test_each_client_address_gets_its_own_cart"),
    ),
    Mutant(
        "key: a client without an address",
        "service/http/requests.py",
        "    if client is None:\n        return None\n",
        '    client = client or b"client"\n',
        at("shop/test_idempotency", "TestDifferentClients::test_a_client_without_an_address_gets_a_cart_each_time"),
    ),
    Mutant(
        "delete_expired: a day",
        "sql/retention/delete_keys.sql",
        "WHERE created_at < now() - interval '24 hours'",
        "WHERE created_at <= now()",
        at("shop/test_idempotency", "test_keys_older_than_a_day_are_deleted"),
    ),
    # Carts
    Mutant(
        "open_for_product: status",
        "sql/cart/open_for_product.sql",
        "\n    AND carts.status = 'OPEN'",
        "",
        at("http/test_carts", "test_a_cart_checked_out_is_read_only_until_its_order_is_cancelled"),
    ),
    Mutant(
        "open_for_product: active",
        "sql/cart/open_for_product.sql",
        "\n    AND products.active",
        "",
        at("http/test_carts", "test_a_product_must_be_for_sale"),
    ),
    Mutant(
        "open_for_product: currency",
        "sql/cart/open_for_product.sql",
        "\n    AND (carts.currency IS NULL OR carts.currency = products.currency)",
        "",
        at("http/test_carts", "test_a_cart_is_in_one_currency"),
    ),
    Mutant(
        "open_cart: status",
        "sql/cart/open_cart.sql",
        " AND status = 'OPEN'",
        "",
        at("http/test_carts", "test_a_cart_checked_out_is_read_only_until_its_order_is_cancelled"),
    ),
    Mutant(
        "add_line: no lock on its product",
        "migrations/0018.cart_items_without_product_fkey.sql",
        "ALTER TABLE cart_items DROP CONSTRAINT cart_items_product_fkey;",
        "",
        at("sql/test_headers", "test_locks[cart/add_line]"),
    ),
    # Events of others, and inactive products
    Mutant(
        "event: another account",
        "service/shop/webhooks.py",
        'if any(payload.get(name) not in (None, own_account) for name in ("account", "context")):',
        "if False:",
        at("shop/test_webhooks", "test_an_event_of_another_account_changes_nothing"),
    ),
    Mutant(
        "event: our own account",
        "service/shop/webhooks.py",
        "own_account = settings.stripe_account or None",
        "own_account = None",
        at("shop/test_webhooks", "TestWithAnAccount"),
    ),
    Mutant(
        "product: an inactive one",
        "service/http/catalog.py",
        'if not product.active and not principal.may("catalog:read"):',
        "if False:",
        at("http/test_catalog", "TestStaff::test_an_inactive_product_is_shown_to_staff_only"),
    ),
    # Who sends a request
    *(
        Mutant(f"token: {name}", "service/http/identity.py", find, replacement, tests)
        for name, find, replacement, tests in (
            ("two headers", ' if len(headers) == 1 else b""', "", SENT_ONCE),
            ("type", " or kind not in map(str.lower, settings.auth_types):", ":", FORGED),
            ("issuer", "issuer=settings.auth_issuer,", "", FORGED),
            ("claims", '"require": ["iss", "aud", "sub", "iat", "exp"]', '"require": []', FORGED),
            ("ID token", 'if claims.keys() & _ID_TOKEN or claims.get("typ") == "ID":', "if False:", FORGED),
            ("life", "if not 0 <= expires_at - issued_at <=", "if not expires_at - issued_at <=", FORGED),
            ("longest life", "<= settings.auth_max_token_seconds:", "<= 10 * settings.auth_max_token_seconds:", FORGED),
            ("subject", "if not _SUBJECT.fullmatch(subject) or subject == ERASED:", "if subject == ERASED:", FORGED),
            ("erased", " or subject == ERASED:", ":", FORGED),
            ("revoked", "if issued_at <= self._revoked.get(subject", "if 0 > self._revoked.get(subject", REVOKED),
            (
                "remembered and revoked",
                "            self._revoked = revoked\n            self._verified.clear()\n",
                "            self._revoked = revoked\n",
                REVOKED,
            ),
            (
                "remembered and withdrawn",
                "            self._keys_version = self._keys.version\n            self._verified.clear()\n",
                "            self._keys_version = self._keys.version\n",
                WITHDRAWN,
            ),
            (
                "remembered and expired",
                "if principal is None or time.time() >= until:",
                "if principal is None:",
                EXPIRED,
            ),
        )
    ),
    Mutant(
        "token: audience",
        "service/http/identity.py",
        'options={"require": ["iss", "aud", "sub", "iat", "exp"]},',
        'options={"require": ["iss", "aud", "sub", "iat", "exp"], "verify_aud": False},',
        FORGED,
    ),
    Mutant(
        "token: keys of any kind",
        "service/infra/jwks.py",
        'or jwk.get("use", "sig") != "sig"',
        "",
        at("http/test_identity", "test_only_keys_that_verify_signatures_are_used"),
    ),
    Mutant(
        "token: weak keys",
        "service/infra/jwks.py",
        "return None if is_weak else key",
        "return key",
        at("http/test_identity", "test_a_weak_key_is_not_used"),
    ),
    Mutant(
        "token: unknown keys once a minute",
        "service/infra/jwks.py",
        "if time.monotonic() - self._asked_at >= COOLDOWN_SECONDS:",
        "if True:",
        at("http/test_identity", "test_unknown_keys_are_asked_for_once_a_minute"),
    ),
    Mutant(
        "token: another issuer's metadata",
        "service/infra/jwks.py",
        'if metadata.get("issuer") != issuer:',
        "if False:",
        at("http/test_identity", "test_metadata_that_cannot_be_trusted_give_no_keys"),
    ),
    Mutant(
        "key: revoked",
        "sql/access/find_key.sql",
        " AND revoked_at IS NULL",
        "",
        at("http/test_identity", "test_a_service_key_may_do_what_its_scopes_say"),
    ),
    Mutant(
        "key: expired",
        "sql/access/find_key.sql",
        " AND expires_at > now()",
        "",
        at("http/test_identity", "test_a_service_key_may_do_what_its_scopes_say"),
    ),
    Mutant(
        "policy: scope",
        "service/http/policy.py",
        "if scope not in principal.scopes:",
        "if principal is GUEST:",
        MATRIX,
    ),
    Mutant(
        "policy: open staff by an address",
        "service/http/identity.py",
        "self._open_staff and self._is_own_address(scope)",
        "self._open_staff",
        at("http/test_identity", "test_an_open_demo_answers_staff_by_its_address_only"),
    ),
    Mutant(
        "limits: failures count",
        "service/http/server/limits.py",
        " or self._local.used(address) < self.per_minute",
        " or True",
        at("http/test_limits", "TestPrincipals::test_failures_count_against_the_address"),
    ),
    Mutant(
        "limits: who may name an address",
        "service/http/identity.py",
        'forwarded = principal.may("storefront")',
        "forwarded = True",
        at("http/test_limits", f"{PRINCIPALS}requests"),
    ),
    Mutant(
        "limits: a user's own",
        "service/http/identity.py",
        'if principal.user_id or principal.actor.startswith("key:"):',
        "if False:",
        at("http/test_limits", f"{PRINCIPALS}pending_orders"),
    ),
    Mutant(
        "staff's idempotency keys",
        "service/http/requests.py",
        "return await _scoped(request, _name(request, principal), key)",
        'return await _scoped(request, "staff", key)',
        at("http/test_limits", "TestPrincipals::test_staff_have_their_own_idempotency_keys"),
    ),
    Mutant(
        "claim: the payer's address of a payment that takes days",
        "service/shop/settlement.py",
        """        email=session.email,
        email_digest=personal_data.email_digest(session.email) if session.email else None,
""",
        "        email=None,\n        email_digest=None,\n",
        at("shop/test_ownership", "test_a_claim_needs_the_address_of_a_payment_that_takes_days"),
    ),
    Mutant(
        "audit log: a cancelled order",
        "service/shop/transitions.py",
        "locked if by_staff else ()",
        "()",
        at("shop/test_audit_log", "test_the_row_of_a_cancel_stands_in_the_transaction_that_cancels"),
    ),
    Mutant(
        "audit log: a cancel that Stripe's event recorded first",
        "service/shop/expiry.py",
        "    if ended_by_staff:",
        "    if False:",
        at("shop/test_audit_log", "test_an_order_that_stripes_event_cancels_before_staff_has_one_row"),
    ),
    # Payments that match no order
    *(
        Mutant(
            f"unmatched: {name}", "service/shop/settlement.py", find, instead, at("shop/test_unmatched_payments", test)
        )
        for name, find, instead, test in (
            (
                "is recorded for its refund",
                "return await _refund_unmatched(resources, order_id, session, by_staff=by_staff)",
                "return outcome",
                "test_a_mismatched_payment_is_refunded_once_however_it_is_learned",
            ),
            (
                "the payment of another order",
                "if await refunds.find_order(tx, intent.id) not in (None, order_id):",
                "if False:",
                "test_a_payment_of_another_order_is_not_refunded",
            ),
            (
                "the second payment",
                "    if not order.captured:\n        if order.status",
                "    if True:\n        if order.status",
                "test_a_second_payment_of_another_amount_is_refunded_and_the_order_stays",
            ),
            (
                "the intent decides",
                "if (intent.received_minor, intent.currency) == (order.total_minor, order.currency):",
                "if False:",
                "test_a_captured_amount_that_matches_pays_though_the_session_differs",
            ),
            (
                "nothing was captured",
                "not intent.received_minor or ",
                "",
                "test_a_payment_that_cannot_be_refunded_here_pays_nothing[nothing was captured]",
            ),
            (
                "another order's intent",
                " or intent.order_id not in (None, str(order_id)):",
                ":",
                "test_a_payment_that_cannot_be_refunded_here_pays_nothing[another order's intent]",
            ),
        )
    ),
    *(
        Mutant(f"unmatched: {name}", file, find, instead, at("shop/test_unmatched_payments", test))
        for name, file, find, instead, test in (
            (
                "all of a second payment",
                "service/shop/refunds.py",
                "for row in await LIST_UNMATCHED.all(tx, order_id=order.id)}",
                "for row in []}",
                "test_a_second_payment_is_refunded_in_full_though_refunds_fail",
            ),
            (
                "its claim is released",
                "service/shop/checkout.py",
                "        except ShopError:\n"
                "            await payment_session.release_claim(resources, order_id)\n            raise\n",
                "        except ShopError:\n            raise\n",
                "test_a_checkout_can_be_repeated_after_stripe_did_not_name_the_captured_amount",
            ),
            (
                "due until it is refunded",
                "sql/refunds/settle_unmatched.sql",
                "CASE WHEN next_attempt_at IS NULL THEN now() END",
                "next_attempt_at",
                "test_a_mismatched_payment_is_refunded_once_however_it_is_learned",
            ),
            (
                "due again when its refund fails",
                "sql/refunds/settle_unmatched.sql",
                "CASE WHEN next_attempt_at IS NULL THEN now() END",
                "NULL",
                "test_a_refund_that_fails_after_its_success_is_made_again",
            ),
        )
    ),
    # Who did it
    *(
        Mutant(f"{table}: lock", f"sql/catalog/{table}.sql", f"WHERE id = $1\n{lock};", "WHERE id = $1;", CHAIN)
        for table, lock in (("lock_product", "FOR NO KEY UPDATE"), ("lock_category", "FOR UPDATE"))
    ),
    *(
        Mutant(f"audit log: {name}", file, find, replacement, ONE_ROW)
        for name, file, find, replacement in (
            (
                "a product edited",
                "service/shop/catalog.py",
                'await audit_log.add(tx, "update_product"',
                'audit_log.add(tx, "update_product"',
            ),
            ("the request", "service/shop/audit_log.py", '.removeprefix("request ")', ""),
        )
    ),
    Mutant(
        "audit log: staff alone",
        "service/shop/transitions.py",
        "locked if by_staff else ()",
        "locked",
        at("shop/test_audit_log", "test_an_order_that_nobody_of_the_staff_cancels_has_none"),
    ),
    Mutant(
        "audit log: no role changes a row",
        "migrations/0056.audit_log.sql",
        "GRANT SELECT, INSERT (",
        "GRANT SELECT, UPDATE, INSERT (",
        at("sql/test_roles", "test_a_role_has_exactly_the_listed_rights[app]"),
    ),
    # Whose cart and order it is
    *(
        Mutant(f"{name}: owner", f"sql/{folder}/{name}.sql", find, instead, guards(f"{name}: owner"))
        for folder, name, find, instead in (
            ("cart", "open_cart", "user_id = $2)", "user_id = $2 OR true)"),
            ("cart", "open_for_product", "carts.user_id = $4)", "carts.user_id = $4 OR true)"),
            ("checkout", "close_cart", "user_id = $3)", "user_id = $3 OR true)"),
            ("ownership", "claim_cart", " AND user_id IS NULL", ""),
            ("ownership", "claim_orders", " AND user_id IS NULL", ""),
        )
    ),
    *(
        Mutant(f"stranger: {name}", file, find, instead, at(*test.split("::")))
        for name, file, find, instead, test in (
            (
                "reads a cart",
                "sql/cart/read_cart.sql",
                "carts.user_id = $2 OR $3)",
                "carts.user_id = $2 OR $3 OR true)",
                "http/test_ownership::test_a_stranger_gets_404_and_changes_nothing[GET /carts/{cart_id}]",
            ),
            (
                "reads an order",
                "sql/orders/read_order.sql",
                "orders.user_id = $2 OR $3)",
                "orders.user_id = $2 OR $3 OR true)",
                "http/test_ownership::test_a_stranger_gets_404_and_changes_nothing[GET /orders/{order_id}]",
            ),
            (
                "reads a history",
                "sql/orders/list_events.sql",
                "user_id = $2 OR $3)",
                "user_id = $2 OR $3 OR true)",
                "http/test_ownership::test_a_stranger_gets_404_and_changes_nothing[GET /orders/{order_id}/timeline]",
            ),
            (
                "learns why a line was refused",
                "sql/cart/explain_refusal.sql",
                "carts.user_id = $3)",
                "carts.user_id = $3 OR true)",
                "http/test_ownership::test_a_stranger_gets_404_and_changes_nothing[POST /carts/{cart_id}/items]",
            ),
            (
                "resumes a checkout",
                "sql/checkout/find_order.sql",
                "carts.user_id = $2)",
                "carts.user_id = $2 OR true)",
                "http/test_ownership::test_a_stranger_gets_404_and_changes_nothing[POST /carts/{cart_id}/checkout]",
            ),
            (
                "gets a stored response",
                "sql/cart/check_owner.sql",
                "user_id = $2)",
                "user_id = $2 OR true)",
                "http/test_ownership::test_a_stranger_gets_404_and_changes_nothing[POST /carts/{cart_id}/items]",
            ),
            (
                "gets the stored response of an order",
                "service/shop/idempotency.py",
                "    if check is not None:",
                "    if False:",
                "shop/test_ownership::test_a_stored_response_is_replayed_to_whom_may_still_make_the_call",
            ),
            (
                "cancels with a right to read",
                "service/shop/expiry.py",
                'order_id=order_id, scope="orders:cancel")',
                "order_id=order_id)",
                "http/test_ownership::test_staff_read_what_others_own_and_only_cancel_it",
            ),
            (
                "orders of all in one's own list",
                "sql/orders/list_user_orders.sql",
                "orders.user_id = $1 ",
                "(orders.user_id = $1 OR true) ",
                "shop/test_ownership::test_a_user_lists_their_own",
            ),
            (
                "carts of all in one's own list",
                "sql/cart/list_carts.sql",
                "carts.user_id = $1 ",
                "(carts.user_id = $1 OR true) ",
                "shop/test_ownership::test_a_user_lists_their_own",
            ),
        )
    ),
    *(
        Mutant(f"claim: {name}", file, find, instead, at("shop/test_ownership", test))
        for name, file, find, instead, test in (
            (
                "the address",
                "service/shop/ownership.py",
                "if email is not None and not personal_data",
                "if False and not personal_data",
                "test_a_claim_needs_the_address_of_every_order",
            ),
            (
                "opens no address later",
                "service/shop/orders.py",
                "return not row.claimed or ",
                "return True or ",
                "test_who_claimed_an_order_sees_its_address_only_as_their_own",
            ),
            (
                "opens no address to guests",
                "service/shop/orders.py",
                "if principal.user_id is None or principal.user_id != row.user_id:",
                "if principal.user_id != row.user_id:",
                "test_a_guests_order_shows_no_address",
            ),
            (
                "not of another's by staff",
                "service/shop/ownership.py",
                "order_id, scope=None)",
                "order_id)",
                "test_a_claim_takes_a_cart_and_its_orders",
            ),
            (
                "the orders too",
                "service/shop/ownership.py",
                "for email in await CLAIM_ORDERS.all(tx, cart_id=cart_id, user_id=user_id):",
                "for email in await CLAIM_ORDERS.all(tx, cart_id=UUID(int=0), user_id=user_id):",
                "test_a_claim_takes_a_cart_and_its_orders",
            ),
            (
                "a new cart is its owner's",
                "sql/settlement/replace_cart.sql",
                "        currency,\n        user_id\n    FROM changed",
                "        currency,\n        NULL\n    FROM changed",
                "test_a_cart_that_replaces_another_is_its_owners",
            ),
            (
                "an order is its cart's owner's",
                "service/shop/checkout.py",
                "        user_id=closed.user_id,",
                "        user_id=None,",
                "test_checkout_copies_the_owner",
            ),
            (
                "erased",
                "sql/erasure/erase_columns.sql",
                "        client_network = NULL,\n        user_id = 'erased',",
                "        client_network = NULL,\n        user_id = user_id,",
                "test_an_erased_order_has_no_owner",
            ),
            (
                "a cart that another order needs is not erased",
                "sql/erasure/erase_columns.sql",
                "            WHERE orders.cart_id = carts.id AND",
                "            WHERE false AND orders.cart_id = carts.id AND",
                "test_the_owner_of_another_order_of_the_cart_stays",
            ),
        )
    ),
    Mutant(
        "erase: lock of the carts",
        "sql/erasure/lock_orders.sql",
        "    FOR NO KEY UPDATE\n",
        "",
        at("sql/test_headers", "test_locks[erasure/lock_orders]"),
    ),
    Mutant(
        "return page: lines",
        "service/shop/confirmation.py",
        "row.user_id is None or session_id == row.stripe_session_id",
        "True or session_id == row.stripe_session_id",
        at("shop/test_return_pages", "test_an_owned_order_is_shown_in_full_only_with_its_session"),
    ),
    # Erasing personal data
    *(
        Mutant(f"erase: {name}", file, find, replacement, at(*test.split("::")))
        for name, file, find, replacement, test in (
            (
                "no pending order",
                "service/shop/erasure.py",
                'if pending := [order.id for order in orders if order.status == "PENDING_PAYMENT"]:',
                "if pending := [order.id for order in orders if False]:",
                "shop/test_erasure::test_a_late_payment_brings_no_address_back",
            ),
            (
                "a late payment stores no address",
                MARK_PAID,
                "email = CASE WHEN erased_at IS NULL THEN $6 END",
                "email = $6",
                "shop/test_erasure::test_a_late_payment_brings_no_address_back",
            ),
            *(
                (
                    f"a {way} event is reduced",
                    f"sql/webhooks/{statement}.sql",
                    "CASE WHEN (SELECT erased FROM named_order)",
                    "CASE WHEN (SELECT erased AND false FROM named_order)",
                    f"shop/test_erasure::test_an_event_that_meets_the_erasure_is_reduced[{way}]",
                )
                for way, statement in STORING.items()
            ),
            *(
                (
                    f"lock of a {way} event",
                    f"sql/webhooks/{statement}.sql",
                    "    FOR KEY SHARE\n",
                    "",
                    f"shop/test_erasure::test_an_event_that_meets_the_erasure_is_reduced[{way}]",
                )
                for way, statement in STORING.items()
            ),
            *(
                (
                    f"the actor in {table}",
                    "sql/erasure/erase_columns.sql",
                    find,
                    replacement,
                    "shop/test_erasure::test_erasing_leaves_personal_data_in_no_column",
                )
                for table, find, replacement in (
                    ("order_events", f"{ERASED_ACTOR},\n        note", "actor = actor,\n        note"),
                    ("refunds", f"{ERASED_ACTOR},\n        reason", "actor = actor,\n        reason"),
                    ("stock_movements", "SET actor = 'user:erased'\n", "SET actor = actor\n"),
                )
            ),
            (
                "lock of the orders",
                "sql/erasure/lock_orders.sql",
                "\nFOR UPDATE",
                "\nFOR NO KEY UPDATE",
                "shop/test_erasure::test_an_event_that_meets_the_erasure_is_reduced[delivered]",
            ),
            (
                "a refund's stored response outlives its order",
                "sql/idempotency/find_key.sql",
                "(idempotency_keys.status IS NULL OR idempotency_keys.location IS NOT NULL)",
                "true",
                "shop/test_erasure::test_a_stored_response_is_replayed_without_personal_data",
            ),
            (
                "the role changes no status",
                ERASED,
                "UPDATE (email, email_digest, client, client_network, erased_at)",
                "UPDATE (status, email, email_digest, client, client_network, erased_at)",
                "sql/test_roles::test_a_role_has_exactly_the_listed_rights[eraser]",
            ),
            (
                "readers see no address",
                ERASED,
                "next_attempt_at, attempts, erased_at\n    ) ON orders",
                "next_attempt_at, attempts, erased_at, email\n    ) ON orders",
                "shop/test_erasure::test_readers_see_every_column_but_the_personal_ones",
            ),
        )
    ),
    # The shipping address
    *(
        Mutant(f"shipping: {name}", file, find, replacement, at("shop/test_shipping", test))
        for name, file, find, replacement, test in (
            (
                "not for an erased order",
                "sql/settlement/store_shipping.sql",
                "WHERE id = $1 AND erased_at IS NULL",
                "WHERE id = $1",
                "test_erasing_removes_the_address_for_good",
            ),
            (
                "stored once",
                "sql/settlement/store_shipping.sql",
                "\nON CONFLICT (order_id) DO NOTHING",
                "",
                "test_a_session_collects_address_and_phone_for_the_order",
            ),
            (
                "erased",
                "sql/erasure/erase_columns.sql",
                "    DELETE FROM order_shipping\n    WHERE order_id = any($1)",
                "    DELETE FROM order_shipping\n    WHERE order_id = any($1) AND name IS NULL",
                "test_erasing_removes_the_address_for_good",
            ),
        )
    ),
    # The constraints, behind all other guards
    *(
        Mutant(name, file, f"{name} CHECK ({rule}", f"{name} CHECK (true OR {rule}", refuses(*cases or (name,)))
        for file, name, rule, cases in (
            (CATALOG, "products_stock_not_negative", "stock >=", ()),
            (CATALOG, "products_stock_bounded", "stock <=", ()),
            (AMOUNTS, "products_price_range", "\n    price_minor", ("products_price_range0", "products_price_range1")),
            (CARTS, "cart_items_quantity_range", "", ("cart_items_quantity_range0", "cart_items_quantity_range1")),
            (AMOUNTS, "orders_total_range", "", ("orders_total_range0", "orders_total_range1")),
            (ORDERS, "orders_times_match_status", "", tuple(f"orders_times_match_status{n}" for n in range(3))),
            (CAPTURED, "payments_captured_form", "", tuple(f"payments_captured_form{n}" for n in range(6))),
            (
                CAPTURED,
                "payments_refunded_within_amount",
                "",
                tuple(f"payments_refunded_within_amount{n}" for n in (0, 1)),
            ),
            (CAPTURED, "payments_refunded_whole", "", ()),
            (ORDERS, "payments_refunded_only_captured", "", ()),
            (ORDERS, "payments_captured_has_session", "", ()),
            (ORDERS, "refunds_amount_positive", "", ()),
            (ORDERS, "refunds_settled_is_known_to_stripe", "", ()),
            (ORDERS, "order_events_path_legal", "", ()),
            (STOCK, "stock_movements_order_form", "", tuple(f"stock_movements_order_form{n}" for n in range(3))),
            (EVENTS, "stripe_events_handled_or_due", "", ()),
            (KEYS, "idempotency_keys_answered_whole", "", ()),
            (ERASED, "orders_email_digest_form", "", ("orders_email_digest_form0", "orders_email_digest_form1")),
            (ERASED, "orders_erased_has_no_email", "", ()),
            (STRICTER, "orders_unfinished_is_due", "\n    status", ()),
            (STRICTER, "payments_captured_has_intent", "\n    status", ()),
        )
    ),
    *(
        Mutant(name, file, f"CREATE UNIQUE INDEX {name} ", f"CREATE INDEX {name} ", refuses(name))
        for file, name in (
            (ORDERS, "orders_one_live_per_cart"),
            (ORDERS, "refunds_late_money_once"),
            (STOCK, "stock_movements_once"),
        )
    ),
    Mutant(
        "payments_one_per_order",
        PRIMARY_KEYS,
        "PRIMARY KEY USING INDEX payments_new_key",
        "PRIMARY KEY (order_id, id)",
        refuses("payments_one_per_order"),
    ),
    *(
        Mutant(name, ORDERS, f"    CONSTRAINT {name} UNIQUE ({column}),\n", "", refuses(name))
        for name, column in (
            ("payments_session_once", "stripe_session_id"),
            ("payments_payment_intent_once", "stripe_payment_intent_id"),
            ("refunds_stripe_refund_once", "stripe_refund_id"),
        )
    ),
    Mutant(
        "a file moves its units once",
        "sql/imports/update_products.sql",
        "WHEN line > $7 OR line = any($8) THEN",
        "WHEN line > -abs($7::bigint) OR line = any($8) THEN",
        at("shop/test_imports", "test_a_file_moves_its_units_once"),
    ),
    Mutant(
        "a skipped line that was moved earlier is not moved again",
        "sql/imports/record_batch.sql",
        "WHERE line.line > imports.moved_to OR",
        "WHERE line.line > -imports.moved_to OR",
        at("shop/test_imports", "test_a_skipped_line_that_was_moved_earlier_is_not_moved_again"),
    ),
    Mutant(
        "an import applies the lines of its own run",
        "sql/imports/lock_products.sql",
        "WHERE run = $8 AND",
        "WHERE run IS DISTINCT FROM nullif($8::uuid, $8::uuid) AND",
        at("shop/test_imports", "test_a_run_that_lost_its_lock_leaves_the_lines_of_the_next_one"),
    ),
    Mutant(
        "a file that is still being written moves nothing",
        "service/shop/imports.py",
        "before, after = run.status, os.fstat(file.fileno())",
        "before, after = os.fstat(file.fileno()), os.fstat(file.fileno())",
        at("shop/test_imports", "test_a_file_that_is_still_being_written_is_refused"),
    ),
    Mutant(
        "an import leaves no stock below zero",
        "sql/imports/check_lines.sql",
        "NOT BETWEEN 0 AND 1000000000",
        "NOT BETWEEN -1000000000 AND 1000000000",
        at("shop/test_imports", "test_units_that_are_sold_meanwhile_skip_their_line_alone"),
    ),
    Mutant(
        "a batch of an import is applied once",
        "service/shop/imports.py",
        " or current.position != batch.after_line",
        "",
        at("shop/test_imports", "test_a_batch_of_another_run_is_refused"),
    ),
    Mutant(
        "a batch of an import is applied whole",
        "service/shop/imports.py",
        " or locked.lines != batch.size",
        "",
        at("shop/test_imports", "test_a_batch_of_another_run_is_refused"),
    ),
]
