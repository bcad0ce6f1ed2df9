"""Categories, products and their stock."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from datetime import datetime

from service.errors import ShopError, invalid, not_found
from service.infra.db import Connection, connection
from service.infra.logs import actor
from service.infra.resources import Resources
from service.infra.sql import statement
from service.infra.transactions import run_transaction
from service.shop import audit_log, search
from service.shop.idempotency import IdempotencyKey, StoredResponse, run_once
from service.shop.money import Currency, check_price
from service.shop.text import slug_of

DEFAULT_LIMIT = 20


@dataclass(slots=True)
class Category:
    """A category; listings are filtered by its slug."""

    id: int
    name: str
    slug: str


@dataclass(slots=True)
class Product:
    """A product with its exact stock; `version` counts the edits by staff."""

    id: int
    name: str
    description: str
    category_id: int | None
    price_minor: int
    currency: Currency
    stock: int
    active: bool
    sku: str | None
    image_url: str | None
    max_per_order: int | None
    version: int
    created_at: datetime
    updated_at: datetime

    @property
    def etag(self) -> str:
        """A tag that changes with every edit and every change of the stock."""
        return f'"{self.version}-{self.stock}"'


@dataclass(slots=True)
class ListedProduct:
    """A product in a listing; `available` while any unit is in stock."""

    id: int
    name: str
    category_id: int | None
    price_minor: int
    currency: Currency
    sku: str | None
    image_url: str | None
    available: bool


@dataclass(slots=True)
class CategoryPage:
    """A keyset page of categories, and the cursor of the next one; null on the last page."""

    items: Sequence[Category]
    next_cursor: int | None


@dataclass(slots=True)
class ProductPage:
    """A keyset page of products, as PostgreSQL renders it."""

    items: Sequence[ListedProduct]
    next_cursor: int | None


@dataclass(slots=True, kw_only=True)
class ProductChange:
    """An edit by staff. None leaves a field unchanged, unless its `set_…` is true."""

    name: str | None = None
    description: str | None = None
    price_minor: int | None = None
    set_category: bool = False
    category_id: int | None = None
    active: bool | None = None
    set_sku: bool = False
    sku: str | None = None
    set_image_url: bool = False
    image_url: str | None = None
    set_max_per_order: bool = False
    max_per_order: int | None = None


CREATE_CATEGORY = statement("catalog/create_category", Category)
LIST_CATEGORIES = statement("catalog/list_categories", Category)
LOCK_CATEGORY = statement("catalog/lock_category", Category)
UPDATE_CATEGORY = statement("catalog/update_category", Category)
DELETE_CATEGORY = statement("catalog/delete_category", Category)
FIND_CATEGORY = statement("catalog/find_category", int)
CREATE_PRODUCT = statement("catalog/create_product", Product)
GET_PRODUCT = statement("catalog/get_product", Product)
# These two return a ProductPage as JSON.
LIST_PRODUCTS = statement("catalog/list_products", str)
LIST_CATEGORY_PRODUCTS = statement("catalog/list_category_products", str)
LOCK_PRODUCT = statement("catalog/lock_product", Product)
UPDATE_PRODUCT = statement("catalog/update_product", Product)
DEACTIVATE_PRODUCT = statement("catalog/deactivate_product")
MOVE_STOCK = statement("catalog/move_stock", Product)


async def create_category(
    resources: Resources, key: IdempotencyKey | None, *, name: str, slug: str | None
) -> StoredResponse:
    """201 with the new Category; `slug_taken` when another category has the slug."""
    slug_or_default = slug or slug_of(name)
    if not slug_or_default:
        raise invalid("/slug", "is required, because no slug can be made from this name")

    async def create(tx: Connection) -> Category:
        category = await CREATE_CATEGORY.one(tx, name=name, slug=slug_or_default)
        await audit_log.add(tx, "create_category", f"category:{category.id}", **audit_log.changed(None, category))
        return category

    return await run_once(resources.pool, key, 201, create, location=lambda category: f"/categories/{category.id}")


async def list_categories(resources: Resources, *, after_id: int, limit: int) -> CategoryPage:
    """A keyset page of the categories, by id."""
    async with connection(resources.pool) as reader:
        categories = await LIST_CATEGORIES.all(reader, after_id=after_id, limit=limit + 1)
    return CategoryPage(categories[:limit], categories[limit - 1].id if len(categories) > limit else None)


async def update_category(resources: Resources, category_id: int, *, name: str | None, slug: str | None) -> Category:
    """The category after the edit; None leaves a field unchanged."""

    async def update(tx: Connection) -> Category:
        current = await LOCK_CATEGORY.one_or_none(tx, category_id=category_id)
        if current is None:
            raise not_found("category")
        category = await UPDATE_CATEGORY.one(tx, category_id=category_id, name=name, slug=slug)
        await audit_log.add(tx, "update_category", f"category:{category_id}", **audit_log.changed(current, category))
        return category

    return await run_transaction(resources.pool, update)


async def delete_category(resources: Resources, category_id: int) -> None:
    """Delete a category; `category_in_use` while it contains a product, whether that is for sale or not."""

    async def delete(tx: Connection) -> None:
        deleted = await DELETE_CATEGORY.one_or_none(tx, category_id=category_id)
        if deleted is None:
            raise not_found("category")
        await audit_log.add(tx, "delete_category", f"category:{category_id}", **audit_log.changed(deleted, None))

    await run_transaction(resources.pool, delete)


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
    sku: str | None = None,
    image_url: str | None = None,
    max_per_order: int | None = None,
) -> StoredResponse:
    """201 with the new Product; its stock is the first row of its ledger."""
    check_price(price_minor, currency)

    async def create(tx: Connection) -> Product:
        product = await CREATE_PRODUCT.one_or_none(
            tx,
            name=name,
            description=description,
            category_id=category_id,
            price_minor=price_minor,
            currency=currency,
            stock=stock,
            active=active,
            sku=sku,
            image_url=image_url,
            max_per_order=max_per_order,
            actor=actor.get(),
        )
        if product is None:
            raise not_found("category")
        await search.index(tx, [product.id], resources.settings.search_language)
        await audit_log.add(tx, "create_product", f"product:{product.id}", **audit_log.changed(None, product))
        return product

    response = await run_once(resources.pool, key, 201, create, location=lambda product: f"/products/{product.id}")
    await resources.cache.invalidate()
    return response


async def get_product(resources: Resources, product_id: int) -> Product:
    """A product, whether it is for sale or not."""
    async with connection(resources.pool) as reader:
        product = await GET_PRODUCT.one_or_none(reader, product_id=product_id)
    if product is None:
        raise not_found("product")
    return product


async def list_products(resources: Resources, *, limit: int, after_id: int, category: str | None) -> bytes:
    """A keyset page of the products for sale, as JSON; the default first page comes from the cache."""
    if category is None and after_id == 0 and limit == DEFAULT_LIMIT:
        return await resources.cache.page(lambda: _read_page(resources, limit=DEFAULT_LIMIT, after_id=0, category=None))
    return await _read_page(resources, limit=limit, after_id=after_id, category=category)


async def _read_page(resources: Resources, *, limit: int, after_id: int, category: str | None) -> bytes:
    async with connection(resources.pool) as reader:
        if category is None:
            page = await LIST_PRODUCTS.one(reader, after_id=after_id, limit=limit)
        else:
            category_id = await FIND_CATEGORY.one_or_none(reader, slug=category)
            if category_id is None:
                raise not_found("category")
            page = await LIST_CATEGORY_PRODUCTS.one(reader, category_id=category_id, after_id=after_id, limit=limit)
    return page.encode()


async def update_product(
    resources: Resources, product_id: int, versions: frozenset[int] | None, change: ProductChange
) -> Product:
    """The product after the edit; `precondition_failed` when its version is not among `versions`. None allows all."""

    async def update(tx: Connection) -> Product:
        current = await LOCK_PRODUCT.one_or_none(tx, product_id=product_id)
        if current is None:
            raise not_found("product")
        if versions is not None and current.version not in versions:
            detail = "The product has been edited since that version."
            raise ShopError("precondition_failed", detail, version=current.version)
        product = await UPDATE_PRODUCT.one_or_none(
            tx,
            product_id=product_id,
            name=change.name,
            description=change.description,
            price_minor=change.price_minor,
            set_category=change.set_category,
            category_id=change.category_id,
            active=change.active,
            set_sku=change.set_sku,
            sku=change.sku,
            set_image_url=change.set_image_url,
            image_url=change.image_url,
            set_max_per_order=change.set_max_per_order,
            max_per_order=change.max_per_order,
        )
        if product is None:
            raise not_found("category")
        check_price(product.price_minor, product.currency)
        await search.index(tx, [product_id], resources.settings.search_language)
        await audit_log.add(tx, "update_product", f"product:{product_id}", **audit_log.changed(current, product))
        return product

    product = await run_transaction(resources.pool, update)
    await resources.cache.invalidate()
    return product


async def deactivate_product(resources: Resources, product_id: int) -> None:
    """Take a product off sale; carts that contain it are refused at checkout."""

    async def deactivate(tx: Connection) -> None:
        current = await LOCK_PRODUCT.one_or_none(tx, product_id=product_id)
        if current is None:
            raise not_found("product")
        await DEACTIVATE_PRODUCT.run(tx, product_id=product_id)
        await search.index(tx, [product_id], resources.settings.search_language)
        changes = audit_log.changed(current, replace(current, active=False))
        await audit_log.add(tx, "delete_product", f"product:{product_id}", **changes)

    await run_transaction(resources.pool, deactivate)
    await resources.cache.invalidate()


async def move_stock(
    resources: Resources, key: IdempotencyKey | None, product_id: int, *, delta: int, reason: str
) -> StoredResponse:
    """200 with the Product after the move; `insufficient_stock` when the stock would fall below zero."""
    availability_changed = False

    async def move(tx: Connection) -> Product:
        nonlocal availability_changed
        product = await MOVE_STOCK.one_or_none(tx, product_id=product_id, delta=delta, reason=reason, actor=actor.get())
        if product is None:
            current = await GET_PRODUCT.one_or_none(tx, product_id=product_id)
            if current is None:
                raise not_found("product")
            if delta > 0:
                raise invalid("/delta", "stock may be at most 1,000,000,000 units")
            short = {"product_id": product_id, "requested": -delta, "available": current.stock}
            raise ShopError("insufficient_stock", "There are not enough units in stock.", items=[short])
        changes = audit_log.changed(replace(product, stock=product.stock - delta), product)
        await audit_log.add(tx, "move_stock", f"product:{product_id}", **changes)
        # The stock fell to zero, or rose from it.
        availability_changed = product.stock in (0, delta)
        return product

    response = await run_once(resources.pool, key, 200, move)
    if availability_changed:
        await resources.cache.invalidate()
    return response
