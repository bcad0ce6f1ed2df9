"""Rows as JSON: dataclasses by field, times in UTC as RFC 3339, ids as text."""

from typing import Any
from uuid import UUID

import orjson


def _uuid_text(value: Any) -> str:
    # orjson does not know the driver's subclass of UUID.
    if isinstance(value, UUID):
        return str(value)
    raise TypeError(type(value).__name__)


def encode(value: Any) -> bytes:
    """The JSON of a row, or of a value that contains rows."""
    return orjson.dumps(value, default=_uuid_text, option=orjson.OPT_UTC_Z)
