"""The audit log: what staff did, one row for each of their writes, in its transaction.

It has no personal data of customers, and no free text about people: a reason is in the history that it belongs to.
"""

from collections.abc import Sequence
from dataclasses import dataclass, fields
from datetime import datetime
from typing import Any, Literal

from service.infra.db import Connection, connection
from service.infra.logs import actor, cause
from service.infra.resources import Resources
from service.infra.sql import statement

Action = Literal[
    "create_category",
    "update_category",
    "delete_category",
    "create_product",
    "update_product",
    "delete_product",
    "move_stock",
    "cancel_order",
    "refund_order",
    "resolve_stuck",
    "revoke_tokens",
    "create_event_endpoint",
    "update_event_endpoint",
    "delete_event_endpoint",
    "rotate_event_secret",
    "resend_delivery",
    "add_key",
    "revoke_key",
    "erase",
    "import",
]
# Members of rows that every edit changes, or none; the subject has the id.
_BOOKKEEPING = {"id", "version", "created_at", "updated_at"}


@dataclass(slots=True)
class AuditEntry:
    """What somebody did to a subject: its changed members before and after, and in which request of ours."""

    id: int
    at: datetime
    actor: str
    action: str
    subject: str
    before: dict[str, Any] | None
    after: dict[str, Any] | None
    request_id: str


@dataclass(slots=True)
class AuditPage:
    """A keyset page of the audit log, newest first."""

    items: Sequence[AuditEntry]
    next_cursor: int | None


ADD_ENTRY = statement("audit_log/add_entry")
LIST_ENTRIES = statement("audit_log/list_entries", AuditEntry)
LIST_ENTRIES_OF_SUBJECT = statement("audit_log/list_entries_of_subject", AuditEntry)
LIST_ENTRIES_BY_ACTOR = statement("audit_log/list_entries_by_actor", AuditEntry)
LIST_ENTRIES_OF_SUBJECT_BY_ACTOR = statement("audit_log/list_entries_of_subject_by_actor", AuditEntry)


async def add(
    tx: Connection, action: Action, subject: str, *, before: dict[str, Any] | None, after: dict[str, Any] | None
) -> None:
    """Record what this transaction does to a subject such as `product:12`. Both dicts have JSON's types.

    The one who does it and the request are those of the work under way.
    """
    await ADD_ENTRY.run(
        tx,
        actor=actor.get(),
        action=action,
        subject=subject,
        before=before,
        after=after,
        request_id=_request_id(),
    )


async def add_once(
    tx: Connection, action: Action, subject: str, *, before: dict[str, Any] | None, after: dict[str, Any] | None
) -> None:
    """`add`, unless another transaction of the same request has done so."""
    newest = await LIST_ENTRIES_OF_SUBJECT_BY_ACTOR.all(
        tx, subject=subject, actor=actor.get(), before_id=2**63 - 1, limit=1
    )
    if [(entry.action, entry.request_id) for entry in newest] != [(action, _request_id())]:
        await add(tx, action, subject, before=before, after=after)


def _request_id() -> str:
    return cause.get().removeprefix("request ")


def changed(before: Any, after: Any) -> dict[str, dict[str, Any] | None]:
    """`before` and `after`, for `add`, of two versions of a row: the members that differ.

    None for a row that is created or deleted; the other version then has all members.
    """
    names = [field.name for field in fields(before or after) if field.name not in _BOOKKEEPING]
    if before is not None and after is not None:
        names = [name for name in names if getattr(before, name) != getattr(after, name)]
    return {
        which: None if row is None else {name: getattr(row, name) for name in names}
        for which, row in (("before", before), ("after", after))
    }


async def list_entries(
    resources: Resources, *, subject: str | None, actor: str | None, before_id: int, limit: int
) -> AuditPage:
    """A page of the entries with ids below `before_id`, newest first: of one subject, by one actor, both or all."""
    async with connection(resources.pool) as reader:
        if subject is not None and actor is not None:
            page = await LIST_ENTRIES_OF_SUBJECT_BY_ACTOR.all(
                reader, subject=subject, actor=actor, before_id=before_id, limit=limit + 1
            )
        elif subject is not None:
            page = await LIST_ENTRIES_OF_SUBJECT.all(reader, subject=subject, before_id=before_id, limit=limit + 1)
        elif actor is not None:
            page = await LIST_ENTRIES_BY_ACTOR.all(reader, actor=actor, before_id=before_id, limit=limit + 1)
        else:
            page = await LIST_ENTRIES.all(reader, before_id=before_id, limit=limit + 1)
    return AuditPage(page[:limit], page[limit - 1].id if len(page) > limit else None)
