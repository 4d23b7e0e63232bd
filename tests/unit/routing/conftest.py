"""What the tests of rollouts share."""


from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from serve.routing import rollout_driver
from tests.unit.routing.rollout_bench import Bench


@pytest.fixture(autouse=True)
def _quick_ticks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(rollout_driver, "TICK_S", 0.01)
    monkeypatch.setattr(rollout_driver, "FIRST_WAKE_S", 0.0)


@pytest.fixture
async def bench(tmp_path: Path) -> AsyncIterator[Bench]:
    bench = Bench(tmp_path)
    await bench.open()
    yield bench
    assert bench.service is not None
    assert bench.store is not None
    await bench.service.close()
    await bench.store.close()
