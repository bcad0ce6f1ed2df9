"""Loading the demo: products, and the cart and order that the OpenAPI document's examples name."""

from collections.abc import Callable, Iterator
from itertools import dropwhile, islice
from uuid import UUID

from service.dev import demo
from service.infra.db import Connection, Pool, connection
from service.infra.logs import actor
from service.infra.sql import statement
from service.infra.transactions import run_transaction
from service.settings import Settings
from service.shop import cart, checkout, search, transitions
from service.shop.text import slug_of

BATCH = 1000
EXAMPLE_CART = UUID("00000000-0000-4000-8000-000000000001")
EXAMPLE_ORDER = UUID("00000000-0000-4000-8000-000000000002")


FIND_NEWEST_PRODUCT = statement("seed/find_newest_product", str)
ADD_CATEGORY = statement("seed/add_category", int)
ADD_PRODUCTS = statement("seed/add_products")


async def seed(pool: Pool, count: int, settings: Settings, show: Callable[[int], None] = lambda loaded: None) -> int:
    """Load demo products up to `count` into an empty catalogue, or after those of a run that was stopped.

    Each batch is a transaction; then `show` gets the number of products loaded so far. Returns how many were loaded:
    none, if the newest product is none of the first `count` or their last.
    """
    actor.set("command:seed")
    async with connection(pool) as reader:
        newest = await FIND_NEWEST_PRODUCT.one_or_none(reader)
    products: Iterator[demo.DemoProduct] = demo.products(count)
    if newest is not None:
        # The rest of them; nothing, if none has this name.
        products = dropwhile(lambda product: product.name != newest, products)
        next(products, None)
    loaded, categories, is_new = 0, dict[str, int](), newest is None

    async def load(tx: Connection) -> None:
        if not categories:
            for name in demo.CATEGORIES:
                categories[name] = await ADD_CATEGORY.one(tx, name=name, slug=slug_of(name))
        await ADD_PRODUCTS.run(
            tx,
            names=[product.name for product in batch],
            descriptions=[product.description for product in batch],
            category_ids=[categories[product.category] for product in batch],
            prices_minor=[product.price_minor for product in batch],
            currencies=[product.currency for product in batch],
            stocks=[product.stock for product in batch],
            actor=actor.get(),
        )
        if is_new and not loaded:
            await _add_examples(tx, settings)

    # Made before its transaction, which would otherwise be idle meanwhile.
    while batch := list(islice(products, BATCH)):
        await run_transaction(pool, load)
        loaded += len(batch)
        show(loaded)
    await search.index_stale(pool, settings.search_language)
    return loaded


async def _add_examples(tx: Connection, settings: Settings) -> None:
    """Add an open cart with two units of the first product, and its cancelled order, which was never paid."""
    await cart.CREATE_CART.run(tx, cart_id=EXAMPLE_CART, user_id=None, reference=None)
    # Whatever the limit for customers is.
    limit, settings = cart.MAX_QUANTITY, settings.model_copy(update={"max_per_order": cart.MAX_QUANTITY})
    if (
        await cart.OPEN_FOR_PRODUCT.one_or_none(
            tx, cart_id=EXAMPLE_CART, product_id=1, max_per_order=limit, user_id=None
        )
        is None
    ):
        # The catalogue had products before, so the new ones do not begin with id 1.
        return
    await cart.ADD_LINE.one_or_none(tx, cart_id=EXAMPLE_CART, product_id=1, quantity=2, max_per_order=limit)
    await checkout.reserve(tx, settings, checkout.Reservation(None, EXAMPLE_CART, None), EXAMPLE_ORDER)
    order = await transitions.lock(tx, EXAMPLE_ORDER)
    note = "an example, never paid"
    await transitions.cancel(tx, transitions.AfterCommit(), [order], payment_status="FAILED", note=note)
