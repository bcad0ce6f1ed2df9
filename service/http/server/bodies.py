"""Limits for request bodies that are still arriving: their number, their time, and the bytes of webhooks."""

import asyncio
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from starlette.types import Message, Receive

from service.errors import ShopError

# The ASGI extension with which `server/protocol.py` marks a request whose body is complete.
COMPLETE = "commerce.complete"
# Bodies that may be arriving, in total and from one client. An honest body arrives within milliseconds. A silent one
# takes 20 kB and no time. Refusing it takes 0.5 ms, and its client connects again.
MAX_BODIES = 2048
MAX_BODIES_PER_CLIENT = 1024
# Bytes of these bodies. They are above those of the webhooks, which have a budget of their own.
ARRIVING_LIMIT = 24 * 1024 * 1024
ARRIVING_LIMIT_PER_CLIENT = 6 * 1024 * 1024
PENALTY_SECONDS = 10.0
# A flooding connection is ignored for this long before it is closed, because its client would connect again at once.
LINGER_SECONDS = 2.0
# At most so many wait for that. Each can hold a segment that has arrived, up to 64 KiB.
MAX_LINGERING = 256

Client = bytes | None


class Arrival:
    """A body that is arriving."""

    def __init__(self, client: Client, deadline: float) -> None:
        self.client = client
        self.size = 0
        # Whether it was refused in favour of a newer one.
        self.refused = False
        self._deadline = deadline
        # Code and detail. An error that was raised would keep the body, by its traceback.
        self._refusal = "request_timeout", "The body did not arrive in time."
        self._timeout: asyncio.Timeout | None = None

    async def receive(self, receive: Receive) -> Message:
        """The next part of the body. Raises `request_timeout`, or the error that `refuse` got."""
        try:
            async with asyncio.timeout_at(self._deadline) as self._timeout:
                return await receive()
        except TimeoutError:
            raise ShopError(*self._refusal) from None
        finally:
            self._timeout = None

    def refuse(self, code: str, detail: str) -> None:
        """Stop waiting: `receive` raises this error."""
        self.refused = True
        self._refusal, self._deadline = (code, detail), 0
        if self._timeout is not None:
            self._timeout.reschedule(0)


class Arrivals:
    """All bodies that are arriving. A new body takes the place of the oldest, because honest ones arrive soon."""

    def __init__(self, limit: int = MAX_BODIES, limit_per_client: int = MAX_BODIES_PER_CLIENT) -> None:
        self.limit, self.limit_per_client = limit, limit_per_client
        self.size = 0
        self._oldest_first: dict[Arrival, None] = {}
        # The bodies of each client, and their bytes; to count them for each new body would take long.
        self._by_client: Counter[Client] = Counter()
        self._sizes: Counter[Client] = Counter()

    def begin(self, client: Client, deadline: float) -> Arrival:
        """Add a body, and refuse the oldest if there are too many."""
        if self._by_client[client] >= self.limit_per_client:
            self._refuse_oldest_of(client)
        elif len(self._oldest_first) >= self.limit:
            self._refuse_oldest()
        arrival = Arrival(client, deadline)
        self._oldest_first[arrival] = None
        self._by_client[client] += 1
        return arrival

    def grow(self, arrival: Arrival, size: int) -> None:
        """Add bytes that have arrived, and refuse the oldest bodies if there are too many bytes."""
        if arrival.refused:
            return
        arrival.size += size
        self.size += size
        self._sizes[arrival.client] += size
        while self._sizes[arrival.client] > ARRIVING_LIMIT_PER_CLIENT:
            self._refuse_oldest_of(arrival.client)
        while self.size > ARRIVING_LIMIT:
            self._refuse_oldest()

    def end(self, arrival: Arrival) -> None:
        """Remove a body that is complete, refused, or no longer read."""
        if arrival in self._oldest_first:
            del self._oldest_first[arrival]
            _subtract(self._by_client, arrival.client, 1)
            _subtract(self._sizes, arrival.client, arrival.size)
            self.size -= arrival.size

    def _refuse_oldest_of(self, client: Client) -> None:
        oldest = next(arrival for arrival in self._oldest_first if arrival.client == client)
        self.end(oldest)
        oldest.refuse("rate_limited", "Too many bodies from this client are arriving.")

    def _refuse_oldest(self) -> None:
        oldest = next(iter(self._oldest_first))
        self.end(oldest)
        oldest.refuse("busy", "Too many request bodies are arriving; try again.")


class ByteBudget:
    """Memory for the bodies of unverified clients: a limit in bytes in total, and one for each client.

    After a body that did not verify, its bytes stay charged to its client for PENALTY_SECONDS: reading costs time too.
    """

    def __init__(self, limit: int, limit_per_client: int) -> None:
        self.limit, self.limit_per_client = limit, limit_per_client
        self.used = 0
        self._by_client: Counter[Client] = Counter()

    @contextmanager
    def account(self, client: Client) -> Iterator[Callable[[int], None]]:
        """A function that charges bytes to a client until the block ends. It raises `busy` beyond the limits."""
        taken, penalty = 0, 0.0

        def take(size: int) -> None:
            nonlocal taken
            if self.used + size > self.limit or self._by_client[client] + size > self.limit_per_client:
                raise ShopError("busy", "Too many webhooks are arriving; send it again later.")
            self.used += size
            self._by_client[client] += size
            taken += size

        try:
            yield take
        except ShopError as error:
            penalty = PENALTY_SECONDS if error.code == "invalid_signature" else 0.0
            raise
        finally:
            self.used -= taken
            asyncio.get_running_loop().call_later(penalty, _subtract, self._by_client, client, taken)


def _subtract(counts: Counter[Client], client: Client, number: int) -> None:
    """Subtract, and remove a client whose count is zero."""
    counts[client] -= number
    if not counts[client]:
        del counts[client]
