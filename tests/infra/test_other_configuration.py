"""A server, a database or a role that is configured otherwise than a new one: every command works all the same."""

import asyncpg
import psycopg
import pytest

from service.dev.roles import ROLES
from service.infra.resources import Resources
from service.shop.audit import check_changes
from tests.client import Shop
from tests.test_command_line import command

# What an administrator may set for all that use the server, each to the value that is the furthest from ours.
SETTINGS = {
    "default_transaction_isolation": "serializable",
    "default_transaction_deferrable": "on",
    "search_path": "",
    "bytea_output": "escape",
    "DateStyle": "German",
    "IntervalStyle": "sql_standard",
    "TimeZone": "Asia/Kathmandu",
    "standard_conforming_strings": "off",
    "extra_float_digits": "-15",
    "lock_timeout": "1ms",
    "statement_timeout": "50ms",
    "idle_in_transaction_session_timeout": "1ms",
    "client_min_messages": "debug5",
    "plan_cache_mode": "force_custom_plan",
    "row_security": "off",
    "check_function_bodies": "off",
    "transform_null_equals": "on",
    "quote_all_identifiers": "on",
    "array_nulls": "off",
    "xmloption": "document",
}


@pytest.fixture
async def configured(database: asyncpg.Connection) -> None:
    """All roles have all SETTINGS in this test's database, for connections that are opened from now on.

    These win over the settings of the server, the database and the role, which migrations/roles.psql sets.
    """
    name = await database.fetchval("SELECT current_database()")
    for role in ROLES:
        for setting, value in SETTINGS.items():
            await database.execute(f"""ALTER ROLE {role} IN DATABASE "{name}" SET "{setting}" = '{value}'""")


@pytest.mark.usefixtures("configured")
async def test_a_purchase_and_its_audit(shop: Shop, resources: Resources, worker: None) -> None:
    product = await shop.create_product()
    placed = await shop.checked_out_cart((product["id"], 2))
    session = placed["payment"]["stripe_session_id"]
    await shop.call("POST", f"/orders/{placed['order_id']}/cancel", 200)
    again = await shop.checked_out_cart((product["id"], 1))

    assert session != again["payment"]["stripe_session_id"]
    assert (await shop.get_order(again["order_id"]))["status"] == "PENDING_PAYMENT"
    report = await check_changes(resources.pool)
    assert report.failures == {}
    assert not any(report.violations.values())


@pytest.mark.usefixtures("configured")
async def test_the_commands(environ: dict[str, str], database: asyncpg.Connection) -> None:
    await database.execute("DROP SCHEMA public CASCADE")
    await database.execute("CREATE SCHEMA public AUTHORIZATION pg_database_owner")

    for arguments in ("migrate", "migrate --undo", "migrate", "seed --products 20"):
        status, output, errors = await command(environ, *arguments.split())
        assert (status, errors) == (0, ""), (arguments, output)
        assert "nothing" not in output


@pytest.mark.parametrize(
    "query",
    [
        "connect_timeout=7",
        "channel_binding=prefer&sslmode=prefer&gssencmode=disable",
        *(["sslnegotiation=postgres"] if psycopg.pq.version() >= 170_000 else []),
        "keepalives=1&keepalives_idle=30&tcp_user_timeout=10000&application_name=x&fallback_application_name=y",
        "target_session_attrs=any&load_balance_hosts=random&client_encoding=latin1",
        "options=-c%20geqo%3Doff%20-c%20default_transaction_isolation%3Dserializable",
    ],
)
async def test_what_a_url_may_say(environ: dict[str, str], query: str) -> None:
    urls = {name: f"{environ[name]}?{query}" for name in ("DATABASE_URL", "MIGRATE_DATABASE_URL")}
    for arguments, expected in (("migrate", "nothing to apply\n"), ("seed --products 1", "1 products loaded\n")):
        assert await command({**environ, **urls}, *arguments.split()) == (0, expected, "")
