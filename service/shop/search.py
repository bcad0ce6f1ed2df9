"""Searching the products for sale, and their index: `index` makes the search rows equal to the products.

A page is read in one of two ways, by an estimate from a sample. An index on words or prices delivers all that match,
and they are sorted. Where many match, products are read in the order of the page until it is full.
"""

import base64
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from functools import partial
from typing import Literal

import orjson

from service.errors import ShopError, invalid
from service.infra.db import Connection, Pool, connection
from service.infra.resources import Resources
from service.infra.sql import statement
from service.infra.transactions import run_transaction
from service.settings import UnsafeSettings

Sort = Literal["relevance", "price", "-price", "name", "newest"]
MAX_WORDS = 20
# Of one page: all words together, each alone, category and currency, the words in the name, and the prices.
MAX_QUERIES = MAX_WORDS + 5
# With fewer in the sample, an index delivers all matches: search/count_matches.
FEW = 16
# How many walks of 5,000 products one page may take, and after how long the next one is left to the next page.
MAX_WALKS = 12
WALK_SECONDS = 0.25
# A shorter word with a typing error is like too many others. This is the length of the right word or the typed one.
MIN_MISTYPED = 5
END = 2**63 - 1
# Their rows are locked while they are indexed; this takes less than a tenth of a second.
INDEX_BATCH = 100
# What staff edit is indexed at once. This is for products from before the search, and for another language.
INDEX_SECONDS = 3600.0


@dataclass(slots=True, kw_only=True)
class Wanted:
    """What to search for. `min_price_minor` and `max_price_minor` need a currency, and so do sorts by price."""

    q: str = ""
    category_id: int | None = None
    currency: str | None = None
    min_price_minor: int | None = None
    max_price_minor: int | None = None
    available: bool | None = None
    sort: Sort | None = None
    limit: int
    after: str | None = None


@dataclass(slots=True)
class Word:
    """A word of the query and its stem, as they are indexed; `unspaced`: a text in a script without spaces."""

    text: str
    stem: str
    unspaced: bool


# By words of the query.
Corrections = Mapping[str, Sequence[str]]


@dataclass(frozen=True, slots=True)
class Key:
    """The place of a product in a list: ordered by these, ascending. `rank` is 0 or 1 by relevance, or a price."""

    rank: int = -END
    name_key: str = ""
    place: int = -END


@dataclass(slots=True)
class Entry:
    """A product as JSON, with its key; without one, only where a walk has `stopped`."""

    rank: int
    name_key: str
    place: int
    stopped: bool
    item: str | None

    @property
    def key(self) -> Key:
        return Key(self.rank, self.name_key, self.place)


@dataclass(slots=True)
class Page:
    """Products in their order, and where a walk has stopped before there were enough; None if there are no more."""

    entries: list[Entry]
    stopped: Key | None = None


@dataclass(slots=True)
class Cursor:
    """Where a page has ended, in which order, and whether its words were taken for mistyped ones."""

    sort: Sort
    mistyped: bool
    key: Key


@dataclass(slots=True)
class Stale:
    """Of some products in the order of their ids: the last one, and those whose search rows are not equal to them."""

    last_id: int | None
    product_ids: list[int]


SPLIT_QUERY = statement("search/split_query", Word)
FIND_SIMILAR = statement("search/find_similar", str)
COUNT_MATCHES = statement("search/count_matches", int)
MATCH_WORDS = statement("search/match_words", Entry)
MATCH_PRICES = statement("search/match_prices", Entry)
WALK_NEWEST = statement("search/walk_newest", Entry)
WALK_PRICE = statement("search/walk_price", Entry)
WALK_PRICE_DOWN = statement("search/walk_price_down", Entry)
WALK_NAME = statement("search/walk_name", Entry)
FIND_LANGUAGE = statement("search/find_language", bool)
INDEX_PRODUCTS = statement("search/index_products")
FIND_STALE = statement("search/find_stale", Stale)


