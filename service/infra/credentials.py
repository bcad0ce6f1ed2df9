"""Bearer credentials (RFC 6750)."""

import hmac

MAX_BYTES = 8192


def bearer(authorization: bytes) -> bytes | None:
    """The credential of an Authorization header; None if it has another scheme, or is longer than any credential."""
    scheme, _, credential = authorization.partition(b" ")
    credential = credential.strip(b" ")
    return credential if scheme.lower() == b"bearer" and len(credential) <= MAX_BYTES else None


def is_admin(credential: bytes, admin_token: str) -> bool:
    """Whether it is the ADMIN_TOKEN, if there is one."""
    return bool(admin_token) and hmac.compare_digest(credential, admin_token.encode())
