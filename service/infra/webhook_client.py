"""Sends outgoing events: signed (Standard Webhooks), over kept connections, to addresses that are checked first.

A client of our own. A name is resolved here, and the connection goes to an address that was checked, so that another
answer of the resolver cannot win. Redirects, proxies, cookies and compressed answers do not exist. An event costs 40 µs
of processor time, with aiohttp 71.
"""

import asyncio
import base64
import hashlib
import hmac
import re
import socket
import ssl
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from functools import partial
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network, ip_address
from typing import cast
from urllib.parse import SplitResult, urlsplit

import httptools

from service import __version__

CONNECT_SECONDS = 5.0
# From the connection to the end of the answer.
TOTAL_SECONDS = 15.0
# An answer is read only to use its connection again.
MAX_ANSWER_BYTES = 8192
# A connection without use is closed before most servers do.
IDLE_SECONDS = 4.0
# Names that are resolved at a time, each by one thread: as many as there may be endpoints.
RESOLVING = 20

_GLOBAL6 = IPv6Network("2000::/3")
_NAT64 = IPv6Network("64:ff9b::/96")
# Tunnels to an IPv4 address in the name: 6to4, Teredo.
_TUNNELS = (IPv6Network("2002::/16"), IPv6Network("2001::/32"))
# Public by number alone: protocol assignments, relays of 6to4, and the host of a virtual machine at Azure.
_SPECIAL = tuple(map(IPv4Network, ("192.0.0.0/24", "192.88.99.0/24", "168.63.129.16/32")))
_LABEL = "[a-z0-9_]([a-z0-9_-]{0,61}[a-z0-9_])?"
_NAME = re.compile(rf"(?=.{{1,253}}$){_LABEL}(\.{_LABEL})*", re.IGNORECASE)
# What browsers and libc take for an IPv4 address in another notation: 2130706433, 0x7f.1, 0177.0.0.1.
_NUMBER = re.compile(r"(0x[0-9a-f]*|[0-9]+)", re.IGNORECASE)


class InvalidUrl(ValueError):
    """A URL that no event is sent to; the text completes the sentence `The URL …`."""


class NotSent(Exception):
    """Why an attempt has no status code, in one word."""


def is_public(address: IPv4Address | IPv6Address) -> bool:
    """Whether an address is on the internet: not private, local, shared, reserved or multicast, in no embedding."""
    if isinstance(address, IPv4Address):
        special = address.is_multicast or any(address in network for network in _SPECIAL)
        return address.is_global and not special
    if address in _NAT64:
        return is_public(IPv4Address(int(address) & 0xFFFFFFFF))
    # Embedded IPv4 addresses (::ffff:…) are outside of the global range.
    return address in _GLOBAL6 and address.is_global and not any(address in tunnel for tunnel in _TUNNELS)


def check_url(url: str, *, allow_private: bool) -> SplitResult:
    """The parts of a URL to which events may be sent. Raises InvalidUrl.

    A host that is an address has to be public, in the usual notation. A name is resolved and checked for each
    connection.
    """
    if not re.fullmatch(r"[!-~]{1,2000}", url) or "\\" in url:
        raise InvalidUrl("must be printable ASCII, at most 2,000 characters: names in other scripts as xn--…")
    try:
        split = urlsplit(url)
        port = split.port
    except ValueError as error:
        raise InvalidUrl("has a host or port that is not valid") from error
    if split.scheme != "https" and not (allow_private and split.scheme == "http"):
        raise InvalidUrl("must begin with https://")
    if "@" in split.netloc or split.fragment or port == 0:
        raise InvalidUrl("must have no user, password, fragment or port 0")
    host = split.hostname or ""
    if split.netloc.startswith("["):
        # urlsplit ignores what follows the address.
        if not re.fullmatch(r"\[[^]]*\](:[0-9]*)?", split.netloc):
            raise InvalidUrl("has a host or port that is not valid")
        try:
            address: IPv4Address | IPv6Address | None = IPv6Address(host)
        except ValueError as error:
            raise InvalidUrl("has a host or port that is not valid") from error
        if "%" in host:
            raise InvalidUrl("must name no zone of an address")
    elif not _NAME.fullmatch(host):
        raise InvalidUrl("has a host or port that is not valid")
    else:
        address = None
        if _NUMBER.fullmatch(host.rpartition(".")[2]):
            try:
                address = IPv4Address(host)
            except ValueError as error:
                raise InvalidUrl("has an address in an unusual notation") from error
    if address is not None and not allow_private and not is_public(address):
        raise InvalidUrl("must not name a private or reserved address")
    return split


