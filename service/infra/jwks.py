"""The public keys of the identity provider (RFC 7517), fetched beside the requests.

An unknown key in a token is asked for at most once a minute, so that forged tokens cost the provider little.
"""

import asyncio
import logging
import ssl
import time
from functools import cache
from typing import Any

import aiohttp
import jwt
import orjson
from cryptography.hazmat.primitives.asymmetric.rsa import RSAPublicKey

from service.errors import ShopError
from service.settings import Settings, identity_url

REFRESH_SECONDS = 300.0
# After a failed refresh; doubles up to COOLDOWN_SECONDS.
RETRY_SECONDS = 5.0
# Between two refreshes that unknown keys cause.
COOLDOWN_SECONDS = 60.0
FETCH_SECONDS = 3.0
# How long the last keys are used while the provider does not answer.
KEEP_SECONDS = 86_400.0
# Requests that wait for a refresh. Beyond them a provider that hangs would let forged tokens take all of our slots.
MAX_WAITING = 100
MAX_BYTES = 256 * 1024
RSA_BITS = 2048
# The algorithm of a key, by its type and curve: a token cannot choose another one.
_ALGORITHMS = {"EC P-256": "ES256", "OKP Ed25519": "EdDSA", "RSA None": "RS256"}

# With the system's authorities: an identity provider may have a certificate of the company's own.
_tls = cache(ssl.create_default_context)

logger = logging.getLogger(__name__)


class _Unusable(Exception):
    """The provider's answer is unusable; the text says why."""


class KeySet:
    """The provider's signing keys by their `kid`. `version` grows when they change."""

    def __init__(self, settings: Settings, session: aiohttp.ClientSession) -> None:
        self._settings = settings
        self._session = session
        self._url = settings.auth_jwks_url
        self._published: dict[str, Any] = {}
        self._keys: dict[str, jwt.PyJWK] = {}
        self._fetched_at = self._asked_at = float("-inf")
        self._failed = True
        self._waiting = 0
        self._fetch: asyncio.Task[None] | None = None
        self.version = 0

    async def find(self, kid: str) -> jwt.PyJWK | None:
        """The key with this id; None if the provider has no such key. Raises `auth_unavailable` if it may have."""
        key = self._known(kid)
        if key is None:
            await self._ask()
            key = self._known(kid)
        if key is None and self._failed:
            raise ShopError("auth_unavailable", "The identity provider does not answer.")
        return key

    async def refresh(self) -> None:
        """Fetch the keys, together with all who ask meanwhile. A failure is logged, and the last keys stay."""
        if self._fetch is None or self._fetch.done():
            self._fetch = asyncio.create_task(self._refresh())
        await asyncio.shield(self._fetch)

    async def refresh_forever(self) -> None:
        """Refresh the keys from time to time, sooner after a failure."""
        delay = RETRY_SECONDS
        while True:
            await self.refresh()
            delay = min(2 * delay, COOLDOWN_SECONDS) if self._failed else RETRY_SECONDS
            await asyncio.sleep(delay if self._failed else REFRESH_SECONDS)

    async def _ask(self) -> None:
        """Wait for a refresh that is under way, or begin one if that is allowed now."""
        if time.monotonic() - self._asked_at >= COOLDOWN_SECONDS:
            self._asked_at = time.monotonic()
        elif self._fetch is None or self._fetch.done() or self._waiting >= MAX_WAITING:
            return
        self._waiting += 1
        try:
            await self.refresh()
        finally:
            self._waiting -= 1

    def _known(self, kid: str) -> jwt.PyJWK | None:
        return self._keys.get(kid) if time.monotonic() - self._fetched_at <= KEEP_SECONDS else None

    async def _refresh(self) -> None:
        try:
            async with asyncio.timeout(FETCH_SECONDS):
                published = await self._read_keys()
        except Exception as error:
            # Whatever the provider answers, the next refresh must come.
            # The next attempt asks for the keys' address again: it may have changed.
            self._failed, self._url = True, self._settings.auth_jwks_url
            logger.warning(
                "identity provider's keys not refreshed", extra={"error": str(error) or type(error).__name__}
            )
            return
        self._failed, self._fetched_at = False, time.monotonic()
        if published != self._published:
            self._published = published
            self._keys = {
                kid: key for kid, jwk in published.items() if (key := _usable(jwk, self._settings.auth_algorithms))
            }
            self.version += 1
            level = logging.INFO if self._keys else logging.WARNING
            logger.log(level, "identity provider's keys changed", extra={"kids": sorted(self._keys)})

    async def _read_keys(self) -> dict[str, dict[str, Any]]:
        """The usable keys as they are published, by their `kid`: none, if the provider has withdrawn them all."""
        if not self._url:
            self._url = await self._find_url()
        listed = (await self._get(self._url)).get("keys")
        if not isinstance(listed, list):
            raise _Unusable(f"{self._url} did not answer a set of keys")
        return {jwk["kid"]: jwk for jwk in listed if _usable(jwk, self._settings.auth_algorithms)}

    async def _find_url(self) -> str:
        """The address of the keys, from the issuer's metadata (OpenID Connect Discovery 1.0)."""
        issuer = self._settings.auth_issuer
        metadata = await self._get(f"{issuer.rstrip('/')}/.well-known/openid-configuration")
        if metadata.get("issuer") != issuer:
            raise _Unusable("the metadata names another issuer than AUTH_ISSUER")
        try:
            return identity_url(str(metadata.get("jwks_uri")))
        except ValueError as error:
            raise _Unusable(f"the metadata's jwks_uri {error}") from None

    async def _get(self, url: str) -> dict[str, Any]:
        """A JSON object. Redirects are not followed."""
        proxy = self._settings.proxy_for(url)
        async with self._session.get(url, allow_redirects=False, ssl=_tls(), proxy=proxy) as response:
            if response.status != 200:
                raise _Unusable(f"{url} answered {response.status}")
            body = b""
            async for chunk in response.content.iter_any():
                body += chunk
                if len(body) > MAX_BYTES:
                    raise _Unusable(f"{url} answered more than {MAX_BYTES} bytes")
        try:
            document = orjson.loads(body)
        except orjson.JSONDecodeError:
            document = None
        if not isinstance(document, dict):
            raise _Unusable(f"{url} did not answer a JSON object")
        return document


def _usable(jwk: Any, allowed: tuple[str, ...]) -> jwt.PyJWK | None:
    """The key, if it verifies signatures by one of the allowed algorithms; None for anything else."""
    if not isinstance(jwk, dict):
        return None
    algorithm = _ALGORITHMS.get(f"{jwk.get('kty')} {jwk.get('crv')}")
    operations = jwk.get("key_ops", ["verify"])
    if (
        algorithm not in allowed
        or not isinstance(jwk.get("kid"), str)
        # A private key in public: everybody who has read it can sign.
        or "d" in jwk
        or jwk.get("use", "sig") != "sig"
        or not (isinstance(operations, list) and "verify" in operations)
        # RFC 9864 calls EdDSA with this curve Ed25519.
        or jwk.get("alg", algorithm) not in (algorithm, jwk.get("crv"))
    ):
        return None
    try:
        key = jwt.PyJWK(jwk, algorithm)
    except (jwt.PyJWTError, ValueError, TypeError, KeyError):
        return None
    is_weak = isinstance(key.key, RSAPublicKey) and key.key.key_size < RSA_BITS
    return None if is_weak else key
