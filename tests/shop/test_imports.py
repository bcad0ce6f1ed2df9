"""`import` and `export`: products from a file and back, again, in part, beside sales, and what is refused."""

import asyncio
import csv
import os
import signal
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import asyncpg
import pytest

from service.errors import ShopError
from service.infra.db import connection
from service.infra.resources import Resources
from service.shop import imports, search
from service.shop.imports import Outcome, import_products
from service.shop.product_csv import COLUMNS, InvalidHeader, Problem, Reader
from tests.client import Shop, eventually
from tests.database import checksum_tables, wait_for_blocked
from tests.test_command_line import command, started

NEW = {"name": "Tent", "price_minor": "1250", "currency": "EUR", "stock": "10"}
PRODUCT = (
    "SELECT products.name, description, slug, price_minor, currency, stock, active, max_per_order, image_url, version"
    " FROM products LEFT JOIN categories ON categories.id = category_id WHERE sku = $1"
)
LEDGER = (
    "SELECT delta, reason, actor FROM stock_movements JOIN products ON products.id = product_id WHERE sku = $1"
    " ORDER BY stock_movements.id"
)
AUDITED = "SELECT actor, action, subject, before, after FROM audit_log ORDER BY id"
# What an import that changes nothing leaves as it was.
CATALOGUE = ("products", "stock_movements", "categories")


@pytest.fixture
def write(tmp_path: Path) -> Callable[..., Path]:
    """Writes a file of these records, or of this text or these bytes; its path."""

    def write(content: Iterable[dict[str, Any]] | str | bytes, name: str = "products.csv") -> Path:
        path = tmp_path / name
        if isinstance(content, bytes | str):
            path.write_bytes(content if isinstance(content, bytes) else content.encode())
            return path
        records = [*content]
        with path.open("w", encoding="utf-8", newline="") as file:
            writer = csv.DictWriter(file, [*dict.fromkeys(column for record in records for column in record)])
            writer.writeheader()
            writer.writerows(records)
        return path

    return write


Write = Callable[..., Path]


async def load(resources: Resources, path: Path, *, dry_run: bool = False) -> Outcome:
    with path.open("rb") as file:
        return await import_products(resources, file, path.name, dry_run=dry_run)


async def problems(resources: Resources, path: Path) -> list[str]:
    """What is wrong with the file; it is refused whole."""
    outcome = await load(resources, path)
    assert outcome.refused
    return [str(problem) for problem in outcome.problems]


def several(count: int, **fields: Any) -> list[dict[str, Any]]:
    return [{"sku": f"S-{number}", **NEW, **fields} for number in range(count)]


# What it adds and changes


async def test_new_products_have_their_columns_and_first_units(
    api_resources: Resources, shop: Shop, database: asyncpg.Connection, write: Write
) -> None:
    await shop.call("POST", "/categories", 201, {"name": "Zelte für Zwei"})
    picture = "https://cdn.example.com/a.jpg"
    full = {
        "sku": "A-1",
        "name": " Zelt 帐篷 ",
        "description": '=1+1, "quoted"\r\nnext',
        "category": "zelte-fur-zwei",
        "price_minor": 1250,
        "currency": "EUR",
        "active": "FALSE",
        "max_per_order": 3,
        "image_url": picture,
        "stock": 7,
        "stock_delta": -2,
    }
    bare = {"sku": "A-2", "name": "Rope", "price_minor": 5, "currency": "IDR", "active": "true", "stock": 0}

    outcome = await load(api_resources, write([full, bare]))

    assert (outcome.lines, outcome.added, outcome.changed, outcome.moved, outcome.problems) == (2, 2, 0, 1, [])
    text = '=1+1, "quoted"\r\nnext'
    expected = ("Zelt 帐篷", text, "zelte-fur-zwei", 1250, "EUR", 5, False, 3, picture, 1)
    assert await database.fetchrow(PRODUCT, "A-1") == expected
    assert await database.fetchrow(PRODUCT, "A-2") == ("Rope", "", None, 5, "IDR", 0, True, None, None, 1)
    digest = outcome.digest[:12]
    assert await database.fetch(LEDGER, "A-1") == [
        (7, "initial stock", "command:import"),
        (-2, f"import {digest}, line 2", "command:import"),
    ]
    assert await database.fetch(LEDGER, "A-2") == []


