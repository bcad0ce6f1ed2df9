"""Service keys, and people whose access tokens are refused."""

import asyncio
import hashlib
import secrets
import time
from collections.abc import Sequence
from contextlib import aclosing
from dataclasses import dataclass
from datetime import datetime
from threading import Lock

from service.errors import ShopError, not_found
from service.infra.credentials import bearer, is_admin
from service.infra.db import Connection, Pool, connection
from service.infra.resources import Resources
from service.infra.sql import statement
from service.infra.transactions import run_transaction
from service.settings import Settings
from service.shop import audit_log
from service.shop.idempotency import IdempotencyKey, StoredResponse, run_once
from service.shop.principals import Principal, Scope

KEY_PREFIX = "cck_"
# A key that is revoked is refused within a minute, and its row may be read a moment before.
KEY_CACHE_SECONDS = 50.0
# As many characters of a key are stored as people need to recognise it.
SHOWN_CHARACTERS = 10


@dataclass(slots=True)
class ValidKey:
    """A key that is neither revoked nor expired; `expires_at` in seconds since 1970."""

    name: str
    scopes: list[Scope]
    expires_at: float


@dataclass(slots=True)
class StoredKey:
    """A key as people see it in the list."""

    name: str
    prefix: str
    scopes: list[Scope]
    created_at: datetime
    created_by: str
    expires_at: datetime
    revoked_at: datetime | None


@dataclass(slots=True)
class Revocation:
    """Tokens of this person that were issued until then are refused; in seconds since 1970."""

    subject: str
    revoked_at: float


FIND_KEY = statement("access/find_key", ValidKey)
ADD_KEY = statement("access/add_key")
LIST_KEYS = statement("access/list_keys", StoredKey)
REVOKE_KEY = statement("access/revoke_key")
REVOKE_TOKENS = statement("access/revoke_tokens")
LIST_REVOCATIONS = statement("access/list_revocations", Revocation)


async def find_key(pool: Pool, digest: bytes) -> tuple[Principal, float] | None:
    """Whose key has this SHA-256, and when it expires, in seconds since 1970; None if there is no valid one."""
    async with connection(pool) as reader:
        key = await FIND_KEY.one_or_none(reader, digest=digest)
    return None if key is None else (Principal(f"key:{key.name}", frozenset(key.scopes)), key.expires_at)


async def add_key(pool: Pool, *, name: str, scopes: Sequence[Scope], days: int, created_by: str) -> str:
    """A new key. Only its digest is stored. Raises `invalid` for a name that was used before."""
    key = KEY_PREFIX + secrets.token_urlsafe(32)
    digest = hashlib.sha256(key.encode()).digest()

    async def add(tx: Connection) -> None:
        if not await ADD_KEY.run(
            tx,
            name=name,
            prefix=key[:SHOWN_CHARACTERS],
            digest=digest,
            scopes=list(scopes),
            days=days,
            created_by=created_by,
        ):
            raise ShopError("invalid", "A key has this name, or had it before.")
        await audit_log.add(tx, "add_key", f"key:{name}", before=None, after={"scopes": list(scopes), "days": days})

    await run_transaction(pool, add)
    return key


async def list_keys(pool: Pool) -> Sequence[StoredKey]:
    """All keys, oldest first."""
    async with connection(pool) as reader:
        return await LIST_KEYS.all(reader)


def line(key: StoredKey) -> str:
    """A key in the list of the command."""
    state = f"revoked {key.revoked_at:%Y-%m-%d}" if key.revoked_at else f"until {key.expires_at:%Y-%m-%d}"
    return f"{key.name}: {key.prefix}…, {state}, by {key.created_by}: {', '.join(key.scopes)}"


async def revoke_key(pool: Pool, name: str) -> None:
    """Revoke a key. Each process refuses it within a minute. Raises 404 if there is no such valid key."""

    async def revoke(tx: Connection) -> None:
        if not await REVOKE_KEY.run(tx, name=name):
            raise not_found("key")
        await audit_log.add(tx, "revoke_key", f"key:{name}", before={"revoked": False}, after={"revoked": True})

    await run_transaction(pool, revoke)


async def revoke_tokens(resources: Resources, key: IdempotencyKey | None, subject: str) -> StoredResponse:
    """204 once all access tokens of a person that were issued until now are refused, in 10 seconds at the latest.

    Raises the errors of the idempotency key.
    """

    async def revoke(tx: Connection) -> None:
        await REVOKE_TOKENS.run(tx, subject=subject)
        await audit_log.add(tx, "revoke_tokens", f"user:{subject}", before=None, after=None)

    return await run_once(resources.pool, key, 204, revoke)


async def list_revocations(resources: Resources) -> dict[str, float]:
    """Whose tokens are refused, and until which time of issue, in seconds since 1970."""
    seconds = resources.settings.auth_max_token_seconds + resources.settings.auth_leeway_seconds
    async with connection(resources.pool) as reader:
        return {one.subject: one.revoked_at for one in await LIST_REVOCATIONS.all(reader, seconds=seconds)}


class MetricsReaders:
    """Who may read the metrics: ADMIN_TOKEN, and keys with metrics:read. Called in threads without an event loop."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        # By the key's SHA-256: until when it is valid (monotonic).
        self._valid: dict[bytes, float] = {}
        # So that a flood of invalid keys opens one connection to PostgreSQL at a time.
        self._lock = Lock()

    def __call__(self, authorization: str) -> bool:
        """Whether the credential of an Authorization header may read them. False if PostgreSQL does not answer."""
        credential = bearer(authorization.encode("latin-1", "replace"))
        if credential is None or not credential.startswith(KEY_PREFIX.encode()):
            return credential is not None and is_admin(credential, self._settings.admin_token)
        digest = hashlib.sha256(credential).digest()
        with self._lock:
            if time.monotonic() >= self._valid.get(digest, 0.0):
                self._valid.pop(digest, None)
                if asyncio.run(self._is_reader(digest)):
                    self._valid[digest] = time.monotonic() + KEY_CACHE_SECONDS
            return digest in self._valid

    async def _is_reader(self, digest: bytes) -> bool:
        async with aclosing(Pool(self._settings, "commerce-metrics")) as pool:
            try:
                key = await find_key(pool, digest)
            except ShopError:
                return False
        return key is not None and key[0].may("metrics:read")
