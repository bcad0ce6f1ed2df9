"""Proves the rights of each role by trying every verb on every column of every table as that role.

The rights are listed here a second time, so that a superfluous grant fails like a missing one. Each grant is also
revoked once, to see that some statement needs it.
"""

from collections.abc import AsyncIterator, Iterable, Iterator
from contextlib import asynccontextmanager, suppress
from urllib.parse import urlsplit
from uuid import uuid4

import asyncpg
import pytest

from service.app import STATEMENT_SECONDS
from service.dev import roles
from service.infra.db import LIMITS
from service.infra.review import review
from service.infra.statements import files
from service.shop import product_csv
from tests.conftest import PASSWORDS, cloned, login
from tests.sql.conftest import shared

ALL = "*"
READ = {"SELECT": ALL}
HISTORY = {**READ, "INSERT": "order_id from_status to_status cause note actor"}
LEDGER = {**READ, "INSERT": "product_id delta reason order_id hold actor"}
# Nobody may change or delete a row.
AUDIT = {"INSERT": "actor action subject before after request_id"}
DISPUTES = {
    **READ,
    "INSERT": "stripe_dispute_id stripe_payment_intent_id order_id amount_minor currency reason status reported_at",
    "UPDATE": "order_id amount_minor currency reason status reported_at",
}
DELIVERIES = {**READ, "INSERT": "endpoint_id event_id type subject data"}
ANNOUNCEMENTS = {
    **READ,
    "INSERT": "product_id sold_out sold_out_at restocked_at due_at",
    "UPDATE": "sold_out sold_out_at restocked_at due_at",
}
SHIPPING = "order_id name phone line1 line2 city state postal_code country"
NOTHING: dict[str, str] = {}
SEARCH = {
    **READ,
    "INSERT": ALL,
    "UPDATE": "version language words name_key price_minor currency",
    "DELETE": ALL,
}
VALID_KEYS = {"SELECT": "name digest scopes expires_at revoked_at"}

