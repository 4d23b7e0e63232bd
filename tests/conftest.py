"""Fixtures that several folders share: running servers, each a process of its own on free ports.

What they need is imported when they are used: most tests need no server.
"""

import os
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from tests.integration.running_server import RunningServer

# Servers under test are told everything: what the caller's shell sets must not reach them.
for _name in [name for name in os.environ if name.startswith("HEADRACE_")]:
    del os.environ[_name]


@pytest.fixture(scope="session")
def repository(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of models; tests may add models of their own, and leave those that are there as they are."""
    from tests.integration.models import write_repository

    root = tmp_path_factory.mktemp("repository")
    write_repository(root)
    return root


@pytest.fixture(scope="session")
def server(repository: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator["RunningServer"]:
    """With the default limits; clients may load and unload."""
    from tests.integration.running_server import running_server

    with running_server(repository, tmp_path_factory.mktemp("server"), "--model-control", "explicit") as running:
        yield running


@pytest.fixture(scope="session")
def small_server(repository: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator["RunningServer"]:
    """With limits that a test can reach: bodies of 1 MiB, 16 streams, 1 s for a header. Clients may not load or unload."""
    from tests.integration.running_server import running_server

    flags = ("--max-body-bytes", str(1 << 20), "--max-streams", "16", "--header-timeout", "1", "--idle-timeout", "3")
    with running_server(repository, tmp_path_factory.mktemp("small_server"), *flags) as running:
        yield running
