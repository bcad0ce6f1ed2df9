"""`Idempotency-Key`: a POST repeated with the same key gets the first response again and has no second effect."""

import hashlib
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Any
from uuid import UUID

import orjson

from service.errors import ShopError
from service.infra.db import Connection, Pool
from service.infra.encoding import encode
from service.infra.sql import statement
from service.infra.transactions import run_transaction


@dataclass(slots=True)
class StoredKey:
    """A key that was used before. Its status is null until its request was answered."""

    request_digest: bytes
    status: int | None
    location: str | None
    answer: bytes | None


# Raises `not_found` unless the request may still be made, by the principal who sends it.
Check = Callable[[Connection], Awaitable[object]]

LOCK_KEY = statement("idempotency/lock_key", bool)
FIND_KEY = statement("idempotency/find_key", StoredKey)
STORE_KEY = statement("idempotency/store_key")


@dataclass(slots=True, frozen=True)
class IdempotencyKey:
    """A key in its scope, and the digest of the body it came with."""

    id: bytes
    request_digest: bytes

    @classmethod
    def of(cls, *, method: str, path: str, principal: str, key: str, body: bytes) -> "IdempotencyKey":
        """The key in its method, path (ids in one spelling) and principal: principals share no stored responses."""
        scope = orjson.dumps([method, path, principal, key])
        return cls(hashlib.sha256(scope).digest(), hashlib.sha256(body).digest())


@dataclass(slots=True, frozen=True)
class StoredResponse:
    """A 2xx response as it is sent; `replayed` when it answered an earlier request with the same key."""

    status: int
    body: bytes
    location: str | None = None
    replayed: bool = False


async def find_stored_response(
    tx: Connection, key: IdempotencyKey | None, check: Check | None = None
) -> StoredResponse | None:
    """Lock the key until this transaction ends, and return the response stored for it, if any.

    A used key first has to pass `check(tx)`: all who know an id share its keys, and it may have an owner since.
    Raises `idempotency_key_in_use` while another request has it locked, `idempotency_key_reused` for another body.
    """
    if key is None:
        return None
    if not await LOCK_KEY.one(tx, advisory_key=int.from_bytes(key.id[:8], "big", signed=True)):
        raise ShopError("idempotency_key_in_use", "The first request with this key is still being processed.")
    stored = await FIND_KEY.one_or_none(tx, key_id=key.id)
    if stored is None:
        return None
    if check is not None:
        await check(tx)
    if stored.request_digest != key.request_digest:
        raise ShopError("idempotency_key_reused", "This Idempotency-Key was used before, with another body.")
    if stored.status is None or stored.answer is None:
        return None
    return StoredResponse(stored.status, stored.answer, stored.location, replayed=True)


async def store_response(
    tx: Connection, key: IdempotencyKey | None, response: StoredResponse | None, order_id: UUID | None = None
) -> None:
    """Store the key with its response, and the order that this is about.

    A checkout without a payment session yet stores its order and no response.
    """
    if key is None:
        return
    await STORE_KEY.run(
        tx,
        key_id=key.id,
        request_digest=key.request_digest,
        order_id=order_id,
        status=response.status if response else None,
        location=response.location if response else None,
        answer=response.body if response else None,
    )


async def run_once(
    pool: Pool,
    key: IdempotencyKey | None,
    status: int,
    work: Callable[[Connection], Awaitable[Any]],
    *,
    location: Callable[[Any], str] | None = None,
    order_id: UUID | None = None,
    check: Check | None = None,
    autocommit: bool = False,
) -> StoredResponse:
    """Run `work(tx)` in a transaction of its own; its result as JSON, or the response stored for the key.

    `order_id` is the order that the response is about, so that personal data in it can be erased.
    `check` is for `find_stored_response`.

    After a COMMIT without an answer, the key shows whether it took effect. Without a key, this stays unknown.
    `autocommit` is for `run_transaction`. With a key it is ignored, because the key is stored by a second statement.
    """

    async def attempt(tx: Connection) -> StoredResponse:
        response = await find_stored_response(tx, key, check)
        if response is None:
            result = await work(tx)
            response = StoredResponse(status, encode(result), location(result) if location else None)
            await store_response(tx, key, response, order_id)
        return response

    return await run_transaction(pool, attempt, idempotent=key is not None, autocommit=autocommit and key is None)
