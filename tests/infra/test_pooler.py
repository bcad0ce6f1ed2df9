"""The service behind PgBouncer in transaction mode, configured as docs/operations.md says."""

import asyncio
import os
import re
import subprocess
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import urlsplit

import asyncpg
import psycopg
import pytest

from service.app import STATEMENT_SECONDS, create_app
from service.dev import servers
from service.dev.processes import spawn, stop, tail
from service.dev.roles import ROLES
from service.dev.servers import free_port, scratch_folder
from service.dev.stripe_standin import StripeStandin
from service.errors import ShopError
from service.infra.db import LIMITS, Pool
from service.infra.migrations import migrate
from service.infra.statements import SQL, files, split
from service.settings import Settings
from service.worker import work
from tests.client import Shop
from tests.conftest import PASSWORDS, login, served
from tests.queries import on
from tests.tools import require_programs

OPERATIONS = (Path(__file__).parents[2] / "docs" / "operations.md").read_text()
# PGBOUNCER names one more program, for example a newer one.
PROGRAMS = ["pgbouncer", *filter(None, [os.environ.get("PGBOUNCER")])]
# Fewer than the service's connections, so that its clients share them.
SERVER_CONNECTIONS = 3
START_SECONDS = 10


@dataclass
class Pooler:
    """A running PgBouncer: the URL of this test's database through it, and whether it follows prepared statements."""

    url: str
    follows_statements: bool

    def settings(self, settings: Settings, role: str) -> Settings:
        """The settings of a process of this role that connects through it."""
        cache = settings.db_statement_cache_size if self.follows_statements else 0
        changes = {"database_url": login(self.url, role), "db_statement_cache_size": cache}
        return settings.model_copy(update=changes)


@pytest.fixture(params=PROGRAMS)
def pooler(request: pytest.FixtureRequest, database_url: str) -> Iterator[Pooler]:
    """PgBouncer in front of this test's database."""
    (program,) = require_programs(request.param)
    version = subprocess.check_output([program, "--version"], text=True)
    follows = tuple(map(int, re.findall(r"\d+", version)[:2])) >= (1, 21)
    server, port = urlsplit(database_url), free_port()
    lines = re.search(r"(?<=    \[pgbouncer\]\n)(    .*\n)+", OPERATIONS)
    assert lines is not None
    values = dict(re.findall(r"(\w+) = (.*)", lines[0]))
    if not follows:
        values.pop("max_prepared_statements")
    with scratch_folder() as folder:
        values |= {"listen_addr": "127.0.0.1", "listen_port": str(port), "unix_socket_dir": ""}
        values |= {"auth_file": str(folder / "userlist.txt"), "default_pool_size": str(SERVER_CONNECTIONS)}
        target = f"host={server.hostname} port={server.port} dbname={server.path[1:]}"
        (folder / "pgbouncer.ini").write_text(
            "\n".join([f"[databases]\nshop = {target}\n[pgbouncer]", *(f"{k} = {v}" for k, v in values.items())])
        )
        (folder / "userlist.txt").write_text("".join(f'"{role}" "{PASSWORDS[role]}"\n' for role in ROLES))
        for name in ("pgbouncer.ini", "userlist.txt"):
            (folder / name).chmod(0o644)
        log = folder / "log"
        # It refuses to run as root.
        process = spawn([program, folder / "pgbouncer.ini"], log, account=servers._account())
        try:
            for _ in range(START_SECONDS * 100):
                if "process up" in log.read_text() or process.poll() is not None:
                    break
                time.sleep(0.01)
            assert process.poll() is None, tail(log)
            yield Pooler(f"postgresql://x:x@127.0.0.1:{port}/shop", follows)
        finally:
            stop(process)


async def test_purchases_are_fulfilled(
    pooler: Pooler, settings: Settings, worker_settings: Settings, stripe: StripeStandin, database: asyncpg.Connection
) -> None:
    """Twelve customers buy at a time, with API and worker on the same few server connections."""
    stopping = asyncio.Event()
    async with served(create_app(pooler.settings(settings, "app"))) as url, Shop(url) as shop:
        stripe.webhook_url = f"{url}/webhooks/stripe"
        working = asyncio.create_task(work(pooler.settings(worker_settings, "worker"), stopping))
        try:
            tent = await shop.create_product(stock=100)

            async def buy() -> None:
                order = await shop.checked_out_cart((tent["id"], 1))
                stripe.pay(order["payment"]["stripe_session_id"])
                await shop.wait_for_order(order["order_id"], "FULFILLED")

            await asyncio.gather(*(buy() for _ in range(12)))

            assert await shop.get_stock(tent["id"]) == 88
            ready = await shop.call("GET", "/health/ready", 200)
            assert (ready["postgresql"], ready["worker"]) == ("ok", "ok")
        finally:
            stopping.set()
            await working
    # An advisory lock of a session would stay with the pooler's connection.
    assert await database.fetchval("SELECT count(*) FROM pg_locks WHERE locktype = 'advisory'") == 0


async def test_the_limits_hold_though_the_pooler_drops_what_the_service_sends(
    pooler: Pooler, settings: Settings
) -> None:
    pool = Pool(pooler.settings(settings, "app"), "commerce-tests", statement_seconds=7)

    values = [await on(pool).fetchval("SELECT current_setting($1)", name) for name in LIMITS]

    await pool.aclose()
    assert dict(zip(LIMITS, values, strict=True)) == LIMITS | {"statement_timeout": f"{STATEMENT_SECONDS}s"}


async def test_a_migration_through_a_pooler_is_refused(pooler: Pooler, database: asyncpg.Connection) -> None:
    with pytest.raises(ShopError, match="MIGRATE_DATABASE_URL leads to a pooler"):
        await migrate(login(pooler.url, "owner"))

    assert await database.fetchval("SELECT count(*) FROM pg_locks WHERE locktype = 'advisory'") == 0


def test_psycopg_knows_the_process_of_a_server_without_a_pooler(database_url: str) -> None:
    """Otherwise `migrate` would take every server for a pooler."""
    with psycopg.connect(database_url) as session:
        assert session.execute("SELECT pg_backend_pid()").fetchone() == (session.info.backend_pid,)


SESSION = re.compile(r"\bpg_(try_)?advisory_(un)?lock|\b(currval|lastval|set_config|pg_notify)\(", re.IGNORECASE)


@pytest.mark.parametrize("name", sorted(set(files()) - {"migrations/lock_migrations"}))
def test_no_statement_leaves_anything_in_its_session(name: str) -> None:
    """Another client gets the session after the transaction. `migrate` refuses a pooler."""
    _, sql = split((SQL / f"{name}.sql").read_text())

    assert sql.split()[0] in ("SELECT", "INSERT", "UPDATE", "DELETE", "WITH")
    assert not SESSION.search(sql)