# Role -> table -> verb -> columns. No role may TRUNCATE; the right to DELETE includes LOCK TABLE.
ALLOWED = {
    "app": {
        "categories": {**READ, "INSERT": "name slug", "UPDATE": "name slug", "DELETE": ALL},
        "products": {
            **READ,
            "INSERT": "name description category_id price_minor currency stock active sku image_url max_per_order",
            "UPDATE": "name description category_id price_minor stock active sku image_url max_per_order version"
            " updated_at",
        },
        "stock_movements": LEDGER,
        "carts": {
            **READ,
            "INSERT": "id currency user_id reference",
            "UPDATE": "status currency updated_at ordered_at replaced_by user_id",
        },
        "cart_items": {**READ, "INSERT": "cart_id product_id quantity", "UPDATE": "quantity", "DELETE": ALL},
        "orders": {
            **READ,
            "INSERT": "id cart_id user_id client client_network total_minor currency expires_at next_attempt_at"
            " reference",
            "UPDATE": "status email email_digest client client_network hold paid_at cancelled_at next_attempt_at"
            " attempts user_id claimed",
        },
        "order_items": {**READ, "INSERT": "order_id product_id name quantity unit_price_minor"},
        "order_events": HISTORY,
        "payments": {
            **READ,
            "INSERT": "id order_id amount_minor currency session_parameters session_expires_at claimed_until"
            " order_number",
            "UPDATE": "status refunded_minor attempt session_parameters session_expires_at claimed_until"
            " stripe_session_id checkout_url stripe_payment_intent_id captured_minor captured_currency updated_at",
        },
        "refunds": {
            **READ,
            "INSERT": "id order_id stripe_payment_intent_id amount_minor cause restock reason next_attempt_at actor",
        },
        "order_shipping": {**READ, "INSERT": SHIPPING},
        "refund_items": {**READ, "INSERT": "refund_id product_id quantity restock"},
        "unmatched_payments": {**READ, "INSERT": "stripe_payment_intent_id order_id amount_minor currency"},
        "disputes": DISPUTES,
        "api_keys": VALID_KEYS,
        "token_revocations": {**READ, "INSERT": "subject", "UPDATE": "revoked_at"},
        "stuck_items": {
            **READ,
            "INSERT": "kind id order_id reason",
            "UPDATE": "number order_id reason since ended_at resolved",
        },
        "stripe_events": {
            **READ,
            "INSERT": "id type payload outcome order_id handled_at next_attempt_at",
            "UPDATE": "order_id outcome handled_at next_attempt_at",
        },
        "audit_log": {**READ, **AUDIT},
        "event_endpoints": {
            **READ,
            "INSERT": "url types description secret",
            "UPDATE": "url types description active secret previous_secrets previous_until updated_at deleted_at",
        },
        "event_leases": {**READ, "INSERT": "endpoint_id", "UPDATE": "switched_on_at working_since failing_since"},
        "event_deliveries": {**DELIVERIES, "UPDATE": "resent_at status next_attempt_at finished_at"},
        "product_announcements": ANNOUNCEMENTS,
        "imports": {
            **READ,
            "INSERT": "digest",
            "UPDATE": "position moved_to skipped unapplied started_at finished_at",
        },
        "import_lines": {
            **READ,
            "INSERT": "run line sku name description category price_minor currency active max_per_order image_url"
            " stock stock_delta",
            "DELETE": ALL,
        },
        "product_search": SEARCH,
        "search_words": {**READ, "INSERT": "word"},
        "reconcile_positions": NOTHING,
        "worker_heartbeats": READ,
        **dict.fromkeys(("audit_positions", "audit_balances", "audit_violations", "audit_passes"), NOTHING),
        "hold_pressure": READ,
        "idempotency_keys": {
            **READ,
            "INSERT": "id request_digest order_id status location answer",
            "UPDATE": "request_digest order_id status location answer created_at",
        },
    },
    "worker": {
        "categories": NOTHING,
        "products": {**READ, "UPDATE": "stock updated_at"},
        "product_search": SEARCH,
        "search_words": {**READ, "INSERT": "word"},
        "stock_movements": LEDGER,
        "carts": {
            **READ,
            "INSERT": "id currency user_id",
            "UPDATE": "status currency updated_at replaced_by",
            "DELETE": ALL,
        },
        "cart_items": {**READ, "INSERT": "cart_id product_id quantity", "DELETE": ALL},
        "orders": {
            **READ,
            "UPDATE": "status email email_digest client client_network hold paid_at fulfilled_at cancelled_at"
            " next_attempt_at attempts",
        },
        "order_items": READ,
        "order_events": HISTORY,
        "payments": {
            **READ,
            "UPDATE": "status refunded_minor session_parameters claimed_until stripe_session_id checkout_url"
            " stripe_payment_intent_id captured_minor captured_currency updated_at",
        },
        "refunds": {
            **READ,
            "INSERT": "id order_id stripe_payment_intent_id amount_minor cause restock reason status stripe_refund_id"
            " failure_reason next_attempt_at actor",
            "UPDATE": "status stripe_refund_id failure_reason next_attempt_at attempts updated_at",
        },
        "order_shipping": {"SELECT": "order_id", "INSERT": SHIPPING},
        "refund_items": {**READ, "INSERT": "refund_id product_id quantity restock"},
        "unmatched_payments": {
            **READ,
            "INSERT": "stripe_payment_intent_id order_id amount_minor currency",
            "UPDATE": "next_attempt_at attempts",
        },
        "disputes": {**DISPUTES, "DELETE": ALL},
        "api_keys": VALID_KEYS,
        "token_revocations": NOTHING,
        "stuck_items": {
            **READ,
            "INSERT": "kind id order_id reason",
            "UPDATE": "number order_id reason since ended_at resolved",
        },
        "stripe_events": {
            **READ,
            "INSERT": "id type payload next_attempt_at",
            "UPDATE": "payload order_id outcome handled_at next_attempt_at attempts",
            "DELETE": ALL,
        },
        "audit_log": NOTHING,
        "event_endpoints": {**READ, "UPDATE": "active updated_at", "DELETE": ALL},
        "event_leases": {**READ, "UPDATE": "run_id leased_until switched_on_at working_since failing_since"},
        "event_deliveries": {
            **DELIVERIES,
            "UPDATE": "status attempts next_attempt_at attempted_at result finished_at",
            "DELETE": ALL,
        },
        "product_announcements": ANNOUNCEMENTS,
        "imports": NOTHING,
        "import_lines": NOTHING,
        "reconcile_positions": {**READ, "UPDATE": "reached_at"},
        "worker_heartbeats": {**READ, "UPDATE": "beat_at due_at claimed_by claimed_at claimed_until"},
        "hold_pressure": {**READ, "UPDATE": "measured_at product_ids units_on_hold_ratio"},
        "audit_positions": {**READ, "INSERT": "rule source position", "UPDATE": "position"},
        "audit_balances": {**READ, "INSERT": "product_id units", "UPDATE": "units"},
        "audit_violations": {**READ, "INSERT": "rule subject detail", "DELETE": ALL},
        "audit_passes": {**READ, "INSERT": "rule changes_at full_at", "UPDATE": "changes_at full_at"},
        "idempotency_keys": {"SELECT": "id created_at", "UPDATE": "created_at", "DELETE": ALL},
    },
}
# Without personal data, and without the URLs where an order can be paid.
ALLOWED["readonly"] = {table: READ for table in ALLOWED["app"]} | {
    "carts": {"SELECT": "id status currency created_at updated_at ordered_at replaced_by"},
    "orders": {
        "SELECT": "id number cart_id status total_minor currency hold expires_at created_at paid_at fulfilled_at"
        " cancelled_at next_attempt_at attempts erased_at claimed"
    },
    "order_shipping": {"SELECT": "order_id"},
    "order_events": {"SELECT": "id order_id at from_status to_status cause"},
    "payments": {
        "SELECT": "id order_id status amount_minor currency refunded_minor attempt session_expires_at claimed_until"
        " stripe_session_id stripe_payment_intent_id created_at updated_at captured_minor captured_currency"
        " order_number"
    },
    "stripe_events": {"SELECT": "id type received_at order_id outcome handled_at next_attempt_at attempts"},
    "idempotency_keys": {"SELECT": "id request_digest order_id status location created_at"},
    "refunds": {
        "SELECT": "id order_id stripe_payment_intent_id amount_minor cause restock status stripe_refund_id"
        " failure_reason created_at updated_at next_attempt_at attempts"
    },
    "stock_movements": {"SELECT": "id product_id delta reason order_id hold created_at"},
    "event_endpoints": {
        "SELECT": "id url types description active previous_until created_at updated_at deleted_at",
    },
}
ALLOWED["eraser"] = dict.fromkeys(ALLOWED["app"], NOTHING) | {
    "orders": {
        "SELECT": "id number cart_id status email email_digest client user_id reference erased_at",
        "UPDATE": "email email_digest client client_network user_id reference erased_at",
    },
    "carts": {"SELECT": "id user_id reference", "UPDATE": "user_id reference"},
    "order_events": {
        "SELECT": "order_id cause actor note",
        "INSERT": "order_id from_status to_status cause note actor",
        "UPDATE": "cause actor note",
    },
    "payments": {
        "SELECT": "order_id stripe_payment_intent_id session_parameters checkout_url",
        "UPDATE": "session_parameters checkout_url",
    },
    "refunds": {"SELECT": "order_id stripe_payment_intent_id reason actor", "UPDATE": "reason actor"},
    "stock_movements": {"SELECT": "order_id actor", "UPDATE": "actor"},
    "order_shipping": {"SELECT": "order_id", "DELETE": ALL},
    "audit_log": AUDIT,
    "unmatched_payments": {"SELECT": "order_id stripe_payment_intent_id"},
    "stripe_events": {"SELECT": "id order_id outcome payload", "UPDATE": "payload"},
    "idempotency_keys": {"SELECT": "id order_id answer", "UPDATE": "answer"},
}
YOYOS = ("_yoyo_log", "_yoyo_migration", "_yoyo_version", "yoyo_lock")
for allowed in ALLOWED.values():
    allowed.update({table: NOTHING for table in YOYOS})