async def test_an_absent_column_and_an_equal_cell_change_nothing(
    api_resources: Resources, shop: Shop, database: asyncpg.Connection, write: Write
) -> None:
    fields = {"sku": "A-1", "description": "x", "max_per_order": 3, "image_url": "https://example.com/a"}
    tent = await shop.create_product(**fields)
    before = await checksum_tables(database)

    await load(api_resources, write([{"sku": "A-1", "name": "Tent", "stock": 99, "active": "true"}]))
    await load(api_resources, write([{"sku": "A-1", "price_minor": 1250, "currency": "EUR", "stock_delta": ""}]))

    after = await checksum_tables(database)
    assert {table for table in before if before[table] != after[table]} == {"imports", "audit_log"}
    assert await shop.call("GET", f"/products/{tent['id']}", 200) == tent


async def test_an_empty_cell_empties_what_may_be_empty(
    api_resources: Resources, shop: Shop, database: asyncpg.Connection, write: Write
) -> None:
    category = await shop.call("POST", "/categories", 201, {"name": "Tents"})
    fields = {"description": "x", "max_per_order": 3, "image_url": "https://example.com/a"}
    await shop.create_product(sku="A-1", category_id=category["id"], **fields)
    cells = dict.fromkeys(("description", "category", "max_per_order", "image_url"), "")

    await load(api_resources, write([{"sku": "A-1", **cells}]))

    assert await database.fetchrow(PRODUCT, "A-1") == ("Tent", "", None, 1250, "EUR", 10, True, None, None, 2)


async def test_each_change_of_name_price_or_active_is_audited(
    api_resources: Resources, shop: Shop, database: asyncpg.Connection, write: Write
) -> None:
    first, second, _ = [await shop.create_product(sku=f"A-{number}") for number in range(3)]
    await database.execute("DELETE FROM audit_log")
    records = [
        {"sku": "A-0", "name": "Big tent", "price_minor": 1300, "active": "true", "description": ""},
        {"sku": "A-1", "name": "Tent", "price_minor": 1250, "active": "false", "description": ""},
        {"sku": "A-2", "name": "Tent", "price_minor": 1250, "active": "true", "description": "new"},
    ]

    outcome = await load(api_resources, write(records))

    assert outcome.changed == 3
    run, *entries = await database.fetch(AUDITED)
    assert run[:3] == ("command:import", "import", f"import:{outcome.digest[:12]}")
    by_import = ("command:import", "update_product")
    assert sorted(tuple(entry) for entry in entries) == sorted(
        [
            (
                *by_import,
                f"product:{first['id']}",
                '{"name": "Tent", "price_minor": 1250}',
                '{"name": "Big tent", "price_minor": 1300}',
            ),
            (*by_import, f"product:{second['id']}", '{"active": true}', '{"active": false}'),
        ]
    )


async def test_a_file_moves_its_units_once(
    api_resources: Resources, shop: Shop, database: asyncpg.Connection, write: Write
) -> None:
    """Twice the same bytes move nothing again, and no sold unit comes back; other bytes are another delivery."""
    tent = await shop.create_product(sku="A-0")
    records = [{"sku": "A-0", **NEW, "stock_delta": 5}, {"sku": "A-1", **NEW, "stock_delta": -10}]
    path = write(records)

    first = await load(api_resources, path)
    await shop.checked_out_cart((tent["id"], 4))
    again = await load(api_resources, write(path.read_bytes(), "renamed.csv"))

    assert (first.moved, again.moved) == (2, 0)
    assert (await database.fetchrow(PRODUCT, "A-0"))["stock"] == 11
    assert (await database.fetchrow(PRODUCT, "A-1"))["stock"] == 0
    other = await load(api_resources, write(path.read_bytes() + b"\r\n"))
    assert (other.refused, [str(problem) for problem in other.problems]) == (
        True,
        ["line 3, stock_delta: would leave 0 to 1,000,000,000 units; it is 0 now"],
    )


async def test_a_product_that_a_file_sells_out_or_restocks_is_announced(
    api_resources: Resources, shop: Shop, database: asyncpg.Connection, write: Write
) -> None:
    types = ["product.sold_out", "product.restocked"]
    await shop.call("POST", "/event-endpoints", 201, {"url": "https://example.com", "types": types})
    await load(api_resources, write(several(2)))

    await load(api_resources, write([{"sku": "S-0", "stock_delta": -10}, {"sku": "S-1", "stock_delta": -9}]))
    await load(api_resources, write([{"sku": "S-0", "stock_delta": 4}, {"sku": "S-1", "stock_delta": 4}]))

    assert [row["type"] for row in await database.fetch("SELECT type FROM event_deliveries ORDER BY id")] == types


