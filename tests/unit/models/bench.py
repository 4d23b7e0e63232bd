"""A model manager over a repository in a temporary folder and a fake engine."""

import asyncio
import pathlib
import shutil
from collections.abc import Awaitable, Callable
from typing import Any

import pytest

from serve.errors import HeadraceError
from serve.models.crash_marks import CrashMarks
from serve.models.disk import DiskRepository
from serve.models.lifecycle import LifecycleOptions, ModelManager
from tests.unit.models.fakes import FakeEngine


class Bench:
    """repository and outside are the two PATHs; pins is what a routing plan names."""

    def __init__(self, folder: pathlib.Path) -> None:
        self.repository = folder / "repository"
        self.outside = folder / "outside"
        self.state = folder / "state"
        self.repository.mkdir()
        self.outside.mkdir()
        self.engine = FakeEngine()
        self.pins: dict[str, set[str]] = {}
        self.build_manager()

    def build_manager(self, **options: Any) -> None:
        repository = DiskRepository([self.repository, self.outside])
        settings = LifecycleOptions(pinned=lambda name: self.pins.get(name, ()), **options)
        self.manager = ModelManager(repository, self.engine, CrashMarks(self.state), settings)

    def model(self, name: str, *versions: str, config: str | None = None) -> None:
        for version in versions:
            self.write(f"{name}/{version}/model.onnx", f"{name} {version}")
        if config is not None:
            self.write(f"{name}/model.yaml", config)

    def write(self, path: str, text: str) -> None:
        _write(self.repository / path, text)

    def write_outside(self, path: str, text: str) -> None:
        _write(self.outside / path, text)

    def remove(self, path: str) -> None:
        shutil.rmtree(self.repository / path)

    async def run(self, scenario: Callable[[], Awaitable[object]]) -> None:
        """Runs a scenario and the shutdown after it; nothing may be left in memory then."""
        try:
            await scenario()
            await self.settled()
            self.engine.assert_nothing_leaked()
        finally:
            self.engine.publish_error = None
            await self.manager.close()
        assert self.engine.table == {}
        self.engine.assert_nothing_leaked()

    async def settled(self) -> None:
        """Waits until what was taken away is closed."""
        for name in {version.spec.name for version in self.engine.loaded}:
            await self.manager.wait_settled(name)


def run(bench: Bench, scenario: Callable[[], Awaitable[object]]) -> None:
    asyncio.run(asyncio.wait_for(bench.run(scenario), 60))


async def refused(operation: Awaitable[object], kind: type[HeadraceError]) -> str:
    """The text of the error of exactly this kind that the operation raises."""
    with pytest.raises(kind) as error:
        await operation
    assert type(error.value) is kind
    return str(error.value)


def _write(path: pathlib.Path, text: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)
