"""The server's own views name our processes, their roles and the files of their statements."""

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

# A value for each type of parameter. A statement that fails is not counted, so the values satisfy the CHECKs.
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
VALUES_BY_PARAMETER = {
    ("access/add_key", 0): "euros",
    ("access/add_key", 3): ["stock:write"],
    ("audit_log/add_entry", 1): "erase",
    ("audit_log/add_entry", 2): "order:1",
    ("catalog/create_category", 1): "euros",
    ("catalog/update_category", 2): "euros",
    ("event_endpoints/create_endpoint", 1): ["order.paid"],
    ("event_endpoints/update_endpoint", 2): ["order.paid"],
    ("search/index_products", 1): "simple",
    ("search/split_query", 1): "simple",
    ("seed/add_category", 1): "euros",
    ("refunds/add_refund", 4): "staff",
    ("refunds/record_refund", 4): "FAILED",
    ("stuck/add_item", 0): "refund_open",
    ("settlement/replace_cart", 2): uuid4(),
    ("transitions/add_note", 1): "PAID",
    **{
        (name, place): "admin"
        for name in files()
        for place, parameter in enumerate(Statement(name).parameters)
        if parameter == "actor"
    },
}


async def test_each_statement_is_counted_under_its_file() -> None:
    # A separate server, because the library has to be loaded at its start.
    options = {"shared_preload_libraries": "pg_stat_statements"}
    with scratch_folder() as folder, postgres(folder, durable=False, options=options) as url:
        await migrate(url)
        # The role `replica` does not check foreign keys.
        database = await asyncpg.connect(url, server_settings={"session_replication_role": "replica"})
        await database.execute("CREATE EXTENSION pg_stat_statements")
        for name in files():
            prepared = await database.prepare(Statement(name).sql)
            types = [parameter.name for parameter in prepared.get_parameters()]
            values = [[VALUES[kind[:-2]]] if kind.endswith("[]") else VALUES[kind] for kind in types]
            await prepared.fetch(*(VALUES_BY_PARAMETER.get((name, place), value) for place, value in enumerate(values)))
        counted = await database.fetch(
            "SELECT query FROM pg_stat_statements WHERE calls > 0 AND query ~ '^\\w+ /\\*action='"
        )
        await database.close()
    assert sorted(re.findall(r"^\w+ /\*action='(\S+)'\*/", query)[0] for (query,) in counted) == files()


async def test_pg_stat_activity_names_each_process_its_role_and_its_statement(
    shop: Shop,
    settings: Settings,
    worker_settings: Settings,
    database: asyncpg.Connection,
    database_url: str,
    tmp_path: Path,
) -> None:
    """Each process appears with its application name, its role and the file of its statement.

    Method: lock the tables that the first statements need, start every process, and read pg_stat_activity while they
    wait for the locks.
    """
    commands = {
        "worker": worker_settings.database_url,
        "replay evt_1": worker_settings.database_url,
        "seed": settings.database_url,
        "audit --read-only": login(database_url, "readonly"),
        "erase 1": login(database_url, "eraser"),
        "migrate": settings.database_url,
    }
    environment = {"REDIS_URL": settings.redis_url, "MIGRATE_DATABASE_URL": settings.migrate_database_url}
    environment |= {
        "STRIPE_API_KEY": settings.stripe_api_key,
        "STRIPE_WEBHOOK_SECRET": settings.stripe_webhook_secret[0],
    }
    expected = {
        ("commerce_app", "commerce-api", "catalog/list_categories"),
        ("commerce_app", "commerce-seed", "seed/find_newest_product"),
        ("commerce_eraser", "commerce-erase", "erasure/find_by_number"),
        ("commerce_owner", "commerce-migrate", None),
        ("commerce_readonly", "commerce-audit", "audit/nothing_is_overdue"),
        ("commerce_worker", "commerce-replay", "webhooks/read_event"),
        ("commerce_worker", "commerce-worker", "sweep/measure_backlog"),
    }
    waiting: set[tuple[str, str, str | None]] = set()

    async def all_wait() -> bool:
        waiting.update(
            tuple(row)
            for row in await database.fetch(
                "SELECT usename, application_name, substring(query FROM '^\\w+ /\\*action=''(\\S+)''\\*/')"
                " FROM pg_stat_activity WHERE datname = current_database() AND wait_event_type = 'Lock'"
            )
        )
        return expected <= waiting

    locker = await asyncpg.connect(database_url)
    await locker.execute("BEGIN")
    await locker.execute("LOCK TABLE categories, products, orders, stripe_events, _yoyo_migration")
    processes = [
        await asyncio.create_subprocess_exec(
            *(sys.executable, "-m", "service", *command.split()),
            env={**os.environ, **environment, "DATABASE_URL": url},
            cwd=tmp_path,
            stdout=asyncio.subprocess.DEVNULL,
            stderr=asyncio.subprocess.DEVNULL,
        )
        for command, url in commands.items()
    ]
    request = asyncio.create_task(shop.http.get("/categories"))
    try:
        await eventually(all_wait, 40)
    finally:
        await locker.close()
        for process in processes:
            if process.returncode is None:
                process.kill()
            await process.wait()
        await request
    assert {name for _, _, name in waiting} - {None} <= set(files())
    assert {(role, name) for role, name, file in waiting if file is None} == {("commerce_owner", "commerce-migrate")}