# Readiness reads which migrations were applied.
ALLOWED["app"]["_yoyo_migration"] = {"SELECT": "migration_id"}

COLUMNS = (
    "SELECT relname, attname, atttypid::regtype::text FROM pg_class JOIN pg_attribute ON attrelid = pg_class.oid"
    " WHERE relnamespace = 'public'::regnamespace AND relkind = 'r' AND attnum > 0 AND NOT attisdropped"
)
# Statements forbidden to every role. Other rights of a superuser could only be tried on a cluster of their own.
FORBIDDEN = [
    "CREATE TABLE mine ()",
    "CREATE TEMPORARY TABLE mine ()",
    "CREATE VIEW mine AS SELECT 1 AS one",
    "CREATE FUNCTION mine() RETURNS integer LANGUAGE sql RETURN 1",
    "CREATE SCHEMA mine",
    "CREATE EXTENSION hstore",
    "CREATE INDEX mine ON products (name)",
    "CREATE TRIGGER mine BEFORE UPDATE ON products EXECUTE FUNCTION suppress_redundant_updates_trigger()",
    "CREATE RULE mine AS ON INSERT TO stock_movements DO INSTEAD NOTHING",
    "ALTER TABLE carts ADD COLUMN mine integer",
    "ALTER TABLE stock_movements DISABLE TRIGGER ALL",
    "ALTER TABLE products DROP CONSTRAINT products_stock_not_negative",
    "ALTER TABLE stock_movements OWNER TO CURRENT_USER",
    "DROP TABLE idempotency_keys",
    "DROP INDEX orders_due",
    "DROP SCHEMA public CASCADE",
    "SET session_replication_role = replica",
    "SET ROLE commerce_owner",
    "ALTER SYSTEM SET fsync = off",
    "CREATE ROLE mine",
    "ALTER ROLE commerce_owner PASSWORD 'mine'",
    "CREATE DATABASE mine",
    "COPY orders TO PROGRAM 'true'",
    "COPY categories (name, slug) FROM '/dev/null'",
    "SELECT pg_read_file('postgresql.conf')",
]

