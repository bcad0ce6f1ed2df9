"""The references: the simplest code that could answer, with the same server, driver and statements."""

import os
from collections.abc import AsyncIterator
from contextlib import aclosing, asynccontextmanager
from typing import Any
from uuid import UUID

import orjson
from fastapi import FastAPI, Request, Response
from redis.asyncio import Redis
from starlette.types import Receive, Scope, Send

from service.infra.db import Connection, Pool
from service.infra.ids import new_id
from service.settings import Settings
from service.shop import checkout, payment_session
from tests.queries import on

KEY = "bench:page"

PAGE = """
SELECT json_build_object('items', coalesce(json_agg(page), '[]'), 'next_cursor', max(id))::text
FROM (
    SELECT id, name, category_id, price_minor, currency, stock > 0 AS available
    FROM products
    WHERE active AND id > $1
    ORDER BY id
    LIMIT 20
) AS page
"""
PRODUCT = "SELECT row_to_json(product)::text FROM (SELECT * FROM products WHERE id = $1) AS product"

# The rules of a reservation in eight round trips: these six between BEGIN and COMMIT.
LOCK = """
SELECT products.id, products.name, products.price_minor, products.currency, products.stock, cart_items.quantity
FROM cart_items JOIN products ON products.id = cart_items.product_id
WHERE cart_items.cart_id = $1 AND products.active
ORDER BY products.id
FOR NO KEY UPDATE OF products
"""
PLACE = """
WITH new_order AS (
    INSERT INTO orders (id, cart_id, total_minor, currency, expires_at, next_attempt_at)
    VALUES ($1, $2, $3, $4, now() + interval '30 minutes', now() + interval '30 minutes') RETURNING id
)
INSERT INTO order_events (order_id, to_status, cause) SELECT id, 'PENDING_PAYMENT', 'bench' FROM new_order
"""
ITEM = """
INSERT INTO order_items (order_id, product_id, name, quantity, unit_price_minor) VALUES ($1, $2, $3, $4, $5)
"""
TAKE = "UPDATE products SET stock = stock - $2, updated_at = now() WHERE id = $1"
LEDGER = "INSERT INTO stock_movements (product_id, delta, reason, order_id, hold) VALUES ($1, $2, 'hold', $3, 1)"
PAYMENT = """
INSERT INTO payments (id, order_id, amount_minor, currency, session_parameters, session_expires_at, claimed_until)
VALUES ($1, $2, $3, $4, $5, now() + interval '35 minutes', now() + interval '45 seconds')
"""


async def bare(scope: Scope, receive: Receive, send: Send) -> None:
    """The smallest ASGI application."""
    if scope["type"] == "lifespan":
        while (await receive())["type"] == "lifespan.startup":
            await send({"type": "lifespan.startup.complete"})
        await send({"type": "lifespan.shutdown.complete"})
        return
    headers = [(b"content-type", b"application/json"), (b"content-length", b"17")]
    await send({"type": "http.response.start", "status": 200, "headers": headers})
    await send({"type": "http.response.body", "body": b'{"hello":"world"}'})


@asynccontextmanager
async def lifespan(app: FastAPI) -> AsyncIterator[None]:
    # The service's own pool, so that only the code around it differs.
    async with aclosing(Pool(app.state.settings, "commerce-reference")) as pool:
        app.state.pool, app.state.redis = pool, Redis.from_url(app.state.settings.redis_url)
        app.state.page = (await on(pool).fetchval(PAGE, 0)).encode()
        await app.state.redis.set(KEY, app.state.page)
        yield
        await app.state.redis.aclose()


app = FastAPI(lifespan=lifespan)
app.state.settings = Settings.load(os.environ)


def as_json(body: Any) -> Response:
    return Response(body, media_type="application/json")


@app.get("/hello")
async def hello() -> dict[str, str]:
    return {"hello": "world"}


@app.get("/list/memory")
async def list_from_memory(request: Request) -> Response:
    return as_json(request.app.state.page)


@app.get("/list/redis")
async def list_from_redis(request: Request) -> Response:
    return as_json(await request.app.state.redis.get(KEY))


@app.get("/list/postgresql")
async def list_from_postgresql(request: Request, after_id: int = 0) -> Response:
    return as_json(await on(request.app.state.pool).fetchval(PAGE, after_id))


@app.get("/product/{product_id}")
async def product(request: Request, product_id: int) -> Response:
    return as_json(await on(request.app.state.pool).fetchval(PRODUCT, product_id))


@app.post("/reserve/{cart_id}", status_code=201)
async def reserve(request: Request, cart_id: UUID) -> Response:
    """Our statement with all its rules, without a transaction around it."""
    settings, order_id = request.app.state.settings, new_id()
    reserved = await on(request.app.state.pool).fetchrow(
        checkout.RESERVE.sql,
        order_id,
        cart_id,
        new_id(),
        None,
        settings.hold_seconds,
        settings.session_seconds,
        payment_session.claim_seconds(settings),
        template(order_id),
        "bench",
        None,
        "EUR",
        50,
        99_999_999,
        1,
        None,
        0,
        settings.max_per_order,
        "customer",
        None,
        None,
    )
    assert reserved is not None
    return Response(orjson.dumps({"order_id": str(order_id)}), 201, media_type="application/json")


@app.post("/reserve-eight/{cart_id}", status_code=201)
async def reserve_in_eight(request: Request, cart_id: UUID) -> Response:
    """The same rules as simple statements, in eight round trips."""
    order_id = new_id()
    async with request.app.state.pool.acquire() as tx, tx.transaction():
        await in_eight(tx, order_id, cart_id)
    return Response(orjson.dumps({"order_id": str(order_id)}), 201, media_type="application/json")


async def in_eight(tx: Connection, order_id: UUID, cart_id: UUID) -> None:
    (line,) = await tx.fetch(LOCK, cart_id)
    total = line["price_minor"] * line["quantity"]
    assert line["stock"] >= line["quantity"]
    assert 50 <= total <= 99_999_999
    await tx.execute(PLACE, order_id, cart_id, total, line["currency"])
    await tx.execute(ITEM, order_id, line["id"], line["name"], line["quantity"], line["price_minor"])
    await tx.execute(TAKE, line["id"], line["quantity"])
    await tx.execute(LEDGER, line["id"], -line["quantity"], order_id)
    await tx.execute(PAYMENT, new_id(), order_id, total, line["currency"], template(order_id))


def template(order_id: UUID) -> dict[str, Any]:
    metadata = {"order_id": str(order_id)}
    return {
        "mode": "payment",
        "success_url": f"http://localhost:8080/payments/success?session_id={{CHECKOUT_SESSION_ID}}&order_id={order_id}",
        "cancel_url": f"http://localhost:8080/payments/cancel?session_id={{CHECKOUT_SESSION_ID}}&order_id={order_id}",
        "client_reference_id": str(order_id),
        "metadata": metadata,
        "payment_intent_data": {"metadata": metadata},
    }
