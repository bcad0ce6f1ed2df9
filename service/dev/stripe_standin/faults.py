"""Faults on demand: which API calls go wrong, how, and how often."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase
from typing import Any

from .parameters import ApiError

ACTIONS = ("delay", "hang", "status", "status_after", "drop", "drop_after", "malformed")


@dataclass(slots=True)
class Rule:
    """One kind of fault.

    `method`: HTTP method, "*" for any. `path`: a prefix, or with any of `*?[` a pattern for the whole path,
    so that POST "/v1/checkout/session[s]" is creation alone. `times`: how many calls it strikes, None: all.

    delay: answer after `seconds`.
    hang: nothing happens and no answer comes; the connection is closed after `seconds`, 0 for never.
    status: nothing happens, the answer is `status`; with `stored` the idempotency key remembers it.
    status_after: it has happened, the answer is `status` all the same, and the key remembers that.
    drop: nothing happens, the connection is closed.
    drop_after: it has happened, the connection is closed; the key remembers the true answer.
    malformed: it has happened, half of the true answer arrives; the key remembers the whole.

    All but hang first wait `seconds`.
    """

    action: str
    path: str = "/v1/"
    method: str = "*"
    times: int | None = None
    seconds: float = 0.0
    status: int = 500
    stored: bool = False

    def strikes(self, method: str, path: str) -> bool:
        if self.method.upper() not in ("*", method):
            return False
        return fnmatchcase(path, self.path) if set("*?[") & set(self.path) else path.startswith(self.path)


class Faults:
    """The rules in force; the first that strikes is the one that counts."""

    def __init__(self) -> None:
        self._rules: list[Rule] = []

    def set(self, rules: Sequence[Mapping[str, Any]]) -> None:
        """Replace all rules; ApiError 400 for one that is not understood."""
        try:
            understood = [Rule(**rule) for rule in rules]
        except TypeError as error:
            raise ApiError(400, f"A fault rule is not understood: {error}") from None
        for rule in understood:
            if rule.action not in ACTIONS:
                raise ApiError(400, f"A fault's action is one of {', '.join(ACTIONS)}.", param="action")
        self._rules = understood

    def take(self, method: str, path: str) -> Rule | None:
        """The rule that strikes this call, counted against its `times`."""
        for rule in self._rules:
            if rule.times != 0 and rule.strikes(method, path):
                if rule.times is not None:
                    rule.times -= 1
                return rule
        return None
