"""`commerce-core import`: products from a file, in transactions of a thousand lines.

A file is checked whole before its first batch: first by itself, then beside the tables. What only a batch can find,
such as units that were sold meanwhile, skips that line. `imports.position` and a batch are one transaction, so a run
that was killed goes on after its last batch, and each line of a file moves its units once.
"""

import asyncio
import hashlib
import os
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field
from functools import partial
from io import BufferedReader
from typing import Any, TypeAlias
from uuid import UUID

import asyncpg

from service.errors import ShopError
from service.infra.db import Connection, Pool, connection
from service.infra.db_errors import CONNECTION_LOST
from service.infra.ids import new_id
from service.infra.logs import actor, cause
from service.infra.resources import Resources
from service.infra.sql import statement
from service.infra.transactions import run_transaction
from service.shop import audit_log, outbox, search
from service.shop.money import CURRENCIES
from service.shop.product_csv import Problem, Reader

# As the LIMITs of the statements. A batch holds its products for about 0.07 s on two cores, and its indexing for 0.1 s
# afterwards. Sales of them wait as long.
BATCH = 1000
# Of names and descriptions: those of 10,000 characters each would otherwise hold a batch for many times as long.
BATCH_CHARACTERS = 50_000
# Problems of a file that are shown; reading stops at more.
MOST_PROBLEMS = 100
# All imports share one staging table, so one runs at a time.
# The server may notice a moment later that a run was killed.
LOCK_ATTEMPTS, LOCK_PAUSE = 10, 0.3
# A batch meets others: it waits for a hot product, or somebody else adds its sku or deletes its category.
BATCH_ATTEMPTS, BATCH_PAUSE = 5, 0.2
# As the LIMIT of imports/clear_lines.
CLEARED = 10_000
ALL_RUNS = {"first_run": UUID(int=0), "last_run": UUID(int=(1 << 128) - 1)}
_CONFLICTS = {"busy", "sku_taken", "category_in_use"}
_USUAL_MAXIMUM = 99_999_999
_MAXIMA = {code: rules.maximum_minor for code, rules in CURRENCIES.items() if rules.maximum_minor != _USUAL_MAXIMUM}

_MESSAGES = {
    "repeated": "is in line {one.first_line} too",
    "required": "is required for a new product",
    "unknown": "is no category's slug",
    "maximum": "must be at most {one.maximum_minor} in this currency",
    "fixed": "differs from the product's, which cannot change",
    "units": "would leave 0 to 1,000,000,000 units; it is {one.stock} now",
}


SKIPPED_EARLIER = "was skipped by the run that was stopped"

# Gets what an import does now, and how much of how much.
Show: TypeAlias = Callable[[str, int, int], None]


@dataclass(slots=True)
class Position:
    """How far a file was imported; imports.* says more."""

    position: int
    moved_to: int
    skipped: list[int]
    unapplied: list[int]


@dataclass(slots=True)
class LineProblem:
    """What the tables say against a staged line, `column reason`, and what the reason's message may need."""

    line: int
    problem: str
    first_line: int | None
    maximum_minor: int | None
    stock: int | None


@dataclass(slots=True)
class LockedBatch:
    """How many lines a batch has, how many of their products exist, and how many of those differ and are locked."""

    lines: int
    products: int
    locked: int


@dataclass(slots=True)
class ChangedProducts:
    """The products with other columns than before, those whose stock became 0 or left 0, and how many moved it."""

    ids: list[int]
    availability_changed_ids: list[int]
    moved: int


@dataclass(slots=True)
class Batch:
    """A range of a run's staged lines."""

    run: UUID
    after_line: int
    last_line: int
    size: int
    moves_stock: bool

    @property
    def place(self) -> dict[str, Any]:
        """Which lines, as statements take them."""
        return {"run": self.run, "after_line": self.after_line, "last_line": self.last_line}


@dataclass(slots=True)
class Outcome:
    """What an import of the file with this SHA-256 did.

    Its problems are those of the skipped lines, or of the file, if it was `refused` and did nothing.
    """

    digest: str
    resumed_after: int = 0
    lines: int = 0
    added: int = 0
    changed: int = 0
    moved: int = 0
    skipped: int = 0
    refused: bool = False
    problems: list[Problem] = field(default_factory=list)


