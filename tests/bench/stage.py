"""The servers that a benchmark runs on, which are started for it and stopped after it."""

import os
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, closing, contextmanager, suppress
from dataclasses import dataclass, field
from http.client import HTTPConnection, HTTPException
from pathlib import Path
from urllib.parse import urlsplit

import orjson
import psycopg
import redis

from service.dev.processes import CannotRun, complete, spawn, stop, tail
from service.dev.servers import free_port, postgres, valkey
from tests.bench.load import Tables
from tests.bench.machine import ROOT

# fsync, synchronous_commit and full_page_writes stay on. These settings are what any operator would change.
POSTGRES = {"shared_buffers": "512MB", "max_wal_size": "8GB", "checkpoint_timeout": "30min"}
TEMPLATE = "bench_template"
# The past orders of a shop that has been open for some time.
HISTORY = 10_000
WEBHOOK_SECRET = "whsec_of_the_bench"
AUDIT_RUNS = 20
READY_SECONDS = 60
UVICORN = (sys.executable, "-m", "uvicorn", "--loop", "uvloop", "--http", "httptools", "--no-access-log")
QUIET = ("--log-level", "warning")


@dataclass(slots=True)
class Child:
    """A started server: its URL, its process, and the seconds until it was ready."""

    url: str
    process: subprocess.Popen[bytes]
    ready_seconds: float = 0.0


@dataclass(slots=True)
class Shop:
    """The service and the stand-in."""

    api: Child
    stripe: Child
    worker: Child | None


