"""Who sends a request: people by access tokens (RFC 9068), systems by service keys, guests by no credential.

Nothing in a token but its `kid` is believed before its signature is verified (RFC 8725), and no key is fetched from
where a token says.
"""

import asyncio
import hashlib
import logging
import re
import time
from collections.abc import Iterator
from contextlib import suppress
from functools import lru_cache
from ipaddress import ip_address
from typing import Any
from urllib.parse import urlsplit

import asyncpg
import jwt
from starlette.types import Scope

from service.errors import ShopError
from service.infra.clients import Client, Clients
from service.infra.credentials import bearer, is_admin
from service.infra.jwks import KeySet
from service.infra.logs import log_soon
from service.infra.resources import Resources
from service.shop import access
from service.shop.principals import ADMIN, ERASED, GUEST, OPEN, ROLES, Principal

CACHED_CREDENTIALS = 10_000
CACHE_SECONDS = 60.0
REVOCATIONS_SECONDS = 3.0
# Older revocations are too old: tokens are then refused, as one of them may be revoked.
REVOCATIONS_STALE_SECONDS = 10.0
# The scope's key for who sends the request: a Principal, or the ShopError that a credential caused.
PRINCIPAL = "commerce.principal"

_TOKEN = re.compile(rb"[\w-]+\.[\w-]+\.[\w-]+", re.ASCII)
# As long as OpenID Connect allows.
_SUBJECT = re.compile("[!-~]([ -~]{0,253}[!-~])?")
# Claims that only ID tokens have.
_ID_TOKEN = {"at_hash", "c_hash"}
_EMAIL = re.compile(r"[^\s@]{1,64}@[^\s@]{1,255}")

logger = logging.getLogger(__name__)


class _Refused(ValueError):
    """An access token that is not accepted; the text says why."""


class Identity:
    """Verifies credentials, and remembers for a while those that are valid. `watch` must run beside the requests."""

    def __init__(self, resources: Resources) -> None:
        self._resources = resources
        self._settings = resources.settings
        self._open_staff = resources.settings.open_staff
        self._keys = KeySet(resources.settings, resources.stripe.session)
        # By the credential's SHA-256: whose it is, and until when that is believed, in seconds since 1970.
        self._verified: dict[bytes, tuple[Principal, float]] = {}
        self._keys_version = 0
        self._revoked: dict[str, float] = {}
        self._revoked_read_at = float("-inf")
        self._reading: asyncio.Task[None] | None = None

    async def watch(self) -> None:
        """Keep the provider's keys and the revocations up to date, for as long as tokens are accepted."""
        if self._settings.auth_issuer:
            await asyncio.gather(self._keys.refresh_forever(), self._watch_revocations())

    def at_hand(self, scope: Scope) -> Principal | None:
        """Who sends a request, if nothing has to be verified for it: nobody, ADMIN_TOKEN, or who is remembered."""
        credential = _credential(scope)
        if credential is None:
            return OPEN if self._open_staff and self._is_own_address(scope) else GUEST
        self._forget_old_keys()
        principal, until = self._verified.get(hashlib.sha256(credential).digest(), (None, 0.0))
        if principal is None or time.time() >= until:
            return ADMIN if is_admin(credential, self._settings.admin_token) else None
        return None if principal.user_id and self._revocations_are_stale() else principal

    async def verify(self, scope: Scope) -> Principal:
        """Who sends a request. Raises `invalid_token`, `auth_unavailable` or `unavailable`."""
        credential = _credential(scope) or b""
        is_token = self._settings.auth_issuer and _TOKEN.fullmatch(credential)
        if is_token and self._revocations_are_stale():
            await self._read_revocations()
        if principal := self.at_hand(scope):
            return principal
        digest = hashlib.sha256(credential).digest()
        if credential.startswith(access.KEY_PREFIX.encode()):
            principal, expires_at = await self._find_key(digest)
            believed_for = access.KEY_CACHE_SECONDS
        elif is_token:
            principal, expires_at = await self._verify_token(credential.decode())
            believed_for = CACHE_SECONDS
        else:
            raise _invalid()
        self._forget_old_keys()
        if len(self._verified) >= CACHED_CREDENTIALS:
            del self._verified[next(iter(self._verified))]
        self._verified[digest] = principal, min(time.time() + believed_for, expires_at)
        return principal

    def _forget_old_keys(self) -> None:
        """Forget what the provider's former keys have verified."""
        if self._keys.version != self._keys_version:
            self._keys_version = self._keys.version
            self._verified.clear()

    async def _find_key(self, digest: bytes) -> tuple[Principal, float]:
        key = await access.find_key(self._resources.pool, digest)
        if key is None:
            raise _invalid()
        return key

    async def _verify_token(self, token: str) -> tuple[Principal, float]:
        """The person that an access token names, and when it expires, in seconds since 1970."""
        settings = self._settings
        try:
            header = jwt.get_unverified_header(token)
            kid, kind = header.get("kid"), str(header.get("typ", "")).lower().removeprefix("application/")
            # `crit` names extensions that must be understood: none are.
            if not isinstance(kid, str) or "crit" in header or kind not in map(str.lower, settings.auth_types):
                raise _Refused("kid, typ or crit")
            key = await self._keys.find(kid)
            if key is None:
                raise _Refused("unknown kid")
            claims: dict[str, Any] = jwt.decode(
                token,
                key,
                # Of the key: a token cannot choose it.
                [key.algorithm_name],
                audience=settings.auth_audience,
                issuer=settings.auth_issuer,
                leeway=settings.auth_leeway_seconds,
                options={"require": ["iss", "aud", "sub", "iat", "exp"]},
            )
            # Where AUTH_TYPES is JWT, the header of an ID token is the same.
            if claims.keys() & _ID_TOKEN or claims.get("typ") == "ID":
                raise _Refused("an ID token")
            issued_at, expires_at = float(claims["iat"]), float(claims["exp"])
            if not 0 <= expires_at - issued_at <= settings.auth_max_token_seconds:
                raise _Refused("it lives too long")
            subject = claims["sub"]
            if not _SUBJECT.fullmatch(subject) or subject == ERASED:
                raise _Refused("sub")
            if issued_at <= self._revoked.get(subject, float("-inf")):
                raise _Refused("revoked")
        except (jwt.PyJWTError, ValueError, TypeError, OverflowError, RecursionError) as error:
            # Texts of others may quote the token.
            log_soon(
                logger, "access token refused", reason=str(error) if type(error) is _Refused else type(error).__name__
            )
            raise _invalid() from None
        roles = set(_roles(claims, settings.auth_roles_claim))
        scopes = frozenset[Any]().union(*(ROLES[role] for role in roles & ROLES.keys()))
        email = claims.get("email")
        is_verified = claims.get("email_verified") is True and isinstance(email, str) and _EMAIL.fullmatch(email)
        return Principal(f"user:{subject}", scopes, subject, email if is_verified else None), expires_at

    def _revocations_are_stale(self) -> bool:
        return time.monotonic() - self._revoked_read_at > REVOCATIONS_STALE_SECONDS

    async def _read_revocations(self) -> None:
        """Read them, together with all who need them meanwhile."""
        if self._reading is None or self._reading.done():
            self._reading = asyncio.create_task(self._read_revocations_now())
        await asyncio.shield(self._reading)

    async def _read_revocations_now(self) -> None:
        started = time.monotonic()
        revoked = await access.list_revocations(self._resources)
        if revoked != self._revoked:
            self._revoked = revoked
            self._verified.clear()
        self._revoked_read_at = started

    async def _watch_revocations(self) -> None:
        while True:
            # Those who need them learn why they cannot be read.
            with suppress(ShopError, asyncpg.PostgresError):
                await self._read_revocations()
            await asyncio.sleep(REVOCATIONS_SECONDS)

    def _is_own_address(self, scope: Scope) -> bool:
        """Whether an open demo is called by its address, unless it is open to other names too.

        A page of a stranger cannot: its browser says that it is of another site, or sends the name that the stranger's
        DNS server bound to this address.
        """
        headers = scope["headers"]
        if any(name == b"sec-fetch-site" and value not in (b"same-origin", b"none") for name, value in headers):
            return False
        hosts = [value.decode("latin-1") for name, value in headers if name == b"host"]
        return self._settings.allow_open_staff or (len(hosts) == 1 and _is_address(hosts[0]))


