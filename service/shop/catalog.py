"""Categories, products and their stock."""

from collections.abc import Sequence
from dataclasses import dataclass, fields, replace
from datetime import datetime
from uuid import UUID

from service.errors import ShopError, invalid, not_found
from service.infra.db import Connection, connection
from service.infra.logs import actor
from service.infra.resources import Resources
from service.infra.sql import statement
from service.infra.transactions import ATTEMPTS, run_transaction
from service.shop import audit_log, outbox, search
from service.shop.idempotency import IdempotencyKey, StoredResponse, run_once
from service.shop.money import Currency, check_price
from service.shop.principals import Principal
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


LISTED_MEMBERS = ",".join(field.name for field in fields(ListedProduct))


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


@dataclass(slots=True)
class SearchPage:
    """A page of products that match a search, as PostgreSQL renders them; the cursor is an opaque text."""

    items: Sequence[ListedProduct]
    next_cursor: str | None


@dataclass(slots=True)
class StaffListedProduct:
    """A product in a listing for staff, with its exact stock."""

    id: int
    name: str
    category_id: int | None
    price_minor: int
    currency: Currency
    sku: str | None
    image_url: str | None
    stock: int
    active: bool
    available: bool


@dataclass(slots=True)
class StaffProductPage:
    """A keyset page of products for staff."""

    items: Sequence[StaffListedProduct]
    next_cursor: int | None


@dataclass(slots=True)
class FoundProducts:
    """The ids of products that fit. `walked_to` is where the listing goes on, if it ended before the last product."""

    ids: list[int]
    walked_to: int | None


@dataclass(slots=True)
class Movement:
    """A row of the ledger: units that came or went. `order_id` is null for those that staff moved.

    For units of an order, `actor` and `order_id` are null without `orders:read`: a guest's order is its id's.
    """

    id: int
    at: datetime
    delta: int
    reason: str
    # Null in rows of older code.
    actor: str | None
    order_id: UUID | None


@dataclass(slots=True)
class MovementPage:
    """A keyset page of a product's ledger, newest first."""

    items: Sequence[Movement]
    next_cursor: int | None


@dataclass(slots=True, kw_only=True)
class NewProduct:
    """A product that is to be created."""

    name: str
    description: str = ""
    category_id: int | None = None
    price_minor: int
    currency: str
    stock: int
    active: bool = True
    sku: str | None = None
    image_url: str | None = None
    max_per_order: int | None = None


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

    def changes(self, product: Product) -> bool:
        """Whether any field of the product would differ."""
        plain = ("name", "description", "price_minor", "active")
        settable = ("category_id", "sku", "image_url", "max_per_order")
        return any(getattr(self, name) not in (None, getattr(product, name)) for name in plain) or any(
            getattr(self, f"set_{name.removesuffix('_id')}") and getattr(self, name) != getattr(product, name)
            for name in settable
        )


@dataclass(slots=True, kw_only=True)
class Precondition:
    """What a PUT needs: a product that `exists`, with one of the `versions` (None: any), or that `is_new`."""

    versions: frozenset[int] | None
    exists: bool
    is_new: bool

    def check(self, current: Product | None) -> None:
        """Raise `precondition_failed` unless it is true of the product, which is None if there is none."""
        if current is None:
            if self.exists:
                raise ShopError("precondition_failed", "There is no product with this sku.")
        elif self.is_new:
            raise ShopError("precondition_failed", "There is a product with this sku.", version=current.version)
        else:
            _check_version(current, self.versions)


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
FIND_STAFF_PRODUCTS = statement("catalog/find_staff_products", FoundProducts)
LIST_STAFF_PRODUCTS = statement("catalog/list_staff_products", StaffListedProduct)
LOCK_PRODUCT = statement("catalog/lock_product", Product)
LOCK_PRODUCT_BY_SKU = statement("catalog/lock_product_by_sku", Product)
UPDATE_PRODUCT = statement("catalog/update_product", Product)
DEACTIVATE_PRODUCT = statement("catalog/deactivate_product")
MOVE_STOCK = statement("catalog/move_stock", Product)
LIST_MOVEMENTS = statement("catalog/list_movements", Movement)


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