# Statements that only one kind of process runs. The API and the worker run all others.
OWNERS = {"migrations/lock_migrations", "access/add_key", "access/list_keys", "access/revoke_key"}
WORKERS = {
    "fulfilment/mark_fulfilled",
    "health/claim_task",
    "health/record_heartbeat",
    "health/release_task",
    "webhooks/finish_event",
    "webhooks/read_event",
    "refunds/fail_refund",
    "refunds/record_refund",
    "refunds/list_returns",
    "refunds/return_units",
    "refunds/settle_unmatched",
    "disputes/delete_dispute",
    "stuck/count_items",
    "stuck/find_open_refunds",
    "stuck/find_unhandled_events",
    *files("audit"),
    *files("audit_state"),
    *(set(files("deliveries")) - {"deliveries/mark_working"}),
    *files("reconcile"),
    *files("sweep"),
    *files("retention"),
    *files("pressure"),
}
APPS = {
    "access/list_revocations",
    "access/revoke_tokens",
    "payment_session/attach_session",
    "checkout/close_cart",
    "checkout/explain_refusal",
    "checkout/find_order",
    "checkout/list_products",
    "payment_session/start_attempt",
    "checkout/reserve",
    "idempotency/find_key",
    "idempotency/lock_key",
    "idempotency/store_key",
    "health/is_migrated",
    "health/list_timely_loops",
    "orders/list_items",
    "orders/read_shipping",
    "orders/list_orders",
    "orders/find_orders",
    "orders/find_by_payment_status",
    "orders/walk_orders",
    "orders/walk_orders_by_status",
    "orders/list_numbered",
    "orders/list_orders_by_status",
    *files("audit_log"),
    *files("event_endpoints"),
    "orders/list_user_orders",
    "stuck/find_item",
    "stuck/list_items",
    "stuck/list_items_of_kind",
    "stuck/resolve_item",
    "webhooks/record_event",
    *files("cart"),
    *files("ownership"),
    *files("catalog"),
    *files("exports"),
    *files("imports"),
    *files("seed"),
}
ERASERS = set(files("erasure"))
RUNS = {
    "app": set(files()) - OWNERS - WORKERS - ERASERS,
    "worker": set(files()) - OWNERS - APPS - ERASERS,
    # `audit --read-only`.
    "readonly": {
        *files("audit"),
        *(f"audit_state/list_{what}" for what in ("carts", "orders", "products")),
    },
    "eraser": {*ERASERS, "transitions/add_note", "audit_log/add_entry"},
}

