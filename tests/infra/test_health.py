"""Readiness knows by itself which migrations this code needs."""

import shutil
from pathlib import Path

import asyncpg
import pytest
import yoyo

from service.infra import health
from service.infra.migrations import migrate
from service.infra.packaged import MIGRATIONS, migration_names
from tests.client import Shop
from tests.conftest import login

NEW = "9999.new"


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """The migrations, and a new one."""
    for path in MIGRATIONS.glob("*.sql"):
        shutil.copy(path, tmp_path)
    (tmp_path / f"{NEW}.sql").write_text(f"-- depends: {migration_names()[-1]}\nSELECT 1;\n")
    (tmp_path / f"{NEW}.rollback.sql").write_text("SELECT 1;\n")
    return tmp_path


def test_the_names_are_those_that_the_migrator_applies() -> None:
    assert (
        health.MIGRATIONS == migration_names() == [migration.id for migration in yoyo.read_migrations(str(MIGRATIONS))]
    )


def test_no_migration_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError):
        migration_names(tmp_path)


async def test_a_new_migration_is_missing_until_it_is_applied(
    shop: Shop, database_url: str, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(health, "MIGRATIONS", migration_names(folder))

    before = await shop.call("GET", "/health/ready", 503)
    assert await migrate(login(database_url, "owner"), folder) == [NEW]
    after = await shop.call("GET", "/health/ready", 200)

    assert before["postgresql"] == "not_migrated"
    assert after["postgresql"] == "ok"


async def test_old_code_is_ready_on_a_newer_schema(shop: Shop, database_url: str, folder: Path) -> None:
    assert await migrate(login(database_url, "owner"), folder) == [NEW]

    ready = await shop.call("GET", "/health/ready", 200)

    assert ready["postgresql"] == "ok"


async def test_a_migration_in_the_middle_is_missed_too(shop: Shop, database: asyncpg.Connection) -> None:
    await database.execute("DELETE FROM _yoyo_migration WHERE migration_id = '0004.stock_movements'")

    ready = await shop.call("GET", "/health/ready", 503)

    assert ready["postgresql"] == "not_migrated"
