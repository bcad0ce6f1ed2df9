"""`commerce-core run` as a user starts it: one process that starts every server and stops it again."""

import http.client
import itertools
import json
import os
import re
import shutil
import signal
import socket
import stat
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

import psycopg
import pytest

from service.dev.roles import ROLES, login
from service.dev.servers import data_folder, free_port, scratch_folder
from service.settings import Settings
from tests.client import ADMIN_TOKEN
from tests.compat.purchase import JSON, buy, call
from tests.tools import require_programs

ROOT = Path(__file__).parents[2]
SETTINGS = (
    "DATABASE_URL",
    "REDIS_URL",
    "MIGRATE_DATABASE_URL",
    "STRIPE_",
    "ADMIN_TOKEN",
    "AUTH_",
    "ALLOW_",
    "METRICS_",
)


@pytest.fixture
def project() -> Iterator[Path]:
    """A folder to start in, without `.env`; its data are removed after the test."""
    with scratch_folder() as folder:
        yield folder
        shutil.rmtree(data_folder(folder))


@dataclass
class Run:
    """A run that is ready: its folder, its port and what it has printed."""

    project: Path
    port: int
    process: subprocess.Popen[str]
    printed: str


@pytest.fixture(scope="module")
def ready() -> Iterator[Run]:
    """One run for the tests that only use it."""
    port = free_port()
    with scratch_folder() as project:
        with running(project, port) as process:
            yield Run(project, port, process, wait_for(process, "Ctrl-C"))
            process.send_signal(signal.SIGTERM)
            process.wait(timeout=40)
        shutil.rmtree(data_folder(project))


