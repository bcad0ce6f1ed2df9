"""Everything at once, from nothing: `make run`."""

import fcntl
import os
import signal
import socket
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

from service.dev.roles import ROLES, login, make_roles
from service.dev.servers import (
    CannotRun,
    complete,
    data_folder,
    free_port,
    kept_secret,
    postgres,
    spawn,
    stop,
    tail,
    valkey,
)
from service.settings import Settings, UnsafeSettings, environment

Child = subprocess.Popen[bytes]
SERVICE = (sys.executable, "-m", "service")
READY_SECONDS = 60
NEXT_STEPS = """
  curl '{api}/products?limit=3'
  curl -X POST {api}/carts
README.md goes on from there. Ctrl-C stops everything and keeps the data.
"""


class Server(Protocol):
    """`postgres` or `valkey`."""

    def __call__(self, folder: Path, *, port: int) -> AbstractContextManager[str]: ...


def run(host: str, port: int) -> int:
    """Run API and worker, and what they need as far as the environment and `.env` do not name it.

    Answers the exit status: 0 after SIGINT or SIGTERM, 1 when something could not start or ended by itself.
    It has to be all that its process does, since it takes the signals over and waits for every child.
    """
    on_stop_signals(interrupt)
    # Unwound backwards: what was started last is stopped first.
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
            on_stop_signals(no_matter)
    return 0


def on_stop_signals(handler: Callable[[int, FrameType | None], None]) -> None:
    """Handle SIGINT and SIGTERM, also where a shell had them ignored for what it runs in the background."""
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, handler)


def interrupt(number: int, frame: FrameType | None) -> None:
    """Raise KeyboardInterrupt, but once: a second Ctrl-C must not cut the stopping short."""
    on_stop_signals(no_matter)
    raise KeyboardInterrupt


def no_matter(number: int, frame: FrameType | None) -> None:
    """Do nothing. Not SIG_IGN: Python complains of a signal that arrived just before it was ignored."""