async def search(resources: Resources, wanted: Wanted) -> bytes:
    """A page of the products for sale that match, as the JSON of a SearchPage.

    Words are taken for mistyped ones only when no product has them as they are; the cursor remembers it.
    """
    asked = wanted.q.strip()
    sort = wanted.sort or "relevance"
    if sort == "relevance" and not asked:
        sort = "newest"
    cursor = Cursor(sort, False, Key()) if wanted.after is None else _read_cursor(wanted.after, sort)
    async with connection(resources.pool) as reader:
        words = await _split(reader, asked, resources.settings.search_language) if asked else []
        if asked and not words:
            return b'{"items":[],"next_cursor":null}'
        corrections = await _correct(reader, words) if cursor.mistyped else {}
        page = await _find(reader, wanted, sort, words, corrections, cursor.key)
        if page == Page([]) and wanted.after is None:
            corrections = await _correct(reader, words)
            if corrections:
                page = await _find(reader, wanted, sort, words, corrections, cursor.key)
                cursor.mistyped = True
    end = page.entries[wanted.limit - 1].key if len(page.entries) > wanted.limit else page.stopped
    items = ",".join(str(entry.item) for entry in page.entries[: wanted.limit])
    next_cursor = f'"{_write_cursor(replace(cursor, key=end))}"' if end else "null"
    return f'{{"items":[{items}],"next_cursor":{next_cursor}}}'.encode()


async def _split(reader: Connection, query: str, language: str) -> list[Word]:
    words = await SPLIT_QUERY.all(reader, query=query, language=language)
    if len(words) > MAX_WORDS:
        raise invalid("/q", f"may have {MAX_WORDS} words at most")
    return words


async def _correct(reader: Connection, words: Sequence[Word]) -> Corrections:
    """For each word: those of the catalogue that differ from it by one typing error."""
    corrections = {}
    for text in (word.text for word in words if not word.unspaced):
        if len(text) >= MIN_MISTYPED - 1 and not any(map(str.isdigit, text)):
            swapped = [text[:n] + text[n + 1] + text[n] + text[n + 2 :] for n in range(len(text) - 1)]
            similar = await FIND_SIMILAR.all(reader, word=text, swapped=swapped)
            corrections[text] = [
                other for other in similar if max(len(text), len(other)) >= MIN_MISTYPED and is_one_error(text, other)
            ]
    return {text: others for text, others in corrections.items() if others}


def is_one_error(word: str, other: str) -> bool:
    """Whether two words differ by one letter that is missing, too many, another, or swapped with the next one."""
    start = next((n for n, (a, b) in enumerate(zip(word, other, strict=False)) if a != b), min(len(word), len(other)))
    rest, other_rest = word[start:], other[start:]
    return word != other and (
        rest[1:] == other_rest[1:]
        or rest[1:] == other_rest
        or rest == other_rest[1:]
        or (rest[1::-1] == other_rest[:2] and rest[2:] == other_rest[2:])
    )


