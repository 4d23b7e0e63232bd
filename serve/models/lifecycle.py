"""Loads and unloads models while they are asked for.

A new version is built and warmed beside what serves, then everything is swapped in as one table; a load that fails leaves what served
before as it was and says why. What is taken away is unpublished first, then closed once nothing uses it.

Operations on one model run one after another, in the order in which they were asked for; different models run side by side, at most
`n_concurrent_loads` loads at a time. An operation that was begun is finished even when its caller is cancelled.
"""

import asyncio
import logging
import weakref
from collections.abc import Awaitable, Callable, Collection, Iterable, Mapping
from dataclasses import dataclass

from serve.errors import ConfigurationError, Conflict, HeadraceError, InternalError, InvalidArgument, NotFound, Unavailable
from serve.models.catalog import Catalog
from serve.models.crash_marks import DIED_WHILE_LOADING, CrashMarks
from serve.models.deployment import Deployer
from serve.models.engine_port import Engine
from serve.models.load_errors import failed, refused
from serve.models.load_plan import LoadPlan, ModelRepository, plan_model, plan_version
from serve.models.queries import ModelQueries
from serve.models.repository import SELF_TESTS, ModelSource
from serve.models.states import ModelRecord, publishable
from serve.traffic import RoutingSpec

_log = logging.getLogger(__name__)


def _nothing_pinned(model: str) -> Collection[str]:
    return ()


def _nobody_cares() -> None:
    pass


@dataclass(frozen=True, slots=True, kw_only=True)
class LifecycleOptions:
    """default_device: for models that name none. strict_readiness: ready when every start-up model is, else when any model is.

    n_concurrent_loads, n_concurrent_closes: versions being loaded, and drained, at a time. pinned: versions of a model that a routing plan
    or rollout names. on_change: called on the event loop after what serves, and so perhaps readiness, has changed.
    """

    default_device: str = "cpu"
    strict_readiness: bool = True
    n_concurrent_loads: int = 2
    n_concurrent_closes: int = 4
    pinned: Callable[[str], Collection[str]] = _nothing_pinned
    on_change: Callable[[], None] = _nobody_cares


@dataclass(frozen=True, slots=True)
class Progress:
    """One more model of the start-up set was tried. failure: "" when it serves as configured."""

    model: str
    n_done: int
    n_total: int
    failure: str


