"""`python -m service …` as an operator starts it: processes of their own, on a real database."""

import asyncio
import contextlib
import os
import re
import resource
import shutil
import signal
import socket
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from urllib.parse import urlsplit
from uuid import UUID

import asyncpg
import httpx
import pytest

from service.dev.servers import data_folder, free_port
from service.dev.stripe_standin import StripeStandin
from service.infra.packaged import MIGRATIONS
from service.infra.resources import Resources
from service.infra.statements import SQL, files
from service.settings import Settings
from service.shop.audit import STRIPE_RULE, audit, check_all, check_changes
from tests.client import ADMIN_TOKEN, NO_TLS, Shop, eventually
from tests.conftest import login
from tests.database import psql, wait_for_blocked
from tests.faults.stage import family

COMMANDS = [
    *"run serve worker migrate index seed audit import export erase".split(),
    *"key review replay stripe-check token issuer standin".split(),
]


@pytest.fixture
def readonly(environ: dict[str, str], database_url: str) -> dict[str, str]:
    """The environment of people with read access only."""
    return {**environ, "DATABASE_URL": login(database_url, "readonly")}


@asynccontextmanager
async def started(environ: dict[str, str], *arguments: str) -> AsyncIterator[asyncio.subprocess.Process]:
    """A command at work, in a folder without an `.env`; killed when the test has not ended it."""
    process = await asyncio.create_subprocess_exec(
        sys.executable,
        "-m",
        "service",
        *arguments,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
        env=environ,
        cwd=environ["TMPDIR"],
        start_new_session=True,
    )
    try:
        yield process
    finally:
        if process.returncode is None:
            os.killpg(process.pid, signal.SIGKILL)  # its workers too
        await process.communicate()


async def command(environ: dict[str, str], *arguments: str) -> tuple[int | None, str, str]:
    """A command's exit status and what it printed."""
    async with started(environ, *arguments) as process:
        output, errors = await asyncio.wait_for(process.communicate(), 60)
        return process.returncode, output.decode(), errors.decode()


def left_in(environ: dict[str, str], pattern: str = "*") -> list[Path]:
    """What there is in the folder for what is temporary."""
    return list(Path(environ["TMPDIR"]).glob(pattern))


def counting(environ: dict[str, str]) -> int:
    """How many processes have counted a request for the categories."""
    return sum(b"/categories" in file.read_bytes() for file in left_in(environ, "*/counter_*.db"))


async def test_service_keys_are_added_listed_and_revoked(
    environ: dict[str, str], shop: Shop, database: asyncpg.Connection
) -> None:
    assert await command(environ, "key", "list") == (0, "no keys\n", "")
    status, key, note = await command(environ, *"key add --name erp --scopes orders:read,stock:write --days 30".split())
    assert (status, note) == (0, "This is shown only now: it is not stored.\n")
    key = key.strip()
    assert re.fullmatch(r"cck_[\w-]{43}", key)
    assert (await shop.http.get("/orders", headers={"Authorization": f"Bearer {key}"})).status_code == 200
    days = "SELECT round(extract(EPOCH FROM expires_at - created_at) / 86400) FROM api_keys"
    assert await database.fetchval(days) == 30

    again = await command(environ, *"key add --name erp --scopes stock:write".split())
    assert again == (2, "", "invalid: A key has this name, or had it before.\n")
    status, listed, _ = await command(environ, "key", "list")
    assert status == 0
    assert re.fullmatch(rf"erp: {key[:10]}…, until \d+-\d+-\d+, by \w+: orders:read, stock:write\n", listed)
    assert key not in listed

    assert (await command(environ, "key", "revoke", "erp"))[0] == 0
    assert "revoked 2" in (await command(environ, "key", "list"))[1]
    assert await command(environ, "key", "revoke", "erp") == (2, "", "not_found: There is no such key.\n")
    other = await command(environ, *"key add --name erp --scopes stock:write".split())
    assert other[0] == 2
    # The service's own role may not make keys.
    status, _, errors = await command(
        {**environ, "MIGRATE_DATABASE_URL": ""}, *"key add --name x --scopes stock:write".split()
    )
    assert (status, "permission denied" in errors) == (2, True)