async def create_product(resources: Resources, key: IdempotencyKey | None, new: NewProduct) -> StoredResponse:
    """201 with the new Product; its stock is the first row of its ledger."""
    response = await run_once(
        resources.pool,
        key,
        201,
        lambda tx: _create(tx, resources, new),
        location=lambda product: f"/products/{product.id}",
    )
    await resources.cache.invalidate()
    return response


async def _create(tx: Connection, resources: Resources, new: NewProduct) -> Product:
    check_price(new.price_minor, new.currency)
    product = await CREATE_PRODUCT.one_or_none(
        tx,
        name=new.name,
        description=new.description,
        category_id=new.category_id,
        price_minor=new.price_minor,
        currency=new.currency,
        stock=new.stock,
        active=new.active,
        sku=new.sku,
        image_url=new.image_url,
        max_per_order=new.max_per_order,
        actor=actor.get(),
    )
    if product is None:
        raise not_found("category")
    await search.index(tx, [product.id], resources.settings.search_language)
    await audit_log.add(tx, "create_product", f"product:{product.id}", **audit_log.changed(None, product))
    return product


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
        return await resources.cache.page(
            lambda: _read_page(resources, limit=DEFAULT_LIMIT, after_id=0, category=None), LISTED_MEMBERS
        )
    return await _read_page(resources, limit=limit, after_id=after_id, category=category)


async def _read_page(resources: Resources, *, limit: int, after_id: int, category: str | None) -> bytes:
    async with connection(resources.pool) as reader:
        if category is None:
            page = await LIST_PRODUCTS.one(reader, after_id=after_id, limit=limit)
        else:
            category_id = await _category_id(reader, category)
            page = await LIST_CATEGORY_PRODUCTS.one(reader, category_id=category_id, after_id=after_id, limit=limit)
    return page.encode()


async def find_category(resources: Resources, slug: str) -> int:
    """The id of the category with this slug. Raises `not_found`."""
    async with connection(resources.pool) as reader:
        return await _category_id(reader, slug)


async def _category_id(reader: Connection, slug: str) -> int:
    category_id = await FIND_CATEGORY.one_or_none(reader, slug=slug)
    if category_id is None:
        raise not_found("category")
    return category_id


async def list_staff_products(
    resources: Resources,
    *,
    limit: int,
    after_id: int,
    category: str | None,
    active: bool | None,
    stock_at_most: int | None,
) -> StaffProductPage:
    """A keyset page of products, for sale or not (None: both). It may be short, or empty, before the last one."""
    async with connection(resources.pool) as reader:
        category_id = None
        if category is not None:
            category_id = await _category_id(reader, category)
        fitting = await FIND_STAFF_PRODUCTS.one(
            reader,
            category_id=category_id,
            active=active,
            stock_at_most=stock_at_most,
            after_id=after_id,
            limit=limit + 1,
        )
        page = await LIST_STAFF_PRODUCTS.all(reader, product_ids=fitting.ids[:limit])
    return StaffProductPage(page, fitting.ids[limit - 1] if len(fitting.ids) > limit else fitting.walked_to)


async def update_product(
    resources: Resources, product_id: int, versions: frozenset[int] | None, change: ProductChange
) -> Product:
    """The product after the edit; `precondition_failed` when its version is not among `versions`. None allows all."""

    async def update(tx: Connection) -> Product:
        current = await LOCK_PRODUCT.one_or_none(tx, product_id=product_id)
        if current is None:
            raise not_found("product")
        _check_version(current, versions)
        return await _update(tx, resources, current, change)

    product = await run_transaction(resources.pool, update)
    await resources.cache.invalidate()
    return product


