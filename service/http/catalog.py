"""Categories and products over HTTP."""

import re
from functools import lru_cache
from typing import Annotated, Any, Literal

from fastapi import APIRouter, Depends, Header, Response
from fastapi import Query as QueryParameters
from pydantic import Field

from service.errors import invalid, not_found
from service.http import fields, responses
from service.http.fields import LEFT_OUT, AfterId, CategoryId, ProductId, Slug
from service.http.openapi import ETAG, problems
from service.http.policy import Caller, authorize, require
from service.http.requests import Body, Query, ResourcesDep, StaffKey, no_unknown_query
from service.shop import catalog, money
from service.shop.product_fields import MAX_STOCK, Description, ImageUrl, MaxPerOrder, Name, Price, Sku

router = APIRouter(dependencies=[Depends(authorize), Depends(no_unknown_query)])

# What only staff see, under an address whose other answers browsers may store.
NO_STORE = {"Cache-Control": "no-store"}


class CategoriesQuery(Query):
    """Which page of the categories."""

    limit: Annotated[int, Field(ge=1, le=1000), fields.DIGITS] = catalog.DEFAULT_LIMIT
    after_id: AfterId = 0


class ProductsQuery(Query):
    """Which page of the products, or of one category's products; for staff also those that are not for sale."""

    limit: fields.Limit = catalog.DEFAULT_LIMIT
    after_id: AfterId = 0
    category: fields.SlugQuery | None = None
    active: Literal["true", "false", "all"] | None = None
    stock_at_most: Annotated[int, Field(ge=0, le=MAX_STOCK), fields.DIGITS] | None = None


class MovementsQuery(Query):
    """Which page of the ledger."""

    limit: fields.Limit = catalog.DEFAULT_LIMIT
    after_id: Annotated[int, Field(ge=1, le=fields.BIGINT_MAX), fields.DIGITS, fields.int64(1)] | None = None


class NewCategory(Body):
    """A category; the slug is made from the name when it is left out."""

    name: Name
    slug: Slug | None = None


class CategoryChange(Body):
    """Members that are left out stay unchanged; a null is refused."""

    name: Name = LEFT_OUT
    slug: Slug = LEFT_OUT


class NewProduct(Body):
    """A product with its first units."""

    name: Name
    description: Description = ""
    category_id: fields.Id | None = None
    price_minor: Price
    currency: money.Currency
    stock: int = Field(ge=0, le=MAX_STOCK)
    active: bool = True
    sku: Sku | None = None
    image_url: ImageUrl | None = None
    max_per_order: MaxPerOrder | None = None


class _Edit(Body):
    name: Name = LEFT_OUT
    description: Description = LEFT_OUT
    category_id: fields.Id | None = None
    price_minor: Price = LEFT_OUT
    active: bool = LEFT_OUT
    image_url: ImageUrl | None = None
    max_per_order: MaxPerOrder | None = None

    def change(self) -> catalog.ProductChange:
        """The members that were sent; for those that null removes, also that they were sent."""
        names = self.model_fields_set & {"category_id", "sku", "image_url", "max_per_order"}
        sent: dict[str, Any] = {f"set_{name.removesuffix('_id')}": True for name in names}
        return catalog.ProductChange(**sent, **self.model_dump(exclude_unset=True, exclude={"currency", "stock"}))


class ProductEdit(_Edit):
    """Members that are left out stay unchanged. Null takes the product out of its category, or removes the value."""

    sku: Sku | None = None


class ProductPut(_Edit):
    """The product that the path names. Members that are left out keep their values; a new one needs some of them."""

    currency: money.Currency = LEFT_OUT
    stock: Annotated[int, Field(ge=0, le=MAX_STOCK)] = LEFT_OUT


class StockMove(Body):
    """The units to add (positive) or remove (negative), and the reason."""

    delta: int = Field(ge=-MAX_STOCK, le=MAX_STOCK)
    reason: Name


@router.post("/categories", status_code=201, response_model=catalog.Category, responses=problems("slug_taken"))
async def create_category(new: NewCategory, resources: ResourcesDep, key: StaffKey) -> Response:
    """Add a category."""
    return responses.stored(await catalog.create_category(resources, key, name=new.name, slug=new.slug))


@router.get("/categories")
async def list_categories(
    query: Annotated[CategoriesQuery, QueryParameters()], resources: ResourcesDep
) -> catalog.CategoryPage:
    """List the categories by id."""
    return await catalog.list_categories(resources, after_id=query.after_id, limit=query.limit)


@router.patch("/categories/{category_id}", responses=problems("slug_taken"))
async def update_category(category_id: CategoryId, change: CategoryChange, resources: ResourcesDep) -> catalog.Category:
    """Change a category's name or slug."""
    return await catalog.update_category(resources, category_id, name=change.name, slug=change.slug)


@router.delete("/categories/{category_id}", status_code=204, responses=problems("category_in_use"))
async def delete_category(category_id: CategoryId, resources: ResourcesDep) -> Response:
    """Remove a category that no product uses."""
    await catalog.delete_category(resources, category_id)
    return Response(status_code=204)


@router.post("/products", status_code=201, response_model=catalog.Product, responses=problems("not_found", "sku_taken"))
async def create_product(new: NewProduct, resources: ResourcesDep, key: StaffKey) -> Response:
    """Add a product."""
    return responses.stored(await catalog.create_product(resources, key, catalog.NewProduct(**new.model_dump())))