async def test_every_command_has_help(environ: dict[str, str]) -> None:
    # Each without any settings too, and all at once.
    bare = {"TMPDIR": environ["TMPDIR"]}
    (status, overview, _), *helps = await asyncio.gather(
        command(environ, "--help"), *(command(bare, name, "--help") for name in COMMANDS)
    )
    assert status == 0
    texts = {}
    for name, (status, text, errors) in zip(COMMANDS, helps, strict=True):
        assert re.search(rf"\n    {name}\s", overview)
        assert (status, errors) == (0, ""), name
        assert f"usage: python -m service {name}" in text
        texts[name] = text
    options = {
        "serve": ("--host", "--port", "--workers"),
        "seed": ("--products",),
        "replay": ("EVENT_ID",),
        "erase": ("ORDER|EMAIL", "--dry-run"),
        "import": ("FILE.csv", "--dry-run"),
        "export": ("FILE.csv",),
        "token": ("--sub", "--role", "--email", "--seconds"),
    }
    for name, expected in options.items():
        assert all(option in texts[name] for option in expected)


@pytest.mark.parametrize(
    "arguments",
    [
        *("", "nope", "replay", "erase", "erase -1", "key", "key add", "key revoke", "key revoke A"),
        *(f"key add --name {name} --scopes stock:write" for name in ("", "Erp", "a:b", 65 * "a")),
        *(f"key add --name erp --scopes {scopes}" for scopes in ("", "everything", "stock:write,everything")),
        *(f"key add --name erp --scopes stock:write --days {days}" for days in ("0", "3651", "1.5")),
        *("token", "token --role support", "token --sub anna --role owner"),
        *(f"token --sub anna --seconds {number}" for number in ("0", "86401", "1h")),
        *(f"serve --workers {number}" for number in ("0", "257", "two", "1_0")),
        *(f"seed --products {number}" for number in ("-1", "1000001", "1e3")),
        *(
            f"{name} --port {number}"
            for name in ("serve", "run", "standin")
            for number in ("0", "-1", "65536", "80000", "99999", "http", "8_0", "9" * 5000)
        ),
    ],
)
async def test_what_makes_no_sense_is_a_usage_error(environ: dict[str, str], arguments: str) -> None:
    status, output, errors = await command(environ, *arguments.split())
    assert (status, output) == (2, "")
    assert errors.startswith("usage: python -m service")


async def test_refusals_are_one_line(environ: dict[str, str]) -> None:
    unsafe = {**environ, "STRIPE_WEBHOOK_SECRET": ""}
    nowhere = f"postgresql://nobody:x@127.0.0.1:{free_port()}/nothing"
    away = {**environ, "DATABASE_URL": nowhere, "MIGRATE_DATABASE_URL": nowhere}
    without_key = {**environ, "STRIPE_API_KEY": ""}
    unprotected = {**environ, "STRIPE_API_KEY": "sk_live_x", "STRIPE_API_BASE": "http://stripe.example"}
    for given, why in ((without_key, "STRIPE_API_KEY is not set.\n"), (unprotected, "A key that does not begin")):
        for status, output, errors in await asyncio.gather(
            *(command(given, *name.split()) for name in ("replay evt_1", "audit --full", "stripe-check", "serve"))
        ):
            assert (status, output, errors.count("\n")) == (2, "", 1), errors
            assert errors.startswith(f"Refusing to start: {why}")
    *answers, last = await asyncio.gather(
        *(command(unsafe, name) for name in ("serve", "worker")),
        *(command(away, *name.split()) for name in ("migrate", "audit", "seed", "replay evt_1")),
        command(environ, "replay", "evt_404"),
    )
    for status, output, errors in answers[:2]:
        assert (status, output) == (2, "")
        assert errors.startswith("Refusing to start: STRIPE_WEBHOOK_SECRET is empty")
    for status, output, errors in answers[2:]:
        assert (status, output, errors.count("\n")) == (2, "", 1), errors
    status, _, errors = last
    assert (status, errors) == (2, "not_found: There is no such event.\n")


@pytest.mark.parametrize("name", ["token --sub ada --role admin", "issuer"])
async def test_the_development_issuer_refuses_a_live_key(environ: dict[str, str], name: str) -> None:
    key = "rk_live_x"
    assert await command({**environ, "STRIPE_API_KEY": key}, *name.split()) == (
        2,
        "",
        "Refusing to start: STRIPE_API_KEY is not a test key, and the development issuer is for tests only.\n",
    )


async def test_a_token_needs_the_key_of_make_run(environ: dict[str, str]) -> None:
    status, output, errors = await command(environ, "token", "--sub", "ada", "--role", "admin")
    try:
        assert (status, output, errors.count("\n")) == (2, "", 1)
        assert errors.startswith(f"There is no {data_folder(Path(environ['TMPDIR'])) / 'issuer_key.pem'}: `make run`")
    finally:
        shutil.rmtree(data_folder(Path(environ["TMPDIR"])))


