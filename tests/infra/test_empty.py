"""A check without anything to check fails, because its clean result would look like good news."""

import shutil
from pathlib import Path

import asyncpg
import pytest

from service.infra.migrations import migrate, undo
from service.infra.resources import Resources
from service.infra.statements import SQL, files
from service.shop import audit
from tests.client import Shop
from tests.test_command_line import command


def test_a_folder_without_statements_is_refused() -> None:
    with pytest.raises(FileNotFoundError, match="no SQL statement"):
        files("nowhere")


async def test_an_audit_without_rules_is_refused(resources: Resources, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(audit, "RULES", [])
    with pytest.raises(FileNotFoundError, match="no audit rule"):
        await audit.audit(resources.pool)


@pytest.mark.parametrize("run", [migrate, undo])
async def test_a_folder_without_migrations_is_refused(database_url: str, tmp_path: Path, run: object) -> None:
    with pytest.raises(FileNotFoundError, match="no migration in"):
        await run(database_url, tmp_path)  # type: ignore[operator]


@pytest.mark.parametrize("arguments", ["migrate", "audit", "review", "seed", "worker", "serve"])
async def test_an_installation_without_sql_files_fails_with_one_line(
    environ: dict[str, str], tmp_path: Path, arguments: str
) -> None:
    shutil.copytree(SQL.parent / "service", tmp_path / "service", ignore=shutil.ignore_patterns("__pycache__"))
    status, output, errors = await command({**environ, "PYTHONPATH": str(tmp_path)}, arguments)
    assert (status, output, errors.count("\n")) == (2, "", 1), errors
    assert str(tmp_path) in errors


async def test_an_installation_without_migrations_fails_with_one_line(environ: dict[str, str], tmp_path: Path) -> None:
    for folder in ("service", "sql"):
        shutil.copytree(SQL.parent / folder, tmp_path / folder, ignore=shutil.ignore_patterns("__pycache__"))
    status, output, errors = await command({**environ, "PYTHONPATH": str(tmp_path)}, "migrate")
    assert (status, output, errors) == (2, "", f"There is no migration in {tmp_path / 'migrations'}.\n")


def test_a_test_without_cases_fails(pytestconfig: pytest.Config) -> None:
    assert pytestconfig.getini("empty_parameter_set_mark") == "fail_at_collect"


async def test_a_task_without_a_heartbeat_row_is_late(shop: Shop, database: asyncpg.Connection) -> None:
    async def worker_state() -> str:
        return str((await shop.call("GET", "/health/ready", 200))["worker"])

    await database.execute("UPDATE worker_heartbeats SET due_at = now() + interval '1 hour'")
    assert await worker_state() == "ok"

    await database.execute("DELETE FROM worker_heartbeats WHERE loop = 'sweep'")
    assert await worker_state() == "late: sweep"

    await database.execute("DELETE FROM worker_heartbeats")
    assert await worker_state() == "not seen"
