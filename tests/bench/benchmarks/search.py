"""The search at a million products: PostgreSQL's time for a page, by the words that are searched for."""

from collections.abc import Callable
from statistics import median
from urllib.parse import quote

import httpx

from service.infra.statements import Statement
from tests.bench.figures import Figure, Goal, Measured, alternately, pairs
from tests.bench.load import Tables
from tests.bench.stage import Stage

MILLION = 1_000_000
# Of each target in a round.
PAGES = 40
DEEP = 100

AT = "`GET /search` at a million products, in PostgreSQL"
RARE = Goal(f"{AT}: a rare word", "at most 5 ms", most=5)
COMMON = Goal(f"{AT}: the commonest word", "at most 50 ms", most=50)
AS_FIRST = Goal(f"{AT}: page {DEEP} against page 1", "within 1.2 ×", most=1.2)

# 18,720 words; the first ones are in a third of the products, the last ones in a few hundred. Every tenth product has
# a word of its own in the description, 50 products each.
WORDS = """
CREATE TABLE vocabulary AS
SELECT
    n,
    (ARRAY['ba', 'ko', 'li', 'mu', 're', 'sa', 'ti', 'vo', 'na', 'pe', 'gu', 'dor'])[1 + n % 12]
    || (ARRAY['lan', 'mir', 'tos', 'ker', 'bin', 'dal', 'fus', 'gom', 'hep', 'jix', 'rol', 'wet', 'zan'])
    [1 + n / 12 % 13]
    || (ARRAY['', 'er', 'ing', 'ow', 'us', 'ia', 'et', 'ol', 'an', 'em'])[1 + n / 156 % 10]
    || (ARRAY['', 'a', 'b', 'ck', 'd', 'ft', 'g', 'ish', 'l', 'm', 'nt', 'p'])[1 + n / 1560 % 12] AS word
FROM generate_series(0, 18719) AS n;
ALTER TABLE vocabulary ADD PRIMARY KEY (n);
ANALYZE vocabulary;
SELECT setseed(0.5);
"""
PRODUCTS = """
INSERT INTO products (name, description, price_minor, currency, stock)
SELECT
    'Product ' || string_agg(word, ' ') FILTER (WHERE place <= 3),
    string_agg(word, ' ') FILTER (WHERE place > 3)
    || CASE WHEN mod(product, 10) = 0 THEN ' uniq' || mod(product / 10, 2000) ELSE '' END,
    100 + mod(product::bigint * 7919, 990000),
    'EUR',
    0
FROM (
    SELECT product, place, (18719 * power(random(), 3))::integer AS n
    FROM generate_series(1, %(count)s) AS product, generate_series(1, 15) AS place
) AS drawn
INNER JOIN vocabulary USING (n)
GROUP BY product
ORDER BY product
"""
INDEXES = """
SELECT indexrelid::regclass::text, pg_get_indexdef(indexrelid) FROM pg_index
WHERE indrelid = 'product_search'::regclass AND NOT indisunique
"""


def pages(stage: Stage) -> Measured:
    """Pages of 20 by relevance: of words in 50 products each, of the word in all, and the latter's page 100."""
    url, tables = stage.database("search", 0, history=0)
    if tables.products == 0:
        _fill(tables)
    with stage.api(url, DB_POOL_SIZE="2") as api, httpx.Client(base_url=api.url, timeout=60) as client:
        deep = _cursor(client, DEEP)
        targets = {
            "a rare word": [f"/search?q=uniq{n}" for n in range(100, 100 + PAGES)],
            "the commonest word": ["/search?q=product"] * PAGES,
            f"its page {DEEP}": [f"/search?q=product&after={quote(deep)}"] * PAGES,
            "a word of every third product": ["/search?q=balan"] * PAGES,
            "two common words": ["/search?q=balan+kolan"] * PAGES,
            "a mistyped word": ["/search?q=kolanq"] * PAGES,
            "by price, within prices": ["/search?sort=price&currency=EUR&min_price_minor=5000&max_price_minor=9000"]
            * PAGES,
        }
        for paths in targets.values():
            _milliseconds(client, tables, paths[:10])
        rounds = alternately(stage.rounds, {name: _measuring(client, tables, paths) for name, paths in targets.items()})
    goals = {"a rare word": RARE, "the commonest word": COMMON}
    figures = [Figure(name, "ms", values, True, "", goals.get(name)) for name, values in rounds.items()]
    ratio = pairs(rounds[f"its page {DEEP}"], rounds["the commonest word"])
    figures.append(Figure(f"page {DEEP} against page 1", "×", ratio, True, "", AS_FIRST))
    return Measured(figures, {"products": tables.products, "pages a round": PAGES})


def _fill(tables: Tables) -> None:
    """A million products; the indexes of the words are built afterwards, which is faster."""
    connection = tables.connection
    connection.execute(WORDS)
    connection.execute(PRODUCTS, {"count": MILLION})
    connection.execute("ANALYZE products")
    indexes = connection.execute(INDEXES).fetchall()
    for name, _ in indexes:
        connection.execute(f"DROP INDEX {name}")
    statement = (
        Statement("search/index_products").sql.replace("$1", "%(ids)s::bigint[]").replace("$2", "%(language)s::text")
    )
    for first in range(1, MILLION + 1, 1000):
        ids = list(range(first, first + 1000))
        connection.execute(statement, {"ids": ids, "language": "simple"})
    for _, definition in indexes:
        connection.execute(definition)
    tables.settle()
    tables.products = MILLION


def _cursor(client: httpx.Client, page: int) -> str:
    """The cursor of a page of the commonest word."""
    cursor = ""
    for _ in range(page - 1):
        cursor = client.get("/search", params={"q": "product", **({"after": cursor} if cursor else {})}).json()[
            "next_cursor"
        ]
    return str(cursor)


def _measuring(client: httpx.Client, tables: Tables, paths: list[str]) -> Callable[[], float]:
    return lambda: _milliseconds(client, tables, paths)


def _milliseconds(client: httpx.Client, tables: Tables, paths: list[str]) -> float:
    """The median of PostgreSQL's time for a page: all its statements together."""
    times = []
    for path in paths:
        tables.reset_costs()
        items = client.get(path).raise_for_status().json()["items"]
        assert len(items) == 20, path
        times.append(1000 * sum(seconds for name, _, seconds, _ in tables.costs() if name.startswith("search/")))
    return median(times)
