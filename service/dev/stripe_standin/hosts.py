"""Which Host a call may name: a page of a stranger cannot then call this server through a browser.

Such a page binds a name of its own to this machine's address, so that its browser takes both for one site. Addresses
and localhost cannot be bound.
"""

from collections.abc import Collection
from ipaddress import ip_address
from urllib.parse import urlsplit


def is_own(host: str, names: Collection[str]) -> bool:
    """Whether a Host header is an address, localhost or one of our names, with or without a port."""
    try:
        name = urlsplit(f"//{host}").hostname or ""
        return name == "localhost" or name in names or bool(ip_address(name))
    except ValueError:
        return False