class TestMigrate:
    @pytest.fixture
    async def empty(self, environ: dict[str, str], database: asyncpg.Connection) -> dict[str, str]:
        await database.execute("DROP SCHEMA public CASCADE")
        await database.execute("CREATE SCHEMA public AUTHORIZATION pg_database_owner")
        return environ

    async def test_again_it_has_nothing_to_do(self, empty: dict[str, str], database: asyncpg.Connection) -> None:
        status, applied, errors = await command(empty, "migrate")
        assert (status, errors) == (0, "")
        assert applied.splitlines()[0] == "0001.catalog"
        # What a killed run leaves behind.
        await database.execute("INSERT INTO yoyo_lock (locked, ctime, pid) VALUES (1, now(), 1)")
        assert await command(empty, "migrate") == (0, "nothing to apply\n", "")

    async def test_the_newest_is_taken_back(self, environ: dict[str, str], database: asyncpg.Connection) -> None:
        newest = sorted(path.stem for path in MIGRATIONS.glob("*.sql") if ".rollback" not in path.stem)[-1]
        assert await command(environ, "migrate", "--undo") == (0, f"{newest}\n", "")
        assert await command(environ, "migrate") == (0, f"{newest}\n", "")
        # A role without the right gets an error of one line.
        status, output, errors = await command({**environ, "MIGRATE_DATABASE_URL": ""}, "migrate")
        assert (status, output, errors.count("\n")) == (2, "", 1)
        assert "permission denied" in errors

    async def test_two_at_once_apply_it_once(self, empty: dict[str, str], database: asyncpg.Connection) -> None:
        results = await asyncio.gather(*[command(empty, "migrate") for _ in range(2)])
        assert [(status, errors) for status, _, errors in results] == 2 * [(0, "")]
        assert sorted(output.splitlines()[0] for _, output, _ in results) == ["0001.catalog", "nothing to apply"]
        assert await database.fetchval("SELECT count(*) FROM idempotency_keys") == 0


@pytest.mark.parametrize(
    ("role", "arguments"),
    [
        ("app", ["migrate"]),
        ("app", ["seed", "--products", "1"]),
        ("worker", ["audit"]),
        ("readonly", ["audit", "--read-only"]),
        ("eraser", ["erase", "someone@example.com", "--dry-run"]),
        ("worker", ["replay", "evt_1"]),
    ],
    ids=lambda value: value if isinstance(value, str) else value[0],
)
async def test_a_command_uses_the_host_that_answers(
    environ: dict[str, str], database_url: str, role: str, arguments: list[str]
) -> None:
    """Each URL names a host where nothing listens, then the server; the login has a character that URLs encode."""
    closed, server = f"127.0.0.1:{free_port()}", urlsplit(database_url).netloc.rpartition("@")[2]
    both = {
        name: login(database_url, user).replace(server, f"{closed},{server}")
        for name, user in (("DATABASE_URL", role), ("MIGRATE_DATABASE_URL", "owner"))
    }
    environ |= {name: url.replace("of_the_tests", "of%5Fthe%5Ftests") for name, url in both.items()}

    status, _, errors = await command(environ, *arguments)

    # There is nobody to erase, and no such event.
    expected = {"erase": (1, "Nothing found"), "replay": (2, "not_found")}.get(arguments[0], (0, ""))
    assert (status, errors[: len(expected[1])]) == expected, errors


async def test_seed_fills_an_empty_catalogue_only(
    environ: dict[str, str], readonly: dict[str, str], database: asyncpg.Connection
) -> None:
    assert await command(environ, "seed", "--products", "1200") == (0, "1200 products loaded\n", "")
    assert await command(environ, "seed") == (0, "0 products loaded\n", "")
    assert await database.fetchval("SELECT count(*) FROM products WHERE active AND category_id > 0") == 1200
    status, output, _ = await command(readonly, "audit", "--read-only")
    rules = sorted({*files("audit")} - {STRIPE_RULE})
    assert (status, sorted(output.splitlines())) == (0, [f"{rule}: ok" for rule in rules])


NIL = UUID(int=0)
# The order, paid and with its history; a refund of it.
PAID = (
    "UPDATE orders SET status = 'PAID', paid_at = now();"
    " INSERT INTO order_events (order_id, from_status, to_status, cause)"
    " SELECT id, 'PENDING_PAYMENT', 'PAID', 'x' FROM orders;"
    " UPDATE payments SET status = 'SUCCEEDED', stripe_payment_intent_id = 'pi_1';"
)
REFUND = (
    " INSERT INTO refunds"
    " (id, order_id, stripe_payment_intent_id, amount_minor, cause, status, stripe_refund_id)"
    " SELECT gen_random_uuid(), id, 'pi_1', {}, '{}', '{}', gen_random_uuid()::text FROM orders;"
)
# Every refund is for so many units, and restocks them.
REFUNDED_UNITS = (
    " INSERT INTO refund_items (refund_id, product_id, quantity, restock) SELECT id, 1, {}, true FROM refunds;"
)