# What the driver's COPY of service/shop/imports.py needs.
COPY = (
    f"INSERT INTO import_lines (run, line, {', '.join(product_csv.COLUMNS)})"
    f" VALUES (gen_random_uuid(), 1{', NULL' * len(product_csv.COLUMNS)})"
)


@pytest.fixture(scope="module")
def url(template: str) -> Iterator[str]:
    """The URL, for a superuser, of one database for all tests, which leave nothing in it."""
    with shared(template) as url:
        # A clone does not have the rights on the database itself. The script may run more than once.
        roles.make_roles(url, PASSWORDS)
        yield url


@asynccontextmanager
async def connected(url: str, role: str = "", **settings: str) -> AsyncIterator[asyncpg.Connection]:
    """A connection as this role, or as a superuser without one."""
    connection = await asyncpg.connect(login(url, role) if role else url, server_settings=settings)
    try:
        yield connection
    finally:
        await connection.close()


# A read-only role may change this setting; it still has no right to write.
WRITING = {"default_transaction_read_only": "off"}


async def may(connection: asyncpg.Connection, statement: str) -> bool:
    """Whether the server permits the statement, which is rolled back."""
    transaction = connection.transaction()
    await transaction.start()
    try:
        await connection.execute(statement)
    except asyncpg.InsufficientPrivilegeError:
        return False
    finally:
        await transaction.rollback()
    return True


def test_the_list_has_every_role() -> None:
    assert {f"commerce_{role}" for role in ALLOWED} == set(roles.ROLES) - {"commerce_owner"}


# Functions of extensions are not ours.
OWN_FUNCTIONS = """
SELECT count(*) FROM pg_proc
WHERE
    pronamespace = 'public'::regnamespace
    AND NOT EXISTS (SELECT FROM pg_depend WHERE objid = pg_proc.oid AND deptype = 'e')
"""


async def test_every_table_is_in_the_list(url: str) -> None:
    async with connected(url, "owner") as owner:
        tables = {table for table, *_ in await owner.fetch(COLUMNS)}
        kinds = "SELECT DISTINCT relkind::text FROM pg_class WHERE relnamespace = 'public'::regnamespace"
        # Tables, indexes and identity sequences. Any other kind of relation would need rights in the list.
        assert {kind for (kind,) in await owner.fetch(kinds)} == {"r", "i", "S"}
        assert await owner.fetchval(OWN_FUNCTIONS) == 0
    for role, allowed in ALLOWED.items():
        assert set(allowed) == tables, f"ALLOWED[{role!r}] lacks {tables - set(allowed)}"


@pytest.mark.parametrize("role", ALLOWED)
async def test_a_role_has_exactly_the_listed_rights(url: str, role: str) -> None:
    async with connected(url, role, **WRITING) as connection:
        types: dict[str, dict[str, str]] = {}
        for table, column, kind in await connection.fetch(COLUMNS):
            types.setdefault(table, {})[column] = kind
        for table, columns in types.items():
            whole = {
                "DELETE": f"DELETE FROM {table} WHERE false",
                "TRUNCATE": f"TRUNCATE {table} CASCADE",
                "LOCK": f"LOCK TABLE {table} IN ACCESS EXCLUSIVE MODE NOWAIT",
            }
            permitted = {
                (verb, column) for verb, sql in whole.items() for column in columns if await may(connection, sql)
            }
            for column, kind in columns.items():
                values = f"OVERRIDING SYSTEM VALUE SELECT NULL::{kind} WHERE false"
                single = {
                    "SELECT": f"SELECT {column} FROM {table} WHERE false",
                    "INSERT": f"INSERT INTO {table} ({column}) {values}",
                    "UPDATE": f"UPDATE {table} SET {column} = DEFAULT WHERE false",
                }
                permitted |= {(verb, column) for verb, sql in single.items() if await may(connection, sql)}
            listed = dict(ALLOWED[role].get(table, NOTHING))
            if "DELETE" in listed:
                listed["LOCK"] = ALL
            allowed = {
                (verb, column)
                for verb, names in listed.items()
                for column in (columns if names == ALL else names.split())
            }
            assert permitted == allowed, (
                f"{table}: not in ALLOWED: {permitted - allowed}; not granted: {allowed - permitted}"
            )


