"""Repositories and services that several tests share."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.reliability import models
from tests.reliability.service import Service, faults, serving


@pytest.fixture(scope="session")
def repository(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """quick, waiting, busy; never changed."""
    root = tmp_path_factory.mktemp("repository")
    models.quick(root)
    models.waiting(root)
    models.busy(root)
    return root


@pytest.fixture
def service(repository: Path, tmp_path: Path) -> Iterator[Service]:
    """A service of one's own, to be ended in whatever way."""
    with serving(tmp_path / "service", str(repository)) as running:
        yield running
        assert faults(running) == []
