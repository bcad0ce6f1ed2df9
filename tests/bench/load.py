"""Tables filled by the statement, faster than any shop could be used, and with books that balance."""

from dataclasses import dataclass
from hashlib import md5
from uuid import UUID

import psycopg

# Scrambled, as real ids are: a counter would spare the indexes. Exact in Lua's doubles to three million.
CART_ID = "(lpad(to_hex(mod(n * 2654435761, 4294967296)), 8, '0') || lpad(to_hex(n), 24, '0'))::uuid"
ORDER_ID, ORDER_CART_ID = "md5('order ' || n)::uuid", "md5('cart ' || n)::uuid"
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
WITH given AS MATERIALIZED (
    SELECT n, {CART_ID} AS id FROM generate_series(%(first)s::bigint, %(first)s::bigint + %(count)s - 1) AS n
), cart AS (
    INSERT INTO carts (id, currency) SELECT id, 'EUR' FROM given
)
INSERT INTO cart_items (cart_id, product_id, quantity)
SELECT id, 1 + mod(n * 7919, %(products)s::bigint), 1 FROM given
"""

# Placed a minute ago, each with one unit of a product and the session that its number names; pending, or long done.
ORDERS = f"""
WITH given AS MATERIALIZED (
    SELECT n, {ORDER_ID} AS id, {ORDER_CART_ID} AS cart_id, 1 + mod(n * 7919, %(products)s::bigint) AS product_id
    FROM generate_series(%(first)s::bigint, %(first)s::bigint + %(count)s - 1) AS n
), cart AS (
    INSERT INTO carts (id, status, currency) SELECT cart_id, 'CHECKED_OUT', 'EUR' FROM given
), line AS (
    INSERT INTO cart_items (cart_id, product_id, quantity) SELECT cart_id, product_id, 1 FROM given
), placed AS (
    INSERT INTO orders (
        id, cart_id, status, total_minor, currency, created_at, expires_at, next_attempt_at, paid_at, fulfilled_at
    )
    SELECT
        id, cart_id, CASE WHEN %(done)s THEN 'FULFILLED' ELSE 'PENDING_PAYMENT' END,
        %(price)s, 'EUR', now() - interval '1 minute', now() + make_interval(secs => %(expires)s),
        CASE WHEN NOT %(done)s THEN now() + make_interval(secs => %(expires)s) END,
        CASE WHEN %(done)s THEN now() END, CASE WHEN %(done)s THEN now() END
    FROM given
    ORDER BY n
), item AS (
    INSERT INTO order_items (order_id, product_id, name, quantity, unit_price_minor)
    SELECT id, product_id, 'Halden Storm-Proof Trekking Tent, Forest ' || product_id, 1, %(price)s FROM given
), movement AS (
    INSERT INTO stock_movements (product_id, delta, reason, order_id, hold)
    SELECT product_id, -1, 'hold', id, 1 FROM given
), history AS (
    INSERT INTO order_events (order_id, from_status, to_status, cause)
    SELECT id, step.from_status, step.to_status, 'bench'
    FROM given CROSS JOIN (
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
    FROM given
    WHERE %(done)s
), taken AS (
    UPDATE products SET stock = stock - units.taken
    FROM (SELECT product_id, count(*)::integer AS taken FROM given GROUP BY product_id) AS units
    WHERE products.id = units.product_id
)
INSERT INTO payments (
    id, order_id, status, amount_minor, currency, session_parameters, session_expires_at, stripe_session_id,
    stripe_payment_intent_id, checkout_url
)
SELECT
    gen_random_uuid(), id, CASE WHEN %(done)s THEN 'SUCCEEDED' ELSE 'INITIATED' END, %(price)s, 'EUR',
    jsonb_build_object('mode', 'payment', 'client_reference_id', id, 'metadata', jsonb_build_object('order_id', id)),
    now() + interval '35 minutes', 'cs_test_bench_' || md5(n::text), CASE WHEN %(done)s THEN 'pi_' || md5(n::text) END,
    CASE WHEN NOT %(done)s THEN 'http://127.0.0.1/pay/' || n END
FROM given
"""


def cart_id(number: int) -> UUID:
    """The id of the cart of this number."""
    return UUID(f"{number * 2654435761 % 2**32:08x}{number:024x}")


def session_id(number: int) -> str:
    """The Stripe session of the order of this number."""
    return f"cs_test_bench_{md5(str(number).encode()).hexdigest()}"


def order_id(number: int) -> UUID:
    """The id of the order of this number."""
    return UUID(md5(f"order {number}".encode()).hexdigest())


@dataclass(slots=True)
class Tables:
    """One database as a superuser fills and reads it; carts and orders are numbered on from call to call."""

    connection: psycopg.Connection
    products: int = 0
    carts: int = 0
    orders: int = 0

    def add_products(self, count: int, stock: int = 1_000_000) -> None:
        """Products with so many units each. Only of a new database: their ids are 1 to `count`."""
        self.connection.execute(PRODUCTS, {"count": count, "stock": stock, "price": PRICE_MINOR})
        self.products = count

    def add_carts(self, count: int, *, hot: bool = False) -> int:
        """Open carts of one unit each, of products spread evenly or all of product 1; the first one's number."""
        first, self.carts = self.carts, self.carts + count
        self.connection.execute(CARTS, {"first": first, "count": count, "products": 1 if hot else self.products})
        return first

    def add_orders(self, count: int, *, expires: float = 1800, done: bool = False) -> int:
        """Orders of one unit each, pending until `expires` seconds from now or done; the first one's number."""
        first, self.orders = self.orders, self.orders + count
        given = {"first": first, "count": count, "products": self.products, "expires": expires, "price": PRICE_MINOR}
        given["done"] = done
        self.connection.execute(ORDERS, given)
        return first

    def settle(self) -> None:
        """Have the server do now what it would do in the middle of a measurement."""
        self.connection.execute("VACUUM ANALYZE")
        self.connection.execute("CHECKPOINT")

    def costs(self) -> list[tuple[str, int, float, int]]:
        """Since `forget_costs`, each statement's file, calls, seconds and buffers touched.

        By the name in its text, and not its query id: a connection that has to analyze a statement again, after tables
        were vacuumed and analyzed, may give it another one. What is of no file has the name "".
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

    def forget_costs(self) -> None:
        """Count from here on."""
        self.connection.execute("SELECT pg_stat_statements_reset()")

    def value(self, query: str, *parameters: object) -> int:
        """The one number that a query answers."""
        row = self.connection.execute(query, parameters).fetchone()
        assert row is not None
        return int(row[0] or 0)