BROKEN = {
    "stock": ("stock_matches_ledger", "product 1", "UPDATE products SET stock = stock + 1"),
    "ledger": (
        "stock_matches_ledger",
        "product 1",
        "INSERT INTO stock_movements (product_id, delta, reason) VALUES (1, 1, 'x')",
    ),
    "units": ("units_add_up", "order {order}", "UPDATE order_items SET quantity = quantity + 1"),
    "given back twice": (
        "units_add_up",
        "order {order}",
        "INSERT INTO stock_movements (product_id, delta, reason, order_id, hold)"
        " SELECT 1, 2, 'release', id, 1 FROM orders",
    ),
    "amount": ("payment_fits_order", "order {order}", "UPDATE payments SET amount_minor = amount_minor + 1"),
    "refunded and not cancelled": (
        "payment_fits_order",
        "order {order}",
        PAID
        + " UPDATE payments SET status = 'REFUNDED', refunded_minor = amount_minor;"
        + REFUND.format(2500, "staff", "SUCCEEDED"),
    ),
    "a refund that is none": (
        "payment_fits_order",
        "order {order}",
        PAID + " UPDATE payments SET status = 'REFUND_PENDING';",
    ),
    "more refunds than money": (
        "payment_fits_order",
        "order {order}",
        PAID + " UPDATE payments SET status = 'REFUND_PENDING';" + REFUND.format(2500, "staff", "PENDING") * 2,
    ),
    "a second payment kept": (
        "payment_fits_order",
        "order {order}",
        PAID + REFUND.format(2500, "late_money", "FAILED").replace("pi_1", "pi_2"),
    ),
    "another amount": (
        "unmatched_payments_are_refunded",
        "order {order}",
        "INSERT INTO unmatched_payments (stripe_payment_intent_id, order_id, amount_minor, currency)"
        " SELECT 'pi_1', id, 1190, 'EUR' FROM orders",
    ),
    "another amount, and no longer due": (
        "payment_fits_order",
        "order {order}",
        "INSERT INTO unmatched_payments (stripe_payment_intent_id, order_id, amount_minor, currency, next_attempt_at)"
        " SELECT 'pi_1', id, 1190, 'EUR', NULL FROM orders",
    ),
    "no payment intent": (
        "payment_fits_order",
        "order {order}",
        # The schema refuses it too.
        "ALTER TABLE payments DROP CONSTRAINT payments_captured_has_intent; "
        + PAID.replace(", stripe_payment_intent_id = 'pi_1'", ""),
    ),
    "more decided than captured": (
        "payment_fits_order",
        "order {order}",
        PAID + REFUND.format(2501, "staff", "REQUESTED"),
    ),
    "a refund of other lines than its amount": (
        "refund_lines_add_up",
        "order {order}",
        PAID + REFUND.format(1250, "staff", "REQUESTED") + REFUNDED_UNITS.format(2),
    ),
    "refunds of more units than were ordered": (
        "refund_lines_add_up",
        "order {order}",
        PAID + (REFUND.format(3750, "staff", "REQUESTED") + REFUNDED_UNITS.format(3)),
    ),
    "more units returned than a refund names": (
        "refund_lines_add_up",
        "order {order}",
        PAID
        + REFUND.format(1250, "staff", "REQUESTED")
        + REFUNDED_UNITS.format(1)
        + " INSERT INTO stock_movements (product_id, delta, reason, order_id, hold)"
        " SELECT 1, 2, 'refund:' || id, order_id, 1 FROM refunds",
    ),
    "units that a refund did not return": (
        "units_add_up",
        "order {order}",
        PAID + REFUND.format(1250, "staff", "SUCCEEDED") + REFUNDED_UNITS.format(1),
    ),
    "a refund of another payment": ("payment_fits_order", "order {order}", REFUND.format(1, "staff", "REQUESTED")),
    "a total that is no sum": (
        "order_lines_add_up",
        "order {order}",
        "UPDATE orders SET total_minor = total_minor + 1; UPDATE payments SET amount_minor = amount_minor + 1",
    ),
    "a changed price": ("order_lines_add_up", "order {order}", "UPDATE order_items SET unit_price_minor = 1"),
    "no lines": ("order_lines_add_up", "order {order}", "DELETE FROM order_items; DELETE FROM stock_movements"),
    "another currency": ("order_lines_add_up", "order {order}", "UPDATE products SET currency = 'USD'"),
    "an open cart": ("carts_match_orders", "cart {cart}", "UPDATE carts SET status = 'OPEN'"),
    "a closed cart": (
        "carts_match_orders",
        "cart {cart}",
        "UPDATE orders SET status = 'CANCELLED', cancelled_at = now()",
    ),
    "an open refund": (
        "nothing_is_overdue",
        "refund {refund}",
        (PAID + REFUND.format(1, "staff", "REQUESTED")).replace("gen_random_uuid(), id", f"'{NIL}', id")
        + " UPDATE refunds SET created_at = now() - interval '10 days'",
    ),
    "a line of no product": (
        "cart_lines_have_products",
        "cart {cart}",
        "UPDATE cart_items SET product_id = 404",
    ),
    "no payment": ("payment_fits_order", "order {order}", "DELETE FROM payments"),
    "unpaid": (
        "payment_fits_order",
        "order {order}",
        "UPDATE orders SET status = 'FULFILLED', paid_at = now(), fulfilled_at = now()",
    ),
    "pending": (
        "nothing_is_overdue",
        "order {order}",
        "UPDATE orders SET expires_at = now() - interval '121 seconds'",
    ),
    "event": (
        "nothing_is_overdue",
        "event evt_1",
        "INSERT INTO stripe_events (id, type, payload, received_at, next_attempt_at)"
        " VALUES ('evt_1', 'x', '{{}}', now() - interval '121 seconds', now())",
    ),
    "history": (
        "history_is_legal",
        "order {order}",
        "INSERT INTO order_events (order_id, from_status, to_status, cause)"
        " SELECT id, 'PAID', 'FULFILLED', 'x' FROM orders",
    ),
    "no history": ("history_is_legal", "order {order}", "DELETE FROM order_events"),
}


