"""Bringing the schema up to date, however many try at once and wherever one was killed."""

import asyncio
from dataclasses import dataclass
from pathlib import Path

import asyncpg
import yoyo

from service.infra.statements import Statement

MIGRATIONS = Path(__file__).parents[2] / "migrations"


@dataclass(slots=True)
class MigrationLock:
    """The advisory lock is ours."""

    locked: str


LOCK_MIGRATIONS = Statement("operation/lock_migrations", MigrationLock)


async def migrate(database_url: str) -> list[str]:
    """Apply what has not been applied; the names of what was. Waits for another migrator to end."""
    guard = await asyncpg.connect(database_url, server_settings={"application_name": "commerce-migrate"})
    try:
        await LOCK_MIGRATIONS.one(guard)
        return await asyncio.to_thread(_apply, database_url)
    finally:
        await guard.close()


def _apply(database_url: str) -> list[str]:
    backend = yoyo.get_backend(database_url.replace("postgresql://", "postgresql+psycopg://", 1))
    try:
        # Its own lock is a row, which a killed run leaves behind; ours is gone with its session, so whoever
        # is here is alone, and a row found is such a leftover.
        backend.break_lock()
        with backend.lock():
            pending = backend.to_apply(yoyo.read_migrations(str(MIGRATIONS)))
            names = [migration.id for migration in pending]
            backend.apply_migrations(pending)
            return names
    finally:
        backend.connection.close()
