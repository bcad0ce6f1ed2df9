"""Searching the products for sale; `index` makes their search rows equal to the products."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from service.infra.db import Connection, Pool, connection
from service.infra.sql import statement
from service.infra.transactions import run_transaction

# Their rows are locked while they are indexed; this takes less than a tenth of a second.
INDEX_BATCH = 100
# What staff edit is indexed at once. This is for products from before the search, and for another language.
INDEX_SECONDS = 3600.0


@dataclass(slots=True)
class Stale:
    """Of some products in the order of their ids: the last one, and those whose search rows are not equal to them."""

    last_id: int | None
    product_ids: list[int]


INDEX_PRODUCTS = statement("search/index_products")
FIND_STALE = statement("search/find_stale", Stale)


async def index(tx: Connection, product_ids: Sequence[int], language: str) -> None:
    """Index products that this transaction has added or edited, after their last change."""
    await INDEX_PRODUCTS.run(tx, product_ids=product_ids, language=language)


async def index_stale(pool: Pool, language: str, show: Callable[[int], None] = lambda indexed: None) -> int:
    """Index the products whose search rows are missing, or of another language or version; how many there were.

    It may be stopped at any time: the next run goes on. `show` gets the number of products indexed so far.
    """
    after_id, indexed = 0, 0
    while True:
        async with connection(pool) as reader:
            stale = await FIND_STALE.one(reader, after_id=after_id, language=language)
        if stale.last_id is None:
            return indexed
        for start in range(0, len(stale.product_ids), INDEX_BATCH):
            batch = stale.product_ids[start : start + INDEX_BATCH]

            async def work(tx: Connection, batch: list[int] = batch) -> None:
                await index(tx, batch, language)

            await run_transaction(pool, work, idempotent=True)
            indexed += len(batch)
            show(indexed)
        after_id = stale.last_id
