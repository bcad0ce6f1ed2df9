"""`Idempotency-Key`: a POST repeated with the same key gets the first one's answer and has no second effect."""

import hashlib
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Any
from uuid import UUID

import orjson

from service.errors import ShopError
from service.infra.db import Connection, Pool
from service.infra.encoding import encode
from service.infra.statements import NoRow, Statement
from service.infra.transactions import run_transaction


@dataclass(slots=True)
class Locked:
    """Whether the advisory lock was free."""

    locked: bool


@dataclass(slots=True)
class StoredKey:
    """A key already used; without a status its request was not answered yet."""

    request_digest: bytes
    status: int | None
    location: str | None
    answer: bytes | None


LOCK_KEY = Statement("idempotency/lock_key", Locked)
FIND_KEY = Statement("idempotency/find_key", StoredKey)
STORE_KEY = Statement("idempotency/store_key", NoRow)


@dataclass(slots=True, frozen=True)
class IdempotencyKey:
    """A key in its scope, and the digest of the body it came with."""

    id: bytes
    request_digest: bytes

    @classmethod
    def of(cls, method: str, path: str, principal: str, key: str, body: bytes) -> "IdempotencyKey":
        """Scoped by method, path (its ids in one spelling) and principal: who may share the key's stored response."""
        scope = orjson.dumps([method, path, principal, key])
        return cls(hashlib.sha256(scope).digest(), hashlib.sha256(body).digest())


@dataclass(slots=True, frozen=True)
class StoredResponse:
    """A 2xx answer as it goes out; `replayed` when it is the first one's."""

    status: int
    body: bytes
    location: str | None = None
    replayed: bool = False


async def find_stored_response(tx: Connection, key: IdempotencyKey | None) -> StoredResponse | None:
    """Take the key for this transaction; the stored answer when there is one.

    Raises `idempotency_key_in_use` while another request holds it, `idempotency_key_reused` for another body.
    """
    if key is None:
        return None
    lock = int.from_bytes(key.id[:8], "big", signed=True)
    if not (await LOCK_KEY.one(tx, lock)).locked:
        raise ShopError("idempotency_key_in_use", "The first request with this Idempotency-Key has not ended.")
    stored = await FIND_KEY.maybe(tx, key.id)
    if stored is None:
        return None
    if stored.request_digest != key.request_digest:
        raise ShopError("idempotency_key_reused", "This Idempotency-Key came before, with another body.")
    if stored.status is None or stored.answer is None:
        return None
    return StoredResponse(stored.status, stored.answer, stored.location, replayed=True)


async def store_response(
    tx: Connection, key: IdempotencyKey | None, answer: StoredResponse | None, order_id: UUID | None = None
) -> None:
    """Keep the key with its answer, or, for a checkout that has only reserved yet, with its order."""
    if key is None:
        return
    if answer is None:
        await STORE_KEY.run(tx, key.id, key.request_digest, order_id, None, None, None)
    else:
        await STORE_KEY.run(tx, key.id, key.request_digest, order_id, answer.status, answer.location, answer.body)


async def run_once(
    pool: Pool,
    key: IdempotencyKey | None,
    status: int,
    work: Callable[[Connection], Awaitable[Any]],
    location: Callable[[Any], str] | None = None,
    *,
    autocommit: bool = False,
) -> StoredResponse:
    """`work(tx)` in a transaction of its own, its result as JSON; or what it answered the first time.

    Lost in its COMMIT, it is looked up by its key. Without one there is nothing to know it by. `autocommit` as
    `run_transaction` has it, where there is no key to be stored too.
    """

    async def attempt(tx: Connection) -> StoredResponse:
        answer = await find_stored_response(tx, key)
        if answer is None:
            result = await work(tx)
            answer = StoredResponse(status, encode(result), location(result) if location else None)
            await store_response(tx, key, answer)
        return answer

    return await run_transaction(pool, attempt, idempotent=key is not None, autocommit=autocommit and key is None)