def test_every_audit_is_broken_once() -> None:
    # The one rule that needs Stripe's lists is tested in tests/shop/test_reconcile.py.
    assert {f"audit/{rule}" for rule, _, _ in BROKEN.values()} == set(files("audit")) - {STRIPE_RULE}


@pytest.mark.parametrize("what", BROKEN)
async def test_an_audit_names_what_is_wrong(
    shop: Shop, database: asyncpg.Connection, resources: Resources, what: str
) -> None:
    """All of it is found by the audit of the changes, and by the one of everything, which stores nothing."""
    placed = await shop.checked_out_cart(((await shop.create_product())["id"], 2))
    cart_id = (await shop.get_order(placed["order_id"]))["cart_id"]
    rule, subject, statement = BROKEN[what]
    await database.execute(statement.format())

    everything = await audit(resources.pool)
    # Of deleted rows nothing is left that shows a change.
    if "DELETE FROM order" in statement:
        report = await check_all(resources.pool, resources.stripe)
    else:
        report = await check_changes(resources.pool)

    assert report.failures == {}
    assert {name: found for name, found in report.violations.items() if found} == {
        name: found for name, found in everything.items() if found
    }
    (violation,) = everything[f"audit/{rule}"]
    assert violation.subject == subject.format(order=placed["order_id"], cart=cart_id, refund=NIL)


@pytest.mark.parametrize("arguments", [["audit"], ["audit", "--full"], ["audit", "--read-only"]])
async def test_the_audit_prints_what_is_wrong(
    shop: Shop,
    environ: dict[str, str],
    readonly: dict[str, str],
    worker_settings: Settings,
    database: asyncpg.Connection,
    arguments: list[str],
) -> None:
    placed = await shop.checked_out_cart(((await shop.create_product())["id"], 2))
    login_environ = (
        readonly if "--read-only" in arguments else {**environ, "DATABASE_URL": worker_settings.database_url}
    )
    status, output, errors = await command(login_environ, *arguments)
    rules = sorted({*files("audit")} - ({STRIPE_RULE} if "--read-only" in arguments else set()))
    assert (status, errors, sorted(output.splitlines())) == (0, "", [f"{rule}: ok" for rule in rules])

    # The last window of events is read again only if there are new ones.
    await database.execute("UPDATE payments SET amount_minor = amount_minor + 1")
    await database.execute(
        "INSERT INTO order_events (order_id, from_status, to_status, cause) SELECT id, status, status, 'x' FROM orders"
    )
    status, output, errors = await command(login_environ, *arguments)
    assert (status, errors) == (1, "")
    _, _, after = output.partition("audit/payment_fits_order: 1\n")
    assert after.startswith(f"  order {placed['order_id']}: "), output


