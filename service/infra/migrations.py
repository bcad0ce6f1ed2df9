"""Applying the migrations. Any number of processes may do so at once, and any of them may be killed."""

import asyncio
import time
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from urllib.parse import quote, urlencode

import psycopg
import yoyo
from psycopg.conninfo import conninfo_to_dict, make_conninfo
from yoyo.migrations import get_migration_hash, topological_sort

from service.errors import ShopError
from service.infra.packaged import MIGRATIONS, built_indexes, migration_names
from service.infra.sql import statement

# Attempts to get a migration's locks. During each one other sessions wait at most its lock_timeout.
ATTEMPTS = 5
PAUSE_SECONDS = 0.5
POLL_SECONDS = 0.1
# Whatever the server, the database or the role says. Each migration sets other limits of time itself.
OPTIONS = {
    # The server then ends the statement of a killed client, which may wait for a lock or build an index.
    "client_connection_check_interval": "1s",
    "idle_in_transaction_session_timeout": "0",
    "search_path": "public",
}
# For each host.
CONNECT_SECONDS = 5


LOCK_MIGRATIONS = statement("migrations/lock_migrations", bool)
LIST_INVALID_INDEXES = statement("migrations/list_invalid_indexes", str)


async def migrate(database_url: str, folder: Path = MIGRATIONS) -> list[str]:
    """Apply the pending migrations and return their names. Waits while another process migrates.

    A migration that was stopped between two statements is applied from its beginning, and so is one whose index is
    invalid. Raises `busy` when a migration could not get its locks, `unavailable` when an index stays invalid, and
    psycopg's errors for what the server refuses. Earlier migrations stay applied; the next run continues after them.
    """
    return await asyncio.to_thread(_run_alone, database_url, folder, _apply)


async def undo(database_url: str, folder: Path = MIGRATIONS) -> list[str]:
    """Undo the newest migration, complete or not, and return its name; its data are dropped. Raises like `migrate`."""
    return await asyncio.to_thread(_run_alone, database_url, folder, _roll_back)


def _run_alone(database_url: str, folder: Path, work: Callable[[Any, Any], list[str]]) -> list[str]:
    """Run `work` while no other process migrates. Raises FileNotFoundError if there is no migration."""
    migration_names(folder)
    # In the order of `depends`. Sorting also reads the files.
    migrations = list(topological_sort(yoyo.read_migrations(str(folder))))
    _refuse_pooler(database_url)
    backend = yoyo.get_backend(_yoyo_url(database_url))
    try:
        # The lock belongs to the session that migrates, so both end together, even if the client was killed. Polling,
        # because CREATE INDEX CONCURRENTLY of one process would wait for the waiting statement of another.
        while not backend.execute(LOCK_MIGRATIONS.sql).fetchone()[0]:
            time.sleep(POLL_SECONDS)
        # yoyo's own lock is a row, which a killed run leaves in its table. No running process has it now.
        backend.break_lock()
        with backend.lock():
            return work(backend, migrations)
    finally:
        backend.connection.close()


def _refuse_pooler(database_url: str) -> None:
    """Raise `unavailable` if a pooler answers, which invents the id of the server's process.

    The lock below belongs to a session. Through a pooler it would be another client's, and would never be released.
    """
    # Without OPTIONS, which a pooler refuses in its own words.
    parameters = {**_parameters(database_url), "options": None}
    with psycopg.connect(make_conninfo(**parameters), autocommit=True) as session:
        if session.execute("SELECT pg_backend_pid()").fetchone() != (session.info.backend_pid,):
            raise ShopError("unavailable", "MIGRATE_DATABASE_URL leads to a pooler; name the server itself.")


def _parameters(database_url: str) -> dict[str, Any]:
    """libpq's parameters of the URL, and ours."""
    parameters = conninfo_to_dict(database_url)
    own = (f"-c {name}={value}" for name, value in OPTIONS.items())
    return {
        **parameters,
        "application_name": "commerce-migrate",
        "connect_timeout": str(CONNECT_SECONDS),
        "options": " ".join((str(parameters.get("options", "")), *own)).strip(),
        # Of several hosts, the one that takes writes.
        "target_session_attrs": "read-write",
    }


def _yoyo_url(database_url: str) -> str:
    """The URL in yoyo's form: all are parameters, which it passes on to libpq. Its own parser knows one host only."""
    return f"postgresql+psycopg:///?{urlencode(_parameters(database_url), quote_via=quote)}"


def _apply(backend: Any, migrations: Any) -> list[str]:
    applied = backend.get_applied_migration_hashes()
    invalid = _invalid_indexes(backend)
    pending = [
        migration
        for migration in migrations
        # Not in a transaction means that it can run again: it then drops an invalid index and builds it anew.
        if migration.hash not in applied
        or (not migration.use_transactions and invalid.intersection(built_indexes(migration.source)))
    ]
    for migration in pending:
        _run(backend, migration, "apply")
    ours = {index for migration in migrations for index in built_indexes(migration.source)}
    if broken := sorted(ours & _invalid_indexes(backend)):
        raise ShopError("unavailable", f"Invalid: {', '.join(broken)}. Run REINDEX INDEX CONCURRENTLY for each.")
    return [migration.id for migration in pending]


def _roll_back(backend: Any, migrations: Any) -> list[str]:
    applied = backend.get_applied_migration_hashes()
    newest = [m for m in migrations if m.hash in applied or _incomplete(m).hash in applied][-1:]
    for migration in newest:
        _run(backend, migration, "rollback")
    return [migration.id for migration in newest]


def _run(backend: Any, migration: Any, direction: str) -> None:
    """Run a migration and record it. Retry it after a conflict over locks."""
    for attempt in range(1, ATTEMPTS + 1):
        try:
            if migration.use_transactions:
                # One transaction for both: a migration without its record would run again on its own result.
                with backend.transaction():
                    migration.process_steps(backend, direction)
                    _record(backend, migration, direction)
            else:
                _run_statements(backend, migration, direction)
            return
        except (psycopg.errors.LockNotAvailable, psycopg.errors.DeadlockDetected) as error:
            if attempt == ATTEMPTS:
                raise ShopError("busy", f"{migration.id} could not get its locks; run this again.") from error
        time.sleep(PAUSE_SECONDS)


def _run_statements(backend: Any, migration: Any, direction: str) -> None:
    """Run statements that commit one by one. From the first to the last, the migration is recorded as incomplete.

    It is then neither applied nor gone: readiness says not_migrated, `migrate` applies it, and `undo` undoes it first.
    """
    incomplete = _incomplete(migration)
    with backend.transaction():
        backend.unmark_one(migration, log=False)
        if not backend.is_applied(incomplete):
            backend.mark_one(incomplete, log=False)
    # Not by `process_steps`, which answers an error with statements of the other direction.
    for step in migration.steps if direction == "apply" else reversed(migration.steps):
        getattr(step, direction)(backend)
    with backend.transaction():
        backend.unmark_one(incomplete, log=False)
        _record(backend, migration, direction)


def _record(backend: Any, migration: Any, direction: str) -> None:
    (backend.mark_one if direction == "apply" else backend.unmark_one)(migration, log=False)
    backend.log_migration(migration, direction)


def _incomplete(migration: Any) -> Any:
    """What stands for an incomplete migration among the applied ones."""
    name = f"{migration.id} (incomplete)"
    return SimpleNamespace(id=name, hash=get_migration_hash(name))


def _invalid_indexes(backend: Any) -> set[str]:
    return {name for (name,) in backend.execute(LIST_INVALID_INDEXES.sql).fetchall()}