@dataclass(slots=True)
class _Run:
    """One run of the command. `hold_lock` and `show` are those of `_only_import` and the caller."""

    id: UUID
    pool: Pool
    language: str
    digest: bytes
    columns: list[str]
    hold_lock: Callable[[], Awaitable[object]]
    show: Show
    # The file's, before its digest.
    status: os.stat_result
    outcome: Outcome
    earlier: Position = field(default_factory=lambda: Position(0, 0, [], []))

    @property
    def unmoved(self) -> dict[str, Any]:
        """Which lines have still to move their stock, as statements take them."""
        return {"moved_to": self.earlier.moved_to, "skipped": self.earlier.skipped}

    @property
    def nullable_columns(self) -> dict[str, Any]:
        """Whether the file has the columns whose cells may be null, as statements take them."""
        return {f"set_{column}": column in self.columns for column in ("category", "max_per_order", "image_url")}

    async def step(self, name: str, done: int, total: int) -> None:
        """Keep the lock, and show how far the run is."""
        await self.hold_lock()
        self.show(name, done, total)


TRY_LOCK = statement("imports/try_lock", bool)
CLEAR_LINES = statement("imports/clear_lines")
LOCK_IMPORT = statement("imports/lock_import", Position)
START_IMPORT = statement("imports/start_import")
CHECK_LINES = statement("imports/check_lines", LineProblem)
LOCK_PRODUCTS = statement("imports/lock_products", LockedBatch)
UPDATE_PRODUCTS = statement("imports/update_products", ChangedProducts)
ADD_PRODUCTS = statement("imports/add_products", list[int])
RECORD_BATCH = statement("imports/record_batch")
FINISH_IMPORT = statement("imports/finish_import")


async def import_products(
    resources: Resources,
    file: BufferedReader,
    name: str,
    *,
    dry_run: bool = False,
    problems: list[Problem] | None = None,
    show: Show = lambda step, done, total: None,
) -> Outcome:
    """Add and change the products that a file names; `name` is the file's own. A dry run only checks it.

    `problems` becomes the outcome's, so that a caller has them though this raises.

    Raises InvalidHeader; ShopError: `busy` while another import runs, or if a batch meets others for too long.
    """
    status = os.fstat(file.fileno())
    digest = hashlib.file_digest(file, "sha256").digest()
    file.seek(0)
    actor.set("command:import")
    cause.set(f"command import {digest.hex()[:12]}")
    reader = Reader(file)
    async with _only_import(resources.pool) as hold_lock:
        language = resources.settings.search_language
        outcome = Outcome(digest.hex(), problems=[] if problems is None else problems)
        run = _Run(new_id(), resources.pool, language, digest, reader.columns, hold_lock, show, status, outcome)
        try:
            await _clear_lines(run.pool, **ALL_RUNS)
            return await _import(run, reader, file, name, dry_run=dry_run)
        finally:
            if run.outcome.lines:
                await resources.cache.invalidate()
            # Otherwise the next import does it.
            with suppress(ShopError):
                await _clear_lines(run.pool, first_run=run.id, last_run=run.id)
            reader.detach()


@asynccontextmanager
async def _only_import(pool: Pool) -> AsyncIterator[Callable[[], Awaitable[object]]]:
    """Be the only import until the block ends: by a transaction without a snapshot, which a pooler follows too.

    Yields a check, which fails once the lock is lost.
    """
    async with pool.acquire() as holder:
        await holder.execute("BEGIN")
        # A batch may wait for others for longer than the usual ten seconds.
        await holder.execute("SET LOCAL idle_in_transaction_session_timeout = '5min'")
        for _ in range(LOCK_ATTEMPTS):
            if await TRY_LOCK.one(holder):
                break
            await asyncio.sleep(LOCK_PAUSE)
        else:
            raise ShopError("busy", "Another import is running.")

        async def hold_lock() -> None:
            try:
                await TRY_LOCK.one(holder)
            except (asyncpg.PostgresError, *CONNECTION_LOST) as error:
                raise ShopError("busy", "The lock was lost; the same command goes on.") from error

        try:
            yield hold_lock
        finally:
            with suppress(asyncpg.PostgresError, *CONNECTION_LOST):
                await holder.execute("ROLLBACK")