@dataclass(slots=True)
class Everything:
    """The service with all its resources as children of this process, stopped by the stack that it is given."""

    stack: ExitStack
    data: Path
    host: str
    port: int
    environ: dict[str, str] = field(default_factory=environment)
    children: dict[int, tuple[str, Path]] = field(default_factory=dict)  # process id: name, log
    addresses: dict[str, str] = field(default_factory=dict)

    def start(self) -> None:
        """Start all that is needed and print where it is. Raises CannotRun or UnsafeSettings."""
        self._lock()
        refuse_taken_port(self.host, self.port)
        print("Starting …", flush=True)
        # The same service as this machine reaches it, for a host that means all of its addresses.
        local = {"0.0.0.0": "127.0.0.1", "::": "::1"}.get(self.host, self.host)  # noqa: S104
        api = f"http://{f'[{local}]' if ':' in local else local}:{self.port}"
        self.addresses |= {"API": api, "docs": f"{api}/docs"}
        workers: dict[str, str] = {}
        if "DATABASE_URL" not in self.environ:
            workers = self._embed_database()
        if "REDIS_URL" not in self.environ:
            self.environ["REDIS_URL"] = self._embed("Valkey", valkey, 16379)
        if not self.environ.keys() & {"STRIPE_API_KEY", "STRIPE_API_BASE"}:
            self._embed_stripe(f"{api}/webhooks/stripe")
        # Somebody else's stand-in takes any test key.
        self.environ.setdefault("STRIPE_API_KEY", "sk_test_standin")
        for outcome in ("success", "cancel"):
            self.environ.setdefault(f"STRIPE_{outcome.upper()}_URL", f"{api}/payments/{outcome}")
        settings = Settings.load(self.environ)
        settings.refuse_unsafe()
        for command in (("migrate",), ("seed", "--products", "300")):
            complete([*SERVICE, *command], self._log(command[0]), environ=self.environ)
        service: list[Child] = []
        self.stack.callback(lambda: stop(*service))  # both at once
        service.append(api_process := self._spawn("serve", "--host", self.host, "--port", str(self.port)))
        if settings.metrics_port:
            # The port itself is the API's.
            workers["METRICS_PORT"] = str(settings.metrics_port + 1)
        service.append(self._spawn("worker", environ={**self.environ, **workers}))
        self._await_answer(api_process, local, self.port, "/health/ready")
        self.addresses["data, logs"] = str(self.data)
        for name, address in self.addresses.items():
            print(f"  {name:<12}{address}")
        print(NEXT_STEPS.format(api=api), flush=True)

    def watch(self, options: int = 0) -> None:
        """Wait for a child to end, which none does by itself unless it failed: raises CannotRun then."""
        process, status = os.waitpid(-1, options)
        if process:
            name, log = self.children.get(process, ("A child", self.data))
            code = os.waitstatus_to_exitcode(status)
            how = f"exit status {code}" if code >= 0 else signal.Signals(-code).name
            raise CannotRun(f"{name} ended by itself ({how}); the end of {log}:\n{tail(log)}")

    def _lock(self) -> None:
        """Refuse a second run on the same data, whose servers would take these for orphans."""
        lock = self.stack.enter_context((self.data / "lock").open("a+"))
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            lock.seek(0)
            raise CannotRun(f"Process {lock.read()} already runs on {self.data}: stop it first.") from None
        lock.truncate(0)
        print(os.getpid(), end="", file=lock, flush=True)

    def _embed(self, name: str, server: Server, port: int) -> str:
        """Start a server, on the same port each time if it is free; answer its URL."""
        folder = self.data / name.lower()
        url = self.stack.enter_context(server(folder, port=free_port(port)))
        self.children[int((folder / "pid").read_text())] = (name, folder / "log")
        self.addresses[name] = url
        return url

    def _embed_database(self) -> dict[str, str]:
        """Start PostgreSQL, with a role for each process; answer what the worker's environment has of its own."""
        administrator_url = self._embed("PostgreSQL", postgres, 15432)
        password = kept_secret(self.data / "roles_password")
        make_roles(administrator_url, password)
        urls = {role: login(administrator_url, role, password) for role in ROLES}
        self.addresses["PostgreSQL"] = urls["commerce_owner"]
        self.environ |= {"DATABASE_URL": urls["commerce_app"], "MIGRATE_DATABASE_URL": urls["commerce_owner"]}
        return {"DATABASE_URL": urls["commerce_worker"]}

    def _embed_stripe(self, webhook_url: str) -> None:
        """Start the stand-in and point the service at it; its sessions are kept like the orders they pay."""
        port, database = free_port(12111), str(self.data / "stripe.sqlite3")
        secret = self.environ.setdefault("STRIPE_WEBHOOK_SECRET", kept_secret(self.data / "webhook_secret"))
        self.addresses["Stripe"] = f"http://127.0.0.1:{port} (a stand-in)"
        self.environ["STRIPE_API_BASE"] = f"http://127.0.0.1:{port}"
        options = ("--port", str(port), "--webhook-url", webhook_url, "--data", database)
        # It signs with one secret, while the service may accept several.
        environ = {**self.environ, "STRIPE_WEBHOOK_SECRET": secret.split(",")[0].strip()}
        process = self._spawn("standin", *options, environ=environ)
        self.stack.callback(stop, process)
        self._await_answer(process, "127.0.0.1", port, "/_control/requests")

    def _spawn(self, name: str, *options: str, environ: Mapping[str, str] | None = None) -> Child:
        """Start one of the service's own commands."""
        process = spawn([*SERVICE, name, *options], self._log(name), environ=environ or self.environ)
        self.children[process.pid] = (name, self._log(name))
        return process

    def _log(self, name: str) -> Path:
        folder = self.data / "log"
        folder.mkdir(mode=0o700, exist_ok=True)
        return folder / f"{'api' if name == 'serve' else name}.log"

    def _await_answer(self, process: Child, host: str, port: int, path: str) -> None:
        """Wait for a GET to answer 200. Raises CannotRun when a child ends first, or after READY_SECONDS."""
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


def refuse_taken_port(host: str, port: int) -> None:
    """Raise CannotRun when the API could not listen there."""
    try:
        socket.create_server((host, port), family=socket.AF_INET6 if ":" in host else socket.AF_INET).close()
    except OSError as error:
        reason = str(error.strerror).partition(" (")[0]
        raise CannotRun(f"Cannot use port {port}: {reason}. Choose another: `make run PORT=8081`, or --port.") from None