async def test_export_then_import_changes_nothing(
    environ: dict[str, str], shop: Shop, database: asyncpg.Connection, tmp_path: Path
) -> None:
    """All kinds of cells survive the way out and in: versions, ledger, times and the products' audit stay."""
    category = await shop.call("POST", "/categories", 201, {"name": "دال"})
    odd = "=HYPERLINK(\"x\"), 'quoted'\r\nnew\n\r\ttab" + "é" * 9_000
    await shop.create_product(sku="-._", name="'+Tent,\"", description=odd, category_id=category["id"], active=False)
    await shop.create_product(sku="B", max_per_order=9999, image_url="https://example.com/a,b'c", stock=0)
    await shop.create_product()
    await database.execute(
        "INSERT INTO products (sku, name, price_minor, currency, stock)"
        " SELECT 'S-' || n, 'Tent', 100, 'EUR', 0 FROM generate_series(1, 1500) AS n"
    )
    before = await checksum_tables(database)
    path = tmp_path / "out.csv"

    exported = await command(environ, "export", str(path))
    status, output, errors = await command(environ, "import", str(path))

    assert exported == (0, "", "1502 products written\n1 products have no sku and were left out\n")
    assert (status, output, errors) == (
        0,
        "1502 lines: 0 products added, 0 changed, 0 stocks moved, 0 lines skipped\n",
        "",
    )
    after = await checksum_tables(database)
    assert {table for table in before if before[table] != after[table]} == {"imports", "audit_log"}
    assert await database.fetchval("SELECT count(*) FROM audit_log WHERE actor = 'command:import'") == 1
    with path.open(encoding="utf-8", newline="") as file:
        assert next(csv.reader(file)) == [*COLUMNS]
    # It is not overwritten, and nothing else is left.
    assert await command(environ, "export", str(path)) == (2, "", f"{path} exists already.\n")
    assert [name for name in os.listdir(tmp_path) if ".csv" in name] == ["out.csv"]


async def test_an_export_fills_another_shop(
    environ: dict[str, str], shop: Shop, database: asyncpg.Connection, tmp_path: Path
) -> None:
    await shop.create_product(sku="A-1", stock=7)
    path = tmp_path / "out.csv"
    await command(environ, "export", str(path))
    await database.execute("DELETE FROM product_search; DELETE FROM stock_movements; DELETE FROM products")

    await command(environ, "import", str(path))

    assert await database.fetchrow(PRODUCT, "A-1") == ("Tent", "", None, 1250, "EUR", 7, True, None, None, 1)


# What is refused


HEADER = "sku,name,price_minor,currency,stock\n"
LINE = "A-1,Tent,1250,EUR,10\n"


@pytest.mark.parametrize(
    ("content", "expected"),
    [
        ("", "line 1: the column sku is missing; the columns are sku, name, "),
        ("name\n", "line 1: the column sku is missing; "),
        ("sku;name\n", "line 1: 'sku;name' is no column; the columns are sku, name, "),
        ("sku,Name\n", "line 1: 'Name' is no column; "),
        ("sku,name,sku\n", "line 1: a column is named twice"),
        ('"sku\n', "line 1: unexpected end of data"),
        ("sku,name\n".encode("utf-16"), "line 1: '\\udcff\\udcfes\\x00k"),
    ],
)
async def test_a_wrong_header(api_resources: Resources, write: Write, content: str | bytes, expected: str) -> None:
    with pytest.raises(InvalidHeader) as error:
        await load(api_resources, write(content))
    assert str(error.value).startswith(expected)


