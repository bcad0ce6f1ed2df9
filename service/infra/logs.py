"""Logs: one JSON object per line, each with the work that it belongs to, and what that work is about.

A line of a request, an event or a job has its `trace_id`, and `order_id` and `event_id` as soon as they are known.
"""

import asyncio
import logging
import sys
import time
from contextvars import ContextVar
from datetime import UTC, datetime
from itertools import count
from os import urandom
from typing import Any, TextIO
from uuid import UUID

import asyncpg
import orjson

# The work under way: "request <trace id>-<span id>", "event <id>" or "job <name>". The order history stores it too.
cause: ContextVar[str] = ContextVar("cause", default="process")
# Who does it, as histories and the audit log write it: "customer", "user:<sub>", "key:<name>", "admin", "open",
# "stripe", "job:<name>" or "command:<name>".
actor: ContextVar[str] = ContextVar("actor", default="job:process")
# What each line of this work says: its trace, and the order or event that it is about. Replaced, never changed, because
# tasks that run at the same time share it.
subject: ContextVar[dict[str, str]] = ContextVar("subject", default={})  # noqa: B039

# The attributes of a record that are not from `extra`.
_STANDARD = set(vars(logging.makeLogRecord({}))) | {"message", "asctime", "taskName", "color_message"}

_pending_lines: list[bytes] = []
# Random once per process: random ids for each request would take longer than the rest of its log line.
_PROCESS, _NUMBER = urandom(8).hex(), count(int.from_bytes(urandom(7), "big"))


def new_span_id() -> str:
    """16 hexadecimal digits that no other request has, as W3C Trace Context names one piece of work."""
    return f"{next(_NUMBER):016x}"


def new_trace_id(span_id: str) -> str:
    """32 hexadecimal digits for work that no caller has given a trace id; `span_id` is its first span's."""
    return _PROCESS + span_id


def begin_job(name: str, order_id: UUID | None = None) -> None:
    """From here on this task works for a job, with a trace of its own."""
    cause.set(f"job {name}")
    actor.set(f"job:{name}")
    subject.set({"trace_id": new_trace_id(new_span_id())})
    if order_id is not None:
        add_subject(order_id=order_id)


def begin_event(event_id: str) -> None:
    """From here on this task applies a Stripe event."""
    cause.set(f"event {event_id}")
    actor.set("stripe")
    add_subject(event_id=event_id)


def add_subject(**ids: object) -> None:
    """Add `order_id`, `event_id` or other ids to each further line of this work. They must contain nothing personal."""
    subject.set({**subject.get(), **{name: str(value) for name, value in ids.items()}})


class JsonFormatter(logging.Formatter):
    """The record's time, level, logger, message and cause, the work's subject, then the fields of `extra`."""

    def format(self, record: logging.LogRecord) -> str:
        fields = {name: value for name, value in vars(record).items() if name not in _STANDARD}
        if record.exc_info:
            _remove_details(record.exc_info[1])
            fields["exception"] = self.formatException(record.exc_info)
        name, message = record.name, record.getMessage()
        return _line(record.created, fields, level=record.levelname, logger=name, message=message).decode()


def log_soon(logger: logging.Logger, message: str, **fields: Any) -> None:
    """`logger.info` for every request: all lines of one iteration of the event loop are written together.

    A killed process loses the lines of that iteration. This takes 4 µs; a `logging` record with its own write, 39 µs.
    """
    if not logger.isEnabledFor(logging.INFO):
        return
    if not _pending_lines:
        asyncio.get_running_loop().call_soon(_write)
    _pending_lines.append(_line(time.time(), fields, level="INFO", logger=logger.name, message=message))


def _line(at: float, fields: dict[str, Any], *, level: str, logger: str, message: str) -> bytes:
    line = {
        "at": datetime.fromtimestamp(at, UTC),
        "level": level,
        "logger": logger,
        "message": message,
        "cause": cause.get(),
        **subject.get(),
        **fields,
    }
    return orjson.dumps(line, default=str)


def _write() -> None:
    lines = b"\n".join([*_pending_lines, b""]).decode()
    _pending_lines.clear()
    sys.stderr.write(lines)


def _remove_details(error: BaseException | None) -> None:
    """Remove PostgreSQL's detail: it can show the refused row, with a customer's address."""
    while error is not None:
        if isinstance(error, asyncpg.PostgresError):
            error.detail = None
        error = error.__cause__ or error.__context__


class _Handler(logging.StreamHandler[TextIO]):
    """Writes the lines of `log_soon` first, so that the log is in the order of what happened."""

    def emit(self, record: logging.LogRecord) -> None:
        if _pending_lines:
            _write()
        super().emit(record)


def configure(level: str) -> None:
    """Send the records of all loggers to standard error as JSON."""
    handler = _Handler()
    handler.setFormatter(JsonFormatter())
    logging.basicConfig(level=level, handlers=[handler], force=True)
    # At INFO these log every call. We log what matters ourselves.
    for name in ("arq", "stripe", "yoyo"):
        logging.getLogger(name).setLevel(logging.WARNING)