async def _clear_lines(pool: Pool, *, first_run: UUID, last_run: UUID) -> None:
    deleted = CLEARED
    while deleted == CLEARED:
        async with connection(pool) as writer:
            deleted = await CLEAR_LINES.run(writer, first_run=first_run, last_run=last_run)


async def _import(run: _Run, reader: Reader, file: BufferedReader, name: str, *, dry_run: bool) -> Outcome:
    async with connection(run.pool) as reading:
        earlier = await LOCK_IMPORT.one_or_none(reading, digest=run.digest)
    if earlier is not None:
        run.earlier = earlier
        run.outcome.resumed_after = earlier.position
    batches = await _stage(run, reader, file)
    # The run that goes on was checked when it began; units that were sold since then skip a line, not the rest.
    if not run.earlier.position:
        await _check(run, batches)
    run.outcome.refused = bool(run.outcome.problems)
    if run.outcome.refused or dry_run:
        return run.outcome
    run.outcome.problems += [Problem(line, None, SKIPPED_EARLIER) for line in run.earlier.unapplied]
    run.outcome.skipped = len(run.earlier.unapplied)
    await run_transaction(run.pool, partial(_start, run, name, batches), idempotent=True)
    total = sum(batch.size for batch in batches)
    indexing = asyncio.create_task(_index(run, []))
    try:
        for batch in batches:
            await run.step("importing", run.outcome.lines, total)
            ids = await _apply(run, batch)
            await indexing
            indexing = asyncio.create_task(_index(run, ids))
    finally:
        await indexing
    async with connection(run.pool) as writer:
        await FINISH_IMPORT.run(writer, digest=run.digest)
    return run.outcome


async def _stage(run: _Run, reader: Reader, file: BufferedReader) -> list[Batch]:
    """Copy the lines behind the position into the staging table."""
    batches: list[Batch] = []
    after_line = run.earlier.position
    columns = ["run", "line", *reader.columns]
    delta = columns.index("stock_delta") if "stock_delta" in columns else 0
    texts = [number for number, column in enumerate(columns) if column in ("name", "description")]
    chunks = reader.chunks(BATCH)
    # The next records are read while the server stores these.
    coming = asyncio.create_task(asyncio.to_thread(next, chunks, None))
    try:
        while (chunk := await coming) is not None and len(run.outcome.problems) <= MOST_PROBLEMS:
            coming = asyncio.create_task(asyncio.to_thread(next, chunks, None))
            await run.step("reading", file.tell(), run.status.st_size)
            run.outcome.problems += chunk.problems
            records = [(run.id, *record) for record in chunk.records if record[0] > after_line]
            if records:
                async with connection(run.pool) as writer:
                    await writer.copy_records_to_table("import_lines", records=records, columns=columns)
            for part in _split(records, texts):
                moves_stock = delta > 0 and any(record[delta] for record in part)
                batches.append(Batch(run.id, after_line, part[-1][1], len(part), moves_stock))
                after_line = part[-1][1]
    finally:
        # It reads the file, which the caller closes.
        await asyncio.wait([coming])
    before, after = run.status, os.fstat(file.fileno())
    if (before.st_size, before.st_mtime_ns) != (after.st_size, after.st_mtime_ns):
        raise ShopError("busy", "The file was changed while it was read.")
    return batches


def _split(records: list[tuple[Any, ...]], texts: list[int]) -> Iterator[list[tuple[Any, ...]]]:
    """Parts of consecutive records with up to BATCH_CHARACTERS in their columns `texts`, but at least one record."""
    part, characters = list[tuple[Any, ...]](), 0
    for record in records:
        length = sum(len(record[number]) for number in texts)
        if part and characters + length > BATCH_CHARACTERS:
            yield part
            part, characters = [], 0
        part.append(record)
        characters += length
    if part:
        yield part