@pytest.mark.parametrize(
    ("content", "expected"),
    [
        (HEADER + LINE + "\n" + LINE, ["line 4, sku: is in line 2 too"]),
        (HEADER + ",Tent,1250,EUR,10\n", ["line 2, sku: String should match pattern '^[A-Za-z0-9._-]{1,64}$'"]),
        (HEADER + "A 1,Tent,1250,EUR,10\n", ["line 2, sku: String should match pattern '^[A-Za-z0-9._-]{1,64}$'"]),
        (HEADER + 'A-1," \t",1250,EUR,10\n', ["line 2, name: String should have at least 1 character"]),
        (HEADER + "A-1,--,1250,EUR,10\n", ["line 2, name: must have a letter, a digit or a symbol"]),
        (HEADER + f"A-1,{201 * 'x'},1250,EUR,10\n", ["line 2, name: String should have at most 200 characters"]),
        (HEADER + "A-1,Tent\x00,1250,EUR,10\n", ["line 2, name: String should match pattern"]),
        ((HEADER + "A-1,Tent").encode() + b"\xff,1250,EUR,10\n", ["line 2, name: must be UTF-8"]),
        ((HEADER + "A-1,Tent").encode() + b"\xed\xa0\x80,1250,EUR,10\n", ["line 2, name: must be UTF-8"]),
        (HEADER + "A-1,Tent,12.50,EUR,10\n", ["line 2, price_minor: must be a whole number in digits"]),
        (HEADER + "A-1,Tent,1_0,EUR,10\n", ["line 2, price_minor: must be a whole number in digits"]),
        (HEADER + "A-1,Tent, 10,EUR,10\n", ["line 2, price_minor: must be a whole number in digits"]),
        (HEADER + "A-1,Tent,,EUR,10\n", ["line 2, price_minor: must be a whole number in digits"]),
        (HEADER + "A-1,Tent,0,EUR,10\n", ["line 2, price_minor: Input should be greater than or equal to 1"]),
        (HEADER + "A-1,Tent,100000000,EUR,10\n", ["line 2, price_minor: must be at most 99999999 in this currency"]),
        (HEADER + "A-1,Tent,1000000000,INR,10\n", ["line 2, price_minor: must be at most 999999999 in this currency"]),
        (HEADER + "A-1,Tent,1250,eur,10\n", ["line 2, currency: the shop does not sell in this currency"]),
        (HEADER + "A-1,Tent,1250,EUR,-1\n", ["line 2, stock: Input should be greater than or equal to 0"]),
        (
            HEADER + "A-1,Tent,1250,EUR,1000000001\n",
            ["line 2, stock: Input should be less than or equal to 1000000000"],
        ),
        (HEADER + "A-1,Tent,1250,EUR,\n", ["line 2, stock: is required for a new product"]),
        (HEADER + "A-1,Tent,1250,EUR\n", ["line 2: has 4 cells instead of 5"]),
        (HEADER + 'A-1,"Te"nt,1250,EUR,10\n', ["line 2: ',' expected after '\"'; is a quotation mark missing?"]),
        (HEADER + 'A-1,"Tent,1250,EUR,10\n', ["line 2: unexpected end of data; is a quotation mark missing?"]),
        (
            HEADER + f"A-1,{'x' * 200_000}",
            ["line 2: field larger than field limit (131072); is a quotation mark missing?"],
        ),
        (HEADER + "\n" * 3 + "x" * (1 << 21), ["line 5: the line has 1,048,576 characters or more; is a quotation"]),
        (
            "sku,price_minor\nA-1,5\n",
            [f"line 2, {column}: is required for a new product" for column in ("currency", "name", "stock")],
        ),
        ("sku,active\nA-1,yes\n", ["line 2, active: must be true or false"]),
        ("sku,category\nA-1,tents\n", ["line 2, category: is no category's slug"]),
        ("sku,image_url\nA-1,http://example.com/a\n", ["line 2, image_url: must be an https URL with a host"]),
        ("sku,image_url\nA-1,https://a@example.com/a\n", ["line 2, image_url: must be an https URL with a host"]),
        ("sku,max_per_order\nA-1,0\n", ["line 2, max_per_order: Input should be greater than or equal to 1"]),
        ("sku,description\nA-1," + 10_001 * "x", ["line 2, description: String should have at most 10000 characters"]),
        # The record's first line counts, with any line break.
        (
            'sku,description,active\r\nA-1,"1\r\n2\n3\r4",x\rA-2,,x\n',
            ["line 2, active: must be true or false", "line 6, active: must be true or false"],
        ),
    ],
)
async def test_what_a_file_must_not_say(
    api_resources: Resources, database: asyncpg.Connection, write: Write, content: str | bytes, expected: list[str]
) -> None:
    before = await checksum_tables(database)

    found = await problems(api_resources, write(content))

    assert [line for line in expected if not any(one.startswith(line) for one in found)] == [], found
    assert await checksum_tables(database) == before


async def test_what_a_file_must_not_say_of_a_product(
    api_resources: Resources, shop: Shop, database: asyncpg.Connection, write: Write
) -> None:
    for number, currency in enumerate(("EUR", "EUR", "COP")):
        await shop.create_product(sku=f"A-{number}", currency=currency)
    before = await checksum_tables(database)
    records = [
        {"sku": "A-0", "currency": "USD", "price_minor": 100_000_000, "stock_delta": -11},
        {"sku": "A-1", "currency": "EUR", "price_minor": 99_999_999, "stock_delta": 999_999_991},
        {"sku": "A-2", "currency": "COP", "price_minor": 100_000_000, "stock_delta": -10},
    ]

    found = await problems(api_resources, write(records))

    assert found == [
        "line 2, currency: differs from the product's, which cannot change",
        "line 2, price_minor: must be at most 99999999 in this currency",
        "line 2, stock_delta: would leave 0 to 1,000,000,000 units; it is 10 now",
        "line 3, stock_delta: would leave 0 to 1,000,000,000 units; it is 10 now",
    ]
    assert await checksum_tables(database) == before


