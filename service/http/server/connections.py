"""Limits for the connections of this process: idle ones, unfinished heads, and responses that are not read."""

import resource
import sys
from contextlib import suppress
from typing import Protocol

# Idle connections, in total and from one address. One takes about 7.5 kB. Under overload a connection seems idle while
# its next request waits in the kernel, so these limits are above what an honest crowd has.
MAX_IDLE = 8192
MAX_IDLE_PER_ADDRESS = 4096
# Bytes of heads that are still arriving. An honest head arrives at once, or within milliseconds.
UNFINISHED_LIMIT = 8 * 1024 * 1024
# Bytes of responses that the kernel does not take yet, because their clients do not read.
UNREAD_LIMIT = 8 * 1024 * 1024
# Open files that are kept for the pools, the listening socket and logs.
SPARE_FILES = 128


class Connection(Protocol):
    """What can be ended to make room."""

    def end(self) -> None:
        """Close it now."""


class Idle:
    """Idle connections, also those whose next head is unfinished. Beyond a limit the longest idle one is ended."""

    def __init__(self, limit: int = MAX_IDLE, limit_per_address: int = MAX_IDLE_PER_ADDRESS) -> None:
        self.limit, self.limit_per_address = limit, limit_per_address
        # Longest first.
        self._all: dict[Connection, str] = {}
        self._by_address: dict[str, dict[Connection, None]] = {}

    def add(self, connection: Connection, address: str) -> None:
        """Add a connection, and end the oldest of its address, or of all, if there are too many."""
        of_address = self._by_address.setdefault(address, {})
        of_address[connection] = None
        self._all[connection] = address
        if len(of_address) > self.limit_per_address:
            next(iter(of_address)).end()
        if len(self._all) > self.limit:
            self.end_oldest()

    def remove(self, connection: Connection) -> None:
        """Remove a connection that has a request, or is lost."""
        address = self._all.pop(connection, None)
        if address is not None:
            of_address = self._by_address[address]
            del of_address[connection]
            if not of_address:
                del self._by_address[address]

    def end_oldest(self) -> None:
        """End the connection that is idle for longest."""
        next(iter(self._all)).end()


class Bytes:
    """Bytes that connections hold. Beyond the limit the connections that hold theirs for longest are ended."""

    def __init__(self, limit: int) -> None:
        self.limit, self.used = limit, 0
        # Longest first.
        self._sizes: dict[Connection, int] = {}

    def add(self, connection: Connection, size: int) -> None:
        """Add bytes to those that a connection holds."""
        self._sizes[connection] = self._sizes.get(connection, 0) + size
        self.used += size
        while self.used > self.limit:
            next(iter(self._sizes)).end()

    def remove(self, connection: Connection) -> None:
        """Remove all bytes of a connection."""
        self.used -= self._sizes.pop(connection, 0)


def raise_file_limit() -> None:
    """Allow this process, and those that it starts, as many open files as the system does."""
    _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    # macOS takes no unlimited number.
    with suppress(ValueError):
        resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))


def max_connections() -> int:
    """How many connections may be open, so that files are left for the pools."""
    files, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    return sys.maxsize if files == resource.RLIM_INFINITY else max(1, files - SPARE_FILES)
