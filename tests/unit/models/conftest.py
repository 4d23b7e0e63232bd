import pathlib

import pytest

from tests.unit.models.bench import Bench


@pytest.fixture
def bench(tmp_path: pathlib.Path) -> Bench:
    return Bench(tmp_path)