async def test_an_audit_that_cannot_check_a_rule_fails(
    shop: Shop, environ: dict[str, str], worker_settings: Settings, database: asyncpg.Connection
) -> None:
    """A rule that lacks a right, and a role that may store nothing: exit status 2, and the other rules are checked."""
    await shop.checked_out_cart()
    environ = {**environ, "DATABASE_URL": worker_settings.database_url}
    await database.execute("REVOKE SELECT ON unmatched_payments FROM commerce_worker")

    status, output, errors = await command(environ, "audit")

    assert status == 2
    failed = [line for line in output.splitlines() if not line.endswith(": ok")]
    assert [line.partition(":")[0] for line in failed] == [
        "audit/unmatched_payments_are_refunded",
        "audit/payment_fits_order",
    ]
    assert all("permission denied" in line for line in failed), failed
    assert "audit rule failed" in errors


async def test_review_loads_into_psql_and_explains(environ: dict[str, str]) -> None:
    status, statements, errors = await command(environ, "review")
    assert (status, errors) == (0, "")
    script = statements + (
        "SELECT format('EXPLAIN EXECUTE %I', name)"
        " || CASE WHEN parameter_types <> '{}' THEN"
        "   format('(%s)', array_to_string(array_fill('NULL'::text, ARRAY[cardinality(parameter_types)]), ', '))"
        " ELSE '' END"
        " FROM pg_prepared_statements ORDER BY name\n\\gexec\n"
        "SELECT name FROM pg_prepared_statements ORDER BY name;\n"
    )
    options = ("--no-psqlrc", "--quiet", "--tuples-only", "--no-align", "--set", "ON_ERROR_STOP=1")
    process = await asyncio.create_subprocess_exec(
        psql(),
        *options,
        # To explain a statement is to have the right to run it, which of all of them only the owner has.
        environ["MIGRATE_DATABASE_URL"],
        stdin=asyncio.subprocess.PIPE,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
    )
    output, problems = await process.communicate(script.encode())
    assert (process.returncode, problems.decode()) == (0, "")
    names = sorted(name.replace("/", "__") for name in files())
    assert output.decode().splitlines()[-len(names) :] == names
    assert output.decode().count("(cost=") >= len(names)


async def test_review_since_a_revision_prints_what_a_change_touched(environ: dict[str, str], tmp_path: Path) -> None:
    tree = tmp_path / "tree"
    for folder in ("service", "sql"):
        shutil.copytree(SQL.parent / folder, tree / folder, ignore=shutil.ignore_patterns("__pycache__"))

    async def git(*arguments: str) -> None:
        identity = ("-c", "user.name=Tests", "-c", "user.email=tests@example.org")
        process = await asyncio.create_subprocess_exec("git", *identity, *arguments, cwd=tree)
        assert await process.wait() == 0

    await git("init", "-q")
    await git("add", ".")
    await git("commit", "-q", "-m", "before")
    there = {**environ, "PYTHONPATH": str(tree)}
    assert await command(there, "review", "--since", "HEAD") == (0, "", "")

    changed, gone, new = (tree / "sql" / f"{name}.sql" for name in ("cart/read_cart", "cart/create_cart", "cart/new"))
    changed.write_text(changed.read_text().replace("SELECT", "SELECT  ", 1))
    await git("commit", "-q", "-a", "-m", "after")
    gone.unlink()
    new.write_text("-- cart/new: one.\nSELECT 1;\n")
    status, output, errors = await command(there, "review", "--since", "HEAD~1")
    assert (status, errors) == (0, "")
    assert re.findall(r"^(?:PREPARE .*|-- .*: removed)$", output, re.MULTILINE) == [
        "-- cart/create_cart: removed",
        "PREPARE cart__new AS",
        "PREPARE cart__read_cart AS",
    ]
    for wrong in ("nowhere", "--output=x"):
        status, output, errors = await command(there, "review", f"--since={wrong}")
        assert (status, output, errors[:5]) == (2, "", "git: ")


async def answers(url: str, process: asyncio.subprocess.Process) -> None:
    async with httpx.AsyncClient(verify=NO_TLS) as client:

        async def ready() -> bool:
            assert process.returncode is None, (await process.communicate())[1]
            try:
                return (await client.get(f"{url}/health/ready")).status_code == 200
            except httpx.TransportError:
                return False

        await eventually(ready, 60)