async def test_one_wrong_line_refuses_the_file_and_the_first_hundred_are_shown(
    environ: dict[str, str], database: asyncpg.Connection, write: Write
) -> None:
    before = await checksum_tables(database)
    one = write([*several(1500), {"sku": "X", **NEW, "currency": "XXX"}], "one.csv")
    many = write(several(1500, currency="XXX"), "many.csv")

    answers = [await command(environ, "import", str(path)) for path in (one, many)]

    wrong = "currency: the shop does not sell in this currency\n"
    assert answers[0] == (1, "", f"line 1502, {wrong}Nothing was imported.\n")
    status, output, errors = answers[1]
    assert (status, output) == (1, "")
    assert errors.splitlines(keepends=True) == [
        *(f"line {line}, {wrong}" for line in range(2, 102)),
        "The first 100 problems are shown.\n",
        "Nothing was imported.\n",
    ]
    assert await checksum_tables(database) == before


async def test_a_dry_run_checks_all_and_changes_nothing(
    environ: dict[str, str], shop: Shop, database: asyncpg.Connection, write: Write
) -> None:
    await shop.create_product(sku="S-0")
    before = await checksum_tables(database)
    good = write(several(2, stock_delta=-1))
    bad = write([{"sku": "S-0", "currency": "USD"}], "bad.csv")

    answers = [await command(environ, "import", "--dry-run", str(path)) for path in (good, bad)]

    assert answers == [
        (0, "no line is refused; nothing was imported\n", ""),
        (1, "", "line 2, currency: differs from the product's, which cannot change\nNothing was imported.\n"),
    ]
    assert await checksum_tables(database) == before


@pytest.mark.parametrize("begin", ["", "\ufeff"])
@pytest.mark.parametrize("end", ["\n", "\r\n"])
async def test_line_breaks_and_byte_order_marks(
    api_resources: Resources, database: asyncpg.Connection, write: Write, begin: str, end: str
) -> None:
    lines = ["sku,name,price_minor,currency,stock", 'A-1,"a ""b"", c",100,EUR,5', '"A-2",5" nail,"100",EUR,"5"', ""]

    outcome = await load(api_resources, write(begin + end.join(lines)))

    assert (outcome.added, outcome.problems) == (2, [])
    assert (await database.fetchrow(PRODUCT, "A-1"))["name"] == 'a "b", c'
    assert (await database.fetchrow(PRODUCT, "A-2"))["name"] == '5" nail'


# Two at once, and in the middle


async def test_a_killed_run_goes_on(
    environ: dict[str, str], shop: Shop, database: asyncpg.Connection, write: Write
) -> None:
    """Killed at several places, the same command ends with the totals of one run."""
    await shop.create_product(sku="S-0")
    path = write(several(9_000, stock_delta=3))

    for position in (1, 3_000, 6_000):

        async def has_come_so_far(position: int = position) -> bool:
            return (await database.fetchval("SELECT max(position) FROM imports") or 0) >= position

        async with started(environ, "import", str(path)) as process:
            await eventually(has_come_so_far)
            process.send_signal(signal.SIGKILL)
    status, output, errors = await command(environ, "import", str(path))

    assert (status, errors) == (0, "")
    assert output.startswith("went on after line ")
    totals = "SELECT count(*), sum(stock), count(DISTINCT sku) FROM products"
    assert await database.fetchrow(totals) == (9_000, 9_000 * 13, 9_000)
    assert await database.fetchval("SELECT sum(delta) FROM stock_movements") == 9_000 * 13
    assert await database.fetchval("SELECT count(*) FROM stock_movements WHERE reason LIKE 'import %'") == 9_000
    assert await database.fetchval("SELECT count(*) FROM import_lines") == 0
    # Finished: now it begins at the first line.
    assert (await command(environ, "import", str(path)))[1] == (
        "9000 lines: 0 products added, 0 changed, 0 stocks moved, 0 lines skipped\n"
    )


async def test_another_import_is_refused_meanwhile(
    environ: dict[str, str], api_resources: Resources, shop: Shop, database: asyncpg.Connection, write: Write
) -> None:
    await shop.create_product(sku="S-0")
    path = write(several(1, name="Big tent", stock_delta=1))
    async with database.transaction():
        await database.execute("SELECT FROM products FOR UPDATE")
        first = asyncio.create_task(load(api_resources, path))
        await wait_for_blocked(database)
        other = await command(environ, "import", str(path))
    await first

    assert other == (2, "", "busy: Another import is running.\n")
    assert (await database.fetchrow(PRODUCT, "S-0"))["stock"] == 11