async def _check(run: _Run, batches: list[Batch]) -> None:
    """Compare the staged lines with the tables."""
    for number, batch in enumerate(batches):
        if len(run.outcome.problems) > MOST_PROBLEMS:
            break
        await run.step("checking", number, len(batches))
        async with connection(run.pool) as reader:
            run.outcome.problems += await _problems(run, reader, batch, find_repeated=True)
    run.outcome.problems.sort(key=lambda problem: (problem.line, problem.column or ""))


async def _problems(run: _Run, connection: Connection, batch: Batch, *, find_repeated: bool) -> list[Problem]:
    problems = await CHECK_LINES.all(
        connection,
        **batch.place,
        **run.unmoved,
        find_repeated=find_repeated,
        maximum_minor=_USUAL_MAXIMUM,
        currencies=[*_MAXIMA],
        maxima_minor=[*_MAXIMA.values()],
    )
    named = [(one, one.problem.partition(" ")) for one in problems]
    return [Problem(one.line, column, _MESSAGES[reason].format(one=one)) for one, (column, _, reason) in named]


async def _start(run: _Run, name: str, batches: list[Batch], tx: Connection) -> None:
    await START_IMPORT.run(tx, digest=run.digest)
    after = {
        "file": name,
        "sha256": run.digest.hex(),
        "lines": sum(batch.size for batch in batches),
        "after_line": run.earlier.position,
    }
    await audit_log.add(tx, "import", f"import:{run.digest.hex()[:12]}", before=None, after=after)


async def _index(run: _Run, product_ids: list[int]) -> None:
    """Index a batch for the search while the next one is applied, which halves the time of both.

    After a kill or a conflict the worker indexes the products whose search rows are missing or old.
    """
    with suppress(ShopError):
        await run_transaction(
            run.pool, lambda tx: search.index(tx, product_ids=product_ids, language=run.language), idempotent=True
        )


async def _apply(run: _Run, batch: Batch) -> list[int]:
    """Apply a batch in one transaction, without the lines that the tables now speak against.

    Returns the products that it has added or changed.
    """
    result: tuple[list[int], ChangedProducts, list[Problem], list[int]] | None = None

    async def apply(tx: Connection) -> None:
        nonlocal result
        current = await LOCK_IMPORT.one_or_none(tx, digest=run.digest)
        if result is not None and current is not None and current.position == batch.last_line:
            # An earlier attempt was committed, and its answer lost.
            return
        locked = await LOCK_PRODUCTS.one(tx, **batch.place, **run.nullable_columns, **run.unmoved)
        if current is None or current.position != batch.after_line or locked.lines != batch.size:
            raise ShopError("busy", "Another import of this file has begun, or the server has lost its lines.")
        problems = await _problems(run, tx, batch, find_repeated=False)
        skip = sorted({problem.line for problem in problems})
        added, changed = list[int](), ChangedProducts([], [], 0)
        if locked.products < locked.lines:
            added = await ADD_PRODUCTS.one(tx, **batch.place, skip=skip, actor=actor.get())
        # It moves the stock of new products too. A sku that somebody has just added is changed instead.
        if locked.locked or batch.moves_stock or len(added) < locked.lines - locked.products:
            changed = await UPDATE_PRODUCTS.one(
                tx,
                **batch.place,
                **run.nullable_columns,
                **run.unmoved,
                skip=skip,
                reason=f"import {run.digest.hex()[:12]}",
                actor=actor.get(),
                request_id=cause.get(),
            )
        await outbox.announce_products(tx, changed.availability_changed_ids)
        await RECORD_BATCH.run(tx, digest=run.digest, last_line=batch.last_line, skip=skip)
        result = added, changed, problems, skip

    for attempt in range(1, BATCH_ATTEMPTS + 1):
        try:
            await run_transaction(run.pool, apply, idempotent=True)
            break
        except ShopError as error:
            if error.code not in _CONFLICTS or attempt == BATCH_ATTEMPTS:
                raise
            await asyncio.sleep(BATCH_PAUSE * attempt)
    assert result
    added, changed, problems, skip = result
    run.outcome.lines += batch.size
    run.outcome.added += len(added)
    run.outcome.changed += len(changed.ids)
    run.outcome.moved += changed.moved
    run.outcome.skipped += len(skip)
    run.outcome.problems += problems
    return [*added, *changed.ids]
