"""A file system in a dictionary, and an engine whose loads and closes can be held and made to fail."""

import asyncio
import pathlib
import threading
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

from serve.models.engine_port import LoadSpec, PublishedModel
from serve.models.repository import FileStamp
from serve.models.resolution import resolve
from serve.types import TensorSpec, VersionStatistics

INPUTS = (TensorSpec("x", "FP32", (-1, 3)),)
OUTPUTS = (TensorSpec("y", "FP32", (-1, 10)),)


class FakeListing:
    """`files` are absolute paths; folders are what they lie in, and `folders`. Unsorted on purpose, as a disk is."""

    def __init__(self, *files: str, folders: Sequence[str] = (), unreadable: Sequence[str] = ()) -> None:
        self._files = {pathlib.Path(file) for file in files}
        self._folders = {pathlib.Path(folder) for folder in folders}
        self._folders |= {parent for path in self._files | self._folders for parent in path.parents}
        self._unreadable = {pathlib.Path(path) for path in unreadable}

    def names(self, folder: pathlib.Path) -> Sequence[str]:
        if folder in self._unreadable:
            raise PermissionError(13, "Permission denied", str(folder))
        return sorted({path.name for path in self._files | self._folders if path.parent == folder and path != folder}, reverse=True)

    def is_folder(self, path: pathlib.Path) -> bool:
        return path in self._folders

    def is_file(self, path: pathlib.Path) -> bool:
        return path in self._files

    def stamp(self, file: pathlib.Path) -> FileStamp:
        return FileStamp(str(file), 1, 2)


@dataclass(eq=False)
class FakeVersion:
    """A loaded version. close() waits for `may_close` and must come once, after a table without it."""

    spec: LoadSpec
    engine: "FakeEngine"
    inputs: tuple[TensorSpec, ...]
    outputs: tuple[TensorSpec, ...]
    max_batch_size: int
    content: bytes
    instances: int = 1
    device: str = "cpu"
    n_closed: int = 0
    was_published_at_close: bool = False

    def statistics(self) -> VersionStatistics:
        return VersionStatistics(self.spec.name, self.spec.version, inference_count=len(self.content))

    def close(self) -> None:
        self.n_closed += 1
        self.was_published_at_close = any(self in model.versions.values() for model in self.engine.table.values())
        self.engine.closing(self.spec.name, self.spec.version).wait_if_held()
        if self.engine.close_error is not None:
            raise self.engine.close_error


@dataclass
class Gate:
    """A place where a thread can be held: `reached` tells that it got there, `opened` lets it go on."""

    held: bool = False
    reached: threading.Event = field(default_factory=threading.Event)
    opened: threading.Event = field(default_factory=threading.Event)

    def wait_if_held(self) -> None:
        self.reached.set()
        if self.held and not self.opened.wait(30):
            raise AssertionError("a gate was never opened")

    async def wait_reached(self) -> None:
        await asyncio.to_thread(self.reached.wait, 30)
        assert self.reached.is_set()


class FakeEngine:
    """Reads the model file's bytes as its content; `errors` maps (model, version) to what a load raises."""

    def __init__(self) -> None:
        self.table: Mapping[str, PublishedModel] = {}
        self.tables: list[Mapping[str, PublishedModel]] = []
        self.errors: dict[tuple[str, str], BaseException] = {}
        self.publish_error: Exception | None = None
        self.close_error: Exception | None = None
        self.loaded: list[FakeVersion] = []
        self.before_load: Callable[[LoadSpec], None] = lambda _: None
        self.begun = threading.Semaphore(0)
        self.n_loading = 0
        self.max_loading = 0
        self._lock = threading.Lock()
        self._gates: dict[tuple[str, str, str], Gate] = {}

    def loading(self, name: str, version: str) -> Gate:
        return self._gates.setdefault(("load", name, version), Gate())

    def closing(self, name: str, version: str) -> Gate:
        return self._gates.setdefault(("close", name, version), Gate())

    def load(self, spec: LoadSpec) -> FakeVersion:
        with self._lock:
            self.n_loading += 1
            self.max_loading = max(self.max_loading, self.n_loading)
        try:
            self.begun.release()
            self.before_load(spec)
            self.loading(spec.name, spec.version).wait_if_held()
            if (spec.name, spec.version) in self.errors:
                raise self.errors[spec.name, spec.version]
            settings = resolve(spec.config, INPUTS, OUTPUTS, spec.config_origin)
            version = FakeVersion(
                spec, self, settings.inputs, settings.outputs, settings.max_batch_size, spec.path.read_bytes(), device=spec.device
            )
            self.loaded.append(version)
            return version
        finally:
            with self._lock:
                self.n_loading -= 1

    async def wait_begun(self, count: int) -> None:
        """Returns when `count` more loads than at the last call have begun."""
        for _ in range(count):
            assert await asyncio.to_thread(self.begun.acquire, timeout=30)

    def publish(self, models: Mapping[str, PublishedModel]) -> None:
        if self.publish_error is not None:
            raise self.publish_error
        for model in models.values():
            assert {*model.labels.values(), *filter(None, [model.default_version])} <= model.versions.keys()
            assert all(version.n_closed == 0 for version in model.versions.values() if isinstance(version, FakeVersion))
        self.table = dict(models)
        self.tables.append(self.table)

    def served(self) -> dict[str, list[str]]:
        return {name: list(model.versions) for name, model in self.table.items() if model.versions}

    def assert_nothing_leaked(self) -> None:
        """Every version that was ever loaded is published, or was closed exactly once, when it was not published any more."""
        published = {id(version) for model in self.table.values() for version in model.versions.values()}
        for version in self.loaded:
            assert version.n_closed == (0 if id(version) in published else 1), version.spec
            assert not version.was_published_at_close
