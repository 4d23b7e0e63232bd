"""Everything that can be wrong, once, with the status that each protocol gives it.

    HeadraceError
    ├── InvalidArgument      the caller's fault: 400
    ├── NotFound             no such model, version or route: 404
    ├── MethodNotAllowed     405
    ├── RequestTimeout       the client was too slow to send: 408
    ├── Conflict             somebody else's change, or a running rollout, is in the way: 409
    ├── StaleGeneration      the caller's generation is not the newest: 412
    ├── TooLarge             413
    ├── Unprocessable        well-formed, and not what the document may say: 422
    ├── PreconditionRequired the caller must say which generation it changes: 428
    ├── HeadersTooLarge      431
    ├── Cancelled            the client went away: 499
    ├── InternalError        our bug, or the model's: 500
    ├── NotImplementedHere   501
    ├── Unavailable          overloaded, not ready, draining: 503
    ├── DeadlineExceeded     504
    ├── InsufficientStorage  the disk is full; nothing was changed: 507
    └── ConfigurationError   the operator's fault; never reaches a client

`ext/serve/_core/failure.pxd` holds STATUS for the native threads; tests hold the two against each other. No native thread says what is
in CONTROL_STATUS.
"""

from typing import ClassVar


class HeadraceError(Exception):
    """Base of all errors. `str(error)` is the text that a client may see: value, limit, what to do."""

    kind: ClassVar[str] = "INTERNAL"


class InvalidArgument(HeadraceError):
    kind = "INVALID_ARGUMENT"


class NotFound(HeadraceError):
    kind = "NOT_FOUND"


class MethodNotAllowed(HeadraceError):
    kind = "METHOD_NOT_ALLOWED"


class RequestTimeout(HeadraceError):
    kind = "REQUEST_TIMEOUT"


class TooLarge(HeadraceError):
    kind = "TOO_LARGE"


class HeadersTooLarge(HeadraceError):
    kind = "HEADERS_TOO_LARGE"


class Cancelled(HeadraceError):
    kind = "CANCELLED"


class InternalError(HeadraceError):
    kind = "INTERNAL"


class NotImplementedHere(HeadraceError):
    kind = "NOT_IMPLEMENTED"


class Unavailable(HeadraceError):
    kind = "UNAVAILABLE"


class DeadlineExceeded(HeadraceError):
    kind = "DEADLINE_EXCEEDED"


class Conflict(HeadraceError):
    kind = "CONFLICT"


class StaleGeneration(HeadraceError):
    kind = "STALE"


class PreconditionRequired(HeadraceError):
    kind = "PRECONDITION_REQUIRED"


class Unprocessable(HeadraceError):
    kind = "UNPROCESSABLE"


class InsufficientStorage(HeadraceError):
    kind = "INSUFFICIENT_STORAGE"


class ConfigurationError(HeadraceError):
    """Settings, files or flags that cannot be honoured; `serve` exits with 1."""


# kind -> (gRPC status code, HTTP status)
STATUS: dict[str, tuple[int, int]] = {
    "OK": (0, 200),
    "CANCELLED": (1, 499),
    "INVALID_ARGUMENT": (3, 400),
    "NOT_FOUND": (5, 404),
    "METHOD_NOT_ALLOWED": (12, 405),
    "REQUEST_TIMEOUT": (4, 408),
    "TOO_LARGE": (8, 413),
    "HEADERS_TOO_LARGE": (8, 431),
    "INTERNAL": (13, 500),
    "NOT_IMPLEMENTED": (12, 501),
    "UNAVAILABLE": (14, 503),
    "DEADLINE_EXCEEDED": (4, 504),
}

# The same for what only the control plane says.
CONTROL_STATUS: dict[str, tuple[int, int]] = {
    "CONFLICT": (10, 409),
    "STALE": (9, 412),
    "PRECONDITION_REQUIRED": (9, 428),
    "UNPROCESSABLE": (3, 422),
    "INSUFFICIENT_STORAGE": (8, 507),
}


def grpc_code(error: BaseException) -> int:
    """gRPC status code of an error; anything foreign is our own fault."""
    return _status(error)[0]


def http_status(error: BaseException) -> int:
    """HTTP status of an error; anything foreign is our own fault."""
    return _status(error)[1]


def _status(error: BaseException) -> tuple[int, int]:
    kind = error.kind if isinstance(error, HeadraceError) else "INTERNAL"
    return STATUS.get(kind) or CONTROL_STATUS[kind]
