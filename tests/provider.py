"""An identity provider for tests: its keys over HTTP, and access tokens signed with them."""

import asyncio
import time
from collections import Counter
from typing import Any

import jwt
import orjson
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa
from starlette.types import Receive, Scope, Send

AUDIENCE = "commerce-core"

# Slow to make, and the same for all tests.
RSA = rsa.generate_private_key(65537, 2048)
KEYS: dict[str, tuple[str, Any]] = {
    "one": ("ES256", ec.generate_private_key(ec.SECP256R1())),
    "two": ("ES256", ec.generate_private_key(ec.SECP256R1())),
    "ed": ("EdDSA", ed25519.Ed25519PrivateKey.generate()),
    "rsa": ("RS256", RSA),
}


def public_jwk(kid: str, algorithm: str, key: Any) -> dict[str, Any]:
    """The public part of a key, as a provider publishes it."""
    jwk = jwt.get_algorithm_by_name(algorithm).to_jwk(key.public_key(), as_dict=True)
    return {**jwk, "kid": kid, "alg": algorithm, "use": "sig"}


class Provider:
    """`published` are the keys that it publishes now; `requests` counts the requests by path."""

    url = ""

    def __init__(self) -> None:
        self.published = [public_jwk(kid, *KEYS[kid]) for kid in ("one", "ed", "rsa")]
        self.requests: Counter[str] = Counter()
        self.status = 200
        # Cleared: it does not answer.
        self.hanging = asyncio.Event()
        self.hanging.set()
        # What it answers instead of its documents.
        self.documents: dict[str, Any] = {}

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """ASGI: the metadata and the keys."""
        if scope["type"] != "http":
            return
        path = scope["path"]
        self.requests[path] += 1
        documents = {
            "/.well-known/openid-configuration": {"issuer": self.url, "jwks_uri": f"{self.url}/keys"},
            "/keys": {"keys": self.published},
            **self.documents,
        }
        await self.hanging.wait()
        await send({"type": "http.response.start", "status": self.status, "headers": []})
        await send({"type": "http.response.body", "body": orjson.dumps(documents[path])})

    def claims(self, sub: Any = "anna", *roles: str, **changed: Any) -> dict[str, Any]:
        """The claims of an access token; a claim that is changed to None is left out."""
        now = int(time.time())
        claims = {
            "iss": self.url,
            "aud": AUDIENCE,
            "sub": sub,
            "iat": now,
            "exp": now + 300,
            "jti": f"{time.time_ns()}",
            "client_id": "shop",
            "roles": list(roles),
        }
        return {name: value for name, value in {**claims, **changed}.items() if value is not None}

    def sign(self, claims: dict[str, Any], kid: str = "one", **header: Any) -> str:
        """A token; a member of the header that is None is left out."""
        algorithm, key = KEYS[kid]
        members = {"typ": "at+jwt", "kid": kid, **header}
        # PyJWT would add `typ` by itself.
        kept = {"typ": None} | {name: value for name, value in members.items() if value is not None}
        return jwt.encode(claims, key, algorithm, kept)

    def token(self, sub: str = "anna", *roles: str, kid: str = "one", **changed: Any) -> str:
        """An access token of a person with these roles."""
        return self.sign(self.claims(sub, *roles, **changed), kid)


def bearer(token: str) -> dict[str, str]:
    """The headers that send a credential."""
    return {"Authorization": f"Bearer {token}"}
