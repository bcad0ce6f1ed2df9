"""Categories and products over HTTP."""

import re
from functools import lru_cache
from typing import Annotated, Any

from fastapi import APIRouter, Depends, Request, Response
from pydantic import Field, StringConstraints, field_validator

from service.errors import invalid, not_found
from service.http import responses
from service.http.requests import (
    BIGINT_MAX,
    DIGITS,
    NO_NUL,
    Body,
    CategoryId,
    Description,
    Name,
    ProductId,
    Query,
    Slug,
    integer_id,
    is_staff_request,
    read,
    read_query,
    resources_of,
    staff,
)
from service.http.responses import BODY_PROBLEMS, ETAG_HEADER, KEY_PROBLEMS, asks, problems, request_header, takes
from service.shop import catalog, money

router = APIRouter()
STAFF = [Depends(staff)]

Id = Annotated[int, Field(ge=1, le=BIGINT_MAX)]
Price = Annotated[int, Field(ge=1, le=99_999_999, description="In the currency's minor unit")]
MAX_STOCK = 1_000_000_000
AfterId = Annotated[int, Field(ge=0, le=BIGINT_MAX, description="The `next_cursor` of the page before"), DIGITS]
CategorySlug = Annotated[str, StringConstraints(max_length=200, pattern=NO_NUL), Field(description="A category's slug")]


def _left_out() -> Any:
    """What a member is that was left out; sent as null it is refused, and its schema does not offer a null."""
    return None


class CategoriesQuery(Query):
    """Which page of the categories."""

    after_id: AfterId = 0
    limit: Annotated[int, Field(ge=1, le=1000), DIGITS] = 1000


class ProductsQuery(Query):
    """Which page of which products."""

    limit: Annotated[int, Field(ge=1, le=100), DIGITS] = catalog.DEFAULT_LIMIT
    after_id: AfterId = 0
    category: CategorySlug | None = None


class NewCategory(Body):
    """A category; the slug is made from the name when it is left out."""

    name: Name
    slug: Slug | None = None


class CategoryChange(Body):
    """What is left out stays as it is; a null is refused."""

    name: Name = Field(default_factory=_left_out)
    slug: Slug = Field(default_factory=_left_out)


class NewProduct(Body):
    """A product with its first units."""

    name: Name
    description: Description = ""
    category_id: Id | None = None
    price_minor: Price
    currency: str = Field(description="ISO 4217", json_schema_extra={"enum": [*money.EXPONENTS]})
    stock: int = Field(ge=0, le=MAX_STOCK)
    active: bool = True

    @field_validator("currency")
    @classmethod
    def _sold_in(cls, value: str) -> str:
        if value not in money.EXPONENTS:
            raise ValueError("the shop does not sell in this currency")
        return value


class ProductEdit(Body):
    """What is left out stays as it is; a null category takes the product out of its category, others are refused."""

    name: Name = Field(default_factory=_left_out)
    description: Description = Field(default_factory=_left_out)
    category_id: Id | None = None
    price_minor: Price = Field(default_factory=_left_out)
    active: bool = Field(default_factory=_left_out)


class StockMove(Body):
    """Units that come (positive) or go (negative), and why."""

    delta: int = Field(ge=-MAX_STOCK, le=MAX_STOCK)
    reason: Name


@router.post(
    "/categories",
    status_code=201,
    dependencies=STAFF,
    response_model=catalog.Category,
    responses=problems("slug_taken", "unauthorized", *BODY_PROBLEMS, *KEY_PROBLEMS),
    openapi_extra=takes(NewCategory, key=True),
)
async def create_category(request: Request) -> Response:
    """Add a category."""
    new, key = await read(request, NewCategory)
    return responses.answer(await catalog.create_category(resources_of(request), key, name=new.name, slug=new.slug))


@router.get(
    "/categories",
    response_model=catalog.Page[catalog.Category],
    responses=problems("invalid"),
    openapi_extra=asks(CategoriesQuery),
)
async def list_categories(request: Request) -> Response:
    """The categories by id."""
    query = read_query(request, CategoriesQuery)
    return responses.json(
        await catalog.list_categories(resources_of(request), after_id=query.after_id, limit=query.limit)
    )


@router.patch(
    "/categories/{category_id}",
    dependencies=STAFF,
    response_model=catalog.Category,
    responses=problems("not_found", "slug_taken", "unauthorized", *BODY_PROBLEMS),
    openapi_extra=takes(CategoryChange),
)
async def update_category(request: Request, category_id: CategoryId) -> Response:
    """Change a category's name or slug."""
    change, _ = await read(request, CategoryChange)
    found = integer_id(category_id, "category")
    return responses.json(
        await catalog.update_category(resources_of(request), found, name=change.name, slug=change.slug)
    )