async def _find(
    reader: Connection, wanted: Wanted, sort: Sort, words: Sequence[Word], corrections: Corrections, after: Key
) -> Page:
    """The products behind `after`: at least one more than the page has room for, if there are as many."""
    filters = [_quoted(f"${wanted.currency}")] if wanted.currency else []
    filters += [_quoted(f"#{wanted.category_id}")] if wanted.category_id else []
    terms = [*(_term(word, corrections) for word in words), *filters]
    query = " & ".join(terms) or None
    named = " & ".join(_term(word, corrections, "=") for word in words)
    name_query = " & ".join((named, *filters)) if words and sort == "relevance" else None
    min_price = wanted.min_price_minor or 0
    max_price = END if wanted.max_price_minor is None else wanted.max_price_minor
    run = _Run(
        reader, sort, wanted.currency or "", min_price, max_price, wanted.available, name_query, wanted.limit + 1
    )
    # Prices have an index in their order, whatever the prices asked for.
    if query is None or (sort in ("price", "-price") and len(terms) == 1):
        return await run.walk(query, after)

    # Within the prices: all words, those in the name, and everything. Then each word alone.
    within = [(text, min_price, max_price) for text in (query, name_query or query, filters[0] if filters else query)]
    asked = [*dict.fromkeys((*within, *((term, 0, END) for term in terms)))]
    queries, min_prices, max_prices = (list(column) for column in zip(*asked, strict=True))
    counts = await COUNT_MATCHES.all(reader, queries=queries, min_prices=min_prices, max_prices=max_prices)
    count_of = dict(zip(asked, counts, strict=True))
    matching, in_name, in_prices = (count_of[query] for query in within)
    rare = [term for term in terms if count_of[term, 0, END] < FEW]
    if rare:
        return await run.match(" & ".join(rare), query, after)
    if wanted.currency and in_prices < FEW:
        return await run.match_prices(query, after)
    if matching < FEW:
        return await run.match(query, None, after)
    if name_query is None:
        return await run.walk(query, after)

    # The products with the words in the name, then the others: two lists, each with the newest first.
    page = Page([])
    if after.rank < 1:
        start = Key(0, "", after.place)
        page = await (run.match(name_query, None, start) if in_name < FEW else run.walk(name_query, start))
        after = Key(1)
    if page.stopped or len(page.entries) >= run.limit:
        return page
    others = await run.walk(f"{query} & !({named})", after)
    return Page(page.entries + others.entries, others.stopped)


@dataclass(slots=True)
class _Run:
    """The statements of one page, with what they have in common."""

    reader: Connection
    sort: Sort
    currency: str
    min_price: int
    max_price: int
    available: bool | None
    name_query: str | None
    limit: int

    async def match(self, rare_words: str, query: str | None, after: Key) -> Page:
        """By the index on words, which finds all that have `rare_words`."""
        return Page(
            await MATCH_WORDS.all(
                self.reader,
                rare_words=rare_words,
                query=query if query != rare_words else None,
                name_query=self.name_query,
                sort=self.sort,
                min_price=self.min_price,
                max_price=self.max_price,
                available=self.available,
                after_rank=after.rank,
                after_name=after.name_key,
                after_place=after.place,
                limit=self.limit,
            )
        )

    async def match_prices(self, query: str | None, after: Key) -> Page:
        """By the index on prices, which finds all within them."""
        return Page(
            await MATCH_PRICES.all(
                self.reader,
                currency=self.currency,
                query=query,
                name_query=self.name_query,
                sort=self.sort,
                min_price=self.min_price,
                max_price=self.max_price,
                available=self.available,
                after_rank=after.rank,
                after_name=after.name_key,
                after_place=after.place,
                limit=self.limit,
            )
        )

    async def walk(self, query: str | None, after: Key) -> Page:
        """By reading products in the order of the page, until there are enough; MAX_WALKS times at most.

        Long texts take longer to read, so the time counts too.
        """
        page, end = Page([], after), time.monotonic() + WALK_SECONDS
        for _ in range(MAX_WALKS):
            assert page.stopped
            steps = await self._step(query, page.stopped, self.limit - len(page.entries))
            if self.sort == "relevance":
                for step in steps:
                    step.rank = after.rank
            page.entries += [step for step in steps if step.item is not None]
            page.stopped = steps[-1].key if steps and steps[-1].stopped else None
            if page.stopped is None or len(page.entries) >= self.limit:
                return Page(page.entries)
            if time.monotonic() > end:
                break
        return page

    async def _step(self, query: str | None, after: Key, limit: int) -> list[Entry]:
        match self.sort:
            case "price":
                return await WALK_PRICE.all(
                    self.reader,
                    query=query,
                    currency=self.currency,
                    min_price=self.min_price,
                    max_price=self.max_price,
                    available=self.available,
                    after_price=after.rank,
                    after_id=after.place,
                    limit=limit,
                )
            case "-price":
                return await WALK_PRICE_DOWN.all(
                    self.reader,
                    query=query,
                    currency=self.currency,
                    min_price=self.min_price,
                    max_price=self.max_price,
                    available=self.available,
                    before_price=-after.rank,
                    before_id=-after.place,
                    limit=limit,
                )
            case "name":
                return await WALK_NAME.all(
                    self.reader,
                    query=query,
                    min_price=self.min_price,
                    max_price=self.max_price,
                    available=self.available,
                    after_name=after.name_key,
                    after_id=after.place,
                    limit=limit,
                )
            case _:
                return await WALK_NEWEST.all(
                    self.reader,
                    query=query,
                    min_price=self.min_price,
                    max_price=self.max_price,
                    available=self.available,
                    before_id=-after.place,
                    limit=limit,
                )


