"""Categories, products and their stock."""

import re
import unicodedata
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Generic, TypeVar

from service.errors import ShopError, invalid, not_found
from service.infra.db import Connection, connection
from service.infra.resources import Resources
from service.infra.statements import Statement
from service.infra.transactions import run_transaction
from service.shop.idempotency import IdempotencyKey, StoredResponse, run_once

DEFAULT_LIMIT = 20

Item = TypeVar("Item")


@dataclass(slots=True)
class Id:
    """The id of what a statement found or changed."""

    id: int


@dataclass(slots=True)
class Category:
    """A category; its slug is what listings are filtered by."""

    id: int
    name: str
    slug: str


@dataclass(slots=True)
class Product:
    """One product, with what its staff and a buyer of the last unit need to know."""

    id: int
    name: str
    description: str
    category_id: int | None
    price_minor: int
    currency: str
    stock: int
    active: bool
    version: int
    created_at: datetime
    updated_at: datetime

    @property
    def etag(self) -> str:
        """Changes with every edit and every unit sold."""
        return f'"{self.version}-{self.stock}"'


@dataclass(slots=True)
class ListedProduct:
    """A product in a listing: whether there is any, not how many."""

    id: int
    name: str
    category_id: int | None
    price_minor: int
    currency: str
    available: bool


@dataclass(slots=True)
class Page(Generic[Item]):
    """A keyset page; the cursor of the next one, or null on the last."""

    items: Sequence[Item]
    next_cursor: int | None


@dataclass(slots=True)
class RenderedPage:
    """A Page of ListedProducts as JSON."""

    page: str


@dataclass(slots=True, kw_only=True)
class ProductChange:
    """An edit by staff; None leaves a field as it is, and `set_category` says whether `category_id` counts."""

    name: str | None = None
    description: str | None = None
    price_minor: int | None = None
    set_category: bool = False
    category_id: int | None = None
    active: bool | None = None


CREATE_CATEGORY = Statement("catalog/create_category", Category)
LIST_CATEGORIES = Statement("catalog/list_categories", Category)
UPDATE_CATEGORY = Statement("catalog/update_category", Category)
DELETE_CATEGORY = Statement("catalog/delete_category", Id)
FIND_CATEGORY = Statement("catalog/find_category", Id)
CREATE_PRODUCT = Statement("catalog/create_product", Product)
GET_PRODUCT = Statement("catalog/get_product", Product)
LIST_PRODUCTS = Statement("catalog/list_products", RenderedPage)
LIST_CATEGORY_PRODUCTS = Statement("catalog/list_category_products", RenderedPage)
UPDATE_PRODUCT = Statement("catalog/update_product", Product)
DEACTIVATE_PRODUCT = Statement("catalog/deactivate_product", Id)
MOVE_STOCK = Statement("catalog/move_stock", Product)


def slug_of(name: str) -> str:
    """`Café & Bar` -> `cafe-bar`; letters of other scripts stay. Empty where a name has neither letter nor digit."""
    plain = "".join(c for c in unicodedata.normalize("NFKD", name) if not unicodedata.combining(c))
    # Lower once more, as Cherokee folds to capitals.
    folded = unicodedata.normalize("NFC", plain).casefold().lower()
    return re.sub(r"[\W_]+", "-", folded).strip("-")[:200].strip("-")


async def create_category(
    resources: Resources, key: IdempotencyKey | None, name: str, slug: str | None
) -> StoredResponse:
    """201 with the new Category; `slug_taken` when another has the slug."""
    slug = slug or slug_of(name)
    if not slug:
        raise invalid("/slug", "is needed, as none can be made from this name")
    return await run_once(
        resources.pool,
        key,
        201,
        lambda tx: CREATE_CATEGORY.one(tx, name, slug),
        lambda category: f"/categories/{category.id}",
    )


async def list_categories(resources: Resources, after_id: int, limit: int) -> Page[Category]:
    """Categories by id."""
    async with connection(resources.pool) as reader:
        found = await LIST_CATEGORIES.all(reader, after_id, limit + 1)
    return Page(found[:limit], found[limit - 1].id if len(found) > limit else None)


async def update_category(resources: Resources, category_id: int, name: str | None, slug: str | None) -> Category:
    """The category as changed."""
    category = await run_transaction(resources.pool, lambda tx: UPDATE_CATEGORY.maybe(tx, category_id, name, slug))
    if category is None:
        raise not_found("category")
    return category


async def delete_category(resources: Resources, category_id: int) -> None:
    """Remove a category; `category_in_use` while a product, for sale or not, is in it."""
    if await run_transaction(resources.pool, lambda tx: DELETE_CATEGORY.maybe(tx, category_id)) is None:
        raise not_found("category")


