"""Credentials in an Authorization header."""

import hmac


def is_staff(authorization: str, token: str) -> bool:
    """Whether an Authorization header brings this token."""
    scheme, _, credential = authorization.partition(" ")
    return scheme.lower() == "bearer" and hmac.compare_digest(credential.strip(" ").encode("latin-1"), token.encode())
