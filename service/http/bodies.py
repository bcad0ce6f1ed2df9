"""Request bodies that are still arriving: how many, for how long, and how many bytes of webhooks."""

import asyncio
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from starlette.types import Message, Receive

from service.errors import ShopError

# The ASGI extension by which `protocol.py` marks a request that has arrived whole.
COMPLETE = "commerce.complete"
# Bodies that may be arriving, in all and from one client. A usual one arrives within milliseconds. One that does not
# come takes 20 kB and no time; to refuse it takes 0.5 ms, and its client comes again.
MOST_BODIES = 2048
MOST_BODIES_PER_CLIENT = 1024
PENALTY_SECONDS = 10.0
# How long a flooding connection is ignored before it is closed: closed at once, it would only come again at once.
LINGER_SECONDS = 2.0

Client = bytes | None


class Arrival:
    """A body that is arriving."""

    def __init__(self, client: Client, deadline: float) -> None:
        self.client = client
        # Whether it had to make room for another one.
        self.refused = False
        self._deadline = deadline
        self._refusal = ShopError("request_timeout", "The body did not come in time.")
        self._timeout: asyncio.Timeout | None = None

    async def receive(self, receive: Receive) -> Message:
        """The next part of it. Raises `request_timeout`, or what `refuse` was given."""
        try:
            async with asyncio.timeout_at(self._deadline) as self._timeout:
                return await receive()
        except TimeoutError:
            raise self._refusal from None
        finally:
            self._timeout = None

    def refuse(self, error: ShopError) -> None:
        """Wait for it no longer."""
        self.refused = True
        self._refusal, self._deadline = error, 0
        if self._timeout is not None:
            self._timeout.reschedule(0)


class Arrivals:
    """All bodies that are arriving. The oldest makes room for a new one, because an honest one arrives soon."""

    def __init__(self, most: int = MOST_BODIES, most_per_client: int = MOST_BODIES_PER_CLIENT) -> None:
        self.most, self.most_per_client = most, most_per_client
        self._oldest_first: dict[Arrival, None] = {}
        # Counted, or each new body would look through all of them.
        self._by_client: Counter[Client] = Counter()

    def begin(self, client: Client, deadline: float) -> Arrival:
        """Count one more, and refuse the oldest where there are too many."""
        if self._by_client[client] >= self.most_per_client:
            oldest = next(arrival for arrival in self._oldest_first if arrival.client == client)
            self._refuse(oldest, ShopError("rate_limited", "Too many requests of this client have sent no body."))
        elif len(self._oldest_first) >= self.most:
            self._refuse(next(iter(self._oldest_first)), ShopError("busy", "Too many bodies at once; try again."))
        arrival = Arrival(client, deadline)
        self._oldest_first[arrival] = None
        self._by_client[client] += 1
        return arrival

    def end(self, arrival: Arrival) -> None:
        """Count it no longer: it is complete, refused, or not read to its end."""
        if arrival in self._oldest_first:
            del self._oldest_first[arrival]
            _subtract(self._by_client, arrival.client, 1)

    def _refuse(self, arrival: Arrival, error: ShopError) -> None:
        self.end(arrival)
        arrival.refuse(error)


class ByteBudget:
    """Memory for the bodies of strangers: so many bytes in all, so many for one client.

    A client whose body did not verify gets its part back only PENALTY_SECONDS later: reading costs time too.
    """

    def __init__(self, most: int, most_per_client: int) -> None:
        self.most, self.most_per_client = most, most_per_client
        self.used = 0
        self._by_client: Counter[Client] = Counter()

    @contextmanager
    def account(self, client: Client) -> Iterator[Callable[[int], None]]:
        """A function that takes bytes, until the block ends. It raises `busy` beyond the budget."""
        taken, penalty = 0, 0.0

        def take(size: int) -> None:
            nonlocal taken
            if self.used + size > self.most or self._by_client[client] + size > self.most_per_client:
                raise ShopError("busy", "Too many bytes of webhooks at once; deliver it again later.")
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
    """Subtract, and forget a client of whom nothing is left."""
    counts[client] -= number
    if not counts[client]:
        del counts[client]
