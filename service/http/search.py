"""The search over HTTP."""

from typing import Annotated, Literal

from fastapi import APIRouter, Depends, Response
from fastapi import Query as QueryParameters
from pydantic import Field, StringConstraints

from service.errors import invalid
from service.http import fields
from service.http.openapi import problems
from service.http.policy import authorize
from service.http.requests import Query, ResourcesDep, no_unknown_query
from service.shop import catalog, money, search

router = APIRouter(dependencies=[Depends(authorize), Depends(no_unknown_query)])

Words = Annotated[str, StringConstraints(max_length=200, pattern=fields.NO_NUL)]
Price = Annotated[int, Field(ge=0, le=money.MOST_MINOR), fields.DIGITS]


class SearchQuery(Query):
    """What to search for, in which order, and which page."""

    q: Words = ""
    category: fields.SlugQuery | None = None
    currency: money.Currency | None = None
    min_price_minor: Price | None = None
    max_price_minor: Price | None = None
    available: Literal["true", "false"] | None = None
    sort: search.Sort | None = None
    limit: fields.Limit = catalog.DEFAULT_LIMIT
    after: Annotated[str, StringConstraints(min_length=1, max_length=2000)] | None = None


@router.get("/search", response_model=catalog.SearchPage, responses=problems("not_found"))
async def search_products(query: Annotated[SearchQuery, QueryParameters()], resources: ResourcesDep) -> Response:
    """Search the products for sale by their words, and list them by relevance, price, name or age."""
    if query.currency is None:
        for name in ("min_price_minor", "max_price_minor"):
            if getattr(query, name) is not None:
                raise invalid(f"/{name}", "needs a currency")
        if query.sort in ("price", "-price"):
            raise invalid("/sort", "needs a currency")
    wanted = search.Wanted(
        q=query.q,
        category_id=None if query.category is None else await catalog.find_category(resources, query.category),
        currency=query.currency,
        min_price_minor=query.min_price_minor,
        max_price_minor=query.max_price_minor,
        available=None if query.available is None else query.available == "true",
        sort=query.sort,
        limit=query.limit,
        after=query.after,
    )
    return Response(await search.search(resources, wanted), media_type="application/json")
