"""A transport that sends the parts of a response together."""

from asyncio import AbstractEventLoop, Transport
from typing import Any


class CoalescingTransport:
    """Sends all writes of one iteration of the event loop by one system call: the head and body of a response."""

    def __init__(self, transport: Transport, loop: AbstractEventLoop) -> None:
        self._transport = transport
        self._loop = loop
        self._pending: list[bytes] = []

    def __getattr__(self, name: str) -> Any:
        return getattr(self._transport, name)

    def write(self, data: bytes) -> None:
        """Send `data` before the event loop waits again."""
        if not self._pending:
            self._loop.call_soon(self._flush)
        self._pending.append(data)

    def close(self) -> None:
        """Send what is pending, and close the connection."""
        self._flush()
        self._transport.close()

    def _flush(self) -> None:
        # uvloop raises if the client has disconnected. It reports that to the protocol by itself.
        if self._pending and not self._transport.is_closing():
            self._transport.write(b"".join(self._pending))
        self._pending.clear()