@pytest.mark.parametrize("role", ALLOWED)
async def test_a_role_cannot_change_the_schema_or_the_server(url: str, role: str) -> None:
    async with connected(url, role, **WRITING) as connection:
        for statement in FORBIDDEN:
            with pytest.raises(asyncpg.InsufficientPrivilegeError):
                await connection.execute(statement)
        # A role with some right on the whole table gets a warning only, and grants nothing.
        grants = "SELECT array_agg(relacl::text ORDER BY oid) FROM pg_class WHERE relnamespace = 'public'::regnamespace"
        before = await connection.fetchval(grants)
        with suppress(asyncpg.InsufficientPrivilegeError):
            await connection.execute("GRANT ALL ON orders TO PUBLIC")
        assert await connection.fetchval(grants) == before


async def test_a_superuser_may_run_the_forbidden_statements(url: str) -> None:
    """The statements are valid, so that roles are refused for lack of rights."""
    async with connected(url) as superuser:
        for statement in FORBIDDEN:
            if not statement.startswith(("ALTER SYSTEM", "CREATE DATABASE")):  # not allowed in a transaction
                assert await may(superuser, statement)


@pytest.mark.parametrize("role", ALLOWED)
async def test_every_grant_is_needed_by_a_statement(url: str, role: str) -> None:
    async with connected(url, plan_cache_mode="force_generic_plan") as superuser:
        await grants_are_needed(superuser, role)


async def grants_are_needed(superuser: asyncpg.Connection, role: str) -> None:
    for statement in review():
        await superuser.execute(statement)
    prepared = await superuser.fetch(
        "SELECT replace(name, '__', '/'), statement, format('EXPLAIN EXECUTE %I', name) || CASE"
        " WHEN parameter_types <> '{}' THEN"
        " format('(%s)', array_to_string(array_fill('NULL'::text, ARRAY[cardinality(parameter_types)]), ', '))"
        " ELSE '' END FROM pg_prepared_statements"
    )
    runs = [(name, text, explain) for name, text, explain in prepared if name in RUNS[role]]
    assert len(runs) == len(RUNS[role])
    if role == "app":
        runs.append(("COPY", COPY, f"EXPLAIN {COPY}"))

    async def refused(change: str, table: str) -> str | None:
        """The first of the role's statements on this table that it may not run after this change."""
        running = None
        transaction = superuser.transaction()
        await transaction.start()
        try:
            await superuser.execute(change)
            await superuser.execute(f"SET LOCAL ROLE commerce_{role}")
            for name, text, explain in runs:
                if table in text:
                    running = name
                    await superuser.execute(explain)
        except asyncpg.InsufficientPrivilegeError:
            return running
        finally:
            await transaction.rollback()
        return None

    grants = await superuser.fetch(
        "SELECT relname, privilege_type, '' FROM pg_class, aclexplode(relacl)"
        " WHERE relnamespace = 'public'::regnamespace AND grantee = $1::text::regrole"
        " UNION ALL SELECT relname, privilege_type, '(' || attname || ')'"
        " FROM pg_class JOIN pg_attribute ON attrelid = pg_class.oid, aclexplode(attacl)"
        " WHERE relnamespace = 'public'::regnamespace AND grantee = $1::text::regrole",
        f"commerce_{role}",
    )
    name = await refused("SELECT 1", "")
    assert not name, f"commerce_{role} lacks a right for {name}: grant it, or leave {name} out of RUNS (APPS, WORKERS)"
    unneeded = [
        (privilege, table, column)
        for table, privilege, column in grants
        if not await refused(f"REVOKE {privilege} {column} ON {table} FROM commerce_{role}", table)
    ]
    if role == "readonly":
        # People read more tables than the audit does.
        assert {privilege for privilege, *_ in unneeded} == {"SELECT"}
    else:
        assert unneeded == [], f"no statement of commerce_{role} needs {unneeded}"


