"""Carries out load plans: builds versions in threads, swaps the table, closes what was taken away.

States change on the event loop only; threads do nothing but open and close versions.
"""

import asyncio
import logging
from collections.abc import Callable, Collection, Iterable, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace

from serve.errors import HeadraceError, InternalError, Unavailable
from serve.models.catalog import Catalog
from serve.models.crash_marks import CrashMarks
from serve.models.engine_port import Engine, LoadedVersion, LoadSpec
from serve.models.load_plan import LoadPlan, ModelRepository
from serve.models.states import ModelRecord, Served, publishable
from serve.types import VersionState

_log = logging.getLogger(__name__)

UNLOADED = "unloaded"


@dataclass(frozen=True, slots=True)
class _Built:
    loaded: LoadedVersion
    digest: str


class Deployer:
    """on_change: called after what serves has changed. pinned: versions of a model that must stay. n_loads, n_closes: versions being
    loaded, and drained, at a time.
    """

    def __init__(
        self, repository: ModelRepository, engine: Engine, marks: CrashMarks, catalog: Catalog, on_change: Callable[[], None],
        pinned: Callable[[str], Collection[str]], *, n_loads: int, n_closes: int,
    ) -> None:
        self._repository = repository
        self._engine = engine
        self._marks = marks
        self._catalog = catalog
        self._on_change = on_change
        self._pinned = pinned
        self._loaders = ThreadPoolExecutor(n_loads, "headrace-load")
        self._closers = ThreadPoolExecutor(n_closes, "headrace-close")
        self._retiring: dict[str, asyncio.Task[None]] = {}
        self._is_stopping = False

    def announce(self, names: Iterable[str]) -> None:
        """Makes models known of which nothing serves yet."""
        for name in names:
            self._catalog.find_or_add(name)
        self._engine.publish(self._catalog.table())

    async def apply(self, plan: LoadPlan, record: ModelRecord, default_device: str, *, all_or_nothing: bool) -> Mapping[str, Exception]:
        """Builds what the plan says, then swaps it in. Returns version -> failure.

        all_or_nothing: one failure leaves everything as it was; else what could be built serves. What is replaced or no longer wanted
        is closed in the background: `settled` waits for it. Raises InternalError when the engine cannot publish.
        """
        built: dict[str, _Built] = {}
        failures: dict[str, Exception] = {}
        for version in plan.builds:
            outcome = await self._build(record, plan.spec(version, default_device))
            if not isinstance(outcome, Exception):
                built[version] = outcome
                continue
            failures[version] = outcome
            if all_or_nothing:
                await self._discard(record, built, f"not kept, because version {version} failed to load")
                return failures
        await self._swap(plan, record, built)
        return failures

    async def withdraw(self, record: ModelRecord, versions: Iterable[str]) -> None:
        """Unpublishes versions, then returns when they are closed."""
        gone = {version: record.served[version] for version in versions}
        remaining = {version: served for version, served in record.served.items() if version not in gone}
        self._publish(record, remaining, record.labels)
        record.served = remaining
        self._retire(record, gone, ())
        self._on_change()
        await self.settled(record.name)

    def republish(self, record: ModelRecord) -> None:
        """Swaps in what the record says now: its labels or its routing have changed."""
        self._publish(record, record.served, record.labels)

    async def settled(self, name: str) -> None:
        """Returns when everything that was taken away from a model is closed."""
        retiring = self._retiring.get(name)
        if retiring is not None:
            await asyncio.wait([retiring])

    def stop(self) -> None:
        """From now on loads that have not begun fail."""
        self._is_stopping = True

    async def close(self) -> None:
        """Withdraws every version of every model. No `apply` may be under way."""
        await asyncio.gather(*self._retiring.values())
        self._engine.publish({})
        for record in self._catalog.served_models():
            gone, record.served = record.served, {}
            self._retire(record, gone, ())
        await asyncio.gather(*self._retiring.values())
        self._loaders.shutdown()
        self._closers.shutdown()

    async def _build(self, record: ModelRecord, spec: LoadSpec) -> _Built | Exception:
        is_new = spec.version not in record.served
        if is_new:
            record.advance(spec.version, VersionState.LOADING)
        try:
            return await asyncio.get_running_loop().run_in_executor(self._loaders, self._open, spec)
        except Exception as error:  # noqa: BLE001  whatever a model makes the engine raise, what serves must go on serving
            # A traceback is for our own faults; what is wrong with a model is said in its error's words.
            own = None if isinstance(error, HeadraceError) else error
            _log.warning("model '%s' version %s failed to load: %s", spec.name, spec.version, error, exc_info=own)
            if is_new:
                record.advance(spec.version, VersionState.UNAVAILABLE, str(error))
            return error

    def _open(self, spec: LoadSpec) -> _Built:
        if self._is_stopping:
            raise Unavailable("the server is shutting down")
        spec = replace(spec, digest=self._repository.digest(spec.path, spec.label_files))
        with self._marks.loading(spec.name, spec.version):
            loaded = self._engine.load(spec)
        if self._repository.digest(spec.path, spec.label_files) != spec.digest:
            loaded.close()
            raise Unavailable(f"the files of version {spec.version} were changed while it was loaded; load it again")
        return _Built(loaded, spec.digest)

    async def _swap(self, plan: LoadPlan, record: ModelRecord, built: Mapping[str, _Built]) -> None:
        config = plan.configured.config
        fresh = {version: Served(one.loaded, plan.builds[version], config, one.digest) for version, one in built.items()}
        # A version whose new build failed goes on as it was.
        stale = {version: record.served[version] for version in plan.builds if version in record.served}
        # And so does one that a routing plan has come to name while this was built.
        pinned = set(self._pinned(record.name))
        named = {version: one for version, one in record.served.items() if version in pinned}
        served = {**named, **stale, **plan.kept, **fresh}
        try:
            self._publish(record, served, {**plan.labels, **record.operator_labels})
        except Exception as error:
            await self._discard(record, built, "it could not be published")
            raise InternalError(f"cannot publish: {error}") from error
        before, record.served = record.served, served
        record.configured_labels, record.required, record.reason = plan.labels, plan.required, ""
        for version in fresh:
            if version not in before:
                record.advance(version, VersionState.READY)
        for version, reason in plan.unavailable.items():
            record.advance(version, VersionState.UNAVAILABLE, reason)
        replaced = [before[version] for version in fresh if version in before]
        self._retire(record, {version: one for version, one in before.items() if version not in served}, replaced)
        record.forget_others(plan.source.versions.keys() | plan.unavailable.keys())
        self._on_change()

    def _publish(self, record: ModelRecord, served: Mapping[str, Served], labels: Mapping[str, str]) -> None:
        self._engine.publish({**self._catalog.table(), record.name: publishable(served, labels, record.routing)})

    async def _discard(self, record: ModelRecord, built: Mapping[str, _Built], reason: str) -> None:
        """Closes versions that were never published."""
        await asyncio.gather(*(self._close(record.name, version, one.loaded) for version, one in built.items()))
        for version in built:
            if version not in record.served:
                record.advance(version, VersionState.UNAVAILABLE, reason)

    def _retire(self, record: ModelRecord, gone: Mapping[str, Served], replaced: Iterable[Served]) -> None:
        for version in gone:
            record.advance(version, VersionState.UNLOADING)
        closing = [(version, served.loaded) for version, served in gone.items()]
        closing += [("(replaced)", served.loaded) for served in replaced]
        if closing:
            task = asyncio.create_task(self._retired(record, closing, tuple(gone)))
            self._retiring[record.name] = task
            task.add_done_callback(lambda _: self._retiring.pop(record.name))

    async def _retired(self, record: ModelRecord, closing: Iterable[tuple[str, LoadedVersion]], gone: Iterable[str]) -> None:
        await asyncio.gather(*(self._close(record.name, version, loaded) for version, loaded in closing))
        for version in gone:
            record.advance(version, VersionState.UNAVAILABLE, UNLOADED)

    async def _close(self, name: str, version: str, loaded: LoadedVersion) -> None:
        try:
            await asyncio.get_running_loop().run_in_executor(self._closers, loaded.close)
        except Exception as error:  # noqa: BLE001  nothing is left to undo, and its siblings must be closed all the same
            _log.error("model '%s' version %s failed to close", name, version, exc_info=error)


__all__ = ["UNLOADED", "Deployer"]