def sign(secrets: list[bytes], event_id: str, timestamp: int, body: bytes) -> str:
    """The header webhook-signature: one signature for each secret."""
    signed = b"%s.%d.%s" % (event_id.encode(), timestamp, body)
    digests = (hmac.digest(secret, signed, hashlib.sha256) for secret in secrets)
    return " ".join(f"v1,{base64.b64encode(digest).decode()}" for digest in digests)


class WebhookClient:
    """Posts events. Its connections are kept by scheme, host and port."""

    def __init__(self, *, allow_private: bool) -> None:
        self._allow_private = allow_private
        self._idle: dict[tuple[str, str, int], list[_Connection]] = {}
        self._threads = ThreadPoolExecutor(RESOLVING, "resolve")
        self._resolving: dict[str, asyncio.Future[list[IPv4Address | IPv6Address]]] = {}
        self._tls = ssl.create_default_context()

    async def post(self, url: str, event_id: str, body: bytes, secrets: list[bytes]) -> int:
        """The status code of the answer. Raises NotSent."""
        try:
            split = check_url(url, allow_private=self._allow_private)
        except InvalidUrl:
            raise NotSent("url_not_allowed") from None
        host = split.hostname or ""
        key = (split.scheme, host, split.port or (443 if split.scheme == "https" else 80))
        timestamp = int(time.time())
        head = (
            f"POST {split.path or '/'}{'?' + split.query if split.query else ''} HTTP/1.1\r\n"
            f"host: {split.netloc}\r\n"
            f"user-agent: commerce-core/{__version__}\r\n"
            "content-type: application/json\r\n"
            f"content-length: {len(body)}\r\n"
            f"webhook-id: {event_id}\r\n"
            f"webhook-timestamp: {timestamp}\r\n"
            f"webhook-signature: {sign(secrets, event_id, timestamp, body)}\r\n\r\n"
        )
        request = head.encode() + body
        try:
            async with asyncio.timeout(TOTAL_SECONDS):
                if idle := self._take(key):
                    # The server may have closed it meanwhile.
                    with suppress(ConnectionError):
                        return await self._exchange(key, idle, request)
                return await self._exchange(key, await self._connect(key), request)
        except TimeoutError:
            raise NotSent("timeout") from None
        except ConnectionError:
            raise NotSent("connection_lost") from None
        except httptools.HttpParserError:
            raise NotSent("invalid_answer") from None

    def close(self) -> None:
        """Close all idle connections."""
        for connections in self._idle.values():
            for connection in connections:
                connection.close()
        self._threads.shutdown(wait=False, cancel_futures=True)

    def _take(self, key: tuple[str, str, int]) -> "_Connection | None":
        connections = self._idle.get(key, [])
        oldest = time.monotonic() - IDLE_SECONDS
        while connections:
            connection = connections.pop()
            if connection.is_open and connection.used_at > oldest:
                return connection
            connection.close()
        return None

    async def _exchange(self, key: tuple[str, str, int], connection: "_Connection", request: bytes) -> int:
        try:
            status = await connection.exchange(request)
        except BaseException:
            connection.close()
            raise
        if connection.reusable:
            self._idle.setdefault(key, []).append(connection)
        else:
            connection.close()
        return status

    async def _connect(self, key: tuple[str, str, int]) -> "_Connection":
        """A connection to the first address that answers. Raises NotSent."""
        scheme, host, port = key
        loop = asyncio.get_running_loop()
        tls, name = (self._tls, host) if scheme == "https" else (None, None)
        try:
            async with asyncio.timeout(CONNECT_SECONDS):
                for address in await self._resolve(host):
                    try:
                        # An address: it is not resolved again.
                        _, connection = await loop.create_connection(
                            _Connection, str(address), port, ssl=tls, server_hostname=name
                        )
                        return connection
                    except ssl.SSLError:
                        raise NotSent("tls_failed") from None
                    except OSError:
                        continue
        except TimeoutError:
            raise NotSent("connect_timeout") from None
        raise NotSent("connection_refused")

    async def _resolve(self, host: str) -> list[IPv4Address | IPv6Address]:
        """The allowed addresses of a host, IPv4 first. Raises NotSent."""
        # All that wait for a name share its thread: one without an answer would take the threads of the others.
        if (resolving := self._resolving.get(host)) is None:
            resolving = asyncio.get_running_loop().run_in_executor(self._threads, _addresses, host)
            self._resolving[host] = resolving
            resolving.add_done_callback(partial(self._resolved, host))
        try:
            resolved = await asyncio.shield(resolving)
        except OSError:
            raise NotSent("name_not_found") from None
        allowed = [address for address in resolved if self._allow_private or is_public(address)]
        if not allowed:
            raise NotSent("address_not_allowed")
        return sorted(dict.fromkeys(allowed), key=lambda address: address.version)

    def _resolved(self, host: str, resolving: asyncio.Future[list[IPv4Address | IPv6Address]]) -> None:
        del self._resolving[host]
        if not resolving.cancelled():
            # Nobody may be waiting for it any more.
            resolving.exception()