async def create_product(
    resources: Resources,
    key: IdempotencyKey | None,
    *,
    name: str,
    description: str,
    category_id: int | None,
    price_minor: int,
    currency: str,
    stock: int,
    active: bool,
) -> StoredResponse:
    """201 with the new Product; its stock is the first row of its ledger."""

    async def create(tx: Connection) -> Product:
        product = await CREATE_PRODUCT.maybe(tx, name, description, category_id, price_minor, currency, stock, active)
        if product is None:
            raise not_found("category")
        return product

    answer = await run_once(resources.pool, key, 201, create, lambda product: f"/products/{product.id}")
    await resources.cache.invalidate()
    return answer


async def get_product(resources: Resources, product_id: int) -> Product:
    """One product, for sale or not."""
    async with connection(resources.pool) as reader:
        product = await GET_PRODUCT.maybe(reader, product_id)
    if product is None:
        raise not_found("product")
    return product


async def list_products(resources: Resources, limit: int, after_id: int, category: str | None) -> bytes:
    """A keyset page of what is for sale, as JSON; the default first page comes from the cache."""
    if category is None and after_id == 0 and limit == DEFAULT_LIMIT:
        return await resources.cache.page(lambda: _read_page(resources, DEFAULT_LIMIT, 0, None))
    return await _read_page(resources, limit, after_id, category)


async def _read_page(resources: Resources, limit: int, after_id: int, category: str | None) -> bytes:
    async with connection(resources.pool) as reader:
        if category is None:
            found = await LIST_PRODUCTS.one(reader, after_id, limit)
        else:
            filed = await FIND_CATEGORY.maybe(reader, category)
            if filed is None:
                raise not_found("category")
            found = await LIST_CATEGORY_PRODUCTS.one(reader, filed.id, after_id, limit)
    return found.page.encode()


async def update_product(
    resources: Resources, product_id: int, versions: frozenset[int] | None, change: ProductChange
) -> Product:
    """The product as changed; `precondition_failed` when `versions` is given and the product's is none of them."""

    async def update(tx: Connection) -> Product:
        version = None
        if versions is not None:
            stored = await GET_PRODUCT.maybe(tx, product_id)
            if stored is None:
                raise not_found("product")
            if stored.version not in versions:
                raise ShopError("precondition_failed", "The product was edited since.", version=stored.version)
            # The statement compares again, so that an edit in between is noticed.
            version = stored.version
        product = await UPDATE_PRODUCT.maybe(
            tx,
            product_id,
            version,
            change.name,
            change.description,
            change.price_minor,
            change.set_category,
            change.category_id,
            change.active,
        )
        if product is None:
            raise await _update_refusal(tx, product_id, version)
        return product

    product = await run_transaction(resources.pool, update)
    await resources.cache.invalidate()
    return product


async def _update_refusal(tx: Connection, product_id: int, version: int | None) -> ShopError:
    stored = await GET_PRODUCT.maybe(tx, product_id)
    if stored is None:
        return not_found("product")
    if version is not None and stored.version != version:
        return ShopError("precondition_failed", "The product was edited since.", version=stored.version)
    return not_found("category")


async def deactivate_product(resources: Resources, product_id: int) -> None:
    """Take a product off sale; what is in carts of it is refused at checkout."""
    if await run_transaction(resources.pool, lambda tx: DEACTIVATE_PRODUCT.maybe(tx, product_id)) is None:
        raise not_found("product")
    await resources.cache.invalidate()


async def move_stock(
    resources: Resources, key: IdempotencyKey | None, product_id: int, delta: int, reason: str
) -> StoredResponse:
    """200 with the Product after the move; `insufficient_stock` rather than below zero."""
    crossed_zero = False

    async def move(tx: Connection) -> Product:
        nonlocal crossed_zero
        product = await MOVE_STOCK.maybe(tx, product_id, delta, reason)
        if product is None:
            stored = await GET_PRODUCT.maybe(tx, product_id)
            if stored is None:
                raise not_found("product")
            if delta > 0:
                raise invalid("/delta", "stock goes up to 1,000,000,000 units")
            short = {"product_id": product_id, "requested": -delta, "available": stored.stock}
            raise ShopError("insufficient_stock", "There are fewer units than are to go.", items=[short])
        crossed_zero = product.stock in (0, delta)
        return product

    answer = await run_once(resources.pool, key, 200, move)
    if crossed_zero:
        await resources.cache.invalidate()
    return answer