def _term(word: Word, corrections: Corrections, mark: str = "") -> str:
    """A word as a text search query: what begins with it, or what it may have been meant to be."""
    text = word.text
    if not word.unspaced or len(text) == 1:
        begins = [f"{_quoted(mark + form)}:*" for form in dict.fromkeys((text, word.stem))]
        others = [_quoted(mark + other) for other in corrections.get(text, ())]
        return f"({' | '.join((*begins, *others))})"
    # Every pair is indexed, so every other one is enough, and the last.
    places = sorted({*range(0, len(text) - 1, 2), len(text) - 2})
    return " & ".join(_quoted(mark + text[place : place + 2]) for place in places)


def _quoted(lexeme: str) -> str:
    return "'" + lexeme.replace("\\", "\\\\").replace("'", "''") + "'"


def _write_cursor(cursor: Cursor) -> str:
    key = cursor.key
    text = orjson.dumps([cursor.sort, cursor.mistyped, key.rank, key.name_key, key.place])
    return base64.urlsafe_b64encode(text).rstrip(b"=").decode()


def _read_cursor(text: str, sort: Sort) -> Cursor:
    """The cursor of the page before. Raises `invalid` for any other text, and for a cursor of another order."""
    try:
        padded = text.encode("ascii") + b"=" * (-len(text) % 4)
        match orjson.loads(base64.b64decode(padded, altchars=b"-_", validate=True)):
            case [str(of_sort), bool(mistyped), int(rank), str(name_key), int(place)] if (
                of_sort == sort and abs(rank) <= END and abs(place) <= END and "\0" not in name_key
            ):
                return Cursor(sort, mistyped, Key(rank, name_key, place))
    except ValueError:
        pass
    raise invalid("/after", "must be the next_cursor of a page in the same order")


async def check_language(pool: Pool, language: str) -> None:
    """Raise UnsafeSettings if PostgreSQL does not know the text search configuration. It may be out of reach."""
    with suppress(ShopError):
        async with connection(pool) as reader:
            if not await FIND_LANGUAGE.one_or_none(reader, language=language):
                raise UnsafeSettings(
                    f"SEARCH_LANGUAGE: PostgreSQL has no text search configuration {language}; see psql's \\dF"
                )


async def index(tx: Connection, product_ids: Sequence[int], language: str) -> None:
    """Index products that this transaction has added or edited, after their last change."""
    await INDEX_PRODUCTS.run(tx, product_ids=product_ids, language=language)


async def index_stale(pool: Pool, language: str, show: Callable[[int], None] = lambda indexed: None) -> int:
    """Index the products whose search rows are missing, or of another language or version; how many there were.

    It may be stopped at any time: the next run goes on. `show` gets the number of products indexed so far.
    """
    after_id, indexed = 0, 0
    while True:
        async with connection(pool) as reader:
            stale = await FIND_STALE.one(reader, after_id=after_id, language=language)
        if stale.last_id is None:
            return indexed
        for start in range(0, len(stale.product_ids), INDEX_BATCH):
            batch = stale.product_ids[start : start + INDEX_BATCH]
            await run_transaction(pool, partial(index, product_ids=batch, language=language), idempotent=True)
            indexed += len(batch)
            show(indexed)
        after_id = stale.last_id
