"""Where sealed files and manifests are kept: a folder, or a prefix in an object store by way of fsspec."""

from pathlib import Path

import fsspec

from serve.errors import ConfigurationError
from serve.recording.local_store import LocalStore
from serve.recording.object_store import ObjectStore
from serve.recording.store_port import RecordsStore, StoredFile

_FOLDERS = ("file", "local")
# What brings the driver of a URL's scheme.
_DRIVERS = {"s3": "s3fs", "s3a": "s3fs", "gs": "gcsfs", "gcs": "gcsfs", "az": "adlfs", "abfs": "adlfs", "abfss": "adlfs"}


def open_store(url: str) -> RecordsStore:
    """The store of `--records`: a folder (made if need be), file://, or a URL of fsspec such as s3://bucket/prefix, gs://, az://.

    Credentials and endpoints are the driver's: environment, instance role, files. Raises ConfigurationError for a URL that cannot be used,
    naming the package that is missing.
    """
    scheme, separator, rest = url.partition("://")
    if not url or (separator and not rest):
        raise ConfigurationError(f"--records {url!r} names no folder; give a folder or a URL such as s3://bucket/prefix")
    if (folder := _folder(url)) is not None:
        return LocalStore(folder)
    try:
        filesystem, root = fsspec.core.url_to_fs(url)
    except ImportError as error:
        package = _DRIVERS.get(scheme)
        advice = f"pip install {package}" if package else f"install what it asks for: {error}"
        raise ConfigurationError(f"--records {url}: there is no driver for {scheme}:// here; {advice}") from error
    except ValueError as error:
        raise ConfigurationError(f"--records {url}: {error}; give a folder, s3://, gs:// or az://") from error
    return ObjectStore(filesystem, root, url)


def existing_store(url: str) -> RecordsStore:
    """The same for those who only read. Raises ConfigurationError for a folder that is not there as well: it is not made."""
    folder = _folder(url)
    if folder is not None and not folder.expanduser().is_dir():
        raise ConfigurationError(f"there is no records directory {folder}; a server makes it: headrace serve --records {folder}")
    return open_store(url)


def _folder(url: str) -> Path | None:
    """None: it is an object store's."""
    scheme, separator, rest = url.partition("://")
    if separator and scheme not in _FOLDERS:
        return None
    return Path(rest if separator else url)


__all__ = ["LocalStore", "ObjectStore", "RecordsStore", "StoredFile", "existing_store", "open_store"]
