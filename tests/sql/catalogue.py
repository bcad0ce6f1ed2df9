"""A shop after some years: a million products, two million orders and the rows that belong to them.

The rows have to exist, because the planner takes a table's size from its file and not from statistics. They are
distributed as in a shop: most orders are fulfilled, little is due, some carts are abandoned. A tenth of the products is
off sale, but nearly all of one category. Ids of orders and carts are hashes, scattered over an index like random ids.
"""

import asyncio

import asyncpg

from tests.sql.scenarios import SEED

MILLION = 1_000_000
# One product in a hundred is in this category, and one in a hundred of those is active.
CLEARANCE = 12


def tables(products: int) -> list[dict[str, str]]:
    """The query that fills each table, for so many products and twice as many orders.

    The second stage reads the tables of the first.
    """
    orders = 2 * products
    carts = orders + products // 5
    product_id = f"11 + (number * 7919 + line * 104729) % {products}"
    age = f"now() - make_interval(secs => 10 * abs({orders} - n))"
    return [
        {
            # Of a thousand orders one is pending and a hundred are cancelled. A few are paid and not yet fulfilled.
            "orders": f"""
                SELECT
                    md5('order' || n)::uuid AS id,
                    md5('cart' || n)::uuid AS cart_id,
                    -- Half of the customers are users.
                    CASE WHEN n % 2 = 0 THEN 'user-' || n % 900000 END AS user_id,
                    status,
                    2500 AS total_minor,
                    'EUR' AS currency,
                    at AS expires_at,
                    at AS created_at,
                    CASE WHEN status IN ('PAID', 'FULFILLED') THEN at END AS paid_at,
                    CASE WHEN status = 'FULFILLED' THEN at END AS fulfilled_at,
                    CASE WHEN status = 'CANCELLED' THEN at END AS cancelled_at,
                    CASE WHEN status IN ('PAID', 'FULFILLED') THEN n % 900000 || '@example.com' END AS email,
                    CASE
                        WHEN status IN ('PAID', 'FULFILLED') THEN sha256((n % 900000 || '@example.com')::bytea)
                    END AS email_digest,
                    -- One storefront in four has names of its own.
                    CASE WHEN n % 4 = 0 THEN 'web-' || n END AS reference,
                    CASE WHEN status IN ('PENDING_PAYMENT', 'PAID') THEN now() + interval '1 day' END AS next_attempt_at
                FROM (
                    SELECT
                        n,
                        {age} AS at,
                        CASE
                            WHEN n % 1000 = 7 THEN 'PENDING_PAYMENT'
                            WHEN n % 10 = 3 THEN 'CANCELLED'
                            WHEN n % {max(orders // 20, 20)} = 0 THEN 'PAID'
                            ELSE 'FULFILLED'
                        END AS status
                    FROM generate_series(1, {orders}) AS n
                ) AS numbered""",
            "carts": f"""
                SELECT
                    md5('cart' || n)::uuid AS id,
                    CASE WHEN n % 2 = 0 THEN 'user-' || n % 900000 END AS user_id,
                    CASE WHEN n <= {orders} AND n % 10 <> 3 THEN 'CHECKED_OUT' ELSE 'OPEN' END AS status,
                    'EUR' AS currency,
                    at AS created_at,
                    at AS updated_at,
                    CASE WHEN n <= {orders} THEN at END AS ordered_at
                FROM (
                    SELECT
                        n,
                        {age} AS at
                    FROM generate_series(1, {carts}) AS n
                ) AS aged""",
            "products": f"""
                SELECT
                    n + 10 AS id,
                    'Product ' || n AS name,
                    CASE
                        WHEN n % 100 = 1 THEN {CLEARANCE}
                        WHEN n % 20 > 0 THEN 11 + n::bigint * 7919 % {max(products // 1000, 10)}
                    END AS category_id,
                    100 + n % 9900 AS price_minor,
                    'EUR' AS currency,
                    n % 100 AS stock,
                    'SKU-' || n AS sku,
                    CASE WHEN n % 100 = 1 THEN n % 10000 = 1 ELSE n % 10 > 0 END AS active
                FROM generate_series(1, {products}) AS n""",
            "categories": f"""
                SELECT
                    n + 10 AS id,
                    'Category ' || n AS name,
                    'category-' || n AS slug
                FROM generate_series(1, {max(products // 1000, 10)}) AS n""",
        },
        {
            "stock_movements": f"""
                SELECT
                    {product_id} AS product_id,
                    -1 AS delta,
                    'hold' AS reason,
                    id AS order_id,
                    1 AS hold
                FROM orders, generate_series(0, number % 2) AS line
                WHERE number > 10
                UNION ALL
                SELECT
                    id,
                    1000,
                    'initial stock',
                    NULL,
                    NULL
                FROM products
                WHERE id > 10""",
            "payments": """
                SELECT
                    id,
                    id AS order_id,
                    number AS order_number,
                    CASE status
                        WHEN 'PENDING_PAYMENT' THEN 'INITIATED' WHEN 'CANCELLED' THEN 'EXPIRED' ELSE 'SUCCEEDED'
                    END AS status,
                    2500 AS amount_minor,
                    'EUR' AS currency,
                    '{}'::jsonb AS session_parameters,
                    created_at AS session_expires_at,
                    'cs_' || id AS stripe_session_id,
                    CASE WHEN paid_at IS NOT NULL THEN 'pi_' || id END AS stripe_payment_intent_id
                FROM orders
                WHERE number > 10""",
            "order_events": """
                SELECT
                    id AS order_id,
                    CASE step WHEN 1 THEN 'PENDING_PAYMENT' END AS from_status,
                    CASE step WHEN 0 THEN 'PENDING_PAYMENT' ELSE replace(status, 'FULFILLED', 'PAID') END AS to_status,
                    'request' AS cause
                FROM orders, generate_series(0, 1) AS step
                WHERE number > 10""",
            "order_items": f"""
                SELECT
                    id AS order_id,
                    {product_id} AS product_id,
                    'A product' AS name,
                    1 AS quantity,
                    1250 AS unit_price_minor
                FROM orders, generate_series(0, number % 2) AS line
                WHERE number > 10""",
            "cart_items": f"""
                SELECT
                    md5('cart' || number)::uuid AS cart_id,
                    {product_id} AS product_id,
                    1 AS quantity
                FROM generate_series(1, {carts}::bigint) AS number, generate_series(0, number % 2) AS line""",
            "stripe_events": """
                SELECT
                    'evt_' || id AS id,
                    'checkout.session.completed' AS type,
                    '{}'::jsonb AS payload,
                    created_at AS received_at,
                    CASE WHEN number % 20 > 0 THEN id END AS order_id,
                    'applied' AS outcome,
                    CASE WHEN number % 2000 > 0 THEN created_at END AS handled_at,
                    CASE WHEN number % 2000 = 0 THEN now() + interval '1 hour' END AS next_attempt_at
                FROM orders
                WHERE number > 10 AND number % 2 = 0""",
            # The keys of 25 hours: those of the oldest hour are due for deletion.
            "idempotency_keys": f"""
                SELECT
                    sha256(id::text::bytea) AS id,
                    sha256('body') AS request_digest,
                    id AS order_id,
                    201 AS status,
                    ''::bytea AS answer,
                    now() - make_interval(secs => number * 90000.0 / {orders}) AS created_at
                FROM orders
                WHERE number > 10 AND number % 2 = 0""",
            "order_shipping": """
                SELECT
                    id AS order_id,
                    'Jenny Rosen' AS name,
                    '354 Oyster Point Blvd' AS line1
                FROM orders
                WHERE number > 10 AND number % 4 = 0""",
            # Half of the refunds name lines. Before the refunds, to which they refer.
            "refund_items": f"""
                SELECT
                    id AS refund_id,
                    {product_id} AS product_id,
                    1 AS quantity,
                    number % 3 = 0 AS restock
                FROM orders, generate_series(0, number % 2) AS line
                WHERE number > 10 AND number % 40 = 0""",
            "refunds": """
                SELECT
                    id,
                    id AS order_id,
                    'pi_' || id AS stripe_payment_intent_id,
                    50 AS amount_minor,
                    CASE WHEN number % 3 = 0 THEN 'late_money' ELSE 'staff' END AS cause,
                    created_at,
                    created_at AS updated_at,
                    CASE WHEN number % 20000 = 0 THEN 'REQUESTED' ELSE 'SUCCEEDED' END AS status,
                    CASE WHEN number % 20000 > 0 THEN 're_' || number END AS stripe_refund_id,
                    CASE WHEN number % 20000 = 0 THEN now() + interval '1 hour' END AS next_attempt_at
                FROM orders
                WHERE number > 10 AND number % 20 = 0
                -- Refunds do not lie in the order of their time: each update moves a row.
                ORDER BY number % 7, number""",
            # Ten people edited most; each product was edited about three times.
            "audit_log": f"""
                SELECT
                    'user:' || n % 10 AS actor,
                    'update_product' AS action,
                    'product:' || 11 + n * 7919::bigint % {products} AS subject,
                    '{{}}'::jsonb AS before,
                    '{{}}'::jsonb AS after,
                    md5('request' || n) AS request_id,
                    {age} AS at
                FROM generate_series(1, 3 * {products}) AS n""",
            # Every name has the word Product. One description in a hundred has the word rare, one in 10,000 novel.
            "product_search": """
                SELECT
                    id AS product_id,
                    version,
                    'simple' AS language,
                    array_to_tsvector(
                        ARRAY[
                            '$EUR', 'product', '=product', (id - 10)::text, '=' || (id - 10),
                            CASE WHEN id % 100 = 0 THEN 'rare' WHEN id % 10000 = 1 THEN 'novel' ELSE 'usual' END
                        ]
                        || array_remove(ARRAY['#' || category_id], NULL)
                    ) AS words,
                    lower(name) AS name_key,
                    price_minor,
                    currency
                FROM products
                WHERE id > 10 AND active""",
            # A vocabulary hardly grows with the products.
            "search_words": """
                SELECT translate(n::text, '0123456789', 'etaoinshrd') || 'wort' AS word
                FROM generate_series(1, 100000) AS n""",
            "audit_balances": """
                SELECT
                    id AS product_id,
                    stock AS units
                FROM products
                WHERE id > 10""",
            "audit_violations": f"""
                SELECT
                    'audit/rule_' || n % 10 AS rule,
                    'order ' || n AS subject,
                    'wrong' AS detail
                FROM generate_series(1, {max(products // 1000, 10)}) AS n""",
            # One in a hundred is still to be refunded.
            "unmatched_payments": """
                SELECT
                    'pi_other_' || id AS stripe_payment_intent_id,
                    id AS order_id,
                    2600 AS amount_minor,
                    'EUR' AS currency,
                    CASE WHEN number % 20000 = 0 THEN now() + interval '1 hour' END AS next_attempt_at
                FROM orders
                WHERE number > 10 AND number % 200 = 0""",
            "disputes": """
                SELECT
                    'dp_' || id AS stripe_dispute_id,
                    'pi_' || id AS stripe_payment_intent_id,
                    id AS order_id,
                    2500 AS amount_minor,
                    'EUR' AS currency,
                    'fraudulent' AS reason,
                    'lost' AS status,
                    created_at AS reported_at
                FROM orders
                WHERE number > 10 AND number % 200 = 0""",
            # The list itself is short.
            "stuck_items": """
                SELECT
                    CASE WHEN number % 400 = 0 THEN 'dispute_open' ELSE 'refund_failed' END AS kind,
                    id::text AS id,
                    id AS order_id,
                    'declined' AS reason,
                    CASE WHEN number > 200 THEN created_at END AS ended_at
                FROM orders
                WHERE number > 10 AND number % 200 = 0""",
            # More than there will be, so that an index is the better way.
            "api_keys": """
                SELECT
                    'key-' || n AS name,
                    'cck_' || n AS prefix,
                    sha256(n::text::bytea) AS digest,
                    '{stock:write}'::text [] AS scopes,
                    'anna' AS created_by,
                    now() + interval '1 year' AS expires_at
                FROM generate_series(1, 10000) AS n""",
            "event_leases": """
                SELECT n + 10 AS endpoint_id
                FROM generate_series(1, 10000) AS n""",
            # Of 10,000 endpoints that there ever were two are left, so that an index is the better way.
            "event_endpoints": """
                SELECT
                    n + 10 AS id,
                    'https://example.com/' || n AS url,
                    '{dispute.closed}'::text [] AS types,
                    sha256('secret') AS secret,
                    n % 5000 = 0 AS active,
                    CASE WHEN n % 5000 > 0 THEN now() END AS deleted_at
                FROM generate_series(1, 10000) AS n""",
            # Of the last orders, for both endpoints. Few are still to be sent.
            "event_deliveries": """
                SELECT
                    5010 + 5000 * (n % 2) AS endpoint_id,
                    n + 10 AS id,
                    id AS event_id,
                    'order.paid' AS type,
                    'order:' || id AS subject,
                    '{}'::jsonb AS data,
                    CASE WHEN number % 2000 = 0 THEN 'pending' ELSE 'delivered' END AS status,
                    CASE WHEN number % 2000 = 0 THEN now() + interval '1 hour' END AS next_attempt_at,
                    CASE WHEN number % 2000 > 0 THEN created_at END AS finished_at
                FROM orders, LATERAL (VALUES (2 * number), (2 * number + 1)) AS numbered (n)
                WHERE number > 10 AND number % 2 = 0""",
            "product_announcements": """
                SELECT
                    id AS product_id,
                    stock = 0 AS sold_out,
                    now() AS sold_out_at,
                    CASE WHEN id % 1000 = 0 THEN now() + interval '1 hour' END AS due_at
                FROM products
                WHERE id > 10""",
            "imports": """
                SELECT
                    sha256(n::text::bytea) AS digest,
                    n AS moved_to
                FROM generate_series(1, 10000) AS n""",
            # A file with a line for every product.
            "import_lines": f"""
                SELECT
                    '00000000-0000-0000-0000-000000000001'::uuid AS run,
                    n + 10 AS line,
                    'SKU-' || n AS sku,
                    'Product ' || n AS name,
                    'category-' || 1 + n % {max(products // 1000, 10)} AS category,
                    100 + n % 9900 AS price_minor,
                    'EUR' AS currency,
                    n % 100 AS stock
                FROM generate_series(1, {products}) AS n""",
            "token_revocations": """
                SELECT
                    'user ' || n AS subject,
                    now() - make_interval(hours => n) AS revoked_at
                FROM generate_series(1, 10000) AS n""",
        },
    ]


