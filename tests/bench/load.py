"""Tables filled by SQL, faster than through the API, and consistent: the audit finds no violation."""

from dataclasses import dataclass
from hashlib import md5
from uuid import UUID

import psycopg

# Scrambled like real ids: consecutive ones would be too easy for the indexes. Exact in Lua's doubles to three million.
CART_ID = "(lpad(to_hex(mod(n * 2654435761, 4294967296)), 8, '0') || lpad(to_hex(n), 24, '0'))::uuid"
# Past orders have ids of version 7, a millisecond apart, as if drawn when they were placed.
FIRST_MILLISECOND = 1_700_000_000_000
VERSION_7 = (
    f"(lpad(to_hex({FIRST_MILLISECOND} + n), 12, '0') || '7' || left(md5('{{0}} ' || n), 3)"
    " || '8' || substr(md5('{0} ' || n), 4, 15))::uuid"
)
ORDER_ID, ORDER_CART_ID = VERSION_7.format("order"), VERSION_7.format("cart")
PRICE_MINOR = 2450

PRODUCTS = """
WITH product AS (
    INSERT INTO products (name, description, price_minor, currency, stock)
    SELECT
        'Halden Storm-Proof Trekking Tent, Forest ' || n,
        'Storm-proof trekking tent of our Halden series in forest. Stands up to wind and rain, and packs down small.',
        %(price)s, 'EUR', %(stock)s
    FROM generate_series(1, %(count)s) AS n
    ORDER BY n
    RETURNING id, stock
)
INSERT INTO stock_movements (product_id, delta, reason)
SELECT id, stock, 'initial stock' FROM product
"""

CARTS = f"""
WITH numbered AS MATERIALIZED (
    SELECT n, {CART_ID} AS id FROM generate_series(%(first)s::bigint, %(first)s::bigint + %(count)s - 1) AS n
), cart AS (
    INSERT INTO carts (id, currency, user_id) SELECT id, 'EUR', %(owner)s::text FROM numbered
)
INSERT INTO cart_items (cart_id, product_id, quantity)
SELECT id, 1 + mod(n * 7919, %(products)s::bigint), 1 FROM numbered
"""

# Placed a minute ago, each with one unit of each of its products and the session of its number; pending or fulfilled.
ORDERS = f"""
WITH numbered AS MATERIALIZED (
    SELECT n, {ORDER_ID} AS id, {ORDER_CART_ID} AS cart_id
    FROM generate_series(%(first)s::bigint, %(first)s::bigint + %(count)s - 1) AS n
), bought AS MATERIALIZED (
    SELECT n, id, cart_id, 1 + mod(n * 7919 + number * 104729, %(products)s::bigint) AS product_id
    FROM numbered CROSS JOIN generate_series(0, %(lines)s - 1) AS number
), cart AS (
    INSERT INTO carts (id, status, currency) SELECT cart_id, 'CHECKED_OUT', 'EUR' FROM numbered
), line AS (
    INSERT INTO cart_items (cart_id, product_id, quantity) SELECT cart_id, product_id, 1 FROM bought
), new_order AS (
    INSERT INTO orders (
        id, cart_id, status, total_minor, currency, created_at, expires_at, next_attempt_at, paid_at, fulfilled_at
    )
    SELECT
        id, cart_id, CASE WHEN %(done)s THEN 'FULFILLED' ELSE 'PENDING_PAYMENT' END,
        %(price)s * %(lines)s, 'EUR', now() - interval '1 minute', now() + make_interval(secs => %(expires)s),
        CASE WHEN NOT %(done)s THEN now() + make_interval(secs => %(expires)s) END,
        CASE WHEN %(done)s THEN now() END, CASE WHEN %(done)s THEN now() END
    FROM numbered
    ORDER BY n
), item AS (
    INSERT INTO order_items (order_id, product_id, name, quantity, unit_price_minor)
    SELECT id, product_id, 'Halden Storm-Proof Trekking Tent, Forest ' || product_id, 1, %(price)s FROM bought
), movement AS (
    INSERT INTO stock_movements (product_id, delta, reason, order_id, hold)
    SELECT product_id, -1, 'hold', id, 1 FROM bought
), history AS (
    INSERT INTO order_events (order_id, from_status, to_status, cause)
    SELECT id, step.from_status, step.to_status, 'bench'
    FROM numbered CROSS JOIN (
        VALUES (1, NULL, 'PENDING_PAYMENT'), (2, 'PENDING_PAYMENT', 'PAID'), (3, 'PAID', 'FULFILLED')
    ) AS step (number, from_status, to_status)
    WHERE step.number = 1 OR %(done)s
    ORDER BY n, step.number
), event AS (
    INSERT INTO stripe_events (id, type, payload, order_id, outcome, handled_at)
    SELECT
        'evt_bench_' || md5(n::text), 'checkout.session.completed',
        jsonb_build_object('data', jsonb_build_object('object', jsonb_build_object('payment_intent', 'pi_' || n))),
        id, 'applied', now()
    FROM numbered
    WHERE %(done)s
), stock AS (
    UPDATE products SET stock = stock - units.count
    FROM (SELECT product_id, count(*)::integer AS count FROM bought GROUP BY product_id) AS units
    WHERE products.id = units.product_id
)
INSERT INTO payments (
    id, order_id, status, amount_minor, currency, session_parameters, session_expires_at, stripe_session_id,
    stripe_payment_intent_id, checkout_url
)
SELECT
    gen_random_uuid(), id, CASE WHEN %(done)s THEN 'SUCCEEDED' ELSE 'INITIATED' END,
    %(price)s * %(lines)s, 'EUR',
    jsonb_build_object('mode', 'payment', 'client_reference_id', id, 'metadata', jsonb_build_object('order_id', id)),
    now() + interval '35 minutes', 'cs_test_bench_' || md5(n::text), CASE WHEN %(done)s THEN 'pi_' || md5(n::text) END,
    CASE WHEN NOT %(done)s THEN 'http://127.0.0.1/pay/' || n END
FROM numbered
"""