@contextmanager
def running(project: Path, port: int, *options: str, **settings: str) -> Iterator[subprocess.Popen[str]]:
    """The command in a session of its own, killed if it still runs after the test."""
    process = subprocess.Popen(
        [sys.executable, "-m", "service", "run", "--port", str(port), *options],
        cwd=project,
        env=environ(**settings),
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


def environ(**settings: str) -> dict[str, str]:
    """These settings alone, in the environment of the tests."""
    return {**{name: value for name, value in os.environ.items() if not name.startswith(SETTINGS)}, **settings}


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


def test_unsafe_settings_are_refused_in_a_line(project: Path) -> None:
    servers = {"DATABASE_URL": "postgresql://h/x", "REDIS_URL": "redis://h", "STRIPE_API_KEY": "sk_test_x"}
    for settings, options, why in (
        (
            {},
            ["--host", "0.0.0.0"],
            "ADMIN_TOKEN and AUTH_ISSUER are empty, and --host 0.0.0.0 is not a loopback address",
        ),
        ({"METRICS_PORT": "65535"}, [], "METRICS_PORT: 65534 at most"),
    ):
        given = {**servers, "STRIPE_WEBHOOK_SECRET": "whsec_x", **settings}
        with running(project, free_port(), *options, **given) as process:
            _, errors = process.communicate(timeout=20)

        assert process.returncode == 1
        assert errors.startswith(why)
        assert errors.count("\n") == 1


@pytest.mark.parametrize(
    ("settings", "options", "line"),
    [
        ({}, [], r"http://127\.0\.0\.1:\d+ \(demo users sign in without a password\)"),
        ({"ADMIN_TOKEN": ADMIN_TOKEN}, [], None),
        ({"AUTH_ISSUER": "https://login.shop.example", "AUTH_AUDIENCE": "shop"}, [], None),
        (
            {"ALLOW_OPEN_STAFF": "true"},
            ["--host", "0.0.0.0"],
            r"none, because --host 0\.0\.0\.0 is not a loopback address",
        ),
        ({"STRIPE_API_KEY": "sk_live_x", "STRIPE_WEBHOOK_SECRET": f"whsec_{'x' * 24}"}, [], None),
    ],
    ids=["default", "token", "provider", "off-loopback", "live"],
)
def test_the_issuer_is_for_development_only(
    project: Path, settings: dict[str, str], options: list[str], line: str | None
) -> None:
    """Method: no PostgreSQL answers, so the start ends right after the issuer's."""
    stripe = {"STRIPE_API_KEY": "sk_test_x", "STRIPE_WEBHOOK_SECRET": "whsec_x"}
    nowhere = f"127.0.0.1:{free_port()}"
    servers = {"DATABASE_URL": f"postgresql://{nowhere}/x", "REDIS_URL": f"redis://{nowhere}"}
    with running(project, free_port(), *options, **{**servers, **stripe, **settings}) as process:
        output, errors = process.communicate(timeout=40)

    assert process.returncode == 1
    assert "sk_test" in errors if "live" in str(settings) else "migrate" in errors, errors
    shown = re.findall("^  issuer +(.*)$", output, re.MULTILINE)
    assert [bool(line and re.fullmatch(line, text)) for text in shown] == [True] * (line is not None)
    assert (data_folder(project) / "issuer_key.pem").exists() == (not settings)


@pytest.mark.skipif(sys.platform != "linux", reason="inspects processes in /proc")
def test_each_process_knows_its_own_login_only(ready: Run) -> None:
    """Every password is another; the API and the worker have neither the owner's nor the superuser's."""
    data = data_folder(ready.project)
    files = [*data.glob("commerce_*_password"), *(data / name / "password" for name in ("postgresql", "valkey"))]
    secrets = {file: file.read_text() for file in files}
    environs = {
        command(child)[0]: Path(f"/proc/{child}/environ").read_text()
        for child in children(ready.process)
        if command(child)[0] in ("serve", "worker", "standin", "issuer")
    }
    arguments = "".join(" ".join(command(child, 0)) for child in children(ready.process))
    private = [
        data / name for name in ("stripe.sqlite3", "webhook_secret", "issuer_key.pem", "valkey/data/valkey.conf")
    ]
    modes = {stat.S_IMODE(file.stat().st_mode) for file in (*private, *files)}
    refused = refused_logins(ready.printed, data, secrets[data / "commerce_app_password"])

    assert len(set(secrets.values())) == len(ROLES) + 2
    known = {
        name: {file for file, secret in secrets.items() if secret in environ} for name, environ in environs.items()
    }
    of = {role: data / f"commerce_{role}_password" for role in ("app", "worker")}
    assert known["serve"] == {of["app"], data / "valkey" / "password"}
    assert known["worker"] == {of["worker"], data / "valkey" / "password"}
    assert known["issuer"] == set()
    assert "STRIPE_" not in environs["issuer"]
    assert not any(secret in arguments for secret in secrets.values())
    assert modes == {0o600}
    assert refused == 2


def command(pid: int, skip: int = 3) -> list[str]:
    """A process's arguments after `python -m service`."""
    return Path(f"/proc/{pid}/cmdline").read_text().split("\0")[skip:]


def refused_logins(printed: str, data: Path, password: str) -> int:
    """How many logins with the API's password fail: as the owner and as the superuser."""
    url = re.search(r"postgresql://commerce_owner:\S+", printed)
    assert url
    refused = 0
    for role in ("commerce_owner", "postgres"):
        try:
            psycopg.connect(login(url[0], role, password)).close()
        except psycopg.OperationalError as error:
            refused += "password authentication failed" in str(error)
    return refused


def test_ports_are_kept_even_if_they_were_taken_at_first(project: Path) -> None:
    """Orders have the address of their payment page. Method: other programs have the usual ports at the first start."""
    with ExitStack() as stack:
        for port in (12111, 15432, 15556, 16379):
            with suppress(OSError):  # taken already
                stack.enter_context(socket.create_server(("127.0.0.1", port)))
        first = server_addresses(project)
    assert len(first) == 4
    assert not re.search(":(12111|15432|15556|16379)", " ".join(first))

    assert server_addresses(project) == first

    file = data_folder(project) / "stripe_port"
    port = int(file.read_text())
    with socket.create_server(("127.0.0.1", port)), running(project, free_port()) as process:
        _, errors = process.communicate(timeout=60)
    assert process.returncode == 1
    assert errors.startswith(f"Cannot use port {port}: Address already in use. Stop what uses it.")
    assert str(file) in errors


def server_addresses(project: Path) -> list[str]:
    """The addresses of the servers that one start prints."""
    with running(project, free_port()) as process:
        printed = wait_for(process, "Ctrl-C")
        process.send_signal(signal.SIGTERM)
        process.wait(timeout=40)
    return re.findall(r"^  (?:PostgreSQL|Valkey|Stripe|issuer) .*", printed, re.MULTILINE)


def test_staff_need_a_token_with_the_right_role(ready: Run) -> None:
    """A customer buys; support may not refund, and refunds may not edit prices."""
    project, api = ready.project, f"http://127.0.0.1:{ready.port}"
    kim, carl, anna, rita = (
        bearer(project, *f"--sub {options}".split())
        for options in (
            "kim --email kim@example.com",
            "carl --role catalogue",
            "anna --role support",
            "rita --role refunds",
        )
    )

    anonymous = call("GET", f"{api}/orders")
    order_id = buy(api, carl, customer=kim)
    by_guest = call("GET", f"{api}/orders/{order_id}")
    refund = f"{api}/orders/{order_id}/refund"
    body = json.dumps({"amount_minor": 100})
    by_support = call("POST", refund, body, JSON | anna)
    by_refunds = call("POST", refund, body, JSON | rita)
    price = call("PATCH", f"{api}/products/1", json.dumps({"price_minor": 1}), JSON | rita)
    shown = re.search(r'curl \S+/orders -H "Authorization: Bearer \$\((.*)\)"', ready.printed)
    assert shown
    ada = subprocess.check_output(shown[1].split(), cwd=project, env=environ(), text=True).strip()
    orders = call("GET", f"{api}/orders", headers={"Authorization": f"Bearer {ada}"})

    assert anonymous[0] == 401
    assert by_guest[0] == 404
    assert by_support[0] == 403
    assert json.loads(by_support[1])["required_scope"] == "orders:refund"
    assert by_refunds[0] in (200, 201), by_refunds
    assert price[0] == 403
    assert orders[0] == 200


def test_the_tour_of_the_readme_works(ready: Run) -> None:
    require_programs("curl")
    section = (ROOT / "README.md").read_text().partition("\n## A purchase\n")[2]
    lines = itertools.takewhile(lambda line: line.startswith("    "), section.strip("\n").splitlines())
    tour = "\n".join(lines).replace("http://localhost:8080", f"http://127.0.0.1:{ready.port}")
    tour = tour.replace(".venv/bin/commerce-core", f"{sys.executable} -m service")

    shown = subprocess.check_output(["sh", "-euc", tour], cwd=ready.project, env=environ(), text=True)

    answers = [json.loads(line) for line in shown.splitlines() if line.startswith('{"id"')]
    assert [answer["status"] for answer in answers] == ["OPEN", "FULFILLED", "FULFILLED"]
    assert [refund["amount_minor"] for refund in answers[-1]["refunds"]] == [100]


def bearer(project: Path, *options: str) -> dict[str, str]:
    """A header with a new access token."""
    command = [sys.executable, "-m", "service", "token", *options]
    token = subprocess.check_output(command, cwd=project, env=environ(), text=True).strip()
    return {"Authorization": f"Bearer {token}"}


@pytest.mark.skipif(sys.platform != "linux", reason="inspects processes in /proc")
def test_a_signal_stops_every_child(project: Path) -> None:
    port = free_port()
    with running(project, port) as process:
        printed = wait_for(process, "Ctrl-C")
        assert f"http://127.0.0.1:{port}/docs" in printed
        assert status(port, "/health/ready") == 200
        started = children(process)
        assert len(started) == 6
        await_roles(printed, {("commerce_app", "commerce-api"), ("commerce_worker", "commerce-worker")})

        process.send_signal(signal.SIGTERM)
        process.send_signal(signal.SIGINT)  # an impatient second signal

        assert process.wait(timeout=40) == 0
        assert process.stderr
        assert process.stderr.read() == ""
        assert alive(started) == []


def test_a_second_run_on_the_same_data_is_refused(ready: Run) -> None:
    with running(ready.project, free_port()) as second:
        _, errors = second.communicate(timeout=20)

    assert second.returncode == 1
    assert f"Process {ready.process.pid} already runs on" in errors


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
    example = (ROOT / ".env.example").read_text()
    named = {line[2:].partition("=")[0] for line in example.splitlines() if line.startswith("# ") and "=" in line}
    assert {name for name in named if name.isupper()} == {name.upper() for name in Settings.model_fields}
