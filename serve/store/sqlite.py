"""The ConfigStore of one machine: a SQLite file that the state directory holds, and the one thread that touches it."""

import asyncio
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from pathlib import Path
from typing import Any, TypeVar

import structlog

from serve import clock
from serve.errors import InternalError, Unavailable
from serve.store.audit import AuditEntry, AuditReport
from serve.store.database import Database
from serve.store.port import BLOB, Change, Commit, Document, Lease
from serve.store.recovery import FILE, Opened, back_up, prepare
from serve.store.schema import Damaged, DiskFailed, check_schema, connect

_log = structlog.get_logger(__name__)

_T = TypeVar("_T")

# How often a waiter looks for commits of other processes.
POLL_S = 0.25

# Calls that may wait for the thread; one more is refused.
MAX_WAITING = 1000

BACKUP_EVERY_S = 3600.0


class SqliteStore:
    """`port.ConfigStore`; made by `open` or `open_read_only`, on the loop that it is used on.

    After an error of the disk nothing more is written: what the kernel has dropped once, a later fsync would not find again.
    """

    def __init__(self, path: Path, source: str, key: bytes | None, opened: Opened, executor: ThreadPoolExecutor, database: Database,
                 monotonic_ns: Callable[[], int]) -> None:
        self._path = path
        self._source = source
        self._key = key
        self._opened = opened
        self._executor = executor
        self._database = database
        self._monotonic_ns = monotonic_ns
        self._loop = asyncio.get_running_loop()
        self._listeners: list[Callable[[Commit], None]] = []
        self._waiters: set[asyncio.Future[None]] = set()
        self._n_waiting = 0
        self._n_told = 0
        self._failure = ""
        self._backed_up_ns: int | None = None
        self._is_closed = False

    @classmethod
    async def open(
        cls, state_dir: Path, *, source: str = "headrace", key: bytes | None = None,
        monotonic_ns: Callable[[], int] = clock.monotonic_ns, wall_ns: Callable[[], int] = clock.wall_ns,
    ) -> "SqliteStore":
        """The store of a state directory, made if need be, restored from a backup if need be: `opened` says which.

        source: `headrace/<server>`, of the audit rows. key: of their macs. Raises StoreDamaged when neither the file nor a backup is whole;
        ConfigurationError for what the operator must change.
        """
        path = state_dir / FILE

        def start() -> tuple[Opened, Database]:
            opened = prepare(state_dir, source, key, wall_ns)
            return opened, Database(path, source, key, monotonic_ns=monotonic_ns, wall_ns=wall_ns)

        store = await cls._start(path, source, key, start, monotonic_ns)
        if store.opened.note:
            _log.error("the store was restored", note=store.opened.note)
        return store

    @classmethod
    async def open_read_only(cls, path: Path, *, key: bytes | None = None) -> "SqliteStore":
        """A store's file, to look at, also while a server has it open.

        Raises Unavailable when there is none, Damaged; ConfigurationError for another schema.
        """

        def start() -> tuple[Opened, Database]:
            if not path.is_file():
                raise Unavailable(f"there is no store at {path}; name the file {FILE} in the server's state directory")
            with closing(connect(path, read_only=True)) as connection:
                if not check_schema(connection, path):
                    raise Unavailable(f"{path} is empty")
            return Opened("existing"), Database(path, "headrace", key, read_only=True)

        return await cls._start(path, "headrace", key, start, clock.monotonic_ns)

    @classmethod
    async def _start(
        cls, path: Path, source: str, key: bytes | None, start: Callable[[], tuple[Opened, Database]], monotonic_ns: Callable[[], int]
    ) -> "SqliteStore":
        executor = ThreadPoolExecutor(1, thread_name_prefix="store")
        try:
            opened, database = await asyncio.get_running_loop().run_in_executor(executor, start)
        except BaseException:
            executor.shutdown(wait=False)
            raise
        return cls(path, source, key, opened, executor, database, monotonic_ns)

    @property
    def opened(self) -> Opened:
        return self._opened

    def on_commit(self, listener: Callable[[Commit], None]) -> None:
        """Calls `listener` on the loop after each commit of this process, in order, also when whoever asked for it has gone away."""
        self._listeners.append(listener)

    async def get(self, kind: str, key: str) -> Document | None:
        return await self._run(lambda: self._database.get(kind, key))

    async def list(self, kind: str) -> Sequence[Document]:
        return await self._run(lambda: self._database.list(kind))

    async def list_since(self, revision: int) -> Sequence[Document]:
        return await self._run(lambda: self._database.list_since(revision))

    async def get_blob(self, key: str) -> bytes | None:
        return await self._run(lambda: self._database.get_blob(key))

    async def put_blob(self, key: str, content: bytes) -> Commit:
        return await self.commit([Change(BLOB, key, content, None)])

    async def delete_blob(self, key: str) -> Commit:
        return await self.commit([Change(BLOB, key, None, None)])

    async def commit(
        self, changes: Sequence[Change], audit: Sequence[AuditEntry] = (), *, fence: Lease | None = None
    ) -> Commit:
        def commit() -> Commit:
            made = self._database.commit(changes, audit, fence)
            # From this thread, and not where the caller waits: a caller that was cancelled has changed something all the same.
            self._loop.call_soon_threadsafe(self._tell, made)
            return made

        return await self._run(commit, writes=True)

    async def revision(self) -> int:
        return await self._run(self._database.revision)

    async def wait(self, revision: int, timeout_s: float) -> int:
        deadline = self._loop.time() + timeout_s
        newest, seen = 0, (-1, -1)
        while True:
            # data_version changes with the commits of others only, n_told with our own.
            now = (self._n_told, await self._run(self._database.data_version))
            if now != seen:
                seen, newest = now, await self.revision()
            left = deadline - self._loop.time()
            if newest > revision or left <= 0:
                return newest
            if self._n_told == seen[0]:
                await self._wait_commit(min(left, POLL_S))

    async def _wait_commit(self, timeout_s: float) -> None:
        woken: asyncio.Future[None] = self._loop.create_future()
        self._waiters.add(woken)
        try:
            await asyncio.wait([woken], timeout=timeout_s)
        finally:
            self._waiters.discard(woken)

    async def lease(self, name: str, owner: str, ttl_s: float) -> Lease | None:
        return await self._run(lambda: self._database.lease(name, owner, ttl_s), writes=True)

    async def release(self, lease: Lease) -> None:
        await self._run(lambda: self._database.release(lease), writes=True)

    async def audit(self, after: int = 0, limit: int = 100) -> Sequence[Mapping[str, Any]]:
        return await self._run(lambda: self._database.audit(after, limit))

    async def audit_head(self) -> tuple[int, str]:
        return await self._run(self._database.audit_head)

    async def verify_audit(self, head: str | None = None) -> AuditReport:
        def verify() -> AuditReport:
            with closing(Database(self._path, self._source, self._key, read_only=True)) as database:
                return database.verify_audit(head)

        # On another thread: a long chain must not keep a rollback waiting.
        return await asyncio.to_thread(verify)

    async def back_up(self) -> Path | None:
        """Copies the store, for a start that finds it damaged; None when the last copy of this process is younger than an hour."""
        now = self._monotonic_ns()
        if self._backed_up_ns is not None and now - self._backed_up_ns < BACKUP_EVERY_S * 1e9:
            return None
        before, self._backed_up_ns = self._backed_up_ns, now
        try:
            return await asyncio.to_thread(back_up, self._path.parent, self._source)
        except BaseException:
            self._backed_up_ns = before
            raise

    async def close(self) -> None:
        if self._is_closed:
            return
        self._is_closed = True
        await self._loop.run_in_executor(self._executor, self._database.close)
        self._executor.shutdown(wait=False)

    async def _run(self, job: Callable[[], _T], *, writes: bool = False) -> _T:
        if self._is_closed:
            raise InternalError(f"the store {self._path} was closed")
        if writes and self._failure:
            raise Unavailable(f"{self._failure}. Nothing is written any more: see to the disk and restart")
        if self._n_waiting >= MAX_WAITING:
            raise Unavailable(f"{MAX_WAITING} calls wait for the store {self._path} already; try again")
        self._n_waiting += 1
        try:
            return await self._loop.run_in_executor(self._executor, job)
        except (Damaged, DiskFailed) as error:
            self._failure = self._failure or str(error)
            _log.error("the store has failed", path=str(self._path), reason=str(error))
            raise
        finally:
            self._n_waiting -= 1

    def _tell(self, commit: Commit) -> None:
        self._n_told += 1
        for waiter in self._waiters:
            if not waiter.done():
                waiter.set_result(None)
        for listener in self._listeners:
            listener(commit)


__all__ = ["BACKUP_EVERY_S", "MAX_WAITING", "POLL_S", "SqliteStore"]
