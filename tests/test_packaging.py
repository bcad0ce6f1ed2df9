"""The wheel: what it contains, and that it works apart from the checkout; `make compat` installs it from nothing."""

import asyncio
import os
import subprocess
import sys
from pathlib import Path
from zipfile import ZipFile

import pytest

ROOT = Path(__file__).parents[1]


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The wheel of this checkout, built without network."""
    folder = tmp_path_factory.mktemp("wheel")
    command = [sys.executable, "-m", "hatchling", "build", "--target", "wheel", "--directory", folder]
    subprocess.run(command, cwd=ROOT, check=True, capture_output=True)
    return next(folder.glob("*.whl"))


@pytest.fixture(scope="module")
def installed(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with nothing but the installed wheel; its dependencies are those of this environment."""
    folder = tmp_path_factory.mktemp("installed")
    options = ("--quiet", "--disable-pip-version-check", "--no-index", "--no-deps", "--target", folder)
    subprocess.run([sys.executable, "-m", "pip", "install", *options, wheel], check=True, capture_output=True)
    return folder


async def run(installed: Path, environ: dict[str, str], *arguments: str) -> str:
    """What the installed `commerce-core` prints, in a folder outside the checkout."""
    process = await asyncio.create_subprocess_exec(
        installed / "bin" / "commerce-core",
        *arguments,
        cwd=installed,
        env={**environ, "PYTHONPATH": str(installed)},
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.STDOUT,
    )
    output, _ = await process.communicate()
    assert process.returncode == 0, output
    return output.decode()


def test_the_wheel_contains_the_program_its_sql_and_its_migrations(wheel: Path) -> None:
    expected = {str(path.relative_to(ROOT)) for path in (ROOT / "service").rglob("*.py")}
    for folder in ("sql", "migrations"):
        expected |= {f"service/{path.relative_to(ROOT)}" for path in (ROOT / folder).rglob("*.sql")}
    expected.add("service/migrations/roles.psql")

    names = set(ZipFile(wheel).namelist())

    assert expected <= names
    # No other top-level package: `tests` or `sql` would be importable names in every environment.
    assert {name.partition("/")[0].partition("-")[0] for name in names} == {"service", "commerce_core"}


async def test_the_installed_command_has_help(installed: Path) -> None:
    overview = await run(installed, dict(os.environ), "--help")

    assert overview.startswith("usage: commerce-core [-h] COMMAND")


async def test_the_installed_command_prints_the_wheels_statements(installed: Path) -> None:
    statement = installed / "service" / "sql" / "cart" / "create_cart.sql"
    statement.write_text("-- only in the wheel\n" + statement.read_text())

    statements = await run(installed, dict(os.environ), "review")

    assert statements.count("\nPREPARE ") == len(list((installed / "service" / "sql").rglob("*.sql")))
    assert "-- only in the wheel\n" in statements


async def test_the_installed_command_applies_the_wheels_migrations(installed: Path, environ: dict[str, str]) -> None:
    new = installed / "service" / "migrations" / "9999.only_in_the_wheel.sql"
    new.write_text("CREATE TABLE only_in_the_wheel ();\n")

    applied = await run(installed, environ, "migrate")

    assert applied == "9999.only_in_the_wheel\n"