async def test_two_workers_answer_and_their_metrics_add_up(environ: dict[str, str]) -> None:
    port, metrics_port = free_port(), free_port()
    url = f"http://127.0.0.1:{port}"
    environ = {**environ, "METRICS_PORT": str(metrics_port)}
    async with started(environ, "serve", "--workers", "2", "--port", str(port)) as process:
        await answers(url, process)
        asked: list[int] = []

        async def both_have_counted() -> bool:
            # A connection each, for the two share the port and not the connections.
            async with httpx.AsyncClient(verify=NO_TLS) as client:
                asked.append((await client.get(f"{url}/categories")).status_code)
            return counting(environ) == 2

        await eventually(both_have_counted)

        async def summed() -> bool:
            async with httpx.AsyncClient(verify=NO_TLS) as client:
                text = (await client.get(f"http://127.0.0.1:{metrics_port}/metrics")).text
            return f'http_requests_total{{method="GET",route="/categories",status="200"}} {len(asked)}.0\n' in text

        await eventually(summed)
        process.send_signal(signal.SIGTERM)
        assert await asyncio.wait_for(process.wait(), 15) == 0
    assert left_in(environ) == []


async def test_open_staff_calls_are_refused_off_loopback(environ: dict[str, str]) -> None:
    status, output, errors = await command(environ, "serve", "--host", "0.0.0.0", "--port", str(free_port()))
    assert (status, output, errors.count("\n")) == (2, "", 1), errors
    assert "ADMIN_TOKEN and AUTH_ISSUER are empty, and --host 0.0.0.0 is not a loopback address" in errors


@pytest.mark.parametrize("workers", ["1", "2"])
async def test_a_port_that_is_taken_is_named(environ: dict[str, str], workers: str) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = str(taken.getsockname()[1])
        status, _, errors = await command(environ, "serve", "--port", port, "--workers", workers)
    assert status == 2
    assert "address already in use" in errors.lower()


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM])
async def test_workers_end_with_their_parent(environ: dict[str, str], number: signal.Signals) -> None:
    port = free_port()
    async with started(environ, "serve", "--workers", "2", "--port", str(port)) as process:
        await answers(f"http://127.0.0.1:{port}", process)
        workers = family(process.pid)
        assert len(workers) >= 3

        process.send_signal(number)

        try:
            await eventually(lambda: _refuses(port))
            await eventually(lambda: _ended(workers))
        finally:
            # `started` stops them only while their parent runs.
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)


async def _ended(processes: list[int]) -> bool:
    return not any(family(process) for process in processes)


async def test_one_process_shows_its_metrics_and_leaves_no_files(environ: dict[str, str]) -> None:
    port, metrics_port = free_port(), free_port()
    url = f"http://127.0.0.1:{port}"
    environ = {**environ, "METRICS_PORT": str(metrics_port), "METRICS_HOST": "0.0.0.0", "ADMIN_TOKEN": ADMIN_TOKEN}
    async with started(environ, "serve", "--port", str(port)) as process:
        await answers(url, process)
        assert left_in(environ) == []
        async with httpx.AsyncClient(base_url=f"http://127.0.0.1:{metrics_port}", verify=NO_TLS) as client:
            assert (await client.get("/metrics")).status_code == 401

            async def counted() -> bool:
                answer = await client.get("/metrics", headers={"Authorization": f"Bearer {ADMIN_TOKEN}"})
                assert answer.status_code == 200
                return 'http_requests_total{method="GET",route="/health/ready",status="200"}' in answer.text

            await eventually(counted)
        process.send_signal(signal.SIGTERM)
        assert await asyncio.wait_for(process.wait(), 15) == 0


@pytest.mark.parametrize("arguments", ["serve", "serve --workers 2", "worker"])
async def test_a_metrics_port_that_cannot_be_had_refuses_the_start(environ: dict[str, str], arguments: str) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = str(taken.getsockname()[1])
        options = ["--port", str(free_port())] if "serve" in arguments else []
        beside = {**environ, "METRICS_PORT": port}
        open_to_all = {**beside, "METRICS_HOST": "0.0.0.0", "ADMIN_TOKEN": ""}
        for given, setting in ((beside, "METRICS_PORT: "), (open_to_all, "METRICS_HOST ")):
            status, output, errors = await command(given, *arguments.split(), *options)
            assert (status, output, errors.count("\n")) == (2, "", 1), errors
            assert errors.startswith(f"Refusing to start: {setting}")
    assert left_in(environ) == []


def limits_of(pid: int) -> str:
    return Path(f"/proc/{pid}/limits").read_text()


