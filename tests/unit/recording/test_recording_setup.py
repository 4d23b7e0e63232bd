"""How recording begins, and how it does not."""

from pathlib import Path
from unittest.mock import Mock

import pytest

from serve.config import Settings
from serve.config_records import RecordSettings
from serve.errors import ConfigurationError
from serve.recording.layout import manifest_path
from serve.recording_setup import Recording


async def test_a_manifest_that_cannot_be_read_is_the_operators(tmp_path: Path) -> None:
    records = tmp_path / "records"
    (records / manifest_path("r")).mkdir(parents=True)
    settings = Settings(paths=(tmp_path,), state_dir=tmp_path / "state", recording=RecordSettings(records=str(records), replica_id="r"))
    with pytest.raises(ConfigurationError, match=r"the manifest of replica r in .* cannot be read: .*Is a directory.*another --records"):
        Recording(settings, Mock())
    (records / manifest_path("r")).rmdir()
    (records / manifest_path("r")).write_text('{"type":"replica","format":99,"replica":"r"}\n')
    with pytest.raises(ConfigurationError, match="has format 99, this release reads up to 1"):
        Recording(settings, Mock())
