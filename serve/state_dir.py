"""The state directory: what must outlive a worker, of one server at a time."""

import fcntl
import os
from pathlib import Path

from serve.errors import ConfigurationError

_LOCK = "headrace.lock"


def lock_state_dir(state_dir: Path) -> int:
    """Makes the directory, and makes it ours for as long as the descriptor is open.

    Raises ConfigurationError: another server has it, or it cannot be made or written.
    """
    try:
        state_dir.mkdir(parents=True, exist_ok=True)
        descriptor = os.open(state_dir / _LOCK, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    except OSError as error:
        raise ConfigurationError(f"cannot make the state directory {state_dir}: {error.strerror}; give a writable --state-dir") from error
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError as error:
        os.close(descriptor)
        raise ConfigurationError(
            f"the state directory {state_dir} belongs to a server that is running: give this one its own with --state-dir") from error
    return descriptor


__all__ = ["lock_state_dir"]
