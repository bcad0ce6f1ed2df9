"""The addresses of clients, also of those behind proxies that we trust."""

import hmac
import logging
import time
from dataclasses import dataclass
from ipaddress import IPv4Address, IPv6Address, IPv6Network, ip_address, ip_network

from starlette.types import Scope

from service.settings import Settings

WARNING_SECONDS = 3600.0

logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Client:
    """A client whose pending orders are limited: its digest, and that of its /48 if its address is IPv6."""

    digest: bytes
    network: bytes | None


class Clients:
    """Identifies clients, so that they can be counted: by IPv4 address, or by the /64 of an IPv6 address."""

    def __init__(self, settings: Settings) -> None:
        self._trusted = [ip_network(proxy) for proxy in settings.trusted_proxies or ()]
        # Keyed: an unkeyed hash of an IPv4 address can be brute-forced.
        self._secret = settings.stripe_api_key.encode()
        self._warn_at = 0.0

    def digest(self, scope: Scope, *, whole: bool = False) -> bytes | None:
        """16 bytes that stand for the client, or for its `whole` address; None when its address is unknown."""
        address = self.address(scope, whole=whole)
        return None if address is None else self._digest(address)

    def named(self, name: str) -> Client:
        """A client that is known by a name, wherever it sends from."""
        return Client(self._digest(name), None)

    def client(self, scope: Scope, *, whole: bool = False, forwarded: bool = False) -> Client | None:
        """The client with its network; None when its address is unknown. The parameters are those of `address`."""
        address = self.address(scope, whole=whole, forwarded=forwarded)
        if address is None:
            return None
        network = IPv6Network(f"{address.partition('/')[0]}/48", strict=False) if ":" in address else None
        return Client(self._digest(address), self._digest(str(network)) if network else None)

    def _digest(self, address: str) -> bytes:
        return hmac.digest(self._secret, address.encode(), "sha256")[:16]

    def address(self, scope: Scope, *, whole: bool = False, forwarded: bool = False) -> str | None:
        """The nearest hop that is not a trusted proxy. X-Forwarded-For counts as far as trusted proxies wrote it.

        If `forwarded`, that hop is believed too, and the address is the one that it names, or None if it names none. An
        IPv6 address is reduced to its /64, unless `whole`. A peer without an address is a Unix socket: a proxy on this
        machine, which is trusted.
        """
        peer = scope.get("client")
        address = _parse(peer[0]) if peer else None
        if peer and address is None:
            return None
        hops = [
            hop
            for name, value in scope["headers"]
            if name == b"x-forwarded-for"
            for hop in value.decode("latin-1").split(",")
        ]
        named = bool(hops)
        if named and address is not None and not (forwarded or self._trusts(address)):
            self._warn(address)
        while hops and (address is None or self._trusts(address)):
            previous = _parse(hops.pop())
            if previous is None:
                break
            address = previous
        if forwarded and (hops or not named):
            address = _parse(hops.pop()) if hops else None
        if isinstance(address, IPv6Address) and not whole:
            return str(IPv6Network((int(address), 64), strict=False))
        return None if address is None else str(address)

    def _trusts(self, address: IPv4Address | IPv6Address) -> bool:
        return any(address in network for network in self._trusted)

    def _warn(self, peer: IPv4Address | IPv6Address) -> None:
        """Warn once an hour that a hop is not believed: it may be a proxy that TRUSTED_PROXIES lacks."""
        if time.monotonic() < self._warn_at:
            return
        self._warn_at = time.monotonic() + WARNING_SECONDS
        # A public address may be a customer's, who forges the header.
        logger.warning("x-forwarded-for is ignored", extra={"peer": str(peer) if peer.is_private else "public"})


def _parse(hop: str) -> IPv4Address | IPv6Address | None:
    """An address as proxies write it, with or without a port; None for other text."""
    hop = hop.strip()
    if hop.startswith("["):
        hop = hop[1:].partition("]")[0]
    elif hop.count(":") == 1:
        hop = hop.partition(":")[0]
    try:
        address = ip_address(hop)
    except ValueError:
        return None
    mapped = address.ipv4_mapped if isinstance(address, IPv6Address) else None
    return mapped or address