def _addresses(host: str) -> list[IPv4Address | IPv6Address]:
    # Without the zone of a link-local address, which is not public in any case.
    return [
        ip_address(str(resolved[4][0]).partition("%")[0])
        for resolved in socket.getaddrinfo(host, None, type=socket.SOCK_STREAM)
    ]


class _Connection(asyncio.Protocol):
    """One connection to a receiver, for one request at a time."""

    def __init__(self) -> None:
        self.used_at = time.monotonic()
        self.is_open = self.reusable = True
        self._transport: asyncio.Transport
        self._answer: asyncio.Future[int] | None = None
        self._parser: httptools.HttpResponseParser
        self._bytes, self._has_head = 0, False

    async def exchange(self, request: bytes) -> int:
        """The status code that answers. Raises ConnectionError and HttpParserError."""
        self._answer = asyncio.get_running_loop().create_future()
        self._parser, self._bytes, self._has_head = httptools.HttpResponseParser(self), 0, False
        if not self.is_open:
            raise ConnectionResetError
        self._transport.write(request)
        try:
            return await self._answer
        finally:
            self._answer, self.used_at = None, time.monotonic()

    def close(self) -> None:
        self.is_open = False
        self._transport.abort()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        # uvloop's transports are none of asyncio's class.
        self._transport = cast(asyncio.Transport, transport)

    def connection_lost(self, error: Exception | None) -> None:
        self.is_open = False
        if self._has_head:
            # Without a length, this is the end of the answer.
            self._finish(reusable=False)
        self._fail(ConnectionResetError())

    def data_received(self, data: bytes) -> None:
        if self._answer is None:
            # Nothing was asked.
            self.close()
            return
        self._bytes += len(data)
        try:
            self._parser.feed_data(data)
        except httptools.HttpParserError as error:
            self._fail(error)
            return
        except httptools.HttpParserUpgrade:
            self._fail(httptools.HttpParserError("upgrade"))
            return
        if self._bytes > MAX_ANSWER_BYTES and not self._answer.done():
            self._finish(reusable=False)

    def on_headers_complete(self) -> None:
        self._has_head = True

    def on_message_complete(self) -> None:
        # An interim answer (1xx) is followed by the one that counts.
        if self._parser.get_status_code() >= 200:
            self._finish(reusable=self._parser.should_keep_alive())

    def _finish(self, *, reusable: bool) -> None:
        status = self._parser.get_status_code()
        if status < 200:
            self._fail(httptools.HttpParserError("too long"))
        elif self._answer is not None and not self._answer.done():
            self.reusable = reusable
            self._answer.set_result(status)

    def _fail(self, error: Exception) -> None:
        if self._answer is not None and not self._answer.done():
            self._answer.set_exception(error)
