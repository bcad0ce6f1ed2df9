"""Loading the demo catalogue."""

from dataclasses import dataclass

from service.dev import demo
from service.infra.db import Connection, Pool
from service.infra.statements import NoRow, Statement
from service.infra.transactions import run_transaction
from service.shop.catalog import Id, slug_of

BATCH = 1000


@dataclass(slots=True)
class Found:
    """Whether there is any."""

    found: bool


HAS_PRODUCTS = Statement("seed/has_products", Found)
ADD_CATEGORY = Statement("seed/add_category", Id)
ADD_PRODUCTS = Statement("seed/add_products", NoRow)


async def seed(pool: Pool, count: int) -> int:
    """Load `count` demo products in one transaction, unless there are products already; how many were loaded."""

    async def load(tx: Connection) -> int:
        if (await HAS_PRODUCTS.one(tx)).found:
            return 0
        categories = {name: (await ADD_CATEGORY.one(tx, name, slug_of(name))).id for name in demo.CATEGORIES}
        products = list(demo.products(count))
        for first in range(0, count, BATCH):
            batch = products[first : first + BATCH]
            await ADD_PRODUCTS.run(
                tx,
                [product.name for product in batch],
                [product.description for product in batch],
                [categories[product.category] for product in batch],
                [product.price_minor for product in batch],
                [product.currency for product in batch],
                [product.stock for product in batch],
            )
        return count

    return await run_transaction(pool, load)
