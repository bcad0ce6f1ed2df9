"""`commerce-core run` as a user starts it: one process that starts every server and stops it again."""

import http.client
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import psycopg
import pytest

from service.dev.servers import data_folder, free_port, scratch_folder
from service.settings import Settings

SETTINGS = ("DATABASE_URL", "REDIS_URL", "MIGRATE_DATABASE_URL", "STRIPE_", "ADMIN_TOKEN")


@pytest.fixture
def project() -> Iterator[Path]:
    """A folder to start in, without `.env`; its data are removed after the test."""
    with scratch_folder() as folder:
        yield folder
        shutil.rmtree(data_folder(folder))


@contextmanager
def running(project: Path, port: int) -> Iterator[subprocess.Popen[str]]:
    """The command in a session of its own, killed if it still runs after the test."""
    process = subprocess.Popen(
        [sys.executable, "-m", "service", "run", "--port", str(port)],
        cwd=project,
        env={name: value for name, value in os.environ.items() if not name.startswith(SETTINGS)},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
    with process:
        try:
            yield process
        finally:
            process.kill()


def wait_for(process: subprocess.Popen[str], text: str) -> str:
    """The command's output up to the line with the text."""
    assert process.stdout
    assert process.stderr
    printed = ""
    for line in process.stdout:
        printed += line
        if text in line:
            return printed
    pytest.fail(f"It ended before it printed {text!r}:\n{printed}{process.stderr.read()}")


def status(port: int, path: str) -> int:
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=5)
    try:
        connection.request("GET", path)
        return connection.getresponse().status
    finally:
        connection.close()


def await_roles(printed: str, expected: set[tuple[str, str]], seconds: float = 10) -> None:
    """Wait until exactly these (role, application name) pairs are connected to the database whose URL was printed."""
    url = re.search(r"postgresql://commerce_owner:\S+", printed)
    assert url
    query = "SELECT DISTINCT usename, application_name FROM pg_stat_activity WHERE application_name LIKE 'commerce%'"
    deadline = time.monotonic() + seconds
    with psycopg.connect(url[0], autocommit=True) as connection:
        while (connected := set(connection.execute(query).fetchall())) != expected:
            assert time.monotonic() < deadline, connected
            time.sleep(0.01)


def children(process: subprocess.Popen[str]) -> list[int]:
    listing = Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text()
    return [int(pid) for pid in listing.split()]


def alive(pids: list[int]) -> list[int]:
    """The processes that still run."""
    return [pid for pid in pids if Path(f"/proc/{pid}/exe").exists()]


def await_end(pids: list[int], seconds: float = 10) -> None:
    deadline = time.monotonic() + seconds
    while running := alive(pids):
        assert time.monotonic() < deadline, f"still running: {running}"
        time.sleep(0.01)


def test_a_taken_port_is_named(project: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        with running(project, port) as process:
            _, errors = process.communicate(timeout=20)

    assert process.returncode == 1
    assert (
        errors == f"Cannot use port {port}: Address already in use. Choose another: `make run PORT=8081`, or --port.\n"
    )


@pytest.mark.skipif(sys.platform != "linux", reason="inspects processes in /proc")
def test_a_signal_stops_every_child(project: Path) -> None:
    port = free_port()
    with running(project, port) as process:
        printed = wait_for(process, "Ctrl-C")
        assert f"http://127.0.0.1:{port}/docs" in printed
        assert status(port, "/health/ready") == 200
        started = children(process)
        assert len(started) == 5
        await_roles(printed, {("commerce_app", "commerce-api"), ("commerce_worker", "commerce-worker")})

        process.send_signal(signal.SIGTERM)
        process.send_signal(signal.SIGINT)  # an impatient second signal

        assert process.wait(timeout=40) == 0
        assert process.stderr
        assert process.stderr.read() == ""
        assert alive(started) == []


def test_a_second_run_on_the_same_data_is_refused(project: Path) -> None:
    with running(project, free_port()) as first:
        wait_for(first, "Ctrl-C")

        with running(project, free_port()) as second:
            _, errors = second.communicate(timeout=20)

        first.send_signal(signal.SIGTERM)
        first.wait(timeout=40)
    assert second.returncode == 1
    assert f"Process {first.pid} already runs on" in errors


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux ends children with their parent")
def test_a_killed_run_leaves_no_child_and_its_data_persist(project: Path) -> None:
    log = data_folder(project) / "log"
    with running(project, free_port()) as process:
        wait_for(process, "Ctrl-C")
        started = children(process)

        process.kill()

        await_end(started)

    with running(project, free_port()) as process:
        wait_for(process, "Ctrl-C")
        assert [(log / f"{name}.log").read_text() for name in ("migrate", "seed")] == [
            "nothing to apply\n",
            "0 products loaded\n",
        ]
        process.send_signal(signal.SIGTERM)
        process.wait(timeout=40)


@pytest.mark.skipif(sys.platform != "linux", reason="inspects processes in /proc")
def test_a_killed_worker_ends_the_run(project: Path) -> None:
    with running(project, free_port()) as process:
        wait_for(process, "Ctrl-C")

        worker = max(children(process))
        os.kill(worker, signal.SIGKILL)

        _, errors = process.communicate(timeout=40)
    assert process.returncode == 1
    assert "worker ended by itself (SIGKILL)" in errors
    logs = {file.name for file in (data_folder(project) / "log").iterdir()}
    assert logs >= {"api.log", "worker.log", "standin.log", "migrate.log"}


def test_the_example_names_every_setting() -> None:
    example = (Path(__file__).parents[2] / ".env.example").read_text()
    named = {line[2:].partition("=")[0] for line in example.splitlines() if line.startswith("# ") and "=" in line}
    assert {name for name in named if name.isupper()} == {name.upper() for name in Settings.model_fields}
