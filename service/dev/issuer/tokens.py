"""The development issuer's key, its demo users, and the tokens that it signs."""

import hashlib
import json
import secrets
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jwt
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat, load_pem_private_key
from jwt.algorithms import ECAlgorithm
from jwt.utils import base64url_encode

from service.dev.processes import CannotRun
from service.dev.servers import kept_port, stored_secret
from service.settings import TEST_KEYS, UnsafeSettings

AUDIENCE = "commerce-core"
TOKEN_SECONDS = 3600
PORT = 15556
# In the folder of `make run`.
KEY_FILE, PORT_FILE = "issuer_key.pem", "issuer_port"


@dataclass(slots=True, frozen=True)
class User:
    """A person who signs in: staff with roles, or a customer without; `email` may be empty."""

    sub: str
    roles: tuple[str, ...] = ()
    email: str = ""
    email_verified: bool = True


def _demo_user(sub: str, *roles: str, email_verified: bool = True) -> User:
    return User(sub, roles, f"{sub}@example.com", email_verified)


CUSTOMERS = (_demo_user("kim"), _demo_user("lee", email_verified=False))
STAFF = (
    _demo_user("vera", "viewer"),
    _demo_user("carl", "catalogue"),
    _demo_user("anna", "support"),
    _demo_user("rita", "refunds"),
    _demo_user("ada", "admin"),
)


class Issuer:
    """Signs tokens with its key; `url` is its name in them and its address."""

    def __init__(self, url: str, private_key: str) -> None:
        key = load_pem_private_key(private_key.encode(), None)
        assert isinstance(key, ec.EllipticCurvePrivateKey)
        self.url = url
        self._key = key
        # RFC 7638: the key's own digest is its id.
        public = ECAlgorithm.to_jwk(key.public_key(), as_dict=True)
        text = json.dumps(public, sort_keys=True, separators=(",", ":"))
        self._kid = base64url_encode(hashlib.sha256(text.encode()).digest()).decode()
        self.key_set = {"keys": [{**public, "kid": self._kid, "alg": "ES256", "use": "sig"}]}

    def access_token(self, user: User, client_id: str, seconds: int = TOKEN_SECONDS) -> str:
        """An access token in the form of RFC 9068."""
        claims = {"aud": AUDIENCE, "client_id": client_id, "jti": secrets.token_hex(16), "roles": user.roles}
        return self._sign("at+jwt", user, seconds, claims)

    def id_token(self, user: User, client_id: str, nonce: str) -> str:
        """An ID token of OpenID Connect: it tells the client who signed in, and is no permission."""
        return self._sign("JWT", user, TOKEN_SECONDS, {"aud": client_id, **({"nonce": nonce} if nonce else {})})

    def _sign(self, kind: str, user: User, seconds: int, claims: Mapping[str, Any]) -> str:
        now = int(time.time())
        email = {"email": user.email, "email_verified": user.email_verified} if user.email else {}
        claims = {"iss": self.url, "sub": user.sub, "iat": now, "exp": now + seconds, **email, **claims}
        return jwt.encode(claims, self._key, "ES256", {"typ": kind, "kid": self._kid})


def make_key() -> str:
    """A new private key for ES256, as PEM."""
    key = ec.generate_private_key(ec.SECP256R1())
    return key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()).decode()


def issuer_port(folder: Path) -> int:
    """The port of the first start; tokens name it. Raises CannotRun when it is taken now."""
    return kept_port(folder / PORT_FILE, PORT)


def issuer_url(port: int) -> str:
    return f"http://127.0.0.1:{port}"


def open_issuer(folder: Path, port: int) -> Issuer:
    """The issuer of this folder; its key is made the first time."""
    return Issuer(issuer_url(port), stored_secret(folder / KEY_FILE, make_key))


def stored_issuer(folder: Path) -> Issuer:
    """The issuer that `make run` has made in this folder. Raises CannotRun when there is none."""
    if not (folder / KEY_FILE).exists():
        raise CannotRun(
            f"There is no {folder / KEY_FILE}: `make run` makes the key at its first start in this folder, "
            "unless ADMIN_TOKEN or AUTH_ISSUER is set."
        )
    return open_issuer(folder, int((folder / PORT_FILE).read_text()))


def refuse_live_key(environ: Mapping[str, str]) -> None:
    """Raise UnsafeSettings with a live Stripe key: tokens without a password must not guard real money."""
    if not environ.get("STRIPE_API_KEY", TEST_KEYS[0]).startswith(TEST_KEYS):
        raise UnsafeSettings("STRIPE_API_KEY is not a test key, and the development issuer is for tests only.")
