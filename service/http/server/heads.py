"""Checks of a request's head, so that every parser reads the request as we do (RFC 9110 and RFC 9112)."""

import re
from functools import lru_cache

from service.errors import ShopError

Headers = list[tuple[bytes, bytes]]

# Bytes of a request line with its headers. uvicorn and its parser have no limit.
HEAD_LIMIT = 32 * 1024
# A name (at most 253 bytes), an IPv4 or an IPv6 address, and a port.
_HOST = re.compile(rb"([\w.~%-]+|\[[0-9A-Fa-f:.]+\])(:[0-9]{0,5})?")
_HOST_LIMIT = 260
_SPACES = (b" ", b"\t")
_ABSOLUTE = re.compile(rb"https?://([^/?]*)(.*)", re.IGNORECASE)


def too_large() -> ShopError:
    """The error for a head of more than HEAD_LIMIT bytes."""
    return ShopError("headers_too_large", f"A request line and its headers may have at most {HEAD_LIMIT} bytes.")


@lru_cache(64)
def _is_host(value: bytes) -> bool:
    """Whether it is a host and not too long; cached, as nearly all requests name the same one."""
    return len(value) < _HOST_LIMIT and _HOST.fullmatch(value) is not None


def check(method: bytes, target: bytes, version: str, headers: Headers) -> bytes:
    """The path and query that a request asks for. Raises `malformed` or `headers_too_large`.

    Changes the headers: a value loses the spaces at its end, and the host of a target that is a whole URL replaces the
    Host header (RFC 9112, section 3.2.2).
    """
    size, has_spaces = len(target), False
    for name, value in headers:
        size += len(name) + len(value) + len(b": \r\n")
        if value.endswith(_SPACES):
            has_spaces = True
    if size > HEAD_LIMIT:
        raise too_large()
    names = [name for name, _ in headers]
    hosts = names.count(b"host")
    if version not in ("1.1", "1.0"):
        raise ShopError("malformed", "This server speaks HTTP/1.1 and HTTP/1.0.")
    if hosts > 1 or (not hosts and version == "1.1"):
        raise ShopError("malformed", "A request has one Host header.")
    if b"transfer-encoding" in names:
        codings = [value.lower() for name, value in headers if name == b"transfer-encoding"]
        # A proxy that speaks HTTP/1.0 knows no codings, and passes the body on as it is.
        if codings != [b"chunked"] or version == "1.0":
            raise ShopError("malformed", "The only transfer coding is chunked, and HTTP/1.0 has none.")
    if has_spaces:
        headers[:] = [(name, value.rstrip(b" \t")) for name, value in headers]
    if hosts and not _is_host(headers[names.index(b"host")][1][:_HOST_LIMIT]):
        raise ShopError("malformed", "The Host header is not a host.")
    if b"#" in target:
        raise ShopError("malformed", "The address has a fragment.")
    if target.startswith(b"/") or (target == b"*" and method == b"OPTIONS"):
        return target
    absolute = _ABSOLUTE.fullmatch(target)
    if absolute is None or not _is_host(absolute[1][:_HOST_LIMIT]):
        raise ShopError("malformed", "The address is neither a path nor a URL.")
    headers[:] = [(b"host", absolute[1]), *(header for header in headers if header[0] != b"host")]
    path: bytes = absolute[2]
    return path if path.startswith(b"/") else b"/" + path