async def test_units_that_are_sold_meanwhile_skip_their_line_alone(
    api_resources: Resources,
    shop: Shop,
    database: asyncpg.Connection,
    write: Write,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """After the check of the file units are sold. Its line is skipped and named; another run does it later, once."""
    tent, _ = [await shop.create_product(sku=f"S-{number}") for number in range(2)]
    path = write(several(2, name="Big tent", stock_delta=-10))
    start = imports._start

    async def sell_first(*arguments: Any) -> None:
        await start(*arguments)
        await shop.call("POST", f"/products/{tent['id']}/stock", 200, {"delta": -1, "reason": "sold"})

    monkeypatch.setattr(imports, "_start", sell_first)
    outcome = await load(api_resources, path)
    monkeypatch.undo()

    assert [str(problem) for problem in outcome.problems] == [
        "line 2, stock_delta: would leave 0 to 1,000,000,000 units; it is 9 now"
    ]
    assert (outcome.refused, outcome.skipped, outcome.moved) == (False, 1, 1)
    assert (await database.fetchrow(PRODUCT, "S-0"))[:6] == ("Tent", "", None, 1250, "EUR", 9)
    assert (await database.fetchrow(PRODUCT, "S-1"))[:6] == ("Big tent", "", None, 1250, "EUR", 0)
    await shop.call("POST", f"/products/{tent['id']}/stock", 200, {"delta": 4, "reason": "delivery"})
    moved = [(await load(api_resources, path)).moved for _ in range(2)]
    assert moved == [1, 0]
    assert (await database.fetchrow(PRODUCT, "S-0"))["stock"] == 3
    assert (await database.fetchrow(PRODUCT, "S-1"))["stock"] == 0


async def test_a_batch_of_another_run_is_refused(
    api_resources: Resources, database: asyncpg.Connection, write: Write, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As if the lock were lost: another run has applied the batch, or cleared the lines of this one."""
    start = imports._start
    for meanwhile in ("UPDATE imports SET position = 3, moved_to = 3", "DELETE FROM import_lines WHERE line = 2"):

        async def start_and_lose(*arguments: Any, meanwhile: str = meanwhile) -> None:
            await start(*arguments)
            await arguments[-1].execute(meanwhile)

        monkeypatch.setattr(imports, "_start", start_and_lose)
        monkeypatch.setattr(imports, "BATCH_ATTEMPTS", 1)
        with pytest.raises(ShopError) as error:
            await load(api_resources, write(several(2)))
        assert error.value.code == "busy"
        assert await database.fetchval("SELECT count(*) FROM products") == 0
        await database.execute("DELETE FROM imports")


async def test_a_skipped_line_that_was_moved_earlier_is_not_moved_again(
    api_resources: Resources,
    shop: Shop,
    database: asyncpg.Connection,
    write: Write,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Run 1 moves it; run 2 skips it, as its category has another slug meanwhile; run 3 finds the slug again."""
    await shop.call("POST", "/categories", 201, {"name": "Tents"})
    await shop.create_product(sku="S-0")
    path = write([{"sku": "S-0", "category": "tents", "stock_delta": 5}])
    start = imports._start

    async def rename_first(*arguments: Any) -> None:
        await start(*arguments)
        await database.execute("UPDATE categories SET slug = 'other'")

    first = await load(api_resources, path)
    monkeypatch.setattr(imports, "_start", rename_first)
    second = await load(api_resources, path)
    monkeypatch.undo()
    await database.execute("UPDATE categories SET slug = 'tents'")
    third = await load(api_resources, path)

    assert [(one.moved, one.skipped) for one in (first, second, third)] == [(1, 0), (0, 1), (0, 0)]
    assert (await database.fetchrow(PRODUCT, "S-0"))["stock"] == 15


END_HOLDER = (
    "SELECT pg_terminate_backend(pid) FROM pg_locks JOIN pg_database ON pg_database.oid = database"
    " WHERE locktype = 'advisory' AND datname = current_database()"
)


async def test_a_run_that_lost_its_lock_says_so(
    api_resources: Resources, database: asyncpg.Connection, write: Write, monkeypatch: pytest.MonkeyPatch
) -> None:
    start = imports._start

    async def start_and_lose(*arguments: Any) -> None:
        await start(*arguments)
        await database.execute(END_HOLDER)

    path = write(several(2))
    monkeypatch.setattr(imports, "_start", start_and_lose)
    with pytest.raises(ShopError) as error:
        await load(api_resources, path)
    monkeypatch.undo()

    assert (error.value.code, error.value.detail) == ("busy", "The lock was lost; the same command goes on.")
    assert (await load(api_resources, path)).added == 2


async def test_a_run_that_lost_its_lock_leaves_the_lines_of_the_next_one(
    api_resources: Resources,
    shop: Shop,
    database: asyncpg.Connection,
    write: Write,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """In the middle of A's batch B takes the lock and stages as many lines. A applies none of them, deletes none."""
    await shop.create_product(sku="S-0")
    ours, theirs = (write([{"sku": "S-0", "stock_delta": units}], f"{units}.csv") for units in (1, 100))
    apply, is_staged, may_go_on = imports._apply, asyncio.Event(), asyncio.Event()
    others = list[asyncio.Task[Outcome]]()

    async def apply_meanwhile(run: Any, batch: Any) -> list[int]:
        if others:
            is_staged.set()
            await may_go_on.wait()
        else:
            await database.execute(END_HOLDER)
            others.append(asyncio.create_task(load(api_resources, theirs)))
            await is_staged.wait()
        return await apply(run, batch)

    monkeypatch.setattr(imports, "_apply", apply_meanwhile)
    monkeypatch.setattr(imports, "BATCH_ATTEMPTS", 1)
    with pytest.raises(ShopError) as error:
        await load(api_resources, ours)
    may_go_on.set()

    assert error.value.code == "busy"
    assert (await others[0]).moved == 1
    assert (await database.fetchrow(PRODUCT, "S-0"))["stock"] == 110
    # Nothing of its own file is recorded, so the same command still moves its units.
    monkeypatch.undo()
    assert (await load(api_resources, ours)).moved == 1


async def test_staged_lines_are_deleted_ten_thousand_at_a_time(
    api_resources: Resources, database: asyncpg.Connection
) -> None:
    await database.execute(
        "INSERT INTO import_lines (run, line, sku)"
        " SELECT uuid, line, 'S' FROM gen_random_uuid() AS uuid, generate_series(1, 10001) AS line"
    )

    async with connection(api_resources.pool) as writer:
        assert await imports.CLEAR_LINES.run(writer, **imports.ALL_RUNS) == 10_000
    assert await database.fetchval("SELECT count(*) FROM import_lines") == 1


async def test_a_file_that_is_still_being_written_is_refused(
    api_resources: Resources, database: asyncpg.Connection, write: Write, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its digest is of fewer bytes than its lines."""
    path = write(several(1))

    def read_later(file: Any) -> Reader:
        with path.open("a") as upload:
            upload.write("S-1,Tent,1250,EUR,10\n")
        return Reader(file)

    monkeypatch.setattr(imports, "Reader", read_later)
    with pytest.raises(ShopError) as error:
        await load(api_resources, path)

    assert (error.value.code, error.value.detail) == ("busy", "The file was changed while it was read.")
    assert await database.fetchval("SELECT count(*) FROM products") == 0


async def test_a_run_that_goes_on_names_what_the_stopped_one_skipped(
    environ: dict[str, str],
    api_resources: Resources,
    shop: Shop,
    database: asyncpg.Connection,
    write: Write,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    for number in range(2):
        await shop.create_product(sku=f"S-{number}")
    path = write(several(2, stock_delta=-10))
    start, apply, problems = imports._start, imports._apply, list[Problem]()

    async def sell_first(*arguments: Any) -> None:
        await start(*arguments)
        await database.execute("UPDATE products SET stock = 9 WHERE sku = 'S-0'")

    async def apply_one(run: Any, batch: Any) -> list[int]:
        if batch.last_line == 3:
            raise ShopError("busy", "x")
        return await apply(run, batch)

    monkeypatch.setattr(imports, "BATCH", 1)
    monkeypatch.setattr(imports, "_start", sell_first)
    monkeypatch.setattr(imports, "_apply", apply_one)
    with path.open("rb") as file, pytest.raises(ShopError):
        await import_products(api_resources, file, path.name, problems=problems)
    monkeypatch.undo()
    assert [str(problem) for problem in problems] == [
        "line 2, stock_delta: would leave 0 to 1,000,000,000 units; it is 9 now"
    ]

    async with database.transaction():
        await database.execute("SELECT FROM products WHERE sku = 'S-1' FOR UPDATE")
        async with started(environ, "import", str(path)) as process:
            await wait_for_blocked(database)
            process.send_signal(signal.SIGINT)
            _, errors = await process.communicate()
    named = "line 2: was skipped by the run that was stopped\n"
    assert (process.returncode, errors.decode()) == (
        130,
        f"Stopped. The same command goes on after the last batch.\n{named}",
    )
    assert await command(environ, "import", str(path)) == (
        1,
        "went on after line 2, where an earlier run of this file was stopped\n"
        "1 lines: 0 products added, 0 changed, 1 stocks moved, 1 lines skipped\n",
        named,
    )
    # Finished: the next run begins at the first line, and tries it again.
    await database.execute("UPDATE products SET stock = 10 WHERE sku = 'S-0'")
    outcome = await load(api_resources, path)
    assert (outcome.moved, outcome.skipped, outcome.problems) == (1, 0, [])


async def test_a_batch_has_few_characters_too(api_resources: Resources, write: Write) -> None:
    """So that it is short, and sales of its products wait briefly."""
    sizes = list[int]()

    def show(step: str, done: int, total: int) -> None:
        if step == "importing":
            sizes.append(done)

    with write(several(11, description="x" * 9_990)).open("rb") as file:
        outcome = await import_products(api_resources, file, "x", show=show)

    assert (outcome.added, sizes) == (11, [0, 5, 10])


async def test_sales_and_edits_go_on_during_an_import(
    api_resources: Resources, shop: Shop, database: asyncpg.Connection, write: Write
) -> None:
    """Units sold, moved by staff and imported add up, and an edit wins or loses whole."""
    products = [await shop.create_product(sku=f"S-{number}", stock=1000) for number in range(3)]
    path = write(several(4_000, name="Imported", price_minor=999, stock_delta=5))
    sold = 0

    importing = asyncio.create_task(load(api_resources, path))
    while not importing.done():
        for product in products:
            await shop.call("POST", f"/products/{product['id']}/stock", 200, {"delta": -1, "reason": "x"})
            edit = {"name": "Edited", "price_minor": 111}
            await shop.call("PATCH", f"/products/{product['id']}", 200, edit)
        sold += 1

    assert (await importing).problems == []
    for product in products:
        row = await database.fetchrow("SELECT name, price_minor, stock FROM products WHERE id = $1", product["id"])
        assert row[:2] in {("Edited", 111), ("Imported", 999)}
        assert row["stock"] == 1000 + 5 - sold
    ledger = (
        "SELECT count(*) FROM products WHERE stock <> (SELECT sum(delta) FROM stock_movements WHERE product_id = id)"
    )
    assert sold > 0
    assert await database.fetchval(ledger.replace("= id)", "= products.id)")) == 0


async def test_a_sku_that_somebody_adds_meanwhile_is_changed_instead(
    api_resources: Resources, shop: Shop, database: asyncpg.Connection, write: Write
) -> None:
    path = write(several(3, name="Imported"))
    adder = await asyncpg.connect(str(database.get_settings() and api_resources.settings.database_url))
    adding = adder.transaction()
    await adding.start()
    await adder.execute(
        "INSERT INTO products (sku, name, price_minor, currency, stock) VALUES ('S-1', 'X', 1, 'EUR', 0)"
    )

    importing = asyncio.create_task(load(api_resources, path))
    await wait_for_blocked(database)
    await adding.commit()
    outcome = await importing
    await adder.close()

    assert (outcome.added, outcome.changed, outcome.problems) == (2, 1, [])
    assert (await database.fetchrow(PRODUCT, "S-1"))[:6] == ("Imported", "", None, 1250, "EUR", 0)


async def test_a_sku_that_somebody_adds_within_a_batch_is_changed_instead(
    api_resources: Resources, database: asyncpg.Connection, write: Write, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Between the statements that lock and add; nothing else of the batch is there to change."""
    check = imports._problems

    async def add_first(*arguments: Any, find_repeated: bool) -> list[Problem]:
        found = await check(*arguments, find_repeated=find_repeated)
        if not find_repeated:
            await database.execute(
                "INSERT INTO products (sku, name, price_minor, currency, stock) VALUES ('S-0', 'X', 1, 'EUR', 0)"
            )
        return found

    monkeypatch.setattr(imports, "_problems", add_first)
    outcome = await load(api_resources, write(several(1, name="Imported")))

    assert (outcome.added, outcome.changed) == (0, 1)
    assert (await database.fetchrow(PRODUCT, "S-0"))[:6] == ("Imported", "", None, 1250, "EUR", 0)


async def test_a_batch_that_cannot_be_indexed_is_left_to_the_worker(
    api_resources: Resources, shop: Shop, write: Write, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def refuse(*arguments: Any, **more: Any) -> None:
        raise ShopError("busy", "x")

    monkeypatch.setattr("service.shop.search.index", refuse)
    outcome = await load(api_resources, write(several(2)))
    monkeypatch.undo()

    assert (outcome.added, outcome.problems) == (2, [])
    assert (await shop.call("GET", "/search?q=tent", 200))["items"] == []
    await search.index_stale(api_resources.pool, api_resources.settings.search_language)
    assert len((await shop.call("GET", "/search?q=tent", 200))["items"]) == 2


async def test_the_cached_page_and_the_search_show_it(api_resources: Resources, shop: Shop, write: Write) -> None:
    assert (await shop.call("GET", "/products", 200))["items"] == []
    await load(api_resources, write(several(2)))
    assert len((await shop.call("GET", "/products", 200))["items"]) == 2
    assert len((await shop.call("GET", "/search?q=tent", 200))["items"]) == 2