def cart_id(number: int) -> UUID:
    """The id of the cart of this number."""
    return UUID(f"{number * 2654435761 % 2**32:08x}{number:024x}")


def session_id(number: int) -> str:
    """The Stripe session of the order of this number."""
    return f"cs_test_bench_{md5(str(number).encode()).hexdigest()}"


def order_id(number: int) -> UUID:
    """The id of the order of this number."""
    random = md5(f"order {number}".encode()).hexdigest()
    return UUID(f"{FIRST_MILLISECOND + number:012x}7{random[:3]}8{random[3:18]}")


@dataclass(slots=True)
class Tables:
    """One database, filled and read as a superuser; carts and orders are numbered consecutively across calls."""

    connection: psycopg.Connection
    products: int = 0
    carts: int = 0
    orders: int = 0

    def add_products(self, count: int, stock: int = 1_000_000) -> None:
        """Add products with `stock` units each to a new database; their ids are 1 to `count`."""
        self.connection.execute(PRODUCTS, {"count": count, "stock": stock, "price": PRICE_MINOR})
        self.products = count

    def add_carts(self, count: int, *, hot: bool = False, owner: str | None = None) -> int:
        """Add open carts of one unit each, over all products or (`hot`) of product 1; the number of the first."""
        first, self.carts = self.carts, self.carts + count
        products = 1 if hot else self.products
        self.connection.execute(CARTS, {"first": first, "count": count, "products": products, "owner": owner})
        return first

    def add_orders(self, count: int, *, expires: float = 1800, done: bool = False, lines: int = 1) -> int:
        """Add orders, pending for `expires` more seconds or fulfilled; the number of the first."""
        first, self.orders = self.orders, self.orders + count
        parameters = {"first": first, "count": count, "products": self.products, "price": PRICE_MINOR}
        self.connection.execute(ORDERS, parameters | {"expires": expires, "done": done, "lines": lines})
        return first

    def close_carts(self) -> None:
        """Close the carts of pending orders, for reservations without checkout/close_cart."""
        self.connection.execute(
            "UPDATE carts SET status = 'CHECKED_OUT' FROM orders"
            " WHERE orders.cart_id = carts.id AND orders.status = 'PENDING_PAYMENT' AND carts.status = 'OPEN'"
        )

    def settle(self) -> None:
        """Vacuum, analyze and checkpoint now, so that the server does not do so during a measurement."""
        self.connection.execute("VACUUM ANALYZE")
        self.connection.execute("CHECKPOINT")

    def costs(self) -> list[tuple[str, int, float, int]]:
        """The file, calls, seconds and touched buffers of each statement since `reset_costs`.

        Grouped by the name in the text: after a vacuum the same statement may get another query id. Statements of no
        file have the name "".
        """
        query = """
        SELECT
            coalesce(substring(query FROM '^\\w+ /\\*action=''(\\w+/\\w+)''\\*/'), '') AS name, sum(calls)::bigint,
            sum(total_exec_time) / 1000 AS seconds, sum(shared_blks_hit + shared_blks_read)::bigint
        FROM pg_stat_statements
        WHERE dbid = (SELECT oid FROM pg_database WHERE datname = current_database())
        GROUP BY name ORDER BY seconds DESC
        """
        return self.connection.execute(query).fetchall()

    def reset_costs(self) -> None:
        """Start counting the costs anew."""
        self.connection.execute("SELECT pg_stat_statements_reset()")

    def value(self, query: str, *parameters: object) -> int:
        """The single number that a query returns."""
        row = self.connection.execute(query, parameters).fetchone()
        assert row is not None
        return int(row[0] or 0)
