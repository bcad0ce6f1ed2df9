"""Plans at a million products: which indexes they use, what they cost, and that they equal the texts in plans/."""

import asyncio
import difflib
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

import asyncpg
import pytest
import pytest_asyncio

from service.infra.db import LIMITS
from service.infra.statements import Statement, files, parameters
from tests.sql.catalogue import CLEARANCE, MILLION, fill
from tests.sql.conftest import shared
from tests.sql.explain import custom_nodes, explain, nodes
from tests.sql.headers import header_text, value_of
from tests.sql.locks import transaction
from tests.sql.scenarios import LAST, SCENARIOS, Run

pytestmark = pytest.mark.asyncio(loop_scope="module")

EVERY = pytest.mark.parametrize("name", files())
PLANS = Path(__file__).parent / "plans"
# The plans in plans/ belong to this major version; other versions print other texts.
MAJOR = 18
# The value of `index` when a statement reads whole tables on purpose.
WHOLE = "none; reads whole tables"


@pytest.fixture(scope="session")
def large(template: str) -> Iterator[str]:
    """The URL of the catalogue of a million products."""
    with shared(template) as url:
        asyncio.run(fill(url, MILLION))
        yield url


@pytest.fixture(scope="session")
def small(template: str) -> Iterator[str]:
    """The URL of a catalogue of a thousand products."""
    with shared(template) as url:
        asyncio.run(fill(url, MILLION // 1000))
        yield url


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def catalogue(large: str) -> AsyncIterator[asyncpg.Connection]:
    """A connection to the large catalogue, with the settings of the service's connections."""
    connection = await asyncpg.connect(large, server_settings=LIMITS)
    yield connection
    await connection.close()


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def small_catalogue(small: str) -> AsyncIterator[asyncpg.Connection]:
    """A connection to the small catalogue, with the same settings."""
    connection = await asyncpg.connect(small, server_settings=LIMITS)
    yield connection
    await connection.close()


def whole_scans(plan: list[dict[str, Any]]) -> list[str]:
    """The tables that a plan reads whole; a sequence has one row."""
    scanned = [node["Relation Name"] for node in plan if node["Node Type"] == "Seq Scan"]
    return [relation for relation in scanned if not relation.endswith("_id_seq")]


@EVERY
async def test_index(name: str, catalogue: asyncpg.Connection) -> None:
    plan = await nodes(catalogue, name)
    used = [node["Index Name"] for node in plan if "Index Name" in node]
    used += [arbiter for node in plan for arbiter in node.get("Conflict Arbiter Indexes", [])]
    whole = whole_scans(plan)
    if value_of(name, "index") == WHOLE:
        scans = [node for node in plan if "Relation Name" in node and "Operation" not in node]
        assert any("Index Cond" not in scan for scan in scans), f"sql/{name}.sql reads no whole table"
        return
    assert not whole, f"sql/{name}.sql reads the whole table {', '.join(whole)}"
    expected = [*dict.fromkeys(used)] or ["none"]
    assert sorted(value_of(name, "index").split(", ")) == sorted(expected), (
        f"sql/{name}.sql should have:\n-- index    {', '.join(expected)}"
    )


@EVERY
async def test_a_plan_for_certain_arguments_uses_no_other_index(name: str, catalogue: asyncpg.Connection) -> None:
    """The server makes custom plans for the first five runs, and goes on with them if they seem cheaper."""
    if value_of(name, "index") == WHOLE:
        return
    for run in SCENARIOS[name].does:
        for arguments in (run.arguments, await many(catalogue, name, run)):
            plan = await custom_nodes(catalogue, name, arguments)
            used = {node["Index Name"] for node in plan if "Index Name" in node}
            assert not whole_scans(plan), arguments
            assert used <= set(value_of(name, "index").split(", ")), arguments


async def many(catalogue: asyncpg.Connection, name: str, run: Run) -> list[Any]:
    """The arguments of a run with as many orders, events or rows as the service passes at most, all in one status."""
    orders = "SELECT id FROM orders WHERE status = 'PENDING_PAYMENT' AND number > 10 ORDER BY number DESC LIMIT 100"
    values = {
        "uuid[]": [id for (id,) in await catalogue.fetch(orders)],
        "integer[]": [1] * 100,
        "text[]": [f"evt_{number}" for number in range(100)],
    }
    arguments = list(run.arguments)
    for position, parameter in enumerate(parameters(header_text(name))):
        # The arrays of seed/add_products have to be of one length.
        if parameter.type in values and not name.startswith("seed/"):
            arguments[position] = values[parameter.type]
        elif parameter.name == "limit":
            arguments[position] = 100
    return arguments


@EVERY
async def test_plan_is_the_committed_one(name: str, catalogue: asyncpg.Connection, pytestconfig: pytest.Config) -> None:
    file = PLANS / f"{name}.txt"
    plan = await explain(catalogue, Statement(name).sql) + "\n"
    same_major = catalogue.get_server_version().major == MAJOR
    if same_major and pytestconfig.getoption("--renew-plans", False):
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(plan)
    assert file.exists(), f"{name} has no committed plan: run `make plans`, and review what it writes"
    if same_major:
        committed = file.read_text()
        difference = difflib.unified_diff(committed.splitlines(), plan.splitlines(), "committed", "now", lineterm="")
        assert plan == committed, "the plan has changed; `make plans` renews it:\n" + "\n".join(difference)


async def test_each_committed_plan_belongs_to_a_statement() -> None:
    assert sorted(str(file.relative_to(PLANS).with_suffix("")) for file in PLANS.rglob("*.txt")) == files()


async def test_every_index_serves_a_plan_or_a_constraint(catalogue: asyncpg.Connection) -> None:
    used = {node.get("Index Name") for name in files() for node in await nodes(catalogue, name)}
    unused = {name for (name,) in await catalogue.fetch(FOR_NO_KEY)} - used
    assert not unused, "no plan uses these indexes, and no constraint or foreign key needs them"


# Indexes that are not unique and do not begin with the columns of a foreign key. yoyo's own tables are left out.
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


async def test_references_to_a_deleted_row_are_found_by_an_index(catalogue: asyncpg.Connection) -> None:
    # A foreign key searches for rows that refer to the deleted one. No plan shows this search.
    for name in files():
        deleted = [n["Relation Name"] for n in await nodes(catalogue, name) if n.get("Operation") == "Delete"]
        for table, column in await catalogue.fetch(REFERRING, deleted):
            search = f"SELECT FROM ONLY {table} WHERE {column} = $1 FOR KEY SHARE"
            assert "Seq Scan" not in await explain(catalogue, search), f"{name}: {table} has no index for {column}"


REFERRING = """
SELECT conrelid::regclass::text, attname
FROM pg_constraint
INNER JOIN pg_attribute ON attrelid = conrelid AND attnum = ANY(conkey)
WHERE contype = 'f' AND confrelid = ANY($1::text[]::regclass[])
"""


# The first page and one far down the list, in lists where most rows match and in lists where few do.
PAGES = {
    "catalog/list_products": [(0, 20), (MILLION - 1000, 20)],
    "catalog/list_category_products": [(20, 0, 20), (20, MILLION - 50_000, 20)],
    "catalog/list_category_products: clearance": [(CLEARANCE, 0, 20), (CLEARANCE, MILLION - 300_000, 20)],
    "orders/list_orders": [(LAST, 21), (1000, 21)],
    "orders/list_orders_by_status": [("FULFILLED", LAST, 21), ("FULFILLED", 1000, 21)],
    "orders/list_orders_by_status: rare": [("PENDING_PAYMENT", LAST, 21), ("PENDING_PAYMENT", 100_000, 21)],
}


@pytest.mark.parametrize("page", PAGES)
async def test_a_deep_page_costs_as_much_as_the_first(page: str, catalogue: asyncpg.Connection) -> None:
    first, deep = [await touched(catalogue, page.partition(":")[0], Run(arguments)) for arguments in PAGES[page]]
    assert abs(first - deep) <= 3


# The statements of a purchase, from the cart to fulfilment: their cost may grow least.
PURCHASE = {
    *files("cart"),
    *files("checkout"),
    *files("fulfilment"),
    *files("idempotency"),
    *files("payment_session"),
    "orders/list_items",
    "orders/read_order",
    "transitions/lock_order",
    "transitions/lock_orders",
    "transitions/mark_paid",
    "webhooks/finish_event",
    "webhooks/read_event",
    "webhooks/record_event",
    "webhooks/store_event",
}


async def test_the_statements_of_a_purchase_exist() -> None:
    assert set(files()) >= PURCHASE


@EVERY
async def test_a_statement_costs_at_a_million_what_it_costs_at_a_thousand(
    name: str, catalogue: asyncpg.Connection, small_catalogue: asyncpg.Connection
) -> None:
    if name in (
        "audit/nothing_is_overdue",
        "audit/unmatched_payments_are_refunded",
        "pressure/measure_holds",
        "search/find_stale",
        "sweep/measure_backlog",
        "imports/clear_lines",
        # The index of a thousand times as many categories is searched a thousand times.
        "exports/list_products",
    ):
        return  # They read all that is pending, due or staged, or a thousand products.
    # An index over a thousand times as many rows is one or two pages deeper. The number of rows read stays the same.
    factor, pages = (1.25, 4) if name in PURCHASE else (1.5, 10)
    for run in SCENARIOS[name].does:
        small, large = await touched(small_catalogue, name, run), await touched(catalogue, name, run)
        assert large <= factor * small + pages


async def touched(connection: asyncpg.Connection, name: str, run: Run) -> int:
    """How many pages of tables and indexes a run asks for, the checks of foreign keys included.

    The run is repeated until two counts agree. A new connection plans first, and so does one whose table was just
    vacuumed: planning reads pages of every index.
    """
    await connection.execute("SET plan_cache_mode = force_generic_plan")
    counts: list[int] = []
    while len(counts) < 2 or counts[-1] != counts[-2]:
        assert len(counts) < 20, counts
        async with transaction(connection):
            before = await connection.fetchval(TOUCHED)
            await connection.fetch(Statement(name).sql, *run.arguments)
            counts.append(int(await connection.fetchval(TOUCHED) - before))
    return counts[-1]


# Counted for this transaction. The system's own tables have lower numbers (oid).
TOUCHED = "SELECT sum(pg_stat_get_xact_blocks_fetched(oid)) FROM pg_class WHERE oid >= 16384 AND relkind IN ('r', 'i')"