@router.delete(
    "/categories/{category_id}",
    status_code=204,
    dependencies=STAFF,
    responses=problems("not_found", "category_in_use", "unauthorized"),
)
async def delete_category(request: Request, category_id: CategoryId) -> Response:
    """Remove a category that no product uses."""
    await catalog.delete_category(resources_of(request), integer_id(category_id, "category"))
    return Response(status_code=204)


@router.post(
    "/products",
    status_code=201,
    dependencies=STAFF,
    response_model=catalog.Product,
    responses=problems("not_found", "unauthorized", *BODY_PROBLEMS, *KEY_PROBLEMS),
    openapi_extra=takes(NewProduct, key=True),
)
async def create_product(request: Request) -> Response:
    """Add a product."""
    new, key = await read(request, NewProduct)
    return responses.answer(await catalog.create_product(resources_of(request), key, **new.model_dump()))


@router.get(
    "/products",
    response_model=catalog.Page[catalog.ListedProduct],
    responses=problems("not_found", "invalid"),
    openapi_extra=asks(ProductsQuery),
)
async def list_products(request: Request) -> Response:
    """What is for sale, by id, a page at a time."""
    query = read_query(request, ProductsQuery)
    page = await catalog.list_products(
        resources_of(request), limit=query.limit, after_id=query.after_id, category=query.category
    )
    return shared(page)


@router.get(
    "/products/{product_id}",
    response_model=catalog.Product,
    responses={
        200: {"headers": ETAG_HEADER},
        304: {"description": "It is still what `If-None-Match` names", "headers": ETAG_HEADER},
        **problems("not_found"),
    },
    openapi_extra={"parameters": [request_header("If-None-Match", "The `ETag` of the copy at hand.")]},
)
async def get_product(request: Request, product_id: ProductId) -> Response:
    """One product; 304 when `If-None-Match` names what it still is. An inactive one is shown to staff only."""
    product = await catalog.get_product(resources_of(request), integer_id(product_id, "product"))
    if not product.active and not is_staff_request(request):
        raise not_found("product")
    if _names(request.headers.get("if-none-match", ""), product.etag):
        return Response(status_code=304, headers={"ETag": product.etag})
    return _with_etag(product)


@router.patch(
    "/products/{product_id}",
    dependencies=STAFF,
    response_model=catalog.Product,
    responses={
        200: {"headers": ETAG_HEADER},
        **problems("not_found", "precondition_failed", "unauthorized", *BODY_PROBLEMS),
    },
    openapi_extra=takes(ProductEdit, request_header("If-Match", "The `ETag` of what the edit was made from.")),
)
async def update_product(request: Request, product_id: ProductId) -> Response:
    """Edit a product; with `If-Match` only the version that it names, whatever the stock."""
    edit, _ = await read(request, ProductEdit)
    change = catalog.ProductChange(
        set_category="category_id" in edit.model_fields_set, **edit.model_dump(exclude_unset=True)
    )
    found = integer_id(product_id, "product")
    versions = _versions(request.headers.get("if-match"))
    return _with_etag(await catalog.update_product(resources_of(request), found, versions, change))


@router.delete(
    "/products/{product_id}",
    status_code=204,
    dependencies=STAFF,
    responses=problems("not_found", "unauthorized"),
)
async def delete_product(request: Request, product_id: ProductId) -> Response:
    """Take a product off sale; it stays where orders need it."""
    await catalog.deactivate_product(resources_of(request), integer_id(product_id, "product"))
    return Response(status_code=204)


@router.post(
    "/products/{product_id}/stock",
    dependencies=STAFF,
    response_model=catalog.Product,
    responses=problems("not_found", "insufficient_stock", "unauthorized", *BODY_PROBLEMS, *KEY_PROBLEMS),
    openapi_extra=takes(StockMove, key=True),
)
async def move_stock(request: Request, product_id: ProductId) -> Response:
    """Move stock by a delta; the product after it."""
    move, key = await read(request, StockMove)
    found = integer_id(product_id, "product")
    if move.delta == 0:
        raise invalid("/delta", "is not zero")
    return responses.answer(
        await catalog.move_stock(resources_of(request), key, found, delta=move.delta, reason=move.reason)
    )


@lru_cache(maxsize=4)
def shared(page: bytes) -> Response:
    """One answer for all who get the same bytes: nothing about it is theirs alone."""
    return Response(page, media_type="application/json")


def _with_etag(product: catalog.Product) -> Response:
    return responses.json(product, headers={"ETag": product.etag})


def _names(header: str, etag: str) -> bool:
    """Whether an If-None-Match names this ETag, weakly (RFC 9110, 13.1.2)."""
    return header.strip() == "*" or etag in re.findall(r'"[^"]*"', header)


def _versions(header: str | None) -> frozenset[int] | None:
    """The versions that an If-Match names; None for any. Weak tags never match (RFC 9110, 13.1.1)."""
    if header is None or header.strip() == "*":
        return None
    return frozenset(map(int, re.findall(r'(?<!W/)"([0-9]{1,9})-[0-9]{1,10}"', header)))