# The true numbers of rows with one value. ANALYZE's sample seldom has two lines of one cart, so it guesses between 1
# and 1.5, and plans change with the guess.
ROWS_OF_ONE = {"cart_items.cart_id": 1.5, "order_items.order_id": 1.5, "order_events.order_id": 2}
SETTINGS = {
    # No foreign key triggers. No waiting for WAL: the tables are unlogged as well.
    "session_replication_role": "replica",
    "synchronous_commit": "off",
    "maintenance_work_mem": "256MB",
    "max_parallel_maintenance_workers": "0",
    # Two scans of one table that share their pages would begin in the middle, and rows would lie in another order.
    "synchronize_seqscans": "off",
    "jit": "off",
}


async def fill(url: str, products: int) -> None:
    """Load the seed and a catalogue into a migrated database, on two connections, and analyze the tables."""
    stages = tables(products)
    connection = await asyncpg.connect(url)
    await connection.execute(SEED)
    for table in [*stages[1], *stages[0]]:
        await connection.execute(f"ALTER TABLE {table} SET UNLOGGED, SET (autovacuum_enabled = false)")
    for column, rows in ROWS_OF_ONE.items():
        table, _, name = column.partition(".")
        await connection.execute(f"ALTER TABLE {table} ALTER COLUMN {name} SET (n_distinct = {-1 / rows:.3f})")
    # Few refunds are open. With this target ANALYZE reads all of them, so that their share is not guessed.
    await connection.execute("ALTER TABLE refunds ALTER COLUMN status SET STATISTICS 1000")
    # Maintaining the indexes for each row takes minutes, so they are disabled until REINDEX builds them.
    await connection.execute(
        "UPDATE pg_index SET indisready = false, indisvalid = false"
        " FROM pg_class WHERE pg_class.oid = indrelid AND relname = ANY($1)",
        [*stages[0], *stages[1]],
    )
    for stage in stages:
        queue = [*stage.items()]
        await asyncio.gather(_load(url, queue), _load(url, queue))
    for table in ("products", "categories"):
        await connection.execute(f"SELECT setval('{table}_id_seq', max(id)) FROM {table}")
    # Autovacuum may have seen the system's tables while indexes were disabled, or not at all.
    await connection.execute("VACUUM (ANALYZE) pg_class, pg_index")
    await connection.close()


async def _load(url: str, queue: list[tuple[str, str]]) -> None:
    """Fill, index and analyze tables until the queue, which two connections share, is empty."""
    connection = await asyncpg.connect(url, server_settings=SETTINGS)
    while queue:
        table, rows = queue.pop(0)
        columns = [column.name for column in (await connection.prepare(rows)).get_attributes()]
        await connection.execute(f"INSERT INTO {table} ({', '.join(columns)}) OVERRIDING SYSTEM VALUE {rows}")
        await connection.execute(f"REINDEX TABLE {table}")
        await connection.execute(f"ANALYZE {table}")
    await connection.close()