class ModelManager(ModelQueries):
    """All models of a worker. Lives on one event loop; queries answer from memory, but for `index`."""

    def __init__(self, repository: ModelRepository, engine: Engine, marks: CrashMarks, options: LifecycleOptions) -> None:
        super().__init__(repository, engine, Catalog())
        self._marks = marks
        self._options = options
        self._deployer = Deployer(
            repository, engine, marks, self._catalog, options.on_change, options.pinned,
            n_loads=options.n_concurrent_loads, n_closes=options.n_concurrent_closes,
        )
        # A lock lives as long as somebody holds or awaits it, so asking for unknown names costs no memory.
        self._locks: weakref.WeakValueDictionary[str, asyncio.Lock] = weakref.WeakValueDictionary()
        self._operations: set[asyncio.Task[None]] = set()
        self._is_closing = False
        self._is_announced = False

    def server_ready(self) -> bool:
        """Whether load balancers may send requests."""
        return not self._is_closing and self._catalog.server_ready(self._options.strict_readiness)

    # Operations

    async def load_all(
        self, names: Collection[str] | None = None, progress: Callable[[Progress], None] = lambda _: None
    ) -> Mapping[str, str]:
        """Loads the start-up set, all models of the repository unless `names` are given; called once. Returns model -> failure.

        Versions do not depend on each other here: those that load serve. Raises ConfigurationError for what is wrong with the
        repository as a whole, and for names that it does not have.
        """
        found = await asyncio.to_thread(self._repository.scan_strictly)
        await asyncio.to_thread(self._marks.recover)
        wanted = sorted(found.models if names is None else set(names))
        for name in wanted:
            if name not in found.models:
                raise ConfigurationError(f"no model '{name}' in the repository; it has {', '.join(found.models) or 'none'}")
        self._catalog.start_up |= set(wanted)
        self._is_announced = True
        self._deployer.announce(wanted)
        failures: dict[str, str] = {}
        n_done = 0

        async def start(name: str) -> None:
            nonlocal n_done
            try:
                await self._operation(name, lambda: self._load_at_start(found.models[name]))
            except HeadraceError as error:
                failures[name] = str(error)
            n_done += 1
            progress(Progress(name, n_done, len(wanted), failures.get(name, "")))

        suspects = {model for model, _ in self._marks.suspects}
        await asyncio.gather(*(start(name) for name in wanted if name not in suspects))
        # One of these killed the worker: alone, so that a second crash tells which.
        for name in filter(suspects.__contains__, wanted):
            await start(name)
        return failures

    async def load(self, name: str, override_json: str | None = None) -> None:
        """Makes the model serve what is on disk now; what did not change is kept. override_json: Triton's ModelConfig in JSON.

        All of it or nothing. Returns when it serves. Raises NotFound, InvalidArgument, Unavailable or InternalError, each
        "failed to load '<name>', ...".
        """
        await self._operation(name, lambda: self._load(name, override_json))

    async def load_version(self, name: str, version: str) -> None:
        """Makes one version serve beside the others, whatever the policy. Raises as `load`."""
        await self._operation(name, lambda: self._load_version(name, version))

    async def prove(self, name: str, version: str) -> None:
        """Runs a loaded version's self-test, beside what serves. Raises SelfTestFailed, NotFound, Unavailable."""
        loaded = self._catalog.served(name, version).loaded
        found = await asyncio.to_thread(self._repository.scan)
        source = found.models.get(name)
        file = source.versions.get(version) if source is not None else None
        if file is None:
            raise NotFound(f"version {version} of '{name}' is no longer in the repository")
        await asyncio.to_thread(loaded.self_test, file.parent / SELF_TESTS)

    def check_route(self, name: str, routing: RoutingSpec | None, labels: Mapping[str, str]) -> None:
        """Whether `route` can do it with the versions that serve now. Raises InvalidArgument."""
        record = self._catalog.find_or_add(name)
        self._engine.check(name, publishable(record.served, {**record.configured_labels, **labels}, routing))

    def route(self, name: str, routing: RoutingSpec | None, labels: Mapping[str, str]) -> None:
        """Splits the model's requests by `routing` and names versions by the operator's `labels`, from the very next request on.

        Versions that do not serve get nothing: see states.routable. Never blocks.
        """
        record = self._catalog.find_or_add(name)
        before = record.routing, record.operator_labels
        record.routing, record.operator_labels = routing, dict(labels)
        if not self._is_announced:
            return                  # what is known first publishes everything, so that no model is missing meanwhile
        try:
            self._deployer.republish(record)
        except BaseException:
            record.routing, record.operator_labels = before
            raise
        self._options.on_change()

    async def unload(self, name: str) -> None:
        """Takes the model away; returns when it is closed. Raises NotFound; Conflict while a routing plan or rollout names a version."""
        await self._operation(name, lambda: self._unload(name))

    async def unload_version(self, name: str, version: str) -> None:
        """Takes one version away; returns when it is closed.

        Raises NotFound, Unavailable; InvalidArgument when a label or routing plan names it.
        """
        await self._operation(name, lambda: self._unload_version(name, version))

    async def wait_settled(self, name: str) -> None:
        """Returns when everything that loads and unloads took away from a model is closed."""
        await self._deployer.settled(name)

    async def close(self) -> None:
        """Ends everything: waits for what was begun, unpublishes all, returns when all is closed. Called once."""
        self._is_closing = True
        self._options.on_change()
        self._deployer.stop()
        while self._operations:
            await asyncio.wait(self._operations)
        await self._deployer.close()

    async def _operation(self, name: str, work: Callable[[], Awaitable[None]]) -> None:
        task = asyncio.create_task(self._serialised(name, work))
        self._operations.add(task)
        task.add_done_callback(self._finished)
        # A thread cannot be stopped: were the caller's cancellation let in, what it loads would belong to nobody.
        await asyncio.shield(task)

    def _finished(self, task: asyncio.Task[None]) -> None:
        self._operations.discard(task)
        if not task.cancelled() and (error := task.exception()) is not None:
            _log.info("%s", error)

    async def _serialised(self, name: str, work: Callable[[], Awaitable[None]]) -> None:
        lock = self._locks.setdefault(name, asyncio.Lock())
        async with lock:
            # At most one generation is ever draining, so reloading in a loop cannot fill the memory.
            await self._deployer.settled(name)
            if self._is_closing:
                raise Unavailable("the server is shutting down")
            await work()

    async def _load(self, name: str, override_json: str | None) -> None:
        source = await self._poll(name)
        record = self._catalog.find_or_add(name)
        pinned = frozenset(self._options.pinned(name))
        try:
            await asyncio.to_thread(self._forgive, name, source.versions)
            plan = await asyncio.to_thread(plan_model, self._repository, source, override_json, pinned, {}, record.served)
            if plan.missing:
                raise ConfigurationError("; ".join(f"version {version}: {plan.unavailable[version]}" for version in plan.missing))
        except (HeadraceError, OSError) as error:
            raise refused(record, source, error) from error
        await self._apply(plan, record)

    async def _load_version(self, name: str, version: str) -> None:
        source = await self._poll(name)
        record = self._catalog.find_or_add(name)
        labels = None if record.required is None else record.configured_labels
        try:
            await asyncio.to_thread(self._forgive, name, (version,))
            plan = await asyncio.to_thread(plan_version, self._repository, source, version, record.required, labels, record.served)
        except (HeadraceError, OSError) as error:
            raise failed(name, error) from error
        await self._apply(plan, record)

    async def _apply(self, plan: LoadPlan, record: ModelRecord) -> None:
        try:
            failures = await self._deployer.apply(plan, record, self._options.default_device, all_or_nothing=True)
        except InternalError as error:
            raise failed(record.name, error) from error
        for version, failure in failures.items():
            raise failed(record.name, failure, f"version {version}: ") from failure

    async def _load_at_start(self, source: ModelSource) -> None:
        record = self._catalog.find_or_add(source.name)
        pinned = frozenset(self._options.pinned(source.name))
        try:
            killers = await asyncio.to_thread(self._marks.failed, source.name)
            set_aside = {version: DIED_WHILE_LOADING for version in killers if version in source.versions}
            plan = await asyncio.to_thread(plan_model, self._repository, source, None, pinned, set_aside, record.served)
        except (HeadraceError, OSError) as error:
            raise refused(record, source, error) from error
        failures = await self._deployer.apply(plan, record, self._options.default_device, all_or_nothing=False)
        reasons = {**plan.unavailable, **{version: str(failure) for version, failure in failures.items()}}
        if reasons:
            text = "; ".join(f"version {version}: {reason}" for version, reason in reasons.items())
            raise InvalidArgument(f"failed to load '{source.name}', {text}")

    async def _unload(self, name: str) -> None:
        record = self._catalog.find(name)
        pinned = sorted(self._options.pinned(name), key=int)
        if pinned:
            names = ", ".join(pinned)
            raise Conflict(f"failed to unload '{name}': its routing plan, rollout or labels name version {names}; clear them first")
        # The operator does not want it any more, so the server can be ready without it.
        self._catalog.start_up.discard(name)
        await self._deployer.withdraw(record, tuple(record.served))

    async def _unload_version(self, name: str, version: str) -> None:
        self._catalog.describe(name, version)
        record = self._catalog.find(name)
        number = record.labels.get(version, version)
        holders = [f"label '{label}'" for label, labelled in record.labels.items() if labelled == number]
        holders += ["a routing plan"] if number in self._options.pinned(name) else []
        if holders:
            raise Conflict(f"failed to unload '{name}', version {number}: {holders[0]} names it; point that elsewhere first")
        record.required = tuple(required for required in record.required or () if required != number)
        if len(record.served) == 1:
            self._catalog.start_up.discard(name)
        await self._deployer.withdraw(record, (number,))

    async def _poll(self, name: str) -> ModelSource:
        found = await asyncio.to_thread(self._repository.scan)
        source = found.models.get(name)
        if source is not None:
            return source
        problem = found.problems.get(name, "")
        raise NotFound(f"failed to load '{name}', failed to poll from model repository{problem and ': '}{problem}")

    def _forgive(self, name: str, versions: Iterable[str]) -> None:
        for version in versions:
            self._marks.clear(name, version)


__all__ = ["LifecycleOptions", "ModelManager", "Progress"]
