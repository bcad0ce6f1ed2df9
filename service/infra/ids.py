"""The ids of carts, orders, payments and refunds: UUIDs of version 7, which are capabilities and sort by time.

CPython's and PostgreSQL's own version 7 replace random bits by a counter, so a neighbour's id would be easier to guess.
"""

import os
import time
from uuid import UUID


def new_id() -> UUID:
    """A UUID of version 7 (RFC 9562): 48 bits of Unix milliseconds and 74 random bits."""
    milliseconds = time.time_ns() // 1_000_000
    random = int.from_bytes(os.urandom(10), "big")
    high, low = random >> 68, random & ((1 << 62) - 1)
    return UUID(int=milliseconds << 80 | 0x7 << 76 | high << 64 | 0b10 << 62 | low)
