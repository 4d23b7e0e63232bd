"""What was seen before: 64-bit hashes of keys by the hour in which they came, bounded, and durable together with a document.

Each hour has an append-only file `<name>-<hour>.u64`; the document (`lengths`) says how much of each counts, so that what was appended for
a document that was never written is as good as not there. Two of N keys are taken for the same with a probability of N^2 / 2^65: of 4
million one in two million.
"""

import os
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import numpy.typing as npt

from serve.recording.layout import HOUR_NS

Keys = npt.NDArray[np.uint64]

_WIDTH = 8


class KeyMemory:
    """At most max_keys: beyond them, the oldest hours are forgotten. folder: of the files; lengths: of the document. Raises OSError."""

    def __init__(self, folder: Path, name: str, max_keys: int, lengths: Mapping[str, int] | None = None) -> None:
        self._folder = folder
        self._name = name
        self._max_keys = max_keys
        self._hours: dict[int, Keys] = {}       # each sorted
        self._added: dict[int, list[Keys]] = {}     # not in a file yet
        self._lengths: dict[int, int] = {}
        self._from_hour = -1        # what is older was forgotten
        for hour, length in (lengths or {}).items():
            keys = np.frombuffer(self._read(int(hour), length), "<u8").astype(np.uint64)
            self._hours[int(hour)], self._lengths[int(hour)] = np.sort(keys), len(keys)

    def __len__(self) -> int:
        return sum(map(len, self._hours.values()))

    def has(self, keys: Keys) -> npt.NDArray[np.bool_]:
        """Of each key, shape (n,), whether it came before."""
        found = np.zeros(len(keys), np.bool_)
        for hour in self._hours.values():
            at = np.minimum(np.searchsorted(hour, keys), len(hour) - 1)
            found |= hour[at] == keys
        return found

    def first(self, keys: Keys, times_ns: npt.NDArray[np.int64]) -> npt.NDArray[np.bool_]:
        """Of each key, in order, whether it comes for the first time; it is known from then on. times_ns: when it came."""
        is_new = ~self.has(keys)
        _, firsts = np.unique(keys, return_index=True)
        is_first = np.zeros(len(keys), np.bool_)
        is_first[firsts] = True
        is_new &= is_first
        hours = times_ns[is_new] // HOUR_NS
        for hour in np.unique(hours).tolist():
            self._add(hour, keys[is_new][hours == hour])
        return is_new

    def _add(self, hour: int, keys: Keys) -> None:
        # An hour that was forgotten does not come back: its file is that of the document on the disk until the next one is written.
        if hour < self._from_hour:
            return
        self._added.setdefault(hour, []).append(keys)
        # Two ascending runs: a stable sort merges them.
        both = np.concatenate([self._hours.get(hour, np.empty(0, np.uint64)), np.sort(keys)])
        self._hours[hour] = np.sort(both, kind="stable")
        while len(self) > self._max_keys and len(self._hours) > 1:
            self._forget(min(self._hours))

    def expire(self, before_ns: int) -> None:
        """Forgets the hours that ended before."""
        for hour in [hour for hour in self._hours if (hour + 1) * HOUR_NS <= before_ns]:
            self._forget(hour)

    def _forget(self, hour: int) -> None:
        self._added.pop(hour, None)
        self._lengths.pop(hour, None)
        del self._hours[hour]
        self._from_hour = max(self._from_hour, hour + 1)

    def save(self) -> dict[str, int]:
        """Appends what is new to the files, durably, and returns the document. Call `sweep` once that is written."""
        for hour, added in self._added.items():
            keys = np.concatenate(added)
            self._append(hour, self._lengths.get(hour, 0), keys.astype("<u8").tobytes())
            self._lengths[hour] = self._lengths.get(hour, 0) + len(keys)
        self._added.clear()
        return {str(hour): length for hour, length in sorted(self._lengths.items())}

    def sweep(self) -> None:
        """Removes files of hours that are forgotten."""
        for path in self._folder.glob(f"{self._name}-*.u64"):
            if int(path.stem.rpartition("-")[2]) not in self._hours:
                path.unlink(missing_ok=True)

    def _path(self, hour: int) -> Path:
        return self._folder / f"{self._name}-{hour}.u64"

    def _read(self, hour: int, length: int) -> bytes:
        with self._path(hour).open("rb") as file:
            content = file.read(length * _WIDTH)
        if len(content) != length * _WIDTH:
            wanted = f"{length * _WIDTH} were written; remove its folder to join all labels anew"
            raise OSError(f"{self._path(hour)} has {len(content)} bytes, {wanted}")
        return content

    def _append(self, hour: int, length: int, content: bytes) -> None:
        self._folder.mkdir(parents=True, exist_ok=True)
        descriptor = os.open(self._path(hour), os.O_WRONLY | os.O_CREAT | os.O_CLOEXEC, 0o640)
        try:
            os.ftruncate(descriptor, length * _WIDTH)       # what a join that failed has left
            rest = memoryview(content)
            at = length * _WIDTH
            while rest:
                n = os.pwrite(descriptor, rest, at)
                rest, at = rest[n:], at + n
            os.fsync(descriptor)
        finally:
            os.close(descriptor)


__all__ = ["KeyMemory", "Keys"]
