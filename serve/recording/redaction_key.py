"""The key under which redaction hashes: made when it is first needed, and kept as long as hashes are to stay comparable."""

import os
import secrets
from pathlib import Path

from serve.errors import ConfigurationError
from serve.recording.local_store import sync_folder

KEY_BYTES = 32
_FILE = "redaction.key"


def redaction_key(home: Path) -> bytes:
    """KEY_BYTES random bytes of `home`/redaction.key, readable by its owner alone. Raises ConfigurationError."""
    path = home / _FILE
    try:
        if not path.exists():
            _make(path)
        key = path.read_bytes()
    except OSError as error:
        raise ConfigurationError(
            f"the key of redaction's hashes, {path}, cannot be had: {error.strerror}; give a writable --state-dir"
        ) from error
    if len(key) != KEY_BYTES:
        raise ConfigurationError(
            f"{path} has {len(key)} bytes instead of {KEY_BYTES}: put back the one that was there, or remove it for hashes that do not "
            "compare with those made before")
    return key


def _make(path: Path) -> None:
    """Whole or not at all, also after a power cut."""
    unfinished = path.with_name(f".{path.name}.tmp")
    unfinished.unlink(missing_ok=True)
    fd = os.open(unfinished, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
    try:
        os.write(fd, secrets.token_bytes(KEY_BYTES))
        os.fsync(fd)
    finally:
        os.close(fd)
    unfinished.replace(path)
    sync_folder(path.parent)


__all__ = ["KEY_BYTES", "redaction_key"]
