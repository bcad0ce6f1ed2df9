"""Loading the demo catalogue."""

from service.dev import demo
from service.infra.db import Connection, Pool
from service.infra.sql import statement
from service.infra.transactions import run_transaction
from service.shop.catalog import slug_of

BATCH = 1000


HAS_PRODUCTS = statement("seed/has_products", bool)
ADD_CATEGORY = statement("seed/add_category", int)
ADD_PRODUCTS = statement("seed/add_products")


async def seed(pool: Pool, count: int) -> int:
    """Load `count` demo products into an empty catalogue, in one transaction; the number loaded."""

    async def load(tx: Connection) -> int:
        if await HAS_PRODUCTS.one(tx):
            return 0
        categories = {name: await ADD_CATEGORY.one(tx, name=name, slug=slug_of(name)) for name in demo.CATEGORIES}
        products = list(demo.products(count))
        for first in range(0, count, BATCH):
            batch = products[first : first + BATCH]
            await ADD_PRODUCTS.run(
                tx,
                names=[product.name for product in batch],
                descriptions=[product.description for product in batch],
                category_ids=[categories[product.category] for product in batch],
                prices_minor=[product.price_minor for product in batch],
                currencies=[product.currency for product in batch],
                stocks=[product.stock for product in batch],
            )
        return count

    return await run_transaction(pool, load)