async def identify(scope: Scope) -> Principal:
    """Who sends a request; verified once. Raises what `Identity.verify` raises."""
    principal = scope.get(PRINCIPAL)
    if principal is None:
        try:
            principal = await scope["app"].state.identity.verify(scope)
        except ShopError as error:
            principal = error
        scope[PRINCIPAL] = principal
    if isinstance(principal, ShopError):
        raise principal
    identified: Principal = principal
    return identified


def client_of(clients: Clients, scope: Scope, principal: Principal, *, whole: bool = False) -> Client | None:
    """Whose requests and orders are counted together: a user's or a key's, else those of one address.

    A storefront's key names its customer's address; without one, its requests count as the key's. None: unknown.
    """
    forwarded = principal.may("storefront")
    if forwarded and (client := clients.client(scope, whole=whole, forwarded=True)):
        return client
    if principal.user_id or principal.actor.startswith("key:"):
        return clients.named(principal.actor)
    return clients.client(scope, whole=whole)


def _credential(scope: Scope) -> bytes | None:
    """The bearer credential of a request; None without any, and empty for what cannot be one."""
    headers = [value for name, value in scope["headers"] if name == b"authorization"]
    if not any(headers):
        return None
    return (bearer(headers[0]) or b"") if len(headers) == 1 else b""


def _invalid() -> ShopError:
    return ShopError("invalid_token", "The credential in the Authorization header is not valid.")


@lru_cache(maxsize=256)
def _is_address(host: str) -> bool:
    """Whether a Host is localhost or an IP address, with or without a port."""
    try:
        name = urlsplit(f"//{host}").hostname
        return name == "localhost" or bool(ip_address(name or ""))
    except ValueError:
        return False


def _roles(claims: dict[str, Any], path: str) -> Iterator[str]:
    """The roles at a claim: a list of texts, one text, or an object whose names are roles.

    The whole path may be one claim's name, as names may contain dots.
    """
    value: Any = claims
    for name in [path] if path in claims else path.split("."):
        value = value.get(name) if isinstance(value, dict) else None
    if isinstance(value, str):
        yield value
    elif isinstance(value, list):
        yield from (role for role in value if isinstance(role, str))
    elif isinstance(value, dict):
        # An empty value or `false` gives nothing.
        yield from (role for role, granted in value.items() if granted)
