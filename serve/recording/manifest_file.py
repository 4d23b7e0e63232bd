"""The file that a manifest is: read by anybody, appended to by its replica's one keeper.

In a folder a line is appended and synced; in an object store the whole file is put again. Either way a line counts once it is wholly there:
a last line without its end was cut off by a crash, and what it would have said is done again.
"""

from pathlib import PurePosixPath

from serve.errors import Conflict, Unavailable
from serve.recording.layout import MANIFESTS, manifest_path
from serve.recording.manifest import Line, ManifestState, apply, decode, encode, fold, lines_of, replica_line
from serve.recording.store_port import RecordsStore

# Rewritten when it has this many lines more than twice what the fold needs.
_SLACK_LINES = 1000


def list_replicas(store: RecordsStore) -> list[str]:
    """Who has a manifest, by name. Raises as the store."""
    paths = [PurePosixPath(file.path) for file in store.list(MANIFESTS)]
    return [path.stem for path in paths if path.suffix == ".jsonl"]


def read_manifest(store: RecordsStore, replica: str) -> ManifestState:
    """What a replica's manifest says now; nothing when there is none. Raises Unavailable for one of a later format, and as the store."""
    try:
        lines, _ = decode(store.read(manifest_path(replica)))
    except FileNotFoundError:
        return ManifestState(replica)
    return fold(lines)


class Manifest:
    """A replica's own manifest, to write. Its caller holds the lock of the replica's home.

    Raises of every method: as the store; afterwards the next call reads what the store has, whether the line arrived or not. Conflict, from
    `begin` on, once another home has begun to write as this replica: its files would get the names of ours.
    """

    def __init__(self, store: RecordsStore, replica: str) -> None:
        self._store = store
        self._path = manifest_path(replica)
        self._replica = replica
        self._state = ManifestState(replica)
        self._is_current = False
        self._n_bytes = 0       # that the file had at least, when we last knew
        self._home_id = ""      # whose lines these are, from `begin` on

    @property
    def replica(self) -> str:
        return self._replica

    @property
    def state(self) -> ManifestState:
        """The fold of what the store has. Read it after each append; it is one object that changes."""
        if not self._is_current:
            self._load()
        return self._state

    def begin(self, host: str, home: str, now_ns: int, home_id: str = "") -> None:
        """Says where the replica's journals are, if that is not what the manifest says. home_id: as Home.identity."""
        state = self.state
        if not state.created_ns or (state.host, state.home, state.home_id) != (host, home, home_id):
            self.append(replica_line(self._replica, host, home, home_id, now_ns))
        self._home_id = home_id

    def others(self, home_id: str) -> list[ManifestState]:
        """Of this home under other names: what it had sealed before it was given another --replica-id. Raises as the store."""
        names = [name for name in list_replicas(self._store) if name != self._replica]
        return [state for name in names if (state := read_manifest(self._store, name)).home_id == home_id]

    def confirm(self) -> None:
        """Before a file is put: raises Conflict when its name may be that of another home's file by now."""
        try:
            n_bytes = self._store.size(self._path)
        except FileNotFoundError:
            n_bytes = 0
        self._is_current = self._is_current and n_bytes == self._n_bytes
        _ = self.state

    def append(self, *lines: Line) -> None:
        """Durable when it returns."""
        state = self.state
        content = encode(lines)
        self._is_current = False
        self._store.append(self._path, content, self._n_bytes)
        self._n_bytes += len(content)
        for line in lines:
            apply(state, line)
        self._is_current = True

    def shorten(self) -> bool:
        """Rewrites a manifest that is much longer than it need be."""
        state = self.state
        needed = len(state.parts) + 2 * len(state.epochs) + 2
        if state.n_lines <= 2 * needed + _SLACK_LINES or state.n_damaged:
            return False        # damaged lines stay for `records verify` to show
        content = encode(lines_of(state))
        self._is_current = False
        self._n_bytes = min(self._n_bytes, len(content))
        self._store.write(self._path, content)
        return True

    def _load(self) -> None:
        try:
            content = self._store.read(self._path)
        except FileNotFoundError:
            content = b""
        if len(content) < self._n_bytes:
            raise Unavailable(
                f"{self._store.url}/{self._path} had {self._n_bytes} bytes and has {len(content)}: restore it; its rows are in no table")
        lines, is_torn = decode(content)
        if is_torn:     # the next line would run into it
            content = content[:content.rfind(b"\n") + 1]
            self._store.write(self._path, content)
        self._n_bytes = len(content)
        self._state = fold(lines)
        self._state.replica = self._replica
        if self._home_id and self._state.home_id != self._home_id:
            raise Conflict(
                f"another server, on {self._state.host} with its records in {self._state.home}, writes as replica {self._replica} too:"
                " nothing is sealed here, rows wait in their journals. Give each server its own --replica-id")
        self._is_current = True


__all__ = ["Manifest", "list_replicas", "read_manifest"]