@dataclass(slots=True)
class Stage:
    """PostgreSQL, Valkey and the processes started beside them; everything stops with the stack."""

    stack: ExitStack
    folder: Path
    rounds: int
    seconds: float
    orders: int
    database_url: str = ""
    redis_url: str = ""
    _made: dict[str, tuple[str, Tables]] = field(default_factory=dict)
    _redis: dict[str, int] = field(default_factory=dict)

    def open(self) -> None:
        """Start the servers and create the migrated template database."""
        self.database_url = self.stack.enter_context(postgres(self.folder / "postgres", options=POSTGRES))
        self.redis_url = self.stack.enter_context(valkey(self.folder / "valkey"))
        url = self._create(TEMPLATE)
        complete([sys.executable, "-m", "service", "migrate"], self._log("migrate"), environ=self.environ(url))
        with psycopg.connect(url, autocommit=True) as connection:
            connection.execute("CREATE EXTENSION pg_stat_statements")

    def database(self, name: str, products: int, history: int = HISTORY) -> tuple[str, Tables]:
        """The URL and tables of a migrated database with so many products and past orders, created on first use.

        Past orders are there because PostgreSQL would otherwise plan for empty tables, and keep the plans.
        """
        if name not in self._made:
            url = self._create(name, TEMPLATE)
            connection = self.stack.enter_context(psycopg.connect(url, autocommit=True))
            tables = Tables(connection)
            tables.add_products(products)
            if history:
                tables.add_orders(history, done=True)
            tables.settle()
            self._made[name] = (url, tables)
        return self._made[name]

    def environ(self, database_url: str, **settings: str) -> dict[str, str]:
        """The environment of the service's processes, without the user's own settings."""
        inherited = {name: os.environ[name] for name in ("PATH", "HOME", "LANG", "TMPDIR") if name in os.environ}
        # Each database has its own Redis database: two workers on one queue would take each other's jobs.
        number = self._redis.setdefault(urlsplit(database_url).path, len(self._redis))
        return {
            **inherited,
            "PYTHONPATH": str(ROOT),
            "DATABASE_URL": database_url,
            "REDIS_URL": urlsplit(self.redis_url)._replace(path=f"/{number}").geturl(),
            "STRIPE_API_KEY": "sk_test_bench",
            "STRIPE_WEBHOOK_SECRET": WEBHOOK_SECRET,
            # All requests come from one address.
            "MAX_PENDING_PER_CLIENT": "0",
            **settings,
        }

    @contextmanager
    def child(
        self, name: str, command: tuple[str, ...], url: str, path: str, environ: Mapping[str, str]
    ) -> Iterator[Child]:
        """A process in a folder without `.env`; it is ready when a GET of `path` answers."""
        start = time.monotonic()
        process = spawn(command, self._log(name), folder=self.folder, environ=environ)
        try:
            self._await_answer(name, process, url, path)
            yield Child(url, process, time.monotonic() - start)
        finally:
            stop(process)

    @contextmanager
    def bare(self) -> Iterator[Child]:
        """The bare ASGI callable."""
        port = free_port()
        command = (*UVICORN, *QUIET, "--port", str(port), "tests.bench.references:bare")
        with self.child("bare", command, local(port), "/", self.environ(self.database_url)) as child:
            yield child

    @contextmanager
    def references(self, database_url: str) -> Iterator[Child]:
        """FastAPI with the reference routes."""
        port = free_port()
        command = (*UVICORN, *QUIET, "--port", str(port), "tests.bench.references:app")
        with self.child("references", command, local(port), "/hello", self.environ(database_url)) as child:
            yield child

    @contextmanager
    def api(self, database_url: str, *, workers: int = 1, port: int = 0, **settings: str) -> Iterator[Child]:
        """The API as an operator starts it, with an empty Redis."""
        port = port or free_port()
        command = (sys.executable, "-m", "service", "serve", "--port", str(port), "--workers", str(workers))
        environ = self.environ(database_url, **settings)
        with redis.Redis.from_url(environ["REDIS_URL"]) as client:
            client.flushdb()
        with self.child("api", command, local(port), "/health/ready", environ) as child:
            yield child

    @contextmanager
    def reserving(self, database_url: str, **settings: str) -> Iterator[Child]:
        """The API with one more route, which only reserves."""
        port = free_port()
        command = (sys.executable, "-m", "tests.bench.reserve_app", str(port))
        with self.child(
            "reserving", command, local(port), "/health/ready", self.environ(database_url, **settings)
        ) as child:
            yield child

    @contextmanager
    def shop(self, database_url: str, *, worker: bool, **settings: str) -> Iterator[Shop]:
        """API, Stripe stand-in and, where `worker` is true, the worker; `settings` are the worker's."""
        stripe_port, api_port = free_port(), free_port()
        stripe_url = local(stripe_port)
        command = (sys.executable, "-m", "service", "standin", "--port", str(stripe_port))
        command = (*command, "--webhook-url", f"{local(api_port)}/webhooks/stripe")
        environ = self.environ(database_url, STRIPE_API_BASE=stripe_url)
        with ExitStack() as stack:
            stripe = stack.enter_context(self.child("stripe", command, stripe_url, "/_control/requests", environ))
            api = stack.enter_context(self.api(database_url, port=api_port, STRIPE_API_BASE=stripe_url))
            working = None
            if worker:
                port = free_port()
                environ = {**environ, "METRICS_PORT": str(port), **settings}
                command = (sys.executable, "-m", "service", "worker")
                working = stack.enter_context(self.child("worker", command, local(port), "/metrics", environ))
            yield Shop(api, stripe, working)

    @contextmanager
    def delayed(self, database_url: str, seconds: float) -> Iterator[str]:
        """The URL of the same database behind a delay of `seconds` in each direction."""
        address = urlsplit(database_url)
        port = free_port()
        command = (sys.executable, "-m", "tests.bench.delay", str(port), str(address.port), str(seconds))
        process = spawn(command, self._log("delay"), folder=self.folder, environ=self.environ(database_url))
        try:
            deadline = time.monotonic() + READY_SECONDS
            while "ready" not in tail(self.folder / "delay.log"):
                if process.poll() is not None or time.monotonic() > deadline:
                    raise CannotRun(f"The delaying proxy did not start:\n{tail(self.folder / 'delay.log')}")
                time.sleep(0.01)
            yield address._replace(netloc=f"{address.netloc.rpartition(':')[0]}:{port}").geturl()
        finally:
            stop(process)

    def audit(self, database_url: str) -> None:
        """Raise CannotRun when the audit finds a violation: such a figure is worthless."""
        command = [sys.executable, "-m", "service", "audit"]
        for runs_left in reversed(range(AUDIT_RUNS)):
            try:
                complete(command, self._log("audit"), environ=self.environ(database_url))
                return
            except CannotRun as failed:
                # Each run of a rule has a limit. In large tables the next one goes on.
                if not runs_left or "goes on at the next run" not in str(failed):
                    raise

    def _create(self, name: str, template: str = "template1") -> str:
        with psycopg.connect(self.database_url, autocommit=True) as connection:
            connection.execute(f"CREATE DATABASE {name} TEMPLATE {template}")
        return urlsplit(self.database_url)._replace(path=f"/{name}").geturl()

    def _log(self, name: str) -> Path:
        return self.folder / f"{name}.log"

    def _await_answer(self, name: str, process: subprocess.Popen[bytes], url: str, path: str) -> None:
        deadline = time.monotonic() + READY_SECONDS
        host, port = url.removeprefix("http://").split(":")
        while time.monotonic() < deadline:
            if process.poll() is not None:
                break
            connection = HTTPConnection(host, int(port), timeout=5)
            with suppress(OSError, HTTPException), closing(connection):
                connection.request("GET", path)
                if connection.getresponse().status == 200:
                    return
            time.sleep(0.005)
        raise CannotRun(f"{name} did not start:\n{tail(self._log(name))}")


def control(stripe: Child, method: str, path: str, body: object) -> None:
    """Call the stand-in's control API; see its control.py."""
    host, port = stripe.url.removeprefix("http://").split(":")
    with closing(HTTPConnection(host, int(port), timeout=30)) as connection:
        connection.request(method, f"/_control{path}", orjson.dumps(body), {"Content-Type": "application/json"})
        answer = connection.getresponse()
        if answer.status != 200:
            raise CannotRun(f"{method} {path}: {answer.status} {answer.read().decode()}")


def local(port: int) -> str:
    """The URL of a port on this machine."""
    return f"http://127.0.0.1:{port}"
