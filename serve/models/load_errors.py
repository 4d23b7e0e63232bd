"""What the caller of a load is told when it fails, and what is noted of it."""

from serve.errors import ConfigurationError, HeadraceError, InternalError, InvalidArgument
from serve.models.repository import ModelSource
from serve.models.states import ModelRecord
from serve.types import VersionState


def refused(record: ModelRecord, source: ModelSource, error: Exception) -> HeadraceError:
    """Notes why no version of the model was tried, where nothing serves that would contradict it."""
    record.reason = str(error)
    for version in source.versions:
        if version not in record.served:
            record.advance(version, VersionState.UNAVAILABLE, str(error))
    return failed(record.name, error)


def failed(name: str, error: Exception, what: str = "") -> HeadraceError:
    """The error for the caller of a load: what an engine or repository said, with the text that clients look for."""
    kind: type[HeadraceError] = InternalError
    if isinstance(error, ConfigurationError | OSError):
        kind = InvalidArgument
    elif isinstance(error, HeadraceError):
        kind = type(error)
    return kind(f"failed to load '{name}', {what}{error}")


__all__ = ["failed", "refused"]
