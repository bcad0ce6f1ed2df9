"""The bearer token of staff."""

import hmac


def is_staff(authorization: str, token: str) -> bool:
    """Whether an Authorization header has this token."""
    scheme, _, credential = authorization.partition(" ")
    return scheme.lower() == "bearer" and hmac.compare_digest(credential.strip(" ").encode("latin-1"), token.encode())