async def test_serve_may_open_as_many_files_as_the_system_allows(environ: dict[str, str]) -> None:
    few, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    port = free_port()
    resource.setrlimit(resource.RLIMIT_NOFILE, (min(few, 512), most))
    try:
        async with started(environ, "serve", "--workers", "2", "--port", str(port)) as process:
            await answers(f"http://127.0.0.1:{port}", process)
            limits = [limits_of(pid) for pid in family(process.pid)]
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (few, most))
    allowed = [re.search(r"^Max open files +(\d+) +(\d+) ", text, re.MULTILINE) for text in limits]
    assert len(allowed) >= 3
    assert {limit and limit.groups() for limit in allowed} == {(str(most), str(most))}


async def test_serve_finishes_what_it_has_begun(environ: dict[str, str], database: asyncpg.Connection) -> None:
    port = free_port()
    async with started(environ, "serve", "--port", str(port)) as process:
        await answers(f"http://127.0.0.1:{port}", process)
        # Nothing that a kill -9 would leave behind.
        assert left_in(environ) == []
        async with Shop(f"http://127.0.0.1:{port}") as shop:
            tent = await shop.create_product()
            async with database.transaction():
                await database.execute("SELECT FROM products FOR UPDATE")
                path = f"/products/{tent['id']}/stock"
                moving = asyncio.create_task(shop.call("POST", path, 200, {"delta": -1, "reason": "x"}))
                await wait_for_blocked(database)
                process.send_signal(signal.SIGTERM)
                await eventually(lambda: _refuses(port))
            assert (await moving)["stock"] == 9
        assert await asyncio.wait_for(process.wait(), 15) == 0
    assert left_in(environ) == []


async def _refuses(port: int) -> bool:
    try:
        _, writer = await asyncio.open_connection("127.0.0.1", port)
    except ConnectionRefusedError:
        return True
    writer.close()
    return False


async def test_the_worker_stops(environ: dict[str, str], worker_settings: Settings) -> None:
    port = free_port()
    environ = {**environ, "DATABASE_URL": worker_settings.database_url, "METRICS_PORT": str(port)}
    async with started(environ, "worker") as process:
        async with httpx.AsyncClient(verify=NO_TLS) as client:

            async def audited() -> bool:
                try:
                    text = (await client.get(f"http://127.0.0.1:{port}/metrics")).text
                except httpx.TransportError:
                    return False
                return all(f'audit_violations{{query="{rule}"}} 0.0' in text for rule in files("audit"))

            await eventually(audited)
        process.send_signal(signal.SIGTERM)
        assert await asyncio.wait_for(process.wait(), 15) == 0


# stripe-check


async def test_stripe_check_says_what_the_key_may_do(environ: dict[str, str], stripe: StripeStandin) -> None:
    status, text, errors = await command(environ, "stripe-check")
    assert (status, errors) == (0, ""), text
    assert "key: secret, test mode" in text
    assert text.endswith("missing: nothing\n")

    stripe.set_faults([{"action": "status", "status": 403, "method": "POST", "path": "/v1/refunds"}])
    refused, unreachable, unset = await asyncio.gather(
        command(environ, "stripe-check"),
        command({**environ, "STRIPE_API_BASE": "http://127.0.0.1:9"}, "stripe-check"),
        command({**environ, "STRIPE_API_KEY": ""}, "stripe-check"),
    )

    assert refused[0] == 1
    assert "\nmissing: Charges and Refunds, write\n" in refused[1]
    assert unreachable[0] == 2
    assert "\nmissing: nothing\nnot proved: " in unreachable[1]
    assert (unset[0], unset[2]) == (2, "Refusing to start: STRIPE_API_KEY is not set.\n")


async def test_an_unknown_language_of_the_search_stops_the_start(environ: dict[str, str]) -> None:
    for arguments in (["serve"], ["worker"], ["import", "x.csv"]):
        status, _, errors = await command({**environ, "SEARCH_LANGUAGE": "klingon"}, *arguments)
        assert status == 2
        assert "Refusing to start: SEARCH_LANGUAGE: PostgreSQL has no text search configuration klingon" in errors


async def test_index_indexes_what_is_not(environ: dict[str, str], database: asyncpg.Connection) -> None:
    await database.execute("INSERT INTO products (name, price_minor, currency, stock) VALUES ('Lamp', 1, 'EUR', 0)")
    assert await command(environ, "index") == (0, "1 products indexed\n", "")
    assert await command({**environ, "SEARCH_LANGUAGE": "german"}, "index") == (0, "1 products indexed\n", "")
    assert await command({**environ, "SEARCH_LANGUAGE": "german"}, "index") == (0, "0 products indexed\n", "")