def _check_version(current: Product, versions: frozenset[int] | None) -> None:
    if versions is not None and current.version not in versions:
        detail = "The product has been edited since that version."
        raise ShopError("precondition_failed", detail, version=current.version)


async def _update(tx: Connection, resources: Resources, current: Product, change: ProductChange) -> Product:
    """Edit a product that this transaction has locked."""
    product = await UPDATE_PRODUCT.one_or_none(
        tx,
        product_id=current.id,
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
    await search.index(tx, [product.id], resources.settings.search_language)
    await audit_log.add(tx, "update_product", f"product:{current.id}", **audit_log.changed(current, product))
    return product


async def put_product(
    resources: Resources,
    sku: str,
    precondition: Precondition,
    change: ProductChange,
    *,
    currency: str | None,
    stock: int | None,
) -> tuple[Product, bool]:
    """The product with this sku after the edit, and whether it was created. `stock` counts for a new product alone.

    An edit that changes nothing leaves the version as it is.
    """
    # Once true it stays so: an attempt may have committed before its connection was lost.
    changed = False

    async def put(tx: Connection) -> tuple[Product, bool]:
        nonlocal changed
        current = await LOCK_PRODUCT_BY_SKU.one_or_none(tx, sku=sku)
        precondition.check(current)
        if current is None:
            changed = True
            return await _create(tx, resources, _whole(sku, change, currency=currency, stock=stock)), True
        if currency not in (None, current.currency):
            raise invalid("/currency", "cannot be changed")
        if not change.changes(current):
            return current, False
        changed = True
        return await _update(tx, resources, current, change), False

    # Another run of a conditional PUT would find the product that the first one has changed.
    idempotent = not (precondition.exists or precondition.is_new)
    for _ in range(ATTEMPTS):
        try:
            result = await run_transaction(resources.pool, put, idempotent=idempotent)
            break
        except ShopError as error:
            if error.code != "sku_taken":
                raise
            # Another request has created it since this one looked; now there is a product to lock.
    else:
        raise ShopError("busy", "Products with this sku come and go; try again.")
    if changed:
        await resources.cache.invalidate()
    return result


def _whole(sku: str, change: ProductChange, *, currency: str | None, stock: int | None) -> NewProduct:
    """The product that a PUT creates; 422 for what it lacks."""
    if change.name is None or change.price_minor is None or currency is None or stock is None:
        needed = {"name": change.name, "price_minor": change.price_minor, "currency": currency, "stock": stock}
        missing = [name for name, value in needed.items() if value is None]
        errors = [{"pointer": f"/{name}", "message": "is needed for a new product"} for name in missing]
        raise ShopError("invalid", "The request is not valid.", errors=errors)
    return NewProduct(
        name=change.name,
        description=change.description or "",
        category_id=change.category_id,
        price_minor=change.price_minor,
        currency=currency,
        stock=stock,
        active=change.active is not False,
        sku=sku,
        image_url=change.image_url,
        max_per_order=change.max_per_order,
    )


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
        await outbox.announce_products(tx, [product_id] if availability_changed else [])
        return product

    response = await run_once(resources.pool, key, 200, move)
    if availability_changed:
        await resources.cache.invalidate()
    return response


async def list_movements(
    resources: Resources, principal: Principal, product_id: int, *, before_id: int, limit: int
) -> MovementPage:
    """A page of the product's ledger with ids below `before_id`, newest first, as the principal sees it."""
    async with connection(resources.pool) as reader:
        page = await LIST_MOVEMENTS.all(reader, product_id=product_id, before_id=before_id, limit=limit + 1)
        if not page and await GET_PRODUCT.one_or_none(reader, product_id=product_id) is None:
            raise not_found("product")
    if not principal.may("orders:read"):
        page = [row if row.order_id is None else replace(row, actor=None, order_id=None) for row in page]
    return MovementPage(page[:limit], page[limit - 1].id if len(page) > limit else None)
