"""Logs as JSON, one object a line, each with the request or job it belongs to."""

import logging
from contextvars import ContextVar
from datetime import UTC, datetime
from typing import Any

import asyncpg
import orjson

# Who is at work: "request <id>", "event <id>" or "job <name>". Histories name it too.
cause: ContextVar[str] = ContextVar("cause", default="process")

_OWN = set(vars(logging.makeLogRecord({}))) | {"message", "asctime", "taskName", "color_message"}


class JsonFormatter(logging.Formatter):
    """A record's time, level, logger, message and cause, then whatever was passed as `extra`."""

    def format(self, record: logging.LogRecord) -> str:
        line: dict[str, Any] = {
            "at": datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds"),
            "level": record.levelname,
            "logger": record.name,
            "message": record.getMessage(),
            "cause": cause.get(),
            **{name: value for name, value in vars(record).items() if name not in _OWN},
        }
        if record.exc_info:
            _forget_rows(record.exc_info[1])
            line["exception"] = self.formatException(record.exc_info)
        return orjson.dumps(line, default=str).decode()


def _forget_rows(error: BaseException | None) -> None:
    """Take out what PostgreSQL says in detail: a row that it refuses, with the customer's address in it."""
    while error is not None:
        if isinstance(error, asyncpg.PostgresError):
            error.detail = None
        error = error.__cause__ or error.__context__


def configure(level: str) -> None:
    """Send every logger's records to standard error as JSON."""
    handler = logging.StreamHandler()
    handler.setFormatter(JsonFormatter())
    logging.basicConfig(level=level, handlers=[handler], force=True)
    # They tell of every call at INFO; what matters of those is logged where it is decided.
    for name in ("arq", "stripe", "yoyo"):
        logging.getLogger(name).setLevel(logging.WARNING)