@router.get(
    "/products",
    response_model=catalog.ProductPage | catalog.StaffProductPage,
    responses=problems("not_found", "unauthorized", "forbidden"),
)
async def list_products(
    query: Annotated[ProductsQuery, QueryParameters()], resources: ResourcesDep, principal: Caller
) -> Response:
    """List the products for sale by id, a page at a time.

    `active` and `stock_at_most` are for staff with `catalog:read`; the items then have `stock` and `active`, and a page
    may have fewer of them than `limit` while `next_cursor` is not null. `stock_at_most=0` lists what is sold out.
    """
    if query.active is not None or query.stock_at_most is not None:
        require(principal, "catalog:read")
        page = await catalog.list_staff_products(
            resources,
            limit=query.limit,
            after_id=query.after_id,
            category=query.category,
            active={"true": True, "false": False, "all": None}[query.active or "true"],
            stock_at_most=query.stock_at_most,
        )
        return responses.json(page, headers=NO_STORE)
    return _shared(
        await catalog.list_products(resources, limit=query.limit, after_id=query.after_id, category=query.category)
    )


@router.get(
    "/products/{product_id}",
    response_model=catalog.Product,
    responses={200: ETAG, 304: {"description": "The product is still what `If-None-Match` names.", **ETAG}},
)
async def get_product(
    product_id: ProductId,
    resources: ResourcesDep,
    principal: Caller,
    if_none_match: Annotated[str, Header(alias="If-None-Match")] = "",
) -> Response:
    """Read a product; 304 when `If-None-Match` names its current state. Only staff see an inactive product."""
    product = await catalog.get_product(resources, product_id)
    if not product.active and not principal.may("catalog:read"):
        raise not_found("product")
    if _matches(if_none_match, product.etag):
        return Response(status_code=304, headers={"ETag": product.etag})
    return responses.json(product, headers={"ETag": product.etag})


@router.patch(
    "/products/{product_id}",
    response_model=catalog.Product,
    responses={200: ETAG, **problems("precondition_failed", "sku_taken")},
)
async def update_product(
    product_id: ProductId,
    edit: ProductEdit,
    resources: ResourcesDep,
    if_match: Annotated[str | None, Header(alias="If-Match")] = None,
) -> Response:
    """Edit a product. With `If-Match`, edit it only if it has the named version; its stock may differ."""
    product = await catalog.update_product(resources, product_id, _versions(if_match), edit.change())
    return responses.json(product, headers={"ETag": product.etag})


@router.put(
    "/products/by-sku/{sku}",
    response_model=catalog.Product,
    responses={
        200: ETAG,
        201: {"model": catalog.Product, "description": "The product was created.", **ETAG},
        **problems("not_found", "precondition_failed"),
    },
)
async def put_product(
    sku: Sku,
    product: ProductPut,
    resources: ResourcesDep,
    if_match: Annotated[str | None, Header(alias="If-Match")] = None,
    if_none_match: Annotated[str, Header(alias="If-None-Match")] = "",
) -> Response:
    """Create the product with this sku, or edit it; an edit that changes nothing keeps its version.

    With `If-Match`, only an edit, of the named version; with `If-None-Match: *`, only a new product.

    A new product needs `name`, `price_minor`, `currency` and `stock`. `stock` is ignored in an edit: units move by
    `POST /products/{product_id}/stock`. `currency` cannot be changed.
    """
    row, created = await catalog.put_product(
        resources,
        sku,
        catalog.Precondition(
            versions=_versions(if_match),
            exists=if_match is not None,
            is_new=if_none_match.strip() == "*",
        ),
        product.change(),
        currency=product.currency,
        stock=product.stock,
    )
    if not created:
        return responses.json(row, headers={"ETag": row.etag})
    return responses.json(row, status=201, headers={"ETag": row.etag, "Location": f"/products/{row.id}"})


@router.delete("/products/{product_id}", status_code=204)
async def delete_product(product_id: ProductId, resources: ResourcesDep) -> Response:
    """Take a product off sale; orders keep it."""
    await catalog.deactivate_product(resources, product_id)
    return Response(status_code=204)


@router.post("/products/{product_id}/stock", response_model=catalog.Product, responses=problems("insufficient_stock"))
async def move_stock(product_id: ProductId, move: StockMove, resources: ResourcesDep, key: StaffKey) -> Response:
    """Change the stock by a delta, and return the product."""
    if move.delta == 0:
        raise invalid("/delta", "must not be zero")
    return responses.stored(await catalog.move_stock(resources, key, product_id, delta=move.delta, reason=move.reason))


@router.get("/products/{product_id}/stock", response_model=catalog.MovementPage)
async def list_movements(
    product_id: ProductId,
    query: Annotated[MovementsQuery, QueryParameters()],
    resources: ResourcesDep,
    principal: Caller,
) -> Response:
    """List what came to a product's stock and what left it, newest first.

    For units of an order, `actor` and `order_id` are null without `orders:read`.
    """
    before_id = fields.BIGINT_MAX if query.after_id is None else query.after_id
    page = await catalog.list_movements(resources, principal, product_id, before_id=before_id, limit=query.limit)
    return responses.json(page, headers=NO_STORE)


@lru_cache(maxsize=4)
def _shared(page: bytes) -> Response:
    """One Response object for equal pages; nothing in it depends on the request."""
    return Response(page, media_type="application/json")


def _matches(header: str, etag: str) -> bool:
    """Whether If-None-Match names this ETag; weak comparison (RFC 9110, 13.1.2)."""
    return header.strip() == "*" or etag in re.findall(r'"[^"]*"', header)


def _versions(header: str | None) -> frozenset[int] | None:
    """The versions that If-Match names; None for any. Weak tags never match (RFC 9110, 13.1.1)."""
    if header is None or header.strip() == "*":
        return None
    return frozenset(map(int, re.findall(r'(?<!W/)"([0-9]{1,9})-[0-9]{1,10}"', header)))
