"""The plans that a million products get: by which indexes, at what cost, and as the texts beside this say."""

import asyncio
import difflib
import re
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import asyncpg
import pytest
import pytest_asyncio

from service.infra.db import LIMITS
from service.infra.statements import Statement, files
from tests.sql.catalogue import CLEARANCE, MILLION, fill
from tests.sql.conftest import shared
from tests.sql.explain import explain, nodes
from tests.sql.headers import said
from tests.sql.locks import transaction
from tests.sql.scenarios import LAST, SCENARIOS, Run

pytestmark = pytest.mark.asyncio(loop_scope="module")

EVERY = pytest.mark.parametrize("name", files())
PLANS = Path(__file__).parent / "plans"
# Texts differ from one major version to the next.
MAJOR = 18
# What a header says when the plan is to read tables to their end.
WHOLE = "none; reads whole tables"


@pytest.fixture(scope="session")
def large(template: str) -> Iterator[str]:
    """The URL of the catalogue of a million products."""
    with shared(template) as url:
        asyncio.run(fill(url, MILLION))
        yield url


@pytest.fixture(scope="session")
def thousandth(template: str) -> Iterator[str]:
    """The URL of one of a thousand."""
    with shared(template) as url:
        asyncio.run(fill(url, MILLION // 1000))
        yield url


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def catalogue(large: str) -> AsyncIterator[asyncpg.Connection]:
    """A connection to the large one, with the settings that the service's have."""
    connection = await asyncpg.connect(large, server_settings=LIMITS)
    yield connection
    await connection.close()


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def beginning(thousandth: str) -> AsyncIterator[asyncpg.Connection]:
    """A connection to the small one."""
    connection = await asyncpg.connect(thousandth, server_settings=LIMITS)
    yield connection
    await connection.close()


@EVERY
async def test_index(name: str, catalogue: asyncpg.Connection) -> None:
    plan = await nodes(catalogue, name)
    used = [node["Index Name"] for node in plan if "Index Name" in node]
    used += [arbiter for node in plan for arbiter in node.get("Conflict Arbiter Indexes", [])]
    whole = [node["Relation Name"] for node in plan if node["Node Type"] == "Seq Scan"]
    if said(name, "index") == WHOLE:
        scans = [node for node in plan if "Relation Name" in node and "Operation" not in node]
        assert any("Index Cond" not in scan for scan in scans), f"sql/{name}.sql reads no table whole"
        return
    assert not whole, f"sql/{name}.sql reads {', '.join(whole)} to the end"
    truth = [*dict.fromkeys(used)] or ["none"]
    assert sorted(said(name, "index").split(", ")) == sorted(truth), (
        f"sql/{name}.sql should say:\n-- index    {', '.join(truth)}"
    )


@EVERY
async def test_plan_is_the_committed_one(name: str, catalogue: asyncpg.Connection, pytestconfig: pytest.Config) -> None:
    text = PLANS / f"{name}.txt"
    now = await explain(catalogue, Statement(name).sql) + "\n"
    same_major = catalogue.get_server_version().major == MAJOR
    if same_major and pytestconfig.getoption("--renew-plans", False):
        text.parent.mkdir(parents=True, exist_ok=True)
        text.write_text(now)
    assert text.exists(), f"{name} has no plan beside the tests: `make plans`, and review what it writes"
    # In which order the audit joins whole tables hangs on ANALYZE's sample.
    if same_major and not name.startswith("audit/"):
        committed = text.read_text()
        difference = difflib.unified_diff(committed.splitlines(), now.splitlines(), "committed", "now", lineterm="")
        assert now == committed, "another plan than the committed one; `make plans` renews it:\n" + "\n".join(
            difference
        )


async def test_no_plan_is_left_of_a_statement_that_is_gone() -> None:
    assert sorted(str(text.relative_to(PLANS).with_suffix("")) for text in PLANS.rglob("*.txt")) == files()


async def test_every_index_is_for_something(catalogue: asyncpg.Connection) -> None:
    used = {node.get("Index Name") for name in files() for node in await nodes(catalogue, name)}
    unused = {name for (name,) in await catalogue.fetch(FOR_NO_KEY)} - used
    assert not unused, "no plan reads it, and no constraint or foreign key needs it"


# Indexes that are neither a constraint nor begin with a foreign key's columns. yoyo's are its own.
FOR_NO_KEY = """
SELECT relname
FROM pg_index
INNER JOIN pg_class ON pg_class.oid = indexrelid
WHERE
    relnamespace = 'public'::regnamespace
    AND NOT indisunique
    AND relname !~ 'yoyo'
    AND NOT EXISTS (
        SELECT FROM pg_constraint
        WHERE contype = 'f' AND conrelid = indrelid AND conkey = (indkey::smallint[])[0:cardinality(conkey) - 1]
    )
"""


async def test_a_deleted_row_is_looked_for_by_an_index(catalogue: asyncpg.Connection) -> None:
    # A foreign key looks for rows that refer to the deleted one, which no plan shows.
    for name in files():
        deleted = [n["Relation Name"] for n in await nodes(catalogue, name) if n.get("Operation") == "Delete"]
        for table, column in await catalogue.fetch(REFERRING, deleted):
            look = f"SELECT FROM ONLY {table} WHERE {column} = $1 FOR KEY SHARE"
            assert "Seq Scan" not in await explain(catalogue, look), f"{name}: {table} has no index for {column}"


REFERRING = """
SELECT conrelid::regclass::text, attname
FROM pg_constraint
INNER JOIN pg_attribute ON attrelid = conrelid AND attnum = ANY(conkey)
WHERE contype = 'f' AND confrelid = ANY($1::text[]::regclass[])
"""


# A page at the beginning and one a million products deep, of what is all for sale and of what hardly is.
PAGES = {
    "catalog/list_products": [(0, 20), (MILLION - 1000, 20)],
    "catalog/list_category_products": [(20, 0, 20), (20, MILLION - 50_000, 20)],
    "catalog/list_category_products: clearance": [(CLEARANCE, 0, 20), (CLEARANCE, MILLION - 300_000, 20)],
    "orders/list_orders": [(LAST, 21), (1000, 21)],
    "orders/list_orders_by_status": [("FULFILLED", LAST, 21), ("FULFILLED", 1000, 21)],
    "orders/list_orders_by_status: rare": [("PENDING_PAYMENT", LAST, 21), ("PENDING_PAYMENT", 100_000, 21)],
}


@pytest.mark.parametrize("page", PAGES)
async def test_a_deep_page_costs_what_the_first_costs(page: str, catalogue: asyncpg.Connection) -> None:
    first, deep = [await touched(catalogue, page.partition(":")[0], Run(arguments)) for arguments in PAGES[page]]
    assert abs(first - deep) <= 3


# What a purchase runs, from the cart to its fulfilment.
PURCHASE = re.compile(
    "cart/|checkout/|fulfilment/|idempotency/(lock|find|store)_key"
    "|orders/(lock_order|mark_paid|read_order|list_items)|payment/(record|store|read|finish)_event"
)


@EVERY
async def test_a_statement_costs_at_a_million_what_it_costs_at_a_thousand(
    name: str, catalogue: asyncpg.Connection, beginning: asyncpg.Connection
) -> None:
    # An index over a thousand times as many rows is one or two pages deeper; of rows no more are looked at. The audit
    # looks at all that there are.
    times, more = (1.2, 3) if PURCHASE.match(name) else (1.5, 10)
    for run in SCENARIOS[name].does if not name.startswith("audit/") else ():
        small, large = await touched(beginning, name, run), await touched(catalogue, name, run)
        assert large <= times * small + more


async def touched(connection: asyncpg.Connection, name: str, run: Run) -> int:
    """How often a run asks for a page of a table or index, also for its foreign keys.

    It is run until it has asked as often as the time before: a connection that is new, or that has just heard that a
    table was vacuumed, plans anew and for that looks into every index.
    """
    await connection.execute("SET plan_cache_mode = force_generic_plan")
    times: list[int] = []
    while len(times) < 2 or times[-1] != times[-2]:
        assert len(times) < 20, times
        async with transaction(connection):
            before = await connection.fetchval(TOUCHED)
            await connection.fetch(Statement(name).sql, *run.arguments)
            times.append(int(await connection.fetchval(TOUCHED) - before))
    return times[-1]


# Of this transaction; what the server made itself has lower numbers.
TOUCHED = "SELECT sum(pg_stat_get_xact_blocks_fetched(oid)) FROM pg_class WHERE oid >= 16384 AND relkind IN ('r', 'i')"
