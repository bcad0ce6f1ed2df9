"""The whole service from nothing, for `make run`: API, worker, and the servers that the settings do not name."""

import fcntl
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager, ExitStack, closing, suppress
from dataclasses import dataclass, field
from http.client import HTTPConnection, HTTPException
from pathlib import Path
from types import FrameType
from typing import Protocol

import psycopg

from service.dev.issuer.tokens import AUDIENCE, issuer_port, issuer_url
from service.dev.processes import CannotRun, complete, spawn, stop, tail
from service.dev.roles import ROLES, login, make_roles
from service.dev.servers import LETTERS, data_folder, kept_port, postgres, refuse_taken_port, stored_secret, valkey
from service.settings import Settings, UnsafeSettings, environment, is_loopback

Child = subprocess.Popen[bytes]
SERVICE = (sys.executable, "-m", "service")
READY_SECONDS = 60
LAST_PORT = 65_535
NEXT_STEPS = """
  curl '{api}/products?limit=3'
  curl -X POST {api}/carts
{staff_step}README.md goes on from there. Ctrl-C stops everything and keeps the data.
"""
STAFF_STEP = """  curl {api}/orders -H "Authorization: Bearer $({python} -m service token --sub ada --role admin)"
"""


class Server(Protocol):
    """`postgres` or `valkey`."""

    def __call__(self, folder: Path, *, preferred_port: int) -> AbstractContextManager[str]: ...


def run(host: str, port: int) -> int:
    """Run API and worker, and each server that neither the environment nor `.env` names.

    Returns the exit status: 0 after SIGINT or SIGTERM, 1 when a child could not start or ended by itself.
    It needs a process of its own, because it handles the signals and waits for every child.
    """
    on_stop_signals(interrupt)
    # The stack stops the children in reverse order of their start.
    with ExitStack() as stack:
        try:
            everything = Everything(stack, data_folder(Path.cwd()), host, port)
            everything.start()
            everything.watch()
        except KeyboardInterrupt:
            print("\nStopping …", flush=True)
        except (CannotRun, UnsafeSettings) as error:
            print(error, file=sys.stderr, flush=True)
            return 1
        finally:
            on_stop_signals(ignore)
    return 0


def on_stop_signals(handler: Callable[[int, FrameType | None], None]) -> None:
    """Handle SIGINT and SIGTERM, even if a shell made them ignored for a background job."""
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, handler)


def interrupt(number: int, frame: FrameType | None) -> None:
    """Raise KeyboardInterrupt once: a second Ctrl-C must not interrupt the clean-up."""
    on_stop_signals(ignore)
    raise KeyboardInterrupt


def ignore(number: int, frame: FrameType | None) -> None:
    """Do nothing. With SIG_IGN, Python reports an error for a signal that arrived just before."""


