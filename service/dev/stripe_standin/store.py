"""The stand-in's state: dictionaries in memory, written through to SQLite so that they survive a restart."""

from __future__ import annotations

import sqlite3
import weakref
from bisect import bisect_left, bisect_right
from collections.abc import Callable, Iterator
from itertools import islice
from pathlib import Path
from typing import Any

import orjson

Json = dict[str, Any]


def public(stored: Json) -> Json:
    """An object as the API returns it, without the stand-in's own keys, which begin with `_`.

    `_shown` has members to show in place of the true ones.
    """
    shown = {key: value for key, value in stored.items() if not key.startswith("_")}
    shown.update(stored.get("_shown", {}))
    return shown


def created(stored: Json) -> int:
    """When the object was created, Unix seconds."""
    return int(stored["created"])


class Store:
    """One table of JSON objects by kind and id, in insertion order, in a file of mode 0600.

    `path` None keeps it in memory.
    """

    def __init__(self, path: Path | None) -> None:
        if path is not None:
            # Before SQLite writes into it, and its -wal and -shm get the same mode: e-mails are nobody else's.
            path.touch(mode=0o600)
            path.chmod(0o600)
        self._database = sqlite3.connect(path or ":memory:", check_same_thread=False)
        # Tests create many stores, and Python 3.13 warns about a connection that is not closed.
        weakref.finalize(self, self._database.close)
        # synchronous=OFF survives a killed process, though not a power failure, which is enough for a stand-in.
        self._database.execute("PRAGMA journal_mode = WAL")
        self._database.execute("PRAGMA synchronous = OFF")
        self._database.execute(
            "CREATE TABLE IF NOT EXISTS stored ("
            "position INTEGER PRIMARY KEY, kind TEXT NOT NULL, id TEXT NOT NULL, body BLOB NOT NULL,"
            "UNIQUE (kind, id))"
        )

    def load(self, kind: str) -> list[Json]:
        rows = self._database.execute("SELECT body FROM stored WHERE kind = ? ORDER BY position", (kind,))
        return [orjson.loads(body) for (body,) in rows]

    def save(self, kind: str, stored: Json) -> None:
        """Write the object under its `id`; durable after `commit`."""
        self._database.execute(
            "INSERT INTO stored (kind, id, body) VALUES (?, ?, ?)"
            " ON CONFLICT (kind, id) DO UPDATE SET body = excluded.body",
            (kind, stored["id"], orjson.dumps(stored)),
        )

    def remove(self, kind: str, object_id: str) -> None:
        self._database.execute("DELETE FROM stored WHERE kind = ? AND id = ?", (kind, object_id))

    def commit(self) -> None:
        self._database.commit()


class Collection:
    """Objects of one kind, oldest first, indexed by id. Change one in place, then `save` it."""

    def __init__(self, store: Store, kind: str) -> None:
        self._store = store
        self._kind = kind
        self._objects = store.load(kind)
        self._positions = {stored["id"]: position for position, stored in enumerate(self._objects)}

    def __iter__(self) -> Iterator[Json]:
        return iter(self._objects)

    def get(self, object_id: str) -> Json | None:
        position = self._positions.get(object_id)
        return None if position is None else self._objects[position]

    def newest(self) -> Json:
        """The newest object; there must be one."""
        return self._objects[-1]

    def save(self, stored: Json) -> None:
        if stored["id"] not in self._positions:
            self._positions[stored["id"]] = len(self._objects)
            self._objects.append(stored)
        self._store.save(self._kind, stored)

    def page(
        self,
        matches: Callable[[Json], bool],
        *,
        limit: int,
        starting_after: str | None,
        ending_before: str | None,
        since: int | None,
        until: int | None,
    ) -> tuple[list[Json], bool]:
        """At most `limit` objects, newest first, and whether more follow in the direction of paging.

        `since` and `until` bound `created`, both included. The ids in `starting_after` and `ending_before` must exist.
        """
        low = 0 if since is None else bisect_left(self._objects, since, key=created)
        high = len(self._objects) if until is None else bisect_right(self._objects, until, key=created)
        if ending_before is not None:
            positions = range(max(low, self._positions[ending_before] + 1), high)
        else:
            if starting_after is not None:
                high = min(high, self._positions[starting_after])
            positions = range(high - 1, low - 1, -1)
        matching = (self._objects[position] for position in positions if matches(self._objects[position]))
        objects = list(islice(matching, limit + 1))
        more = len(objects) > limit
        objects = objects[:limit]
        # `ending_before` walks from the cursor to newer objects, yet a page is newest first.
        return (objects[::-1] if ending_before is not None else objects), more
