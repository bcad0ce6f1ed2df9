"""What a DBA sees of us in the server's own views: which process, under which role, is at which file."""

import asyncio
import os
import re
import sys
from datetime import UTC, datetime
from pathlib import Path
from typing import Any
from uuid import uuid4

import asyncpg

from service.dev.servers import postgres, scratch_folder
from service.infra.migrations import migrate
from service.infra.statements import Statement, files
from service.settings import Settings
from tests.client import Shop, eventually
from tests.conftest import login

# A value for each type of parameter, and what else a CHECK wants: a statement that fails is not counted.
VALUES: dict[str, Any] = {
    "bool": True,
    "bytea": bytes(32),
    "float8": 1.0,
    "int4": 200,
    "int8": 50,
    "jsonb": "{}",
    "text": "EUR",
    "timestamptz": datetime(2100, 1, 1, tzinfo=UTC),
    "uuid": uuid4(),
}
WORDS = {("refunds/add_refund", 4): "staff", ("refunds/record_refund", 4): "SUCCEEDED"}


async def test_each_statement_is_counted_under_its_file() -> None:
    # A server of its own, since it has to load the library when it starts.
    options = {"shared_preload_libraries": "pg_stat_statements"}
    with scratch_folder() as folder, postgres(folder, durable=False, options=options) as url:
        await migrate(url)
        # So that references are not checked.
        database = await asyncpg.connect(url, server_settings={"session_replication_role": "replica"})
        await database.execute("CREATE EXTENSION pg_stat_statements")
        for name in files():
            prepared = await database.prepare(Statement(name).sql)
            types = [parameter.name for parameter in prepared.get_parameters()]
            values = [[VALUES[kind[:-2]]] if kind.endswith("[]") else VALUES[kind] for kind in types]
            await prepared.fetch(*(WORDS.get((name, place), value) for place, value in enumerate(values)))
        counted = await database.fetch(
            "SELECT query FROM pg_stat_statements WHERE calls > 0 AND query ~ '^\\w+ /\\*action='"
        )
        await database.close()
    assert sorted(re.findall(r"^\w+ /\*action='(\S+)'\*/", query)[0] for (query,) in counted) == files()


async def test_each_process_is_seen_under_its_name_and_role_at_its_statement(
    shop: Shop,
    settings: Settings,
    worker_settings: Settings,
    database: asyncpg.Connection,
    database_url: str,
    tmp_path: Path,
) -> None:
    """All are stopped at a lock, each for as long as its lock_timeout allows."""
    commands = {
        "worker": worker_settings.database_url,
        "replay evt_1": worker_settings.database_url,
        "seed": settings.database_url,
        "audit": login(database_url, "readonly"),
        "migrate": settings.database_url,
    }
    given = {"REDIS_URL": settings.redis_url, "MIGRATE_DATABASE_URL": settings.migrate_database_url}
    given |= {"STRIPE_API_KEY": settings.stripe_api_key, "STRIPE_WEBHOOK_SECRET": settings.stripe_webhook_secret[0]}
    expected = {
        ("commerce_app", "commerce-api", "catalog/list_categories"),
        ("commerce_app", "commerce-seed", "seed/has_products"),
        ("commerce_owner", "commerce-migrate", None),
        ("commerce_readonly", "commerce-audit", "audit/cart_lines_have_products"),
        ("commerce_worker", "commerce-replay", "webhooks/read_event"),
        ("commerce_worker", "commerce-worker", "sweep/claim_orders"),
    }
    seen: set[tuple[str, str, str | None]] = set()

    async def all_were_seen() -> bool:
        seen.update(
            tuple(row)
            for row in await database.fetch(
                "SELECT usename, application_name, substring(query FROM '^\\w+ /\\*action=''(\\S+)''\\*/')"
                " FROM pg_stat_activity WHERE datname = current_database() AND wait_event_type = 'Lock'"
            )
        )
        return expected <= seen

    locker = await asyncpg.connect(database_url)
    await locker.execute("BEGIN")
    await locker.execute("LOCK TABLE categories, products, orders, stripe_events, _yoyo_migration")
    processes = [
        await asyncio.create_subprocess_exec(
            *(sys.executable, "-m", "service", *command.split()),
            env={**os.environ, **given, "DATABASE_URL": url},
            cwd=tmp_path,
            stdout=asyncio.subprocess.DEVNULL,
            stderr=asyncio.subprocess.DEVNULL,
        )
        for command, url in commands.items()
    ]
    asking = asyncio.create_task(shop.http.get("/categories"))
    try:
        await eventually(all_were_seen, 40)
    finally:
        await locker.close()
        for process in processes:
            if process.returncode is None:
                process.kill()
            await process.wait()
        await asking
    # Whoever waits in this database says who it is, and at what.
    assert {name for _, _, name in seen} - {None} <= set(files())
    assert {(role, name) for role, name, file in seen if file is None} == {("commerce_owner", "commerce-migrate")}