@dataclass(slots=True)
class Everything:
    """The service and its servers as children of this process; closing `stack` stops them."""

    stack: ExitStack
    data: Path
    host: str
    port: int
    environ: dict[str, str] = field(default_factory=environment)
    children: dict[int, tuple[str, Path]] = field(default_factory=dict)  # process id: name, log
    # By command: the settings that it alone has.
    logins: dict[str, dict[str, str]] = field(default_factory=dict)

    def start(self) -> None:
        """Start every child and print the addresses. Raises CannotRun or UnsafeSettings."""
        self._lock()
        refuse_taken_port(self.host, self.port)
        print("Starting …", flush=True)
        # Where this machine reaches a service that listens on all addresses.
        local = {"0.0.0.0": "127.0.0.1", "::": "::1"}.get(self.host, self.host)  # noqa: S104
        api = f"http://{f'[{local}]' if ':' in local else local}:{self.port}"
        if "DATABASE_URL" not in self.environ:
            self._embed_database()
        if "REDIS_URL" not in self.environ:
            self.environ["REDIS_URL"] = self._embed("Valkey", valkey, 16379)
            _show("Valkey", self.environ["REDIS_URL"])
        if not self.environ.keys() & {"STRIPE_API_KEY", "STRIPE_API_BASE"}:
            self._embed_stripe(f"{api}/webhooks/stripe")
        # A stand-in named by STRIPE_API_BASE accepts any test key.
        self.environ.setdefault("STRIPE_API_KEY", "sk_test_standin")
        for outcome in ("success", "cancel"):
            self.environ.setdefault(f"STRIPE_{outcome.upper()}_URL", f"{api}/payments/{outcome}")
        settings = Settings.load(self.environ)
        settings.refuse_unsafe()
        settings.refuse_open_staff(self.host)
        if settings.metrics_port == LAST_PORT:
            raise UnsafeSettings("METRICS_PORT: 65534 at most, because the worker uses the next one.")
        # With a live key, the settings are refused above unless they name another identity provider or ADMIN_TOKEN.
        has_issuer = self._embed_issuer()
        for command in (("migrate",), ("seed", "--products", "300")):
            environ = {**self.environ, **self.logins.get(command[0], {})}
            complete([*SERVICE, *command], self._log(command[0]), environ=environ)
        service: list[Child] = []
        self.stack.callback(lambda: stop(*service))  # both in parallel
        service.append(api_process := self._spawn("serve", "--host", self.host, "--port", str(self.port)))
        environ = {**self.environ, **self.logins.get("worker", {})}
        if settings.metrics_port:
            # The API uses the port itself.
            environ["METRICS_PORT"] = str(settings.metrics_port + 1)
        service.append(self._spawn("worker", environ=environ))
        self._await_answer(api_process, local, self.port, "/health/ready")
        _show("API", api)
        _show("docs", f"{api}/docs")
        _show("data, logs", str(self.data))
        staff_step = STAFF_STEP.format(api=api, python=sys.executable) if has_issuer else ""
        print(NEXT_STEPS.format(api=api, staff_step=staff_step), flush=True)

    def watch(self, options: int = 0) -> None:
        """Wait for a child to end. Raises CannotRun, since a child ends by itself only when it fails."""
        process, status = os.waitpid(-1, options)
        if process:
            name, log = self.children.get(process, ("A child", self.data))
            code = os.waitstatus_to_exitcode(status)
            cause = f"exit status {code}" if code >= 0 else signal.Signals(-code).name
            raise CannotRun(f"{name} ended by itself ({cause}); the end of {log}:\n{tail(log)}")

    def _lock(self) -> None:
        """Refuse a second run on the same data: its servers would stop ours as orphans."""
        lock = self.stack.enter_context((self.data / "lock").open("a+"))
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            lock.seek(0)
            raise CannotRun(f"Process {lock.read()} already runs on {self.data}: stop it first.") from None
        lock.truncate(0)
        print(os.getpid(), end="", file=lock, flush=True)

    def _embed(self, name: str, server: Server, port: int) -> str:
        """Start a server, the first time on `port` if that is free, and return its URL."""
        folder = self.data / name.lower()
        url = self.stack.enter_context(server(folder, preferred_port=port))
        self.children[int((folder / "pid").read_text())] = (name, folder / "log")
        return url

    def _embed_database(self) -> None:
        """Start PostgreSQL, with a role and a password for each process; none can log in as another."""
        administrator_url = self._embed("PostgreSQL", postgres, 15432)
        passwords = {role: stored_secret(self.data / f"{role}_password") for role in ROLES}
        _know_letters(administrator_url)
        make_roles(administrator_url, passwords)
        urls = {role: login(administrator_url, role, password) for role, password in passwords.items()}
        _show("PostgreSQL", urls["commerce_owner"])
        self.environ["DATABASE_URL"] = urls["commerce_app"]
        self.logins = {
            "migrate": {"MIGRATE_DATABASE_URL": urls["commerce_owner"]},
            "worker": {"DATABASE_URL": urls["commerce_worker"]},
        }

    def _embed_stripe(self, webhook_url: str) -> None:
        """Start the stand-in and point the service at it. Its data persist, like the orders that it has paid."""
        # Payment pages that are open, or stored in orders, have its address.
        port, database = kept_port(self.data / "stripe_port", 12111), str(self.data / "stripe.sqlite3")
        secret = self.environ.setdefault("STRIPE_WEBHOOK_SECRET", stored_secret(self.data / "webhook_secret"))
        self.environ["STRIPE_API_BASE"] = f"http://127.0.0.1:{port}"
        options = ("--port", str(port), "--webhook-url", webhook_url, "--data", database)
        # The stand-in signs with one secret; the service may accept several.
        environ = {**self.environ, "STRIPE_WEBHOOK_SECRET": secret.split(",")[0].strip()}
        process = self._spawn("standin", *options, environ=environ)
        self.stack.callback(stop, process)
        self._await_answer(process, "127.0.0.1", port, "/_control/requests")
        _show("Stripe", f"http://127.0.0.1:{port} (a stand-in)")

    def _embed_issuer(self) -> bool:
        """Start the development issuer, unless the shop has its own staff or others can connect; whether it runs."""
        if self.environ.keys() & {"ADMIN_TOKEN", "AUTH_ISSUER"}:
            return False
        if not is_loopback(self.host):
            _show("issuer", f"none, because --host {self.host} is not a loopback address")
            return False
        port = issuer_port(self.data)
        # It gets none of the service's secrets.
        environ = {name: value for name, value in self.environ.items() if name.lower() not in Settings.model_fields}
        process = self._spawn("issuer", environ=environ)
        self.stack.callback(stop, process)
        self._await_answer(process, "127.0.0.1", port, "/.well-known/openid-configuration")
        self.environ |= {"AUTH_ISSUER": issuer_url(port), "AUTH_AUDIENCE": AUDIENCE}
        _show("issuer", f"{issuer_url(port)} (demo users sign in without a password)")
        return True

    def _spawn(self, name: str, *options: str, environ: Mapping[str, str] | None = None) -> Child:
        """Start one of the service's commands."""
        process = spawn([*SERVICE, name, *options], self._log(name), environ=environ or self.environ)
        self.children[process.pid] = (name, self._log(name))
        return process

    def _log(self, name: str) -> Path:
        folder = self.data / "log"
        folder.mkdir(mode=0o700, exist_ok=True)
        return folder / f"{'api' if name == 'serve' else name}.log"

    def _await_answer(self, process: Child, host: str, port: int, path: str) -> None:
        """Wait until a GET answers 200. Raises CannotRun when a child ends first, or after READY_SECONDS."""
        deadline, answer = time.monotonic() + READY_SECONDS, "no answer"
        while time.monotonic() < deadline:
            self.watch(os.WNOHANG)
            connection = HTTPConnection(host, port, timeout=5)
            with suppress(OSError, HTTPException), closing(connection):
                connection.request("GET", path)
                response = connection.getresponse()
                if response.status == 200:
                    return
                answer = f"{response.status} {response.read(2000).decode(errors='replace')}"
            time.sleep(0.05)
        name, log = self.children[process.pid]
        raise CannotRun(f"{name} is not ready after {READY_SECONDS} s: {answer}\n{tail(log)}")


def _know_letters(administrator_url: str) -> None:
    """Change the LC_CTYPE of databases from before the search. Nothing in them depends on it: text sorts by C.UTF-8."""
    with psycopg.connect(administrator_url) as connection:
        connection.execute(
            "UPDATE pg_database SET datctype = %s WHERE datctype = 'C' AND datlocprovider = 'b'", [LETTERS]
        )


def _show(name: str, address: str) -> None:
    """Print the address of a part that is ready."""
    print(f"  {name:<12}{address}", flush=True)
