"""A check that has nothing to check fails: a clean result would be taken for good news."""

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


@pytest.mark.parametrize("work", [migrate, undo])
async def test_no_migrations_are_not_nothing_to_apply(database_url: str, tmp_path: Path, work: object) -> None:
    with pytest.raises(FileNotFoundError, match="no migration in"):
        await work(database_url, tmp_path)  # type: ignore[operator]


@pytest.mark.parametrize("arguments", ["migrate", "audit", "review", "seed", "worker", "serve"])
async def test_an_installation_without_its_files_fails_in_a_line(
    environ: dict[str, str], tmp_path: Path, arguments: str
) -> None:
    shutil.copytree(SQL.parent / "service", tmp_path / "service", ignore=shutil.ignore_patterns("__pycache__"))
    status, output, errors = await command({**environ, "PYTHONPATH": str(tmp_path)}, arguments)
    assert (status, output, errors.count("\n")) == (2, "", 1), errors
    assert str(tmp_path) in errors


async def test_a_migrator_without_migrations_says_so(environ: dict[str, str], tmp_path: Path) -> None:
    for folder in ("service", "sql"):
        shutil.copytree(SQL.parent / folder, tmp_path / folder, ignore=shutil.ignore_patterns("__pycache__"))
    status, output, errors = await command({**environ, "PYTHONPATH": str(tmp_path)}, "migrate")
    assert (status, output, errors) == (2, "", f"There is no migration in {tmp_path / 'migrations'}.\n")


def test_a_test_with_no_cases_fails(pytestconfig: pytest.Config) -> None:
    assert pytestconfig.getini("empty_parameter_set_mark") == "fail_at_collect"


async def test_a_loop_without_a_row_is_late(shop: Shop, database: asyncpg.Connection) -> None:
    await database.execute("UPDATE worker_heartbeats SET due_at = now() + interval '1 hour'")
    assert (await shop.call("GET", "/health/ready", 200))["worker"] == "ok"
    await database.execute("DELETE FROM worker_heartbeats WHERE loop = 'sweep'")
    assert (await shop.call("GET", "/health/ready", 200))["worker"] == "late: sweep"
    await database.execute("DELETE FROM worker_heartbeats")
    assert (await shop.call("GET", "/health/ready", 200))["worker"] == "not seen"
