"""Checks of a request's head, so that every parser reads the request as we do (RFC 9110 and RFC 9112)."""

import re

from service.errors import ShopError

Headers = list[tuple[bytes, bytes]]

# A name, an IPv4 or an IPv6 address, and a port.
_HOST = re.compile(rb"([\w.~%-]+|\[[0-9A-Fa-f:.]+\])(:[0-9]{0,5})?")
_ABSOLUTE = re.compile(rb"https?://([^/?]*)(.*)", re.IGNORECASE)
_SPACE = (b" ", b"\t")


def measure(target: bytes, headers: Headers) -> int:
    """The bytes of a head as it was sent. Removes spaces at the ends of values, which are not part of them.

    Not of a transfer coding: the parser compares it as it was sent.
    """
    size = len(target)
    for index, (name, value) in enumerate(headers):
        size += len(name) + len(value) + len(b": \r\n")
        if value.endswith(_SPACE) and name != b"transfer-encoding":
            headers[index] = name, value.rstrip(b" \t")
    return size


def check(method: bytes, target: bytes, version: str, headers: Headers) -> bytes:
    """The path and query that a request asks for. Raises `malformed`.

    A target that is a whole URL decides the Host header too (RFC 9112, section 3.2.2).
    """
    names = [name for name, _ in headers]
    hosts = names.count(b"host")
    if version not in ("1.1", "1.0"):
        raise ShopError("malformed", "This server speaks HTTP/1.1 and HTTP/1.0.")
    if hosts > 1 or (not hosts and version == "1.1"):
        raise ShopError("malformed", "A request has one Host header.")
    if hosts and not _HOST.fullmatch(headers[names.index(b"host")][1]):
        raise ShopError("malformed", "The Host header is not a host.")
    if b"transfer-encoding" in names:
        codings = [value.lower() for name, value in headers if name == b"transfer-encoding"]
        # A proxy that speaks HTTP/1.0 knows no codings, and passes the body on as it is.
        if codings != [b"chunked"] or version == "1.0":
            raise ShopError("malformed", "The only transfer coding is chunked, and HTTP/1.0 has none.")
    if b"#" in target:
        raise ShopError("malformed", "The address has a fragment.")
    if target.startswith(b"/") or (target == b"*" and method == b"OPTIONS"):
        return target
    absolute = _ABSOLUTE.fullmatch(target)
    if absolute is None or not _HOST.fullmatch(absolute[1]):
        raise ShopError("malformed", "The address is neither a path nor a URL.")
    headers[:] = [(b"host", absolute[1]), *(header for header in headers if header[0] != b"host")]
    path: bytes = absolute[2]
    return path if path.startswith(b"/") else b"/" + path
