"""`commerce-core export`: all products with a sku, as a file that `import` takes."""

import csv
from collections.abc import Callable
from dataclasses import dataclass
from typing import TextIO

from service.infra.db import Pool, connection
from service.infra.sql import statement
from service.shop.product_csv import COLUMNS


@dataclass(slots=True)
class ExportedProduct:
    """A product in the columns of a file; `category` is its slug."""

    id: int
    sku: str | None
    name: str
    description: str
    price_minor: int
    currency: str
    active: bool
    max_per_order: int | None
    image_url: str | None
    stock: int
    category: str | None


@dataclass(slots=True)
class Export:
    """How many products were written, and how many were left out, because they have no sku."""

    written: int = 0
    without_sku: int = 0


LIST_PRODUCTS = statement("exports/list_products", ExportedProduct)


async def export_products(pool: Pool, file: TextIO, show: Callable[[int], None] = lambda written: None) -> Export:
    """Write the products by id; after each page `show` gets how many were written.

    A page of a thousand is one snapshot. One for all would keep VACUUM from removing dead rows meanwhile.
    """
    export, after_id = Export(), 0
    writer = csv.writer(file)
    writer.writerow(COLUMNS)
    while True:
        async with connection(pool) as reader:
            page = await LIST_PRODUCTS.all(reader, after_id=after_id)
        if not page:
            return export
        after_id = page[-1].id
        for product in page:
            if product.sku is None:
                export.without_sku += 1
                continue
            writer.writerow(
                (
                    product.sku,
                    product.name,
                    product.description,
                    product.category,
                    product.price_minor,
                    product.currency,
                    "true" if product.active else "false",
                    product.max_per_order,
                    product.image_url,
                    product.stock,
                    None,
                )
            )
            export.written += 1
        show(export.written)
