"""What the errors of PostgreSQL and of its driver mean to a client."""

import logging
from typing import Literal, TypeAlias

import asyncpg

from service.errors import CONSTRAINTS, LOGIN_SQLSTATES, SQLSTATES, ShopError
from service.infra.metrics import POSTGRESQL_FAILURES

# Why PostgreSQL cannot be used, in the words of readiness.
Trouble: TypeAlias = Literal["unreachable", "login_refused", "read_only"]

CONNECTION_LOST = (
    asyncpg.PostgresConnectionError,
    asyncpg.AdminShutdownError,
    asyncpg.CrashShutdownError,
    asyncpg.CannotConnectNowError,
    asyncpg.IdleInTransactionSessionTimeoutError,
    asyncpg.InterfaceError,
    # The driver raises it on a connection that the server is just closing.
    asyncpg.InternalClientError,
    OSError,
    TimeoutError,
)
_DETAILS: dict[Trouble, str] = {
    "unreachable": "PostgreSQL cannot be reached; try again.",
    "login_refused": "PostgreSQL refuses the login.",
    "read_only": "PostgreSQL is read-only: no server that takes writes was found.",
}

logger = logging.getLogger(__name__)


def is_connection_loss(error: BaseException) -> bool:
    """Whether the connection or its server is lost."""
    # An argument that the driver cannot send raises an InterfaceError that is a ValueError too.
    return isinstance(error, CONNECTION_LOST) and not isinstance(error, ValueError)


def shop_error(error: BaseException) -> ShopError:
    """The ShopError for an error of PostgreSQL or the driver. Raises the error itself if only a bug explains it."""
    match error:
        case ShopError():
            return error
        case asyncpg.IntegrityConstraintViolationError() if error.constraint_name in CONSTRAINTS:
            return ShopError(*CONSTRAINTS[error.constraint_name])
        case asyncpg.ReadOnlySQLTransactionError():
            return unavailable("read_only")
        case asyncpg.PostgresError() if SQLSTATES.get(error.sqlstate) == "unavailable":
            return unavailable("unreachable")
        case asyncpg.PostgresError() if error.sqlstate in SQLSTATES:
            return ShopError(SQLSTATES[error.sqlstate], "The database is busy; try again.")
        case asyncpg.InvalidCachedStatementError():
            return ShopError("busy", "The database is being migrated; try again.")
    if is_connection_loss(error):
        return unavailable("unreachable")
    raise error


def unavailable(trouble: Trouble) -> ShopError:
    """The ShopError for a PostgreSQL that cannot be used."""
    return ShopError("unavailable", _DETAILS[trouble], postgresql=trouble)


def _reason(error: BaseException) -> str:
    """Why a database call failed, as a label."""
    state = getattr(error, "sqlstate", None)
    if isinstance(error, TimeoutError):
        return "timeout"
    if isinstance(error, asyncpg.ReadOnlySQLTransactionError | asyncpg.TargetServerAttributeNotMatched):
        return "read_only"
    if SQLSTATES.get(state or "") == "busy" or isinstance(error, asyncpg.InvalidCachedStatementError):
        return "busy"
    if SQLSTATES.get(state or "") == "unavailable" or is_connection_loss(error):
        return "unreachable"
    return "login_refused" if state in LOGIN_SQLSTATES else "other"


def log_failure(error: BaseException, *, retried: bool = False) -> None:
    """Log why a database call failed: the first line of the message, because the others can contain a row's values."""
    POSTGRESQL_FAILURES.labels(_reason(error), str(retried).lower()).inc()
    reason = str(error).partition("\n")[0]
    extra = {"error": type(error).__name__, "sqlstate": getattr(error, "sqlstate", None), "reason": reason}
    if retried:
        logger.info("database call retried", extra=extra)
    else:
        logger.warning("database call failed", extra=extra)
