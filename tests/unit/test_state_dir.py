"""A state directory is one server's."""

import os
from pathlib import Path

import pytest

from serve.errors import ConfigurationError
from serve.state_dir import lock_state_dir


def test_a_second_server_is_told_whose_it_is(tmp_path: Path) -> None:
    folder = tmp_path / "a" / "b"
    descriptor = lock_state_dir(folder)
    with pytest.raises(ConfigurationError, match=f"{folder} belongs to a server that is running: give this one its own with --state-dir"):
        lock_state_dir(folder)
    os.close(descriptor)
    os.close(lock_state_dir(folder))


def test_a_place_where_none_can_be_is_the_operators(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(ConfigurationError, match="cannot make the state directory .*file/st: Not a directory; give a writable --state-dir"):
        lock_state_dir(tmp_path / "file" / "st")