async def test_no_role_has_attributes_or_memberships(url: str) -> None:
    async with connected(url, "owner") as owner:
        flags = "rolsuper, rolcreaterole, rolcreatedb, rolreplication, rolbypassrls"
        query = f"SELECT ARRAY[{flags}] FROM pg_roles WHERE rolname LIKE 'commerce\\_%'"
        assert [flag for (flag,) in await owner.fetch(query)] == [[False] * 5] * len(roles.ROLES)
        members = "SELECT count(*) FROM pg_auth_members WHERE member::regrole::text LIKE 'commerce\\_%'"
        assert await owner.fetchval(members) == 0
        owners = "SELECT DISTINCT relowner::regrole::text FROM pg_class WHERE relnamespace = 'public'::regnamespace"
        assert [name for (name,) in await owner.fetch(owners)] == ["commerce_owner"]


async def test_another_role_cannot_connect(url: str) -> None:
    stranger = f"stranger_{uuid4().hex}"
    async with connected(url) as superuser:
        await superuser.execute(f"CREATE ROLE {stranger} LOGIN PASSWORD 'x'")
        try:
            with pytest.raises(asyncpg.InsufficientPrivilegeError, match="permission denied for database"):
                await asyncpg.connect(roles.login(url, stranger, "x"))
        finally:
            await superuser.execute(f"DROP ROLE {stranger}")
    for role in ALLOWED:
        async with connected(url, role) as connection:
            assert await connection.fetchval("SELECT current_user") == f"commerce_{role}"


async def test_tables_that_another_role_created_get_our_owner(template: str) -> None:
    async with cloned(template) as url:
        async with connected(url) as superuser:
            await superuser.execute("ALTER TABLE orders OWNER TO CURRENT_USER")
            await superuser.execute("ALTER SCHEMA public OWNER TO CURRENT_USER")
        roles.make_roles(url, PASSWORDS)
        async with connected(url, "owner") as owner:
            await owner.execute("ALTER TABLE orders ADD COLUMN more integer")
            await owner.execute("CREATE TABLE mine ()")


async def test_each_role_has_its_time_limits(url: str) -> None:
    names = (
        "statement_timeout",
        "lock_timeout",
        "idle_in_transaction_session_timeout",
        "default_transaction_read_only",
    )

    ours = [LIMITS[name] for name in names[:3]]
    assert await settings_of("app", url, names) == [f"{STATEMENT_SECONDS}s", *ours[1:], "off"]
    assert await settings_of("worker", url, names) == [*ours, "off"]
    assert await settings_of("readonly", url, names) == ["5min", "2s", "1min", "on"]
    assert await settings_of("eraser", url, names) == ["1min", "2s", "10s", "off"]
    assert await settings_of("owner", url, names) == ["0", "2s", "0", "off"]


async def test_a_role_has_the_settings_of_the_pool_even_if_the_database_has_others(template: str) -> None:
    """A pooler drops the settings that the service sends when it connects."""
    others = {
        "timezone": "Asia/Tokyo",
        "search_path": "pg_catalog",
        "default_transaction_isolation": "serializable",
        "jit": "on",
        "max_parallel_workers_per_gather": "2",
    }
    async with cloned(template) as url:
        async with connected(url) as superuser:
            for setting, value in others.items():
                await superuser.execute(f"ALTER DATABASE {urlsplit(url).path[1:]} SET {setting} = '{value}'")

        sent = [setting for setting in LIMITS if setting != "statement_timeout"]
        for role in ("app", "worker", "eraser"):
            assert await settings_of(role, url, sent) == [LIMITS[setting] for setting in sent]
        sent = ["timezone", "search_path", "default_transaction_isolation"]
        for role in ("owner", "readonly"):
            assert await settings_of(role, url, sent) == [LIMITS[setting] for setting in sent]


async def settings_of(role: str, url: str, names: Iterable[str]) -> list[str]:
    """The settings of a connection of this role that sends none."""
    async with connected(url, role) as connection:
        return [await connection.fetchval("SELECT current_setting($1)", name) for name in names]


async def test_the_read_only_role_cannot_write_by_mistake(url: str) -> None:
    async with connected(url, "readonly") as connection:
        with pytest.raises(asyncpg.ReadOnlySQLTransactionError):
            await connection.execute("CREATE TABLE mine ()")


async def test_the_read_only_role_can_prepare_every_statement(url: str) -> None:
    async with connected(url, "readonly") as connection:
        for statement in review():
            await connection.execute(statement)
        assert await connection.fetchval("SELECT count(*) FROM pg_prepared_statements WHERE from_sql") == len(files())
