"""How rows become JSON: dataclasses by field, times in UTC as RFC 3339, ids as text."""

from typing import Any
from uuid import UUID

import orjson


def _by_text(value: Any) -> str:
    # The driver's UUIDs are a subclass, which orjson does not take for the real thing.
    if isinstance(value, UUID):
        return str(value)
    raise TypeError(type(value).__name__)


def encode(value: Any) -> bytes:
    """The JSON that goes out."""
    return orjson.dumps(value, default=_by_text, option=orjson.OPT_UTC_Z)
