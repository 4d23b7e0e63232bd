"""From any exception to what a client may see of it."""

import uuid

import structlog

from serve.errors import ConfigurationError, HeadraceError, InternalError

log = structlog.get_logger("serve.api")


def client_error(error: Exception, operation: str) -> HeadraceError:
    """The error itself where it was made for clients; else an InternalError that names only a log entry.

    operation: what the client asked for, for the log.
    """
    if isinstance(error, HeadraceError) and not isinstance(error, ConfigurationError):
        return error
    error_id = uuid.uuid4().hex
    log.error("a slow-path handler failed", error_id=error_id, operation=operation, exc_info=error)
    return InternalError(f"internal error {error_id}; the server's log has the details under this id")
