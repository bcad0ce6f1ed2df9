"""Stripe's request parameters: decoding, and validation with Stripe's error messages."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any
from urllib.parse import parse_qsl

from .replies import ApiError
from .store import Json

BRACKETS = re.compile(r"\[([^\]]*)\]")


def form_values(encoded: str) -> Json:
    """`a[b][0][c]=v` as {"a": {"b": {"0": {"c": "v"}}}}; a list becomes a dictionary keyed by position."""
    values: Json = {}
    for name, value in parse_qsl(encoded, keep_blank_values=True):
        first, _, rest = name.partition("[")
        keys = [first, *BRACKETS.findall("[" + rest)] if rest else [first]
        level = values
        for key in keys[:-1]:
            nested = level.setdefault(key, {})
            if not isinstance(nested, dict):
                raise ApiError(400, f"Invalid object: {name}", param=first)
            level = nested
        # `types[]=a&types[]=b`: each value takes the next position.
        level[keys[-1] or str(len(level))] = value
    return values


class Parameters:
    """Decoded parameters of one level. Each reader raises ApiError 400, which names the parameter by its path."""

    def __init__(self, values: Json, path: str = "") -> None:
        self._values = values
        self._path = path

    def name(self, key: str) -> str:
        return f"{self._path}[{key}]" if self._path else key

    def __contains__(self, key: str) -> bool:
        return key in self._values

    def nests(self, key: str) -> bool:
        return isinstance(self._values.get(key), dict)

    def expect(self, *, required: Sequence[str] = (), optional: Sequence[str] = ()) -> None:
        if "expand" in self._values:
            raise ApiError(400, "This stand-in for Stripe does not expand objects.", param="expand")
        unknown = [self.name(key) for key in self._values if key not in required and key not in optional]
        if unknown:
            plural = "s" if len(unknown) > 1 else ""
            message = f"Received unknown parameter{plural}: {', '.join(unknown)}"
            raise ApiError(400, message, code="parameter_unknown", param=unknown[0])
        for key in required:
            if key not in self._values:
                raise self.missing(key)

    def missing(self, key: str) -> ApiError:
        name = self.name(key)
        return ApiError(400, f"Missing required param: {name}.", code="parameter_missing", param=name)

    def text(self, key: str, *, most: int = 5000) -> str | None:
        """A non-empty string of at most `most` characters, or None when absent."""
        value = self._values.get(key)
        name = self.name(key)
        if value is None:
            return None
        if not isinstance(value, str):
            raise ApiError(400, f"Invalid string: {name}", param=name)
        if not value:
            message = (
                f"You passed an empty string for '{name}'. We assume empty values are an attempt to unset a"
                f" parameter; however '{name}' cannot be unset. You should remove '{name}' from your request"
                " or supply a non-empty value."
            )
            raise ApiError(400, message, code="parameter_invalid_empty", param=name)
        if len(value) > most:
            raise ApiError(
                400,
                f"Invalid string: {value[:8]}…{value[-8:]}; must be at most {most} characters",
                param=name,
            )
        return value

    def required_text(self, key: str, *, most: int = 5000) -> str:
        value = self.text(key, most=most)
        if value is None:
            raise self.missing(key)
        return value

    def url(self, key: str) -> str | None:
        value = self.text(key)
        if value is not None and not re.match(r"https?://[^/\s]+", value):
            raise ApiError(400, "Not a valid URL", code="url_invalid", param=self.name(key))
        return value

    def integer(self, key: str, *, least: int, most: int) -> int | None:
        """A whole number within the bounds, or None when absent."""
        value = self.text(key)
        name = self.name(key)
        if value is None:
            return None
        if not re.fullmatch(r"[+-]?[0-9]{1,18}", value):
            raise ApiError(400, f"Invalid integer: {value}", code="parameter_invalid_integer", param=name)
        number = int(value)
        if not least <= number <= most:
            bound = f"greater than or equal to {least}" if number < least else f"less than or equal to {most}"
            raise ApiError(400, f"This value must be {bound}.", code="parameter_invalid_integer", param=name)
        return number

    def required_integer(self, key: str, *, least: int, most: int) -> int:
        value = self.integer(key, least=least, most=most)
        if value is None:
            raise self.missing(key)
        return value

    def choice(self, key: str, allowed: Sequence[str]) -> str | None:
        value = self.text(key)
        if value is not None and value not in allowed:
            raise ApiError(400, f"Invalid {key}: must be one of {', '.join(allowed)}", param=self.name(key))
        return value

    def choices(self, key: str, allowed: Sequence[str]) -> list[str]:
        """A list of these values."""
        for name, value in self._list(key):
            if value not in allowed:
                raise ApiError(400, f"Invalid {name}: must be one of {', '.join(allowed)}", param=name)
        return self.texts(key)

    def boolean(self, key: str) -> bool | None:
        value = self.text(key)
        if value not in (None, "true", "false"):
            raise ApiError(400, f"Invalid boolean: {value}", param=self.name(key))
        return None if value is None else value == "true"

    def section(self, key: str) -> Parameters:
        """The parameters nested under `key`, empty when it is absent."""
        value = self._values.get(key, {})
        if not isinstance(value, dict):
            raise ApiError(400, "Invalid object", param=self.name(key))
        return Parameters(value, self.name(key))

    def _list(self, key: str) -> list[tuple[str, Any]]:
        value = self._values.get(key, {})
        name = self.name(key)
        if not isinstance(value, dict) or not all(position.isascii() and position.isdigit() for position in value):
            raise ApiError(400, "Invalid array", param=name)
        return [(f"{name}[{position}]", value[position]) for position in sorted(value, key=int)]

    def sections(self, key: str) -> list[Parameters]:
        entries = self._list(key)
        for name, value in entries:
            if not isinstance(value, dict):
                raise ApiError(400, "Invalid object", param=name)
        return [Parameters(value, name) for name, value in entries]

    def texts(self, key: str) -> list[str]:
        entries = self._list(key)
        for name, value in entries:
            if not isinstance(value, str):
                raise ApiError(400, "Invalid string", param=name)
        return [value for _, value in entries]

    def metadata(self, key: str = "metadata") -> dict[str, str]:
        """At most 50 keys of 40 characters with values of 500; an empty value unsets its key."""
        name = self.name(key)
        metadata: dict[str, str] = {}
        if self._values.get(key) == "":
            return metadata
        for entry, value in self.section(key)._values.items():
            if not isinstance(value, str):
                raise ApiError(400, f"Metadata values must be strings, but {name}[{entry}] is not one.", param=name)
            for noun, text, most in (("keys", entry, 40), ("values", value, 500)):
                if len(text) > most:
                    message = f"Metadata {noun} can have up to {most} characters, but you passed in {len(text)}."
                    raise ApiError(400, message, param=f"{name}[{entry}]")
            if value:
                metadata[entry] = value
        if len(metadata) > 50:
            raise ApiError(
                400, f"You can have at most 50 metadata keys, but you passed in {len(metadata)}.", param=name
            )
        return metadata
